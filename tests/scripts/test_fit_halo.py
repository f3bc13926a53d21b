import numpy as np
import pytest

from engine.patient.grid import Grid
from scripts.fit_halo import (
    CELLS,
    CELLS_PER_RANGE,
    HALF_WIDTH_MM,
    PITCH_MM,
    RADII_MM,
    SHARES,
    Circles,
    double_gaussian,
    fit,
    measured,
)


@pytest.fixture(scope="module")
def circles():
    n = round(2 * HALF_WIDTH_MM / PITCH_MM)
    return Circles.of(Grid.centered((n, 2, n), (PITCH_MM, 1.0, PITCH_MM)))


@pytest.mark.parametrize("weight, sigma_mm, core_mm2", [(0.05, 8.0, 0.5), (0.15, 20.0, 9.0)])
def test_a_double_gaussian_is_found_again(circles, weight, sigma_mm, core_mm2):
    exact = double_gaussian(weight, sigma_mm**2, core_mm2, circles)
    assert fit(exact, core_mm2, circles) == pytest.approx((weight, sigma_mm), rel=1e-4)


def test_circles_hold_what_a_gaussian_has_within_them(circles):
    # cells belong to a circle by their centers: right but for its rim
    expected = 1.0 - np.exp(-(RADII_MM**2) / (2.0 * 20.0**2))
    wide = RADII_MM >= 15.0
    assert circles.gaussian(400.0)[wide] == pytest.approx(expected[wide], abs=0.01)


def test_shares_are_of_the_plane_at_their_depth(circles):
    n, depth = circles.radius_mm.shape[0], np.arange(CELLS)
    sigma2 = 1.0 + depth / CELLS_PER_RANGE
    edges = circles.edges_mm
    plane = np.exp(-((0.5 * (edges[1:] + edges[:-1])) ** 2)[:, None] / (2 * 100.0 * sigma2))
    dose = plane[:, :, None] * plane.T[None] * (1.0 + depth)[None, :, None]
    found = measured(dose, circles)
    assert found.shape == (len(SHARES), len(RADII_MM)) and n == dose.shape[0]
    assert found[:, -1] == pytest.approx(np.ones(len(SHARES)), abs=1e-3)
    assert np.all(np.diff(found[:, 4]) < 0.0)  # the pencil widens
