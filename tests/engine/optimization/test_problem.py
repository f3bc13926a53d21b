import pickle
from dataclasses import replace

import numpy as np
import pytest

from engine.dose.quantities import RbeDose
from engine.optimization.objectives import EUD, MaxDose, MaxDVH, MeanDose, MinDose, UniformDose
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.regions import Region, regions_on
from engine.parallel import set_threads, threads

GENERAL = (  # not a sum over voxels, or of one beam: goes through products
    UniformDose("target", 70.0, 100.0),
    MinDose("target", 30.0, 5.0, beam=0),
    MaxDVH("ring", 14.0, 0.2, 3.0),
    EUD("organ", 15.0, a=6.0, weight=2.0),
    MeanDose("ring", 8.0, 2.0, beam=1),
)


def a_start(problem, seed=0):
    rng = np.random.default_rng(seed)
    return (initial_weights(problem) * rng.uniform(0.3, 1.7, problem.n_spots)).astype(np.float32)


def test_fused_value_and_gradient_match_the_dense_twin(problem, twin_problem):
    weights = a_start(problem)
    value, gradient = problem.evaluate(weights)
    expected, slope = twin_problem.evaluate(weights)
    assert problem.fused
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=2e-5 * abs(slope).max())


def test_products_agree_with_the_fused_pass(problem):
    weights = a_start(problem)
    value, gradient = problem.evaluate(weights)
    by_products, slope = problem._evaluate_by_products(weights)
    assert by_products == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=2e-5 * abs(gradient).max())


def test_gradient_by_weights_matches_finite_difference(toy):
    influence, twin, regions = toy
    problem = PlanningProblem(twin, regions, GENERAL, RbeDose(35))
    weights = a_start(problem).astype(np.float64)
    _, gradient = problem.evaluate(weights)
    assert not problem.fused
    for spot in (0, 17, 60, problem.n_spots - 1):
        step = np.zeros(problem.n_spots)
        step[spot] = 1e-3 * weights[spot]
        higher, lower = (problem.evaluate(weights + s)[0] for s in (step, -step))
        assert gradient[spot] == pytest.approx((higher - lower) / (2 * step[spot]), rel=1e-3)


def test_value_of_dose_is_the_value_of_the_weights(problem):
    weights = a_start(problem)
    dose_gy = problem.influence.dose(weights)
    value, _ = problem.evaluate(weights)
    assert problem.value_of_dose(dose_gy) == pytest.approx(value, rel=1e-5)
    shares = problem.terms_by_objective(weights)
    assert shares.shape == (4,)
    assert shares.sum() == pytest.approx(value, rel=1e-5)


def test_local_credit_adds_up_to_the_value(problem):
    dose_gy = problem.influence.dose(a_start(problem))
    credit, slope = problem.penalty_by_row(dose_gy)
    assert credit.sum(dtype=np.float64) == pytest.approx(problem.value_of_dose(dose_gy), rel=1e-4)
    assert slope.shape == dose_gy.shape


def test_shares_of_general_objectives_add_up(toy):
    influence, _, regions = toy
    problem = PlanningProblem(influence, regions, GENERAL, RbeDose(35))
    weights = a_start(problem)
    assert problem.terms_by_objective(weights).sum() == pytest.approx(
        problem.evaluate(weights)[0], rel=1e-5
    )
    with pytest.raises(ValueError, match="terms_by_objective"):
        problem.value_of_dose(influence.dose(weights))


def test_more_fractions_with_fewer_particles_each_cost_the_same(toy):
    influence, _, regions = toy
    objectives = (UniformDose("target", 60.0),)
    one = PlanningProblem(influence, regions, objectives, RbeDose(1))
    many = PlanningProblem(influence, regions, objectives, RbeDose(30))
    weights = a_start(many)
    assert one.evaluate(30 * weights)[0] == pytest.approx(many.evaluate(weights)[0], rel=1e-4)


def test_start_gives_the_prescribed_mean_dose(problem, toy):
    region = toy[2]["target"]
    dose_gy = 35 * 1.1 * problem.influence.dose(initial_weights(problem))
    assert np.dot(region.volume, dose_gy[region.rows]) == pytest.approx(70.0, rel=1e-4)


def test_threads_do_not_matter_to_the_bit(problem):
    weights, before = a_start(problem), threads()
    try:
        results = []
        for n in (1, 2):
            set_threads(n)
            results.append(problem.evaluate(weights))
    finally:
        set_threads(before)
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


