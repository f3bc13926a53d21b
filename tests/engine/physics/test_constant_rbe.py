import numpy as np
import pytest

from engine.physics.constant_rbe import ConstantRbe
from engine.physics.lem import tissue
from engine.physics.rbe_dose import rbe_weighted_dose

PROTONS = ConstantRbe(1.1, tissue("chordoma"))


def weighted(model: ConstantRbe, dose_gy: np.ndarray) -> np.ndarray:
    alpha, beta = model.alpha_per_gy(1, np.array(100.0)), model.beta_per_gy2(1, np.array(100.0))
    return rbe_weighted_dose(alpha * dose_gy + beta * dose_gy**2, model)[0]


@pytest.mark.parametrize("rbe", [0.8, 1.0, 1.1, 3.0])
def test_weighted_dose_is_exactly_rbe_times_dose_below_the_threshold(rbe):
    model = ConstantRbe(rbe, tissue("chordoma"))
    dose = np.concatenate([[0.0], np.geomspace(1e-9, model.threshold_gy / rbe, 100)])
    assert weighted(model, dose) == pytest.approx(rbe * dose, rel=1e-13)


def test_ions_weigh_more_beyond_the_threshold():
    dose = np.array([1.01, 1.5, 2.0]) * PROTONS.threshold_gy / 1.1
    assert np.all(weighted(PROTONS, dose) > 1.1 * dose)


def test_every_ion_and_energy_has_the_same_coefficients():
    energy = np.array([[0.5, 20.0, 300.0]])
    for charge in (1, 6, 8):
        assert PROTONS.alpha_per_gy(charge, energy) == pytest.approx(np.full((1, 3), 0.11))
        assert PROTONS.beta_per_gy2(charge, energy) == pytest.approx(np.full((1, 3), 0.0605))


def test_models_of_equal_parameters_are_equal_and_hashable():
    same = ConstantRbe(1.1, tissue("chordoma"))
    assert same == PROTONS and hash(same) == hash(PROTONS)


@pytest.mark.parametrize("rbe", [0.0, -1.1, np.nan, np.inf])
def test_impossible_effectiveness_is_refused(rbe):
    with pytest.raises(ValueError, match=f"rbe={rbe} must be positive and finite"):
        ConstantRbe(rbe, tissue("chordoma"))
