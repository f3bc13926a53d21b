"""Make the leaderboard of a suite: text, Markdown, static pages with pictures, JSON.

Writes into the folder ``output``: board.txt, board.md, board.json, index.html and entries/. Only
what `ptenv benchmark validate` found to hold is ranked.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from ptenv.benchmark.board import Board, as_json
from ptenv.benchmark.board_html import ENTRIES, page_name, write_pages
from ptenv.benchmark.board_making import make_board
from ptenv.benchmark.board_submissions import Submission, read_submissions
from ptenv.benchmark.board_text import as_markdown, as_text
from ptenv.benchmark.pictures import Picture, draw_entry
from ptenv.benchmark.suite import Data, Suite, load_suite
from scripts.configuration import listed
from scripts.record import stage


def run(cfg: DictConfig) -> None:
    """Read submissions, compute their figures, and write the board."""
    suite, ranking, folder = load_suite(cfg.suite), instantiate(cfg.ranking), Path(cfg.output)
    shown = None if cfg.tasks is None else listed(cfg.tasks)
    drawn = suite if shown is None else suite.narrowed(shown)
    with stage("Submissions") as notes:
        read = read_submissions(listed(cfg.submissions), suite, ranking.split, cfg.unvalidated)
        notes.append(f"{len(read.accepted)} hold, {len(read.refused)} are refused")
    with stage("Statistics"):
        board = make_board(read, suite, ranking, shown)
    submissions = {s.entry.name: s for s in read.accepted}
    pictures: Mapping[str, Mapping[str, Picture]] = {}
    if cfg.pictures and submissions:
        pictures = _draw(submissions, drawn, Data(cfg.openkbp), folder)
    _write(board, submissions, pictures, folder)
    print(f"\n{as_text(board)}\nOpen {folder / 'index.html'}")


def _draw(
    submissions: Mapping[str, Submission], suite: Suite, data: Data, folder: Path
) -> dict[str, dict[str, Picture]]:
    with stage("Pictures") as notes:
        bar = tqdm(submissions.items(), unit="entry", leave=False, disable=None)
        drawn = {n: draw_entry(s, suite, data, folder / ENTRIES, page_name(n)) for n, s in bar}
        missing = sum(p.file is None for of in drawn.values() for p in of.values())
        notes.append(f"{missing} could not be drawn" if missing else "all there")
    return drawn


def _write(board: Board, submissions, pictures, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"board.txt": as_text, "board.md": as_markdown, "board.json": as_json}
    for name, render in texts.items():
        (folder / name).write_text(render(board), encoding="utf-8")
    write_pages(board, submissions, folder, pictures)


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "table", *sys.argv[1:]]))
