from dataclasses import replace

import numpy as np
import pytest

from engine.physics.lem import TISSUES, Lem1, Tissue, _coefficients, tissue
from engine.physics.tracks import ION_CHARGES, scholz_kraft

CHORDOMA = Lem1(TISSUES["chordoma"])

# LEM I for chordoma by integration over impact parameters: our own notes, computed with another
# program (direct sums over 1000 radii and 150 impact parameters); nothing is published as a table.
ENERGIES = np.array([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0])
# fmt: off
ALPHA = {
    6: [0.756, 0.988, 1.284, 1.271, 1.115, 0.860, 0.692, 0.558, 0.495, 0.458],
    5: [0.970, 1.254, 1.441, 1.308, 1.090, 0.812, 0.643, 0.511, 0.451, 0.415],
    4: [1.284, 1.595, 1.559, 1.303, 1.037, 0.747, 0.580, 0.454, 0.396, 0.362],
    3: [1.730, 1.969, 1.595, 1.239, 0.946, 0.657, 0.497, 0.378, 0.325, 0.294],
    2: [2.289, 2.215, 1.495, 1.090, 0.796, 0.524, 0.379, 0.271, 0.224, 0.199],
    1: [2.749, 2.001, 1.151, 0.776, 0.522, 0.294, 0.190, 0.144, 0.131, 0.125],
}
BETA = {
    6: [0.000, 0.000, 0.005, 0.015, 0.025, 0.034, 0.039, 0.042, 0.044, 0.044],
    2: [0.000, 0.006, 0.023, 0.032, 0.038, 0.043, 0.046, 0.048, 0.049, 0.049],
    1: [0.002, 0.016, 0.032, 0.038, 0.043, 0.047, 0.049, 0.050, 0.050, 0.050],
}
# fmt: on


@pytest.mark.parametrize("charge", ALPHA)
def test_initial_slope_matches_an_independent_program(charge):
    assert CHORDOMA.alpha_per_gy(charge, ENERGIES) == pytest.approx(ALPHA[charge], rel=0.01)


@pytest.mark.parametrize("charge", BETA)
def test_quadratic_term_matches_an_independent_program(charge):
    assert CHORDOMA.beta_per_gy2(charge, ENERGIES) == pytest.approx(BETA[charge], abs=0.0015)


def test_overkill_flattens_slow_carbon():
    alpha = CHORDOMA.alpha_per_gy(6, np.array([1.0, 5.0, 20.0]))
    assert alpha[0] == pytest.approx(0.756, rel=0.02)  # physics notes, target 30
    assert alpha[0] < alpha[2] < alpha[1]


def test_fast_protons_act_like_photons():
    fast = np.array([200.0, 300.0, 400.0, 500.0])
    alpha = CHORDOMA.alpha_per_gy(1, fast)
    assert np.all(np.diff(alpha) < 0.0) and np.all(alpha > CHORDOMA.alpha_x_per_gy)
    assert alpha[2] == pytest.approx(0.125, rel=0.02)  # physics notes, target 30
    assert CHORDOMA.beta_per_gy2(1, fast) == pytest.approx(CHORDOMA.beta_x_per_gy2, rel=0.02)


def test_without_a_quadratic_term_only_overkill_tells_ions_from_photons():
    model = Lem1(Tissue("linear", 0.3, 0.0, 30.0, 5.0))
    energy = np.geomspace(0.5, 400.0, 20)
    assert model.beta_per_gy2(6, energy) == pytest.approx(np.zeros(20), abs=1e-15)
    assert model.alpha_per_gy(1, np.array([400.0])) == pytest.approx(0.3, rel=1e-3)
    assert np.all(model.alpha_per_gy(6, energy) < 0.3)


