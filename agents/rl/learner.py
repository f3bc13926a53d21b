"""An algorithm of stable-baselines3 with the policy that it starts from."""

from collections.abc import Callable
from dataclasses import dataclass
from math import atanh, log10

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from ptenv.envs.voxel_mask_actions import DECADES, FIELD_FEATURES, FIELD_GAIN, MOST, ROLES


@dataclass(frozen=True)
class FirstPolicy:
    """What an untrained policy does on average, whatever it sees: a plain rule to improve on.

    ``keep_rate`` of every row, ``evaluations`` of a round, and its ``work_share`` of what is left
    (above 1: random actions around it mostly spend everything).
    """

    keep_rate: float = 0.6
    evaluations: float = 16.0
    work_share: float = 1.1

    def __post_init__(self):
        if not 0.001 <= self.keep_rate <= 1:
            raise ValueError(f"keep_rate={self.keep_rate} must lie in 0.001 … 1.")
        if not 1 <= self.evaluations <= MOST:
            raise ValueError(f"evaluations={self.evaluations} must lie in 1 … {MOST}.")
        if not 0 <= self.work_share <= 2:
            raise ValueError(f"work_share={self.work_share} must lie in 0 … 2.")

    def action(self, kind: str, size: int) -> np.ndarray:
        """The action (size,) that says this; one-shot actions hold the rates alone."""
        if kind == "shells":
            oneshot = size % 3 == 0  # groups × 3 shells, else two more
            rate = 1.0 + 2.0 * log10(self.keep_rate) / DECADES
            rates = np.full(size if oneshot else size - 2, rate)
        else:
            rates = np.zeros((len(ROLES), len(FIELD_FEATURES)))
            rates[:, 0] = (log10(self.keep_rate) + 1.0) / FIELD_GAIN
            rates = rates.ravel()
        round_ = [2.0 * log10(self.evaluations) / log10(MOST) - 1.0, 2.0 * self.work_share - 1.0]
        return np.concatenate([rates, round_])[:size].astype(np.float32)


@dataclass(frozen=True)
class Learner:
    """``algorithm(env=…, seed=…)`` makes a stable-baselines3 model, which starts at ``first``."""

    algorithm: Callable[..., BaseAlgorithm]
    first: FirstPolicy
    normalize_reward: bool = True
    gamma: float = 1.0  # of the reward's running spread; the algorithm's own

    def new_model(self, venv: VecEnv, action_kind: str, seed: int) -> BaseAlgorithm:
        model = self.algorithm(env=venv, seed=seed)
        start_at(model, self.first.action(action_kind, venv.action_space.shape[0]))
        return model


def start_at(model: BaseAlgorithm, action: np.ndarray) -> None:
    """Set the bias of the layer that gives the mean action (of SAC: before its tanh)."""
    if isinstance(model, SAC):
        action = np.array([atanh(float(a)) for a in np.clip(action, -0.9, 0.9)], np.float32)
        layer = model.actor.mu
    else:
        layer = model.policy.action_net
    with torch.no_grad():
        layer.bias.copy_(torch.from_numpy(action))
