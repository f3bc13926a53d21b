"""The gamma index of two dose distributions in three dimensions.

Low, Harms, Mutic and Purdy, Med Phys 25 (1998) 656: at each reference point the smallest
sqrt(Δr²/DTA² + ΔD²/δ²) over the points of the evaluated distribution, taken as trilinear between
its voxel centers. δ is a percentage of one dose (global) or of the reference dose at the point
(local). A point passes where gamma is at most 1.
"""

from dataclasses import dataclass

import numpy as np

from engine.evaluation import _kernels
from engine.parallel import run_blocks
from engine.patient.grid import Grid


@dataclass(frozen=True, eq=False)
class Gamma:
    """Gamma (nz, ny, nx) float32, NaN where not evaluated, and the percentage that passes.

    Values above ``search_radius_mm`` / DTA are upper bounds: nothing was looked for farther away.
    """

    map: np.ndarray
    pass_rate_percent: float
    n_evaluated: int
    mean: float


def gamma_3d(
    reference_gy: np.ndarray,
    evaluated_gy: np.ndarray,
    grid: Grid,
    dose_percent: float = 3.0,
    distance_mm: float = 2.0,
    *,
    local: bool = False,
    cutoff_percent: float = 10.0,
    normalization_gy: float | None = None,
    search_radius_mm: float | None = None,
    mask: np.ndarray | None = None,
) -> Gamma:
    """Gamma index of ``evaluated_gy`` about ``reference_gy``, both (nz, ny, nx) on ``grid``.

    ``cutoff_percent`` and, when global, ``dose_percent`` refer to ``normalization_gy``: the
    largest reference dose by default, or a prescription. Reference voxels below the cut-off, or
    outside ``mask`` (nz, ny, nx), are not evaluated. The search ends at ``search_radius_mm``
    (3 DTA by default) and is resolved to 1e-3 in gamma, or DTA/40 where dose bends more.
    """
    reference, evaluated = _volumes(reference_gy, evaluated_gy, grid)
    for name, value in (("dose_percent", dose_percent), ("distance_mm", distance_mm)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be positive.")
    radius_mm = 3.0 * distance_mm if search_radius_mm is None else float(search_radius_mm)
    if not radius_mm >= distance_mm:
        raise ValueError(f"search_radius_mm={radius_mm} must reach distance_mm={distance_mm}.")
    normalization = _normalization(reference, normalization_gy)
    chosen = _chosen(reference, cutoff_percent * normalization / 100.0, local, mask)

    tolerance = reference if local else np.full((1, 1, 1), normalization, np.float32)
    out = np.full(reference.shape, np.nan, np.float32)
    cells, cell_distance = _cells_nearest_first(grid, distance_mm, radius_mm)
    arguments = (
        reference, _at_least_two_thick(evaluated), chosen, cells, cell_distance,
        np.array(grid.spacing_mm) / distance_mm, tolerance * np.float32(dose_percent / 100.0),
        _levels(grid, distance_mm), out,
    )  # fmt: skip
    run_blocks(_kernels.gamma_slice, grid.shape[0], *arguments)
    values = out[chosen].astype(np.float64)
    passed = values <= 1.0 + 1e-5  # float32 rounding of a gamma of 1
    return Gamma(out, 100.0 * float(np.mean(passed)), len(values), float(values.mean()))


def _volumes(reference_gy, evaluated_gy, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    volumes = []
    for name, dose in (("reference_gy", reference_gy), ("evaluated_gy", evaluated_gy)):
        dose = np.ascontiguousarray(dose, dtype=np.float32)
        if dose.shape != grid.shape:
            raise ValueError(f"{name} has shape {dose.shape}, the grid {grid.shape}.")
        if not np.all(np.isfinite(dose)):
            raise ValueError(f"{name} holds NaN or infinite values; check the dose computation.")
        volumes.append(dose)
    return tuple(volumes)


def _normalization(reference: np.ndarray, normalization_gy: float | None) -> float:
    value = float(reference.max()) if normalization_gy is None else float(normalization_gy)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"normalization_gy={value} must be positive; the reference has no dose.")
    return value


def _chosen(reference, cutoff_gy: float, local: bool, mask) -> np.ndarray:
    """Reference voxels (nz, ny, nx) to evaluate."""
    if not cutoff_gy >= 0:
        raise ValueError(f"the dose cut-off of {cutoff_gy} Gy must be 0 or more.")
    chosen = reference >= np.float32(cutoff_gy)
    if local:
        chosen &= reference > 0  # a percentage of no dose is no tolerance
    if mask is not None:
        if np.shape(mask) != reference.shape:
            raise ValueError(f"mask has shape {np.shape(mask)}, the dose {reference.shape}.")
        chosen &= np.asarray(mask, dtype=bool)
    if not chosen.any():
        raise ValueError("no reference voxel is above the cut-off and in mask; lower the cut-off.")
    return chosen


def _cells_nearest_first(grid: Grid, distance_mm: float, radius_mm: float):
    """Offsets (n, 3) of the cells within the radius and their distances (n,) in units of DTA."""
    axes = [np.arange(-int(np.ceil(radius_mm / s)), int(np.ceil(radius_mm / s)))
            for s in grid.spacing_mm]  # fmt: skip
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    gap = np.maximum(np.maximum(cells, -cells - 1), 0) * np.array(grid.spacing_mm)
    distance = np.sqrt((gap**2).sum(axis=1))
    near = distance < radius_mm
    order = np.argsort(distance[near], kind="stable")
    return cells[near][order], distance[near][order] / distance_mm


def _levels(grid: Grid, distance_mm: float) -> int:
    """Halvings that bring a cell to a fortieth of the distance to agreement.

    With a tenth gamma came out 0.05 too high where a local tolerance was a small share of the dose
    change per voxel; few boxes go so deep, and it costs no time that can be measured.
    """
    return max(0, min(11, int(np.ceil(np.log2(40.0 * max(grid.spacing_mm) / distance_mm)))))


def _at_least_two_thick(volume: np.ndarray) -> np.ndarray:
    """A volume without axes of length 1, which have no cells: such an axis is constant."""
    for axis in range(3):
        if volume.shape[axis] == 1:
            volume = np.repeat(volume, 2, axis=axis)
    return np.ascontiguousarray(volume)
