"""Robust problems on a water block that two crossing fields treat, moved and made denser."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import RbeDose
from engine.dose.scenario_interpolation import InterpolatedScenarios
from engine.optimization.objectives import MaxDose, MaxDVH, MeanDose, UniformDose
from engine.optimization.problem import PlanningProblem
from engine.optimization.regions import Region
from engine.optimization.robust import (
    AccurateScenarios,
    RobustProblem,
    smooth_maximum,
    solve_worst_case,
)
from engine.optimization.solvers import LBFGSB, solve_deliverable
from engine.parallel import set_threads, threads
from engine.patient.grid import Grid

SHAPE, SPACING_MM = (6, 14, 14), 5.0
ERRORS = (  # shift x, y, z in mm, density
    (0, 0, 0, 1.0), (0, 0, 0, 1.06), (0, 0, 0, 0.94),
    (4, 0, 0, 1.0), (-4, 0, 0, 1.0), (0, 4, 0, 1.0), (0, -4, 0, 1.0),
)  # fmt: skip
OBJECTIVES = (
    UniformDose("target", 70.0, 100.0),
    MaxDose("organ", 20.0, 5.0),
    MaxDose("ring", 14.0, 0.5),
)
SOLVER = LBFGSB(max_evaluations=240, tolerance=0.0)


def positions_mm():
    z, y, x = (SPACING_MM * (np.arange(n) - (n - 1) / 2) for n in SHAPE)
    return (a.ravel() for a in np.meshgrid(z, y, x, indexing="ij"))


def spots(depth_mm, across_mm, z_mm, density):
    """Columns of pencil beams with a blurred peak, (n_voxels, n_spots) Gy per particle."""
    columns = []
    for range_mm in np.arange(22.0, 56.0, 5.0):
        for u in np.arange(-21.0, 22.0, 6.0):
            for v in (-8.0, 0.0, 8.0):
                beyond = density * depth_mm - range_mm
                rise = 0.35 + 0.65 / (1.0 + np.maximum(-beyond, 0.0) / 3.0)
                fall = np.exp(-(np.maximum(beyond, 0.0) ** 2) / 8.0)
                lateral = np.exp(-((across_mm - u) ** 2 + (z_mm - v) ** 2) / (2 * 5.0**2))
                columns.append(4e-10 * rise * fall * lateral)
    return columns


def matrix(voxels, sx, sy, sz, density):
    z, y, x = positions_mm()  # an isocenter moved by +s sees the patient moved by −s sideways
    dense = np.stack(
        spots(y + 35, x - sx, z - sz, density) + spots(x + 35, y - sy, z - sz, density), axis=1
    )
    dense[dense < 1e-13] = 0.0
    n = dense.shape[1]
    return InfluenceMatrix.from_dense(
        Grid(SHAPE, (SPACING_MM,) * 3), voxels, dense[voxels], (0, n // 2, n)
    )


@pytest.fixture(scope="module")
def phantom():
    """(stacked matrix, regions by name)"""
    z, y, x = positions_mm()
    target = np.hypot(x, y) < 11
    organ = (np.hypot(x - 17, y - 7) < 6) & (abs(z) < 12)
    masks = {"target": target, "organ": organ, "ring": ~target & (np.hypot(x, y) < 28)}
    voxels = np.flatnonzero(np.logical_or.reduce(list(masks.values())))
    rows = {name: np.flatnonzero(mask[voxels]) for name, mask in masks.items()}
    regions = {name: Region(r, np.ones(len(r))) for name, r in rows.items()}
    return InfluenceMatrix.stacked([matrix(voxels, *e) for e in ERRORS]), regions


@pytest.fixture(scope="module")
def doses(phantom):
    return AccurateScenarios(phantom[0], len(ERRORS))


@pytest.fixture(scope="module")
def problem(phantom, doses):
    return RobustProblem(doses, phantom[1], OBJECTIVES, RbeDose(35), minimum_weight=2e6)


@pytest.fixture(scope="module")
def robust_plan(problem):
    return solve_worst_case(problem, SOLVER, problem.initial_weights())


def a_start(problem, seed=0):
    rng = np.random.default_rng(seed)
    return problem.initial_weights() * rng.uniform(0.3, 1.7, problem.n_spots)


def assert_gradient_is_the_slope(problem, weights, rel):
    """Along random directions: float32 doses do not resolve single spots."""
    _, gradient = problem.evaluate(weights)
    for seed in range(4):
        step = 2e-3 * weights * np.random.default_rng(seed).standard_normal(len(weights))
        higher, lower = (problem.evaluate(weights + s)[0] for s in (step, -step))
        noise = 1e-3 * abs(gradient * step).max()  # where ups and downs cancel
        assert float(gradient @ step) == pytest.approx(0.5 * (higher - lower), rel=rel, abs=noise)


def test_a_smooth_maximum_lies_between_the_mean_and_the_maximum():
    values = np.random.default_rng(0).uniform(0.0, 3.0, 9)
    for p in (1.0, 2.0, 8.0, 32.0, 500.0):
        smooth, _ = smooth_maximum(values, p)
        assert max(values.mean(), values.max() / 9 ** (1 / p)) - 1e-12 <= smooth <= values.max()
    assert smooth_maximum(values, 1.0)[0] == pytest.approx(values.mean())
    assert smooth_maximum(values, 500.0)[0] == pytest.approx(values.max(), rel=5e-3)


def test_a_smooth_maximum_does_not_know_its_scale():
    values = np.random.default_rng(0).uniform(0.0, 3.0, 9)
    value, share = smooth_maximum(values, 8.0)
    for scale in (1e-30, 1e30):
        scaled, same = smooth_maximum(scale * values, 8.0)
        assert scaled == pytest.approx(scale * value)
        np.testing.assert_allclose(same, share)


def test_shares_are_the_derivative_of_the_smooth_maximum():
    values = np.random.default_rng(1).uniform(0.5, 3.0, 6)
    for p in (1.0, 3.0, 32.0):
        _, share = smooth_maximum(values, p)
        for k, step in enumerate(1e-6 * np.eye(6)):
            higher, lower = (smooth_maximum(values + s, p)[0] for s in (step, -step))
            assert share[k] == pytest.approx((higher - lower) / 2e-6, rel=1e-5, abs=1e-8)


def test_a_smooth_maximum_of_nothing_is_nothing():
    value, share = smooth_maximum(np.zeros(4), 8.0)
    assert value == 0.0 and np.all(np.isfinite(share))


@pytest.mark.parametrize("sharpness", [1.0, 8.0, 32.0])
def test_gradient_of_the_smoothed_worst_case_matches_finite_difference(problem, sharpness):
    assert_gradient_is_the_slope(problem.sharpened(sharpness), a_start(problem), rel=3e-3)


def test_gradient_matches_when_some_objectives_are_not_robust(phantom, doses):
    mixed = RobustProblem(doses, phantom[1], OBJECTIVES, RbeDose(35), robust=(True, False, True))
    assert_gradient_is_the_slope(mixed, a_start(mixed), rel=3e-3)


def test_objectives_that_are_no_sums_over_voxels_go_by_products(phantom, doses):
    general = (*OBJECTIVES, MeanDose("ring", 8.0, 2.0), MaxDVH("organ", 15.0, 0.3, 3.0))
    for flags in (None, (True, False, True, False, True)):
        problem = RobustProblem(doses, phantom[1], general, RbeDose(35), robust=flags)
        assert_gradient_is_the_slope(problem, a_start(problem), rel=3e-3)


def test_products_and_the_fused_pass_agree(phantom, doses, problem):
    class Opaque(UniformDose):  # the same function, its sum over voxels hidden
        terms = None

        def value(self, *where):
            return UniformDose(self.structure, self.level_gy).value(*where)

        def gradient(self, *where):
            return UniformDose(self.structure, self.level_gy).gradient(*where)

    hidden = replace(problem, objectives=(Opaque("target", 70.0, 100.0), *OBJECTIVES[1:]))
    object.__setattr__(hidden._moving, "fused", False)
    weights = a_start(problem)
    value, gradient = problem.evaluate(weights)
    by_products, slope = hidden.evaluate(weights)
    assert by_products == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=1e-5 * abs(gradient).max())


def test_values_are_those_of_every_scenario_by_itself(phantom, doses, problem):
    weights = a_start(problem)
    n = doses.n_rows
    for s, value in enumerate(problem.values(weights)):
        alone = doses.stacked.rows(np.arange(s * n, (s + 1) * n))
        nominal = PlanningProblem(alone, phantom[1], OBJECTIVES, RbeDose(35))
        assert value == pytest.approx(nominal.evaluate(weights)[0], rel=1e-5)
    assert problem.worst(weights) == problem.values(weights).max()


def test_one_scenario_is_the_nominal_problem(phantom, doses):
    only = RobustProblem(AccurateScenarios(doses.nominal, 1), phantom[1], OBJECTIVES, RbeDose(35))
    weights = a_start(only)
    value, gradient = only.evaluate(weights)
    expected, slope = only.nominal.evaluate(weights)
    assert value == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


def test_an_objective_that_is_not_robust_sees_the_nominal_scenario_alone(phantom, doses):
    flags, regions = (True, False, False), phantom[1]
    mixed = RobustProblem(doses, regions, OBJECTIVES, RbeDose(35), robust=flags)
    weights = a_start(mixed)
    fixed = PlanningProblem(doses.nominal, regions, OBJECTIVES[1:], RbeDose(35))
    moving = RobustProblem(doses, regions, OBJECTIVES[:1], RbeDose(35))
    wanted = fixed.evaluate(weights)[0] + moving.values(weights)
    np.testing.assert_allclose(mixed.values(weights), wanted, rtol=1e-6)
    # other doses in the other scenarios change what is robust, and nothing else
    wild = [matrix(doses.nominal.voxels, 3 * sx, 3 * sy, 0, 1.0) for sx, sy, *_ in ERRORS]
    elsewhere = AccurateScenarios(InfluenceMatrix.stacked(wild), len(ERRORS))
    none = replace(mixed, robust=(False,) * 3)
    moved = replace(none, doses=elsewhere)
    assert moved.evaluate(weights)[0] == pytest.approx(none.evaluate(weights)[0], rel=1e-3)
    assert np.ptp(moved.values(weights)) == 0.0
    assert replace(mixed, doses=elsewhere).worst(weights) > 1.01 * mixed.worst(weights)


def test_the_robust_plan_beats_the_nominal_plan_in_the_worst_case(problem, robust_plan):
    start = problem.initial_weights()
    nominal = SOLVER.solve(problem.nominal, start)
    assert problem.worst(robust_plan.weights) < 0.6 * problem.worst(nominal.weights)
    # and pays for it where nothing goes wrong
    assert problem.values(robust_plan.weights)[0] > problem.values(nominal.weights)[0]


def test_sharper_maxima_end_nearer_to_the_worst_case(problem, robust_plan):
    soft = SOLVER.solve(problem.sharpened(2.0), problem.initial_weights())
    assert problem.worst(robust_plan.weights) < problem.worst(soft.weights)
    true = problem.worst(robust_plan.weights)
    assert len(ERRORS) ** (-1 / 32) * true - 1e-9 <= robust_plan.value <= true * (1 + 1e-6)


def test_the_budget_of_evaluations_is_kept_in_total(problem):
    for budget in (1, 2, 7, 30):
        calls = []
        solver = LBFGSB(max_evaluations=budget, tolerance=0.0)
        solution = solve_worst_case(counting(problem, calls), solver, problem.initial_weights())
        assert len(calls) == solution.n_evaluations <= budget
        assert np.all(np.diff(solution.trace[:, 0]) >= 0)


def counting(problem, calls):
    """A stand-in that notes the exponent of every evaluation."""

    class Counting:
        n_spots, spot_scale = problem.n_spots, problem.spot_scale

        def __init__(self, inner):
            self.inner = inner

        def evaluate(self, weights):
            calls.append(self.inner.sharpness)
            return self.inner.evaluate(weights)

        def sharpened(self, sharpness):
            return Counting(self.inner.sharpened(sharpness))

    return Counting(problem)


def test_evaluations_go_from_soft_to_sharp_and_a_callback_ends_them(problem):
    calls = []
    solver = LBFGSB(max_evaluations=20, tolerance=0.0)
    solve_worst_case(counting(problem, calls), solver, problem.initial_weights())
    assert sorted(calls) == calls and set(calls) == {8.0, 32.0} and calls.count(8.0) <= 10
    solution = solve_worst_case(
        problem, solver, problem.initial_weights(), callback=lambda i, value, w: i == 2
    )
    assert solution.reason == "stopped_by_callback" and solution.n_iterations == 2


def test_the_worst_of_the_sum_is_less_than_the_sum_of_the_worst():
    # one spot; left, its dose meets the organ, right, it misses the target
    grid, rows = Grid((1, 1, 2), (1.0, 1.0, 1.0)), np.arange(2)
    left, right = np.array([[1.0], [1.0]]), np.array([[0.5], [0.0]])
    parts = [InfluenceMatrix.from_dense(grid, rows, d) for d in (left, right)]
    doses = AccurateScenarios(InfluenceMatrix.stacked(parts), 2)
    regions = {"target": Region([0], [1.0]), "organ": Region([1], [1.0])}
    objectives = (UniformDose("target", 1.0), MaxDose("organ", 0.5))
    problem = RobustProblem(doses, regions, objectives, RbeDose(1, rbe=1.0))
    weights = np.ones(1)
    # target: 0 left, (0.5 − 1)² right; organ: ((1 − 0.5) / 0.5)² left, 0 right
    np.testing.assert_allclose(problem.values(weights), [1.0, 0.25], rtol=1e-3)
    each = [replace(problem, objectives=[o], robust=None).worst(weights) for o in objectives]
    assert sum(each) == pytest.approx(1.25, rel=1e-3)
    assert problem.worst(weights) == pytest.approx(1.0, rel=1e-3)


def test_deliverable_weights_come_out_of_a_robust_problem(problem, robust_plan):
    layers = np.arange(0, problem.n_spots + 1, 24)
    solution = solve_deliverable(
        problem.sharpened(32.0), LBFGSB(max_evaluations=60), robust_plan.weights,
        filter_at=5, layer_starts=layers,
    )  # fmt: skip
    weights = solution.weights
    assert np.all((weights == 0) | (weights >= np.float32(problem.minimum_weight)))
    assert problem.worst(weights) < 1.5 * problem.worst(robust_plan.weights)


def test_evaluations_do_not_depend_on_the_threads(problem):
    weights, before, found = a_start(problem), threads(), []
    try:
        for n in (1, 2):
            set_threads(n)
            found.append(problem.evaluate(weights))
    finally:
        set_threads(before)
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_problems_that_make_no_sense_are_refused(phantom, doses, problem):
    with pytest.raises(ValueError, match="robust has 2 entries for 3 objectives"):
        replace(problem, robust=(True, False))
    with pytest.raises(ValueError, match="sharpness=0.5"):
        replace(problem, sharpness=0.5)
    with pytest.raises(ValueError, match="beam 0 cannot be robust"):
        replace(problem, objectives=(UniformDose("target", 70.0, beam=0),), robust=None)
    with pytest.raises(KeyError, match="'heart'"):
        replace(problem, objectives=(MaxDose("heart", 20.0),), robust=None)
    with pytest.raises(ValueError, match="must divide"):
        AccurateScenarios(doses.stacked, 5)
    with pytest.raises(ValueError, match="sharpness is empty"):
        solve_worst_case(problem, SOLVER, problem.initial_weights(), sharpness=())


def test_an_objective_on_one_beam_may_be_there_when_it_is_not_robust(phantom, doses):
    objectives = (OBJECTIVES[0], MaxDose("organ", 5.0, beam=1))
    problem = RobustProblem(doses, phantom[1], objectives, RbeDose(35), robust=(True, False))
    assert_gradient_is_the_slope(problem, a_start(problem), rel=3e-3)


def test_interpolated_doses_are_optimized_like_accurate_ones(phantom, doses):
    # every third spot of the nominal scenario, moved by one or two places: known to the last digit
    whole, n = doses.nominal, doses.n_spots
    maps = []
    for step in (0, 1, 2):
        at = (3 * np.arange(n // 3) + step, np.arange(n // 3))
        maps.append(csr_array((np.ones(n // 3, np.float32), at), shape=(n, n // 3)))
    starts = np.array([0, n // 6, n // 3])
    approximate = InterpolatedScenarios(whole, tuple(maps), starts)
    dense = whole.to_dense()
    accurate = AccurateScenarios(InfluenceMatrix.stacked([
        InfluenceMatrix.from_dense(whole.grid, whole.voxels, dense @ m.toarray(), starts)
        for m in maps
    ]), 3)  # fmt: skip
    for flags in (None, (True, False, True)):
        problems = [
            RobustProblem(d, phantom[1], OBJECTIVES, RbeDose(35), robust=flags)
            for d in (approximate, accurate)
        ]
        weights = a_start(problems[1])
        (value, gradient), (expected, slope) = (p.evaluate(weights) for p in problems)
        assert value == pytest.approx(expected, rel=1e-3)
        np.testing.assert_allclose(gradient, slope, rtol=1e-2, atol=1e-3 * abs(slope).max())
        values = [p.values(weights) for p in problems]
        np.testing.assert_allclose(*values, rtol=1e-3)
        solutions = [solve_worst_case(p, LBFGSB(60), p.initial_weights()) for p in problems]
        found = [problems[1].worst(s.weights) for s in solutions]
        assert found[0] == pytest.approx(found[1], rel=0.1)
