"""Voxel-mask baselines: fixed rules that choose rows, behind stable-baselines3's ``predict()``.

A baseline is bound to an environment and reads its state; apart from the random one it needs
``action="mask"``: the mask it draws is the action. It plans a number of rounds and fills each with
as many rows as the work allows, so that all of them spend the same. ``settings(budget)`` are the
arguments with which its environment is made.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil

import gymnasium as gym
import numpy as np

from agents.baselines.places import places_of
from engine.optimization.voxel_sampling import violation_rates
from ptenv.cases.case import GROUPS, Case
from ptenv.envs.voxel_mask import State

PAPER_EVALUATIONS = 100  # Quarz 2024 and the anchors: iterations of one optimization
BALANCE = 70.0  # evaluations of a balanced round at a budget of 100 %
RING = GROUPS.index("ring")
Rates = Callable[[State], np.ndarray]
Evaluations = Callable[[float], int]


@dataclass
class MaskBaseline:
    """Rows drawn with chances that follow ``rates``, in ``n_rounds`` rounds of equal work.

    ``rates(state)`` gives (n_rows,) relative keep-rates, 0 for rows that may not be drawn;
    ``evaluations(budget)`` those of one round. With ``fills=False`` rates are chances: every row is
    drawn by itself, and the work is spent or not. ``even``: rows lie evenly instead of by chance.
    """

    rates: Rates
    evaluations: Evaluations
    n_rounds: int = 1
    fills: bool = True
    even: bool = False
    _places: list["_Place"] = field(default_factory=list, init=False, repr=False)

    def settings(self, budget: float) -> dict:
        """Arguments of the environment that this baseline plays."""
        return {"action": "mask", "mask_evaluations": self.evaluations(budget)}

    def bind(self, env, seed: int = 0) -> "MaskBaseline":
        """Play ``env``, one environment or a DummyVecEnv; masks are drawn from ``seed``."""
        self._places = [_Place.of(*place) for place in places_of(env, seed)]
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        """Mask (max_rows,) int8 for one observation, (n_envs, max_rows) for a batch; and None."""
        if not self._places:
            raise RuntimeError("a baseline reads its environment: call bind(env) before predict.")
        masks = [self._mask(place) for place in self._places]
        return (np.stack(masks) if self._places[0].is_batch(observation) else masks[0]), None

    def _mask(self, place: "_Place") -> np.ndarray:
        seen = place.env.unwrapped.state
        n = self.evaluations(seen.budget)
        n_rounds = 1 if place.env.unwrapped.task.oneshot else self.n_rounds
        rounds_left = max(1, n_rounds - seen.round)
        room = int(seen.work_left / rounds_left / n)
        action = np.zeros(place.env.action_space.n, np.int8)
        rates = self.rates(seen)
        at = seen.case.thresholds(place.rng, self.even)
        chosen = fill(rates, seen.case, room, at) if self.fills else at < rates
        action[: len(rates)][chosen] = 1
        return action


@dataclass
class RandomActions:
    """Every action with the same chance, of the kind that agents use."""

    action: str = "field"
    _places: list["_Place"] = field(default_factory=list, init=False, repr=False)

    def settings(self, budget: float) -> dict:
        return {"action": self.action}

    def bind(self, env, seed: int = 0) -> "RandomActions":
        self._places = [_Place.of(*place) for place in places_of(env, seed)]
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        if not self._places:
            raise RuntimeError("the random baseline needs bind(env) before predict.")
        actions = [
            p.rng.uniform(-1.0, 1.0, p.env.action_space.shape).astype(np.float32)
            for p in self._places
        ]
        return (np.stack(actions) if self._places[0].is_batch(observation) else actions[0]), None


@dataclass(frozen=True, eq=False)
class _Place:
    """One environment and the generator that plays it."""

    env: gym.Env
    rng: np.random.Generator

    @classmethod
    def of(cls, env, rng: np.random.Generator) -> "_Place":
        if not isinstance(env, gym.Env) or not hasattr(env.unwrapped, "state"):
            raise TypeError(f"env={env!r} is no voxel-mask environment of this process.")
        return cls(env, rng)

    def is_batch(self, observation) -> bool:
        """Whether the observation has an axis more than the environment's own."""
        space = self.env.observation_space
        if isinstance(space, gym.spaces.Dict):
            name = next(iter(space.spaces))
            space, observation = space[name], observation[name]
        return np.ndim(observation) > len(space.shape)


def fill(rates: np.ndarray, case: Case, room: int, thresholds: np.ndarray) -> np.ndarray:
    """Rows, drawn one after another with chances like ``rates``, until ``room`` nonzeros are full.

    Sequential Poisson sampling (Ohlsson, J. Off. Stat. 14 (1998) 149) with ``Case.thresholds``. The
    first row of every structure comes first: one that stayed empty would get a voxel from the
    planner, at a price that was not planned.
    """
    rates = np.asarray(rates, np.float64)
    drawn = np.flatnonzero(rates > 0)
    order = drawn[np.argsort(thresholds[drawn] / rates[drawn])]
    first = _first_of_each_structure(order, case)
    order = np.concatenate([first, order[~np.isin(order, first)]]).astype(np.int64)
    return order[np.cumsum(case.row_nonzeros[order], dtype=np.int64) <= room]


