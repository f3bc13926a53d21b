import gymnasium as gym
import numpy as np

from agents.baselines.places import places_of


def test_a_baseline_does_not_draw_what_its_environment_draws():
    env = gym.make("CartPole-v1")
    env.reset(seed=7)
    ((_, rng),) = places_of(env, 7)
    assert not np.array_equal(rng.random(4), env.unwrapped.np_random.random(4))
    env.reset(seed=7)
    same = np.random.default_rng([7, 0])  # what a seed and a place alone would give
    theirs = np.random.default_rng(7)
    assert np.array_equal(same.random(4), theirs.random(4))


def test_every_environment_of_a_vector_has_a_stream_of_its_own():
    class Vector:
        envs = ["a", "b"]

    places = places_of(Vector(), 3)
    assert [env for env, _ in places] == ["a", "b"]
    assert not np.array_equal(places[0][1].random(4), places[1][1].random(4))
    again = places_of(Vector(), 3)
    np.testing.assert_array_equal(again[1][1].random(4), places_of(Vector(), 3)[1][1].random(4))
