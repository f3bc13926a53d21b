"""The dose grid around all that is scored."""

from dataclasses import replace

import numpy as np
import pytest

from engine.patient.patient import PartialVolume, Structure
from engine.patient.phantoms import water_tank
from ptenv.cases.scored import scored_grid, structures_on


@pytest.mark.parametrize("spacing_mm", [2.0, 3.0, 4.0])
def test_shares_beyond_whole_voxels_are_on_the_dose_grid(spacing_mm):
    """A nerve at the edge of the box whose share reaches a voxel further than its mask."""
    tank = water_tank((40.0, 60.0, 40.0), 2.0, 8.0)
    share = np.zeros(tank.grid.shape, np.float32)
    share[10, 4, 8:12], share[10, 3, 8:12] = 0.9, 0.4
    nerve = Structure("OpticNrv_L", share > 0.5, "organ", None, PartialVolume(tank.grid, share))
    window = (slice(10, 11), slice(3, 5), slice(8, 12))
    partial = PartialVolume(tank.grid.part(window), share[window])
    patient = tank.with_structures(replace(nerve, partial=partial))
    found = structures_on(patient, scored_grid(patient, spacing_mm, 2.0))
    wanted_cm3 = float(share.sum()) * tank.grid.voxel_volume_cm3
    assert found.volume_cm3("OpticNrv_L") == pytest.approx(wanted_cm3, rel=1e-4)
