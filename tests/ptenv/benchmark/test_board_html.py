"""The pages, as files and as a person sees them: in a browser, sorted by clicks, on a phone."""

import re
import shutil
from html.parser import HTMLParser

import pytest

from ptenv.benchmark.board import Ranking
from ptenv.benchmark.board_figures import Axis, interval_bar, short
from ptenv.benchmark.board_html import page_name, write_pages
from ptenv.benchmark.board_making import make_board
from ptenv.benchmark.board_submissions import read_submissions
from ptenv.benchmark.pictures import Picture
from ptenv.benchmark.statistics import Estimate, Interval

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for b in BROWSERS if (found := shutil.which(b))), None)
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360"
    "60606000000005000168d12fb50000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def read(shown, made):
    return read_submissions([shown], made)


@pytest.fixture(scope="module")
def board(read, made):
    return make_board(read, made, Ranking(n_bootstrap=200))


@pytest.fixture(scope="module")
def pages(board, read, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    drawn = folder / "entries" / "importance-x"
    drawn.mkdir(parents=True)
    (drawn / "a.png").write_bytes(PIXEL)
    pictures = {
        "importance": {
            "voxel-mask": Picture("head-and-neck-20000, budget 0.05", "importance-x/a.png"),
            "energy-layer": Picture("head-and-neck-20000, limit 1.15", None, "replay <differs>"),
        }
    }
    write_pages(board, {s.entry.name: s for s in read.accepted}, folder, pictures)
    return folder


class Tags(HTMLParser):
    """Tags of a page that a stranger's text could add, and whether all were closed."""

    VOID = {"meta", "link", "br", "img", "line", "circle", "path", "polygon", "polyline"}

    def __init__(self, page: str):
        super().__init__()
        self.open, self.seen, self.ids, self.links = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert not [name for name in given if name.startswith("on")]
        self.seen.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[n] for n in ("href", "src") if n in given]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def all_pages(folder):
    return [folder / "index.html", *sorted((folder / "entries").glob("*.html"))]


def test_every_entry_has_a_page_and_refused_ones_have_none(pages, board):
    found = {p.stem for p in (pages / "entries").glob("*.html")}
    assert found == {page_name(name) for name in board.entries()}
    assert len(found) == 8


def test_pages_are_well_formed_with_our_script_alone(pages):
    for path in all_pages(pages):
        tags = Tags(path.read_text(encoding="utf-8"))
        assert tags.seen.count("script") == 1
        assert len(set(tags.ids)) == len(tags.ids)
        assert not {"iframe", "object", "form", "b"} & set(tags.seen)


def test_pages_ask_for_nothing_from_outside(pages):
    for path in all_pages(pages):
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text
        assert "https://" not in text
        for link in Tags(text).links:
            if link.startswith(("#", "data:")):
                continue
            if link not in ("board.json", "board.txt", "board.md"):
                assert (path.parent / link).is_file()


