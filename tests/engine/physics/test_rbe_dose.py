import numpy as np
import pytest

from engine.physics.lem import Lem1, Tissue, tissue
from engine.physics.mkm import Mkm
from engine.physics.rbe_dose import photon_effect, rbe_weighted_dose

CHORDOMA = Lem1(tissue("chordoma"))
LINEAR = Lem1(Tissue("linear", 0.3, 0.0, 30.0, 5.0))
STRAIGHT_ON = Mkm(threshold_gy=np.inf)
MODELS = [CHORDOMA, LINEAR, STRAIGHT_ON]


@pytest.mark.parametrize("model", MODELS)
def test_photons_weigh_their_own_dose(model):
    dose = np.concatenate([[0.0], np.geomspace(1e-12, 200.0, 400)])
    found, _ = rbe_weighted_dose(photon_effect(dose, model), model)
    assert found == pytest.approx(dose, rel=1e-13)


def test_photon_effect_is_a_parabola_and_then_its_tangent():
    # α = 0.1, β = 0.05, D_t = 30: 0.1·30 + 0.05·900 = 48 and s_max = 3.1 /Gy
    dose = np.array([2.0, 30.0, 40.0])
    assert photon_effect(dose, CHORDOMA) == pytest.approx([0.4, 48.0, 79.0])


def test_dose_and_derivative_are_continuous_at_the_threshold():
    at = photon_effect(CHORDOMA.threshold_gy, CHORDOMA)
    dose, slope = rbe_weighted_dose(at + np.array([-1e-9, 0.0, 1e-9]), CHORDOMA)
    assert dose == pytest.approx(np.full(3, 30.0), abs=1e-8)
    assert slope == pytest.approx(np.full(3, 1.0 / 3.1), rel=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_derivative_matches_finite_difference(model):
    effect = np.array([0.01, 0.3, 2.0, 20.0, 47.0, 49.0, 200.0])  # the threshold is at 48
    step = 1e-4 * effect
    above, below = (rbe_weighted_dose(effect + s, model)[0] for s in (step, -step))
    slope = rbe_weighted_dose(effect, model)[1]
    assert (above - below) / (2.0 * step) == pytest.approx(slope, rel=1e-6)


def test_gradient_with_respect_to_weights_matches_finite_difference():
    rng = np.random.default_rng(5)
    dose = rng.uniform(0.0, 1.0, (40, 6))
    a = dose * rng.uniform(0.2, 1.2, (40, 6))
    b = dose * np.sqrt(rng.uniform(0.0, 0.05, (40, 6)))
    weights = rng.uniform(0.5, 1.5, 6)

    def value(w):
        return np.sum((rbe_weighted_dose(a @ w + (b @ w) ** 2, CHORDOMA)[0] - 3.0) ** 2)

    found, slope = rbe_weighted_dose(a @ weights + (b @ weights) ** 2, CHORDOMA)
    h = 2.0 * (found - 3.0) * slope
    gradient = a.T @ h + b.T @ (2.0 * (b @ weights) * h)
    steps = 1e-5 * np.eye(6)
    numeric = [(value(weights + s) - value(weights - s)) / 2e-5 for s in steps]
    assert gradient == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_relative_effectiveness_at_vanishing_dose_is_the_ratio_of_slopes(model):
    dose = np.array([1e-12, 1e-9])
    weighted, slope = rbe_weighted_dose(1.2 * dose, model)
    assert weighted / dose == pytest.approx(np.full(2, 1.2 / model.alpha_x_per_gy), rel=1e-6)
    assert rbe_weighted_dose(np.zeros(1), model)[0] == 0.0
    assert slope == pytest.approx(np.full(2, 1.0 / model.alpha_x_per_gy), rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_single_precision_is_kept_and_accurate(model):
    effect = np.concatenate([[0.0], np.geomspace(1e-30, 100.0, 300)]).reshape(7, 43)
    exact = rbe_weighted_dose(effect, model)
    single = effect.astype(np.float32)
    for found, expected in zip(rbe_weighted_dose(single, model), exact):
        assert found.dtype == np.float32 and found.shape == (7, 43)
        assert found == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(single, effect.astype(np.float32))
