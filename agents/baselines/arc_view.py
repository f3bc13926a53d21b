"""An arc as sequence rules see it: one decision after the other, several at an angle if need be."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from engine.geometry.arc import PointCoverage
from engine.optimization.layer_sequencing import LayerSequencing, dynamic_programming
from ptenv.cases.energy_layer_case import EnergyLayerCase


@dataclass(frozen=True, eq=False)
class ArcView:
    """Decisions (n,) in order; with m layers an angle there are m at each angle.

    A layer that is chosen again at its angle adds nothing there and costs nothing. Arrays are by
    decision and layer (n, E).
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
            np.repeat(times.valid, m, axis=0),
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

    def depth_doses(self, scales: tuple[float, ...], n_points: int) -> np.ndarray:
        """Depth dose (S, n, E, P) float32 of every decision's layers at target points, peaks 1."""
        geometry = self.case.geometry
        every = max(1, self.coverage.n_points // n_points)
        depth = self.coverage.depth_mm[:, ::every]
        machine = geometry.machine
        shifted = float(geometry.range_mm[0] - machine.range_mm[geometry.layers[0]])
        curves = machine.depth_dose_mev_cm2_g[geometry.layers]
        at = shifted + machine.depth_step_mm * np.arange(curves.shape[1])
        doses = np.zeros((len(scales), self.n, self.n_layers, depth.shape[1]), np.float32)
        for e, curve in enumerate(curves):
            served = np.flatnonzero(self.valid[:, e])
            for s, scale in enumerate(scales):
                doses[s, served, e] = np.interp(
                    depth[served] * scale, at, curve / curve.max(), right=0.0
                )
        return doses

    def peaks_around(
        self, scales: tuple[float, ...], n_points: int, wide: float
    ) -> np.ndarray:
        """Whether target points lie within ``wide`` half widths of every layer's peak,
        (S, n, E, P) float32."""
        every = max(1, self.coverage.n_points // n_points)
        depth = self.coverage.depth_mm[:, None, ::every]
        width = wide * self.coverage.half_width_mm[:, None]
        return np.stack(
            [np.abs(depth * np.float32(s) - self.range_mm[:, None]) <= width for s in scales]
        ).astype(np.float32)

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
        """The choice (G, m) of a sequence (n,), each layer of an angle once, −1 for the rest."""
        choice = np.array(sequence, np.int16).reshape(len(self.case.angles_deg), -1)
        for slot in range(1, choice.shape[1]):
            again = (choice[:, :slot] == choice[:, slot, None]).any(axis=1)
            choice[again, slot] = -1
        return choice
