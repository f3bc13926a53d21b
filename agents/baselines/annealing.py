"""Simulated annealing of an arc's layers on a cheap objective or on planned sketches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agents.baselines.arc_view import ArcView
from agents.baselines.layer_rules import Sawtooth

SCALES = (1.0, 0.965, 1.035)  # depths in the scenarios of a range error
FLOOR = 0.5  # of a point's dose, in peaks
UNEVENNESS = 0.3  # its weight beside coldness
WIDE = 3.0  # times a peak's half width: what lies around it
N_POINTS = 400


@dataclass(frozen=True)
class Annealing:
    """Change one decision, or shift a stretch of them, and keep what is better or nearly so.

    ``objective`` is "cold_spots" (mean over target points of 1/dose, where every layer gives its
    depth dose, peak and plateau, at equal particles, and in part the spread over the mean of how
    many peaks lie around a point; each the worst of the range scenarios),
    "coverage" (Σ min(n, k)/k) or "sketch" (the planned worst case on sampled voxels: privileged,
    minutes to hours). Every sequence tried keeps the limit. It begins with the descending sawtooth.
    """

    objective: str = "cold_spots"
    steps: int = 6000
    hottest: float = 0.01  # in units of the objective
    coldest: float = 5e-5

    def __post_init__(self):
        if self.objective not in ("cold_spots", "coverage", "sketch"):
            raise ValueError(
                f"objective={self.objective!r} is unknown; cold_spots, coverage or sketch."
            )
        if self.steps < 1 or not 0 < self.coldest <= self.hottest:
            raise ValueError("steps must be 1 or more, temperatures positive and falling.")

    def __call__(self, view: ArcView, limit_s: float, rng: np.random.Generator) -> np.ndarray:
        limit_s = view.safe(limit_s)
        sequence = view.within_limit(Sawtooth()(view, limit_s, rng), limit_s)
        score = self._objective(view)
        value = score(sequence)
        best, lowest = sequence, value
        for step in range(self.steps):
            heat = self.hottest * (self.coldest / self.hottest) ** (step / self.steps)
            tried = changed(view, sequence, rng)
            if view.sequencing.time_s(tried) > limit_s:
                continue
            new = score(tried)
            if new <= value or rng.random() < np.exp((value - new) / heat):
                sequence, value = tried, new
                if value < lowest:
                    best, lowest = sequence, value
        return best

    def _objective(self, view: ArcView) -> Callable[[np.ndarray], float]:
        if self.objective == "sketch":
            case = view.case
            return lambda sequence: float(np.log(case.sketch_value(view.as_choice(sequence))))
        if self.objective == "coverage":
            return lambda sequence: -view.covered(sequence)
        return _ColdSpots(view)


class _ColdSpots:
    """The worst coldness and unevenness over the range scenarios, changed by decision."""

    def __init__(self, view: ArcView):
        self.given = view.depth_doses(SCALES, N_POINTS)  # (S, n, E, P)
        self.around = view.peaks_around(SCALES, N_POINTS, WIDE)
        self.sequence = np.full(view.n, -1)
        self.dose, self.count = np.zeros((2, len(SCALES), self.given.shape[-1]))

    def __call__(self, sequence: np.ndarray) -> float:
        for d in np.flatnonzero(sequence != self.sequence):
            for layer, sign in ((self.sequence[d], -1.0), (sequence[d], 1.0)):
                if layer >= 0:
                    self.dose += sign * self.given[:, d, layer]
                    self.count += sign * self.around[:, d, layer]
        self.sequence = sequence.copy()
        cold = (0.1 * len(sequence) / (self.dose + FLOOR)).mean(axis=1)
        uneven = self.count.std(axis=1) / np.maximum(self.count.mean(axis=1), 1e-9)
        return float(cold.max() + UNEVENNESS * uneven.max())


def changed(view: ArcView, sequence: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A neighbor: one decision drawn anew, or a stretch moved up or down by some layers."""
    tried = sequence.copy()
    served = view.sequencing.served
    if rng.random() < 0.5:
        d = int(rng.choice(served))
        tried[d] = rng.choice(view.layers_at[d])
        return tried
    first, length = int(rng.integers(view.n)), int(rng.integers(2, max(3, view.n // 6)))
    move = int(rng.choice([-3, -2, -1, 1, 2, 3]))
    for d in range(first, min(first + length, view.n)):
        layers = view.layers_at[d]
        if len(layers):
            place = int(np.searchsorted(layers, tried[d])) + move
            tried[d] = layers[min(max(place, 0), len(layers) - 1)]
    return tried
