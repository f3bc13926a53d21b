"""A small planning problem with everything a real one has, and a dense twin of the matrix."""

import numpy as np
import pytest

from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import RbeDose
from engine.optimization.objectives import DoseFallOff, MaxDose, UniformDose
from engine.optimization.problem import PlanningProblem
from engine.optimization.regions import Region
from engine.patient.grid import Grid

SPACING_MM = 5.0
SHAPE = (8, 16, 16)


class DenseInfluence:
    """The interface of ``InfluenceMatrix`` on a plain array in float64: slow, obvious, exact."""

    def __init__(self, grid, voxels, dense, beam_starts):
        self.grid, self.voxels = grid, np.asarray(voxels, np.uint32)
        self.dense, self.beam_starts = np.asarray(dense, np.float64), np.asarray(beam_starts)
        self.n_rows, self.n_spots = self.dense.shape
        self.n_beams, self.n_nonzeros = len(beam_starts) - 1, int(np.count_nonzero(dense))

    def _columns(self, beam):
        if beam is None:
            return slice(None)
        return slice(self.beam_starts[beam], self.beam_starts[beam + 1])

    def dose(self, weights, beam=None):
        columns = self._columns(beam)
        return self.dense[:, columns] @ np.asarray(weights, np.float64)[columns]

    __matmul__ = dose

    def adjoint(self, row_gradient, beam=None):
        gradient = np.zeros(self.n_spots)
        columns = self._columns(beam)
        gradient[columns] = np.asarray(row_gradient, np.float64) @ self.dense[:, columns]
        return gradient

    def row_nonzeros(self):
        return np.count_nonzero(self.dense, axis=1).astype(np.uint32)

    def rows(self, chosen):
        return DenseInfluence(self.grid, self.voxels[chosen], self.dense[chosen], self.beam_starts)

    def penalty(self, weights, rows, photons=None):
        dose, value, slope = self.dose(weights), 0.0, np.zeros(self.n_rows)
        for row in range(self.n_rows):
            for k in range(rows.start[row], rows.start[row + 1]):
                excess = max(0.0, float(rows.side[k]) * (dose[row] - float(rows.level[k])))
                value += float(rows.weight[k]) * excess**2
                slope[row] += 2.0 * float(rows.weight[k] * rows.side[k]) * excess
        return value, self.adjoint(slope)


def _beam(depth_mm, across_mm, z_mm):
    """Pencil beams with a blurred Bragg peak, (n_voxels, n_spots) in Gy per particle."""
    columns = []
    for range_mm in np.arange(25.0, 60.0, 6.0):
        for u in np.arange(-15.0, 16.0, 7.5):
            for v in np.arange(-10.0, 11.0, 7.5):
                rise = 0.35 + 0.65 / (1.0 + np.maximum(range_mm - depth_mm, 0.0) / 3.0)
                fall = np.exp(-(np.maximum(depth_mm - range_mm, 0.0) ** 2) / 8.0)
                lateral = np.exp(-((across_mm - u) ** 2 + (z_mm - v) ** 2) / (2 * 5.0**2))
                column = rise * fall * lateral
                column[column < 1e-3] = 0.0
                columns.append(4e-10 * column)
    return columns


def _geometry():
    z, y, x = (SPACING_MM * (np.arange(n) - (n - 1) / 2) for n in SHAPE)
    z, y, x = (a.ravel() for a in np.meshgrid(z, y, x, indexing="ij"))
    target = (np.hypot(x, y) < 15) & (abs(z) < 11)
    organ = (np.hypot(x - 20, y - 12) < 7.5) & (abs(z) < 16)
    ring = ~target & (np.hypot(x, y) < 34)
    distance = np.maximum(np.maximum(np.hypot(x, y) - 15, abs(z) - 11), 0.0)
    dense = np.stack(_beam(y + 40, x, z) + _beam(x + 40, y, z), axis=1)
    n = dense.shape[1]
    return dense, [0, n // 2, n], {"target": target, "organ": organ, "ring": ring}, distance


OBJECTIVES = (
    UniformDose("target", 70.0, 100.0),
    MaxDose("organ", 20.0, 2.0),
    DoseFallOff("ring", 70.0, 20.0, 20.0, 10.0),
    MaxDose("ring", 14.0, 0.1),
)


@pytest.fixture(scope="session")
def toy():
    """(influence, dense twin, regions by name) of a water block with two crossing fields."""
    dense, beam_starts, masks, distance = _geometry()
    voxels = np.flatnonzero(np.logical_or.reduce(list(masks.values())))
    grid = Grid(SHAPE, (SPACING_MM,) * 3)
    influence = InfluenceMatrix.from_dense(grid, voxels, dense[voxels], beam_starts)
    twin = DenseInfluence(grid, voxels, influence.to_dense(), beam_starts)
    regions = {}
    for name, mask in masks.items():
        rows = np.flatnonzero(mask[voxels])
        regions[name] = Region(rows, np.ones(len(rows)), distance[voxels[rows]])
    return influence, twin, regions


@pytest.fixture(scope="session")
def problem(toy):
    """The smooth separable problem on the real matrix."""
    influence, _, regions = toy
    return PlanningProblem(influence, regions, OBJECTIVES, RbeDose(35))


@pytest.fixture(scope="session")
def twin_problem(toy):
    """The same on the dense twin."""
    _, twin, regions = toy
    return PlanningProblem(twin, regions, OBJECTIVES, RbeDose(35))
