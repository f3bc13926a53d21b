"""What a page of dose shaping draws, as plain arrays: cuts, isodose lines, contours, histograms.

Patient axes: x to the left, y to the back, z up. An axial cut has x across and y downwards, so
that the front is on top; coronal and sagittal cuts have z upwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator

from engine.optimization.regions import Region
from engine.patient.grid import Grid

WINDOW_HU = (-160.0, 240.0)  # soft tissue; black and white beyond
N_DOSES = 301  # points of a histogram


@dataclass(frozen=True)
class Plane:
    """A cut through arrays (nz, ny, nx); ``fixed``, ``rows`` and ``columns`` are array axes."""

    name: str
    fixed: int
    rows: int
    columns: int
    is_downward: bool = False

    def cut(self, volume: np.ndarray, at: Sequence[int]) -> np.ndarray:
        """The cut (rows, columns) of a volume through the voxel ``at`` (z, y, x)."""
        return np.take(volume, at[self.fixed], axis=self.fixed)

    def box_mm(self, grid: Grid) -> tuple[float, float, float, float]:
        """Outer faces: lowest and highest across, lowest and highest along the rows."""
        low, high = grid.lower_mm[::-1], grid.upper_mm[::-1]
        return low[self.columns], high[self.columns], low[self.rows], high[self.rows]

    def position_mm(self, grid: Grid, at: Sequence[int], across: float, along: float) -> tuple:
        """Patient (x, y, z) of a point of the cut through the voxel ``at``."""
        zyx = [axis[i] for axis, i in zip(grid.axes_mm(), at)]
        zyx[self.columns], zyx[self.rows] = across, along
        return tuple(float(c) for c in zyx[::-1])

    def lines(self, grid: Grid, cut: np.ndarray, level: float) -> list[np.ndarray]:
        """Lines [(n, 2), …] where a cut has a level; none lie next to voxels that are NaN."""
        if min(cut.shape) < 2:
            return []  # no line can be interpolated in a single row of voxels
        axes = grid.axes_mm()
        values = np.ma.masked_invalid(cut)
        return contour_generator(axes[self.columns], axes[self.rows], values).lines(level)


PLANES = (
    Plane("axial", fixed=0, rows=1, columns=2, is_downward=True),
    Plane("coronal", fixed=1, rows=0, columns=2),
    Plane("sagittal", fixed=2, rows=0, columns=1),
)


def gray(hu: np.ndarray) -> np.ndarray:
    """CT numbers as gray values 0 … 255, uint8."""
    low, high = WINDOW_HU
    return np.uint8(255.0 * np.clip((hu - low) / (high - low), 0.0, 1.0))


def on_grid(grid: Grid, voxels: np.ndarray, dose_gy: np.ndarray) -> np.ndarray:
    """Dose of rows as a volume (nz, ny, nx) float32; NaN where nothing is planned."""
    volume = np.full(grid.size, np.nan, np.float32)
    volume[voxels] = dose_gy
    return volume.reshape(grid.shape)


def histograms(
    regions: Mapping[str, Region], dose_gy: np.ndarray, levels_gy: np.ndarray
) -> dict[str, np.ndarray]:
    """Percent of every structure (n_levels,) that has each dose or more; levels ascend."""
    return {name: _histogram(r, dose_gy, levels_gy) for name, r in regions.items()}


def _histogram(region: Region, dose_gy: np.ndarray, levels_gy: np.ndarray) -> np.ndarray:
    reached = np.searchsorted(levels_gy, dose_gy[region.rows], side="right")
    volume = np.bincount(reached, region.volume, len(levels_gy) + 1)
    return 100.0 * np.cumsum(volume[::-1])[::-1][1:]


def nearest_level(
    lines: Mapping[float, Sequence[np.ndarray]], across: float, along: float
) -> float | None:
    """The level whose line comes nearest to a point of the cut; None where there are no lines."""
    distance = {
        level: min(_distance_mm(line, across, along) for line in drawn)
        for level, drawn in lines.items() if len(drawn)
    }  # fmt: skip
    return min(distance, key=distance.get) if distance else None


def _distance_mm(line: np.ndarray, across: float, along: float) -> float:
    """Distance of a point from a line of segments (n, 2)."""
    start, way = line[:-1], np.diff(line, axis=0)
    point = np.array((across, along))
    square = np.maximum(np.einsum("nc,nc->n", way, way), 1e-12)
    share = np.clip(np.einsum("nc,nc->n", point - start, way) / square, 0.0, 1.0)
    return float(np.linalg.norm(point - start - share[:, None] * way, axis=1).min())
