"""α·dose and √β·dose on the influence matrix's pattern, against dense arrays of the same."""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.influence import InfluenceMatrix, RowPenalty
from engine.dose.quantities import BiologicalDose, RbeDose
from engine.patient.grid import Grid

GRID = Grid((4, 6, 8), (3.0, 3.0, 3.0))
CHORDOMA = BiologicalDose(20, 0.1, 0.05, 30.0)  # LEM I at GSI
N_ROWS, N_SPOTS = 90, 64


def with_effects(matrix, seed=3):
    """Factors of α up to 1.5 and √β up to 0.22 per Gy for every chunk."""
    random = np.random.default_rng(seed)
    scale = np.array([2.0 / 65535, 0.25 / 65535], np.float32)
    n_chunks = len(matrix.columns)
    alpha, root_beta = random.uniform(0.2, 1.5, n_chunks), random.uniform(0.05, 0.22, n_chunks)
    factors = np.stack([alpha, root_beta], axis=1) / scale
    return replace(matrix, factors=factors.ravel().astype(np.uint16), factor_scale=scale)


@pytest.fixture
def matrix():
    random = np.random.default_rng(0)
    dense = random.random((N_ROWS, N_SPOTS)) ** 3 * 1e-9
    dense[random.random(dense.shape) > 0.4] = 0.0
    voxels = np.sort(random.choice(GRID.size, N_ROWS, replace=False))
    return with_effects(InfluenceMatrix.from_dense(GRID, voxels, dense, (0, 30, 64)))


@pytest.fixture
def dense(matrix):
    """(3, n_rows, n_spots) float64."""
    columns = [matrix.products(unit) for unit in np.eye(matrix.n_spots)]
    return np.stack(columns, axis=2).astype(np.float64)


@pytest.fixture
def weights():
    return np.random.default_rng(1).uniform(1e7, 2e8, N_SPOTS)


def photon_dose(products):
    """The definition, in float64."""
    effect = products[1] + products[2] ** 2
    a, b = CHORDOMA.alpha_x_per_gy, CHORDOMA.beta_x_per_gy2
    return (np.sqrt(a * a + 4.0 * b * effect) - a) / (2.0 * b)


def penalty(n_rows, level_gy=1.0):
    random = np.random.default_rng(5)
    start = np.concatenate([[0], np.cumsum(random.integers(0, 4, n_rows))])
    n = start[-1]
    return RowPenalty(
        start, level_gy * random.uniform(0.2, 2.0, n), random.uniform(1.0, 3.0, n),
        random.choice([-1.0, 1.0], n),
    )  # fmt: skip


def test_products_start_with_the_physical_dose(matrix, weights):
    np.testing.assert_allclose(matrix.products(weights)[0], matrix.dose(weights), rtol=1e-6)
    for beam in range(2):
        found = matrix.products(weights, beam=beam)[0]
        np.testing.assert_allclose(found, matrix.dose(weights, beam=beam), rtol=1e-6)


def test_every_entry_has_the_factors_of_its_chunk(matrix, dense):
    entries = dense[0] > 0
    alpha, root_beta = (dense[k][entries] / dense[0][entries] for k in (1, 2))
    assert alpha.min() > 0.19 and alpha.max() < 1.51 and root_beta.max() < 0.221
    # a chunk is eight spots of a row: the factors within it are one and the same
    chunk, ratio = entries[:, :8], dense[1][:, :8] / np.where(entries, dense[0], np.inf)[:, :8]
    many = np.flatnonzero(chunk.sum(axis=1) >= 3)
    assert len(many) > 10
    for row in many:
        inside = ratio[row, chunk[row]]
        np.testing.assert_allclose(inside, inside[0], rtol=1e-5)


def test_products_are_linear_and_the_adjoint_is_their_transpose(matrix, dense, weights):
    np.testing.assert_allclose(matrix.products(weights), dense @ weights, rtol=1e-5)
    rows = np.random.default_rng(2).normal(size=(3, N_ROWS))
    expected = np.einsum("kr,krj->j", rows, dense)
    found = matrix.products_adjoint(rows)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6 * np.abs(expected).max())


def test_the_penalty_is_of_the_photon_dose_of_equal_effect(matrix, dense, weights):
    rows = penalty(N_ROWS)
    dose, expected = photon_dose(dense @ weights), 0.0
    for row in range(N_ROWS):
        for k in range(rows.start[row], rows.start[row + 1]):
            excess = max(0.0, rows.side[k] * (dose[row] - rows.level[k]))
            expected += rows.weight[k] * excess**2
    value, _ = matrix.penalty(weights, rows, CHORDOMA.photons)
    assert value == pytest.approx(expected, rel=1e-5)


def test_the_penalty_gradient_matches_finite_differences(matrix, dense, weights):
    rows = penalty(N_ROWS)
    level, side, weight = (a.astype(np.float64) for a in (rows.level, rows.side, rows.weight))
    of_row = np.repeat(np.arange(N_ROWS), np.diff(rows.start))

    def exact(w):
        excess = np.maximum(0.0, side * (photon_dose(dense @ w)[of_row] - level))
        return (weight * excess**2).sum()

    _, gradient = matrix.penalty(weights, rows, CHORDOMA.photons)
    for spot in (0, 17, 40, 63):
        step = np.zeros(N_SPOTS)
        step[spot] = 1e-3 * weights[spot]
        expected = (exact(weights + step) - exact(weights - step)) / (2 * step[spot])
        assert gradient[spot] == pytest.approx(expected, rel=1e-4)


