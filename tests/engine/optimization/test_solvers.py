import warnings

import numpy as np
import pytest
from scipy.optimize import minimize

from engine.dose.quantities import RbeDose
from engine.optimization.constraints import Constraint
from engine.optimization.objectives import MaxDose, MaxDVH, MinDose, UniformDose
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.solvers import LBFGSB, filter_spots, solve_deliverable
from engine.parallel import set_threads, threads


@pytest.fixture(scope="module")
def converged(problem):
    return LBFGSB(max_evaluations=4000, tolerance=1e-8).solve(problem, initial_weights(problem))


def scipy_solution(problem, start, **options):
    """SciPy's L-BFGS-B in float64, on the same variables; returns it and the values it saw."""
    scale, seen = problem.spot_scale.astype(np.float64), []

    def value_and_gradient(x):
        value, gradient = problem.evaluate(x * scale)
        seen.append(value)
        return value, np.asarray(gradient, np.float64) * scale

    bounds = [(0.0, None)] * len(start)
    found = minimize(
        value_and_gradient, start / scale, jac=True, bounds=bounds, method="L-BFGS-B",
        options={"maxcor": 10, "ftol": 0.0, "gtol": 0.0, **options},
    )  # fmt: skip
    return found, np.minimum.accumulate(seen)


def test_reaches_the_minimum_that_scipy_finds_in_float64(problem, twin_problem, converged):
    """The twin is in float64 throughout, so SciPy's minimum is good to more digits than ours."""
    start = initial_weights(problem)
    found, _ = scipy_solution(twin_problem, start, maxfun=4000, maxiter=4000)
    assert converged.value == pytest.approx(found.fun, rel=1e-3)


def test_needs_no_more_evaluations_than_scipy(problem):
    start = initial_weights(problem)
    _, seen = scipy_solution(problem, start, maxfun=100)
    for budget in (10, 20, 50, 100):
        ours = LBFGSB(budget, tolerance=0.0).solve(problem, start)
        assert ours.value <= 1.05 * seen[min(budget, len(seen)) - 1]


def test_converged_plans_satisfy_the_optimality_conditions(problem, converged):
    """Karush, Kuhn and Tucker: no slope on free spots, none downhill on those at the bound."""
    _, gradient = problem.evaluate(converged.weights)
    _, at_start = problem.evaluate(initial_weights(problem))
    scale = problem.spot_scale
    slope, steep = gradient * scale, abs(at_start * scale).max()
    assert abs(slope[converged.weights > 0]).max() < 1e-3 * steep
    assert slope[converged.weights == 0].min() > -1e-3 * steep
    assert converged.reason == "small_change"


def test_trace_tells_what_every_iteration_cost(problem):
    solution = LBFGSB(30, tolerance=0.0).solve(problem, initial_weights(problem))
    evaluations, values = solution.trace[:, 0], solution.trace[:, 1]
    assert len(solution.trace) == solution.n_iterations + 1
    assert evaluations[0] == 1
    assert np.all(np.diff(evaluations) >= 1)
    assert np.all(np.diff(values) < 0)
    assert values[-1] == solution.value


def test_value_belongs_to_the_weights(problem):
    solution = LBFGSB(15).solve(problem, initial_weights(problem))
    assert problem.evaluate(solution.weights)[0] == pytest.approx(solution.value, rel=1e-5)


@pytest.mark.parametrize("budget", [1, 2, 7, 33])
def test_budget_of_evaluations_is_never_exceeded(problem, budget):
    calls = []

    class Counted:
        n_spots, spot_scale = problem.n_spots, problem.spot_scale

        @staticmethod
        def evaluate(weights):
            calls.append(1)
            return problem.evaluate(weights)

    solution = LBFGSB(budget, tolerance=0.0).solve(Counted, initial_weights(problem))
    assert solution.reason == "max_evaluations"
    assert solution.n_evaluations == len(calls) == budget


def test_stops_after_three_small_changes(problem):
    tolerance = 1e-2
    solution = LBFGSB(1000, tolerance=tolerance).solve(problem, initial_weights(problem))
    relative = -np.diff(solution.trace[:, 1]) / solution.trace[:-1, 1]
    assert solution.reason == "small_change"
    assert np.all(relative[-3:] <= tolerance)
    quiet = np.convolve(relative <= tolerance, np.ones(3), "valid")
    assert np.flatnonzero(quiet == 3)[0] == len(quiet) - 1  # and not later than it could


def test_stops_after_the_given_iterations(problem):
    solution = LBFGSB(1000, tolerance=0.0, max_iterations=6).solve(
        problem, initial_weights(problem)
    )
    assert (solution.reason, solution.n_iterations) == ("max_iterations", 6)


