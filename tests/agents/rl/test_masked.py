"""Masked agents on arcs: one head for all layers, imitation, training that resumes."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO

from agents.baselines.energy_layer import LayerBaseline
from agents.baselines.layer_rules import Sawtooth
from agents.environments import Environment
from agents.nets.layer_plane import PlaneExtractor, from_here
from agents.rl.learner import Learner
from agents.rl.loggers import csv_logger
from agents.rl.masked import Imitation, LayerPolicy, MaskedLearner
from agents.rl.training import Schedule, train, vectorized
from agents.trained import trained_agent
from ptenv.envs.energy_layer_observations import HERE

ALGORITHM = partial(
    MaskablePPO, LayerPolicy, n_steps=24, batch_size=24, n_epochs=1, device="cpu",
    policy_kwargs={"features_extractor_kwargs": {"width": 4, "layer_features": 6}},
)  # fmt: skip
LEARNER = MaskedLearner(ALGORITHM)
SCHEDULE = Schedule(n_steps=96, n_envs=2, processes=False, checkpoint_every=48, curve_every=24)


def test_the_plane_is_seen_from_the_present_angle():
    plane = torch.zeros(1, 9, 5, 3)
    plane[0, HERE, 2] = 1.0
    plane[0, 0] = torch.arange(5.0)[:, None]
    turned = from_here(plane)
    assert turned[0, 0, :, 0].tolist() == [2, 3, 4, 0, 1]


def test_features_turn_with_the_arc(arc_environment):
    env = arc_environment().make(terminal="proxy", limit=1.5)
    observation, _ = env.reset(seed=0)
    extractor = PlaneExtractor(env.observation_space, width=4, layer_features=6).eval()
    tensors = {k: torch.from_numpy(v)[None] for k, v in observation.items()}
    turned = {**tensors, "plane": tensors["plane"].roll(4, 2)}
    torch.testing.assert_close(extractor(turned), extractor(tensors), atol=1e-5, rtol=1e-5)


def test_a_model_trains_is_kept_and_plays_by_its_masks(arc_environment, tmp_path):
    environment = arc_environment()
    model = train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    assert model.num_timesteps >= 96
    from agents.rl.trained import save_agent

    save_agent(model, tmp_path / "agent", environment.learner_settings())
    env = environment.make(limit=1.5, terminal="proxy")
    agent = trained_agent(str(tmp_path)).bind(env, 0)
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        action, _ = agent.predict(observation)
        observation, _, over, _, info = env.step(int(action))
        assert not info["invalid_action"]


def test_a_stopped_run_goes_on(arc_environment, tmp_path):
    environment = arc_environment()
    train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    longer = Schedule(n_steps=144, n_envs=2, processes=False, checkpoint_every=48, curve_every=24)
    model = train(LEARNER, environment, longer, tmp_path, 0, csv_logger)
    assert model.num_timesteps >= 144


def test_the_same_seed_gives_the_same_weights(arc_environment, tmp_path):
    models = [
        train(LEARNER, arc_environment(), SCHEDULE, tmp_path / str(i), 3, csv_logger)
        for i in range(2)
    ]
    for a, b in zip(*(m.policy.parameters() for m in models)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_policy_learns_to_do_what_its_teacher_does(arc_environment):
    environment = arc_environment()
    venv = vectorized(environment, SCHEDULE, 0)
    imitation = Imitation(LayerBaseline(Sawtooth()), n_episodes=6, epochs=60, learning_rate=3e-3)
    model = MaskedLearner(ALGORITHM).new_model(venv, environment, 0)
    losses = imitation.teach(model, environment, 0)
    assert losses[-1] < 0.5 * losses[0]
    env = environment.make(limit=1.5, terminal="proxy")
    teacher = LayerBaseline(Sawtooth()).bind(env, 0)
    observation, _ = env.reset(seed=1)
    over, same = False, []
    while not over:
        wanted, _ = teacher.predict(observation)
        mask = env.unwrapped.action_masks()
        done, _ = model.predict(observation, deterministic=True, action_masks=mask)
        same.append(abs(int(done) - int(wanted)) <= 1)
        observation, _, over, _, _ = env.step(int(wanted))
    assert np.mean(same) > 0.5
    venv.close()


def test_agents_of_another_kind_of_action_are_refused(arc_environment):
    masks = vectorized(Environment("ptenv/VoxelMask-mini-v0"), SCHEDULE, 0)
    with pytest.raises(ValueError, match="env=energy_layer"):
        LEARNER.new_model(masks, Environment(), 0)
    layers = vectorized(arc_environment(), SCHEDULE, 0)
    with pytest.raises(ValueError, match="agent=maskable_ppo"):
        Learner(None, None).new_model(layers, arc_environment(), 0)
    assert isinstance(layers.action_space, gym.spaces.Discrete)


@pytest.mark.parametrize("settings", [{"n_episodes": 0}, {"epochs": 0}, {"learning_rate": 0.0}])
def test_imitations_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Imitation(None, **settings)