# ---------------------------------------------------------------- masks


def weight_by_structure(problem):
    """Σ of the row weights of every objective, from the compiled terms."""
    terms = problem._terms
    return np.bincount(terms.objective, terms.penalty.weight, minlength=len(problem.objectives))


def test_structures_keep_their_total_weight_under_a_mask(problem):
    mask = np.random.default_rng(1).random(problem.influence.n_rows) < 0.2
    masked = problem.masked(mask)
    assert masked.influence.n_rows == mask.sum()
    assert masked.n_nonzeros == masked.influence.n_nonzeros
    np.testing.assert_allclose(weight_by_structure(masked), weight_by_structure(problem), rtol=1e-4)
    for name in ("target", "organ", "ring"):
        assert masked.structures[name].volume.sum() == pytest.approx(1.0)


def test_shrinking_sum_leaves_every_row_its_weight(problem):
    mask = np.random.default_rng(1).random(problem.influence.n_rows) < 0.2
    masked = problem.masked(mask, keep_total_weight=False)
    weights = a_start(problem)
    credit, _ = problem.penalty_by_row(problem.influence.dose(weights))
    assert masked.evaluate(weights)[0] == pytest.approx(
        credit[mask].sum(dtype=np.float64), rel=1e-4
    )


def test_keeping_all_rows_changes_nothing(problem):
    weights = a_start(problem)
    masked = problem.masked(np.ones(problem.influence.n_rows, bool))
    assert masked.evaluate(weights)[0] == pytest.approx(problem.evaluate(weights)[0], rel=1e-6)


def test_a_sample_of_some_rows_counts_for_those_alone(problem):
    weights = a_start(problem)
    pool = np.random.default_rng(3).random(problem.influence.n_rows) < 0.6
    chosen = pool & (np.random.default_rng(4).random(len(pool)) < 0.5)
    reduced = problem.masked(pool, keep_total_weight=False)
    sampled = problem.masked(chosen, sampled_from=pool)
    expected = weight_by_structure(reduced)
    np.testing.assert_allclose(weight_by_structure(sampled), expected, rtol=1e-4)
    # all of the pool is the reduced problem itself
    whole = problem.masked(pool, sampled_from=pool)
    assert whole.evaluate(weights)[0] == pytest.approx(reduced.evaluate(weights)[0], rel=1e-6)


def test_a_structure_without_a_row_to_sample_from_is_dropped(problem):
    weights = a_start(problem)
    organ = problem.structures["organ"].rows
    pool = np.ones(problem.influence.n_rows, bool)
    pool[organ] = False
    sampled = problem.masked(pool, sampled_from=pool, rng=np.random.default_rng(0))
    assert sampled.influence.n_rows == pool.sum()  # no voxel is kept for the organ's sake
    general = replace(problem, objectives=GENERAL).masked(pool, sampled_from=pool)
    assert "organ" not in {o.structure for o in general.objectives}
    assert np.isfinite(general.evaluate(weights)[0])


def test_masked_problem_is_the_problem_built_on_its_rows(problem):
    rows = np.flatnonzero(np.random.default_rng(2).random(problem.influence.n_rows) < 0.3)
    masked = problem.masked(rows)
    rebuilt = PlanningProblem(
        problem.influence.rows(rows), dict(masked.structures), problem.objectives, problem.quantity
    )
    weights = a_start(problem)
    value, gradient = masked.evaluate(weights)
    expected, slope = rebuilt.evaluate(weights)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=2e-5 * abs(slope).max())


def test_masks_of_general_problems_agree_with_a_rebuilt_one(toy):
    influence, _, regions = toy
    problem = PlanningProblem(influence, regions, GENERAL, RbeDose(35))
    rows = np.flatnonzero(np.random.default_rng(2).random(influence.n_rows) < 0.3)
    masked = problem.masked(rows)
    rebuilt = PlanningProblem(influence.rows(rows), dict(masked.structures), GENERAL, RbeDose(35))
    weights = a_start(problem)
    assert masked.evaluate(weights)[0] == pytest.approx(rebuilt.evaluate(weights)[0], rel=1e-6)


