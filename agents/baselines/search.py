"""Privileged search: the best action for one case and budget, with the true score as objective.

No agent may do this; it tells how much there is to gain.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from agents.environments import Environment
from agents.rl.first_policy import FirstPolicy


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    ``scores`` (n_final,) are of the action found, on fresh draws of the rows; ``best_plan`` is the
    best score among all the ``n_plans`` plans that were made.
    """

    kind: str
    action: np.ndarray
    scores: np.ndarray
    best_plan: float
    n_plans: int


@dataclass(frozen=True)
class CrossEntropySearch:
    """Cross-entropy method (Rubinstein 1999) over one action that every round repeats.

    For each action kind ``iterations`` × ``population`` plans, from ``first`` with a standard
    deviation of ``spread`` in every component; the best quarter moves mean and deviation.
    """

    first: FirstPolicy
    kinds: tuple[str, ...] = ("field", "shells")
    population: int = 32
    iterations: int = 10
    spread: float = 0.4
    elite: float = 0.25
    step: float = 0.7
    n_final: int = 10
    seed: int = 0

    def __post_init__(self):
        for name in ("population", "iterations", "n_final"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.elite <= 1:
            raise ValueError(f"elite={self.elite} must lie in (0, 1].")

    def search(self, environment: Environment, case: str, budget: float) -> Found:
        """The better of the kinds, by its scores on fresh draws."""
        found = [self._search(environment, case, budget, kind) for kind in self.kinds]
        best = max(found, key=lambda f: f.scores.mean())
        return Found(
            best.kind, best.action, best.scores, max(f.best_plan for f in found),
            sum(f.n_plans for f in found),
        )  # fmt: skip

    def _search(self, environment: Environment, case: str, budget: float, kind: str) -> Found:
        env = environment.make(case=case, budget=budget, action=kind)
        rng, size = np.random.default_rng(self.seed), env.action_space.shape[0]
        mean, deviation = self.first.action(kind, size), np.full(size, self.spread)
        n_elite, best = max(2, ceil(self.elite * self.population)), -np.inf
        for _ in range(self.iterations):
            tried = mean + deviation * rng.standard_normal((self.population, size))
            tried = np.clip(tried, -1.0, 1.0).astype(np.float32)
            outcomes = [_play(env, action, int(rng.integers(2**31))) for action in tried]
            raw = np.array([o["raw_score"] for o in outcomes])
            best = max(best, *(o["score"] for o in outcomes))
            elite = tried[np.argsort(-raw, kind="stable")[:n_elite]]
            mean = (1 - self.step) * mean + self.step * elite.mean(axis=0)
            deviation = (1 - self.step) * deviation + self.step * elite.std(axis=0)
        action = np.clip(mean, -1.0, 1.0).astype(np.float32)
        fresh = [_play(env, action, int(rng.integers(2**31))) for _ in range(self.n_final)]
        scores = np.array([o["score"] for o in fresh])
        return Found(kind, action, scores, max(best, scores.max()),
                     self.population * self.iterations + self.n_final)  # fmt: skip


def _play(env, action: np.ndarray, seed: int) -> dict:
    """The last ``info`` of an episode that repeats one action."""
    env.reset(seed=seed)
    done = False
    while not done:
        _, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    return info
