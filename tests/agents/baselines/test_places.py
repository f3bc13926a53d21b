import numpy as np
from gymnasium.utils import seeding

from agents.baselines.places import places_of


def test_a_baseline_does_not_draw_what_its_environment_draws():
    theirs, _ = seeding.np_random(7)  # as `reset(seed=7)` sets it
    ((_, rng),) = places_of(object(), 7)
    assert not np.array_equal(rng.random(4), theirs.random(4))


def test_every_environment_of_a_vector_has_a_stream_of_its_own():
    class Vector:
        envs = ["a", "b"]

    places = places_of(Vector(), 3)
    assert [env for env, _ in places] == ["a", "b"]
    assert not np.array_equal(places[0][1].random(4), places[1][1].random(4))
    again = places_of(Vector(), 3)
    np.testing.assert_array_equal(again[1][1].random(4), places_of(Vector(), 3)[1][1].random(4))
