"""Training: it repeats, it goes on after a stop, and what it leaves can play."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC

from agents.rl.checkpoints import last_checkpoint, steps_of
from agents.rl.curve import ALWAYS, read_curve, write_curve
from agents.rl.first_policy import FirstPolicy
from agents.rl.learner import Learner
from agents.rl.loggers import csv_logger
from agents.rl.trained import TrainedAgent, save_agent
from agents.rl.training import Schedule, train, vectorized

PPO_TINY = partial(PPO, policy="MlpPolicy", n_steps=32, batch_size=32, n_epochs=2, device="cpu")
LEARNER = Learner(PPO_TINY, FirstPolicy())
SCHEDULE = Schedule(n_steps=64, n_envs=1, processes=False, checkpoint_every=32, curve_every=16)


def _weights(model) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])


def test_the_same_seed_trains_the_same_agent(environment, tmp_path):
    models = [
        train(LEARNER, environment, SCHEDULE, tmp_path / name, 5, csv_logger) for name in "ab"
    ]
    assert np.array_equal(_weights(models[0]), _weights(models[1]))


def test_environments_in_processes_play_the_same_episodes(environment):
    played = []
    for processes in (False, True):
        schedule = replace(SCHEDULE, n_envs=2, processes=processes)
        venv, rng = vectorized(environment, schedule, seed=5), np.random.default_rng(0)
        seen, shape = [venv.reset()], (2, *venv.action_space.shape)
        for _ in range(10):
            observation, reward, done, _ = venv.step(rng.uniform(-1, 1, shape).astype("f4"))
            seen += [observation, reward.astype(np.float32), done]  # float32 in one of them
        venv.close()
        played.append(seen)
    assert all(np.array_equal(a, b) for a, b in zip(*played, strict=True))


def test_a_run_goes_on_from_its_last_checkpoint(environment, tmp_path):
    train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    assert steps_of(last_checkpoint(tmp_path / "checkpoints")) == 64
    told = []
    model = train(LEARNER, environment, replace(SCHEDULE, n_steps=128), tmp_path, 0, csv_logger,
                  lambda n, score: told.append(n))  # fmt: skip
    assert told[0] == 64
    assert model.num_timesteps == 128
    assert {p.name for p in (tmp_path / "log").iterdir()} == {
        "progress_0000000.csv", "progress_0000064.csv"
    }  # fmt: skip
    steps = [line["n_steps"] for line in read_curve(tmp_path / "learning_curve.csv")]
    assert steps == sorted(steps)
    assert steps[-1] > 64


def test_an_interrupt_leaves_a_checkpoint(environment, tmp_path):
    def stop(n_steps, score):
        if n_steps >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger, stop)
    assert steps_of(last_checkpoint(tmp_path / "checkpoints")) == 40


def test_a_finished_run_is_not_trained_again(environment, tmp_path):
    first = train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    again = train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    assert np.array_equal(_weights(first), _weights(again))


def test_a_half_written_checkpoint_is_passed_over(environment, tmp_path):
    train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    (tmp_path / "checkpoints" / "step_000000999").mkdir()
    assert steps_of(last_checkpoint(tmp_path / "checkpoints")) == 64


def test_soft_actor_critic_trains_and_keeps_its_replay_buffer(environment, tmp_path):
    sac = partial(SAC, policy="MlpPolicy", learning_starts=16, batch_size=16, buffer_size=500,
                  device="cpu")  # fmt: skip
    learner = Learner(sac, FirstPolicy(), normalize_reward=False)
    train(learner, environment, replace(SCHEDULE, n_steps=40), tmp_path, 0, csv_logger)
    model = train(learner, environment, SCHEDULE, tmp_path, 0, csv_logger)
    assert model.num_timesteps == 64
    assert model.replay_buffer.size() == 64


def test_a_saved_agent_plays_like_the_model(environment, tmp_path):
    model = train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    save_agent(model, tmp_path / "agent", environment.learner_settings())
    agent = TrainedAgent(str(tmp_path))
    env = environment.make(case="head-and-neck-00001", **agent.settings(0.1))
    observation, _ = env.reset(seed=0)
    action, _ = agent.bind(env).predict(observation, deterministic=True)
    assert np.array_equal(action, model.predict(observation, deterministic=True)[0])
    assert env.action_space.contains(action)


def test_the_untrained_policy_starts_at_the_first_action(environment):
    venv = vectorized(environment, SCHEDULE, 0)
    fresh = LEARNER.new_model(venv, environment, 0)
    bias = fresh.policy.action_net.bias.detach().numpy()
    assert np.array_equal(bias, FirstPolicy().action("field", len(bias)))


def test_a_folder_without_an_agent_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="ptenv train"):
        TrainedAgent(str(tmp_path))


def test_a_curve_without_its_last_half_line_is_read(tmp_path):
    path = tmp_path / "curve.csv"
    fields = (*ALWAYS, "score")
    line = dict.fromkeys(fields, 1.0)
    write_curve(path, [line], fields)
    with path.open("a") as file:
        file.write("2,3,0.")
    assert read_curve(path) == [line]


def test_training_uses_one_torch_thread(environment, tmp_path):
    train(LEARNER, environment, SCHEDULE, tmp_path, 0, csv_logger)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"n_envs": 0}])
def test_a_schedule_without_steps_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Schedule(**wrong)
