"""Quantities and their pullbacks."""

import numpy as np
import pytest

from engine.dose.quantities import RbeDose


def test_rbe_dose_is_over_the_course_with_an_rbe_of_1_1():
    # ICRU Report 78: protons are prescribed with a generic RBE of 1.1
    quantity = RbeDose(n_fractions=35)
    dose = np.array([0.0, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(quantity.value(dose), 35 * 1.1 * dose, rtol=1e-6)
    assert quantity.scale == pytest.approx(38.5)


def test_the_pullback_is_the_derivative():
    quantity = RbeDose(30, rbe=1.2)
    dose, gradient = np.random.default_rng(0).random((2, 20)).astype(np.float32)
    step = np.float32(0.25)
    difference = gradient @ (quantity.value(dose + step) - quantity.value(dose)) / step
    assert quantity.pullback(dose, gradient).sum() == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("n_fractions, rbe", [(0, 1.1), (30, 0.0), (30, np.nan)])
def test_senseless_quantities_are_refused(n_fractions, rbe):
    with pytest.raises(ValueError, match="must be positive"):
        RbeDose(n_fractions, rbe)
