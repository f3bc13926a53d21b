"""Quantities and their pullbacks."""

import numpy as np
import pytest

from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import RbeDose
from engine.patient.grid import Grid


def test_rbe_dose_is_over_the_course_with_an_rbe_of_1_1():
    # ICRU Report 78: protons are prescribed with a generic RBE of 1.1
    quantity = RbeDose(n_fractions=35)
    dose = np.array([0.0, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(quantity.value(dose), 35 * 1.1 * dose, rtol=1e-6)
    assert quantity.scale == pytest.approx(38.5)


def test_the_pullback_is_the_derivative():
    random, quantity = np.random.default_rng(0), RbeDose(30, rbe=1.2)
    grid = Grid((1, 4, 5), (1.0, 1.0, 1.0))
    matrix = InfluenceMatrix.from_dense(grid, np.arange(20), random.random((20, 6)))
    weights, gradient = random.random(6), random.random(20)
    found = quantity.pulled_back(matrix, weights, gradient)
    step = np.array([0.0, 0.0, 0.25, 0.0, 0.0, 0.0])
    change = [quantity.value(quantity.of_fraction(matrix, w)) for w in (weights, weights + step)]
    assert found[2] == pytest.approx(gradient @ (change[1] - change[0]) / 0.25, rel=1e-4)


@pytest.mark.parametrize("n_fractions, rbe", [(0, 1.1), (30, 0.0), (30, np.nan)])
def test_senseless_quantities_are_refused(n_fractions, rbe):
    with pytest.raises(ValueError, match="must be positive"):
        RbeDose(n_fractions, rbe)
