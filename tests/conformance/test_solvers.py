"""What holds for one solver holds for all: found by themselves under engine/optimization.

A new solver needs a case here: its arguments, for a run of some dozen evaluations.
"""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import engine.optimization
from engine import parallel
from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import RbeDose
from engine.optimization.objectives import MaxDose, UniformDose
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.solvers import Solver
from engine.patient.grid import Grid

CASES = {"LBFGSB": {"max_evaluations": 40}}  # solver: its arguments


def solvers():
    """Every class under engine/optimization with ``solve``, but the interface."""
    found = {}
    for module in pkgutil.walk_packages(engine.optimization.__path__, "engine.optimization."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(thing) and thing is not Solver and hasattr(thing, "solve"):
                found[name] = thing
    return found


SOLVERS = solvers()


@pytest.fixture(scope="module")
def problem():
    """A line of voxels, a Gaussian spot every 2: a target in the middle, an organ beside it."""
    x = np.arange(60.0)
    dense = 1e-9 * np.exp(-0.5 * ((x[:, None] - x[None, ::2]) / 3.0) ** 2)
    grid = Grid((1, 1, 60), (1.0, 1.0, 1.0))
    influence = InfluenceMatrix.from_dense(grid, np.arange(60), dense)
    target, organ = np.arange(20, 40), np.arange(40, 50)
    regions = {"target": (target, np.ones(20)), "organ": (organ, np.ones(10))}
    objectives = (UniformDose("target", 60.0, 10.0), MaxDose("organ", 20.0))
    return PlanningProblem(influence, regions, objectives, RbeDose(30))


@pytest.fixture(params=[name for name in SOLVERS if name in CASES])
def solver(request):
    return SOLVERS[request.param](**CASES[request.param])


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_brings_a_case(name):
    assert name in CASES, f"solver {name} has no case; add one to CASES in {__file__}."


def test_solvers_are_found():
    assert "LBFGSB" in SOLVERS


def test_its_arguments_are_those_of_the_interface(solver):
    mine = inspect.signature(solver.solve).parameters
    for name in inspect.signature(Solver.solve).parameters:
        assert name == "self" or name in mine


def test_the_objective_falls_and_the_solution_says_by_how_much(problem, solver):
    start = initial_weights(problem)
    solution = solver.solve(problem, start)
    at_start = problem.evaluate(start)[0]
    assert solution.value < 0.5 * at_start
    assert solution.value == pytest.approx(problem.evaluate(solution.weights)[0], rel=1e-4)
    assert solution.trace[0, 1] == pytest.approx(at_start, rel=1e-6)
    assert len(solution.trace) == solution.n_iterations + 1


def test_no_spot_gets_fewer_than_no_particles(problem, solver):
    weights = solver.solve(problem, initial_weights(problem)).weights
    assert weights.shape == (problem.n_spots,)
    assert weights.min() >= 0.0


def test_the_start_stays_as_it_was_and_is_checked(problem, solver):
    start = initial_weights(problem)
    before = start.copy()
    solver.solve(problem, start)
    np.testing.assert_array_equal(start, before)
    with pytest.raises(ValueError, match="start"):
        solver.solve(problem, start[1:])


def test_the_bits_do_not_depend_on_threads_or_repetition(problem, solver):
    before, found = parallel.threads(), []
    try:
        for n in (1, 2, 2):
            parallel.set_threads(n)
            found.append(solver.solve(problem, initial_weights(problem)).weights)
    finally:
        parallel.set_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_callback_that_returns_true_ends_the_run(problem, solver):
    start = initial_weights(problem)
    solution = solver.solve(problem, start, callback=lambda iteration, value, weights: True)
    assert solution.reason == "stopped_by_callback"
    assert solution.n_iterations == 0