def _first_of_each_structure(order: np.ndarray, case: Case) -> np.ndarray:
    place = np.full(case.influence.n_rows, len(order))
    place[order] = np.arange(len(order))
    asked = {o.structure for o in case.problem.objectives}
    rows = [case.problem.structures[name] for name in sorted(asked)]
    rows = [r.rows[r.volume > 0] for r in rows]
    return np.unique([r[np.argmin(place[r])] for r in rows])


# ------------------------------------------------------------------ the baselines by name


def keep_all() -> MaskBaseline:
    """All rows, stopped when the work is spent (what a last evaluation lacks is left out)."""
    return MaskBaseline(_all_rows, _affordable)


def uniform(evaluations: int | None = PAPER_EVALUATIONS) -> MaskBaseline:
    """Every candidate with the same chance: what scores 0 at 100 evaluations.

    ``evaluations=None``, here and below, spends the work on more rows and fewer evaluations:
    70 × √budget of them, which did best on training patients.
    """
    return MaskBaseline(_candidates, evaluations_of(evaluations))


def even(evaluations: int | None = PAPER_EVALUATIONS) -> MaskBaseline:
    """As many as ``uniform`` takes, spread evenly instead of drawn one by one."""
    return MaskBaseline(_candidates, evaluations_of(evaluations), even=True)


def shells(
    boundary_rate: float = 1.0,
    interior_rate: float = 1 / 8,
    width_mm: float = 2.0,
    evaluations: int | None = PAPER_EVALUATIONS,
) -> MaskBaseline:
    """Dense near the surfaces of targets and organs, sparse elsewhere: Quarz 2024's heuristic."""

    rates = partial(_by_shell, boundary_rate, interior_rate, width_mm)
    return MaskBaseline(rates, evaluations_of(evaluations))


def resampling(evaluations: int = 10, n_rounds: int = 8) -> MaskBaseline:
    """Uniform, drawn anew every 10 evaluations."""
    return MaskBaseline(_candidates, evaluations_of(evaluations), n_rounds)


def violation_driven(
    evaluations: int = 10, n_rounds: int = 8, exploration: float = 0.2, sharpness: float = 0.5
) -> MaskBaseline:
    """Drawn anew every 10 evaluations where the last plan violates the objectives."""

    follow = partial(_by_violation, exploration, sharpness)
    return MaskBaseline(follow, evaluations_of(evaluations), n_rounds)


def importance(
    evaluations: int | None = PAPER_EVALUATIONS, exploration: float = 0.2, sharpness: float = 0.5
) -> MaskBaseline:
    """Chosen once by the size of each voxel's part in the gradient of the first plan.

    |∂F/∂d_i| · Σ_j d_ij: how much the voxel pulls on the weights.
    """
    follow = partial(_by_importance, exploration, sharpness)
    return MaskBaseline(follow, evaluations_of(evaluations))


def without_organs(evaluations: int | None = PAPER_EVALUATIONS) -> MaskBaseline:
    """Targets and ring only: every organ row dropped."""

    return MaskBaseline(_targets_and_ring, evaluations_of(evaluations))


def _all_rows(state: State) -> np.ndarray:
    return np.ones(state.case.influence.n_rows)


def _candidates(state: State) -> np.ndarray:
    return state.case.candidates.astype(float)


def _targets_and_ring(state: State) -> np.ndarray:
    group = state.case.group
    return ((group < 2) | (group == RING)).astype(float)


def _by_shell(boundary_rate, interior_rate, width_mm: float, state: State) -> np.ndarray:
    case = state.case
    boundary = (case.group != RING) & (case.depth_mm <= width_mm)
    return np.where(boundary, boundary_rate, interior_rate) * case.candidates


def _by_violation(exploration: float, sharpness: float, state: State) -> np.ndarray:
    return _following(state.row_penalty, state.case, exploration, sharpness)


def _by_importance(exploration: float, sharpness: float, state: State) -> np.ndarray:
    return _following(state.pull, state.case, exploration, sharpness)


def _following(pull: np.ndarray, case: Case, exploration: float, sharpness: float) -> np.ndarray:
    """Relative rates of the candidates; a full draw keeps them below saturation."""
    rates = np.zeros(len(pull))
    at = np.flatnonzero(case.candidates)
    rates[at] = violation_rates(pull[at], 1.0 / max(len(at), 1), exploration, sharpness)
    return rates


def _affordable(budget: float) -> int:
    return max(1, ceil(PAPER_EVALUATIONS * budget - 1e-9))


def evaluations_of(evaluations: int | None) -> Evaluations:
    """Of a round: a number of them, or None: what balances them with rows at a budget."""
    if evaluations is None:
        return _balanced
    if not 2 <= evaluations <= PAPER_EVALUATIONS:
        raise ValueError(f"evaluations={evaluations} must lie in 2 … 100; the first only looks.")
    return partial(_constant, evaluations)


def _constant(evaluations: int, budget: float) -> int:
    return evaluations


def _balanced(budget: float) -> int:
    return max(2, round(BALANCE * budget**0.5))
