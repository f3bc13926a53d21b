"""Evaluation: every column, episodes that can be played again, means that are means."""

import json
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from agents import evaluation
from agents.baselines import voxel_mask
from agents.environments import chosen_cases, prepare_cases
from agents.evaluation import (
    Trials,
    by_budget,
    evaluate,
    summary,
)
from agents.voxel_mask_judge import COLUMNS, VoxelMaskJudge
from ptenv.benchmark.packing import unpacked
from ptenv.cases.library import load_case

CASES = ["head-and-neck-00001", "head-and-neck-00000"]
TRIALS = Trials(budgets=(0.05, 0.2), n_samplings=2, seed=1)


@pytest.fixture(scope="module")
def rows(environment):
    agents = {"uniform": voxel_mask.uniform(), "random": voxel_mask.RandomActions()}
    return evaluate(environment, agents, CASES, TRIALS)


def test_every_agent_plays_every_case_budget_and_sampling(rows):
    assert len(rows) == 2 * 2 * 2 * 2
    played = {(r["agent"], r["case"], r["budget"], r["seed"]) for r in rows}
    assert len(played) == len(rows)


def test_agents_meet_the_same_seeds(rows):
    seeds = {a: [r["seed"] for r in rows if r["agent"] == a] for a in ("uniform", "random")}
    assert seeds["uniform"] == seeds["random"]


def test_the_table_has_every_column(rows):
    for row in summary(rows, list(COLUMNS)):
        assert set(COLUMNS) <= set(row)
        assert np.isfinite(row["score"])


def test_work_is_a_share_of_keep_all(rows):
    for row in rows:
        assert 0 < row["work_percent"] <= 100 * row["budget"] + 1e-6


def test_an_episode_can_be_played_again_from_its_row(environment, rows):
    row = next(r for r in rows if r["agent"] == "uniform")
    env = gym.make(row["env_id"], **row["settings"])
    env.reset(seed=row["seed"])
    assert env.unwrapped.state.case.key == row["case_key"]
    for action in unpacked(row["actions"]):
        *_, info = env.step(action)
    assert info["score"] == row["score"]


def test_every_case_is_handed_over_when_it_is_done(environment, rows):
    kept = []
    agents = {"uniform": voxel_mask.uniform()}
    found = evaluate(environment, agents, CASES, TRIALS, keep=kept.append)
    assert [r["case"] for of in kept for r in of] == [r["case"] for r in found]
    assert len(kept) == len(CASES)


def test_several_processes_find_the_same(environment, rows):
    agents = {"uniform": voxel_mask.uniform(), "random": voxel_mask.RandomActions()}
    spread = evaluate(environment, agents, CASES, TRIALS, workers=2)
    for row, other in zip(rows, spread, strict=True):
        assert row["score"] == other["score"]
        assert row["actions"] == other["actions"]


def test_keep_all_is_the_reference(environment):
    case = load_case(environment.make().unwrapped.case_recipe(CASES[0]))
    row = VoxelMaskJudge.reference_row(case)
    assert row["score"] == 1.0
    assert row["dD95_high"] == row["dD95_worst"] == 0.0


def test_a_mean_runs_over_cases_not_episodes():
    rows = [{"agent": "a", "case": c, "budget": 0.1, "score": s}
            for c, s in (("x", 0.0), ("x", 0.0), ("y", 1.0))]  # fmt: skip
    (row,) = summary(rows, list(COLUMNS))
    assert row["score"] == 0.5
    assert row["score_se"] == pytest.approx(0.5)
    assert np.isnan(row["Q"])
    found = by_budget(rows, VoxelMaskJudge.budget_title)
    assert found == [{"agent": "a", "10 %": pytest.approx(1 / 3)}]


def test_chosen_cases_are_named_or_the_first_of_a_split():
    assert chosen_cases(["head-and-neck-7"], "validation", 3) == ["head-and-neck-00007"]
    assert chosen_cases(None, "validation", 2) == ["head-and-neck-10000", "head-and-neck-10001"]
    with pytest.raises(ValueError, match="split='exam'"):
        chosen_cases(None, "exam", 2)


def test_cases_are_built_with_progress(environment):
    told = []
    prepare_cases(environment, CASES, progress=told.append)
    assert told == [1, 2]


@pytest.mark.parametrize("settings", [{"budgets": ()}, {"n_samplings": 0}])
def test_trials_without_episodes_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Trials(**settings)


def test_a_row_holds_no_path_of_a_dicom_folder(tmp_path, monkeypatch):
    folder = tmp_path / "Doe_John"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(b"a")
    case, closed = f"dicom:{folder}", SimpleNamespace(close=lambda: None)
    environment = SimpleNamespace(id="e", judge=None, make_to_play=lambda *given: closed)
    trials = SimpleNamespace(budgets=[0.1], seeds=lambda index, budget: [0], drawn_budget=None)
    monkeypatch.setattr(evaluation, "_sound_budgets", lambda *given: [0.1])
    settings = evaluation._settings({"case": case, "budget": 0.1})
    monkeypatch.setattr(evaluation, "play", lambda *given: {"settings": settings})
    row, = evaluation.evaluate_case(environment, {"a": None}, case, 0, trials)
    assert row["case"] == row["settings"]["case"]
    assert "Doe" not in json.dumps(row)
