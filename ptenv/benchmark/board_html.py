"""A board as a folder of static pages: index.html and one page an entry, with nothing from outside.

Names and reasons are strangers' text: every template escapes, and no script but ours may run
(Content-Security-Policy by hash).
"""

import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ptenv.benchmark.board import Board
from ptenv.benchmark.board_figures import (
    cost_figure,
    curve_figure,
    interval_bar,
    profile_figure,
    short,
)
from ptenv.benchmark.board_submissions import Submission, printable
from ptenv.benchmark.board_text import (
    difference_text,
    estimate_text,
    notes_of_cases,
    p_text,
    runs_text,
    shortened,
)  # fmt: skip
from ptenv.benchmark.pictures import Picture

INDEX, ENTRIES = "index.html", "entries"
PAGE = re.compile(r"[a-z0-9-]*-[0-9a-f]{8}\.html")
SHOWN = 6  # patients of a training set that are named


def write_pages(
    board: Board, submissions: Mapping[str, Submission], folder: Path,
    pictures: Mapping[str, Mapping[str, Picture]],
) -> Path:  # fmt: skip
    """Write index.html and entries/*.html; pages of entries that left the board go.

    ``pictures`` are by entry and task, their files lie below ``folder``/entries.
    """
    (folder / ENTRIES).mkdir(parents=True, exist_ok=True)
    pages = {name: page_name(name) for name in board.entries()}
    for old in (folder / ENTRIES).iterdir():
        if PAGE.fullmatch(old.name) and old.stem not in pages.values():
            old.unlink()
    for name, page in pages.items():
        text = entry_page(board, submissions[name], pictures.get(name, {}))
        (folder / ENTRIES / f"{page}.html").write_text(text, encoding="utf-8")
    (folder / INDEX).write_text(index_page(board), encoding="utf-8")
    return folder / INDEX


def page_name(entry: str) -> str:
    """A file's name for an entry: what is plain of its name, and a digest that tells it apart."""
    plain = re.sub(r"[^a-z0-9]+", "-", entry.lower()).strip("-")[:40] or "entry"
    return f"{plain}-{sha256(entry.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def index_page(board: Board) -> str:
    """All tables and figures."""
    place = {name: i for i, name in enumerate(board.entries())}
    return _render(
        "index.html", board=board, pages={name: page_name(name) for name in place},
        bars={t.name: {r.name: interval_bar(r.score, [o.score for o in t.rows]) for r in t.rows}
              for t in board.tasks},
        notes={t.name: notes_of_cases(t) for t in board.tasks},
        figures={t.name: {"cost": cost_figure(t, place), "profile": profile_figure(t, place)}
                 for t in board.tasks},
        curve_figures={c.task: curve_figure(c) for c in board.curves},
    )  # fmt: skip


def entry_page(board: Board, submission: Submission, pictures: Mapping[str, Picture]) -> str:
    """All about one entry."""
    entry = submission.entry
    return _render(
        "entry.html", board=board, submission=submission, entry=entry,
        rows=board.rows_of(entry.name), pictures=pictures,
        learned=None if entry.learned is None else _learned(entry.learned),
        platforms=_distinct(submission, "platform"), software=_distinct(submission, "software"),
    )  # fmt: skip


def _learned(runs: Sequence[Mapping]) -> list[str]:
    """What training seeds learned from, cut short; seeds that learned from the same are one."""
    counts = Counter(_told(run) for run in runs)
    return [
        f"{n} seed{'s' * (n != 1)}{', each' * (n != 1)} from {told}"
        for told, n in counts.items()
    ]


def _told(run: Mapping) -> str:
    cases = [printable(str(case)) for case in run.get("cases", ())]
    shown = ", ".join(cases[:SHOWN]) + (", …" if len(cases) > SHOWN else "")
    more = [f"; {printable(k)} {shortened(printable(json.dumps(v)), 100)}"
            for k, v in run.items() if k not in ("cases", "seed")]  # fmt: skip
    return f"{len(set(cases))} patients: {shortened(shown)}{''.join(more)}"


def _distinct(submission: Submission, part: str) -> list[str]:
    """The platforms or versions that an entry's records name, each once."""
    told = (", ".join(f"{printable(k)} {printable(str(v))}" for k, v in r[part].items())
            for r in submission.records)  # fmt: skip
    return [shortened(text) for text in dict.fromkeys(told)][:SHOWN]


def _render(template: str, **values) -> str:
    style, script = _inline()
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return _templates().get_template(template).render(
        style=Markup(style), script=Markup(script), script_sha256=digest, **values
    )


@cache
def _templates() -> Environment:
    env = Environment(
        loader=PackageLoader("ptenv.benchmark"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {
        "short": short, "p": p_text, "runs": runs_text, "estimate": estimate_text,
        "difference": difference_text, "printable": printable, "shortened": shortened,
        "zipped": lambda values, with_: list(zip(with_, values)),
    }  # fmt: skip
    return env


@cache
def _inline() -> tuple[str, str]:
    """Our own style and script."""
    style = _templates().get_template("board.css").render()
    script, _, _ = _templates().loader.get_source(_templates(), "board.js")
    return style, script
