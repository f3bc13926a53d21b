"""The page of dose shaping, used as a person would: in a browser, with the mouse."""

import json
import shutil
import socket
from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="the page of dose shaping needs bokeh")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

from engine.dose.photon_svd.engine import PhotonSvdEngine  # noqa: E402
from engine.dose.quantities import RbeDose  # noqa: E402
from engine.geometry.bixels import place_bixels  # noqa: E402
from engine.geometry.plan import Beam  # noqa: E402
from engine.machine.library import load_machine  # noqa: E402
from engine.optimization.regions import Region  # noqa: E402
from engine.optimization.shaping import Shaper  # noqa: E402
from engine.optimization.shaping_model import MatrixDose  # noqa: E402
from engine.optimization.shaping_requests import Scene, VoxelRequest, from_plain  # noqa: E402
from engine.optimization.shaping_session import ShapingSession  # noqa: E402
from engine.patient.grid import Grid  # noqa: E402
from engine.patient.phantoms import horseshoe  # noqa: E402
from scripts.shape_desk import ShapeDesk, requested  # noqa: E402
from scripts.shape_drawing import PLANES, histograms, nearest_level, on_grid  # noqa: E402
from scripts.shape_page import ShapedView, ShapePage  # noqa: E402
from scripts.shape_server import ShapeServer  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for b in BROWSERS if (found := shutil.which(b))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"none of {BROWSERS} is installed to show the page"
)
PRESCRIPTION_GY = 60.0
RIM = (0.0, 40.0)  # x, y in mm of a place in the back of the horseshoe
PATIENCE_MS = 15_000

