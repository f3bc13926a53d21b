"""Kernels of the pencil beam against our own Monte Carlo: a pencil of 4 mm in water."""

import numpy as np
import pytest

from engine.machine.commissioning import core_variance_mm2, pristine_peak, projected_range_mm
from engine.machine.halo import halo
from engine.machine.nozzle import energy_std_mev
from engine.physics.constants import GY_MM2_PER_MEV_CM2_G
from engine.physics.materials import WATER
from scripts.fit_halo import (
    CELLS,
    CELLS_PER_RANGE,
    PITCH_MM,
    RADII_MM,
    SHARES,
    Circles,
    double_gaussian,
    measured,
    planes,
)

N_HISTORIES = 150_000  # planar integrals of three cells to 0.3 %, shares of the dose to 0.2 %


@pytest.fixture(scope="module", params=[100.0, 200.0])
def pencil(request):
    return request.param, *planes(request.param, N_HISTORIES)


def test_planar_integral_is_monte_carlos_within_a_percent(pencil):
    energy, dose, grid = pencil
    found = dose.sum(axis=(0, 2)) * PITCH_MM**2 / GY_MM2_PER_MEV_CM2_G
    step = projected_range_mm(energy, WATER) / CELLS_PER_RANGE / 8
    depth = step * (np.arange(8 * CELLS) + 0.5)
    kernel = pristine_peak(energy, depth, float(energy_std_mev(energy)), step)
    ours = kernel.dose_mev_cm2_g.reshape(CELLS, 8).mean(axis=1)
    for share in (0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95):
        cells = slice(round(share * CELLS_PER_RANGE) - 1, round(share * CELLS_PER_RANGE) + 2)
        assert ours[cells].sum() == pytest.approx(found[cells].sum(), rel=0.01), share
    assert ours.sum() == pytest.approx(found.sum(), rel=0.003)


def test_dose_within_circles_is_monte_carlos(pencil):
    # halo.py: the fit misses 0.2 % of the planar integral at 100 MeV, 1.1 % at 200
    energy, dose, grid = pencil
    circles = Circles.of(grid)
    depth = SHARES * projected_range_mm(energy, WATER)
    core, (weight, wide) = core_variance_mm2(energy, depth), halo(energy, depth)
    ours = [double_gaussian(*row, circles) for row in zip(weight, wide, core)]
    reached = RADII_MM <= 30.0
    miss = np.abs(np.array(ours) - measured(dose, circles))[:, reached]
    assert miss.max() < (0.005 if energy < 150.0 else 0.015)
