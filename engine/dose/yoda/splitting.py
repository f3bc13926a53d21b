"""A Gaussian spot as a sum of narrower Gaussian beamlets on concentric rings.

Burlacu et al. (2024), section 2.3.2. Lengths are in units of the parent's spread σ_s, weights are
shares of its particles. The paper integrates the mismatch J on a grid; overlaps of Gaussians have
a closed form, so here J and its gradient are exact, for any number of rings. Many solutions are
equally close: of all that reach a given J we take the one with the narrowest beamlets, which sees
lateral heterogeneity best.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint, minimize

LARGEST_RADIUS = 2.0
SPREADS = (0.3, 0.8)
MISMATCH = 1e-8  # that solving settles for: 1e-4 of the peak
WORST_MISMATCH = 1e-3  # some 3 % of the peak: no longer the same spot
ROUND_OFF = 1e-9


class Beamlets(NamedTuple):
    """One number per beamlet, (n_beamlets,): the center first, then ring by ring."""

    weight: np.ndarray
    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class RingScheme:
    """Beamlets on rings; one entry per ring, the first being the beamlet in the center."""

    counts: tuple[int, ...]
    offset_rad: tuple[float, ...]
    weight: tuple[float, ...]  # of each beamlet on the ring
    radius: tuple[float, ...]
    spread: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        columns = self.offset_rad, self.weight, self.radius, self.spread
        if any(len(column) != len(self.counts) for column in columns):
            raise ValueError(f"{self.name}: every ring needs an offset, weight, radius and spread.")
        _check_rings(self)

    @property
    def name(self) -> str:
        return "+".join(map(str, self.counts))

    @property
    def n_beamlets(self) -> int:
        return sum(self.counts)

    @property
    def rings(self) -> np.ndarray:
        """The paper's θ: weight, radius and spread of every ring, (n_rings, 3)."""
        return np.column_stack([self.weight, self.radius, self.spread]).astype(np.float64)

    @property
    def mismatch(self) -> float:
        """J, to a round-off of 1e-15."""
        return mismatch(self.counts, self.offset_rad, self.rings)[0]

    @property
    def second_moment(self) -> float:
        """<x²>; one if the beamlets together spread like their parent."""
        weight, radius, spread = self.rings.T
        return float(np.dot(self.counts, weight * (spread**2 + radius**2 / 2)))

    @property
    def mean_spread(self) -> float:
        """Root of <σ²> over particles: what the scheme resolves."""
        weight, _, spread = self.rings.T
        return math.sqrt(np.dot(self.counts, weight * spread**2))

    @property
    def deviation(self) -> float:
        """Largest |Ψa − Ψ0| in units of the peak, on a grid of 0.05."""
        x, y = np.meshgrid(*2 * [np.linspace(-4, 4, 161)])
        return float(np.abs(self.fluence(x, y) - np.exp(-(x**2 + y**2) / 2)).max())

    def fluence(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Ψa in units of the parent's peak, at points of any shape."""
        total = np.zeros(np.broadcast(x, y).shape)
        for weight, x0, y0, sigma in zip(*self.beamlets()):
            total += weight / sigma**2 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
        return total

    def beamlets(self) -> Beamlets:
        """Equation 13: on every ring k = 1 … n, at the angles 2πk/n + α."""
        turn = np.concatenate([np.arange(1, n + 1) / n for n in self.counts])
        angle_rad = 2 * np.pi * turn + np.repeat(self.offset_rad, self.counts)
        weight, radius, spread = np.repeat(self.rings, self.counts, axis=0).T
        return Beamlets(weight, radius * np.cos(angle_rad), radius * np.sin(angle_rad), spread)


def _check_counts(counts: Sequence[int]) -> None:
    if not counts or counts[0] != 1 or min(counts) < 1 or any(n != int(n) for n in counts):
        raise ValueError(
            f"counts={tuple(counts)}: beamlets per ring are whole and positive, "
            f"and the first ring is one beamlet in the center; as in {', '.join(TABLE)}."
        )


def _check_rings(scheme: RingScheme) -> None:
    weight, radius, spread = scheme.rings.T
    narrow, wide = SPREADS if len(spread) > 1 else (1, 1)  # alone, a beamlet is its parent
    demands = {
        "weights lie within 0 … 1": _ordered([0, *np.sort(weight), 1]),
        "the first radius is 0": radius[0] == 0,
        f"radii ascend within 0 … {LARGEST_RADIUS:g}": _ordered([0, *radius, LARGEST_RADIUS]),
        f"spreads ascend within {narrow:g} … {wide:g}": _ordered([narrow, *spread, wide]),
    }
    for demand, met in demands.items():
        if not met:
            raise ValueError(f"{scheme.name}: {demand}; got {scheme.rings.round(6).tolist()}.")
    particles = np.dot(scheme.counts, weight)
    if abs(particles - 1) > ROUND_OFF:
        raise ValueError(
            f"{scheme.name} does not conserve particles: Σ n w = {particles:.10g} is not 1; "
            "divide the weights by it."
        )


def _ordered(values: Sequence[float]) -> bool:
    return bool(np.all(np.diff(values) >= -ROUND_OFF))  # and false where there is a nan


def mismatch(
    counts: Sequence[int], offset_rad: Sequence[float], rings: np.ndarray
) -> tuple[float, np.ndarray]:
    """J = ‖Ψa − Ψ0‖² / ‖Ψ0‖² over the whole plane, and its gradient, both in closed form.

    `rings` and the gradient are (n_rings, 3): weight, radius, spread. Beamlets on two rings meet
    at few different angles, so a pair of rings costs one mean over those.
    """
    weight, r, s = rings.T
    share = counts * weight
    pair, pair_r, pair_s = _overlap(r[:, None], r, s[:, None], s, _cosines(counts, offset_rad))
    parent, parent_r, parent_s = _overlap(r, 0.0, s, 1.0, np.ones((1, 1)))
    by_share = pair @ share - parent
    by_r, by_s = pair_r @ share - parent_r, pair_s @ share - parent_s
    j = 2 * (share @ (by_share - parent) + 0.5)
    return float(j), 4 * np.column_stack([counts * by_share, share * by_r, share * by_s])


def _overlap(r, other_r, s, other_s, cosine):
    """2π ∫ of one Gaussian times another and its derivatives by r and s; means over `cosine`."""
    v = (s**2 + other_s**2)[..., None]
    r, other_r = (np.asarray(radius)[..., None] for radius in (r, other_r))
    half = (r**2 + other_r**2 - 2 * r * other_r * cosine) / (2 * v)  # squared distance / 2v
    g = np.exp(-half) / v
    by_r = -g * (r - other_r * cosine) / v
    by_v = g * (half - 1) / v
    return g.mean(-1), by_r.mean(-1), 2 * s * by_v.mean(-1)


@lru_cache
def _cosines(counts: tuple[int, ...], offset_rad: tuple[float, ...]) -> np.ndarray:
    """Cosines between beamlets of each pair of rings, (n_rings, n_rings, n_angles)."""
    step_rad = 2 * np.pi / np.lcm.outer(counts, counts)
    angle_rad = step_rad[..., None] * np.arange(math.lcm(*counts))
    return np.cos(angle_rad + np.subtract.outer(offset_rad, offset_rad)[..., None])


def interleaved(counts: Sequence[int]) -> tuple[float, ...]:
    """Angular offsets: half a step where a ring repeats the number of an unturned one inside it."""
    offset_rad = [0.0]
    for inner, n in zip(counts, counts[1:]):
        offset_rad.append(math.pi / n if n == inner > 1 and offset_rad[-1] == 0 else 0.0)
    return tuple(offset_rad)


def optimized_scheme(
    counts: Sequence[int],
    offset_rad: Sequence[float] | None = None,
    target_mismatch: float = MISMATCH,
) -> RingScheme:
    """Of all schemes with J up to `target_mismatch` the narrowest; if there is none, the closest.

    J spans ten orders of magnitude, so what trust-constr minimizes is its logarithm.
    """
    _check_counts(counts)
    counts = tuple(int(n) for n in counts)
    if counts == (1,):
        return _conserving(counts, (0.0,), np.array([[1.0, 0.0, 1.0]]))
    offset_rad = tuple(map(float, interleaved(counts) if offset_rad is None else offset_rad))
    if len(offset_rad) != len(counts):
        raise ValueError(f"offset_rad={offset_rad} needs one angle per ring of counts={counts}.")
    problem = _Problem(counts, offset_rad)
    close = [problem.closest(start) for start in _starts(counts)]
    closest = min(close, key=problem.mismatch)
    if (j := problem.mismatch(closest)) > WORST_MISMATCH:
        raise ValueError(
            f"counts={counts} gets no closer to a Gaussian than J = {j:.1e} (at most "
            f"{WORST_MISMATCH:g}); put more beamlets on the rings, as in 1+6."
        )
    enough = [theta for theta in close if problem.mismatch(theta) < target_mismatch]
    narrow = [problem.narrowest(theta, target_mismatch) for theta in enough]
    best = min(narrow, key=lambda theta: problem.variance(theta)[0], default=closest)
    return _conserving(counts, offset_rad, best.reshape(-1, 3))


def _conserving(counts, offset_rad, rings) -> RingScheme:
    """Brought inside the bounds to the last bit, and weights divided by their sum."""
    weight, radius, spread = rings.T
    weight = np.clip(weight, 0, 1)
    radius = np.maximum.accumulate(np.clip(radius, 0, LARGEST_RADIUS))
    if len(counts) > 1:
        spread = np.maximum.accumulate(np.clip(spread, *SPREADS))
    columns = weight / np.dot(counts, weight), radius, spread
    return RingScheme(counts, offset_rad, *(tuple(column.tolist()) for column in columns))


def _starts(counts: Sequence[int]) -> list[np.ndarray]:
    """Even rings to several outer radii, weighted as the parent has its particles."""
    starts = []
    for outer in (1.5, 1.7, 1.9):
        radius = np.linspace(0, outer, len(counts))
        spread = np.linspace(0.6, 0.78, len(counts))
        share = np.maximum(radius, radius[1] / 3) * np.exp(-(radius**2) / 1.3)
        starts.append(np.column_stack([share / share.sum() / counts, radius, spread]).ravel())
    return starts


class _Problem:
    """Bounds and constraints of the paper on flat θ = (…, w_i, r_i, σ_i, …)."""

    def __init__(self, counts: tuple[int, ...], offset_rad: tuple[float, ...]) -> None:
        self.counts, self.offset_rad = counts, offset_rad
        n = len(counts)
        upper = np.tile([1, LARGEST_RADIUS, SPREADS[1]], n)
        upper[1] = 0  # the center
        self.bounds = Bounds(np.tile([0, 0, SPREADS[0]], n), upper)
        step = np.diff(np.eye(n), axis=0)
        ascending = np.vstack([np.kron(step[1:], [0, 1, 0]), np.kron(step, [0, 0, 1])])
        self.constraints = [
            LinearConstraint(np.kron(counts, [1, 0, 0]), 1, 1),
            LinearConstraint(ascending, 0, np.inf),
        ]

    def mismatch(self, theta: np.ndarray) -> float:
        return mismatch(self.counts, self.offset_rad, theta.reshape(-1, 3))[0]

    def log_mismatch(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        j, gradient = mismatch(self.counts, self.offset_rad, theta.reshape(-1, 3))
        j = abs(j) + 1e-12  # keeps out of round-off
        return math.log(j), gradient.ravel() / j

    def variance(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        weight, _, spread = theta.reshape(-1, 3).T
        share = self.counts * weight
        gradient = np.column_stack([self.counts * spread**2, 0 * spread, 2 * share * spread])
        return share @ spread**2, gradient.ravel()

    def closest(self, start: np.ndarray) -> np.ndarray:
        """Trust-constr finds the valley and stops on its flat floor; SLSQP walks along it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Singular Jacobian")  # two rings touch
            warnings.filterwarnings("ignore", "delta_grad == 0")
            valley = self._minimize(self.log_mismatch, start, "trust-constr", maxiter=300)
        floor = self._minimize(self.log_mismatch, valley, "SLSQP", maxiter=2000, ftol=1e-12)
        return min(valley, floor, key=self.mismatch)

    def narrowest(self, closest: np.ndarray, target_mismatch: float) -> np.ndarray:
        room = NonlinearConstraint(
            lambda theta: math.log(target_mismatch) - self.log_mismatch(theta)[0],
            0,
            np.inf,
            jac=lambda theta: -self.log_mismatch(theta)[1],
        )
        options = dict(maxiter=1000, ftol=1e-12)
        steps = [closest]
        for _ in range(4):  # SLSQP stops early; started afresh it gets further
            steps.append(self._minimize(self.variance, steps[-1], "SLSQP", room, **options))
        kept = [theta for theta in steps if self.mismatch(theta) < 1.01 * target_mismatch]
        return min(kept, key=lambda theta: self.variance(theta)[0])

    def _minimize(self, objective, start, method, *more_constraints, **options) -> np.ndarray:
        constraints = [*self.constraints, *more_constraints]
        return minimize(
            objective,
            start,
            method=method,
            jac=True,
            bounds=self.bounds,
            constraints=constraints,
            options=options,
        ).x


# By `python -m scripts.build_splitting`. Per ring: weight of a beamlet, radius, spread. Above:
# beamlets | mismatch J | largest deviation, in peaks | second moment | mean spread.
# Seven and 19 beamlets get no closer; the rest, at J = 1e-8, are the narrowest found.
TABLE = {
    #           1 | 0.0e+00 | 0.0e+00 | 1.0000 | 1.000
    "1": ((1.0000000, 0.0000000, 1.0000000),),
    #           7 | 2.4e-05 | 5.3e-03 | 0.9888 | 0.800
    "1+6": (
        (0.4061520, 0.0000000, 0.8000000),
        (0.0989747, 1.0837860, 0.8000000),
    ),
    #          19 | 6.5e-08 | 1.7e-04 | 0.9993 | 0.798
    "1+6+12": (
        (0.0096429, 0.0000000, 0.6039478),
        (0.1356314, 0.6380270, 0.8000000),
        (0.0147141, 1.4910736, 0.8000000),
    ),
    #          25 | 1.0e-08 | 1.2e-04 | 0.9996 | 0.772
    "1+6+6+12": (
        (0.2337681, 0.0000000, 0.7676732),
        (0.0768964, 0.8087637, 0.7676732),
        (0.0268533, 0.9845437, 0.7676732),
        (0.0119778, 1.5561718, 0.8000000),
    ),
    #          61 | 1.0e-08 | 1.2e-04 | 0.9997 | 0.538
    "1+6+6+12+12+24": (
        (0.0714285, 0.0000000, 0.4657392),
        (0.0253835, 0.6299401, 0.4657392),
        (0.0253814, 0.6299500, 0.4657392),
        (0.0184815, 1.1269585, 0.4780056),
        (0.0265448, 1.4657126, 0.6005608),
        (0.0034861, 2.0000000, 0.7070534),
    ),
    #         127 | 1.0e-08 | 1.2e-04 | 0.9997 | 0.426
    "1+6+12+18+24+30+36": (
        (0.0000000, 0.0000000, 0.3000000),
        (0.0107785, 0.2440701, 0.3062336),
        (0.0223311, 0.6166034, 0.3536382),
        (0.0129089, 1.0541803, 0.3580827),
        (0.0083015, 1.4457896, 0.4006913),
        (0.0045727, 1.8347807, 0.4880648),
        (0.0027383, 2.0000000, 0.6931039),
    ),
}


def scheme(name_or_counts: str | Sequence[int]) -> RingScheme:
    """A scheme by name, as "1+6+6+12": from TABLE, or solved (some 10 s), once per process."""
    if not isinstance(name_or_counts, str):
        _check_counts(name_or_counts)
        return _known_or_solved(tuple(int(n) for n in name_or_counts))
    try:
        counts = tuple(int(n) for n in name_or_counts.split("+"))
    except ValueError:
        raise ValueError(
            f"{name_or_counts!r} names no ring scheme: write beamlets per ring joined by +, "
            f"from the center outwards; known are {', '.join(TABLE)}."
        ) from None
    return scheme(counts)


@lru_cache
def _known_or_solved(counts: tuple[int, ...]) -> RingScheme:
    rings = TABLE.get("+".join(map(str, counts)))
    if rings is None:
        return optimized_scheme(counts)
    return _conserving(counts, interleaved(counts), np.array(rings))
