"""From played and validated submissions to a board, by the command."""

import json
from pathlib import Path

import pytest

from scripts import cli


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_cases, tiny_suite_file):
    monkeypatch.chdir(tmp_path)
    return f"suite={tiny_suite_file}"


def _said(capsys, *arguments) -> tuple[int, str]:
    code = cli.main(["benchmark", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out + captured.err


@pytest.fixture
def submissions(here, capsys):
    """Two baselines: one is validated, the other was not yet replayed."""
    for name in ("random", "uniform"):
        assert _said(capsys, "run", name, here, "tasks=[voxel-mask]", "workers=1")[0] == 0
    code, _ = _said(capsys, "validate", "submissions/random", here, "reference=false", "workers=1")
    assert code == 0
    return here


def test_a_board_is_made_of_what_was_validated(submissions, capsys):
    table = ("table", "submissions", submissions, "ranking.n_bootstrap=200")
    code, said = _said(capsys, *table)
    assert code == 0, said
    assert "1 hold, 1 are refused" in said
    assert "Open outputs/board/index.html" in said
    board = Path("outputs/board")
    text = (board / "board.txt").read_text(encoding="utf-8")
    assert text in said
    assert "it was not validated" in text
    plain = json.loads((board / "board.json").read_text(encoding="utf-8"))
    (task,) = plain["tasks"]
    assert [(r["name"], r["rank"], r["validated"]) for r in task["rows"]] == [("random", 1, "yes")]
    assert [r["name"] for r in plain["refused"]] == ["uniform"]
    (page,) = (board / "entries").glob("*.html")
    (picture,) = (board / "entries").glob("*/*.png")
    assert f"{picture.parent.name}/{picture.name}" in page.read_text(encoding="utf-8")
    assert "| random | rule |" in (board / "board.md").read_text(encoding="utf-8")
    assert page.name in (board / "index.html").read_text(encoding="utf-8")

    code, _ = _said(capsys, *table, "unvalidated=true", "pictures=false", "output=all")
    assert code == 0
    rows = json.loads(Path("all/board.json").read_text(encoding="utf-8"))["tasks"][0]["rows"]
    assert {(r["name"], r["rank"]) for r in rows} == {("random", 1), ("uniform", None)}
    assert not list(Path("all/entries").glob("*/*.png"))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nowhere"], "nowhere does not exist"),
        (["submissions=[]"], "names none"),
        ([], "submissions"),
        (["submissions", "ranking.by=time"], "by='time'"),
        (["submissions", "ranking.n_bootstrap=5"], "n_bootstrap=5"),
        (["submissions", "suite=maxi"], "suite='maxi'"),
        (["submissions", "pictur=false"], "pictures"),
        (["submissions", "tasks=[]"], "tasks=[] names none"),
        (["submissions", "tasks=[voxels]"], "task='voxels' is not in suite tiny"),
    ],
)
def test_bad_calls_are_refused_with_what_to_do(here, capsys, arguments, said):
    given = any(word.startswith("suite=") for word in arguments)
    code, told = _said(capsys, "table", *arguments, *([] if given else [here]))
    assert code == 2
    assert said in told
    assert not Path("outputs/board/index.html").exists()


def test_tasks_can_be_shown_alone(here, capsys):
    assert _said(capsys, "run", "random", here, "workers=1")[0] == 0
    table = ("table", "submissions", here, "unvalidated=true", "pictures=false")
    assert _said(capsys, *table, "ranking.n_bootstrap=200")[0] == 0
    everything = json.loads(Path("outputs/board/board.json").read_text(encoding="utf-8"))
    assert len(everything["tasks"]) > 1
    assert _said(capsys, *table, "tasks=[dose-shaping]", "ranking.n_bootstrap=200")[0] == 0
    alone = json.loads(Path("outputs/board/board.json").read_text(encoding="utf-8"))
    assert alone["tasks"] == [t for t in everything["tasks"] if t["name"] == "dose-shaping"]


def test_submissions_of_one_name_or_another_suite_are_refused(submissions, capsys):
    import shutil

    shutil.copytree("submissions/random", "submissions/again")
    code, said = _said(capsys, "table", "submissions", submissions)
    assert code == 2
    assert "both named 'random'" in said
    entry = Path("submissions/again/entry.json")
    plain = json.loads(entry.read_text())
    entry.write_text(json.dumps(plain | {"suite": "mini"}))
    code, said = _said(capsys, "table", "submissions/again", submissions)
    assert code == 2
    assert "of suite 'mini', the board is of 'tiny'" in said
