"""Masks as regions in millimeters: distances, margins, rings, the external, and the dose grid.

A mask's surface lies between its voxels and the others. Distances are from voxel centers to that
surface, negative inside. The edge of the image is not a surface: a body cut by the field of view
goes on beyond it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from engine.patient import _kernels
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Role, Structure

RING = "zRing"  # normal tissue around the targets; TG-263 marks planning helpers with a z
_N_BINS = 1025


@dataclass(frozen=True, eq=False)
class DoseStructures:
    """Structures on a dose grid: the share of every voxel that lies inside, by name."""

    grid: Grid
    fraction: Mapping[str, np.ndarray]  # (nz, ny, nx) float32 in 0 … 1
    role: Mapping[str, Role]

    def volume_cm3(self, name: str) -> float:
        """Volume of a structure on this grid."""
        return float(self.fraction[name].sum(dtype=np.float64)) * self.grid.voxel_volume_cm3

    def members(self, name: str, minimum: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Flat voxel indices (n,) uint32, ascending, and fractions (n,) above a minimum."""
        fraction = self.fraction[name].ravel()
        voxels = np.flatnonzero(fraction > minimum).astype(np.uint32)
        return voxels, fraction[voxels]


def distance_mm(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Signed distance to the surface of a mask, (nz, ny, nx) float32 in mm, negative inside.

    Infinite (with the right sign) where an image holds no surface at all.
    """
    mask = _checked(mask, grid)
    if mask.all():
        return np.full(grid.shape, -np.inf, dtype=np.float32)
    if not mask.any():
        return np.full(grid.shape, np.inf, dtype=np.float32)
    return _to_surface(~mask, grid) - _to_surface(mask, grid)


def expand(mask: np.ndarray, grid: Grid, margin_mm: float) -> np.ndarray:
    """The mask grown by a margin (shrunk by a negative one), (nz, ny, nx).

    A voxel belongs to it when its center lies within the margin of the mask's surface, so margins
    round to the nearest voxel and volumes are unbiased.
    """
    mask = _checked(mask, grid)
    if not np.isfinite(margin_mm):
        raise ValueError(f"margin_mm={margin_mm} must be finite.")
    if margin_mm == 0 or not mask.any():
        return mask.copy()
    part, cut = grid.cropped(mask, max(margin_mm, 0.0) + 2 * max(grid.spacing_mm))
    grown = np.zeros(grid.shape, dtype=bool)
    grown[cut] = distance_mm(mask[cut], part) <= margin_mm
    return grown


def ring(patient: Patient, inner_mm: float, outer_mm: float, of: str | None = None) -> np.ndarray:
    """Tissue between two distances around a structure (by default all targets), (nz, ny, nx).

    Starts beyond ``inner_mm``, ends with ``outer_mm``, stays inside the external and outside
    every target.
    """
    if not 0 <= inner_mm < outer_mm:
        raise ValueError(
            f"inner_mm={inner_mm}, outer_mm={outer_mm}: a ring needs 0 <= inner_mm < outer_mm."
        )
    targets = patient.target_union()
    core = targets if of is None else patient.mask(of)
    around = expand(core, patient.grid, outer_mm) & ~expand(core, patient.grid, inner_mm)
    return around & patient.external.mask & ~targets


def external_from_hu(hu: np.ndarray, grid: Grid, threshold_hu: float = -350.0) -> np.ndarray:
    """The body in a CT, (nz, ny, nx): the largest connected component above a threshold.

    Cavities stay inside: what the body encloses within axial, then coronal slices belongs to it,
    so the airway does too although it opens at the nostrils, the mouth and the end of the scan.
    Tables and masks that do not touch the body are left out.
    """
    hu = np.asarray(hu)
    if hu.shape != grid.shape:
        raise ValueError(f"hu has shape {hu.shape}, the grid {grid.shape}.")
    labels, n_labels = ndimage.label(hu > threshold_hu)
    if n_labels == 0:
        raise ValueError(
            f"threshold_hu={threshold_hu}: the CT holds nothing denser (its maximum is "
            f"{hu.max():.0f} HU); is its offset right?"
        )
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = fill_slices(labels == np.argmax(sizes))
    return fill_slices(body.transpose(1, 0, 2)).transpose(1, 0, 2)


def fill_slices(mask: np.ndarray) -> np.ndarray:
    """The mask and all that it encloses within single slices across the first axis, (n, ., .)."""
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, n_labels = ndimage.label(~mask, structure=in_plane)
    open_to_edge = np.zeros(n_labels + 1, dtype=bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        open_to_edge[edge] = True
    open_to_edge[0] = False
    return ~open_to_edge[labels]


def resample_fraction(mask: np.ndarray, grid_from: Grid, grid_to: Grid) -> np.ndarray:
    """Share of every voxel of ``grid_to`` that lies inside the mask, (nz, ny, nx) float32.

    Onto a grid that is as coarse or coarser on every axis the overlap of voxels is exact. Onto a
    finer one the mask's staircase is first replaced by a smooth surface: the level set of the
    trilinearly interpolated mask whose volume is the mask's own.
    """
    mask = _checked(mask, grid_from)
    if not mask.any():
        return np.zeros(grid_to.shape, dtype=np.float32)
    part, cut = grid_from.cropped(mask, 2 * max(grid_from.spacing_mm))
    coarser = all(t >= f * (1 - 1e-6) for t, f in zip(grid_to.spacing_mm, part.spacing_mm))
    return _resampled(mask[cut].astype(np.float32), part, grid_to, _overlap if coarser else _smooth)


def structure_fraction(structure: Structure, grid_from: Grid, grid_to: Grid) -> np.ndarray:
    """Share of every voxel of ``grid_to`` inside a structure, (nz, ny, nx) float32: by its partial
    volumes, spread evenly in a voxel, or else as ``resample_fraction`` of its mask."""
    if structure.partial is None:
        return resample_fraction(structure.mask, grid_from, grid_to)
    return _resampled(structure.partial.share, structure.partial.grid, grid_to, _overlap)


def _resampled(field: np.ndarray, part: Grid, grid_to: Grid, resample: Callable) -> np.ndarray:
    """Shares of one grid on another, which may lie elsewhere."""
    fraction = np.zeros(grid_to.shape, dtype=np.float32)
    window = _covered(grid_to, part)
    if any(w.stop <= w.start for w in window):
        return fraction
    fraction[window] = resample(field, part, grid_to, window)
    return fraction


def on_grid(patient: Patient, grid: Grid) -> DoseStructures:
    """Every structure of a patient as fractional volumes on a dose grid."""
    structures = patient.structures.values()
    return DoseStructures(
        grid,
        {s.name: structure_fraction(s, patient.grid, grid) for s in structures},
        {s.name: s.role for s in structures},
    )


def _to_surface(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Distance from the voxels of a mask to the surface between it and the rest, 0 elsewhere.

    The distance d to the nearest center beyond, less the half voxel that lies behind the surface:
    half of Σ s n⁴ with n = d/|d|, which is exact for faces along the axes and unbiased on balls,
    whose nearest centers lie closer to the surface than half a voxel.
    """
    nearest = ndimage.distance_transform_edt(
        mask, sampling=grid.spacing_mm, return_distances=False, return_indices=True
    )
    square = np.zeros(mask.shape, dtype=np.float32)
    behind = np.zeros(mask.shape, dtype=np.float32)
    for axis, (n, spacing) in enumerate(zip(grid.shape, grid.spacing_mm)):
        index = np.arange(n, dtype=nearest.dtype)
        index = np.expand_dims(index, tuple(a for a in range(3) if a != axis))
        part = np.square((nearest[axis] - index).astype(np.float32) * np.float32(spacing))
        square += part
        behind += np.square(part) * np.float32(0.5 * spacing)
    behind /= np.square(np.maximum(square, np.float32(1e-6)))
    return np.sqrt(square) - behind


def _covered(grid: Grid, part: Grid) -> tuple[slice, ...]:
    """Slices of a grid whose voxels overlap the box of another."""
    lower = np.ceil(grid.index_of(part.lower_mm) - 0.5 + 1e-9)
    upper = np.floor(grid.index_of(part.upper_mm) + 0.5 - 1e-9)
    return tuple(
        slice(int(max(low, 0)), int(max(min(high + 1, n), 0)))
        for low, high, n in zip(lower, upper, grid.shape)
    )


def _overlap(field: np.ndarray, part: Grid, grid: Grid, window) -> np.ndarray:
    """Mean of the mask over every voxel of the window, axis by axis."""
    for axis in range(3):
        shares = _axis_overlap(part, grid, window[axis], axis)
        field = np.moveaxis(np.tensordot(shares, field, axes=(1, axis)), 0, axis)
    return field


def _axis_overlap(part: Grid, grid: Grid, window: slice, axis: int) -> np.ndarray:
    """Share of every target interval that every source interval covers, (n_to, n_from) float32."""
    source, target = part.spacing_mm[axis], grid.spacing_mm[axis]
    center_from = part.origin_mm[axis] + source * np.arange(part.shape[axis])
    center_to = grid.origin_mm[axis] + target * np.arange(window.start, window.stop)
    reach = 0.5 * (source + target) - np.abs(center_to[:, None] - center_from[None, :])
    return (np.clip(reach, 0.0, min(source, target)) / target).astype(np.float32)


def _smooth(field: np.ndarray, part: Grid, grid: Grid, window) -> np.ndarray:
    level = _volume_preserving_level(field)
    corner = [o + s * w.start for o, s, w in zip(grid.origin_mm, grid.spacing_mm, window)]
    first = (np.array(corner) - np.array(part.origin_mm)) / np.array(part.spacing_mm)
    step = np.array(grid.spacing_mm) / np.array(part.spacing_mm)
    shape = tuple(w.stop - w.start for w in window)
    return _kernels.smooth_fractions(field, level, first, step, shape)


def _volume_preserving_level(field: np.ndarray) -> float:
    """Level of the interpolated mask that encloses the volume of the mask."""
    counts = _kernels.value_histogram(field, _N_BINS)
    values = np.linspace(0.0, 1.0, _N_BINS)
    wanted = field.sum(dtype=np.float64) * _kernels.SAMPLES**3
    low, high = 0.5 * _kernels.SOFT_STEP + 1e-3, 1.0
    for _ in range(30):
        level = 0.5 * (low + high)
        inside = np.clip((values - level) / _kernels.SOFT_STEP + 0.5, 0.0, 1.0)
        low, high = (level, high) if counts @ inside > wanted else (low, level)
    return level


def _checked(mask: np.ndarray, grid: Grid) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != grid.shape:
        raise ValueError(
            f"mask is {mask.dtype} of shape {mask.shape}; give a boolean volume of the grid's "
            f"shape {grid.shape}."
        )
    return mask
