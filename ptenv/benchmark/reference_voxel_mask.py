"""Final plans of voxel masks by the reference.

ρ = F − F*, F by the reference and F* the least that any spot weights reach there: the excess of a
plan holds what its mask cost and what the fast engine and its coarse grid cost, for everybody's
plans as for the anchors, which are the same plans as the case's. What the two cost is below every
ρ and draws scores towards each other; it ranks nobody higher. ``mismatch`` in the anchors is that
part: ρ of the plan that converged on the fast matrix.

F of that plan would be another zero of ρ. It is none: plans that were stopped early, or made on
few voxels, fit the fast matrix less and may lie below it by the reference. Within a case and a
budget both rank plans alike.
"""

from dataclasses import dataclass

import numpy as np

from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.optimization.problem import PlanningProblem
from engine.optimization.solvers import LBFGSB
from ptenv.benchmark.reference_engines import reference_engine
from ptenv.benchmark.reference_rows import FineRows, Shelf, fine_rows
from ptenv.benchmark.reference_settings import (
    Judged,
    ReferenceSettings,
    Tell,
    refuse_other_case,
)  # fmt: skip
from ptenv.cases.anchors import SMALLEST_GAP, Anchors, anchor_plans, masks_excess
from ptenv.cases.case import Case
from ptenv.cases.modality import biology_of
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.cases.scenario_doses import patient_of, plan_of


@dataclass(frozen=True, eq=False)
class VoxelMaskReference:
    """The influence of a case's own spots by the reference engine on the fine grid."""

    key: str
    case_key: str
    problem: PlanningProblem
    evaluation: PlanEvaluation
    anchors: Anchors
    mismatch: float  # ρ of the plan that converged on the case's own matrix

    @property
    def nbytes(self) -> int:
        return self.problem.influence.nbytes

    def anchors_dict(self) -> dict:
        return {**self.anchors.as_dict(), "mismatch": self.mismatch}

    def objective(self, weights: np.ndarray) -> float:
        """F of particles per fraction (n_spots,)."""
        return objective_of(self.problem, weights)

    def judge(self, state) -> Judged:
        refuse_other_case(self, state)
        dose = self.problem.fraction_dose(np.asarray(state.weights))
        objective = self.problem.value_of_dose(dose)
        metrics = self.evaluation.evaluate(self.problem.quantity.value(dose))
        anchors, budget = self.anchors, state.budget
        if not anchors.is_sound(budget):
            return Judged(None, None, objective, metrics, _too_close(anchors, budget))
        return Judged(
            anchors.score(objective, budget), anchors.raw_score(objective, budget), objective,
            metrics,
        )  # fmt: skip


def objective_of(problem: PlanningProblem, weights: np.ndarray) -> float:
    """F of particles per fraction (n_spots,), as plans are judged."""
    return problem.value_of_dose(problem.fraction_dose(weights))


def voxel_mask_reference(
    case: Case, settings: ReferenceSettings, shelf: Shelf, tell: Tell
) -> VoxelMaskReference:
    """Rows and matrix by the reference, then the anchor plans scored by it."""
    key, recipe = settings.key(case.key), VoxelMaskRecipe(**case.recipe)

    def rows_of(patient) -> FineRows:
        return fine_rows(
            patient, settings.dose_grid_mm, recipe.ring_mm, case.problem.objectives, case.quantity
        )

    def influence():
        patient = patient_of(case)
        rows = rows_of(patient)
        engine = reference_engine(settings, tell, case.case_id, biology_of(recipe))
        tell(f"{case.case_id}: {len(rows.voxels)} voxels, {case.influence.n_spots} spots")
        return engine.influence(patient, plan_of(case), rows.grid, voxels=rows.voxels)

    def anchored():
        rows = rows_of(patient_of(case))
        problem = rows.with_matrix(shelf.matrix(f"{key}-0", influence))
        anchors, mismatch = _anchors(case, problem, rows.evaluation(case.quality), settings, tell)
        description, arrays = rows.as_entry()
        return description | {"anchors": anchors.as_dict(), "mismatch": mismatch}, arrays

    description, arrays = shelf.entry(key, anchored)
    rows = FineRows.from_entry(description, arrays)
    return VoxelMaskReference(
        key, case.key, rows.with_matrix(shelf.matrix(f"{key}-0", influence)),
        rows.evaluation(case.quality), Anchors.from_dict(description["anchors"]),
        description["mismatch"],
    )  # fmt: skip


def _anchors(
    case: Case, problem: PlanningProblem, evaluation: PlanEvaluation, settings: ReferenceSettings,
    tell: Tell,
) -> tuple[Anchors, float]:  # fmt: skip
    """The case's anchor plans between F* of the reference; and ρ of the converged one."""
    recipe = VoxelMaskRecipe(**case.recipe)
    plans = anchor_plans(
        case.problem, case.start_weights, case.candidates, recipe.budgets, recipe.n_anchor_masks,
        recipe.converged_evaluations, lambda text: tell(f"{case.case_id}: {text}"),
        case.sampled_from,
    )  # fmt: skip
    values = {b: [objective_of(problem, w) for w in of] for b, of in plans.uniform.items()}
    keep_all = objective_of(problem, plans.keep_all.weights)
    converged = objective_of(problem, plans.converged.weights)
    tell(f"{case.case_id}: F* of the reference, {settings.converged_evaluations} evaluations")
    solver = LBFGSB(max_evaluations=settings.converged_evaluations, tolerance=0.0)
    best = solver.solve(problem, plans.converged.weights)
    f_star = min(best.value, keep_all, converged, *(min(v) for v in values.values()))
    rho_all = max(keep_all - f_star, 1e-9 * max(abs(f_star), 1e-12))
    rho_uniform, noise = masks_excess(values, f_star, rho_all)
    dose = problem.quantity.value(problem.fraction_dose(plans.keep_all.weights))
    anchors = Anchors(
        f_star=f_star, f_start=objective_of(problem, case.start_weights), rho_all=rho_all,
        rho_uniform=rho_uniform, noise=noise, work_all=case.anchors.work_all,
        reference_metrics=evaluation.evaluate(dose), quality=case.anchors.quality,
    )  # fmt: skip
    return anchors, converged - f_star


def _too_close(anchors: Anchors, budget: float) -> str:
    return (
        f"scored by the reference, the anchors of budget {budget:g} come within {SMALLEST_GAP} of "
        f"each other in log: ρ is {anchors.rho_uniform[budget]:.4g} of uniform masks, "
        f"{anchors.rho_all:.4g} of keep-all"
    )
