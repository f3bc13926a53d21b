"""Planners by rule and the lookahead, on a small dose-shaping case."""

import numpy as np
import pytest

from agents.baselines import dose_shaping
from agents.baselines.shaping_search import ShapingSearch
from agents.environments import DoseShapingEnvironment
from agents.evaluation import Trials, evaluate
from ptenv.envs.dose_shaping_actions import N_GOAL_ACTIONS

RECIPE = {
    "ct_spacing_mm": 6.0, "dose_grid_mm": 6.0, "gantry_deg": (0.0, 90.0, 180.0, 270.0),
    "bixel_mm": 8.0, "reach_mm": 25.0, "n_goals": 2, "start_evaluations": 10,
    "converged_evaluations": 40, "direct_evaluations": 25, "quality_evaluations": 10,
}  # fmt: skip
CASE = "head-and-neck-10001"


@pytest.fixture(scope="module")
def environment():
    return DoseShapingEnvironment(recipe=RECIPE, n_patients=2)


def played(environment, agent, goals=0):
    env = environment.make_to_play(CASE, goals, agent)
    agent.bind(env, 0)
    observation, info = env.reset(seed=0)
    done = False
    while not done:
        action, _ = agent.predict(observation)
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    return env.unwrapped.state, info


def test_who_does_nothing_scores_0(environment):
    state, info = played(environment, dose_shaping.nothing())
    assert info["score"] == 0.0
    assert info["dose_products"] == 0.0
    assert state.stopped


@pytest.mark.parametrize("rule", [
    dose_shaping.greedy, dose_shaping.heaviest_goal, dose_shaping.critical_spot_eraser,
])  # fmt: skip
def test_rules_ask_until_their_requests_are_spent(environment, rule):
    state, info = played(environment, rule(0.1, n_requests=3))
    assert info["n_requests"] == 3
    assert not info["invalid_action"]


def test_the_eraser_goes_for_the_spot_that_costs_the_most(environment):
    agent = dose_shaping.critical_spot_eraser(1.0, n_requests=1)
    env = environment.make_to_play(CASE, 0, agent)
    agent.bind(env, 0)
    observation, _ = env.reset(seed=0)
    row = env.unwrapped.state.spots[0].row
    env.step(agent.predict(observation)[0])
    assert env.unwrapped.state.last.modified[0] == row


def test_random_requests_are_repeatable_and_mean_something(environment):
    scores = [played(environment, dose_shaping.random_requests())[1] for _ in range(2)]
    assert scores[0]["score"] == scores[1]["score"]
    assert not scores[0]["invalid_action"]


def test_lookahead_is_no_worse_than_doing_nothing_and_can_be_played_again(environment):
    found = ShapingSearch(spots=False).search(environment, CASE, 1)
    assert found.best_plan >= 0.0
    env = environment.make(case=CASE, goals=1, action="goal")
    env.reset(seed=0)
    info = {"score": 0.0}
    for is_spot, action in found.action:
        assert not is_spot
        *_, info = env.step(int(action))
    assert info["score"] == pytest.approx(found.best_plan)


def test_evaluation_compares_them_on_every_weighting(environment):
    agents = {"nothing": dose_shaping.nothing(), "greedy": dose_shaping.greedy(0.1, 2)}
    rows = evaluate(environment, agents, [CASE], Trials(None, 1))
    assert {row["budget"] for row in rows} <= {0, 1}
    assert all(np.isfinite(row["score"]) for row in rows)
    assert {row["agent"] for row in rows} == set(agents)


def test_strengths_and_counts_that_are_none_are_refused(environment):
    with pytest.raises(ValueError, match="strength"):
        dose_shaping.greedy(0.5)
    with pytest.raises(ValueError, match="n_requests"):
        dose_shaping.greedy(1.0, -1)
    with pytest.raises(TypeError, match="environment"):
        dose_shaping.greedy().bind(object())
    with pytest.raises(RuntimeError, match="bind"):
        dose_shaping.greedy().predict(np.zeros(3))
    assert dose_shaping.greedy().stop == N_GOAL_ACTIONS - 1
