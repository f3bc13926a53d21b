import numpy as np
import pytest

from engine.physics.constants import pv_mev
from engine.physics.materials import ALUMINUM, BERYLLIUM, LEAD, LEXAN, WATER
from engine.physics.scattering import (
    highland_angle_rad,
    propagate,
    radiation_length_mm,
    scattering_length_mm,
    scattering_power_along,
)
from engine.physics.stopping_power import csda_range_mm


@pytest.mark.parametrize(
    "material, length_cm, tolerance",  # Gottschalk 2010, table 1
    [
        (WATER, 46.88, 2e-3),
        (BERYLLIUM, 50.10, 2e-3),
        (ALUMINUM, 10.65, 2e-3),
        (LEAD, 0.584, 2e-3),
        (LEXAN, 45.9, 2e-3),
    ],
)
def test_scattering_length_matches_gottschalk(material, length_cm, tolerance):
    assert scattering_length_mm(material) == pytest.approx(10.0 * length_cm, rel=tolerance)


def sigma_at_end(energy_mev: float, model: str, step_mm: float = 0.05) -> float:
    depth = np.arange(0.0, csda_range_mm(energy_mev), step_mm)
    power = scattering_power_along(energy_mev, depth, model=model)
    return float(np.sqrt(propagate((0.0, 0.0, 0.0), depth, power).position_mm2[-1]))


@pytest.mark.parametrize(
    "model, expected",  # Gottschalk 2010 and Kanematsu 2008 integrated independently over PSTAR
    [
        ("moliere", [0.90, 1.70, 3.46, 5.67, 7.19]),
        ("highland", [0.90, 1.72, 3.55, 5.89, 7.50]),
    ],
)
def test_width_at_the_end_of_range_matches_the_model(model, expected):
    found = [sigma_at_end(e, model) for e in (70.0, 100.0, 150.0, 200.0, 230.0)]
    assert found == pytest.approx(expected, rel=1e-2)


def test_width_at_the_end_of_range_is_two_percent_of_it():
    # Monte Carlo, Gaussian fit of the core: 2.1 to 2.2 % (MCsquare, electromagnetic only)
    for energy in (70.0, 150.0, 230.0):
        assert sigma_at_end(energy, "moliere") / csda_range_mm(energy) == pytest.approx(
            0.0219, 0.02
        )


def test_highland_angle_of_five_centimeters_of_water():
    assert highland_angle_rad(pv_mev(100.0), 50.0) == pytest.approx(0.0249, rel=5e-3)
    assert radiation_length_mm() == pytest.approx(360.8)  # Particle Data Group


def test_constant_scattering_power_gives_the_closed_form():
    # Eyges 1948: A0 = T z, A1 = T z²/2, A2 = T z³/3
    depth = np.linspace(0.0, 100.0, 2001)
    moments = propagate((0.0, 0.0, 0.0), depth, np.full(depth.size, 2e-5))
    assert moments.angle_rad2 == pytest.approx(2e-5 * depth)
    assert moments.covariance_mm_rad[1:] == pytest.approx(1e-5 * depth[1:] ** 2, rel=1e-6, abs=1e-9)
    assert moments.position_mm2[-1] == pytest.approx(2e-5 * 100.0**3 / 3.0, rel=1e-6)


def test_a_beam_without_matter_drifts_on_straight_lines():
    depth = np.linspace(10.0, 110.0, 11)
    moments = propagate((4e-6, 1e-3, 9.0), depth, np.zeros(11))
    assert moments.position_mm2[-1] == pytest.approx(9.0 + 2 * 1e-3 * 100.0 + 4e-6 * 1e4)
    assert moments.covariance_mm_rad[-1] == pytest.approx(1e-3 + 4e-6 * 100.0)


def test_moments_do_not_depend_on_where_a_slab_is_split():
    depth = np.arange(0.0, 100.0, 0.1)
    power = scattering_power_along(150.0, depth)
    whole = propagate((1e-5, 1e-3, 4.0), depth, power)
    half = propagate((1e-5, 1e-3, 4.0), depth[:501], power[:501])
    middle = (half.angle_rad2[-1], half.covariance_mm_rad[-1], half.position_mm2[-1])
    rest = propagate(middle, depth[500:], power[500:])
    assert rest.position_mm2[-1] == pytest.approx(whole.position_mm2[-1], rel=1e-9)


def test_depths_that_fall_are_refused():
    with pytest.raises(ValueError, match="depth_mm"):
        propagate((0.0, 0.0, 0.0), np.array([0.0, 2.0, 1.0]), np.zeros(3))


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="model"):
        scattering_power_along(100.0, np.array([0.0, 1.0]), model="rossi")
