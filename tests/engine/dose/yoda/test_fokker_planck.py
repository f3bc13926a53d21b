"""The solver on moving groups: orders, conservation, and the same answer as on fixed groups."""

import numpy as np
import pytest

from engine.dose.yoda import _fokker_planck as fp
from engine.dose.yoda._solve import work_arrays
from engine.dose.yoda.coefficients import material_coefficients
from engine.dose.yoda.fixed_groups import FixedGroups, solve
from engine.dose.yoda.range_axis import (
    ENERGY,
    FINER,
    INVERSE_LOG,
    group_moments,
    range_axis,
    stopping_coefficients,
)
from engine.dose.yoda.spectrum import incoming
from engine.patient.ct import SchneiderCalibration
from engine.physics.materials import WATER, stopping_ratio_table

AXIS = range_axis(75.0)
PLACES_MM = np.linspace(48.0, 72.0, 2001)  # y, in which the spectrum hardly moves


def spectrum_after(width_mm, n_steps, depth_mm=50.0):
    """Density of ranges at PLACES_MM of a Gaussian at 60 mm, σ 1.5 mm, after a depth of water."""
    lowest, n = 44.0, round(32.0 / width_mm)
    xi, weight = np.polynomial.legendre.leggauss(12)
    y = lowest + (np.arange(n)[:, None] + 0.5 + 0.5 * xi) * width_mm
    density = np.exp(-0.5 * ((y - 60.0) / 1.5) ** 2) / (1.5 * np.sqrt(2.0 * np.pi))
    legendre = np.stack([np.ones_like(xi), xi, 1.5 * xi * xi - 0.5])
    u = np.einsum("gq,q,kq->gk", density, weight, legendre) * [0.5, 1.5, 2.5]
    work, stages, step = work_arrays(n), np.zeros((3, n, 3)), depth_mm / n_steps
    for k in range(n_steps):
        fp.step(u, lowest, width_mm, k * step, step, 0.0, step, AXIS.coefficients, work, stages)
    place = (PLACES_MM - lowest) / width_mm
    group = np.minimum(place.astype(int), n - 1)
    x = 2.0 * (place - group) - 1.0
    return u[group, 0] + u[group, 1] * x + u[group, 2] * (1.5 * x * x - 0.5)


def slopes(errors):
    return np.log2(np.array(errors[:-1]) / errors[1:])


def rms(a, b):
    return np.sqrt(np.mean((a - b) ** 2))


def test_the_error_is_of_third_order_in_the_group_width():
    finest = spectrum_after(0.25, 100)
    errors = [rms(spectrum_after(width, 100), finest) for width in (2.0, 1.0, 0.5)]
    np.testing.assert_allclose(slopes(errors), 3.0, atol=0.2)


def test_the_error_is_of_third_order_in_the_depth_step():
    finest = spectrum_after(0.5, 256)
    errors = [rms(spectrum_after(0.5, n), finest) for n in (4, 8, 16, 32)]
    np.testing.assert_allclose(slopes(errors), 3.0, atol=0.15)


def marched(energy_mev, std_mev, cells, step_mm=2.0, **groups):
    """Stations of a march through cells (n, N_COEFFICIENTS), up to where all have stopped."""
    found = incoming(energy_mev, std_mev, AXIS, **groups)
    n = len(found.coefficients)
    stations, scatter = np.zeros((len(cells) + 1, fp.N_STATION)), np.zeros((len(cells), 2))
    passed = fp.march(
        found.coefficients.copy(), found.lowest_mm, found.width_mm, found.mean_mm, 0.0, cells,
        step_mm, (AXIS.coefficients, AXIS.logs), group_moments(AXIS, found.width_mm),
        work_arrays(n), np.zeros((3, n, 3)), stations, scatter,
    )  # fmt: skip
    return stations[: passed + 1]


def water_cells(n, mm=1.0):
    """Water that does not scatter, so that paths are straight."""
    cells = np.zeros((n, fp.N_COEFFICIENTS))
    cells[:, fp.C] = mm
    return cells


