"""The board as text and as Markdown; names are strangers' text."""

import re

import pytest

from ptenv.benchmark.board import Ranking
from ptenv.benchmark.board_making import make_board
from ptenv.benchmark.board_submissions import Refused, printable, read_submissions
from ptenv.benchmark.board_text import (
    as_markdown,
    as_text,
    difference_text,
    escaped,
    estimate_text,
    p_text,
)
from ptenv.benchmark.statistics import Difference, Estimate, Interval


@pytest.fixture(scope="module")
def board(shown, made):
    return make_board(read_submissions([shown], made), made, Ranking(n_bootstrap=200))


def test_text_shows_every_entry_in_the_order_of_its_rank(board):
    text = as_text(board)
    table = text.split("voxel-mask (ptenv/VoxelMask-mini-v0, 6 patients)")[1]
    lines = [line for line in table.splitlines() if re.match(r" *\d+  ", line)]
    names = [row.name for row in board.tasks[0].rows if row.rank is not None]
    assert "partly" not in names
    for rank, (line, name) in enumerate(zip(lines, names), start=1):
        assert line.split()[0] == str(rank)
        assert f"  {name}  " in line
    assert "best rule" in next(line for line in lines if "importance" in line)


def test_text_names_exclusions_warnings_and_refusals(board):
    text = as_text(board)
    assert "anchors lie too close: head-and-neck-20000 at budget 0.05." in text
    assert "three seeds: 3 training seeds instead of 5" in text
    assert "partly was validated partly: 12 of" in text
    assert "its records or its entry were changed after validation" in text
    assert "shifted along one axis" in text
    assert "512 patients" in text


def test_markdown_tables_have_as_many_cells_in_every_line(board):
    tables = re.findall(r"(?:^\|.*\n?)+", as_markdown(board), re.MULTILINE)
    assert len(tables) == 2 * len(board.tasks) + len(board.shifts) + len(board.curves) + 1
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(cells) == 1


def test_names_are_no_markup_in_markdown(board):
    text = as_markdown(board)
    hostile = next(row.name for row in board.tasks[0].rows if "7*7" in row.name)
    assert hostile not in text
    assert r"a\&b 'c' \| \*d\*" in text
    assert "<script>" not in text
    assert r"\<script\>" in text
    assert escaped("[x](y)") == r"\[x\]\(y\)"


def test_control_characters_reach_no_terminal(board):
    assert printable("a\x1b[2Jb\n\u202ec") == "a�[2Jb��c"
    from dataclasses import replace

    refused = (Refused("\x1b[31mred", ("line\nbreak\x07",)),)
    text = as_text(replace(board, refused=refused))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "�[31mred" in text


def test_figures_are_told_with_what_is_known_of_them():
    sure = Interval(0.1, 0.3, "patients")
    assert estimate_text(None) == "–"
    assert estimate_text(Estimate(0.2, None)) == "0.200"
    assert estimate_text(Estimate(0.2, sure)) == "0.200 (0.10 … 0.30)"
    assert difference_text(Difference(1, 0.2, None, None)) == "+0.200"
    assert difference_text(Difference(6, 0.2, sure, 0.031)) == "+0.200 (+0.10 … +0.30, p = 0.031)"
    assert (p_text(0.00002), p_text(0.5)) == ("p < 0.001", "p = 0.50")


def test_what_freezing_measured_stands_below_the_table(board):
    from dataclasses import replace

    headroom = {"random": -0.1, "best_heuristic": 0.5, "heuristic": "greedy", "privileged": 0.61,
                "bound": 1.0}  # fmt: skip
    text = as_text(replace(board, tasks=(replace(board.tasks[0], headroom=headroom),)))
    assert "random -0.10, best heuristic 0.50 (greedy), search that sees the score 0.61" in text


def test_a_board_that_the_reference_engine_ranks_says_so(shown, made):
    ranking = Ranking(by="reference", n_bootstrap=200)
    text = as_text(make_board(read_submissions([shown], made), made, ranking))
    assert "Ranked by the score of the reference engine." in text
