"""Masked agents for energy layers: a policy that scores every layer alike, and its first steps."""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from agents.environments import AnyEnvironment
from agents.nets.layer_plane import LayerHead, PlaneExtractor, ValueHead
from agents.rl.cloning import clone, stacked
from ptenv.envs.energy_layer import nearest_allowed


class LayerPolicy(MaskableMultiInputActorCriticPolicy):
    """A ``PlaneExtractor`` with one head for all layers and one for the value."""

    def __init__(self, observation_space, action_space, lr_schedule, **settings):
        settings = {"features_extractor_class": PlaneExtractor, **settings, "net_arch": []}
        super().__init__(observation_space, action_space, lr_schedule, **settings)

    def _build(self, lr_schedule) -> None:
        super()._build(lr_schedule)
        extractor = self.features_extractor
        self.action_net = LayerHead(extractor.layer_features, extractor.n_layers)
        self.value_net = ValueHead(extractor.global_features)
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )


@dataclass(frozen=True)
class Imitation:
    """First steps of a policy: it learns to do what ``teacher`` does, in episodes without a plan.

    ``teacher`` plays like a baseline.
    """

    teacher: object
    n_episodes: int = 128
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self):
        for name in ("n_episodes", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")

    def teach(self, model: MaskablePPO, environment: AnyEnvironment, seed: int) -> list[float]:
        """Fit the model's policy; returns the loss (mean −log π of the teacher) of every epoch."""
        seen, done, allowed = self._played(environment, seed)
        return clone(
            model.policy, seen, done, seed, epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate, masks=allowed,
        )  # fmt: skip

    def _played(self, environment: AnyEnvironment, seed: int):
        """Observations, actions and masks (n, …) of the teacher's episodes."""
        env = environment.make(
            split="train", n_patients=environment.n_patients, limit=environment.limit,
            **{**self.teacher.settings(environment.limit), "terminal": "proxy"},
        )  # fmt: skip
        observations, actions, masks = [], [], []
        for episode in range(self.n_episodes):
            self.teacher.bind(env, seed + episode)
            observation, _ = env.reset(seed=seed + episode)
            finished = False
            while not finished:
                mask = env.unwrapped.action_masks()
                action, _ = self.teacher.predict(observation, deterministic=True)
                observations.append(observation)
                masks.append(mask)
                actions.append(nearest_allowed(mask, int(action))[0])
                observation, _, terminated, truncated, _ = env.step(int(action))
                finished = terminated or truncated
        env.close()
        return stacked(observations), np.array(actions), np.stack(masks)


@dataclass(frozen=True)
class MaskedLearner:
    """``algorithm(env=…, seed=…)`` makes a MaskablePPO, which may begin by ``imitation``."""

    algorithm: Callable[..., MaskablePPO]
    imitation: Imitation | None = None
    normalize_reward: bool = False
    gamma: float = 1.0  # of the reward's running spread; the algorithm's own

    def new_model(self, venv: VecEnv, environment: AnyEnvironment, seed: int) -> MaskablePPO:
        if not isinstance(venv.action_space, gym.spaces.Discrete):
            raise ValueError(
                f"{environment.id} has actions {venv.action_space}; MaskablePPO here wants the "
                "layers of env=energy_layer or env=energy_layer_mini."
            )
        model = self.algorithm(env=venv, seed=seed)
        if self.imitation is not None:
            self.imitation.teach(model, environment, seed)
        return model