def test_the_quantity_pulls_back_what_finite_differences_give(matrix, dense, weights):
    direction = np.random.default_rng(7).normal(size=N_ROWS)

    def exact(w):
        return CHORDOMA.n_fractions * (direction * photon_dose(dense @ w)).sum()

    gradient = CHORDOMA.pulled_back(matrix, weights, direction)
    for spot in (3, 33):
        step = np.zeros(N_SPOTS)
        step[spot] = 1e-3 * weights[spot]
        expected = (exact(weights + step) - exact(weights - step)) / (2 * step[spot])
        assert gradient[spot] == pytest.approx(expected, rel=1e-3)


def test_beyond_the_threshold_dose_photons_go_straight(matrix, weights):
    curve = BiologicalDose(1, 0.1, 0.05, 2.0)
    products = np.array([[1.0, 1.0], [0.2, 4.0], [0.0, 0.0]], np.float32)
    below, beyond = curve.of_products(products)
    assert 0.1 * below + 0.05 * below**2 == pytest.approx(0.2, rel=1e-5)
    # effect at 2 Gy: 0.4; slope there: 0.3 per Gy
    assert beyond == pytest.approx(2.0 + (4.0 - 0.4) / 0.3, rel=1e-5)
    heavy = 50.0 * weights
    rows = RowPenalty(np.arange(N_ROWS + 1), np.full(N_ROWS, 0.5), np.ones(N_ROWS), np.ones(N_ROWS))
    value, _ = matrix.penalty(heavy, rows, curve.photons)
    excess = np.maximum(curve.of_products(matrix.products(heavy)) - 0.5, 0.0).astype(np.float64)
    assert value == pytest.approx((excess**2).sum(), rel=1e-4)


def test_without_beta_equal_effect_is_a_ratio_of_alphas(matrix, weights):
    products = matrix.products(weights)
    products[2] = 0.0
    found = BiologicalDose(1, 0.4, 0.0).of_products(products)
    np.testing.assert_allclose(found, products[1] / 0.4, rtol=1e-5)


def test_copies_of_rows_and_beams_keep_the_factors(matrix, weights):
    chosen = np.random.default_rng(4).random(N_ROWS) < 0.4
    np.testing.assert_array_equal(
        matrix.rows(chosen).products(weights), matrix.products(weights)[:, chosen]
    )
    second = matrix.beams_only([1])
    np.testing.assert_allclose(
        second.products(weights[30:]), matrix.products(weights, beam=1), rtol=1e-6
    )
    whole = InfluenceMatrix.joined([matrix.beams_only([0]), second])
    np.testing.assert_array_equal(whole.products(weights), matrix.products(weights))


def test_stacked_scenarios_keep_their_factors(matrix, weights):
    other = with_effects(replace(matrix, factors=np.zeros(0), factor_scale=np.zeros(0)), seed=8)
    both = InfluenceMatrix.stacked([matrix, other])
    expected = np.concatenate([matrix.products(weights), other.products(weights)], axis=1)
    np.testing.assert_array_equal(both.products(weights), expected)
    rows = penalty(N_ROWS)
    values, gradients = both.penalty_by_part(
        weights, rows, np.array([0, N_ROWS, 2 * N_ROWS]), CHORDOMA.photons
    )
    for part, value, gradient in zip((matrix, other), values, gradients):
        alone, slope = part.penalty(weights, rows, CHORDOMA.photons)
        assert value == pytest.approx(alone, rel=1e-9)
        np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6 * np.abs(slope).max())


def test_parts_of_other_biology_do_not_join(matrix):
    plain = replace(matrix, factors=matrix.factors[:0], factor_scale=matrix.factor_scale[:0])
    with pytest.raises(ValueError, match="same model"):
        InfluenceMatrix.joined([matrix, plain])


def test_a_matrix_of_physical_dose_refuses_biological_products(matrix, weights):
    plain = replace(matrix, factors=matrix.factors[:0], factor_scale=matrix.factor_scale[:0])
    with pytest.raises(ValueError, match="biological model"):
        plain.products(weights)
    with pytest.raises(ValueError, match="biological model"):
        plain.penalty(weights, penalty(N_ROWS), CHORDOMA.photons)
    np.testing.assert_array_equal(RbeDose(1).of_fraction(plain, weights), plain.dose(weights))


@pytest.mark.parametrize(
    "settings, named",
    [
        ((0, 0.1, 0.05), "n_fractions=0"),
        ((20, 0.0, 0.05), "alpha_x_per_gy=0.0"),
        ((20, 0.1, -0.05), "beta_x_per_gy2=-0.05"),
        ((20, 0.1, 0.05, 0.0), "threshold_gy=0.0"),
        ((20, np.nan, 0.05), "alpha_x_per_gy=nan"),
        ((20, np.inf, 0.05), "alpha_x_per_gy=inf"),
    ],
)
def test_senseless_biological_doses_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        BiologicalDose(*settings)
