"""One weighting of a case's goals: its objective, and which voxel violates it where the most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from engine.optimization.objectives import BELOW
from engine.optimization.problem import PlanningProblem
from ptenv.cases.case import GROUPS
from ptenv.cases.planned import GLAND, OPTIC, SERIAL

TARGET_GROUPS = GROUPS[:2]
COLD_SHARE, HOT_SHARE = 0.97, 1.07  # of a target's level; 107 % after ICRU Report 50 (1993)
# what a request can push: too little in the highest or another target, too much anywhere
KINDS = (
    ("target_high", "cold"), ("target_low", "cold"), ("target_high", "hot"), ("target_low", "hot"),
    ("serial", "hot"), ("optic", "hot"), ("gland", "hot"), ("other", "hot"), ("ring", "hot"),
)  # fmt: skip


class Terms(NamedTuple):
    """One-sided squares of one kind: rows (n,), level (n,) in Gy (RBE), weight (n,), side."""

    rows: np.ndarray
    level_gy: np.ndarray
    weight: np.ndarray
    side: float

    def excess(self, dose_gy: np.ndarray) -> np.ndarray:
        """How far every row is on the wrong side, (n,) Gy, 0 or more."""
        return np.maximum(self.side * (dose_gy[self.rows] - self.level_gy), np.float32(0.0))


class Worst(NamedTuple):
    """The row that a kind penalizes most, the level it should have, and its excess in Gy."""

    row: int
    level_gy: float
    excess_gy: float


@dataclass(frozen=True, eq=False)
class WeightedGoals:
    """Objectives of a case under one weighting; ``multiplier`` (n_groups,) in GROUPS' order."""

    multiplier: np.ndarray
    problem: PlanningProblem
    highest: str  # target with the highest prescription

    @classmethod
    def of(cls, problem: PlanningProblem, multiplier: np.ndarray, highest: str) -> "WeightedGoals":
        """``problem`` with every objective's weight times its group's multiplier."""
        multiplier = np.asarray(multiplier, np.float64)
        objectives = [
            replace(o, weight=o.weight * float(multiplier[group_of(o.structure, highest)]))
            for o in problem.objectives
        ]
        return cls(multiplier, replace(problem, objectives=objectives), highest)

    @cached_property
    def terms(self) -> tuple[tuple[Terms, ...], ...]:
        """The squares of every kind, in the order of KINDS."""
        found: list[list[Terms]] = [[] for _ in KINDS]
        for objective in self.problem.objectives:
            region = self.problem.structures[objective.structure]
            group = GROUPS[group_of(objective.structure, self.highest)]
            for term in objective.terms(region.volume, region.distance_mm):
                kind = KINDS.index((group, "cold" if term.side == BELOW else "hot"))
                found[kind].append(Terms(
                    region.rows.astype(np.int64), np.asarray(term.level_gy, np.float32),
                    (objective.weight * term.weight).astype(np.float32), term.side,
                ))  # fmt: skip
        return tuple(tuple(terms) for terms in found)

    def shares(self, dose_gy: np.ndarray) -> np.ndarray:
        """Each kind's part of the objective, (n_kinds,), of a dose (n_rows,) in Gy (RBE)."""
        return np.array([
            sum(float(np.sum(t.weight * np.square(t.excess(dose_gy)), dtype=np.float64))
                for t in terms)
            for terms in self.terms
        ])  # fmt: skip

    def worst(self, kind: int, dose_gy: np.ndarray) -> Worst | None:
        """The worst violation of a kind; None where there is none."""
        best, found = 0.0, None
        for t in self.terms[kind]:
            excess = t.excess(dose_gy)
            penalty = t.weight * np.square(excess)
            at = int(np.argmax(penalty))
            if penalty[at] > best:
                best = float(penalty[at])
                found = Worst(int(t.rows[at]), float(t.level_gy[at]), float(excess[at]))
        return found

    def penalty(self, dose_gy: np.ndarray) -> np.ndarray:
        """Each row's part of the objective, (n_rows,) float32."""
        return self.problem.penalty_by_row(dose_gy / np.float32(self.problem.quantity.scale))[0]

    def level_of(self, row: int, dose_gy: np.ndarray) -> Worst | None:
        """What the heaviest violated square of one row wants of it."""
        best, found = 0.0, None
        for terms in self.terms:
            for t in terms:
                at = int(np.searchsorted(t.rows, row))
                if at == len(t.rows) or t.rows[at] != row:
                    continue
                excess = float(max(0.0, t.side * (dose_gy[row] - t.level_gy[at])))
                if t.weight[at] * excess**2 > best:
                    best = float(t.weight[at] * excess**2)
                    found = Worst(row, float(t.level_gy[at]), excess)
        return found

    @cached_property
    def bands(self) -> tuple[np.ndarray, np.ndarray]:
        """What recovery keeps: floor and ceiling (n_rows,) float32 in Gy of one fraction.

        Targets from 97 to 107 % of their level, all else up to its level; −inf and 0 where the
        goals are silent. Where structures overlap the stricter ceiling counts.
        """
        n_rows, scale = self.problem.influence.n_rows, self.problem.quantity.scale
        floor = np.full(n_rows, -np.inf, np.float32)
        ceiling = np.full(n_rows, np.inf, np.float32)
        for (group, side), terms in zip(KINDS, self.terms):
            share = HOT_SHARE if group in TARGET_GROUPS else 1.0
            for t in terms:
                if side == "cold":
                    floor[t.rows] = np.maximum(floor[t.rows], COLD_SHARE * t.level_gy / scale)
                else:
                    ceiling[t.rows] = np.minimum(ceiling[t.rows], share * t.level_gy / scale)
        return floor, np.where(np.isinf(ceiling), np.float32(0.0), ceiling)

    def value(self, dose_gy: np.ndarray) -> float:
        """F of a dose (n_rows,) in Gy (RBE)."""
        return self.problem.value_of_dose(dose_gy / np.float32(self.problem.quantity.scale))


def group_of(structure: str, highest: str) -> int:
    """Index into GROUPS of an objective's structure."""
    if structure == highest:
        return 0
    for names, group in ((SERIAL, "serial"), (OPTIC, "optic"), (GLAND, "gland")):
        if structure.startswith(names):
            return GROUPS.index(group)
    if structure.endswith("-Higher"):
        return GROUPS.index("target_low")
    return GROUPS.index("ring" if structure.startswith("zRing") else "other")


def drawn_multipliers(seed: Sequence[int], n: int, decades: float) -> np.ndarray:
    """``n`` weightings (n, n_groups): 10^x with x uniform within ± ``decades``."""
    rng = np.random.default_rng(seed)
    return 10.0 ** rng.uniform(-decades, decades, (n, len(GROUPS)))
