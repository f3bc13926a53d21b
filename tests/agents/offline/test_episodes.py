"""An episode as it is kept on disk."""

import numpy as np
import pytest

from agents.baselines.energy_layer import RandomLayers
from agents.baselines.voxel_mask import RandomActions
from agents.offline.episodes import Episode, recorded


@pytest.fixture(scope="module")
def episode(arc_environment):
    env = arc_environment().make()
    options = {"case": "nasopharynx-00001", "limit": 1.5}
    return recorded(RandomLayers(), env, 5, options, split="train", budget=1.5)


def test_an_episode_holds_one_observation_more_than_actions(episode):
    assert len(episode.observations["plane"]) == len(episode) + 1
    assert len(episode.infos["action_mask"]) == len(episode) + 1
    assert episode.terminations[-1] and not episode.terminations[:-1].any()
    assert episode.infos["action_mask"][np.arange(len(episode)), episode.actions].all()


def test_an_episode_says_its_case_budget_seed_and_score(episode):
    assert episode.seed == 5
    assert episode.about["case"] == "nasopharynx-00001" and episode.about["budget"] == 1.5
    assert episode.about["score"] == episode.infos["score"][-1]
    assert episode.about["return"] == pytest.approx(episode.rewards.sum())


def test_a_written_episode_is_read_as_it_was(episode, tmp_path):
    episode.write(tmp_path / "sub" / "one.npz")
    again = Episode.read(tmp_path / "sub" / "one.npz")
    assert (again.seed, again.options, again.about) == (5, episode.options, episode.about)
    for name in ("plane", "clock"):
        np.testing.assert_array_equal(again.observations[name], episode.observations[name])
    np.testing.assert_array_equal(again.rewards, episode.rewards)
    np.testing.assert_array_equal(again.infos["action_mask"], episode.infos["action_mask"])
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["one.npz"]


def test_the_chance_of_a_behavior_is_not_that_of_its_environment(environment):
    env = environment.make(action="field", case="head-and-neck-00000", budget=0.1)
    episode = recorded(RandomActions(), env, 7, {})
    same_stream = np.random.default_rng(7).uniform(-1.0, 1.0, episode.actions.shape[1])
    assert not np.allclose(episode.actions[0], same_stream)