def test_strangers_text_is_text(pages, board):
    index = (pages / "index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;boo()&lt;/script&gt;" in index
    assert "<script>boo" not in index
    assert "{{ 7*7 }}" in index
    assert "49" not in re.findall(r"c&#39; \| \*d\* (\S+)", index)
    hostile = next(n for n in board.entries() if "7*7" in n)
    page = (pages / "entries" / f"{page_name(hostile)}.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;$x$&lt;/b&gt;" in page


def test_pages_of_entries_that_left_the_board_go(board, read, tmp_path):
    old = tmp_path / "entries" / "gone-0123abcd.html"
    mine = tmp_path / "entries" / "my notes.html"
    old.parent.mkdir()
    old.write_text("old")
    mine.write_text("mine")
    write_pages(board, {s.entry.name: s for s in read.accepted}, tmp_path, {})
    assert not old.exists()
    assert mine.exists()


def test_pages_are_named_plainly_and_told_apart():
    assert re.fullmatch(r"a-b-[0-9a-f]{8}", page_name("A/../b"))
    assert re.fullmatch(r"entry-[0-9a-f]{8}", page_name("日本"))
    assert page_name("a b") != page_name("a-b")


def test_the_index_says_what_must_be_said(pages):
    index = (pages / "index.html").read_text(encoding="utf-8")
    for said in (
        "anchors lie too close: head-and-neck-20000 at budget 0.05",
        "3 training seeds instead of 5",
        "best rule", "partly", "Shifts out of distribution", "number of training patients",
        "changed after validation", "replays it", "prefers-color-scheme: dark",
    ):  # fmt: skip
        assert said in index


def test_an_entrys_page_tells_cases_patients_versions_and_pictures(pages, board):
    page = (pages / "entries" / f"{page_name('importance')}.html").read_text(encoding="utf-8")
    assert page.count("head-and-neck-20005</th>") == 6  # three tasks, two budgets
    assert 'src="importance-x/a.png"' in page
    assert "no picture, replay &lt;differs&gt;" in page
    assert "it did not learn" in page
    assert "numpy" in page
    assert "255 of 255 episodes replayed" in page
    learner = (pages / "entries" / f"{page_name('ppo-64')}.html").read_text(encoding="utf-8")
    assert "5 seeds, each from 64 patients: head-and-neck-00000" in learner
    assert "against importance" in learner


def test_axes_have_round_ticks_where_they_belong():
    axis = Axis(0.0, 1.0, 100, 200)
    assert (axis.at(0.0), axis.at(0.5), axis.at(1.0)) == (100.0, 150.0, 200.0)
    assert [label for _, label in axis.ticks()] == ["0", "0.5", "1"]
    log = Axis(1.0, 1000.0, 0, 300, log=True)
    assert log.at(10.0) == 100.0
    assert [label for _, label in log.ticks()][:4] == ["1", "2", "5", "10"]
    assert Axis(2.0, 2.0, 0, 10).at(2.0) == 5.0


def test_bars_lie_on_the_scale_of_all_entries():
    a = Estimate(0.0, Interval(-0.2, 0.2, "patients"))
    b = Estimate(1.0, None)
    first, second = interval_bar(a, [a, b]), interval_bar(b, [a, b])
    assert first.low < first.dot < first.high < second.dot
    assert (second.low, second.high) == (None, None)
    assert first.ticks == second.ticks == [first.dot, second.dot]


def test_numbers_are_short():
    assert [short(v) for v in (0, 0.05, 12.345, 1240.2, 3.14159e8, 2e-5, -3)] == [
        "0", "0.05", "12.3", "1,240", "3.14e8", "2e-5", "-3",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if BROWSER is None:
        pytest.skip(f"none of {BROWSERS} is installed to show the page")
    with sync_api.sync_playwright() as playwright:
        shown = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield shown
        shown.close()


@pytest.fixture
def opened(browser, pages):
    """Opens a page and gathers what the browser complains of."""
    complaints, contexts = [], []

    def open_page(name="index.html", width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append("dialog"))
        page.goto((pages / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def column(page, head, table=0):
    """Texts of a column of a table, its head's text given."""
    return page.evaluate(
        """([head, n]) => {
            const table = document.querySelectorAll("table.sortable")[n];
            const heads = [...table.tHead.rows[0].cells];
            const i = heads.findIndex((h) => h.querySelector("button").textContent === head);
            return [...table.tBodies[0].rows].map(
                (row) => row.cells[i].dataset.value ?? row.cells[i].textContent.trim());
        }""",
        [head, table],
    )


def test_a_click_sorts_and_another_turns_it_round(opened, board):
    page = opened()
    names = [row.name for row in board.tasks[0].rows]
    assert column(page, "entry") == names
    table = page.locator("table.sortable").first
    table.get_by_role("button", name="cost").click()
    costs = [float(v) for v in column(page, "cost")]
    assert costs == sorted(costs)
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("cost")
    table.get_by_role("button", name="cost").click()
    assert [float(v) for v in column(page, "cost")] == sorted(costs, reverse=True)
    table.get_by_role("button", name="entry").click()
    found = column(page, "entry")
    assert found.index("ppo-8") < found.index("ppo-64") < found.index("ppo-512")
    assert table.locator("th[aria-sort]").count() == 1
    table.get_by_role("button", name="rank").click()
    assert column(page, "entry") == names


def test_what_is_missing_stays_last_either_way(opened):
    page = opened()
    button = page.locator("table.sortable").first.get_by_role("button", name="reference")
    for _ in range(2):
        button.click()
        values = column(page, "reference")
        assert values[-1] == ""
        assert "" not in values[:-1]


def test_sorting_works_from_the_keyboard(opened):
    page = opened()
    page.locator("table.sortable").first.get_by_role("button", name="score").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    scores = [float(v) for v in column(page, "score")]
    assert scores == sorted(scores)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_a_desktop_and_a_phone(opened, board, width, scheme):
    for name in ("index.html", f"entries/{page_name('ppo-64')}.html"):
        page = opened(name, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        tables = page.locator(".scroll").evaluate_all("all => all.map((t) => t.clientWidth)")
        assert max(tables) <= width


def test_text_is_readable_on_its_background_in_both_schemes(opened):
    """Contrast of at least 4.5 for the colors of text (WCAG 2.1, AA)."""
    for scheme in ("light", "dark"):
        page = opened(scheme=scheme)
        colors = page.evaluate(
            """(names) => {
                const style = getComputedStyle(document.documentElement);
                return names.map((name) => style.getPropertyValue("--" + name));
            }""",
            ["paper", "ink", "faint", "link", "warn", "bad", "good"],
        )
        paper, *inks = map(luminance, colors)
        for ink in inks:
            low, high = sorted([paper, ink])
            assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb."""
    values = [int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_pictures_are_shown_and_links_lead_there_and_back(opened):
    page = opened()
    page.locator("table.sortable").first.get_by_role("link", name="importance").click()
    assert page.locator("h1").inner_text() == "importance"
    page.locator("img").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('img').naturalWidth === 1")
    page.get_by_role("link", name="made version 0").click()
    assert page.locator("h1").inner_text().startswith("made")
