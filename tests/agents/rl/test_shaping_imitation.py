"""A policy that begins by doing what a lookahead does."""

from functools import partial

import numpy as np
import pytest
from stable_baselines3 import PPO

from agents.environments import DoseShapingEnvironment
from agents.rl.learner import Learner
from agents.rl.shaping_imitation import LookaheadImitation
from agents.rl.training import Schedule, vectorized

RECIPE = {
    "ct_spacing_mm": 6.0, "dose_grid_mm": 6.0, "gantry_deg": (0.0, 90.0, 180.0, 270.0),
    "bixel_mm": 8.0, "reach_mm": 25.0, "n_goals": 2, "start_evaluations": 10,
    "converged_evaluations": 40, "direct_evaluations": 25, "quality_evaluations": 10,
}  # fmt: skip
TEACHER = LookaheadImitation(n_episodes=6, most_requests=3, epochs=40, batch_size=16)


@pytest.fixture(scope="module")
def environment():
    return DoseShapingEnvironment(recipe=RECIPE, n_patients=2)


def test_the_teacher_takes_the_request_that_scores_the_most_or_stops(environment):
    env = environment.make_for_training().unwrapped
    env.reset(seed=1)
    best = TEACHER.best(env)
    stop = env.action_space.n - 1
    before = env.state.score
    scores = {}
    for action in np.flatnonzero(env.action_masks()[:-1]):
        env.reset(seed=1)
        *_, info = env.step(int(action))
        scores[int(action)] = info["score"]
    if best == stop:
        assert max(scores.values()) < before + TEACHER.least_gain
    else:
        assert scores[best] == max(scores.values())


def test_the_policy_comes_to_do_what_it_was_taught(environment):
    venv = vectorized(environment, Schedule(n_envs=1, processes=False), 0)
    algorithm = partial(PPO, policy="MlpPolicy", n_steps=32, batch_size=32, device="cpu")
    model = Learner(algorithm, normalize_reward=False).new_model(venv, environment, 0)
    losses = TEACHER.teach(model, environment, 0)
    assert 0.0 < losses[-1] < 0.6 * losses[0]  # −log π, which is positive
    taught = Learner(algorithm, imitation=TEACHER, normalize_reward=False)
    again = taught.new_model(venv, environment, 0)
    for one, two in zip(model.policy.parameters(), again.policy.parameters()):
        np.testing.assert_array_equal(one.detach().numpy(), two.detach().numpy())


def test_places_cannot_be_imitated(environment):
    point = DoseShapingEnvironment(recipe=RECIPE, n_patients=1, action="point")
    with pytest.raises(ValueError, match="single choices"):
        TEACHER.teach(None, point, 0)


@pytest.mark.parametrize("settings", [
    dict(n_episodes=0), dict(noise=1.0), dict(learning_rate=0.0), dict(least_gain=-0.1),
])  # fmt: skip
def test_impossible_lessons_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LookaheadImitation(**settings)
