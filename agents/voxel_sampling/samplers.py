"""Samplers that learn nothing: which voxels of a case enter the optimization.

A sampler has ``rows(case, rng)``, bool (n_rows,). Those below have ``rates(case, rng, weights)``
besides, relative keep-rates (n_rows,), so that ``AtEqualWork`` can draw from them as many nonzeros
as another sampler keeps. A sampler with ``n_rounds`` is asked again with the ``weights`` of the
last round, (n_spots,) in particles per fraction; ``extra_work(case)`` is what choosing itself costs
in nonzeros touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from agents.voxel_sampling.study_problem import row_penalty, sampled_problem, voxels
from engine.optimization.solvers import LBFGSB
from engine.optimization.voxel_sampling import violation_rates
from ptenv.cases.case import Case


class Sampler(Protocol):
    """What a study asks of a sampler."""

    def rows(self, case: Case, rng: np.random.Generator) -> np.ndarray:
        """The chosen rows, bool (n_rows,); none of the ring."""


class _ByRates:
    """Rows kept with their rates: independently of each other, or evenly spread."""

    n_rounds = 1
    even = False

    def rows(self, case: Case, rng: np.random.Generator, weights=None) -> np.ndarray:
        rates = self.rates(case, rng, weights)
        return case.thresholds(rng, self.even) < rates

    def extra_work(self, case: Case) -> int:
        return 0


@dataclass(frozen=True)
class Shells(_ByRates):
    """Dense near the surfaces of targets and organs, sparse elsewhere: TRiP98's heuristic."""

    boundary_rate: float = 1.0
    interior_rate: float = 1 / 8
    width_mm: float = 2.0
    even: bool = False

    def rates(self, case: Case, rng, weights=None) -> np.ndarray:
        boundary = case.depth_mm <= self.width_mm
        return np.where(boundary, self.boundary_rate, self.interior_rate) * voxels(case)


@dataclass(frozen=True)
class Uniform(_ByRates):
    """Every voxel with the same chance: ``share`` of them, or ``n_rows`` exactly.

    ``even``: spread evenly instead of drawn one by one (``even_thresholds``).
    """

    share: float | None = 0.25
    n_rows: int | None = None
    even: bool = False

    def __post_init__(self):
        if (self.share is None) == (self.n_rows is None):
            raise ValueError(f"share={self.share}, n_rows={self.n_rows}: give one of them.")

    def rates(self, case: Case, rng, weights=None) -> np.ndarray:
        allowed = voxels(case)
        share = self.share if self.n_rows is None else self.n_rows / max(allowed.sum(), 1)
        return min(share, 1.0) * allowed

    def rows(self, case: Case, rng: np.random.Generator, weights=None) -> np.ndarray:
        if self.n_rows is None:
            return super().rows(case, rng, weights)
        allowed = np.flatnonzero(voxels(case))
        n, chosen = min(self.n_rows, len(allowed)), np.zeros(case.influence.n_rows, bool)
        order = np.argsort(case.thresholds(rng, self.even)[allowed])
        chosen[allowed[order[:n]]] = True
        return chosen


@dataclass(frozen=True)
class WithoutOrgans(_ByRates):
    """Every organ voxel dropped, ``share`` of the targets' kept."""

    share: float = 1.0
    even: bool = False

    def rates(self, case: Case, rng, weights=None) -> np.ndarray:
        return self.share * (voxels(case) & case.target_rows)


@dataclass(frozen=True)
class Importance(_ByRates):
    """Chosen once by how much a voxel pulls on the weights of a short probing plan.

    In the manner of arXiv 2405.03880, which scores voxels by a probing problem that is cheap to
    solve: here the plan's own objective on ``probing_share`` of the voxels for
    ``probing_evaluations`` (0: at the start). Rates follow |∂F/∂d_i| · Σ_j ∂d_i/∂w_j to the power
    ``sharpness``, of which a share ``exploration`` is even.
    """

    share: float = 0.25
    probing_evaluations: int = 10
    probing_share: float = 0.1
    exploration: float = 0.2
    sharpness: float = 0.5
    even: bool = False

    def rates(self, case: Case, rng, weights=None) -> np.ndarray:
        seen = case.start_weights
        if self.probing_evaluations:
            probed = Uniform(self.probing_share).rows(case, rng)
            problem = sampled_problem(case).masked(
                probed, rng=rng, sampled_from=case.sampled_from
            )
            seen = LBFGSB(max_evaluations=self.probing_evaluations, tolerance=0.0).solve(
                problem, seen
            ).weights  # fmt: skip
        _, slope = row_penalty(sampled_problem(case), case.dose_gy(seen))
        pull = np.abs(slope) * case.reach_at(seen)
        return _following(pull, case, self.share, self.exploration, self.sharpness)

    def extra_work(self, case: Case) -> int:
        """The probing plan's, and one look at all voxels."""
        all_of_it = int(case.row_nonzeros[voxels(case)].sum())
        return int(all_of_it * (1.0 + self.probing_evaluations * self.probing_share))


