"""Final plans of dose shaping by the reference: weightings of the goals, and direct optimization.

Direct optimization runs on the case's own matrix, as in the case; of the plans that it passed the
reference scores the best after every number of evaluations, and takes the best that it has seen
until then.
"""

from dataclasses import dataclass, replace
from functools import cached_property

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
from ptenv.cases.anchors import SMALLEST_GAP
from ptenv.cases.dose_shaping_build import DirectPlans, direct_plans
from ptenv.cases.dose_shaping_case import DoseShapingCase, ShapingAnchors
from ptenv.cases.scenario_doses import plan_of
from ptenv.cases.shaping_goals import WeightedGoals


@dataclass(frozen=True, eq=False)
class DoseShapingReference:
    """The influence of a case's own bixels or spots by the reference engine on the fine grid."""

    key: str
    case: DoseShapingCase
    problem: PlanningProblem
    evaluation: PlanEvaluation
    anchors: ShapingAnchors | None = None

    @property
    def case_key(self) -> str:
        return self.case.key

    @property
    def nbytes(self) -> int:
        return self.problem.influence.nbytes

    def anchors_dict(self) -> dict:
        return self.anchors.as_dict()

    def dose_gy(self, weights: np.ndarray) -> np.ndarray:
        """Gy (RBE) of the course, (n_rows,) float32."""
        return self.problem.quantity.value(self.problem.fraction_dose(weights))

    def goals(self, index: int) -> WeightedGoals:
        """One of the case's weightings on the reference's rows."""
        return self._goals[index]

    @cached_property
    def _goals(self) -> list[WeightedGoals]:
        highest = self.case.targets[0]
        return [WeightedGoals.of(self.problem, m, highest) for m in self.case.multipliers]

    def judge(self, state) -> Judged:
        refuse_other_case(self, state)
        dose = self.dose_gy(np.asarray(state.plan.weights))
        objective = self.goals(state.goals).value(dose)
        metrics, anchors, goals = self.evaluation.evaluate(dose), self.anchors, state.goals
        if not anchors.is_sound(goals):
            return Judged(None, None, objective, metrics, _too_close(anchors, goals))
        return Judged(
            anchors.score(objective, goals, state.products),
            anchors.raw_score(objective, goals, state.products), objective, metrics,
        )  # fmt: skip


def dose_shaping_reference(
    case: DoseShapingCase, settings: ReferenceSettings, shelf: Shelf, tell: Tell
) -> DoseShapingReference:
    """Rows and matrix by the reference, then the anchor plans scored by it."""
    key, recipe = settings.key(case.key), case.settings

    def rows_of(patient) -> FineRows:
        return fine_rows(
            patient, settings.dose_grid_mm, recipe.ring_mm, case.problem.objectives, case.quantity
        )

    def influence():
        patient = recipe.read_patient()
        rows = rows_of(patient)
        engine = reference_engine(settings, tell, case.case_id, bixel_mm=recipe.bixel_mm)
        tell(f"{case.case_id}: {len(rows.voxels)} voxels, {case.influence.n_spots} spots")
        return engine.influence(patient, plan_of(case), rows.grid, voxels=rows.voxels)

    def opened(rows: FineRows) -> DoseShapingReference:
        problem = rows.with_matrix(shelf.matrix(f"{key}-0", influence))
        return DoseShapingReference(key, case, problem, rows.evaluation(case.quality))

    def anchored():
        rows = rows_of(recipe.read_patient())
        description, arrays = rows.as_entry()
        anchors = _anchors(opened(rows), settings, tell)
        return description | {"anchors": anchors.as_dict()}, arrays

    description, arrays = shelf.entry(key, anchored)
    reference = opened(FineRows.from_entry(description, arrays))
    return replace(reference, anchors=ShapingAnchors.from_dict(description["anchors"]))


def _anchors(
    reference: DoseShapingReference, settings: ReferenceSettings, tell: Tell
) -> ShapingAnchors:
    """Direct optimization of every weighting, scored by the reference, and its F*."""
    case, f_star, direct, metrics = reference.case, [], [], None
    solver = LBFGSB(max_evaluations=settings.converged_evaluations, tolerance=0.0)
    for index in range(case.n_goals):
        tell(f"{case.case_id}: anchors of weighting {index + 1} of {case.n_goals}")
        passed = direct_plans(
            case.goals(index).problem, case.start_weights[index], case.settings.direct_evaluations
        )
        values = _values(reference, index, passed)
        best = solver.solve(reference.goals(index).problem, passed.weights[-1])
        f_star.append(min(best.value, *values))
        direct.append(values)
        if metrics is None:
            metrics = reference.evaluation.evaluate(reference.dose_gy(passed.weights[-1]))
    return ShapingAnchors(tuple(f_star), tuple(direct), metrics, case.anchors.quality)


def _values(
    reference: DoseShapingReference, index: int, passed: DirectPlans
) -> tuple[float, ...]:
    """F by the reference of the best plan after 0 … n evaluations."""
    goals = reference.goals(index)
    handed = np.unique(passed.best_after)
    values = {i: goals.value(reference.dose_gy(passed.weights[i])) for i in handed}
    # the start as episodes hold it, so that doing nothing scores 0 to the bit
    values[0] = goals.value(reference.dose_gy(reference.case.start_weights[index]))
    seen = np.minimum.accumulate([values[i] for i in passed.best_after])
    return tuple(float(v) for v in seen)


def _too_close(anchors: ShapingAnchors, goals: int) -> str:
    return (
        f"scored by the reference, direct optimization of weighting {goals} comes no further than "
        f"{SMALLEST_GAP} in log from the start within ten dose products: F is "
        f"{anchors.direct[goals][0]:.4g} of the start, {anchors.direct_after(goals, 0.0):.4g} of "
        f"direct optimization, F* {anchors.f_star[goals]:.4g}"
    )
