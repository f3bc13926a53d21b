import numpy as np
import pytest

from engine.physics.straggling import (
    energy_straggling_mev2_cm,
    range_straggling_mm,
    vavilov_kappa,
)


def test_energy_straggling_follows_bohr_with_the_relativistic_factor():
    energy = np.array([100.0, 150.0, 200.0, 250.0])
    expected = [0.0968, 0.1021, 0.1076, 0.1133]  # Bohr 1915 × γ²(1 − β²/2) over recoil, by hand
    assert energy_straggling_mev2_cm(energy) == pytest.approx(expected, rel=2e-3)


def test_range_straggling_matches_the_integral_over_pstar():
    energy = np.array([70.0, 100.0, 120.0, 150.0, 160.0, 180.0, 200.0, 220.0, 230.0, 250.0])
    # ∫ T/S³ dE, computed independently on the PSTAR table
    sigma = [0.468, 0.860, 1.168, 1.694, 1.884, 2.285, 2.711, 3.160, 3.392, 3.872]
    assert range_straggling_mm(energy) == pytest.approx(sigma, rel=2e-3)


def test_a_thick_layer_is_gaussian_and_a_thin_one_is_not():
    assert vavilov_kappa(150.0, 0.1) < 0.01  # Landau
    assert vavilov_kappa(10.0, 1.0) > 10.0  # Gauss
    assert vavilov_kappa(150.0, 2.0) == pytest.approx(2.0 * vavilov_kappa(150.0, 1.0))