@pytest.mark.parametrize("energy_mev, r80_mm", ((100.0, 77.18), (150.0, 157.7)))
def test_all_energy_is_left_up_to_the_known_range(energy_mev, r80_mm):
    """CSDA with 1 MeV of spread: physics of PSTAR, and a prototype on fixed groups."""
    stations = marched(energy_mev, 1.0, water_cells(2000, 0.1))
    energy = stations[:, fp.ENERGY_MEV]
    assert energy[0] == pytest.approx(energy_mev, rel=1e-5) and energy[-1] < 1e-6 * energy_mev
    dose = -np.diff(energy)
    top = int(np.argmax(dose))
    distal = np.interp(-0.8 * dose[top], -dose[top:], 0.1 * (np.arange(top, dose.size) + 0.5))
    assert distal == pytest.approx(r80_mm, abs=0.1)


@pytest.mark.parametrize("energy_mev", (100.0, 150.0))
def test_moving_groups_and_fixed_groups_give_the_same_dose(energy_mev):
    n = 90 if energy_mev == 100.0 else 175
    moving = -np.diff(marched(energy_mev, 1.0, water_cells(n))[:, fp.ENERGY_MEV])
    groups = FixedGroups(1.0, energy_mev + 8.0, int(energy_mev / 0.44))
    fixed = solve(groups, energy_mev, 1.0, 0.125 * np.arange(8 * n + 1))
    per_mm = fixed.dose_mev_per_mm.reshape(n, 8).mean(axis=1)[: len(moving)]
    assert np.abs(moving - per_mm).max() < 2e-3 * per_mm.max()


def test_the_answer_does_not_depend_on_the_groups_or_their_window():
    reference = -np.diff(marched(100.0, 1.0, water_cells(90), 0.5, groups_per_sigma=5.0,
                                 window_sigmas=7.0)[:, fp.ENERGY_MEV])  # fmt: skip
    for groups in ({}, dict(groups_per_sigma=3.0), dict(window_sigmas=6.0)):
        dose = -np.diff(marched(100.0, 1.0, water_cells(90), **groups)[:, fp.ENERGY_MEV])
        n = min(len(dose), len(reference))
        assert np.abs(dose[:n] - reference[:n]).max() < 3e-4 * reference.max()


def test_bone_and_air_on_the_way_act_by_their_own_stopping_powers():
    materials = (*SchneiderCalibration().materials[::23], WATER)  # air, dense bone, water
    table = material_coefficients(materials, 75.0, "moliere", False)
    table[:, fp.STRENGTH :] = 0.0
    kinds = np.repeat([2, 1, 0, 2], (20, 20, 20, 60))
    density = np.array([0.0012, 1.7, 1.0])[[0, 1, 2]][kinds]
    moving = -np.diff(marched(100.0, 1.0, table[kinds] * density[:, None])[:, fp.ENERGY_MEV])
    n, finer = len(moving), 8
    fixed = solve(
        FixedGroups(1.0, 108.0, 240), 100.0, 1.0, np.arange(finer * n + 1) / finer,
        density_g_cm3=np.repeat(density[:n], finer),
        materials=[materials[k] for k in np.repeat(kinds[:n], finer)],
    )  # fmt: skip
    per_mm = fixed.dose_mev_per_mm.reshape(n, finer).mean(axis=1)
    assert np.abs(moving - per_mm).max() < 5e-3 * per_mm.max()


def test_two_numbers_tell_a_materials_stopping_power():
    materials = SchneiderCalibration().materials
    energy = np.linspace(5.0, 250.0, 50)
    coefficients = stopping_coefficients(materials, 75.0)
    at = np.interp(energy, AXIS.functionals[::FINER, ENERGY], AXIS.coefficients[:, INVERSE_LOG])
    ratio = coefficients[:, :1] + coefficients[:, 1:] * at
    np.testing.assert_allclose(ratio, stopping_ratio_table(materials, energy), atol=1e-4)


def test_a_group_width_off_the_tables_step_is_refused():
    with pytest.raises(ValueError, match="width_mm=0.33"):
        group_moments(AXIS, 0.33)
