"""Baselines: valid actions, equal work, the same masks for the same seed."""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.baselines import voxel_mask
from agents.baselines.voxel_mask import RandomActions, fill

CASE, BUDGETS = "head-and-neck-00001", (0.025, 0.2)
ALL = {
    "keep_all": voxel_mask.keep_all(),
    "random": RandomActions("field"),
    "random shells": RandomActions("shells"),
    "uniform": voxel_mask.uniform(),
    "balanced": voxel_mask.uniform(evaluations=None),
    "shells": voxel_mask.shells(),
    "without organs": voxel_mask.without_organs(),
    "resampling": voxel_mask.resampling(),
    "violation": voxel_mask.violation_driven(),
    "importance": voxel_mask.importance(),
}
SAMPLING = [name for name in ALL if not name.startswith("random")]


def _episode(environment, agent, budget, seed=0):
    env = environment.make(case=CASE, budget=budget, **agent.settings(budget))
    agent.bind(env, seed)
    observation, info = env.reset(seed=seed)
    actions, done = [], False
    while not done:
        action, _ = agent.predict(observation)
        assert env.action_space.contains(action)
        observation, _, terminated, truncated, info = env.step(action)
        actions.append(action)
        done = terminated or truncated
    return actions, info, env.unwrapped.state


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ALL)
def test_actions_are_valid_and_work_stays_within_the_budget(environment, name, budget):
    _, info, state = _episode(environment, ALL[name], budget)
    assert not info["invalid_action"]
    assert 0 <= state.work_left
    assert info["cost"] <= budget * state.case.anchors.work_all


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", SAMPLING)
def test_a_sampling_baseline_spends_its_work(environment, name, budget):
    _, info, _ = _episode(environment, ALL[name], budget)
    assert info["work_used"] > 0.95


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_draws_the_same_actions(environment, name):
    first, info, _ = _episode(environment, ALL[name], 0.1, seed=3)
    again, info_again, _ = _episode(environment, ALL[name], 0.1, seed=3)
    assert info["score"] == info_again["score"]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_another_seed_draws_another_mask(environment):
    first, _, _ = _episode(environment, ALL["uniform"], 0.1, seed=3)
    other, _, _ = _episode(environment, ALL["uniform"], 0.1, seed=4)
    assert not np.array_equal(first[0], other[0])


def test_keep_all_takes_all_rows_where_the_budget_is_whole_evaluations(environment):
    _, _, state = _episode(environment, ALL["keep_all"], 0.2)
    reached = state.case.row_nonzeros > 0
    assert state.mask[reached].mean() > 0.99


def test_dropping_organs_leaves_a_row_of_each_at_most(environment):
    (mask, *_), _, state = _episode(environment, ALL["without organs"], 0.2)
    organ = (state.case.group >= 2) & (state.case.group < voxel_mask.RING)
    chosen = mask[: len(organ)].astype(bool)
    assert chosen[organ].sum() <= len(state.case.problem.objectives)


def test_shells_are_denser_at_the_surfaces(environment):
    rates = voxel_mask.shells().rates
    _, _, state = _episode(environment, ALL["uniform"], 0.2)
    seen = rates(state)[state.case.candidates]
    depth, group = state.case.depth_mm, state.case.group
    boundary = ((depth <= 2.0) & (group != voxel_mask.RING))[state.case.candidates]
    assert np.all(seen[boundary] == 1.0)
    assert np.all(seen[~boundary] == 0.125)  # Quarz 2024: interior 1/8


def test_a_filled_mask_fits_and_reaches_every_structure(environment):
    _, _, state = _episode(environment, ALL["uniform"], 0.2)
    case, room = state.case, int(0.1 * state.case.influence.n_nonzeros)
    at = case.thresholds(np.random.default_rng(0))
    rows = fill(case.candidates.astype(float), case, room, at)
    assert case.row_nonzeros[rows].sum() <= room
    assert case.row_nonzeros[rows].sum() > 0.95 * room
    chosen = np.zeros(case.influence.n_rows, bool)
    chosen[rows] = True
    for name in {o.structure for o in case.problem.objectives}:
        assert chosen[case.problem.structures[name].rows].any(), name


def test_a_batch_of_observations_gets_a_batch_of_masks(environment):
    agent = voxel_mask.uniform()
    make = lambda: environment.make(case=CASE, budget=0.1, **agent.settings(0.1))  # noqa: E731
    venv = DummyVecEnv([make, make])
    agent.bind(venv)
    actions, _ = agent.predict(venv.reset())
    assert actions.shape == (2, venv.action_space.n)
    assert not np.array_equal(actions[0], actions[1])


@pytest.mark.parametrize("agent", [voxel_mask.uniform(), RandomActions()])
def test_an_unbound_baseline_asks_for_its_environment(agent):
    with pytest.raises(RuntimeError, match="bind"):
        agent.predict(np.zeros(89, np.float32))


def test_one_evaluation_is_refused_because_it_only_looks():
    with pytest.raises(ValueError, match="evaluations=1"):
        voxel_mask.uniform(evaluations=1)