def test_stops_where_nothing_improves(toy):
    influence, _, regions = toy
    problem = PlanningProblem(influence, regions, (MaxDose("organ", 20.0),), RbeDose(35))
    solution = LBFGSB(50).solve(problem, np.zeros(problem.n_spots))
    assert (solution.reason, solution.value) == ("no_improving_direction", 0.0)
    assert solution.n_evaluations == 1


def test_callback_sees_every_iteration_and_may_stop(problem):
    seen = []

    def callback(iteration, value, weights):
        seen.append((iteration, value, weights.min() >= 0))
        return iteration == 4

    solution = LBFGSB(50, tolerance=0.0).solve(problem, initial_weights(problem), callback=callback)
    assert (solution.reason, solution.n_iterations) == ("stopped_by_callback", 4)
    assert [s[0] for s in seen] == [0, 1, 2, 3, 4]
    assert all(s[2] for s in seen)


def test_continuing_goes_on_from_where_it_ended(problem):
    first = LBFGSB(20, tolerance=0.0).solve(problem, initial_weights(problem))
    second = LBFGSB(20, tolerance=0.0).solve(problem, first.weights)
    assert second.trace[0, 1] == pytest.approx(first.value, rel=1e-5)
    assert second.value < first.value


def test_start_at_zero_finds_the_same_minimum(problem, converged):
    solution = LBFGSB(4000, tolerance=1e-8).solve(problem, np.zeros(problem.n_spots))
    assert solution.value == pytest.approx(converged.value, rel=1e-3)


def test_start_far_too_high_finds_the_same_minimum(problem, converged):
    solution = LBFGSB(4000, tolerance=1e-8).solve(problem, 1e4 * initial_weights(problem))
    assert solution.value == pytest.approx(converged.value, rel=1e-3)


def test_functions_that_are_not_convex_descend_too(toy):
    influence, _, regions = toy
    objectives = (UniformDose("target", 70.0, 100.0), MaxDVH("ring", 14.0, 0.2, 10.0))
    problem = PlanningProblem(influence, regions, objectives, RbeDose(35))
    start = initial_weights(problem)
    solution = LBFGSB(100).solve(problem, start)
    assert solution.value < 0.2 * problem.evaluate(start)[0]


def test_bounds_hold(problem):
    start = initial_weights(problem)
    low, high = 0.1 * start[0], 2.0 * start[0]
    solution = LBFGSB(60).solve(problem, start, lower=low, upper=high)
    assert solution.weights.min() == np.float32(low)
    assert solution.weights.max() == np.float32(high)


def test_same_bits_with_one_and_two_threads_and_again(problem):
    start, before, found = initial_weights(problem), threads(), []
    try:
        for n in (1, 2, 1):
            set_threads(n)
            found.append(LBFGSB(60, tolerance=0.0).solve(problem, start))
    finally:
        set_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].weights, other.weights)
        np.testing.assert_array_equal(found[0].trace, other.trace)


def test_start_stays_as_it_was(problem):
    start = initial_weights(problem)
    copy = start.copy()
    LBFGSB(10).solve(problem, start)
    np.testing.assert_array_equal(start, copy)


def test_masked_rows_lead_to_a_plan_for_all_rows(problem, converged):
    mask = np.random.default_rng(0).random(problem.influence.n_rows) < 0.5
    start = initial_weights(problem)
    solution = LBFGSB(100).solve(problem.masked(mask), start)
    value = problem.evaluate(solution.weights)[0]
    assert converged.value < value < 0.5 * problem.evaluate(start)[0]


# ---------------------------------------------------------------- minimum spot weight


@pytest.fixture(scope="module")
def layer_starts(problem):
    return np.arange(0, problem.n_spots + 1, 15)  # 5 × 3 spots to a layer


def test_deliverable_weights_are_zero_or_at_least_the_minimum(problem, layer_starts):
    minimum = 3e7
    solution = solve_deliverable(
        problem, LBFGSB(80, tolerance=0.0), initial_weights(problem), minimum, 20, layer_starts
    )
    kept = solution.weights > 0
    assert 0 < kept.sum() < problem.n_spots
    assert solution.weights[kept].min() >= minimum
    assert solution.n_evaluations <= 80
    assert problem.evaluate(solution.weights)[0] == pytest.approx(solution.value, rel=1e-5)


