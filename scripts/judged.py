"""Which rows of a dose each structure holds: the same for a plan and for one that is recomputed."""

from collections.abc import Mapping

import numpy as np

from engine.evaluation.plan_evaluation import StructureRows
from engine.optimization.regions import Region, regions_on
from engine.patient.grid import Grid


def judged_on(
    grid: Grid, fraction: Mapping[str, np.ndarray], voxels: np.ndarray
) -> dict[str, StructureRows]:
    """Structures on the rows of a dose, from the share (nz, ny, nx) of every voxel inside.

    ``voxels`` (n_rows,) are the flat indices of the rows on the grid; structures that reach none
    are left out.
    """

    def rows_of(name: str, region: Region) -> StructureRows:
        inside = fraction[name].ravel()[voxels[region.rows]]
        volume_cm3 = float(inside.sum(dtype=np.float64)) * grid.voxel_volume_cm3
        return StructureRows(region.rows, region.volume, volume_cm3)

    regions = regions_on(voxels, fraction)
    return {name: rows_of(name, region) for name, region in regions.items()}
