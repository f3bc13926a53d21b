"""Radiological depth: water-equivalent paths on a fan of rays, interpolated at points.

One exact voxel walk per ray of a regular raster in the isoplane, with the running sum kept at
regular stations along the beam: a thousand rays instead of a million, and every voxel of a field
is then an interpolation. Accurate to about a raster step sideways of an edge.
"""

from dataclasses import dataclass

import numpy as np

from engine.geometry import _kernels as kernels
from engine.geometry.coordinates import BeamFrame
from engine.parallel import run_blocks
from engine.patient.grid import Grid

N_BLOCKS = 16


@dataclass(frozen=True, eq=False)
class WetMap:
    """Water-equivalent path (n_v, n_u, n_t) float32 in mm on a raster of one beam's eye view."""

    frame: BeamFrame
    u0_mm: float
    v0_mm: float
    pitch_mm: float
    t0_mm: float
    step_mm: float
    wet_mm: np.ndarray

    def at(self, u_mm, v_mm, t_mm, shift_mm: float = 0.0) -> np.ndarray:
        """WET (n,) float32 at isoplane positions and depths along the beam; NaN off the map."""
        depth = np.empty(len(u_mm), np.float32)
        run_blocks(
            kernels.interpolate_block, N_BLOCKS, _cuts(len(u_mm)), self.wet_mm, self.u0_mm,
            self.pitch_mm, self.v0_mm, self.pitch_mm, self.t0_mm, self.step_mm, u_mm, v_mm, t_mm,
            shift_mm, depth,
        )  # fmt: skip
        return depth

    def entrance_mm(self, u_mm, v_mm) -> np.ndarray:
        """Where rays through isoplane points (n,) first meet matter, t in mm; inf if never."""
        hit = self.wet_mm > 0.5  # mm of water: more than the air of a whole room
        first = self.t0_mm + self.step_mm * (np.argmax(hit, axis=2) - 1)
        entrance = np.where(hit[:, :, -1], first, np.inf)
        i = np.rint((np.asarray(u_mm) - self.u0_mm) / self.pitch_mm).astype(int)
        j = np.rint((np.asarray(v_mm) - self.v0_mm) / self.pitch_mm).astype(int)
        n_v, n_u = entrance.shape
        return entrance[np.clip(j, 0, n_v - 1), np.clip(i, 0, n_u - 1)]


def trace_field(
    rsp: np.ndarray,
    grid: Grid,
    frame: BeamFrame,
    u_range_mm: tuple[float, float],
    v_range_mm: tuple[float, float],
    pitch_mm: float | None = None,
) -> WetMap:
    """Trace a field's rays through an RSP volume (nz, ny, nx) on its grid.

    The raster covers the given isoplane rectangle at ``pitch_mm`` (the finest voxel spacing, at
    least 1 mm, by default), with a ray through the isocenter, so that a larger field has the same
    rays and more; stations run through the whole volume at the same step.
    """
    pitch = float(pitch_mm or max(1.0, min(grid.spacing_mm)))
    (first_u, n_u), (first_v, n_v) = (_rays_over(r, pitch) for r in (u_range_mm, v_range_mm))
    t0, n_t = _stations_through(grid, frame, pitch)
    fractions = (t0 + pitch * np.arange(n_t)) / frame.source_mm
    wet = np.empty((n_v * n_u, n_t), np.float32)
    run_blocks(
        kernels.trace_block, N_BLOCKS, _cuts(n_v * n_u), np.ascontiguousarray(rsp, np.float32),
        grid.lower_mm, np.array(grid.spacing_mm[::-1]), frame.isocenter_mm, pitch * frame.u_axis,
        pitch * frame.v_axis, frame.isocenter_mm - frame.source_mm * frame.direction, first_u,
        first_v, n_u, fractions, wet,
    )  # fmt: skip
    return WetMap(
        frame, first_u * pitch, first_v * pitch, pitch, t0, pitch, wet.reshape(n_v, n_u, n_t)
    )


def _rays_over(range_mm: tuple[float, float], pitch_mm: float) -> tuple[int, int]:
    """First ray, counted from the isocenter, and number of rays that enclose a range."""
    first = int(np.floor(range_mm[0] / pitch_mm))
    return first, max(int(np.ceil(range_mm[1] / pitch_mm)) - first, 1) + 1


def project_voxels(grid: Grid, voxels: np.ndarray, frame: BeamFrame):
    """Beam coordinates u, v, t (n,) float32 in mm of voxel centers given by flat index."""
    n = len(voxels)
    u, v, t = (np.empty(n, np.float32) for _ in range(3))
    run_blocks(
        kernels.project_block, N_BLOCKS, _cuts(n), np.asarray(voxels, np.uint32), grid.shape,
        np.array(grid.origin_mm[::-1]), np.array(grid.spacing_mm[::-1]), frame.isocenter_mm,
        np.stack([frame.u_axis, frame.v_axis, frame.direction]), frame.source_mm, u, v, t,
    )  # fmt: skip
    return u, v, t


def radiological_depth(
    rsp: np.ndarray, grid: Grid, frame: BeamFrame, voxels: np.ndarray, dose_grid: Grid | None = None
) -> np.ndarray:
    """Water-equivalent depth (n,) float32 in mm of voxel centers of ``dose_grid`` (the CT's)."""
    u, v, t = project_voxels(dose_grid or grid, voxels, frame)
    if not len(u):
        return np.empty(0, np.float32)
    return trace_field(
        rsp, grid, frame, (float(u.min()), float(u.max())), (float(v.min()), float(v.max()))
    ).at(u, v, t)


def along_range_mm(grid: Grid, frame: BeamFrame) -> tuple[float, float]:
    """Least and largest t of a grid's box, upstream no farther than a tenth short of the source."""
    lower, upper = grid.lower_mm, grid.upper_mm
    corners = np.array([[x, y, z] for x in (lower[0], upper[0]) for y in (lower[1], upper[1])
                        for z in (lower[2], upper[2])])  # fmt: skip
    along = (corners - frame.isocenter_mm) @ frame.direction
    nearest = -0.9 * frame.source_mm
    if along.max() <= nearest:
        raise ValueError(
            f"isocenter_mm={frame.isocenter_mm.tolist()} leaves the whole grid behind the beam's "
            f"source, {frame.source_mm:.0f} mm upstream of it; give one in or near the patient."
        )
    return max(float(along.min()), nearest), float(along.max())


def _stations_through(grid: Grid, frame: BeamFrame, step_mm: float) -> tuple[float, int]:
    t0, t1 = along_range_mm(grid, frame)
    return t0, int(np.ceil((t1 - t0) / step_mm)) + 2


def _cuts(n: int) -> np.ndarray:
    return np.linspace(0, n, N_BLOCKS + 1).astype(np.int64)
