"""Behaviors act in the space of agents that learn, and only as the environment will take it."""

import gymnasium as gym
import numpy as np
import pytest

from agents.baselines import dose_shaping
from agents.baselines.energy_layer import LayerBaseline
from agents.baselines.layer_rules import Sawtooth
from agents.baselines.search import CrossEntropySearch
from agents.baselines.voxel_mask import RandomActions
from agents.offline.behaviors import Lookahead, Noisy, PlainRule, SearchedRound, carried_out
from agents.offline.episodes import recorded
from agents.rl.first_policy import FirstPolicy

CASE = {"case": "head-and-neck-00000", "budget": 0.1}


@pytest.fixture(scope="module")
def field_env(environment):
    return environment.make(action="field", reward="potential", case=CASE["case"])


def test_a_plain_rule_says_the_same_round_always(field_env):
    rule = FirstPolicy(pull_exponent=0.5, work_share=1.0)
    episode = recorded(PlainRule(rule), field_env, 3, CASE)
    expected = np.clip(rule.action("field", 23), -1, 1)
    np.testing.assert_array_equal(episode.actions, np.tile(expected, (len(episode), 1)))


def test_noise_on_numbers_has_the_deviation_asked_for_and_stays_inside_the_space(field_env):
    rule = FirstPolicy(keep_rate=0.1, evaluations=10, work_share=0.5)
    noisy, plain = Noisy(PlainRule(rule), 0.2).bind(field_env, 1), rule.action("field", 23)
    drawn = np.stack([noisy.predict(None)[0] for _ in range(300)])
    assert (drawn - plain).std() == pytest.approx(0.2, rel=0.05)
    wild = recorded(Noisy(PlainRule(rule), 1.0), field_env, 1, CASE)
    assert np.abs(wild.actions).max() == 1.0
    assert not wild.infos["invalid_action"].any()  # what was done is recorded, not what was wished


def test_noise_on_choices_replaces_the_share_asked_for_by_allowed_ones(arc_environment):
    env = arc_environment().make(case="nasopharynx-00000")
    env.reset(seed=0)
    base = LayerBaseline(Sawtooth())
    base.bind(env, 0)
    usual, allowed = int(base.predict(_unread(env))[0]), env.unwrapped.action_masks()
    noisy = Noisy(base, 0.4).bind(env, 0)
    drawn = np.array([noisy.predict(_unread(env))[0] for _ in range(400)])
    assert allowed[drawn].all()
    others = 0.4 * (1 - 1 / allowed.sum())
    assert (drawn != usual).mean() == pytest.approx(others, abs=0.08)


def _unread(env):
    """An observation of the right shape: rules read the state, not this."""
    return {"clock": np.zeros(env.observation_space["clock"].shape)}


def test_noise_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="noise=1.5"):
        Noisy(RandomActions(), 1.5)


def test_a_searched_round_beats_the_rule_that_it_began_from_and_is_kept(field_env):
    first = FirstPolicy(pull_exponent=0.5, work_share=1.0)
    search = CrossEntropySearch(first, kinds=("field",), population=12, iterations=4, n_final=1)
    searched = SearchedRound(search)
    scores = [
        recorded(b, field_env, seed, CASE).about["score"]
        for b in (PlainRule(first), searched) for seed in range(4)
    ]  # fmt: skip
    assert np.mean(scores[4:]) > np.mean(scores[:4])
    episode = recorded(searched, field_env, 0, CASE)
    assert (episode.actions[1:, -2] == -1.0).all()  # one evaluation, which changes nothing
    np.testing.assert_array_equal(episode.infos["raw_score"][1:], episode.infos["raw_score"][1])


def test_a_search_for_another_kind_is_refused(field_env):
    first = FirstPolicy()
    search = CrossEntropySearch(first, kinds=("shells",), population=2, iterations=1, n_final=1)
    with pytest.raises(ValueError, match=r"search.kinds=\[field\]"):
        recorded(SearchedRound(search), field_env, 0, CASE)


def test_a_lookahead_never_loses_by_a_request(shaping_environment):
    env = shaping_environment.make_for_training()
    episode = recorded(Lookahead(), env, 0, {"case": "head-and-neck-00000", "goals": 1})
    assert (np.diff(episode.infos["raw_score"])[:-1] > 0).all()  # the last action stops
    assert episode.actions[-1] == env.action_space.n - 1 and episode.terminations[-1]


def test_what_is_not_allowed_is_recorded_as_what_the_environment_does(shaping_environment):
    env = shaping_environment.make_for_training()
    env.reset(seed=0)
    for action in range(env.action_space.n):
        env.reset(seed=0)
        mask = env.unwrapped.action_masks()
        done = carried_out(env, action)
        assert mask[done] and (done == action or not mask[action])
        after = [_after(env, a) for a in (action, done)]
        assert after[0] == after[1]


def test_another_request_is_nearer_than_to_stop(shaping_environment, monkeypatch):
    env = shaping_environment.make_for_training()
    stop = env.action_space.n - 1
    mask = np.zeros(stop + 1, bool)
    mask[[2, stop]] = True
    monkeypatch.setattr(env.unwrapped, "action_masks", lambda: mask)
    assert carried_out(env, stop - 1) == 2 and carried_out(env, stop) == stop
    mask[2] = False
    assert carried_out(env, stop - 1) == stop


def _after(env: gym.Env, action: int) -> tuple:
    env.reset(seed=0)
    *_, terminated, _, info = env.step(action)
    return terminated, info["objective"]


def test_rules_of_a_planner_are_carried_out_as_they_are(shaping_environment):
    env = shaping_environment.make_for_training()
    episode = recorded(dose_shaping.greedy(0.3, 3), env, 0, {"case": "head-and-neck-00001"})
    assert len(episode) == 4 and not episode.infos["invalid_action"].any()
