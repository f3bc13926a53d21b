"""First steps of a policy that shapes doses: it learns to do what a lookahead does.

The teacher tries every request before it makes one, which no agent may; it teaches on training
patients alone. States are those that it comes to, some of them after a random request, so that
the policy also learns from plans that the teacher would not have made.
"""

from dataclasses import dataclass

import numpy as np
from stable_baselines3 import PPO

from agents.environments import AnyEnvironment
from agents.rl.cloning import clone, stacked
from ptenv.envs.dose_shaping import DoseShapingEnv
from ptenv.envs.dose_shaping_actions import asked, masks


@dataclass(frozen=True)
class LookaheadImitation:
    """``n_episodes`` of the teacher, each on a patient and a weighting drawn by seed, then
    ``epochs`` over what it did. It stops where no request gains ``least_gain`` of the score;
    ``noise`` is the share of its requests that are replaced by random ones when they are made.
    """

    n_episodes: int = 192
    most_requests: int = 10
    least_gain: float = 0.005
    noise: float = 0.15
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3

    def __post_init__(self):
        for name in ("n_episodes", "most_requests", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0.0 <= self.noise < 1.0:
            raise ValueError(f"noise={self.noise} must lie in 0 … 1, 1 excluded.")
        if not (self.learning_rate > 0 and self.least_gain >= 0):
            raise ValueError(
                f"learning_rate={self.learning_rate} must be positive, least_gain="
                f"{self.least_gain} 0 or more."
            )

    def teach(self, model: PPO, environment: AnyEnvironment, seed: int) -> list[float]:
        """Fit the model's policy; returns the loss (mean −log π of the teacher) of every epoch."""
        seen, done = self._played(environment, seed)
        return clone(
            model.policy, seen, done, seed, epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )  # fmt: skip

    def _played(self, environment: AnyEnvironment, seed: int):
        """Observations and the teacher's actions (n,)."""
        env: DoseShapingEnv = environment.make_for_training().unwrapped
        if env.kind == "point":
            raise ValueError("imitation needs single choices; env.action must not be 'point'.")
        rng, observations, actions = np.random.default_rng(seed), [], []
        for episode in range(self.n_episodes):
            observation, _ = env.reset(seed=seed + episode)
            for _ in range(self.most_requests):
                best = self.best(env)
                observations.append(observation)
                actions.append(best)
                if best == env.action_space.n - 1:
                    break
                if rng.random() < self.noise:
                    best = int(rng.choice(np.flatnonzero(env.action_masks()[:-1])))
                observation, *_ = env.step(best)
        return stacked(observations), np.array(actions)

    def best(self, env: DoseShapingEnv) -> int:
        """The request that scores the most, or to stop where none gains."""
        state, task = env.state, env.task
        tried = np.flatnonzero(masks(env.kind, state.worst, state.spots)[:-1])
        scores = [
            task.transition(
                state, asked(env.kind, n, state.case, state.dose_gy, state.worst, state.spots).wish
            ).score
            for n in tried
        ]
        if not scores or max(scores) < state.score + self.least_gain:
            return int(env.action_space.n - 1)
        return int(tried[int(np.argmax(scores))])