def test_optimizing_on_restores_what_the_filter_broke(problem, layer_starts):
    minimum, start = 2e8, initial_weights(problem)
    unfiltered = LBFGSB(80, tolerance=0.0).solve(problem, start)
    filtered = filter_spots(unfiltered.weights, layer_starts, minimum)
    inside = solve_deliverable(problem, LBFGSB(80, tolerance=0.0), start, minimum, 20, layer_starts)
    assert inside.value < problem.evaluate(filtered)[0]
    assert inside.value > unfiltered.value


def test_iterations_are_counted_through_the_filter(problem, layer_starts):
    seen = []
    solution = solve_deliverable(
        problem, LBFGSB(40, tolerance=0.0), initial_weights(problem), 3e7, 10, layer_starts,
        callback=lambda iteration, value, weights: seen.append(iteration),
    )  # fmt: skip
    assert seen == list(range(solution.n_iterations))
    assert np.all(np.diff(solution.trace[:, 0]) > 0)


def test_filtering_at_iteration_zero_removes_no_spot(problem):
    solution = solve_deliverable(problem, LBFGSB(40), initial_weights(problem), 3e7, filter_at=0)
    assert solution.weights.min() >= 3e7


def test_a_minimum_of_nothing_holds_no_spot_at_zero(problem, layer_starts):
    free = LBFGSB(60, tolerance=0.0).solve(problem, initial_weights(problem))
    found = solve_deliverable(
        problem, LBFGSB(60, tolerance=0.0), initial_weights(problem), 0.0, 20, layer_starts
    )
    np.testing.assert_array_equal(found.weights, free.weights)


def test_minimum_of_the_problem_is_the_default(toy, layer_starts):
    influence, _, regions = toy
    problem = PlanningProblem(
        influence, regions, (UniformDose("target", 70.0),), RbeDose(35), minimum_weight=2e7
    )
    start = initial_weights(problem)
    weights = solve_deliverable(problem, LBFGSB(50), start, layer_starts=layer_starts).weights
    assert weights[weights > 0].min() >= 2e7


def test_removed_spots_hand_their_weight_to_the_next():
    weights = np.array([4.0, 3.0, 9.0, 20.0, 4.0, 1.0, 2.0, 30.0])
    filtered = filter_spots(weights, np.array([0, 5, 7, 8]), 10.0)
    # 4 + 3 + 9 = 16 stays at the third; the last 4 go back to the 20; 1 + 2 are a lost layer
    np.testing.assert_array_equal(filtered, [0, 0, 16, 24, 0, 0, 0, 30])


# ---------------------------------------------------------------- bad input


def test_starts_that_are_no_weights_are_refused(problem):
    start = initial_weights(problem)
    with pytest.raises(ValueError, match="shape"):
        LBFGSB().solve(problem, start[:-1])
    for bad in (np.nan, np.inf):
        broken = start.copy()
        broken[3] = bad
        with pytest.raises(ValueError, match=r"start\[3\]"):
            LBFGSB().solve(problem, broken)


def test_bad_bounds_are_refused(problem):
    start = initial_weights(problem)
    for bounds in ({"lower": -1.0}, {"lower": np.nan}, {"lower": 2.0, "upper": 1.0}):
        with pytest.raises(ValueError, match="bounds"):
            LBFGSB().solve(problem, start, **bounds)
    with pytest.raises(ValueError, match="upper has shape"):
        LBFGSB().solve(problem, start, upper=np.ones(3))


def test_constraints_are_refused_rather_than_ignored(problem):
    constraint = Constraint(MinDose("target", 60.0))
    with pytest.raises(NotImplementedError, match="1 constraints"):
        LBFGSB().solve(problem, initial_weights(problem), constraints=(constraint,))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_evaluations": 0}, "max_evaluations=0"),
        ({"memory": 0}, "memory=0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"max_iterations": -1}, "max_iterations=-1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LBFGSB(**settings)


def test_bad_layers_and_minima_are_refused(problem):
    start = initial_weights(problem)
    with pytest.raises(ValueError, match="layer_starts"):
        filter_spots(start, np.array([0, 3]), 1.0)
    with pytest.raises(ValueError, match="layer_starts"):
        solve_deliverable(problem, LBFGSB(30), start, 1e6, 5)
    with pytest.raises(ValueError, match="minimum=None"):
        solve_deliverable(problem, LBFGSB(30), start)


def test_a_problem_that_turns_nan_says_so(problem):
    class Broken:
        n_spots, spot_scale = problem.n_spots, problem.spot_scale

        @staticmethod
        def evaluate(weights):
            return np.nan, np.full(problem.n_spots, np.nan, np.float32)

    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match="1 evaluations"):
        LBFGSB().solve(Broken, initial_weights(problem))
