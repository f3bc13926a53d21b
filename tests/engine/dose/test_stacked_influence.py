"""Scenarios stacked in one matrix, and some of its beams, against dense arrays."""

from dataclasses import replace

import numpy as np
import pytest

from engine import parallel
from engine.dose import influence as module
from engine.dose.influence import InfluenceMatrix, RowPenalty
from engine.patient.grid import Grid

GRID = Grid((6, 8, 10), (3.0, 3.0, 3.0))
BEAM_STARTS = (0, 20, 20, 41, 64)  # four beams, one of them without spots
N_ROWS = 90


def dense_entries(seed):
    """Gy per particle (n_rows, 64): many zeros; spot 5 reaches nothing, 6 one scenario alone."""
    random = np.random.default_rng(seed)
    dense = random.random((N_ROWS, 64)) ** 3 * 1e-9 * (1.0 + 0.1 * seed)
    dense[random.random(dense.shape) > 0.3] = 0.0
    dense[:, 5] = 0.0
    dense[:, 6] = 0.0 if seed else dense[:, 6]
    return dense


def matrix_of(dense):
    return InfluenceMatrix.from_dense(GRID, np.arange(0, 4 * N_ROWS, 4), dense, BEAM_STARTS)


@pytest.fixture
def parts():
    return [matrix_of(dense_entries(seed)) for seed in range(3)]


