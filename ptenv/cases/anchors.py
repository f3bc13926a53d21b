"""What a score is measured between: computed once per case and frozen with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, log

import numpy as np

from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.evaluation.scorecard import ClinicalQuality, Goal
from engine.optimization.problem import PlanningProblem
from engine.optimization.solution import Solution
from engine.optimization.solvers import LBFGSB
from engine.optimization.voxel_sampling import thin_to_budget

EVALUATIONS = 100  # of keep-all, and of each anchor mask: the paper's iteration count
LOWEST_SCORE, HIGHEST_SCORE = -1.0, 1.5
FLOOR = 1e-3  # of keep-all's excess: below it F − F* is not told from rounding
SMALLEST_GAP = 0.1  # in log ρ: cases whose anchors lie closer make no benchmark
PRIORITY = 10.0  # by which organ weights change in the target-first and organs-first plans


@dataclass(frozen=True)
class Anchors:
    """F* and the excesses ρ = F − F* that score 0 and 1, in the units of the objective.

    ``rho_uniform`` maps a budget (share of ``work_all``) to the geometric mean over frozen
    uniform masks at 100 evaluations, ``noise`` to the standard deviation of their log ρ.
    ``work_all`` is nonzeros × evaluations of keep-all at 100 evaluations.
    """

    f_star: float
    f_start: float
    rho_all: float
    rho_uniform: dict[float, float]
    noise: dict[float, float]
    work_all: int
    reference_metrics: dict  # of keep-all at 100 evaluations, {structure: {metric: value}}
    quality: dict  # ClinicalQuality.as_dict()

    @property
    def budgets(self) -> tuple[float, ...]:
        return tuple(self.rho_uniform)

    def excess(self, objective: float) -> float:
        """ρ = F − F*, not below the floor that rounding sets."""
        return max(objective - self.f_star, FLOOR * self.rho_all)

    def raw_score(self, objective: float, budget: float) -> float:
        """log(ρ_uniform/ρ) / log(ρ_uniform/ρ_all), not clipped: what shaping may use."""
        uniform = self.rho_uniform[budget]
        return log(uniform / self.excess(objective)) / self.gap(budget)

    def score(self, objective: float, budget: float) -> float:
        """0: uniform sampling at equal work; 1: keep-all at 100 evaluations; −1 … 1.5."""
        return min(max(self.raw_score(objective, budget), LOWEST_SCORE), HIGHEST_SCORE)

    def highest(self, budget: float) -> float:
        """The score of F* itself."""
        return self.score(self.f_star, budget)

    def gap(self, budget: float) -> float:
        """log(ρ_uniform/ρ_all); at least the smallest gap that makes a benchmark."""
        return max(log(self.rho_uniform[budget] / self.rho_all), SMALLEST_GAP)

    def is_sound(self, budget: float) -> bool:
        """Whether the anchors of a budget lie far enough apart to compare agents."""
        return log(self.rho_uniform[budget] / self.rho_all) >= SMALLEST_GAP

    def as_dict(self) -> dict:
        plain = asdict(self)
        for name in ("rho_uniform", "noise"):
            plain[name] = [[k, v] for k, v in plain[name].items()]  # JSON keys are strings
        return plain

    @classmethod
    def from_dict(cls, plain: dict) -> "Anchors":
        pairs = {n: {float(k): v for k, v in plain[n]} for n in ("rho_uniform", "noise")}
        return cls(**{**plain, **pairs})


def compute_anchors(
    problem: PlanningProblem,
    start: np.ndarray,
    candidates: np.ndarray,
    evaluation: PlanEvaluation,
    goals: tuple[Goal, ...],
    budgets: tuple[float, ...],
    n_masks: int,
    converged_evaluations: int,
    quality_evaluations: int,
    tell: Callable[[str], None] = lambda text: None,
    sampled_from: np.ndarray | None = None,
) -> Anchors:
    """Solve the anchor plans of a case; chance comes from a fixed seed, so they are frozen.

    ``candidates`` (n_rows,) bool are the rows that sampling may choose, ``sampled_from`` those that
    masks count for (``PlanningProblem.masked``). ``tell`` hears of every
    stage of what takes minutes on a large case.
    """
    plans = anchor_plans(
        problem, start, candidates, budgets, n_masks, converged_evaluations, tell, sampled_from
    )
    keep_all, converged = plans.keep_all, plans.converged
    values = {
        b: [problem.value_of_dose(problem.fraction_dose(w)) for w in of]
        for b, of in plans.uniform.items()
    }
    # nothing the anchors met may lie below F*: rho of the bound itself would be negative
    f_star = min(converged.value, keep_all.value, *(min(v) for v in values.values()))
    rho_all = max(keep_all.value - f_star, 1e-9 * max(abs(f_star), 1e-12))
    rho_uniform, noise = masks_excess(values, f_star, rho_all)
    tell(f"two plans of other priorities, {quality_evaluations} evaluations each at most")
    return Anchors(
        f_star=f_star,
        f_start=float(keep_all.trace[0, 1]),
        rho_all=rho_all,
        rho_uniform=rho_uniform,
        noise=noise,
        work_all=problem.n_nonzeros * EVALUATIONS,
        reference_metrics=_metrics(problem, evaluation, keep_all.weights),
        quality=quality_anchors(
            problem, converged.weights, evaluation, goals, quality_evaluations
        ),
    )


@dataclass(frozen=True, eq=False)
class AnchorPlans:
    """The plans that a score is measured between: keep-all at 100 evaluations, the one that
    converged, and weights (n_spots,) of every frozen uniform mask's, by budget."""

    keep_all: Solution
    converged: Solution
    uniform: dict[float, list[np.ndarray]]


