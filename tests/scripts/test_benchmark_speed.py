"""``ptenv benchmark speed``: the table, and the figures behind it."""

import json

import pytest

from scripts import cli

NAME = "ptenv/VoxelMask-mini-v0"


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_cases):
    folder = tmp_path_factory.mktemp("speed")
    recipe = tiny_cases[0].removeprefix("env.recipe=")
    call = ("benchmark_speed", f"ids=[{NAME}]", "processes=[1]", "seconds=0.1", "repeats=2",
            "n_patients=1", "workers=1", f"settings={{recipe: {recipe}}}",
            f"output={folder}")  # fmt: skip
    assert cli.main(list(call)) == 0
    return folder


def test_figures_are_kept_with_the_hardware_that_they_are_of(measured):
    found = json.loads((measured / "speed.json").read_text())
    (row,) = found["rows"]
    assert row["id"] == NAME
    assert min(row["steps"]["1"]["steps_per_s"]) > 0
    assert row["startup"]["total_s"] > 0
    assert found["hardware"]["processor"]
    assert found["settings"]["repeats"] == 2


def test_the_table_has_a_row_an_id(measured):
    text = (measured / "speed.txt").read_text()
    assert "steps/s, 1" in text
    assert "VoxelMask-mini-v0" in text
    assert "cached s" in text


def test_an_unknown_id_is_refused(tmp_path, capsys):
    assert cli.main(["benchmark_speed", "ids=[ptenv/None-v0]", f"output={tmp_path}"]) == 2
    assert "ptenv/None-v0" in capsys.readouterr().err
