"""The paper's discretization on fixed groups, held against solutions in closed form and tables.

Rows refer to the validation targets of the physics reference, section 9.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss, legvander
from scipy.sparse import csr_array

from engine.dose.yoda.fixed_groups import (
    GAMMA,
    STAGES,
    Coefficients,
    FixedGroups,
    Transport,
    assemble,
    factorize,
    gaussian,
    march,
    sdirk3_step,
    solve,
    standard_deviation_mev,
)
from engine.physics.materials import LEXAN, WATER, relative_stopping_power, water
from engine.physics.nuclear import interactions_per_mm
from engine.physics.stopping_power import csda_range_mm, mass_stopping_power
from engine.physics.straggling import energy_straggling_mev2_cm

# A medium whose spectra stay Gaussian: S linear in energy, T and Σ constant.
S_MEV_PER_MM, S_SLOPE_PER_MM, AT_MEV = 1.0, -0.01, 50.0
T_MEV2_PER_MM, ABSORBED_PER_MM = 0.1, 0.01
DEPTH_MM = 10.0
START_MEV, START_STD_MEV = 60.0, 2.0


def medium(straggling_mev2_per_mm=T_MEV2_PER_MM, absorbed_per_mm=ABSORBED_PER_MM):
    return Coefficients(
        lambda energy: S_MEV_PER_MM + S_SLOPE_PER_MM * (energy - AT_MEV),
        lambda energy: straggling_mev2_per_mm + 0.0 * energy,
        lambda energy: absorbed_per_mm + 0.0 * energy,
    )


def exact(straggling_mev2_per_mm=T_MEV2_PER_MM, absorbed_per_mm=ABSORBED_PER_MM):
    """φ(E) at ``DEPTH_MM`` by the method of moments: an Ornstein-Uhlenbeck process."""
    b, growth = S_SLOPE_PER_MM, np.exp(-S_SLOPE_PER_MM * DEPTH_MM)
    rest = AT_MEV - S_MEV_PER_MM / b
    mean = rest + (START_MEV - rest) * growth
    variance = START_STD_MEV**2 * growth**2 + straggling_mev2_per_mm * (growth**2 - 1) / (-2.0 * b)
    spectrum = gaussian(mean, np.sqrt(variance))
    return lambda energy: np.exp(-absorbed_per_mm * DEPTH_MM) * spectrum(energy)


def carried(groups, of, n_steps):
    initial = groups.project(gaussian(START_MEV, START_STD_MEV))
    step = np.full(n_steps, DEPTH_MM / n_steps)
    return march(groups, initial, [assemble(groups, of)] * n_steps, step)[-1]


def distance(groups, coefficients, spectrum):
    """L2 norm of the difference, MeV^−½."""
    xi, weight = leggauss(8)
    difference = coefficients @ legvander(xi, 2).T - spectrum(groups.at(xi))
    return np.sqrt(0.5 * groups.width_mev * np.sum(weight * difference**2))


def slopes(errors):
    return np.log2(np.array(errors[:-1]) / errors[1:])


@lru_cache(maxsize=8)
def in_water(energy_mev, std_mev=1.0, width_mev=0.44, step_mm=0.25, i_water_ev=75.0, **options):
    top = energy_mev + 6.0 * std_mev + 1.0
    groups = FixedGroups(1.0, top, round((top - 1.0) / width_mev))
    end = csda_range_mm(energy_mev, water(i_water_ev)) * 1.1 + 2.0
    depth = step_mm * np.arange(round(end / step_mm) + 1)
    return solve(groups, energy_mev, std_mev, depth, i_water_ev=i_water_ev, **options)


def binned(transport: Transport, bin_mm=None):
    """Centers of bins and the dose averaged in them."""
    step = transport.depth_mm[1] - transport.depth_mm[0]
    n = 1 if bin_mm is None else round(bin_mm / step)
    dose = transport.dose_mev_per_mm
    dose = dose[: dose.size // n * n].reshape(-1, n).mean(axis=1)
    return (np.arange(dose.size) + 0.5) * n * step, dose


def reach(center, dose, level):
    """Depths at ``level`` of the maximum in front of the peak and behind it."""
    relative, top = dose / dose.max(), int(np.argmax(dose))
    behind = np.interp(-level, -relative[top:], center[top:])
    first = np.nonzero(relative[: top + 1] < level)[0][-1]
    rise = slice(first, first + 2)
    return np.interp(level, relative[rise], center[rise]), behind


# --- SDIRK3


def test_sdirk3_meets_the_order_conditions():  # row 7
    weight, node = STAGES[-1], STAGES.sum(axis=1)
    assert node == pytest.approx([GAMMA, 0.5 * (1.0 + GAMMA), 1.0], abs=1e-14)
    assert weight.sum() == pytest.approx(1.0, abs=1e-14)
    assert weight @ node == pytest.approx(1.0 / 2.0, abs=1e-14)
    assert weight @ node**2 == pytest.approx(1.0 / 3.0, abs=1e-14)
    assert weight @ STAGES @ node == pytest.approx(1.0 / 6.0, abs=1e-14)


def test_sdirk3_converges_with_order_three():  # row 7
    errors = []
    for n in (20, 40, 80, 160):
        operator, state = csr_array([[1.0]]), np.array([1.0])
        factors = factorize(operator, np.array([1.0]), 2.0 / n)
        for _ in range(n):
            state = sdirk3_step(operator, factors, 2.0 / n, state)
        errors.append(abs(state[0] - np.exp(-2.0)))
    assert slopes(errors) == pytest.approx(3.0, abs=0.1)


def test_sdirk3_damps_what_is_infinitely_stiff():
    operator = csr_array([[1e9]])
    state = sdirk3_step(operator, factorize(operator, np.array([1.0]), 1.0), 1.0, np.array([1.0]))
    assert abs(state[0]) < 1e-6


# --- Operator


def test_constant_stopping_moves_the_spectrum_down_at_its_speed():
    groups = FixedGroups(10.0, 80.0, 140)
    of = Coefficients(lambda e: 1.5 + 0.0 * e, lambda e: 0.0 * e, lambda e: 0.0 * e)
    initial = groups.project(gaussian(START_MEV, START_STD_MEV))
    spectra = march(groups, initial, [assemble(groups, of)] * 200, np.full(200, 0.1))
    after = Transport(groups, 0.1 * np.arange(201), spectra)
    assert after.mean_energy_mev[-1] == pytest.approx(START_MEV - 1.5 * 20.0, abs=1e-8)
    assert after.energy_std_mev[-1] == pytest.approx(START_STD_MEV, abs=1e-6)
    assert after.number == pytest.approx(1.0, abs=1e-9)
    assert distance(groups, spectra[-1], gaussian(30.0, START_STD_MEV)) < 1e-3


@pytest.mark.parametrize("of", [medium(0.0, 0.0), medium()], ids=["drift", "drift and straggling"])
def test_quadratic_groups_converge_with_order_three(of):  # row 8
    spectrum = exact(of.straggling_mev2_per_mm(0.0), of.absorbed_per_mm(0.0))
    groups = [FixedGroups(10.0, 80.0, n) for n in (70, 140, 280)]
    errors = [distance(g, carried(g, of, 400), spectrum) for g in groups]
    assert slopes(errors) == pytest.approx(3.0, abs=0.2)


def test_steps_in_depth_converge_with_order_three():
    groups = FixedGroups(10.0, 80.0, 280)
    errors = [distance(groups, carried(groups, medium(), n), exact()) for n in (20, 40, 80)]
    assert slopes(errors) == pytest.approx(3.0, abs=0.2)


def test_operator_is_exact_for_a_parabola():
    groups = FixedGroups(1.0, 110.0, 20)
    of = Coefficients(lambda e: 2.0 - 0.01 * e, lambda e: 0.1 + 0.02 * e, lambda e: 0.01 + 0.0 * e)
    initial = groups.project(lambda e: 1.0 + 0.3 * e - 0.02 * e**2)
    per_mm = -assemble(groups, of) @ initial.ravel() / groups.mass_mev.ravel()
    drift = np.polyder(np.polymul([-0.01, 2.0], [-0.02, 0.3, 1.0]))
    spread = 0.5 * np.polyder(np.polymul([0.02, 0.1], [-0.02, 0.3, 1.0]), 2)
    change = np.polyadd(np.polyadd(drift, spread), -0.01 * np.array([-0.02, 0.3, 1.0]))
    expected = groups.project(lambda e: np.polyval(change, e))
    inner = slice(1, -1)
    assert per_mm.reshape(-1, 3)[inner] == pytest.approx(expected[inner], abs=1e-8)


def test_operator_changes_number_energy_and_its_square_as_the_equation_does():
    groups = FixedGroups(1.0, 110.0, 100)
    of = Coefficients(lambda e: 2.0 - 0.01 * e, lambda e: 0.1 + 0.02 * e, lambda e: 0.0 * e)
    spectrum = np.random.default_rng(3).normal(size=(groups.n_groups, 3))
    spectrum[0] = spectrum[-1] = 0.0  # nothing at the ends
    per_mm = -assemble(groups, of) @ spectrum.ravel() / groups.mass_mev.ravel()

    xi, weight = leggauss(8)
    energy, values = groups.at(xi), spectrum @ legvander(xi, 2).T
    stopping, straggling = of.stopping_mev_per_mm(energy), of.straggling_mev2_per_mm(energy)
    by_parts = [0.0 * energy, -stopping, straggling - 2.0 * energy * stopping]
    expected = [0.5 * groups.width_mev * np.sum(weight * values * f) for f in by_parts]
    got = np.tensordot(groups.moments, per_mm.reshape(-1, 3), axes=2)
    assert got == pytest.approx(expected, abs=1e-7)


def test_moments_of_a_projected_gaussian_are_its_own():
    groups = FixedGroups(1.0, 110.0, 200)
    number, energy, square = np.tensordot(
        groups.moments, groups.project(gaussian(100.0, 1.0)), axes=2
    )
    assert number == pytest.approx(1.0, abs=1e-9)
    assert energy == pytest.approx(100.0, abs=1e-8)
    assert square - energy**2 == pytest.approx(1.0, abs=1e-6)


# --- Beams in water


def test_number_and_energy_are_conserved_without_absorption():  # row 9
    transport = in_water(100.0)
    plateau = transport.depth_mm < 65.0  # 10 deviations of range before the first stop
    assert transport.number[plateau] == pytest.approx(1.0, abs=1e-9)
    deposited = np.sum(transport.dose_mev_per_mm * np.diff(transport.depth_mm))
    assert deposited == pytest.approx(100.0, abs=1e-7)  # 1e-9 of the energy


def test_spectrum_widens_as_straggling_and_stopping_say():
    transport = in_water(100.0)
    n = int(np.searchsorted(transport.depth_mm, 40.0))
    mean, std = transport.mean_energy_mev[: n + 1], transport.energy_std_mev
    stopping = mass_stopping_power(mean) / 10.0
    spread = energy_straggling_mev2_cm(mean) / 10.0 / stopping**2
    grown = np.sum(0.5 * (spread[1:] + spread[:-1]) * np.diff(transport.depth_mm[: n + 1]))
    expected = stopping[n] * np.sqrt((1.0 / stopping[0]) ** 2 + grown)
    assert std[n] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("energy, expected", [(100.0, 77.18), (150.0, 157.7)])  # row 10
def test_range_of_a_beam_with_spread_is_that_of_its_mean(energy, expected):
    _, behind = reach(*binned(in_water(energy)), 0.8)
    assert behind == pytest.approx(expected, abs=0.1)


# MCsquare without nuclear interactions, I = 78 eV, no spread, bins of 0.5 mm: its CSDA range, R80,
# width at 80 %, dose in the peak over that at 1 to 3 mm.
@pytest.mark.parametrize(
    "energy, width_mev, step_mm, csda_mm, r80_mm, between_mm, ratio",
    [
        (100.0, 0.25, 0.125, 77.54, 77.42, 1.93, 6.93),
        (150.0, 0.3, 0.125, 158.47, 158.34, 3.76, 6.95),
        (200.0, 0.4, 0.25, 260.73, 260.58, 6.00, 6.85),
    ],
)
def test_depth_dose_matches_mcsquare(  # row 11
    energy, width_mev, step_mm, csda_mm, r80_mm, between_mm, ratio
):
    transport = in_water(energy, 0.1, width_mev, step_mm, i_water_ev=78.0)
    center, dose = binned(transport, bin_mm=0.5)
    before, behind = reach(center, dose, 0.8)
    entrance = dose[(center > 1.0) & (center < 3.0)].mean()
    tables = csda_mm / csda_range_mm(energy, water(78.0))  # its stopping powers are 0.05 % larger
    assert behind * tables == pytest.approx(r80_mm, abs=0.2)
    assert behind - before == pytest.approx(between_mm, abs=0.15)
    assert dose.max() / entrance == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("energy", [100.0, 150.0])
def test_a_window_of_five_deviations_changes_nothing(energy):  # row 12
    full, windowed = in_water(energy), in_water(energy, window=5.0)
    peak = full.dose_mev_per_mm.max()
    assert windowed.dose_mev_per_mm == pytest.approx(full.dose_mev_per_mm, abs=1e-4 * peak)
    active = np.count_nonzero(np.any(windowed.coefficients_per_mev != 0.0, axis=2), axis=1)
    assert active[1:].mean() < 0.3 * full.groups.n_groups
    plateau = windowed.depth_mm < 0.9 * csda_range_mm(energy)
    assert windowed.number[plateau] == pytest.approx(1.0, abs=1e-5)  # row 9


def test_penalty_hardly_matters():
    peaks = [in_water(100.0, penalty=p).dose_mev_per_mm.max() for p in (1.0, 10.0, 200.0)]
    assert np.array(peaks) == pytest.approx(peaks[1], rel=0.002)


def test_groups_and_steps_of_the_reference_have_converged():
    coarse, fine = in_water(100.0), in_water(100.0, width_mev=0.22, step_mm=0.125)
    coarse, fine = binned(coarse, 1.0)[1], binned(fine, 1.0)[1][:85]
    assert coarse[:85] == pytest.approx(fine, abs=0.006 * fine.max())


def test_absorption_thins_the_beam_exponentially():
    transport = in_water(150.0, absorption=True)
    depth, mean = transport.depth_mm, transport.mean_energy_mev
    plateau = depth < 140.0
    processes = ("non-elastic", "proton-proton", "nuclear-elastic")
    per_mm = sum(interactions_per_mm(mean[plateau], p) for p in processes)
    steps = 0.5 * (per_mm[1:] + per_mm[:-1]) * np.diff(depth[plateau])
    expected = np.exp(-np.concatenate(([0.0], np.cumsum(steps))))
    assert expected[-1] < 0.9
    assert transport.number[plateau] == pytest.approx(expected, rel=1e-3)


def test_constant_absorption_is_exact():
    groups = FixedGroups(10.0, 80.0, 70)
    left = np.sum(groups.moments[0] * carried(groups, medium(), 100))
    assert left == pytest.approx(np.exp(-ABSORBED_PER_MM * DEPTH_MM), rel=1e-9)


# --- Materials and densities


def test_density_is_only_a_factor_of_depth():
    groups, depth = FixedGroups(1.0, 57.0, 100), np.linspace(0.0, 30.0, 61)
    density = np.repeat([1.0, 0.25, 2.0], 20)
    places = np.concatenate(([0.0], np.cumsum(np.diff(depth) / density)))
    plain = solve(groups, 50.0, 1.0, depth)
    stretched = solve(groups, 50.0, 1.0, places, density_g_cm3=density)
    assert stretched.coefficients_per_mev == pytest.approx(plain.coefficients_per_mev, abs=1e-9)


def test_a_slab_of_plastic_pulls_the_range_up_by_its_stopping_power():
    groups, depth = FixedGroups(1.0, 107.0, 240), 0.25 * np.arange(360)
    slab = (depth[:-1] >= 10.0) & (depth[:-1] < 30.0)
    plain = solve(groups, 100.0, 1.0, depth)
    behind = solve(
        groups,
        100.0,
        1.0,
        depth,
        materials=[LEXAN if inside else WATER for inside in slab],
        density_g_cm3=np.where(slab, LEXAN.density_g_cm3, 1.0),
    )
    pull = reach(*binned(plain), 0.8)[1] - reach(*binned(behind), 0.8)[1]
    expected = 20.0 * (relative_stopping_power(LEXAN, 85.0) - 1.0)
    assert pull == pytest.approx(expected, abs=0.02)


def test_density_stated_by_a_material_plays_no_part():
    groups, depth = FixedGroups(1.0, 57.0, 60), np.linspace(0.0, 20.0, 41)
    heavy = replace(LEXAN, density_g_cm3=7.0)
    one = solve(groups, 50.0, 1.0, depth, materials=LEXAN, absorption=True)
    other = solve(groups, 50.0, 1.0, depth, materials=heavy, absorption=True)
    assert other.energy_flow_mev == pytest.approx(one.energy_flow_mev, rel=1e-12)


# --- Input


def test_printed_spread_is_root_two_deviations():
    assert standard_deviation_mev(1.0) == pytest.approx(0.70711, abs=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1.0, 100.0, 1), "n_groups"),
        ((1.0, 100.0, 10.5), "n_groups"),
        ((1.0, 100.0, np.nan), "n_groups"),
        ((100.0, 1.0, 10), "ascend"),
        ((0.0, 100.0, 10), "tables"),
        ((1.0, 501.0, 10), "tables"),
        ((1.0, np.nan, 10), "e_max_mev"),
    ],
)
def test_groups_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FixedGroups(*arguments)


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(depth_mm=[0.0, 2.0, 1.0]), "must increase"),
        (dict(depth_mm=[0.0, 1.0, 1.0]), "must increase"),
        (dict(depth_mm=[0.0]), "two stations"),
        (dict(depth_mm=[0.0, np.nan]), "two stations"),
        (dict(energy_mev=56.0), "widen the groups"),
        (dict(energy_mev=3.0), "widen the groups"),
        (dict(energy_mev=np.nan), "widen the groups"),
        (dict(energy_std_mev=0.0), "energy_std_mev"),
        (dict(density_g_cm3=0.0), "density_g_cm3"),
        (dict(density_g_cm3=[1.0, 1.0, 1.0]), "one per cell"),
        (dict(materials=[WATER]), "materials"),
        (dict(i_water_ev=-1.0), "i_ev|i_water_ev"),
        (dict(window=0.0), "window"),
        (dict(penalty=0.0), "penalty"),
    ],
)
def test_rays_and_beams_that_make_no_sense_are_refused(changed, message):
    good = dict(energy_mev=50.0, energy_std_mev=1.0, depth_mm=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        solve(FixedGroups(1.0, 57.0, 20), **(good | changed))


def test_inputs_are_left_as_they_were():
    depth, density = np.linspace(0.0, 5.0, 6), np.full(5, 1.1)
    before = depth.copy(), density.copy()
    transport = solve(FixedGroups(1.0, 57.0, 20), 50.0, 1.0, depth, density_g_cm3=density)
    transport.depth_mm[0] = -1.0
    assert np.array_equal(depth, before[0]) and np.array_equal(density, before[1])