AT = """([name, x, y]) => {
    const figure = Bokeh.documents[0].get_model_by_name(name);
    const view = Bokeh.index.find_one_by_id(figure.id);
    const box = view.canvas_view.el.getBoundingClientRect();
    return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""


@pytest.fixture(scope="module")
def made():
    """A session on the horseshoe under nine photon beams, and its patient."""
    patient = horseshoe((5.0, 5.0, 5.0))
    target, organ = (patient.mask(n).ravel() for n in ("PTV", "Core"))
    voxels = np.flatnonzero(target | organ)
    beams = [Beam(40.0 * k) for k in range(9)]
    plan = place_bixels(patient, load_machine("generic_photon"), beams, margin_mm=8.0)
    influence = PhotonSvdEngine().influence(patient, plan, patient.grid, voxels=voxels)
    t, o = target[voxels], organ[voxels]
    quantity = RbeDose(30)
    model = MatrixDose(influence, t.astype(np.float32), o.astype(np.float32))
    points = patient.grid.points_mm(voxels).astype(np.float32)
    shaper = Shaper(model, points, t, o, PRESCRIPTION_GY / quantity.scale)
    start = np.ones(influence.n_spots, np.float32)
    start *= shaper.prescription_gy / influence.dose(start)[t].mean()
    regions = {n: Region(np.flatnonzero(m), np.ones(m.sum())) for n, m in (("PTV", t), ("Core", o))}
    return ShapingSession(shaper, Scene(patient.grid, voxels, regions, quantity), start), patient


@pytest.fixture
def session(made):
    return ShapingSession(made[0].shaper, made[0].scene, made[0].start)


@pytest.fixture(scope="module")
def view(made):
    patient = made[1]
    masks = {n: patient.mask(n) for n in ("PTV", "Core")}
    return ShapedView("Horseshoe <under> photons", patient.hu, masks, {"PTV": PRESCRIPTION_GY})


@pytest.fixture
def server(session, view, tmp_path):
    served = ShapeServer(session, view, tmp_path / "record.json")
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, server):
    with opened(browser, server.url, "This tab edits the plan") as page:
        yield page


@contextmanager
def opened(browser, url, role):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(url)
    page.wait_for_selector(f"text={role}")
    yield page
    page.close()


def click(page, figure, x, y):
    page.mouse.click(*page.evaluate(AT, [figure, x, y]))


def drag(page, figure, start, end):
    page.mouse.move(*page.evaluate(AT, [figure, *start]))
    page.mouse.down()
    page.mouse.move(*page.evaluate(AT, [figure, *end]), steps=4)
    page.mouse.up()


def choose(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def told(page, text):
    page.wait_for_selector(f"text={text}")


def dose_at_rim(session, z_mm=-2.5):
    return float(session.dose_gy[session.scene.nearest_row((*RIM, z_mm))])


def drawn_dose(page):
    """Sum of the doses of the axial picture that the browser has, Gy."""
    return page.evaluate(
        """() => {
            const figure = Bokeh.documents[0].get_model_by_name("axial");
            const wash = figure.renderers[1].data_source.data.image[0];
            return Array.from(wash).reduce((sum, gy) => sum + (isNaN(gy) ? 0 : gy), 0);
        }"""
    )


# ------------------------------------------------------------------------------- in the browser


@needs_browser
def test_a_click_on_a_voxel_changes_dose_picture_and_record(tab, server, session, tmp_path):
    before, picture = dose_at_rim(session), drawn_dose(tab)
    click(tab, "axial", *RIM)
    told(tab, "voxel: recovered")
    assert dose_at_rim(session) < 0.75 * before
    assert drawn_dose(tab) != picture
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000
    kept = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert kept["title"] == "Horseshoe <under> photons"
    request = from_plain(kept["requests"][0])
    assert isinstance(request, VoxelRequest)
    assert np.allclose(request.position_mm[:2], RIM, atol=1.0)
    assert request.dose_gy == 0.5 * PRESCRIPTION_GY
    assert all(url.startswith(server.url) for url in tab.asked if not url.startswith("data:"))


@needs_browser
def test_dragging_lines_pushing_surfaces_and_undo(tab, session):
    click(tab, "axial", *RIM)  # makes a cold place, so that there are lines to drag
    told(tab, "voxel: recovered")
    after_click = session.plan
    choose(tab, "isodose line")
    drag(tab, "axial", (0.0, 38.0), (12.0, 50.0))
    told(tab, "isodose line: recovered")
    made = from_plain(session.record[-1])
    assert made.plane == "axial"
    assert made.level_gy in [p * PRESCRIPTION_GY / 100 for p in (55, 80, 95, 107)]
    assert np.allclose((made.from_mm[:2], made.to_mm[:2]), ((0.0, 38.0), (12.0, 50.0)), atol=1.0)
    choose(tab, "Undo")
    told(tab, "undone")
    assert session.plan is after_click
    choose(tab, "isodose surface")
    tab.get_by_label("isodose to move").select_option(label="95 % (57.0 Gy)")
    click(tab, "coronal", 30.0, 0.0)
    told(tab, "isodose surface: recovered")
    assert from_plain(session.record[-1]).level_gy == 57.0


@needs_browser
def test_moving_the_histogram_makes_a_dvh_point(tab, session):
    click(tab, "histogram", 50.0, 60.0)
    told(tab, "dvh point: recovered")
    drag(tab, "histogram", (58.0, 80.0), (48.0, 40.0))
    wait_until(tab, lambda: len(session.record) == 2)
    first, second = (from_plain(r) for r in session.record)
    assert first.structure == second.structure == "Core"
    assert (first.dose_gy, first.volume_percent) == pytest.approx((50.0, 60.0), abs=0.5)
    assert (second.dose_gy, second.volume_percent) == pytest.approx((48.0, 40.0), abs=0.5)


@needs_browser
def test_a_click_outside_is_refused_in_words_and_changes_nothing(tab, session, tmp_path):
    plan = session.plan
    click(tab, "axial", -100.0, -100.0)
    told(tab, "lies outside what is planned")
    assert session.plan is plan
    assert not (tmp_path / "record.json").exists()


@needs_browser
def test_a_click_moves_the_cuts_in_the_mode_crosshair(tab, session):
    choose(tab, "crosshair")
    click(tab, "axial", 31.0, 12.0)
    tab.wait_for_function(
        """() => {
            const at = (plane) => Bokeh.documents[0].get_model_by_name("slice " + plane).value;
            return at("sagittal") == 32.5 && at("coronal") == 12.5;
        }"""
    )
    assert session.record == []


@needs_browser
def test_a_second_tab_follows_and_takes_over(tab, browser, server, session):
    with opened(browser, server.url, "This tab only looks") as second:
        picture = drawn_dose(second)
        click(second, "axial", *RIM)
        told(second, "This tab follows another one")
        assert session.record == []
        click(tab, "axial", *RIM)
        told(second, "voxel: recovered")
        assert drawn_dose(second) == drawn_dose(tab) != picture
        choose(second, "Edit here")
        told(second, "This tab edits the plan")
        told(tab, "This tab only looks")
        choose(second, "Undo")
        told(tab, "undone")
        assert drawn_dose(tab) == pytest.approx(picture)
    told(tab, "no tab edits now")


@needs_browser
def test_an_open_page_says_that_the_server_has_stopped(tab, server, tmp_path):
    server.stop()
    told(tab, "The server has stopped; your requests are saved in")
    assert tab.get_by_role("button", name="Save record").is_disabled()


def wait_until(page, is_true):
    """Let the browser work until something holds; fails after a while."""
    for _ in range(PATIENCE_MS // 50):
        if is_true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("what was waited for did not come")


# ---------------------------------------------------------------------------- without a browser


def test_the_server_listens_on_this_machine_alone(server):
    assert server.url.startswith("http://127.0.0.1:")
    port = int(server.url.rsplit(":")[-1].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError):  # another address of this machine, which 0.0.0.0 would take
        socket.create_connection(("127.0.0.2", port), timeout=5)
    server.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_taken_port_is_named(server, session, view):
    port = int(server.url.rsplit(":")[-1].strip("/"))
    with pytest.raises(OSError, match=f"port={port} .* choose another"):
        ShapeServer(session, view).start(port)


class Chair:
    """A tab without a page."""

    def notify(self):
        pass


def test_whatever_goes_wrong_is_told_and_the_plan_stays(session, tmp_path):
    desk, chair = ShapeDesk(session, "title", tmp_path / "record.json"), Chair()
    desk.join(chair)
    plan = session.plan

    def fails(session):
        raise ZeroDivisionError("no way")

    assert desk.ask(chair, fails) is None
    desk.close()
    assert desk.message.kind == "failed"
    assert "no way" in desk.message.text
    assert session.plan is plan
    assert session.record == []


def test_one_request_at_a_time_and_only_from_the_editor(session):
    desk, first, second = ShapeDesk(session, "title"), Chair(), Chair()
    desk.join(first)
    desk.join(second)
    deed, may_go_on = requested(VoxelRequest((*RIM, 0.0), 30.0)), Event()

    def slow(session):
        may_go_on.wait(10.0)
        return deed(session)

    assert "follows" in desk.ask(second, deed)
    assert desk.ask(first, slow) is None
    assert "still being worked on" in desk.ask(first, deed)
    may_go_on.set()
    desk.close()
    assert len(session.record) == 1
    assert desk.message.kind == "answer"


def test_a_record_of_other_work_is_not_written_over(session, tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"title": "other", "requests": [{"kind": "undo"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match="holds other work"):
        ShapeDesk(session, "title", path)
    request = VoxelRequest((*RIM, 0.0), 30.0)
    session.request(request)
    desk = ShapeDesk(session, "title", tmp_path / "new.json")
    desk.save()
    ShapeDesk(session, "title", tmp_path / "new.json")


def test_views_on_another_grid_are_refused(session, view):
    small = ShapedView("t", view.hu[1:], {"PTV": view.masks["PTV"][1:]}, {"PTV": 60.0})
    with pytest.raises(ValueError, match="resample"):
        ShapePage(ShapeDesk(session, "t"), small)
    with pytest.raises(ValueError, match="must name one target"):
        ShapedView("t", view.hu, view.masks, {"GTV": 60.0})
    with pytest.raises(ValueError, match=r"masks\['PTV'\] has shape"):
        ShapedView("t", view.hu[1:], view.masks, {"PTV": 60.0})


def test_cuts_lines_and_positions_meet_in_the_patient():
    grid = Grid((4, 5, 6), (3.0, 2.0, 1.0), (-10.0, 20.0, 30.0))
    volume = np.arange(grid.size, dtype=np.float32).reshape(grid.shape)
    at, (z, y, x) = [2, 3, 4], (-4.0, 26.0, 34.0)
    for plane, across, along in zip(PLANES, (x, x, y), (y, z, z)):
        assert plane.position_mm(grid, at, across, along) == (x, y, z)
        cut = plane.cut(volume, at)
        assert cut[at[plane.rows], at[plane.columns]] == volume[2, 3, 4]
    (line,) = PLANES[0].lines(grid, np.repeat(np.arange(6.0)[None], 5, axis=0), 2.5)
    np.testing.assert_allclose(line[:, 0], 32.5)
    assert nearest_level({95: [line], 55: [line - 3.0], 10: []}, 32.0, 23.0) == 95
    assert nearest_level({95: []}, 0.0, 0.0) is None


def test_histograms_count_the_volume_at_each_dose_or_more(session):
    levels = np.array([0.0, 10.0, 20.0, 30.0])
    dose = np.array([5.0, 20.0, 25.0, 99.0])
    region = Region(np.array([0, 1, 2, 3]), np.array([1.0, 1.0, 1.0, 1.0]))
    curve = histograms({"a": region}, dose, levels)["a"]
    np.testing.assert_allclose(curve, [100.0, 75.0, 75.0, 25.0])
    volume = on_grid(session.scene.grid, session.scene.voxels, session.dose_gy)
    assert np.isnan(volume).sum() == session.scene.grid.size - len(session.scene.voxels)
