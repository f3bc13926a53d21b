import numpy as np
import pytest

from engine.physics.ions import stopping_power_mev_cm2_g
from engine.physics.tracks import (
    ION_CHARGES,
    disc_average,
    impact_rings,
    kiefer_chatterjee,
    log_table_energy,
    scholz_kraft,
    table_energies,
)

MODELS = [scholz_kraft, kiefer_chatterjee]
ENERGIES = [0.1, 0.3, 1.0, 10.0, 100.0, 500.0]


@pytest.mark.parametrize("track_of", MODELS)
@pytest.mark.parametrize("energy_mev", ENERGIES)
@pytest.mark.parametrize("charge", ION_CHARGES)
def test_radial_dose_holds_the_whole_let(track_of, energy_mev, charge):
    track = track_of(charge, energy_mev)
    edges = np.concatenate([[0.0], np.geomspace(1e-6, track.reach_um, 20000)])
    middle = 0.5 * (edges[1:] + edges[:-1])
    total = np.sum(track.dose_gy(middle) * np.pi * np.diff(edges**2))
    let_kev_um = 0.1 * float(stopping_power_mev_cm2_g(charge, energy_mev))
    assert total == pytest.approx(0.1602177 * let_kev_um, rel=1e-3)
    assert float(track.within_gy_um2()) == pytest.approx(0.1602177 * let_kev_um, rel=1e-6)


@pytest.mark.parametrize("track_of", MODELS)
def test_dose_falls_with_the_distance_and_ends_at_the_reach(track_of):
    for charge in ION_CHARGES:
        for energy_mev in table_energies():
            track = track_of(charge, energy_mev)
            dose = track.dose_gy(np.geomspace(1e-5, 0.999 * track.reach_um, 200))
            assert np.all(dose > 0.0) and np.all(np.diff(dose) <= 1e-12 * dose[:-1])
            assert track.dose_gy(1.001 * track.reach_um) == 0.0


@pytest.mark.parametrize("track_of", MODELS)
def test_dose_within_a_radius_integrates_the_dose(track_of):
    track = track_of(6, 30.0)
    radius = np.geomspace(2.0 * track.core_um, 2.0 * track.reach_um, 50)
    step = 1e-5 * radius
    ring = track.within_gy_um2(radius + step) - track.within_gy_um2(radius - step)
    expected = track.dose_gy(radius) * 4.0 * np.pi * radius * step
    assert ring == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_slow_ions_keep_their_dose_in_the_core():
    track = scholz_kraft(6, 0.3)  # 0.062 · 0.3^1.7 = 0.008 µm, less than the core's 0.01 µm
    assert track.reach_um == track.core_um == 0.01


def test_mean_over_a_disc_matches_a_direct_integral():
    def within(radius):  # of exp(−r²)
        return -np.pi * np.expm1(-(radius**2))

    node, weight = np.polynomial.legendre.leggauss(60)
    radius, angle = 1.0 + node, 2.0 * np.pi * np.arange(120) / 120  # a disc of 2 µm
    for impact in (1e-3, 0.5, 1.7, 2.0, 2.3, 6.0):
        r2 = radius[:, None] ** 2 + impact**2 + 2.0 * impact * radius[:, None] * np.cos(angle)
        mean = np.mean(np.exp(-r2), axis=1) @ (weight * radius) / 2.0
        found = disc_average(within, 2.0, np.array([impact]))
        assert found == pytest.approx(mean, rel=2e-3)


@pytest.mark.parametrize("track_of", MODELS)
@pytest.mark.parametrize("energy_mev", ENERGIES)
def test_averaging_over_discs_at_all_impact_parameters_keeps_the_dose(track_of, energy_mev):
    track = track_of(6, energy_mev)
    impact, area = impact_rings(0.32, track.reach_um)
    total = disc_average(track.within_gy_um2, 0.32, impact) @ area
    # rings are coarse far out, where only this sum looks: the models square what they sum
    assert total == pytest.approx(float(track.within_gy_um2()), rel=5e-3)


def test_rings_cover_the_disc_and_the_reach():
    impact, area = impact_rings(5.0, 20.0)
    assert np.all(np.diff(impact) > 0.0) and np.all(area > 0.0)
    assert np.sum(area) == pytest.approx(np.pi * 25.0**2)


def test_energies_and_charges_without_a_track_are_refused():
    with pytest.raises(ValueError, match=r"energy_mev=600.0 per nucleon must lie within"):
        scholz_kraft(6, 600.0)
    with pytest.raises(ValueError, match=r"charge=8 has no track; use 1"):
        kiefer_chatterjee(8, 100.0)
    for energy_mev in (-1.0, 501.0, np.nan):
        with pytest.raises(ValueError, match=rf"energy_mev={energy_mev}"):
            log_table_energy(6, np.array([100.0, energy_mev]))