def test_a_mask_of_a_mask_is_a_mask(problem):
    rng = np.random.default_rng(4)
    first = np.flatnonzero(rng.random(problem.influence.n_rows) < 0.5)
    second = np.flatnonzero(rng.random(len(first)) < 0.5)
    weights = a_start(problem)
    twice = problem.masked(first).masked(second).evaluate(weights)[0]
    assert twice == pytest.approx(problem.masked(first[second]).evaluate(weights)[0], rel=1e-5)


def test_an_emptied_structure_keeps_one_seeded_voxel(problem):
    organ = problem.structures["organ"].rows
    mask = np.ones(problem.influence.n_rows, bool)
    mask[organ] = False
    kept = [
        problem.masked(mask, rng=np.random.default_rng(seed)).influence.voxels for seed in (5, 5, 6)
    ]
    assert len(kept[0]) == mask.sum() + 1
    assert np.isin(kept[0], problem.influence.voxels[organ]).sum() == 1
    np.testing.assert_array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])
    np.testing.assert_allclose(
        weight_by_structure(problem.masked(mask)), weight_by_structure(problem), rtol=1e-4
    )


def test_an_empty_mask_keeps_one_voxel_of_each_structure(problem):
    masked = problem.masked(np.zeros(problem.influence.n_rows, bool))
    assert 2 <= masked.influence.n_rows <= 3  # the organ's voxel may be the ring's as well
    assert np.isfinite(masked.evaluate(a_start(problem))[0])


def test_masking_leaves_the_problem_as_it_was(problem):
    weights = a_start(problem)
    before = problem.evaluate(weights)
    problem.masked(np.arange(0, problem.influence.n_rows, 7))
    after = problem.evaluate(weights)
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])


def test_problems_survive_pickling(problem):
    masked = problem.masked(np.arange(0, problem.influence.n_rows, 3))
    weights = a_start(problem)
    for original in (problem, masked):
        copy = pickle.loads(pickle.dumps(original))
        assert copy.evaluate(weights)[0] == original.evaluate(weights)[0]


# ---------------------------------------------------------------- bad input


def test_unknown_structure_quantity_and_beam_are_refused(toy):
    influence, _, regions = toy
    for objective, error, message in (
        (MaxDose("lung", 20.0), KeyError, "lung"),
        (MaxDose("organ", 20.0, quantity="letd"), ValueError, "letd"),
        (MaxDose("organ", 20.0, beam=2), ValueError, "beam 2"),
    ):
        with pytest.raises(error, match=message):
            PlanningProblem(influence, regions, (objective,), RbeDose(35))
    with pytest.raises(ValueError, match="objectives is empty"):
        PlanningProblem(influence, regions, (), RbeDose(35))


def test_regions_beyond_the_matrix_are_refused(toy):
    influence = toy[0]
    far = {"organ": ([0, influence.n_rows], [1.0, 1.0])}
    with pytest.raises(ValueError, match="influence matrix"):
        PlanningProblem(influence, far, (MaxDose("organ", 20.0),), RbeDose(35))


@pytest.mark.parametrize(
    "rows, volume, message",
    [
        ([], [], "at least one row"),
        ([1, 1], [1.0, 1.0], "ascend"),
        ([0, 1], [1.0, -1.0], "not negative"),
        ([0, 1], [0.0, 0.0], "not all 0"),
        ([0, 1], [1.0], "equal lists"),
    ],
)
def test_malformed_regions_are_refused(rows, volume, message):
    with pytest.raises(ValueError, match=message):
        Region(np.array(rows, int), np.array(volume))


def test_masks_of_another_shape_are_refused(problem):
    n = problem.influence.n_rows
    for rows in (np.ones(n - 1, bool), np.array([3, 2]), np.array([0, n]), np.array([0.5, 2.0])):
        with pytest.raises(ValueError, match="rows"):
            problem.masked(rows)


def test_regions_take_fractional_volumes_from_the_dose_grid():
    share = np.zeros((1, 2, 3), np.float32)
    share[0, 0] = [0.0, 0.25, 1.0]
    voxels = np.array([1, 2, 4])
    regions = regions_on(voxels, {"a": share, "b": np.zeros_like(share)}, distance_mm=share * 8)
    assert list(regions) == ["a"]
    np.testing.assert_array_equal(regions["a"].rows, [0, 1])
    np.testing.assert_allclose(regions["a"].volume, [0.2, 0.8])
    np.testing.assert_allclose(regions["a"].distance_mm, [2.0, 8.0])