def test_slope_has_a_closed_form_where_all_dose_is_in_the_core():
    # Below 0.34 MeV per nucleon the core of 0.01 µm holds all: an ion hits the nucleus or not.
    tissue_, track = CHORDOMA.tissue, scholz_kraft(1, 0.2)
    slope, threshold = tissue_.largest_slope_per_gy, tissue_.threshold_gy
    core_effect = slope * track.core_gy - tissue_.beta_x_per_gy2 * threshold**2
    lethal = core_effect * (track.core_um / tissue_.nucleus_radius_um) ** 2
    nucleus = np.pi * tissue_.nucleus_radius_um**2
    expected = -np.expm1(-lethal) * nucleus / float(track.within_gy_um2())
    assert _coefficients(tissue_, track)[0] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("charge", ION_CHARGES)
def test_coefficients_stay_in_bounds_and_have_no_jumps(charge):
    energy = np.geomspace(0.1, 500.0, 4000)
    alpha, beta = CHORDOMA.alpha_per_gy(charge, energy), CHORDOMA.beta_per_gy2(charge, energy)
    slope = CHORDOMA.tissue.largest_slope_per_gy
    assert np.all((alpha > CHORDOMA.alpha_x_per_gy) & (alpha < slope))
    assert np.all((beta >= 0.0) & (beta <= CHORDOMA.beta_x_per_gy2))
    assert np.max(np.abs(np.diff(np.log(alpha)))) < 0.005
    assert np.max(np.abs(np.diff(beta))) < 1e-4


def test_table_is_dense_enough():
    for charge in (1, 6):
        for energy_mev in (0.37, 3.3, 7.7, 47.0, 333.0):
            alpha, beta = _coefficients(CHORDOMA.tissue, scholz_kraft(charge, energy_mev))
            energy = np.array([energy_mev])
            assert CHORDOMA.alpha_per_gy(charge, energy) == pytest.approx(alpha, rel=1e-3)
            assert CHORDOMA.beta_per_gy2(charge, energy) == pytest.approx(beta, abs=1e-4)


def test_shape_of_the_energy_is_kept_and_the_last_micrometer_is_held():
    energy = np.array([[0.0, 0.01, 0.1], [1.0, 10.0, 100.0]], dtype=np.float32)
    before = energy.copy()
    alpha = CHORDOMA.alpha_per_gy(6, energy)
    assert alpha.shape == CHORDOMA.beta_per_gy2(6, energy).shape == (2, 3)
    assert alpha[0] == pytest.approx(np.full(3, alpha[0, 2]), rel=1e-6)
    np.testing.assert_array_equal(energy, before)


def test_models_of_equal_tissues_are_equal_and_hashable():
    assert Lem1(tissue("chordoma")) == CHORDOMA
    assert hash(Lem1(tissue("chordoma"))) == hash(CHORDOMA)
    assert Lem1(replace(CHORDOMA.tissue, alpha_x_per_gy=0.2)) != CHORDOMA


def test_ions_and_energies_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="charge=7 has no track"):
        CHORDOMA.alpha_per_gy(7, np.array([10.0]))
    with pytest.raises(ValueError, match=r"energy_mev=700.0 per nucleon must lie within 0 … 500"):
        CHORDOMA.beta_per_gy2(6, np.array([10.0, 700.0]))


def test_a_model_without_a_tissue_is_refused():
    for nothing in (None, "chordoma"):
        with pytest.raises(ValueError, match=f"tissue={nothing!r} tells no parameters"):
            Lem1(nothing)


def test_unknown_tissues_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="tissue name='brian' is unknown; use chordoma"):
        tissue("brian")


@pytest.mark.parametrize(
    "field, value",
    [
        ("alpha_x_per_gy", 0.0),
        ("alpha_x_per_gy", np.nan),
        ("alpha_x_per_gy", None),
        ("beta_x_per_gy2", None),
        ("beta_x_per_gy2", -0.01),
        ("threshold_gy", np.inf),
        ("nucleus_radius_um", -5.0),
    ],
)
def test_impossible_tissues_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} of tissue 'chordoma' must be finite"):
        replace(CHORDOMA.tissue, **{field: value})
