"""What fills every voxel: mass density and composition, for engines that follow particles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.patient._medium_kernels import overlap_mean
from engine.patient.ct import DEFAULT_CALIBRATION, Calibration, filled, overrides
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.physics.materials import Material

MAX_MATERIALS = 256


@dataclass(frozen=True, eq=False)
class Medium:
    """Density and composition on a grid. Where the density is 0 there is vacuum.

    Of ``materials`` only the composition counts, and the mean excitation energy with it.
    """

    grid: Grid
    density_g_cm3: np.ndarray  # (nz, ny, nx) float32
    material: np.ndarray  # (nz, ny, nx) uint8, index into materials
    materials: tuple[Material, ...]


def medium_of(
    patient: Patient,
    calibration: Calibration = DEFAULT_CALIBRATION,
    density_scale: float = 1.0,
) -> Medium:
    """The CT through a calibration, with the structures' overrides in place.

    ``density_scale`` is a range scenario's and scales all there is, overrides and supports too.
    Materials that no voxel is made of are left out.
    """
    if not (np.isfinite(density_scale) and density_scale > 0.0):
        raise ValueError(f"density_scale={density_scale} must be positive; 1 is the CT as it is.")
    if not np.all(np.isfinite(patient.hu)):
        n_bad = int(np.count_nonzero(~np.isfinite(patient.hu)))
        raise ValueError(
            f"hu of {patient.name!r} holds {n_bad} NaN or infinite values; repair the CT."
        )
    density = calibration.density_g_cm3(patient.hu)
    material = calibration.composition(patient.hu).astype(np.uint16)
    materials = list(calibration.materials)
    for mask, by in overrides(patient):
        density[mask] = by.density_g_cm3
        material[mask] = _index_of(by, materials, since=len(calibration.materials))
    density *= filled(patient) * np.float32(density_scale)
    if not np.all(np.isfinite(density) & (density >= 0.0)):
        raise ValueError("calibration gives densities that are negative, NaN or infinite.")
    return _only_used(patient.grid, density, material, materials)


def on_grid(medium: Medium, grid: Grid) -> Medium:
    """The medium on another grid, which conserves the mass of what the grid covers.

    Density is the mean over the voxel, where what lies beyond the medium's own grid counts as
    vacuum; the material is the one with the largest share of the voxel's mass.
    """
    if grid == medium.grid:
        return medium
    firsts, shares = zip(*(_axis_shares(medium.grid, grid, axis) for axis in range(3)))
    density, material = overlap_mean(
        np.ascontiguousarray(medium.density_g_cm3),
        np.ascontiguousarray(medium.material),
        len(medium.materials),
        firsts,
        *shares,
    )
    return replace(medium, grid=grid, density_g_cm3=density, material=material)


def _index_of(material: Material, materials: list[Material], since: int) -> int:
    """Where a material stands among those appended to a calibration's; appended if it is new."""
    for index in range(since, len(materials)):
        if materials[index] is material:
            return index
    materials.append(material)
    return len(materials) - 1


def _only_used(
    grid: Grid, density: np.ndarray, material: np.ndarray, materials: Sequence[Material]
) -> Medium:
    """Vacuum, which has no material, counts as the first that is used."""
    matter = density > 0.0
    counts = np.bincount(material[matter], minlength=len(materials))
    used = np.flatnonzero(counts) if counts.any() else np.array([0])
    if len(used) > MAX_MATERIALS:
        raise ValueError(
            f"{len(used)} materials fill the voxels; at most {MAX_MATERIALS} can be told apart, so "
            "choose a calibration with fewer."
        )
    index = np.zeros(len(materials), np.uint8)
    index[used] = np.arange(len(used))
    kept = np.where(matter, index[material], np.uint8(0))
    return Medium(grid, density, kept, tuple(materials[i] for i in used))


def _axis_shares(source: Grid, target: Grid, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every target interval the first source interval it meets, (n_to,) uint32, and the shares
    of it that this and the next ones cover, (n_to, n_met) float64; 0 beyond the source."""
    n, step = source.shape[axis], target.spacing_mm[axis] / source.spacing_mm[axis]
    offset = (target.origin_mm[axis] - source.origin_mm[axis]) / source.spacing_mm[axis]
    lower = offset + 0.5 + step * (np.arange(target.shape[axis]) - 0.5)  # source faces at 0 … n
    n_met = min(int(np.ceil(step)) + 1, n)
    first = np.clip(np.floor(lower), 0, n - n_met)
    low = first[:, None] + np.arange(n_met)
    covered = np.minimum(lower[:, None] + step, low + 1.0) - np.maximum(lower[:, None], low)
    return first.astype(np.uint32), np.maximum(covered, 0.0) / step
