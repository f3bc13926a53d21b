"""Which voxels of a dose grid an engine answers for."""

import numpy as np

from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.patient.structures import resample_fraction


def body_voxels(patient: Patient, grid: Grid) -> np.ndarray:
    """Voxels of a dose grid that lie at least half in the body or its supports, uint32."""
    masks = [s.mask for s in patient.structures.values() if s.role in ("external", "support")]
    body = np.logical_or.reduce(masks)
    if grid == patient.grid:
        return np.flatnonzero(body).astype(np.uint32)
    return np.flatnonzero(resample_fraction(body, patient.grid, grid) >= 0.5).astype(np.uint32)


def checked_voxels(voxels: np.ndarray, grid: Grid) -> np.ndarray:
    """Flat indices as uint32; refuses what lies off the grid, and what does not ascend."""
    voxels = np.asarray(voxels)
    if voxels.ndim != 1 or (len(voxels) and (voxels.min() < 0 or voxels.max() >= grid.size)):
        raise ValueError(
            f"voxels must be flat indices (n,) in 0 … {grid.size - 1}, as of np.flatnonzero(mask); "
            f"these have shape {voxels.shape}."
        )
    if np.any(np.diff(voxels.astype(np.int64)) <= 0):
        raise ValueError("voxels must ascend without repeats; np.unique(voxels) does.")
    return voxels.astype(np.uint32)
