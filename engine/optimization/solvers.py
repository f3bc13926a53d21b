"""Solvers: from a planning problem and a start to spot weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from engine.optimization import _kernels as kernels
from engine.optimization.constraints import Constraint
from engine.optimization.problem import PlanningProblem
from engine.optimization.solution import Reason, Solution

SUFFICIENT_DECREASE = 1e-4  # Armijo's share of the predicted decrease
NOISE = 1e-6  # relative noise of the objective from float32 doses
Callback = Callable[[int, float, np.ndarray], bool | None]
QUIET_ITERATIONS = 3  # Janson 2024: change below the tolerance for 3 consecutive iterations
MAX_SHORTENINGS = 20


class Solver(Protocol):
    """Minimizes a planning problem from a start; refuses the constraints it cannot keep."""

    def solve(
        self,
        problem: PlanningProblem,
        start: np.ndarray,
        constraints: Sequence[Constraint] = (),
        callback: Callback | None = None,
    ) -> Solution:
        """Weights (n_spots,) in particles per fraction, starting from ``start`` (n_spots,)."""


@dataclass(frozen=True)
class LBFGSB:
    """Projected limited-memory BFGS with bounds on every spot, in float32.

    Directions come from the two-loop recursion on the variables that no bound holds (two-metric
    projection, Bertsekas 1982; Schmidt et al. 2009), steps from a search along the projected
    path. A step also counts as good when the slope at its end is still downhill and the objective
    rose by no more than its noise (approximate Wolfe condition, Hager and Zhang 2005): float32
    doses cannot resolve the last decreases. Variables are the weights over ``problem.spot_scale``.

    It ends as Janson 2024 lists: relative change below ``tolerance`` in 3 consecutive iterations,
    ``max_iterations``, or no improving direction; and when ``max_evaluations`` (value and
    gradient, each reads every entry of the matrix once) are spent.
    """

    max_evaluations: int = 100
    tolerance: float = 1e-6
    memory: int = 10
    max_iterations: int | None = None

    def __post_init__(self):
        for name in ("max_evaluations", "memory"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.max_iterations is not None and self.max_iterations < 0:
            raise ValueError(f"max_iterations={self.max_iterations} must be 0 or more.")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance} must be 0 or more.")

    def solve(
        self,
        problem: PlanningProblem,
        start: np.ndarray,
        constraints: Sequence[Constraint] = (),
        callback: Callback | None = None,
        lower: float | np.ndarray = 0.0,
        upper: float | np.ndarray = np.inf,
    ) -> Solution:
        """Minimize from ``start``; the start is moved into the bounds first.

        ``lower`` and ``upper`` are particles per spot, one number or (n_spots,).
        ``callback(iteration, value, weights)`` ends the run by returning True.
        """
        if len(constraints):
            raise NotImplementedError(
                f"LBFGSB keeps bounds only, but {len(constraints)} constraints were given; make "
                "them objectives with large weights, or choose a solver for constraints."
            )
        search = _Search(self, problem, _checked_start(problem, start), lower, upper)
        return search.run(callback)


def solve_deliverable(
    problem: PlanningProblem,
    solver: LBFGSB,
    start: np.ndarray,
    minimum: float | None = None,
    filter_at: int = 20,
    layer_starts: np.ndarray | None = None,
    upper: float | np.ndarray = np.inf,
    callback: Callback | None = None,
) -> Solution:
    """Weights that are 0 or at least ``minimum`` particles per spot (Janson 2024).

    After ``filter_at`` iterations the spots below the minimum are removed layer by layer, each
    handing its weight to the next; the optimization then goes on with the minimum as lower bound
    of the spots that stayed. With ``filter_at=0`` no spot is removed and the bound holds from the
    first iteration. Budgets and iteration counts run through both parts. ``layer_starts``
    (n_layers + 1,) as ``Plan.layer_starts()`` gives them. ``minimum`` is the problem's
    ``minimum_weight`` when None.
    """
    minimum = problem.minimum_weight if minimum is None else minimum
    if minimum is None or not (np.isfinite(minimum) and minimum >= 0):
        raise ValueError(f"minimum={minimum} must be a number of particles, 0 or more.")
    if filter_at < 0:
        raise ValueError(f"filter_at={filter_at} must be 0 or more iterations.")
    if filter_at == 0 or minimum == 0:
        return solver.solve(problem, start, callback=callback, lower=minimum, upper=upper)
    free = replace(
        solver,
        max_iterations=_fewer(solver.max_iterations, filter_at),
        max_evaluations=max(1, solver.max_evaluations - 1),
    )
    first = free.solve(problem, start, callback=callback, upper=upper)
    weights = filter_spots(first.weights, layer_starts, minimum)
    left = solver.max_evaluations - first.n_evaluations
    goes_on = replace(
        solver,
        max_evaluations=max(1, left),  # at least one, to know the filtered plan's value
        max_iterations=None if solver.max_iterations is None
        else max(0, solver.max_iterations - first.n_iterations),
    )  # fmt: skip
    kept = weights > 0
    second = goes_on.solve(
        problem,
        weights,
        callback=_counting_on(callback, first.n_iterations),
        lower=np.where(kept, minimum, 0.0),
        upper=np.where(kept, upper, 0.0),
    )
    return joined(first, second)


def filter_spots(weights: np.ndarray, layer_starts: np.ndarray, minimum: float) -> np.ndarray:
    """Weights (n_spots,) float32 that are 0 or at least the minimum; layers keep their particles.

    Layer by layer, a spot below the minimum is removed and its weight added to the next one.
    """
    layer_starts = None if layer_starts is None else np.asarray(layer_starts, np.int64)
    if layer_starts is None or layer_starts[0] != 0 or layer_starts[-1] != len(weights) or (
        np.any(np.diff(layer_starts) < 0)
    ):  # fmt: skip
        raise ValueError(
            f"layer_starts={layer_starts} must ascend from 0 to the {len(weights)} spots; "
            "Plan.layer_starts() gives them."
        )
    filtered = np.zeros(len(weights), np.float32)
    kernels.filter_layers(np.asarray(weights), layer_starts, float(minimum), filtered)
    return filtered


class _Search:
    """One run of LBFGSB: its arrays, and the steps of an iteration."""

    def __init__(self, settings: LBFGSB, problem: PlanningProblem, start, lower, upper):
        n, f32 = problem.n_spots, np.float32
        self.settings, self.problem = settings, problem
        self.scale = problem.spot_scale
        self.lower = _scaled_bound("lower", lower, self.scale)
        self.upper = _scaled_bound("upper", upper, self.scale)
        if np.any(self.lower > self.upper):
            raise ValueError("lower bounds exceed upper bounds; no weights can satisfy them.")
        self.bounds = np.float32(lower), np.float32(upper)
        self.x = np.clip(start / self.scale, self.lower, self.upper).astype(f32)
        self.x_new, self.g_new, self.direction = np.empty((3, n), f32)
        self.weights, self.free = self.x * self.scale, np.empty(n, f32)
        self.steps, self.changes = np.zeros((2, settings.memory, n), f32)
        self.coefficient = np.zeros(settings.memory)
        self.n_pairs, self.newest = 0, -1
        self.n_evaluations, self.n_iterations, self.n_quiet = 0, 0, 0

    def run(self, callback) -> Solution:
        self.value, gradient = self._evaluate()
        self.g = gradient * self.scale
        self._require_finite(self.value)
        trace, reason = [], None
        while True:
            slope_size = kernels.mark_free(self.x, self.g, self.lower, self.upper, self.free)
            self._require_finite(slope_size)
            trace.append((self.n_evaluations, self.value, slope_size))
            reason = self._finished(slope_size) or self._asked_to_stop(callback) or self._advance()
            if reason is not None:
                return self._solution(reason, np.array(trace))

    def _evaluate(self) -> tuple[float, np.ndarray]:
        self.n_evaluations += 1
        return self.problem.evaluate(self.weights)

    def _finished(self, slope_size: float) -> Reason | None:
        if slope_size == 0.0:
            return "no_improving_direction"
        if self.n_quiet >= QUIET_ITERATIONS:
            return "small_change"
        limit = self.settings.max_iterations
        if limit is not None and self.n_iterations >= limit:
            return "max_iterations"
        if self.n_evaluations >= self.settings.max_evaluations:
            return "max_evaluations"
        return None

    def _asked_to_stop(self, callback) -> Reason | None:
        if callback is not None and callback(self.n_iterations, self.value, self.x * self.scale):
            return "stopped_by_callback"
        return None

    def _advance(self) -> Reason | None:
        """One iteration: a direction, a step along it; steepest descent when that leads nowhere."""
        slope = kernels.quasi_newton_direction(
            self.g, self.free, self.steps, self.changes, self.n_pairs, self.newest,
            self.coefficient, self.direction,
        )  # fmt: skip
        if slope < 0.0 and self._step():
            return None
        if self.n_evaluations >= self.settings.max_evaluations:
            return "max_evaluations"
        if self.n_pairs == 0:
            return "no_improving_direction"
        self.n_pairs = 0
        return self._advance()

    def _step(self) -> bool:
        """Shorten the step until it is good enough; the first trial nearly always is."""
        length = 1.0  # spot_scale bounds the curvature: right for steepest descent too
        for _ in range(MAX_SHORTENINGS):
            slope = kernels.projected_step(
                self.x, self.direction, length, self.lower, self.upper, self.g, self.scale,
                self.x_new, self.weights,
            )  # fmt: skip
            if not slope < 0.0:
                length *= 0.25
                continue
            if self.n_evaluations >= self.settings.max_evaluations:
                return False
            value, gradient = self._evaluate()
            slope_new = kernels.scaled_slope(gradient, self.scale, self.x, self.x_new, self.g_new)
            if self._good(value, slope, slope_new):
                self._accept(value)
                return True
            overshoot = slope / (slope - slope_new) if slope_new > slope else 0.5
            length *= min(0.5, max(0.1, overshoot))
        return False

    def _good(self, value: float, slope: float, slope_new: float) -> bool:
        if value <= self.value + SUFFICIENT_DECREASE * slope:
            return True
        return slope_new <= 0.0 and value <= self.value + NOISE * abs(self.value)

    def _accept(self, value: float) -> None:
        place = (self.newest + 1) % self.settings.memory
        curvature, size = kernels.store_pair(
            self.x, self.x_new, self.g, self.g_new, self.steps[place], self.changes[place]
        )
        if curvature > 0.0 and curvature > 1e-10 * size:
            self.newest, self.n_pairs = place, min(self.n_pairs + 1, self.settings.memory)
        elif self.n_pairs == self.settings.memory:
            self.n_pairs -= 1  # the place was the oldest pair's
        quiet = abs(self.value - value) <= self.settings.tolerance * abs(self.value)
        self.n_quiet = self.n_quiet + 1 if quiet else 0
        self.value = value
        self.x, self.x_new = self.x_new, self.x
        self.g, self.g_new = self.g_new, self.g
        self.n_iterations += 1

    def _require_finite(self, number: float) -> None:
        if not np.isfinite(number):
            raise FloatingPointError(
                f"the objective or its gradient became {number} after {self.n_evaluations} "
                "evaluations; are the weights or an objective's level out of range?"
            )

    def _solution(self, reason: Reason, trace: np.ndarray) -> Solution:
        weights = np.clip(self.x * self.scale, *self.bounds)  # undo the rounding of scaled bounds
        return Solution(weights, self.value, reason, trace, self.n_evaluations, self.n_iterations)


def _checked_start(problem: PlanningProblem, start: np.ndarray) -> np.ndarray:
    start = np.asarray(start, np.float64)
    if start.shape != (problem.n_spots,):
        raise ValueError(f"start has shape {start.shape}, the problem {problem.n_spots} spots.")
    if not np.all(np.isfinite(start)):
        where = int(np.flatnonzero(~np.isfinite(start))[0])
        raise ValueError(f"start[{where}]={start[where]} is not finite; give particles per spot.")
    return start


def _scaled_bound(name: str, bound, scale: np.ndarray) -> np.ndarray:
    bound = np.asarray(bound, np.float64)
    if bound.shape not in ((), scale.shape):
        raise ValueError(f"{name} has shape {bound.shape}, the problem {scale.shape} spots.")
    if np.any(np.isnan(bound)) or (name == "lower" and np.any(bound < 0)):
        raise ValueError(f"{name} bounds must be numbers; no spot can hold fewer than 0 particles.")
    return (bound / scale).astype(np.float32)


def _counting_on(callback: Callback | None, done: int) -> Callback | None:
    """The callback with iteration numbers that go on after those done."""
    if callback is None:
        return None
    return lambda iteration, value, weights: callback(done + iteration, value, weights)


def _fewer(limit: int | None, other: int) -> int:
    return other if limit is None else min(limit, other)


def joined(first: Solution, second: Solution) -> Solution:
    """The solution of a second solve that went on from the first, with both their traces."""
    later = second.trace.copy()
    later[:, 0] += first.n_evaluations
    return replace(
        second,
        trace=np.concatenate([first.trace, later]),
        n_evaluations=first.n_evaluations + second.n_evaluations,
        n_iterations=first.n_iterations + second.n_iterations,
    )
