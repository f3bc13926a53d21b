"""Train an agent in parallel environments, with checkpoints that a killed run goes on from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from agents.environments import AnyEnvironment
from agents.rl.checkpoints import (
    last_checkpoint,
    normalized,
    resumed,
    save_checkpoint,
    steps_of,
)  # fmt: skip
from agents.rl.curve import CurveRecorder
from agents.rl.learner import AnyLearner
from agents.rl.trained import is_finite
from engine.parallel import set_threads


@dataclass(frozen=True)
class Schedule:
    """How long and in how many environments; ``processes`` False keeps them all in this one."""

    n_steps: int = 30_000
    n_envs: int = 4
    processes: bool = True
    checkpoint_every: int = 4096
    curve_every: int = 512

    def __post_init__(self):
        for name in ("n_steps", "n_envs", "checkpoint_every", "curve_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")


def train(
    learner: AnyLearner,
    environment: AnyEnvironment,
    schedule: Schedule,
    folder: Path,
    seed: int,
    logger: Callable[[Path, int], Logger],
    progress: Callable[[int, float | None], None] = lambda n_steps, score: None,
) -> BaseAlgorithm:
    """The trained model. A checkpoint in ``folder/checkpoints`` is gone on from.

    The same seed gives the same weights. In processes rewards are not rounded to float32, which
    changes them a little; a run that was resumed starts new episodes and differs, too.
    """
    torch.set_num_threads(1)  # the nets are small, and the environments use the cores
    checkpoints = folder / "checkpoints"
    begun = last_checkpoint(checkpoints)
    done = steps_of(begun) if begun else 0
    venv = normalized_if(learner, vectorized(environment, schedule, seed + done), begun)
    try:
        model = resumed(begun, venv) if begun else learner.new_model(venv, environment, seed)
        progress(done, None)
        if done < schedule.n_steps:
            log = logger(folder / "log", done)
            _learn(model, venv, environment, schedule, folder, log, progress)
    finally:
        venv.close()
    if not is_finite(model):
        raise FloatingPointError("training ended with weights that are no numbers; lower its rate.")
    return model


def vectorized(environment: AnyEnvironment, schedule: Schedule, seed: int) -> VecEnv:
    """``n_envs`` training environments, each in a process of its own or all in this one."""
    make = partial(_monitored, environment, schedule.processes)
    makers = [make] * schedule.n_envs
    venv = SubprocVecEnv(makers) if schedule.processes else DummyVecEnv(makers)
    venv.seed(seed)
    return venv


def normalized_if(learner: AnyLearner, venv: VecEnv, checkpoint: Path | None) -> VecEnv:
    if not learner.normalize_reward:
        return venv
    return normalized(venv, checkpoint, learner.gamma)


def _monitored(environment: AnyEnvironment, own_process: bool) -> Monitor:
    if own_process:
        set_threads(1)
    return Monitor(environment.make_for_training(), info_keywords=environment.judge.episode_figures)


def _learn(model, venv, environment, schedule, folder, log: Logger, progress) -> None:
    model.set_logger(log)
    keep = partial(save_checkpoint, folder / "checkpoints", model, venv,
                   environment.learner_settings())  # fmt: skip
    callbacks = CallbackList([
        CurveRecorder(
            folder / "learning_curve.csv", schedule.curve_every, environment.judge.episode_figures
        ),
        _Checkpoints(keep, schedule.checkpoint_every),
        _Progress(progress),
    ])  # fmt: skip
    left = schedule.n_steps - model.num_timesteps
    try:
        model.learn(left, callback=callbacks, reset_num_timesteps=False)
    finally:  # also after an interrupt
        if model.num_timesteps > 0 and is_finite(model):
            keep()
        log.close()


class _Checkpoints(BaseCallback):
    """Saves between rollouts, when the last update is in."""

    def __init__(self, keep: Callable[[], Path], every: int):
        super().__init__()
        self.keep, self.every, self.saved_at = keep, every, 0

    def _on_training_start(self) -> None:
        self.saved_at = self.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.num_timesteps - self.saved_at >= self.every:
            self.keep()
            self.saved_at = self.num_timesteps

    def _on_step(self) -> bool:
        return True


class _Progress(BaseCallback):
    """Tells steps and the mean score of the last episodes."""

    def __init__(self, progress: Callable[[int, float | None], None]):
        super().__init__()
        self.progress = progress

    def _on_step(self) -> bool:
        recent = [e["score"] for e in self.model.ep_info_buffer if e["score"] == e["score"]]
        self.progress(self.num_timesteps, sum(recent) / len(recent) if recent else None)
        return True
