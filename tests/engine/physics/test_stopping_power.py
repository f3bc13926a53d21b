import numpy as np
import pytest

from engine.physics.materials import LEXAN, WATER, water
from engine.physics.stopping_power import (
    bethe_mev_cm2_g,
    csda_range_mm,
    energy_at_range,
    mass_stopping_power,
)

# fmt: off
# NIST PSTAR, liquid water: total stopping power, MeV cm²/g.
PSTAR = {
    1: 260.8, 2: 158.6, 5: 79.11, 10: 45.67, 20: 26.07, 30: 18.76, 50: 12.45, 70: 9.559,
    80: 8.625, 100: 7.289, 120: 6.379, 150: 5.445, 160: 5.209, 180: 4.812, 200: 4.492,
    220: 4.229, 230: 4.114, 250: 3.911,
}
# NIST PSTAR, liquid water: CSDA range, g/cm².
PSTAR_RANGE = {
    10: 0.1230, 20: 0.4259, 30: 0.8851, 40: 1.4884, 50: 2.2266, 60: 3.0928, 70: 4.0799,
    80: 5.1831, 90: 6.3971, 100: 7.7174, 110: 9.1379, 120: 10.657, 125: 11.453, 130: 12.272,
    140: 13.977, 150: 15.771, 160: 17.650, 170: 19.610, 175: 20.620, 180: 21.649, 190: 23.765,
    200: 25.955, 220: 30.548, 230: 32.946, 250: 37.935,
}
# fmt: on


def test_stopping_power_in_water_matches_pstar():
    energy = np.array(list(PSTAR), dtype=float)
    assert mass_stopping_power(energy) == pytest.approx(list(PSTAR.values()), rel=5e-4)


def test_bare_bethe_matches_pstar_above_50_mev():
    energy = np.array([e for e in PSTAR if e >= 50], dtype=float)
    table = [PSTAR[e] for e in energy]
    assert bethe_mev_cm2_g(energy, WATER.z_over_a, 75.0) == pytest.approx(table, rel=1e-3)


def test_range_in_water_matches_pstar():
    energy = np.array(list(PSTAR_RANGE), dtype=float)
    table = 10.0 * np.array(list(PSTAR_RANGE.values()))
    assert csda_range_mm(energy) == pytest.approx(table, rel=5e-4)


def test_range_at_one_mev_is_within_a_micrometer_of_pstar():
    assert csda_range_mm(1.0) == pytest.approx(0.02458, abs=1e-3)


def test_energy_at_range_inverts_the_range():
    energy = np.geomspace(0.01, 400.0, 300)
    assert energy_at_range(csda_range_mm(energy)) == pytest.approx(energy, rel=1e-9)
    assert energy_at_range(0.0) == 0.0
    tiny = energy_at_range(np.array([0.0, 1e-9, 1e-7, 1e-5]))
    assert np.all(np.diff(tiny) > 0)


def test_higher_excitation_energy_lengthens_the_range_by_half_a_percent():
    longer = csda_range_mm(150.0, water(78.0)) / csda_range_mm(150.0)
    assert longer == pytest.approx(1.0048, abs=5e-4)  # ICRU 90 against ICRU 49


def test_range_is_the_integral_of_the_inverse_stopping_power():
    energy = np.linspace(20.0, 200.0, 20001)
    inverse = 10.0 / (mass_stopping_power(energy, LEXAN) * LEXAN.density_g_cm3)
    integral = np.sum(0.5 * (inverse[1:] + inverse[:-1])) * (energy[1] - energy[0])
    difference = csda_range_mm(200.0, LEXAN) - csda_range_mm(20.0, LEXAN)
    assert difference == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("energy", [0.0, -1.0, float("nan"), 2000.0])
def test_energies_without_physics_are_refused(energy):
    with pytest.raises(ValueError, match="energy_mev"):
        mass_stopping_power(energy)
    with pytest.raises(ValueError, match="energy_mev"):
        csda_range_mm(energy)


@pytest.mark.parametrize("range_mm", [-1.0, float("nan"), 1e5])
def test_ranges_outside_the_table_are_refused(range_mm):
    with pytest.raises(ValueError, match="range_mm"):
        energy_at_range(range_mm)
