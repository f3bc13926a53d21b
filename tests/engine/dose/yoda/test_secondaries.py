"""Products of nuclear interactions: against the model along depth alone, and Monte Carlo."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.signal import fftconvolve
from scipy.special import ndtr

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.dose.monte_carlo.simulation import StopAt, simulate
from engine.dose.yoda._secondaries_kernels import superpose_circles
from engine.dose.yoda.secondaries import (
    CIRCLE_CELLS,
    COARSE_CELLS,
    EVENT_MEV,
    PROCESSES,
    RADII_MM,
    SIGMA_MM,
    _circle_axis,
    _emitted,
    _event_kernels,
    _shares,
    _zero,
    secondary_dose,
)
from engine.geometry.scenarios import NOMINAL
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.machine import commissioning
from engine.machine.commissioning import detour_factor, projected_range_mm
from engine.machine.single_spots import SpotKind
from engine.patient.phantoms import water_tank
from engine.physics.materials import I_WATER_EV, WATER
from engine.physics.nuclear import charged_share, interactions_per_mm
from engine.physics.stopping_power import csda_range_mm

ENERGIES_MEV = (12.0, 70.0, 103.7, 150.0, 200.0, 250.0)
PITCH_MM, HALF_WIDTH_MM = 2.0, 101.0
CIRCLES_MM = (5.0, 10.0, 20.0, 40.0)


def per_mm(cumulative, dose):
    """Density in the middles of the cells, and these."""
    depth = dose.step_mm * (np.arange(cumulative.shape[-1] - 1) + 0.5)
    return np.diff(cumulative) / dose.step_mm, depth


@pytest.mark.parametrize("energy_mev", (70.0, 150.0, 230.0))
def test_depth_curves_are_those_of_the_model_along_depth(energy_mev):
    # Which leaves out that secondaries are turned by elastic and p–p scattering; its 32 angles of
    # elastic scattering leave ripples of 1 % near the end, as each has a peak of its own.
    dose = secondary_dose(energy_mev)
    found, depth = per_mm(dose.cumulative_mev.sum(axis=0), dose)
    range_mm = projected_range_mm(energy_mev, WATER)
    spread_mm = commissioning.range_spread_mm(energy_mev, 0.0, WATER)
    path = 1.0 / detour_factor(energy_mev)
    table = commissioning._residual(range_mm + 8.0 * spread_mm, path, I_WATER_EV, True)
    all_, _, protons, let = commissioning._secondary_dose(
        range_mm, spread_mm, path, I_WATER_EV, table
    )
    inside = depth[: all_.size] < 0.9 * range_mm
    for cumulative, expected, tolerance in (
        (dose.cumulative_mev.sum(axis=0), all_, 0.015),
        (dose.proton_cumulative_mev, protons, 0.015),
        (dose.let_cumulative, let, 0.04),
    ):
        found = per_mm(cumulative, dose)[0][: expected.size]
        np.testing.assert_allclose(found[inside], expected[inside], rtol=tolerance)
        assert np.sum(found) == pytest.approx(np.sum(expected), rel=0.01)


def test_events_hand_their_charged_energy_on():
    # What secondary reactions give to neutrals is missing: Σ times the range at most.
    kernels = _event_kernels(I_WATER_EV)
    total = kernels.depth[:, :, 0, -1] + kernels.local
    lost = csda_range_mm(EVENT_MEV, WATER) * sum(
        interactions_per_mm(0.5 * EVENT_MEV, p) for p in PROCESSES[:2]
    )
    handed = np.array([charged_share(EVENT_MEV), np.ones(EVENT_MEV.size), np.ones(EVENT_MEV.size)])
    assert np.all(total < 1.001 * handed)
    assert np.all(total > (1.0 - lost) * handed - 0.002)


def test_circles_hold_the_energy_of_the_depth_curve():
    kernels = _event_kernels(I_WATER_EV)
    np.testing.assert_allclose(kernels.circles[:, :, -1, -1], kernels.depth[:, :, 0, -1], rtol=2e-3)


@pytest.mark.parametrize("energy_mev", ENERGIES_MEV)
def test_gaussians_keep_the_energy_and_are_positive(energy_mev):
    dose = secondary_dose(energy_mev, 0.01 * energy_mev)
    assert np.all(np.diff(dose.cumulative_mev, axis=1) >= -1e-12)
    shares = _shares(projected_range_mm(energy_mev, WATER), detour_factor(energy_mev), I_WATER_EV)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, atol=1e-12)


@pytest.mark.parametrize("energy_mev", (70.0, 150.0, 230.0))
def test_gaussians_hold_what_circles_hold(energy_mev):
    range_mm, detour = projected_range_mm(energy_mev, WATER), detour_factor(energy_mev)
    step = range_mm / COARSE_CELLS
    emitted = _emitted(range_mm, detour, step, I_WATER_EV)
    within = np.zeros((RADII_MM.size + 1, COARSE_CELLS))
    superpose_circles(
        *emitted.of_rays, _event_kernels(I_WATER_EV).circles, _zero(CIRCLE_CELLS), CIRCLE_CELLS,
        step, np.append(RADII_MM, 1e6), *_circle_axis(), within,
    )  # fmt: skip
    within += emitted.local
    share = within[:-1] / within[-1]
    variance = 2.0 * np.maximum(np.array(SIGMA_MM), 1e-6) ** 2
    found = -np.expm1(-(RADII_MM[:, None] ** 2) / variance) @ _shares(range_mm, detour, I_WATER_EV)
    assert np.abs(found - share)[:, :72].max() < 0.025


@pytest.mark.parametrize("energy_mev", (70.0, 150.0, 230.0))
def test_dose_is_smooth_in_energy(energy_mev):
    # Also across the energies of the kernels, each 10 MeV.
    energies = energy_mev + np.array([-1.0, 0.0, 1.0])
    shares = []
    for energy in energies:
        dose = secondary_dose(energy)
        at = np.linspace(0.0, 1.1, 45) * projected_range_mm(energy, WATER)
        depth = dose.step_mm * np.arange(dose.cumulative_mev.shape[1])
        shares.append([np.interp(at, depth, c) for c in dose.cumulative_mev])
    low, middle, high = np.array(shares)
    assert np.abs(middle - 0.5 * (low + high)).max() < 2e-3 * middle.sum(axis=0).max()


def test_spread_of_energy_keeps_the_energy_and_widens_the_end():
    sharp, wide = secondary_dose(150.0), secondary_dose(150.0, 2.0)
    total = [d.cumulative_mev[:, -1].sum() for d in (sharp, wide)]
    assert total[1] == pytest.approx(total[0], rel=2e-3)
    beyond = [d.cumulative_mev[:, -1].sum() - d.cumulative_mev[:, 318].sum() for d in (sharp, wide)]
    assert beyond[1] > 1.2 * beyond[0]


def test_removal_is_the_sum_of_all_interactions():
    dose = secondary_dose(150.0)
    energy = np.arange(301.0)
    expected = sum(interactions_per_mm(energy, process) for process in PROCESSES)
    np.testing.assert_allclose(dose.removal_per_mm, expected)
    assert dose.surviving[0] == 1.0 and np.all(np.diff(dose.surviving) <= 0.0)
    depth = dose.step_mm * np.arange(dose.surviving.size)
    lost_per_mm = -np.diff(np.log(dose.surviving[:3])) / np.diff(depth[:3])
    np.testing.assert_allclose(lost_per_mm, dose.removal_per_mm[150], rtol=5e-3)


def test_arrays_are_read_only_and_kept():
    dose = secondary_dose(150.0, 1.0)
    assert secondary_dose(150.0, 1.0) is dose
    for field in fields(dose):
        if field.name != "step_mm":
            assert not getattr(dose, field.name).flags.writeable


@pytest.mark.parametrize(
    "energy_mev, energy_std_mev, i_water_ev, name",
    [
        (9.0, 0.0, 75.0, "energy_mev"),
        (251.0, 0.0, 75.0, "energy_mev"),
        (np.nan, 0.0, 75.0, "energy_mev"),
        (150.0, -1.0, 75.0, "energy_std_mev"),
        (150.0, 40.0, 75.0, "energy_std_mev"),
        (150.0, 0.0, 7.5, "i_water_ev"),
    ],
)
def test_values_out_of_range_are_refused(energy_mev, energy_std_mev, i_water_ev, name):
    with pytest.raises(ValueError, match=f"{name}="):
        secondary_dose(energy_mev, energy_std_mev, i_water_ev)


def monte_carlo(energy_mev, n_histories, depth_mm):
    """MeV per proton (nz, ny, nx) of all particles, and of protons until they first interact.

    Both with one seed: histories are the same up to their first interaction. Its products are no
    primaries, which for the engine scattered protons are; so the second run has none survive.
    """
    width, cells = (
        2.0 * HALF_WIDTH_MM,
        round(1.1 * projected_range_mm(energy_mev, WATER) / depth_mm),
    )
    tank = water_tank((width, cells * depth_mm, width), (PITCH_MM, depth_mm, PITCH_MM), 10.0)
    spot = SingleSpot(
        SpotKind(energy_mev, 0.0, 3.0, 0.0), (0.0, float(tank.grid.lower_mm[1]), 0.0),
        (0.0, 1.0, 0.0), 1.0,
    )  # fmt: skip
    plan = plan_of([spot], nuclear=False)
    setup = MonteCarloEngine()._setup(tank, plan, tank.grid, NOMINAL)
    all_non_elastic = np.ascontiguousarray(
        np.broadcast_to(setup.physics.reactions[..., -1:], setup.physics.reactions.shape)
    )
    until = replace(
        setup, primaries_only=True, physics=setup.physics._replace(reactions=all_non_elastic)
    )
    doses = []
    for each in (setup, until):
        found = simulate(each, plan.weights, StopAt(n_histories, 1.0, 10**9), 0, ("dose",), None)
        dose = found.quantities["dose"].astype(np.float64)
        doses.append(dose / each.gy_per_mev.reshape(dose.shape))
    return doses


def gaussian(sigma_mm, n):
    """Shares of a Gaussian in n × n cells around it."""
    edges = PITCH_MM * (np.arange(n + 1) - 0.5 * n)
    share = np.diff(ndtr(edges / max(sigma_mm, 1e-6)))
    return np.outer(share, share)


def test_products_agree_with_monte_carlo_along_and_across():
    """Circles within 0.4 % of the planar dose, of which 0.1 to 0.2 % is Monte Carlo's noise."""
    energy_mev, depth_mm = 150.0, 3.95
    everything, primaries = monte_carlo(energy_mev, 250_000, depth_mm)
    products = everything - primaries
    dose = secondary_dose(energy_mev)
    edges = depth_mm * np.arange(everything.shape[1] + 1)
    depth = dose.step_mm * np.arange(dose.cumulative_mev.shape[1])
    cells = np.array([np.diff(np.interp(edges, depth, c)) for c in dose.cumulative_mev])
    middle = PITCH_MM * (np.arange(products.shape[0]) - 0.5 * (products.shape[0] - 1))
    radius = np.hypot(middle[:, None], middle[None, :])
    peak = everything.sum(axis=(0, 2)).max()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        near = round(share * projected_range_mm(energy_mev, WATER) / depth_mm)
        rows = slice(near - 2, near + 2)
        core = primaries[:, rows].sum(axis=1)
        wide = sum(
            weight * gaussian(sigma, radius.shape[0])
            for weight, sigma in zip(cells[:, rows].sum(axis=1), dose.sigma_mm)
        )
        model, found = fftconvolve(core / core.sum(), wide, mode="same"), products[:, rows].sum(1)
        total = everything[:, rows].sum()
        assert cells[:, rows].sum() == pytest.approx(found.sum(), rel=0.025)
        assert abs(cells[:, rows].sum() - found.sum()) < 0.003 * 4.0 * peak
        for r in CIRCLES_MM:
            miss = model[radius <= r].sum() - found[radius <= r].sum()
            assert abs(miss) < 0.004 * total, (share, r, miss / total)
