"""Where voxels lie in each beam's eye view, and the influence matrix that follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.dose.influence import LANES, InfluenceMatrix
from engine.dose.pencil_beam import _kernels as kernels
from engine.dose.pencil_beam.layers import FACTOR_SCALE, BeamLayers
from engine.geometry.coordinates import BeamFrame
from engine.geometry.plan import Plan
from engine.parallel import run_blocks
from engine.patient.grid import Grid

N_BLOCKS = 64


@dataclass(frozen=True, eq=False)
class BeamRows:
    """One beam's tables, and (n_rows,) float32 positions and depths of the voxels in mm."""

    layers: BeamLayers
    frame: BeamFrame
    u: np.ndarray
    v: np.ndarray
    t: np.ndarray
    z_in: np.ndarray
    z_out: np.ndarray

    def part(self, rows: slice) -> "BeamRows":
        arrays = (a[rows] for a in (self.u, self.v, self.t, self.z_in, self.z_out))
        return BeamRows(self.layers, self.frame, *arrays)

    @property
    def effects(self) -> tuple:
        """The effects table and what turns α and √β into 16-bit factors."""
        return self.layers.effects, np.float32(1.0) / FACTOR_SCALE

    def arguments(self, grid: Grid) -> tuple:
        k = self.layers
        return (
            self.u, self.v, self.t, self.z_in, self.z_out, np.float32(self.frame.source_mm),
            k.table, k.inverse_step, k.air, k.air_ref, voxel_variance(grid, self.frame), k.z_end,
            k.box, *k.raster.arguments(),
        )  # fmt: skip


def assembled(
    plan: Plan, grid: Grid, voxels: np.ndarray, beams: dict[int, BeamRows]
) -> InfluenceMatrix:
    """The matrix of all beams that have spots, on the rows ``voxels`` (n_rows,)."""
    return assembled_stack(plan, grid, voxels, [beams])


def assembled_stack(
    plan: Plan, grid: Grid, voxels: np.ndarray, scenarios: Sequence[dict[int, BeamRows]]
) -> InfluenceMatrix:
    """The matrices of several scenarios, their rows one after the other, written in one place.

    Beams have the same layers in all of them.
    """
    n_rows, n_beams = len(voxels), len(plan.beams)
    cuts = np.linspace(0, n_rows, N_BLOCKS + 1).astype(np.int64)
    counts = np.zeros((len(scenarios) * n_rows, n_beams), np.uint32)
    for s, beams in enumerate(scenarios):
        part = counts[s * n_rows : (s + 1) * n_rows]
        for b, beam in beams.items():
            run_blocks(kernels.count_block, N_BLOCKS, cuts, b, *beam.arguments(grid), part)
    start = np.empty(counts.size + 1, np.uint64)
    n_chunks = int(kernels.chunk_starts(counts, start))
    columns, values = np.empty(n_chunks, np.uint16), np.empty(n_chunks * LANES, np.uint16)
    first = scenarios[0].values()
    with_effects = any(beam.layers.has_effects for beam in first)
    factors = np.empty(2 * n_chunks if with_effects else 0, np.uint16)
    for s, beams in enumerate(scenarios):
        part = start[s * n_rows * n_beams :]
        for b, beam in beams.items():
            run_blocks(
                kernels.fill_block, N_BLOCKS, cuts, b, *beam.arguments(grid),
                np.uint64(n_beams), part, columns, values, *beam.effects, factors,
            )  # fmt: skip
    beam_starts = np.searchsorted(plan.spot_beam, np.arange(n_beams + 1)).astype(np.int64)
    scale = np.concatenate([beam.layers.scale for beam in first])
    place = np.concatenate([beam.layers.raster.place for beam in first])
    rows = np.tile(voxels, len(scenarios)) if len(scenarios) > 1 else voxels
    return InfluenceMatrix(
        grid, rows, beam_starts, start, columns, values, scale, place, factors,
        FACTOR_SCALE if with_effects else FACTOR_SCALE[:0],
    )  # fmt: skip


def thickness_mm(grid: Grid, frame: BeamFrame) -> np.float32:
    """Mean chord of a voxel along the beam: its volume over its shadow, mm."""
    size = np.array(grid.spacing_mm[::-1])
    return np.float32(1.0 / np.sum(np.abs(frame.direction) / size))


def voxel_variance(grid: Grid, frame: BeamFrame) -> np.float32:
    """What averaging over a voxel adds to a spot's variance, mean of both lateral axes, mm²."""
    size = np.array(grid.spacing_mm[::-1])
    u2, v2 = ((axis**2 * size**2).sum() / 12.0 for axis in (frame.u_axis, frame.v_axis))
    return np.float32(0.5 * (u2 + v2))
