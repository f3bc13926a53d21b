"""``ptenv evaluate``: baselines alone, and what it says to bad input."""

import json

import pytest

from scripts import cli

QUICK = ("n_cases=2", "trials.n_samplings=1", "trials.budgets=[0.05, 0.2]")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_cases):
    folder = tmp_path_factory.mktemp("evaluate")
    play = ("picture_of=uniform", f"output={folder}")
    assert cli.main(["evaluate", *tiny_cases, *QUICK, *play]) == 0
    return folder


def test_episodes_hold_what_plays_them_again(evaluated):
    lines = (evaluated / "episodes.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {r["budget"] for r in rows} == {0.05, 0.2}
    assert {"agent", "env_id", "case", "case_key", "seed", "settings", "actions"} <= set(rows[0])
    assert len({r["agent"] for r in rows}) == 12


def test_one_picture_a_case_is_drawn(evaluated):
    names = sorted(p.name for p in (evaluated / "pictures").iterdir())
    assert names == ["head-and-neck-10000.png", "head-and-neck-10001.png"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("agents=[nowhere]", "give the output folder of `ptenv train`"),
        ("picture_of=nobody", "picture_of='nobody' does not play"),
        ("cases=['openkbp:nowhere.zip']", "no such file"),
        ("trial.n_samplings=1", "trials.n_samplings"),
        ("baselines.shells.width=1", "baselines.shells.width_mm"),
        ("env=voxel_mak", "Did you mean `env=voxel_mask`?"),
    ],
)
def test_a_wrong_call_is_refused(tmp_path, tiny_cases, capsys, wrong, said):
    assert cli.main(["evaluate", *tiny_cases, *QUICK, f"output={tmp_path}", wrong]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