@pytest.fixture
def weights():
    return np.random.default_rng(1).uniform(0.0, 1e8, 64)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that every part has several, and threads put back afterwards."""
    monkeypatch.setattr(module, "CHUNKS_PER_BLOCK", 20)
    before = parallel.threads()
    yield
    parallel.set_threads(before)


def penalty(n_rows, seed=0):
    """Zero to three terms a row around the doses that the weights give."""
    random = np.random.default_rng(seed)
    start = np.concatenate([[0], np.cumsum(random.integers(0, 4, n_rows))])
    n = start[-1]
    return RowPenalty(
        start, 0.3 * random.random(n), random.uniform(1.0, 3.0, n), random.choice([-1.0, 1.0], n)
    )


def test_stacked_doses_are_those_of_the_parts(parts, weights):
    whole = InfluenceMatrix.stacked(parts)
    wanted = np.concatenate([part @ weights for part in parts])
    assert whole.n_rows == 3 * N_ROWS and whole.n_beams == 4
    np.testing.assert_allclose(whole @ weights, wanted, rtol=1e-4)


def test_parts_of_one_scale_stack_bit_for_bit(parts, weights):
    top = np.full(64, 1e-9 / module.ROOT_MAX**2, np.float32)
    same = [replace(part, scale=top) for part in parts]
    whole = InfluenceMatrix.stacked(same)
    np.testing.assert_array_equal(whole.values, np.concatenate([p.values for p in same]))
    np.testing.assert_array_equal(whole @ weights, np.concatenate([p @ weights for p in same]))


def test_entries_of_other_scales_are_rounded_once_more_and_no_worse(parts):
    whole = InfluenceMatrix.stacked(parts).to_dense().reshape(3, N_ROWS, 64)
    for seed, kept in enumerate(whole):
        wanted = dense_entries(seed)
        top = np.stack([dense_entries(s).max(axis=0) for s in range(3)]).max(axis=0)
        root = np.sqrt(wanted / np.where(top > 0, top, 1.0))
        # one step of the 16-bit root in all, from two roundings
        bound = 2.1 * root / module.ROOT_MAX + 2.0 / module.ROOT_MAX**2
        assert np.all(abs(kept - wanted) <= bound * top)


def test_a_scenario_that_a_spot_misses_does_not_coarsen_the_others(parts):
    # an empty column of from_columns has the scale of 1 Gy per particle, 1e9 times too coarse
    assert parts[1].scale[6] > 1e6 * parts[0].scale[6]
    whole = InfluenceMatrix.stacked(parts)
    kept = whole.to_dense()[:N_ROWS, 6]
    np.testing.assert_allclose(kept, parts[0].to_dense()[:, 6], rtol=1e-6)


def test_stacking_leaves_the_parts_as_they_were(parts):
    before = [(p.values.copy(), p.scale.copy(), p.start.copy()) for p in parts]
    InfluenceMatrix.stacked(parts)
    for part, arrays in zip(parts, before):
        for kept, now in zip(arrays, (part.values, part.scale, part.start)):
            np.testing.assert_array_equal(kept, now)


def test_parts_with_other_spots_or_places_are_refused(parts):
    with pytest.raises(ValueError, match="parts is empty"):
        InfluenceMatrix.stacked([])
    other = InfluenceMatrix.from_dense(GRID, parts[0].voxels, dense_entries(0), (0, 20, 64))
    with pytest.raises(ValueError, match="part 1 has .* spots per beam"):
        InfluenceMatrix.stacked([parts[0], other])
    moved = replace(parts[0], place=parts[0].place + np.uint16(8))
    with pytest.raises(ValueError, match="part 1 keeps its spots at other places"):
        InfluenceMatrix.stacked([parts[0], moved])
    elsewhere = replace(parts[0], grid=Grid((6, 8, 10), (2.0, 2.0, 2.0)))
    with pytest.raises(ValueError, match="another grid"):
        InfluenceMatrix.stacked([parts[0], elsewhere])


@pytest.mark.parametrize("shared", [True, False])
def test_penalty_by_part_is_the_penalty_of_every_part(parts, weights, small_blocks, shared):
    whole = InfluenceMatrix.stacked(parts)
    rows = penalty(N_ROWS if shared else 3 * N_ROWS)
    values, gradients = whole.penalty_by_part(weights, rows, N_ROWS * np.arange(4))
    assert values.shape == (3,) and gradients.shape == (3, 64)
    for s in range(3):
        alone = whole.rows(np.arange(s * N_ROWS, (s + 1) * N_ROWS))
        mine = rows if shared else part_of(rows, s * N_ROWS, (s + 1) * N_ROWS)
        value, gradient = alone.penalty(weights, mine)
        assert values[s] == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(gradients[s], gradient, rtol=1e-4, atol=1e-5 * gradient.max())


def part_of(rows, first, stop):
    a, b = rows.start[first], rows.start[stop]
    start = rows.start[first : stop + 1] - a
    return RowPenalty(start, rows.level[a:b], rows.weight[a:b], rows.side[a:b])


def test_one_part_is_the_penalty(parts, weights, small_blocks):
    rows = penalty(N_ROWS)
    value, gradient = parts[0].penalty(weights, rows)
    values, gradients = parts[0].penalty_by_part(weights, rows, [0, N_ROWS])
    assert values[0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradients[0], gradient, rtol=1e-6)


def test_parts_may_be_unequal_or_empty(parts, weights):
    whole, rows = InfluenceMatrix.stacked(parts), penalty(3 * N_ROWS)
    values, gradients = whole.penalty_by_part(weights, rows, [0, 17, 17, 3 * N_ROWS])
    value, gradient = whole.penalty(weights, rows)
    assert values[1] == 0.0 and not gradients[1].any()
    assert values.sum() == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(gradients.sum(axis=0), gradient, rtol=1e-4, atol=1e-10)


def test_penalty_by_part_does_not_depend_on_the_threads(parts, weights, small_blocks):
    whole, rows = InfluenceMatrix.stacked(parts), penalty(N_ROWS)
    found = []
    for n in (1, 2, 5):
        parallel.set_threads(n)
        found.append(whole.penalty_by_part(weights, rows, N_ROWS * np.arange(4)))
    for values, gradients in found[1:]:
        np.testing.assert_array_equal(values, found[0][0])
        np.testing.assert_array_equal(gradients, found[0][1])


def test_part_rows_and_penalties_that_do_not_fit_are_refused(parts, weights):
    whole = InfluenceMatrix.stacked(parts)
    for wrong in ([0, N_ROWS], [1, 3 * N_ROWS], [3 * N_ROWS]):
        with pytest.raises(ValueError, match="must run from 0 to the 270 rows"):
            whole.penalty_by_part(weights, penalty(3 * N_ROWS), wrong)
    with pytest.raises(ValueError, match="must not descend"):
        whole.penalty_by_part(weights, penalty(3 * N_ROWS), [0, 100, 50, 3 * N_ROWS])
    with pytest.raises(ValueError, match="rows covers 90 rows"):
        whole.penalty_by_part(weights, penalty(N_ROWS), [0, 80, 180, 270])
    with pytest.raises(ValueError, match="rows covers 33 rows"):
        whole.penalty_by_part(weights, penalty(33), N_ROWS * np.arange(4))


def test_some_beams_are_their_columns_in_the_order_asked(parts, weights, small_blocks):
    whole = InfluenceMatrix.stacked(parts)
    some = whole.beams_only([3, 0, 1])
    columns = np.r_[41:64, 0:20]
    assert some.beam_starts.tolist() == [0, 23, 43, 43]
    np.testing.assert_array_equal(some.to_dense(), whole.to_dense()[:, columns])
    rows = penalty(N_ROWS)
    value, gradient = some.penalty(weights[columns], penalty(3 * N_ROWS))
    only = np.zeros(64)
    only[columns] = weights[columns]
    expected, slope = whole.penalty(only, penalty(3 * N_ROWS))
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, slope[columns], rtol=1e-4, atol=1e-5 * slope.max())
    by_part, _ = some.penalty_by_part(weights[columns], rows, N_ROWS * np.arange(4))
    expected, _ = whole.penalty_by_part(only, rows, N_ROWS * np.arange(4))
    np.testing.assert_allclose(by_part, expected, rtol=1e-5)


def test_all_beams_are_the_matrix(parts):
    copy = parts[0].beams_only(range(4))
    for name in ("start", "columns", "values", "scale", "place", "beam_starts"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(parts[0], name))
    assert not np.shares_memory(copy.values, parts[0].values)


def test_beams_that_do_not_exist_or_repeat_are_refused(parts):
    with pytest.raises(ValueError, match="0 … 3"):
        parts[0].beams_only([0, 4])
    with pytest.raises(ValueError, match="names a beam twice"):
        parts[0].beams_only([2, 0, 2])
    for wrong in ([], [0.5], 1):
        with pytest.raises(ValueError, match="one beam index or more"):
            parts[0].beams_only(wrong)


def test_penalties_of_several_weights_are_those_one_by_one(parts, small_blocks):
    sets = np.random.default_rng(2).uniform(0.0, 1e8, (3, 64))
    rows, before = penalty(N_ROWS), parallel.threads()
    values, gradients = parts[0].penalties(sets, rows)
    for weights, value, gradient in zip(sets, values, gradients):
        expected, slope = parts[0].penalty(weights, rows)
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_array_equal(gradient, slope)
    parallel.set_threads(before + 1)
    again, slopes = parts[0].penalties(sets, rows)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(slopes, gradients)
    with pytest.raises(ValueError, match="rows covers 33 rows, the matrix 90"):
        parts[0].penalties(sets, penalty(33))