def anchor_plans(
    problem: PlanningProblem,
    start: np.ndarray,
    candidates: np.ndarray,
    budgets: tuple[float, ...],
    n_masks: int,
    converged_evaluations: int,
    tell: Callable[[str], None] = lambda text: None,
    sampled_from: np.ndarray | None = None,
) -> AnchorPlans:
    """Solve the plans of ``compute_anchors``; the same bits whenever it is asked."""
    tell(f"keep-all, {EVALUATIONS} evaluations")
    keep_all = LBFGSB(max_evaluations=EVALUATIONS, tolerance=0.0).solve(problem, start)
    tell(f"F*, {converged_evaluations} evaluations")
    converged = LBFGSB(max_evaluations=converged_evaluations, tolerance=0.0).solve(
        problem, keep_all.weights
    )
    uniform = {}
    for b in budgets:
        tell(f"{n_masks} uniform masks at {100 * b:g} % of keep-all's work")
        uniform[b] = [
            _uniform_weights(problem, start, candidates, sampled_from, b, i)
            for i in range(n_masks)
        ]
    return AnchorPlans(keep_all, converged, uniform)


def masks_excess(
    values: Mapping[float, Sequence[float]], f_star: float, rho_all: float
) -> tuple[dict[float, float], dict[float, float]]:
    """Geometric mean of the masks' ρ, and standard deviation of log ρ, by budget, from their F."""
    log_rho = {b: np.log(np.maximum(np.array(v) - f_star, FLOOR * rho_all))
               for b, v in values.items()}  # fmt: skip
    return (
        {b: exp(v.mean()) for b, v in log_rho.items()},
        {b: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for b, v in log_rho.items()},
    )


def _uniform_weights(
    problem, start, candidates, sampled_from, budget: float, index: int
) -> np.ndarray:  # fmt: skip
    """Weights after 100 evaluations on one of the frozen uniform masks."""
    rng = np.random.default_rng([index, int(1e6 * budget)])
    nonzeros = problem.influence.row_nonzeros()
    mask = thin_to_budget(candidates, nonzeros, int(budget * problem.n_nonzeros), rng)
    solver = LBFGSB(max_evaluations=EVALUATIONS, tolerance=0.0)
    masked = problem.masked(mask, rng=rng, sampled_from=sampled_from)
    return solver.solve(masked, start).weights


def quality_anchors(
    problem: PlanningProblem, balanced: np.ndarray, evaluation: PlanEvaluation,
    goals: tuple[Goal, ...], evaluations: int,
) -> dict:  # fmt: skip
    """Q's anchors, as a dict, from converged plans: target first, balanced, organs first."""
    solver = LBFGSB(max_evaluations=evaluations, tolerance=1e-6)
    plans = [_metrics(problem, evaluation, balanced)]
    for factor in (1.0 / PRIORITY, PRIORITY):
        solution = solver.solve(_reweighted(problem, factor), balanced)
        plans.append(_metrics(problem, evaluation, solution.weights))
    return ClinicalQuality.from_plans(goals, plans).as_dict()


def _reweighted(problem: PlanningProblem, factor: float) -> PlanningProblem:
    """The problem with everything but what asks for dose in the targets weighted by a factor."""
    objectives = [
        o if o.asks_for_dose else replace(o, weight=o.weight * factor) for o in problem.objectives
    ]
    return replace(problem, objectives=objectives)


def _metrics(problem: PlanningProblem, evaluation: PlanEvaluation, weights: np.ndarray) -> dict:
    return evaluation.evaluate(problem.quantity.value(problem.fraction_dose(weights)))