@dataclass(frozen=True)
class ViolationDriven(_ByRates):
    """Drawn anew in every round where the plan so far violates the objectives; first evenly."""

    share: float = 0.25
    n_rounds: int = 10
    exploration: float = 0.2
    sharpness: float = 0.5
    even: bool = False

    def rates(self, case: Case, rng, weights=None) -> np.ndarray:
        if weights is None:
            return self.share * voxels(case)
        penalty, _ = row_penalty(sampled_problem(case), case.dose_gy(weights))
        return _following(penalty, case, self.share, self.exploration, self.sharpness)

    def extra_work(self, case: Case) -> int:
        """A look at all voxels after every round but the last."""
        return (self.n_rounds - 1) * int(case.row_nonzeros[voxels(case)].sum())


@dataclass(frozen=True)
class AtEqualWork:
    """A sampler drawn to as many nonzeros as another keeps on the same case.

    ``of`` is the other one, or its name in a study: ``named`` then puts it in. What choosing costs
    (``extra_work``) is not taken off.
    """

    sampler: _ByRates
    of: "Sampler | str"

    @property
    def n_rounds(self) -> int:
        return self.sampler.n_rounds

    def named(self, samplers: Mapping[str, Sampler]) -> "AtEqualWork":
        """This one with its other sampler in place of the name."""
        if not isinstance(self.of, str):
            return self
        if self.of not in samplers:
            raise ValueError(f"of={self.of!r} is no sampler here; choose from {list(samplers)}.")
        return replace(self, of=samplers[self.of])

    def rows(self, case: Case, rng: np.random.Generator, weights=None) -> np.ndarray:
        if isinstance(self.of, str):
            raise ValueError(f"of={self.of!r} is a name, which a study knows; call named() first.")
        other = rng.spawn(1)[0]  # a stream of its own
        room = int(case.row_nonzeros[self.of.rows(case, other)].sum())
        return self.within(room, case, rng, weights)

    def within(self, room: int, case: Case, rng: np.random.Generator, weights=None) -> np.ndarray:
        """Rows with ``room`` nonzeros at most, and no more than a row less."""
        rates = self.sampler.rates(case, rng, weights)
        at = case.thresholds(rng, self.sampler.even)
        return filled_to(rates, at, case.row_nonzeros, room)

    def extra_work(self, case: Case) -> int:
        return self.sampler.extra_work(case)


def filled_to(
    rates: np.ndarray, thresholds: np.ndarray, row_nonzeros: np.ndarray, room: int
) -> np.ndarray:
    """Rows (n_rows,) bool, drawn one after another with chances like ``rates``, until full.

    Sequential Poisson sampling (Ohlsson, J. Off. Stat. 14 (1998) 149) with ``Case.thresholds``;
    rates of 0 are never drawn.
    """
    possible = np.flatnonzero(rates > 0)
    order = possible[np.argsort(thresholds[possible] / rates[possible])]
    fits = np.cumsum(row_nonzeros[order], dtype=np.int64) <= room
    chosen = np.zeros(len(rates), bool)
    chosen[order[fits]] = True
    return chosen


def _following(
    pull: np.ndarray, case: Case, share: float, exploration: float, sharpness: float
) -> np.ndarray:
    """Keep-rates that follow a pull and average to ``share`` of the voxels."""
    rates, at = np.zeros(len(pull)), np.flatnonzero(voxels(case))
    rates[at] = violation_rates(pull[at], share, exploration, sharpness)
    return rates
