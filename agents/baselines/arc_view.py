"""An arc as sequence rules see it: one decision after the other, several at an angle if need be."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from engine.geometry.arc import PointCoverage
from engine.optimization.layer_sequencing import LayerSequencing, dynamic_programming
from ptenv.cases.energy_layer_case import EnergyLayerCase

WIDE = 2.0  # times a peak's half width: how far a chosen layer counts for the dose around it


@dataclass(frozen=True, eq=False)
class ArcView:
    """Decisions (n,) in order; with m layers an angle there are m at each angle.

    The layers of an angle are then cut into m bands, the highest first, and every decision picks
    from its own, so that they differ and energies fall. Arrays are by decision and layer (n, E).
    """

    case: EnergyLayerCase
    sequencing: LayerSequencing
    coverage: PointCoverage
    wed_mm: np.ndarray  # (n, 2)

    @classmethod
    def of(cls, case: EnergyLayerCase) -> "ArcView":
        m, times = case.sequencing.layers_per_angle, case.sequencing
        gantry = np.zeros((len(times.gantry_s), m))
        gantry[:, 0] = times.gantry_s
        one_each = LayerSequencing(
            times.switch_s, np.repeat(times.beam_on_s, m, axis=0), gantry.ravel(),
            _bands(times.valid, m),
        )  # fmt: skip
        coverage = replace(case.coverage, depth_mm=np.repeat(case.coverage.depth_mm, m, axis=0))
        return cls(case, one_each, coverage, np.repeat(case.wed_mm, m, axis=0))

    @property
    def valid(self) -> np.ndarray:
        return self.sequencing.valid

    @property
    def n(self) -> int:
        return len(self.valid)

    @property
    def n_layers(self) -> int:
        return self.valid.shape[1]

    @property
    def range_mm(self) -> np.ndarray:
        return self.coverage.range_mm

    @cached_property
    def layers_at(self) -> list[np.ndarray]:
        """Valid layers of every decision."""
        return [np.flatnonzero(v) for v in self.valid]

    def counts(self, name: str = "target") -> np.ndarray:
        """Spot counts (n, E) by name, 0 outside a decision's own layers."""
        counts = np.repeat(self.case.counts[name], self.case.sequencing.layers_per_angle, axis=0)
        return np.where(self.valid, counts, 0.0)

    @property
    def k(self) -> int:
        """Layers that a target point wants: a twelfth of the angles, 3 at least."""
        return max(3, len(self.case.angles_deg) // 12)

    def covered(self, sequence: np.ndarray, scale: float = 1.0) -> float:
        """Mean over target points of min(n, k)/k."""
        return self.coverage.value(sequence[:, None], self.k, scale)

    def unevenness(self, sequence: np.ndarray, scale: float = 1.0) -> float:
        """Spread over mean of how many peaks lie around each target point; 0 is even."""
        total = np.zeros(self.coverage.n_points, np.float32)
        for d in np.flatnonzero(sequence >= 0):
            total += self.around(d, scale)[sequence[d]]
        return spread(total)

    def around(self, decision: int, scale: float = 1.0) -> np.ndarray:
        """Whether each layer's peak lies around each target point, (E, P) float32."""
        off = np.abs(
            self.coverage.depth_mm[decision] * np.float32(scale) - self.range_mm[:, None]
        )
        return (off <= WIDE * self.coverage.half_width_mm[:, None]).astype(np.float32)

    def nearest(self, ranges_mm: np.ndarray) -> np.ndarray:
        """The valid layers (n,) that stop nearest to wished depths (n,); −1 where none serves."""
        off = np.abs(self.range_mm[None, :] - np.asarray(ranges_mm)[:, None])
        layer = np.where(self.valid, off, np.inf).argmin(axis=1)
        return np.where(self.valid.any(axis=1), layer, -1).astype(np.int16)

    def within_limit(self, sequence: np.ndarray, limit_s: float) -> np.ndarray:
        """The sequence itself if it keeps the limit, else the one that does and is nearest to it.

        Nearest is by the sum of differences in depth, found by dynamic programming.
        """
        if self.sequencing.time_s(sequence) <= limit_s:
            return sequence
        wanted = self.range_mm[np.maximum(sequence, 0)]
        off = -np.abs(self.range_mm[None, :] - wanted[:, None])
        return dynamic_programming(self.sequencing, off, self.safe(limit_s))[:, 0]

    def safe(self, limit_s: float) -> float:
        """A limit that the sequence keeps as it is played: not below the least time of all."""
        return max(limit_s, self.sequencing.floor_s)

    def as_choice(self, sequence: np.ndarray) -> np.ndarray:
        """The choice (G, m) of a sequence (n,)."""
        return np.asarray(sequence, np.int16).reshape(len(self.case.angles_deg), -1)


def spread(counts: np.ndarray) -> float:
    """Standard deviation over mean of counts (P,); infinite where all are 0."""
    mean = float(counts.mean())
    return float(counts.std()) / mean if mean > 0 else float("inf")


def _bands(valid: np.ndarray, m: int) -> np.ndarray:
    """Valid layers (G, E) cut into m bands each, the highest first: (G · m, E)."""
    bands = np.zeros((len(valid), m, valid.shape[1]), bool)
    for g, of in enumerate(valid):
        for slot, band in enumerate(np.array_split(np.flatnonzero(of)[::-1], m)):
            bands[g, slot, band] = True
    return bands.reshape(-1, valid.shape[1])
