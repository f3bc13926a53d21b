"""Dose-averaged LET: against published Monte Carlo, and what must be true of it anywhere."""

from functools import lru_cache

import numpy as np
import pytest

from engine.physics.materials import WATER, water
from engine.physics.stopping_power import csda_range_mm, energy_at_range, mass_stopping_power
from engine.physics.straggling import range_straggling_mm

# MCsquare, 10⁶ protons without energy spread, electromagnetic, I = 78 eV: keV/µm on the axis at
# these shares of R80. At R80 itself it has 9.9, 8.4 and 7.5: it stops protons at 0.5 MeV, where
# they have 41 keV/µm of up to 82, so that there theory is the judge.
SHARES = (0.1, 0.5, 0.9, 0.97)
MCSQUARE = {
    100.0: (0.76, 0.98, 2.0, 4.2),
    150.0: (0.57, 0.72, 1.46, 2.9),
    200.0: (0.47, 0.59, 1.17, 2.3),
}


def letd_by_depth(box, spots, proton_machine, energy_mev, step_mm, n, i_water_ev=78.0, **settings):
    """Depths, LETd averaged over the plane by dose, and depth dose, each (ny,)."""
    reach = 1.06 * float(csda_range_mm(energy_mev, water(i_water_ev)))
    tank = box((100.0, reach, 100.0), (100.0, step_mm, 100.0), i_water_ev=i_water_ev)
    found = tank.simulate(
        spots(proton_machine(energy_mev)), n, quantities=("dose", "letd"), **settings
    )
    dose, letd = (found.quantities[q][0, :, 0].astype(float) for q in ("dose", "letd"))
    return tank.depth_mm, letd, dose


def gaussian_ranges(energy_mev, depth_mm, to_mev):
    """Dose and LETd (n,) of ranges that spread by straggling, protons slower than ``to_mev`` cut.

    Integrals over residual range of stopping power and of its square.
    """
    medium = water(78.0)
    sigma = float(range_straggling_mm(energy_mev, medium))
    residual = np.geomspace(float(csda_range_mm(to_mev, medium)), 100.0, 20_000)
    s = 0.1 * mass_stopping_power(energy_at_range(residual, medium), medium)
    away = residual + depth_mm[:, None] - float(csda_range_mm(energy_mev, medium))
    share = np.exp(-0.5 * (away / sigma) ** 2)
    dose, product = (np.trapezoid(share * s**power, residual, axis=1) for power in (1, 2))
    return dose, product / dose


@pytest.fixture(scope="module")
def curve_at(box, spots, proton_machine):
    """Function: depth, LETd and dose at an energy, electromagnetic, in bins of 0.25 mm."""

    @lru_cache
    def at(energy_mev):
        return letd_by_depth(
            box, spots, proton_machine, energy_mev, 0.25, 15_000, physics="electromagnetic"
        )

    return at


@pytest.mark.parametrize("energy_mev", MCSQUARE)
def test_letd_is_that_of_published_monte_carlo(curve_at, distal, energy_mev):
    depth, letd, dose = curve_at(energy_mev)
    found = np.interp(np.array(SHARES) * distal(depth, dose), depth, letd)
    np.testing.assert_allclose(found, MCSQUARE[energy_mev], rtol=0.06)


@pytest.mark.parametrize("energy_mev", MCSQUARE)
def test_letd_at_the_distal_edge_is_that_of_ranges_spread_by_straggling(
    curve_at, distal, energy_mev
):
    depth, letd, dose = curve_at(energy_mev)
    expected_dose, expected = gaussian_ranges(energy_mev, depth[-240:], 0.001)
    at = distal(depth[-240:], expected_dose)
    found = np.interp(distal(depth, dose), depth, letd)
    assert found == pytest.approx(np.interp(at, depth[-240:], expected), rel=0.05)
    # and with MCsquare's cut the theory is MCsquare's
    cut_dose, cut = gaussian_ranges(energy_mev, depth[-240:], 0.5)
    mcsquare = {100.0: 9.9, 150.0: 8.4, 200.0: 7.5}[energy_mev]
    assert np.interp(distal(depth[-240:], cut_dose), depth[-240:], cut) == pytest.approx(
        mcsquare, rel=0.08
    )


