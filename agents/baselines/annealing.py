"""Simulated annealing of an arc's layers on a cheap objective or on planned sketches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agents.baselines.arc_view import ArcView, spread
from agents.baselines.layer_rules import Sawtooth

SCALES = (1.0, 0.965, 1.035)  # depths in the scenarios of a range error


@dataclass(frozen=True)
class Annealing:
    """Change one decision, or shift a stretch of them, and keep what is better or nearly so.

    ``objective`` is "evenness" (the worst spread over mean, in the range scenarios, of how many
    peaks lie around each target point), "coverage" (Σ min(n, k)/k) or "sketch" (the planned worst
    case on sampled voxels: privileged, seconds to minutes). Every sequence tried keeps the limit.
    It begins with the descending sawtooth.
    """

    objective: str = "evenness"
    steps: int = 6000
    hottest: float = 0.02  # in units of the objective
    coldest: float = 1e-4

    def __post_init__(self):
        if self.objective not in ("evenness", "coverage", "sketch"):
            raise ValueError(
                f"objective={self.objective!r} is unknown; evenness, coverage or sketch."
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
            tried = _changed(view, sequence, rng)
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
        return _Evenness(view)


class _Evenness:
    """The worst spread over the range scenarios, changed decision by decision."""

    def __init__(self, view: ArcView):
        every = max(1, view.coverage.n_points // 500)
        self.around = np.stack(
            [[view.around(d, s)[:, ::every] for d in range(view.n)] for s in SCALES]
        ).astype(np.float32)  # (S, n, E, P)
        self.sequence = np.full(view.n, -1)
        self.totals = np.zeros((len(SCALES), self.around.shape[-1]), np.float32)

    def __call__(self, sequence: np.ndarray) -> float:
        changed = np.flatnonzero(sequence != self.sequence)
        totals = self.totals.copy() if len(changed) else self.totals
        for d in changed:
            if self.sequence[d] >= 0:
                totals -= self.around[:, d, self.sequence[d]]
            if sequence[d] >= 0:
                totals += self.around[:, d, sequence[d]]
        self.totals, self.sequence = totals, sequence.copy()
        return max(spread(t) for t in totals)


def _changed(view: ArcView, sequence: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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
