"""An algorithm of stable-baselines3 with the policy that it starts from."""

from collections.abc import Callable
from dataclasses import dataclass
from math import atanh
from typing import Protocol

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.environments import AnyEnvironment
from agents.rl.first_policy import FirstPolicy

RATE_ACTIONS = ("field", "shells")


class AnyLearner(Protocol):
    """Makes the model that a training run begins with."""

    normalize_reward: bool
    gamma: float

    def new_model(self, venv: VecEnv, environment: AnyEnvironment, seed: int) -> BaseAlgorithm: ...


class Teacher(Protocol):
    """Fits an untrained model's policy to what it does itself; returns the losses."""

    def teach(self, model, environment: AnyEnvironment, seed: int) -> list[float]: ...


@dataclass(frozen=True)
class Learner:
    """``algorithm(env=…, seed=…)`` makes a stable-baselines3 model, which starts at ``first``."""

    algorithm: Callable[..., BaseAlgorithm]
    first: FirstPolicy | None = None  # of environments that choose keep-rates of voxels
    imitation: Teacher | None = None  # first steps after a teacher
    normalize_reward: bool = True
    gamma: float = 1.0  # of the reward's running spread; the algorithm's own

    def new_model(self, venv: VecEnv, environment: AnyEnvironment, seed: int) -> BaseAlgorithm:
        settings = _merged(self.algorithm, environment.policy_settings())
        try:
            model = self.algorithm(env=venv, seed=seed, **settings)
        except AssertionError as error:  # how the algorithms refuse a kind of actions
            raise ValueError(
                f"this agent cannot take the actions {venv.action_space} of {environment.id}; "
                f"choose another agent or env.action ({' '.join(str(error).split())})."
            ) from None
        if self.first is not None and environment.action in RATE_ACTIONS:
            start_at(model, self.first.action(environment.action, venv.action_space.shape[0]))
        if self.imitation is not None:
            self.imitation.teach(model, environment, seed)
        return model


def _merged(algorithm: Callable, settings: dict) -> dict:
    """The environment's settings, with the algorithm's own policy_kwargs beside its."""
    own = getattr(algorithm, "keywords", {}).get("policy_kwargs", {})
    extra = settings.get("policy_kwargs")
    return settings if extra is None else {**settings, "policy_kwargs": {**own, **extra}}


def start_at(model: BaseAlgorithm, action: np.ndarray) -> None:
    """Set the bias of the layer that gives the mean action (of SAC: before its tanh)."""
    if isinstance(model, SAC):
        action = np.array([atanh(float(a)) for a in np.clip(action, -0.9, 0.9)], np.float32)
        layer = model.actor.mu
    else:
        layer = model.policy.action_net
    with torch.no_grad():
        layer.bias.copy_(torch.from_numpy(action))
