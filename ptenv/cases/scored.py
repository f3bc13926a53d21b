"""What a case scores: a dose grid of its own, structures on it, rows, goals."""

from dataclasses import replace

import numpy as np
from scipy.ndimage import map_coordinates

from engine.evaluation.goals import head_and_neck_goals
from engine.evaluation.scorecard import Goal
from engine.optimization.head_and_neck import RING
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.patient.structures import DoseStructures, on_grid
from ptenv.cases.case import BODY


def scored_grid(patient: Patient, spacing_mm: float, ring_mm: float) -> Grid:
    """Cubes around everything that is scored: targets with their ring, and the organs."""
    around, _ = patient.grid.cropped(patient.target_union(), ring_mm + spacing_mm)
    lower, upper = around.lower_mm, around.upper_mm
    for organ in patient.organs:
        mask, partial = patient.mask(organ), patient.structures[organ].partial
        if mask.any():
            box, _ = patient.grid.cropped(mask)
            if partial is not None:  # shares reach beyond whole voxels
                box = partial.grid
            lower, upper = np.minimum(lower, box.lower_mm), np.maximum(upper, box.upper_mm)
    shape = np.maximum(1, np.ceil((upper - lower) / spacing_mm - 1e-6)).astype(int)[::-1]
    origin = (lower + 0.5 * spacing_mm)[::-1]
    return Grid(tuple(shape), (spacing_mm,) * 3, tuple(origin))


def structures_on(patient: Patient, grid: Grid) -> DoseStructures:
    """Structures on the dose grid, from the part of the CT that it covers."""
    low, high = patient.grid.index_of(np.stack([grid.lower_mm, grid.upper_mm]))
    margin = 3  # voxels: the smooth surface of a mask looks at its neighbors
    shape = np.array(patient.grid.shape)
    first = np.clip(np.floor(low).astype(int) - margin, 0, shape - 1)
    stop = np.clip(np.ceil(high).astype(int) + margin + 1, first + 1, shape)
    cut = tuple(slice(a, b) for a, b in zip(first, stop))
    origin = np.array(patient.grid.origin_mm) + first * np.array(patient.grid.spacing_mm)
    part = Grid(tuple(stop - first), patient.grid.spacing_mm, tuple(origin))
    near = {n: replace(s, mask=s.mask[cut]) for n, s in patient.structures.items()}
    return on_grid(replace(patient, grid=part, hu=patient.hu[cut], structures=near), grid)


def scored_voxels(fraction, objectives) -> np.ndarray:
    """Flat indices (n_rows,) uint32 of the voxels that carry an objective."""
    asked = sorted({o.structure for o in objectives})
    inside = np.logical_or.reduce([fraction[name] > 1e-3 for name in asked])
    return np.flatnonzero(inside).astype(np.uint32)


def scored_volume_cm3(fraction, name: str, grid: Grid, n_rows: int) -> float:
    """Volume of a structure on the dose grid; the body is all rows."""
    inside = n_rows if name == BODY else fraction[name].sum(dtype=np.float64)
    return float(inside) * grid.voxel_volume_cm3


def scored_goals(patient: Patient, names: list[str]) -> tuple[Goal, ...]:
    """The default goals on what the case scores; integral dose is the mean over all of it."""
    goals = [
        replace(g, structure=BODY) if g.structure == patient.external.name else g
        for g in head_and_neck_goals(patient, RING, integral=True)
    ]
    return tuple(g for g in goals if g.structure in names)


def metric_names(goals: tuple[Goal, ...], goal: Goal) -> tuple[str, ...]:
    """All metrics that are asked of one goal's structure."""
    return tuple(g.metric for g in goals if g.structure == goal.structure)


def hu_on(patient: Patient, grid: Grid) -> np.ndarray:
    """CT numbers at the dose grid's centers, (nz, ny, nx) int16; air beyond the CT."""
    axes = [
        (axis - origin) / spacing
        for axis, origin, spacing in zip(
            grid.axes_mm(), patient.grid.origin_mm, patient.grid.spacing_mm, strict=True
        )
    ]
    at = np.stack(np.meshgrid(*axes, indexing="ij"))
    return map_coordinates(patient.hu, at, order=1, mode="nearest").astype(np.int16)
