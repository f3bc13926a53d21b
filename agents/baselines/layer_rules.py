"""Rules that choose the energy layers of a whole arc, within a delivery time.

A rule is called with an arc's view, the limit in seconds and a generator, and returns a sequence
(n,) of layers, −1 where none serves.
"""

from dataclasses import dataclass

import numpy as np

from agents.baselines.arc_view import ArcView
from engine.optimization.layer_sequencing import LayerSequencing, dynamic_programming


@dataclass(frozen=True)
class Constant:
    """One energy all around, the one that covers most; the nearest valid where it cannot be."""

    def __call__(self, view: ArcView, limit_s: float, rng) -> np.ndarray:
        candidates = np.flatnonzero(view.valid.any(axis=0))
        sequences = [view.nearest(np.full(view.n, view.range_mm[e])) for e in candidates]
        best = max(sequences, key=view.covered)
        return view.within_limit(best, limit_s)


@dataclass(frozen=True)
class Plateaus:
    """Few stretches of one energy each, with most spots in the target: as many as time allows."""

    most: int = 24

    def __call__(self, view: ArcView, limit_s: float, rng) -> np.ndarray:
        changes = _counting_changes(view.sequencing)
        best = None
        for n in range(self.most):
            if n < changes.floor_s:
                continue
            found = dynamic_programming(changes, view.counts(), float(n), n_bins=n + 2)[:, 0]
            if view.sequencing.time_s(found) > limit_s:
                break
            best = found
        if best is None:
            return dynamic_programming(view.sequencing, view.counts(), view.safe(limit_s))[:, 0]
        return best


@dataclass(frozen=True)
class Sawtooth:
    """Teeth of falling energy, from the far to the near end of the target: as many as time allows.

    ``margin`` leaves out a share of the target's depth at both ends.
    """

    most: int = 24
    margin: float = 0.1

    def __call__(self, view: ArcView, limit_s: float, rng) -> np.ndarray:
        kept = None
        for teeth in range(1, self.most + 1):
            sequence = self.sequence(view, teeth)
            if view.sequencing.time_s(sequence) > limit_s:
                continue
            kept = sequence
        return view.within_limit(self.sequence(view, 1), limit_s) if kept is None else kept

    def sequence(self, view: ArcView, teeth: int) -> np.ndarray:
        """``teeth`` descents of equal length around the arc."""
        phase = (np.arange(view.n) * teeth / view.n) % 1.0
        share = 1.0 - self.margin - (1.0 - 2.0 * self.margin) * phase
        low, high = np.nan_to_num(view.wed_mm).T
        low = np.maximum(low, view.range_mm[0])
        return view.nearest(low + share * (high - low))


@dataclass(frozen=True)
class GreedyCoverage:
    """At every decision the layer that adds most to Σ min(n, k)/k, among those that keep time."""

    def __call__(self, view: ArcView, limit_s: float, rng) -> np.ndarray:
        times, k = view.sequencing, view.k
        counts = np.zeros(view.coverage.n_points, np.int32)
        sequence, used, before = np.full(view.n, -1, np.int16), 0.0, -1
        limit_s = view.safe(limit_s)
        for d, layers in enumerate(view.layers_at):
            if not len(layers):
                used += times.gantry_s[d]
                continue
            switch = times.switch_s[before, layers] if before >= 0 else 0.0
            step = np.maximum(times.gantry_s[d], switch + times.beam_on_s[d, layers])
            kept = used + step + times.rest_s[d + 1, layers] <= limit_s + 1e-6
            reached = np.array([view.coverage.reached(d, int(e)) for e in layers])
            gain = (np.minimum(counts + reached, k) - np.minimum(counts, k)).sum(axis=1)
            gain = np.where(kept, gain - 1e-3 * step, -np.inf)  # of equals the quickest
            best = int(gain.argmax())
            counts += reached[best]
            used += step[best]
            before = sequence[d] = layers[best]
        return sequence


@dataclass(frozen=True)
class DynamicProgramming:
    """The most spots in the target within the time, less ``organ_weight`` times those that cross
    an organ: exact. With several weights the sequence that covers most is taken."""

    organ_weights: tuple[float, ...] = (0.0,)

    def __call__(self, view: ArcView, limit_s: float, rng) -> np.ndarray:
        target, spared = view.counts("target"), view.counts("target-organs")
        found = [
            dynamic_programming(
                view.sequencing, target - weight * (target - spared), view.safe(limit_s)
            )[:, 0]
            for weight in self.organ_weights
        ]
        return max(found, key=view.covered)


@dataclass(frozen=True)
class EnergyMatrix:
    """Energy-matrix regularization after Zhang et al., Med. Phys. 49 (2022) 5752, on a surrogate.

    A matrix X ≥ 0 of angle × layer gives every sampled target point the dose Σ X · peak, and is
    fitted to a uniform one; reweighted ℓ1 terms leave one layer per angle, and what is left is
    the value of dynamic programming within the time. The paper fits spots and dose; this is their
    layers on peaks alone.
    """

    iterations: int = 150
    reweightings: int = 4
    strength: float = 0.05
    n_points: int = 300

    def __call__(self, view: ArcView, limit_s: float, rng) -> np.ndarray:
        decision, layer = np.nonzero(view.valid)
        points = np.linspace(0, view.coverage.n_points - 1, self.n_points).astype(int)
        peaks = _smooth_peaks(view, decision, layer, points)
        x = self._fitted(peaks, decision, view.n)
        value = np.zeros(view.valid.shape)
        value[decision, layer] = x
        top = value.max(axis=1, keepdims=True)
        value /= np.where(top > 0, top, 1.0)
        return dynamic_programming(view.sequencing, value, view.safe(limit_s))[:, 0]

    def _fitted(self, peaks: np.ndarray, decision: np.ndarray, n: int) -> np.ndarray:
        """Nonnegative amplitudes by accelerated projected gradients."""
        step = 1.0 / np.linalg.norm(peaks, 2) ** 2
        x = np.full(peaks.shape[1], 1.0 / max(peaks.sum(axis=1).mean(), 1e-9))
        penalty = np.zeros(len(x))
        for _ in range(self.reweightings):
            y, before, t = x, x, 1.0
            for _ in range(self.iterations):
                slope = peaks.T @ (peaks @ y - 1.0) + penalty
                x = np.maximum(y - step * slope, 0.0)
                t, last = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * t * t)), t
                y, before = x + (last - 1.0) / t * (x - before), x
            top = np.zeros(n)
            np.maximum.at(top, decision, x)
            penalty = self.strength * top.mean() / (x / np.maximum(top[decision], 1e-9) + 0.1)
        return x


def _smooth_peaks(view: ArcView, decision, layer, points) -> np.ndarray:
    """Bell-shaped peaks (points, entries) of every decision and layer at target points."""
    off = view.coverage.depth_mm[decision][:, points] - view.range_mm[layer][:, None]
    return np.exp(-0.5 * np.square(off / view.coverage.half_width_mm[layer][:, None])).T


def _counting_changes(times: LayerSequencing) -> LayerSequencing:
    """The same layers where a change of energy costs 1 and nothing else anything."""
    n = len(times.switch_s)
    return LayerSequencing(
        1.0 - np.eye(n), np.zeros(times.valid.shape), np.zeros(len(times.valid)), times.valid
    )
