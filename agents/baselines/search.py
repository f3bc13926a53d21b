"""Privileged search: the best single round for one case and budget, with the true score as goal.

No agent may do this; it tells how much there is to gain. Where work is left after the round, the
plan is kept as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, log10
from typing import Protocol

import numpy as np

from agents.baselines.voxel_mask import BALANCE, RING, fill
from agents.environments import AnyEnvironment, Environment
from agents.rl.first_policy import FirstPolicy
from engine.optimization.solvers import LBFGSB
from ptenv.envs.voxel_mask import State, VoxelMaskTask
from ptenv.envs.voxel_mask_actions import MOST, ActionDecoder, RoundChoice

CONVERGED_EVALUATIONS = 400
SURFACE_MM = 3.0
LEAST_PULL = 1e-3  # of the mean: rows that pull on nothing are not lost altogether

Choose = Callable[[np.ndarray, State, np.random.Generator], RoundChoice]


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    ``scores`` (n_final,) are of the round found, on fresh draws of the rows; ``best_plan`` is the
    best score among all the ``n_plans`` plans that were made.
    """

    kind: str
    action: np.ndarray
    scores: np.ndarray
    best_plan: float
    n_plans: int

    def as_dict(self) -> dict:
        """Plain numbers; ``from_dict`` makes the same of them."""
        plain = {"action": self.action.tolist(), "dtype": self.action.dtype.name}
        return {**vars(self), **plain, "scores": self.scores.tolist()}

    @classmethod
    def from_dict(cls, plain: dict) -> "Found":
        plain = dict(plain)
        action = np.array(plain.pop("action"), plain.pop("dtype"))
        return cls(**{**plain, "action": action, "scores": np.array(plain["scores"])})


class Search(Protocol):
    """Looks for the best action of a case and a budget, with the true score as its goal."""

    def search(self, environment: AnyEnvironment, case: str, budget: float) -> Found: ...


@dataclass(frozen=True)
class CrossEntropySearch:
    """Cross-entropy method (Rubinstein 1999) over the round's parameters, −1 … 1.

    "field" and "shells" search the agents' actions, from ``first``; "mask" searches row by row
    sampling with what only the search knows: how much each row pulls on the converged plan. For
    each kind ``iterations`` × ``population`` plans, with a standard deviation of ``spread`` at
    first; the best quarter moves mean and deviation.
    """

    first: FirstPolicy
    kinds: tuple[str, ...] = ("field", "shells", "mask")
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
        unknown = sorted(set(self.kinds) - {"field", "shells", "mask"})
        if unknown or not self.kinds:
            raise ValueError(f"kinds={self.kinds}: choose from field, shells and mask.")

    def search(self, environment: Environment, case: str, budget: float) -> Found:
        """The best of the kinds, by its scores on fresh draws."""
        env = environment.make(case=case, budget=budget)
        env.reset(seed=self.seed)
        state = env.unwrapped.state
        found = [self._search(state, kind, env.unwrapped.task.oneshot) for kind in self.kinds]
        best = max(found, key=lambda f: f.scores.mean())
        return replace(
            best, best_plan=max(f.best_plan for f in found), n_plans=sum(f.n_plans for f in found)
        )

    def _search(self, state: State, kind: str, oneshot: bool) -> Found:
        choose, mean = self._family(state, kind, oneshot)
        task, rng = VoxelMaskTask(oneshot), np.random.default_rng(self.seed)

        def played(parameters: np.ndarray) -> State:
            return task.transition(state, choose(parameters, state, rng), rng)

        deviation, best = np.full(len(mean), self.spread), -np.inf
        n_elite = max(2, ceil(self.elite * self.population))
        for _ in range(self.iterations):
            tried = mean + deviation * rng.standard_normal((self.population, len(mean)))
            tried = np.clip(tried, -1.0, 1.0).astype(np.float32)
            plans = [played(parameters) for parameters in tried]
            best = max(best, *(plan.score for plan in plans))
            order = np.argsort([-plan.raw_score for plan in plans], kind="stable")
            elite = tried[order[:n_elite]]
            mean = (1 - self.step) * mean + self.step * elite.mean(axis=0)
            deviation = (1 - self.step) * deviation + self.step * elite.std(axis=0)
        parameters = np.clip(mean, -1.0, 1.0).astype(np.float32)
        scores = np.array([played(parameters).score for _ in range(self.n_final)])
        n_plans = self.population * self.iterations + self.n_final
        return Found(kind, parameters, scores, max(best, scores.max()), n_plans)

    def _family(self, state: State, kind: str, oneshot: bool) -> tuple[Choose, np.ndarray]:
        """From parameters to a round, and the parameters to begin with."""
        if kind == "mask":
            return _mask_family(state)
        decoder = ActionDecoder(kind, oneshot, 1, MOST)
        first = self.first.action(kind, decoder.space.shape[0])
        return lambda a, s, rng: decoder.decode(a, s.case, s.signals, rng), first


def _mask_family(state: State) -> tuple[Choose, np.ndarray]:
    """Log keep-rates are sums of row features with searched factors; the last sets evaluations,
    of one-shot ids too: ``mask_evaluations`` is any agent's to choose."""
    features = _row_features(state)
    drawn = state.case.candidates

    def choose(parameters: np.ndarray, state: State, rng: np.random.Generator) -> RoundChoice:
        rates = np.where(drawn, np.exp(features @ parameters[:-1].astype(np.float64)), 0.0)
        n = max(2, round(MOST ** (0.5 * (1.0 + float(parameters[-1])))))
        mask = np.zeros(len(rates), bool)
        mask[fill(rates, state.case, state.work_left // n, state.case.thresholds(rng))] = True
        return RoundChoice(mask, n, 1.0, False)

    evaluations = 2.0 * log10(max(2.0, BALANCE * state.budget**0.5)) / log10(MOST) - 1.0
    return choose, np.array([0.5, 0.0, 0.0, 0.0, 0.0, evaluations], np.float32)


def _row_features(state: State) -> np.ndarray:
    """(n_rows, 5): log pull at the start, at the converged plan; organ, ring; near a surface."""
    case = state.case
    solver = LBFGSB(max_evaluations=CONVERGED_EVALUATIONS, tolerance=1e-6)
    converged = solver.solve(case.problem, state.weights).weights
    _, slope = case.problem.penalty_by_row(case.problem.fraction_dose(converged))
    return np.stack(
        [
            np.log(state.pull + LEAST_PULL),
            np.log(replace(state, row_slope=slope).pull + LEAST_PULL),
            2.0 * ((case.group >= 2) & (case.group < RING)), 2.0 * (case.group == RING),
            2.0 * np.exp(-case.depth_mm.astype(np.float64) / SURFACE_MM),
        ],
        axis=1,
    )  # fmt: skip