@pytest.mark.parametrize("physics", ["electromagnetic", "all"])
def test_letd_rises_with_depth(box, spots, proton_machine, physics):
    depth, letd, dose = letd_by_depth(
        box, spots, proton_machine, 120.0, 3.0, 20_000, 75.0, physics=physics
    )
    seen = dose > 0.02 * dose.max()
    from_mm = 0.0 if physics == "electromagnetic" else 60.0  # secondaries, few and noisy, before
    letd = letd[seen & (depth > from_mm)]
    assert np.all(np.diff(letd) > -0.03 * letd[:-1])
    assert letd[-1] > 5.0 * letd[0]


def test_without_processes_letd_is_the_stopping_power_weighted_with_energy(
    box, spots, proton_machine
):
    depth, letd, dose = letd_by_depth(
        box, spots, proton_machine, 100.0, 1.0, 3, 75.0, physics="slowing down"
    )
    range_mm = float(csda_range_mm(100.0))
    for i in (0, 30, 60, 75):
        edges = energy_at_range(range_mm - np.linspace(depth[i] - 0.5, depth[i] + 0.5, 201))
        expected = np.trapezoid(0.1 * mass_stopping_power(edges, WATER), -edges) / (
            edges[0] - edges[-1]
        )
        assert letd[i] == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("physics", ["electromagnetic", "all"])
def test_letd_does_not_depend_on_the_size_of_voxels(box, spots, proton_machine, physics):
    # Scored by the energy lost in a step, from stopping power within it: not energy over length.
    (fine, letd, dose), (coarse, coarse_letd, _) = (
        letd_by_depth(box, spots, proton_machine, 150.0, step, 30_000, 75.0, physics=physics)
        for step in (1.0, 2.0)
    )
    at = 0.97 * 157.6
    found = np.interp(at, fine, letd), np.interp(at, coarse, coarse_letd)
    assert found[1] == pytest.approx(found[0], rel=0.03)
    n = len(fine) // 2
    merged = (letd * dose)[: 2 * n].reshape(n, 2).sum(1) / dose[: 2 * n].reshape(n, 2).sum(1)
    noise = 0.1 if physics == "all" else 0.01  # of rare slow secondaries
    np.testing.assert_allclose(merged[: n - 8], coarse_letd[: n - 8], rtol=noise)


def test_secondaries_raise_letd_in_the_plateau_and_primaries_have_that_of_their_speed(
    box, spots, proton_machine
):
    curves = {
        name: letd_by_depth(
            box, spots, proton_machine, 150.0, 2.0, 20_000, physics=physics, scored_particles=scored
        )[1]
        for name, physics, scored in (
            ("em", "electromagnetic", "all"), ("all", "all", "all"),
            ("primaries", "all", "primaries"),
        )
    }  # fmt: skip
    plateau = slice(5, 40)
    assert np.all(curves["all"][plateau] > 1.3 * curves["em"][plateau])
    # primaries that hydrogen slowed down are still primaries
    faster = curves["primaries"][plateau] / curves["em"][plateau]
    assert 0.999 < faster.min() and faster.max() < 1.1


def test_letd_is_zero_where_there_is_no_dose(box, spots, proton_machine):
    tank = box((60.0, 120.0, 60.0), 4.0)
    found = tank.simulate(
        spots(proton_machine(80.0)), 500, "electromagnetic", quantities=("dose", "letd")
    )
    dose, letd = found.quantities["dose"], found.quantities["letd"]
    assert np.array_equal(dose > 0.0, letd > 0.0)
    assert np.any(dose == 0.0) and letd.max() < 100.0  # the Bragg maximum of a proton is 82 keV/µm
