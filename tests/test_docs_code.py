"""The code of the pages runs, or says why it does not; their commands compose.

A fenced block is run in its page's order: ``python`` in one namespace, ``console`` command by
command. What comes before a block may say otherwise:

    <!-- not run: REASON -->   its ``ptenv`` commands are composed, and nothing is run
    <!-- file: PATH -->        it is written to a file of the working folder, for what follows

Blocks of ``text``, ``yaml``, ``json``, ``toml`` and ``make`` are no code of a page. PATH stands
for a folder with one patient, pt_1.zip, in the format of OpenKBP.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from omegaconf import OmegaConf

from ptenv.cases.library import forget_cases
from scripts import cli, configuration

DOCS = Path(__file__).parents[1] / "docs"
BOARDS = ("leaderboard/board", "leaderboard/phantom.md")
GENERATED = ("_build", "environments", *BOARDS)  # pages that commands write
PAGES = sorted(
    p for p in DOCS.rglob("*.md")
    if not any(p.relative_to(DOCS).is_relative_to(made) for made in GENERATED)
)
NAMES = [p.relative_to(DOCS).as_posix() for p in PAGES]
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|file): (?P<said>[^\n]+?) -->\n)?"
    r"(?P<ticks>`{3,})(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=ticks)\n",
    re.MULTILINE | re.DOTALL,
)
DATA = {"yaml": OmegaConf.create, "json": json.loads, "toml": tomllib.loads, "text": str,
        "make": str}  # fmt: skip
KNOWN = {"python", "console", *DATA}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    mark: str | None
    said: str | None

    @property
    def commands(self) -> list[list[str]]:
        """Commands of a console block, without comments, prompts and what the lines are broken
        by."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = (shlex.split(line.removeprefix("$ "), comments=True) for line in lines)
        return [w for w in words if w]


def blocks(page: Path) -> list[Block]:
    """Blocks of a page that are no directives of the generator."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [
        Block(m["language"].strip(), m["text"], m["mark"], m["said"])
        for m in found
        if not m["language"].startswith("{")
    ]


def ptenv_words(words: list[str]) -> list[str] | None:
    """The arguments of a ``ptenv`` command; None for another."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return words[1:] if words[:1] == ["ptenv"] else None


def compose(words: list[str], named_alone: bool = False) -> None:
    """Fail where a command's options do not compose."""
    if words[0] in ("-h", "--help", "--version"):
        return
    name, *rest = cli._named(cli._in_full(words))
    assert name in cli.commands(), f"ptenv {' '.join(words)}: no such command"
    if named_alone and not rest:  # in a sentence
        return
    try:
        configuration.checked(name, rest)
    except configuration.WrongCall as wrong:
        pytest.fail(f"ptenv {' '.join(words)}: {wrong}")


def run(block: Block, names: dict, page: str) -> None:
    if block.mark == "file":
        path = Path(block.said)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    elif block.mark == "not run":
        for words in block.commands if block.language == "console" else []:
            look_at(words)
    elif block.language == "python":
        exec(compile(block.text, page, "exec"), names)
    elif block.language == "console":
        for words in block.commands:
            arguments = ptenv_words(words)
            assert arguments is not None, f"{' '.join(words)}: only ptenv is run; mark the block"
            assert cli.main(arguments) == 0, f"ptenv {' '.join(arguments)} failed"


def look_at(words: list[str], named_alone: bool = False) -> None:
    """What can be told of a command without running it."""
    arguments = ptenv_words(words)
    if arguments is not None:
        compose(arguments, named_alone)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), f"{words[2]} is no module"


@pytest.fixture(scope="module")
def patient_zip(tmp_path_factory):
    """A cylinder with a target, in the format of OpenKBP."""
    sys.path.insert(0, str(DOCS / "examples"))
    import my_patients

    folder = tmp_path_factory.mktemp("docs_patient")
    z, y, x = np.meshgrid(*(np.arange(n) for n in (40, 60, 60)), indexing="ij")
    hu = np.where((y - 30) ** 2 + (x - 30) ** 2 < 26**2, 38.0, -1000.0)
    target = (y - 22) ** 2 + (x - 32) ** 2 + (z - 20) ** 2 < 6**2
    np.savez(folder / "arrays.npz", hu=hu, spacing_mm=[3.0, 3.0, 3.0], PTV_7000=target)
    patient = my_patients.read(str(folder / "arrays.npz"), {"PTV_7000": 70.0}, 35)
    my_patients.write_openkbp(patient, str(folder / "pt_1"))
    return shutil.make_archive(str(folder / "pt_1"), "zip", folder / "pt_1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTENV_CACHE", str(tmp_path_factory.mktemp("docs_cases")))
        forget_cases()
        yield
        forget_cases()


@pytest.fixture
def working_folder(tmp_path, monkeypatch, patient_zip, cache):
    """An empty folder with PATH/pt_1.zip, from which the examples can be imported."""
    (tmp_path / "PATH").mkdir()
    shutil.copy(patient_zip, tmp_path / "PATH" / "pt_1.zip")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_code_of_a_page_runs_in_its_order(page, working_folder):
    names = {"__name__": "__main__"}
    with mock.patch.dict(os.environ):  # what a page sets is its own
        for block in blocks(page):
            run(block, names, page.name)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_of_a_page_is_run_or_says_why_not(page):
    n_fences = len(re.findall(r"^`{3,}", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert n_fences % 2 == 0
    n_found = len(BLOCK.findall(page.read_text(encoding="utf-8")))
    assert n_found == n_fences // 2  # an indented or nested fence would be overlooked
    for block in blocks(page):
        assert block.language in KNOWN, f"```{block.language} is none of {sorted(KNOWN)}"
        if block.language in DATA:
            assert DATA[block.language](block.text) is not None
        if block.mark is not None:
            assert len(block.said) > 5


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_the_text_of_a_page_compose(page, working_folder):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    spans = (" ".join(s.split()) for s in re.findall(r"`((?:ptenv|python -m) [^`]+)`", text))
    for span in spans:
        if "…" not in span:
            look_at(shlex.split(span), named_alone=True)


def test_a_block_that_fails_is_seen():
    with pytest.raises(ZeroDivisionError):
        run(Block("python", "1 / 0", None, None), {}, "page")


def test_a_command_that_does_not_compose_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marked = Block("console", "ptenv plan patiennt=tg119  # no such key\n", "not run", "hours")
    with pytest.raises(pytest.fail.Exception, match="patiennt"):
        run(marked, {}, "page")
    with pytest.raises(AssertionError, match="no such command"):
        run(Block("console", "ptenv plann\n", "not run", "hours"), {}, "page")
    with pytest.raises(AssertionError, match="mark the block"):
        run(Block("console", "git clone x\n", None, None), {}, "page")


def test_lines_of_a_command_are_joined_and_comments_left_out():
    block = Block("console", "$ ptenv plan \\\n  patient=tg119  # a phantom\n\n", None, None)
    assert block.commands == [["ptenv", "plan", "patient=tg119"]]
    assert ptenv_words(["PYTHONPATH=.", "ptenv", "plan"]) == ["plan"]
    assert ptenv_words(["git", "clone"]) is None
