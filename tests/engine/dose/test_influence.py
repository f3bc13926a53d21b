"""The influence matrix against dense arrays of the same numbers."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from engine import parallel
from engine.dose import influence as module
from engine.dose.influence import InfluenceMatrix, RowPenalty
from engine.patient.grid import Grid

GRID = Grid((6, 8, 10), (3.0, 3.0, 3.0))
BEAM_STARTS = (0, 37, 37, 64)  # three beams, one of them without spots


def dense_entries(n_rows=120, n_spots=64, fill=0.3, seed=0):
    """Gy per particle, (n_rows, n_spots), many zeros; some rows and one spot hold nothing."""
    random = np.random.default_rng(seed)
    dense = random.random((n_rows, n_spots)) ** 3 * 1e-9
    dense[random.random(dense.shape) > fill] = 0.0
    dense[::11] = 0.0
    dense[:, 5] = 0.0
    return dense


@pytest.fixture
def matrix():
    voxels = np.sort(np.random.default_rng(9).choice(GRID.size, 120, replace=False))
    return InfluenceMatrix.from_dense(GRID, voxels, dense_entries(), BEAM_STARTS)


@pytest.fixture
def dense(matrix):
    return matrix.to_dense().astype(np.float64)


@pytest.fixture
def weights():
    return np.random.default_rng(1).uniform(0.0, 1e8, 64)


@pytest.fixture
def two_threads(monkeypatch):
    """A matrix of many blocks, and the number of threads to compare on."""
    monkeypatch.setattr(module, "CHUNKS_PER_BLOCK", 20)
    before = parallel.threads()
    yield
    parallel.set_threads(before)


def penalty(n_rows, seed=0, scale=0.05):
    """Zero to three terms a row around doses of ``scale`` Gy."""
    random = np.random.default_rng(seed)
    start = np.concatenate([[0], np.cumsum(random.integers(0, 4, n_rows))])
    n = start[-1]
    return RowPenalty(
        start, scale * random.random(n), random.uniform(1.0, 3.0, n), random.choice([-1.0, 1.0], n)
    )


def slow_penalty(dose, rows):
    """Value and derivative with respect to the dose (n_rows,), term by term in float64."""
    value, gradient = 0.0, np.zeros(len(dose))
    for row, (a, b) in enumerate(zip(rows.start, rows.start[1:])):
        for level, weight, side in zip(rows.level[a:b], rows.weight[a:b], rows.side[a:b]):
            excess = max(0.0, float(side) * (dose[row] - float(level)))
            value += float(weight) * excess**2
            gradient[row] += 2.0 * float(weight) * excess * float(side)
    return value, gradient


def test_entries_are_kept_to_a_thousandth(matrix):
    # 16-bit square roots: half a step of the root, 1/131070, twice, over the root 0.01
    wanted, kept = dense_entries(), matrix.to_dense()
    top = np.broadcast_to(wanted.max(axis=0), wanted.shape)
    large = wanted > 1e-4 * top
    np.testing.assert_allclose(kept[large], wanted[large], rtol=2e-3)
    np.testing.assert_allclose(kept[~large], wanted[~large], rtol=0, atol=2e-7 * wanted.max())
    assert matrix.n_nonzeros == np.count_nonzero(kept)


def test_dose_is_the_product_with_the_weights(matrix, dense, weights):
    np.testing.assert_allclose(matrix.dose(weights), dense @ weights, rtol=2e-6, atol=1e-9)
    np.testing.assert_array_equal(matrix @ weights, matrix.dose(weights))


def test_adjoint_is_the_transposed_product(matrix, dense):
    rows = np.random.default_rng(2).normal(size=matrix.n_rows)
    np.testing.assert_allclose(matrix.adjoint(rows), dense.T @ rows, rtol=1e-4, atol=1e-15)


def test_product_and_adjoint_are_adjoint(matrix, weights):
    rows = np.random.default_rng(3).random(matrix.n_rows).astype(np.float32)
    forward = np.dot(matrix.dose(weights).astype(np.float64), rows)
    backward = np.dot(weights, matrix.adjoint(rows).astype(np.float64))
    assert forward == pytest.approx(backward, rel=1e-6)


def test_dose_is_linear_in_the_weights(matrix, weights):
    other = np.random.default_rng(4).uniform(0.0, 1e8, 64)
    np.testing.assert_allclose(
        matrix @ (2.0 * weights + other), 2.0 * (matrix @ weights) + matrix @ other, rtol=1e-5
    )


@pytest.mark.parametrize("beam", [0, 1, 2])
def test_products_per_beam_are_those_of_its_columns(matrix, dense, weights, beam):
    mine = np.zeros(64)
    mine[BEAM_STARTS[beam] : BEAM_STARTS[beam + 1]] = 1.0
    rows = np.random.default_rng(5).random(matrix.n_rows)
    np.testing.assert_allclose(
        matrix.dose(weights, beam), dense @ (mine * weights), rtol=2e-6, atol=1e-9
    )
    np.testing.assert_allclose(
        matrix.adjoint(rows, beam), mine * (dense.T @ rows), rtol=1e-5, atol=1e-15
    )


def test_products_per_beam_sum_to_the_total(matrix, weights):
    beams = [matrix.dose(weights, beam) for beam in range(matrix.n_beams)]
    np.testing.assert_allclose(np.sum(beams, axis=0), matrix.dose(weights), rtol=1e-6)


def test_rows_are_those_of_the_whole_bit_by_bit(matrix, weights):
    mask = np.random.default_rng(6).random(matrix.n_rows) < 0.3
    for chosen in (mask, np.flatnonzero(mask), np.flatnonzero(mask).astype(np.uint32)):
        few = matrix.rows(chosen)
        np.testing.assert_array_equal(few.voxels, matrix.voxels[mask])
        np.testing.assert_array_equal(few.dose(weights), matrix.dose(weights)[mask])
        np.testing.assert_array_equal(few.row_nonzeros(), matrix.row_nonzeros()[mask])
        np.testing.assert_array_equal(few.to_dense(), matrix.to_dense()[mask])


def test_rows_of_rows_and_no_rows_and_all_rows(matrix, weights):
    np.testing.assert_array_equal(
        matrix.rows(np.arange(0, 120, 2)).rows(np.arange(3)).to_dense(), matrix.to_dense()[:6:2]
    )
    nothing = matrix.rows(np.zeros(120, bool))
    assert nothing.dose(weights).shape == (0,)
    assert not nothing.adjoint(np.zeros(0)).any()
    assert nothing.penalty(weights, penalty(0))[0] == 0.0
    np.testing.assert_array_equal(
        matrix.rows(np.ones(120, bool)).dose(weights), matrix.dose(weights)
    )


def test_joined_columns_are_those_of_the_parts_bit_by_bit(matrix, two_threads):
    entries = dense_entries(seed=8)[:, :21]
    other = InfluenceMatrix.from_dense(GRID, matrix.voxels, entries, (0, 9, 21))
    joined = InfluenceMatrix.joined([matrix, other, matrix.rows(np.arange(120))])
    expected = np.concatenate([m.to_dense() for m in (matrix, other, matrix)], axis=1)
    np.testing.assert_array_equal(joined.to_dense(), expected)
    np.testing.assert_array_equal(joined.beam_starts, [0, 37, 37, 64, 73, 85, 122, 122, 149])
    assert joined.n_nonzeros == 2 * matrix.n_nonzeros + other.n_nonzeros
    np.testing.assert_array_equal(joined.rows(np.arange(5, 50)).to_dense(), expected[5:50])
    weights = np.random.default_rng(7).random(149)
    np.testing.assert_array_equal(joined.dose(weights, beam=4), other.dose(weights[64:85], beam=1))


def test_parts_on_other_rows_are_not_joined(matrix):
    with pytest.raises(ValueError, match="differ in their grid or voxels"):
        InfluenceMatrix.joined([matrix, matrix.rows(np.arange(119))])
    with pytest.raises(ValueError, match="parts is empty"):
        InfluenceMatrix.joined([])


def test_a_mask_copies_no_more_than_its_rows_need(matrix):
    few = matrix.rows(np.arange(10))
    assert len(few.values) == 8 * len(few.columns) == 8 * int(few.start[-1])
    assert few.values.nbytes < 0.2 * matrix.values.nbytes


def test_penalty_is_the_sum_of_its_terms(matrix, weights):
    rows = penalty(matrix.n_rows)
    value, gradient = matrix.penalty(weights, rows)
    dose = matrix.dose(weights).astype(np.float64)
    expected, row_gradient = slow_penalty(dose, rows)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, matrix.adjoint(row_gradient), rtol=1e-4, atol=1e-15)


def test_the_gradient_of_the_penalty_matches_finite_differences(matrix, weights):
    rows = penalty(matrix.n_rows)
    dense = matrix.to_dense().astype(np.float64)  # float64, so that differences mean something

    def value(w):
        return slow_penalty(dense @ w, rows)[0]

    _, gradient = matrix.penalty(weights, rows)
    for spot in np.random.default_rng(7).choice(64, 12, replace=False):
        step = np.zeros(64)
        step[spot] = 1e3
        difference = (value(weights + step) - value(weights - step)) / 2e3
        assert gradient[spot] == pytest.approx(
            difference, rel=2e-4, abs=1e-6 * float(abs(gradient).max())
        )


def test_a_penalty_without_terms_is_zero(matrix, weights):
    value, gradient = matrix.penalty(weights, RowPenalty(np.zeros(121), [], [], []))
    assert value == 0.0
    assert not gradient.any()


def test_the_bits_do_not_depend_on_the_number_of_threads(two_threads, weights):
    wide = InfluenceMatrix.from_dense(GRID, np.arange(400), dense_entries(400), BEAM_STARTS)
    assert wide._n_blocks == module.MAX_BLOCKS
    terms, rows = penalty(400), np.random.default_rng(8).normal(size=400)
    results = []
    for n in (1, 2, 3):
        parallel.set_threads(n)
        value, gradient = wide.penalty(weights, terms)
        results.append(
            (wide.dose(weights), wide.adjoint(rows), np.array(value), gradient,
             wide.rows(np.arange(0, 400, 3)).values, wide.largest_entries())
        )  # fmt: skip
    for other in results[1:]:
        for first, second in zip(results[0], other):
            np.testing.assert_array_equal(first, second)


def test_pickling_keeps_every_bit(matrix, weights):
    copy = pickle.loads(pickle.dumps(matrix))
    np.testing.assert_array_equal(copy.dose(weights), matrix.dose(weights))
    assert copy.grid == matrix.grid
    assert copy.nbytes == matrix.nbytes


def test_row_nonzeros_count_the_entries(matrix):
    np.testing.assert_array_equal(matrix.row_nonzeros(), np.count_nonzero(matrix.to_dense(), 1))
    assert matrix.row_nonzeros().sum() == matrix.n_nonzeros


def test_largest_entries_are_those_of_every_beam(matrix, dense):
    for beam, (a, b) in enumerate(zip(BEAM_STARTS, BEAM_STARTS[1:])):
        expected = dense[:, a:b].max(axis=1, initial=0.0)
        np.testing.assert_allclose(matrix.largest_entries()[:, beam], expected, rtol=1e-6)


def test_a_volume_has_its_rows_in_their_voxels(matrix, weights):
    volume = matrix.volume(matrix @ weights, fill=-1.0)
    assert volume.shape == GRID.shape
    np.testing.assert_array_equal(volume.ravel()[matrix.voxels], matrix @ weights)
    assert np.count_nonzero(volume == -1.0) == GRID.size - matrix.n_rows


def test_nothing_that_was_given_is_changed(matrix, weights):
    rows, terms = np.random.default_rng(1).random(120), penalty(120)
    given = [weights, rows, terms.start, terms.level, matrix.values, matrix.scale, matrix.start]
    before = [a.copy() for a in given]
    matrix.dose(weights)
    matrix.adjoint(rows)
    matrix.penalty(weights, terms)
    matrix.rows(rows < 0.5)
    for a, b in zip(given, before):
        np.testing.assert_array_equal(a, b)


def test_the_work_of_a_row_cannot_be_changed_from_outside(matrix):
    matrix.row_nonzeros()[:] = 0
    assert matrix.row_nonzeros().sum() == matrix.n_nonzeros


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.dose(np.ones(63)), r"weights have shape \(63,\), the matrix 64 spots"),
        (lambda m: m @ np.ones((64, 1)), "weights have shape"),
        (lambda m: m.adjoint(np.ones(121)), "row_gradient has shape"),
        (lambda m: m.rows(np.ones(119, bool)), "mask has shape"),
        (lambda m: m.rows(np.array([0, 120])), "0 … 119"),
        (lambda m: m.rows(np.array([-1, 3])), "0 … 119"),
        (lambda m: m.rows(np.array([3, 3])), "ascend without repeats"),
        (lambda m: m.rows(np.array([3, 2])), "ascend without repeats"),
        (lambda m: m.dose(np.ones(64), beam=3), "beam=3 does not exist"),
        (lambda m: m.penalty(np.ones(64), penalty(119)), "rows covers 119 rows"),
        (lambda m: m.penalty(np.ones(63), penalty(120)), "weights have shape"),
    ],
)
def test_wrong_shapes_are_refused(matrix, call, message):
    with pytest.raises(ValueError, match=message):
        call(matrix)


def test_disagreeing_terms_are_refused():
    with pytest.raises(ValueError, match="terms disagree"):
        RowPenalty(np.array([0, 2]), [1.0, 2.0], [1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="terms disagree"):
        RowPenalty(np.array([0, 1]), [1.0, 2.0], [1.0, 1.0], [1.0, 1.0])


def test_another_scale_scales_the_dose(matrix, weights):
    double = replace(matrix, scale=2.0 * matrix.scale)
    np.testing.assert_allclose(double @ weights, 2.0 * (matrix @ weights), rtol=1e-6)


def columns_of(dense):
    """Lists of entries per spot of an array (n_rows, n_spots): starts, rows, Gy per particle."""
    spots, rows = np.nonzero(dense.T)
    return np.searchsorted(spots, np.arange(dense.shape[1] + 1)), rows, dense.T[spots, rows]


def test_columns_are_the_dense_array_to_a_thousandth():
    rng = np.random.default_rng(5)
    dense = rng.uniform(0.0, 1.0, (40, 23)) * (rng.uniform(size=(40, 23)) < 0.3)
    dense[:, 7] = 0.0  # a spot that misses
    grid, beams = Grid((4, 5, 2), (1.0, 1.0, 1.0)), [0, 9, 9, 23]  # the second beam is empty
    built = InfluenceMatrix.from_columns(grid, np.arange(40), beams, *columns_of(dense))
    np.testing.assert_allclose(built.to_dense(), dense, rtol=2e-3, atol=1e-8)
    np.testing.assert_array_equal(built.row_nonzeros(), np.count_nonzero(dense, axis=1))


def test_columns_of_some_rows_with_the_largest_of_all_are_rows_of_the_whole():
    dense = np.random.default_rng(6).uniform(0.0, 1.0, (30, 10))
    grid, top = Grid((30, 1, 1), (1.0, 1.0, 1.0)), dense.max(axis=0)
    whole = InfluenceMatrix.from_columns(grid, np.arange(30), [0, 10], *columns_of(dense))
    few = np.arange(0, 30, 4)
    part = InfluenceMatrix.from_columns(grid, few, [0, 10], *columns_of(dense[few]), top)
    np.testing.assert_array_equal(part.to_dense(), whole.rows(few).to_dense())


def test_a_beam_of_more_spots_than_16_bits_hold_is_refused():
    grid, n = Grid((1, 1, 1), (1.0, 1.0, 1.0)), module.MAX_PLACES_PER_BEAM + 1
    with pytest.raises(ValueError, match="a beam has 65528 spots"):
        InfluenceMatrix.from_columns(grid, [0], [0, n], np.zeros(n + 1), [], [])
