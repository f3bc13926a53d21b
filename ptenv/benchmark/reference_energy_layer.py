"""Final plans of arcs by the reference, in all nine scenarios.

The score is of the plan as it was handed over; a plan on a coarse grid may lose more to the grid
than one set of layers to another. ``worst_of_layers`` tells what the layers alone are worth.

The matrices of a small arc hold all layers that reach the target, so that a plan of any of them is
scored in milliseconds; a large arc's plans are computed one by one, spots without particles left
out.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.geometry.arc import ArcGeometry
from engine.geometry.plan import Plan
from engine.geometry.scenarios import Scenario
from engine.optimization.arc import SHARPNESS, ArcPlan, layers_in_order
from engine.optimization.robust import AccurateScenarios, RobustProblem, solve_worst_case
from engine.optimization.solvers import LBFGSB
from engine.patient.patient import Patient
from ptenv.benchmark.reference_engines import reference_engine
from ptenv.benchmark.reference_rows import FineRows, Shelf, fine_rows
from ptenv.benchmark.reference_settings import (
    Judged,
    ReferenceSettings,
    Tell,
    refuse_other_case,
    silent,
)  # fmt: skip
from ptenv.cases.anchors import SMALLEST_GAP
from ptenv.cases.energy_layer_build import bound_layers, bound_plan, dynamic_choice
from ptenv.cases.energy_layer_case import EnergyLayerCase, LayerAnchors
from ptenv.cases.modality import biology_of

PLAN = "plan"  # what is scored: plans on all rows, not sketches


@dataclass(frozen=True, eq=False)
class EnergyLayerReference:
    """Doses of a case's plans by the reference engine on the fine grid.

    ``matrices`` are of all valid layers, one for every scenario; empty: doses are computed plan by
    plan.
    """

    key: str
    case: EnergyLayerCase
    settings: ReferenceSettings
    rows: FineRows
    matrices: tuple[InfluenceMatrix, ...]
    anchors: LayerAnchors | None = None
    tell: Tell = silent

    @property
    def case_key(self) -> str:
        return self.case.key

    @property
    def nbytes(self) -> int:
        return sum(m.nbytes for m in self.matrices)

    def anchors_dict(self) -> dict:
        return self.anchors.as_dict()

    def doses(self, plan: ArcPlan) -> np.ndarray:
        """Dose of one fraction as the quantity counts it, (S, n_rows) float32."""
        if not self.matrices:
            return self._computed(plan)
        weights = np.zeros(self.matrices[0].n_spots, np.float32)
        weights[spots_of(self.case.geometry, plan.chosen)] = plan.weights
        return np.stack([self.case.quantity.of_fraction(m, weights) for m in self.matrices])

    def worst(self, plan: ArcPlan) -> float:
        """F in the worst scenario."""
        return self._worst_of(self.doses(plan))

    def worst_of_layers(self, chosen: np.ndarray, evaluations: int | None = None) -> float:
        """F in the worst scenario of layers (G, E) bool whose spots are optimized on the
        reference's own matrices, as the case optimizes its plans: what the layers are worth,
        without what the engines differ by. A figure beside the score; seconds a plan."""
        robust, on = self._robust, spots_of(self.case.geometry, chosen)
        solver = LBFGSB(
            max_evaluations=evaluations or self.case.settings.evaluations, tolerance=0.0
        )
        solution = solve_worst_case(
            robust, solver, robust.initial_weights() * on, SHARPNESS, upper=np.where(on, np.inf, 0)
        )
        return robust.worst(solution.weights)

    @cached_property
    def _robust(self) -> RobustProblem:
        if not self.matrices:
            raise ValueError(
                "keep_matrix=False keeps nothing that layers could be optimized on; take a "
                "reference with keep_matrix=True."
            )
        stacked = InfluenceMatrix.stacked(self.matrices)
        problem = self.rows.problem
        return RobustProblem(
            AccurateScenarios(stacked, len(self.matrices)), problem.structures,
            problem.objectives, problem.quantity,
        )  # fmt: skip

    def judge(self, state) -> Judged:
        refuse_other_case(self, state)
        if state.plan is None or state.terminal != PLAN:
            why = f"the episode ended with terminal={state.terminal!r} and without a plan"
            nothing = np.zeros(len(self.rows.voxels), np.float32)
            return Judged(None, None, self._worst_of(nothing[None]), self._metrics(nothing), why)
        doses = self.doses(state.plan)
        worst, metrics, limit = self._worst_of(doses), self._metrics(doses[0]), state.limit
        if not self.anchors.is_sound(limit):
            return Judged(None, None, worst, metrics, _too_close(self.anchors, limit))
        return Judged(
            self.anchors.score(worst, limit, PLAN), self.anchors.raw_score(worst, limit, PLAN),
            worst, metrics,
        )  # fmt: skip

    def _worst_of(self, doses: np.ndarray) -> float:
        return max(self.rows.problem.value_of_dose(dose) for dose in doses)

    def _metrics(self, fraction_gy: np.ndarray) -> dict:
        evaluation = self.rows.evaluation(self.case.quality)
        return evaluation.evaluate(self.case.quantity.value(fraction_gy))

    @cached_property
    def _patient(self) -> Patient:
        return self.case.settings.read_patient()

    def _computed(self, plan: ArcPlan) -> np.ndarray:
        """Doses of the spots that have particles."""
        spots = delivered(self.case.geometry.plan(plan.chosen).with_weights(plan.weights))
        return np.stack([
            self._in_scenario(spots, number, scenario)
            for number, scenario in enumerate(self.case.settings.scenarios, start=1)
        ])  # fmt: skip

    def _in_scenario(self, spots: Plan, number: int, scenario: Scenario) -> np.ndarray:
        engine = _engine(self.case, self.settings, self.tell, number)
        where, voxels = (self._patient, spots, self.rows.grid), self.rows.voxels
        quantity = self.case.quantity
        if quantity.photons is None:  # physical dose is all that it asks for: no matrix
            return engine.dose(*where, scenario)["dose"].ravel()[voxels]
        return quantity.of_fraction(
            engine.influence(*where, scenario, voxels=voxels), spots.weights
        )


def energy_layer_reference(
    case: EnergyLayerCase, settings: ReferenceSettings, shelf: Shelf, tell: Tell
) -> EnergyLayerReference:
    """Rows and matrices by the reference, then the anchor plans scored by it."""
    key = settings.key(case.key)

    def rows_of() -> FineRows:
        recipe = case.settings
        return fine_rows(
            recipe.read_patient(), settings.dose_grid_mm, recipe.ring_mm, case.objectives,
            case.quantity,
        )  # fmt: skip

    def anchored():
        rows = rows_of()
        matrices = _matrices(case, settings, key, shelf, rows, tell)
        bare = EnergyLayerReference(key, case, settings, rows, matrices, tell=tell)
        description, arrays = rows.as_entry()
        return description | {"anchors": _anchors(bare).as_dict()}, arrays

    description, arrays = shelf.entry(key, anchored)
    rows = FineRows.from_entry(description, arrays)
    return EnergyLayerReference(
        key, case, settings, rows, _matrices(case, settings, key, shelf, rows, tell),
        LayerAnchors.from_dict(description["anchors"]), tell,
    )  # fmt: skip


def spots_of(geometry: ArcGeometry, chosen: np.ndarray) -> np.ndarray:
    """Which spots (n_all,) bool of a plan of all valid layers those of chosen layers are."""
    angle, layer = layers_in_order(geometry.valid)
    return np.repeat(chosen[angle, layer], geometry.n_spots[angle, layer])


def delivered(plan: Plan) -> Plan:
    """The spots of a plan that have particles."""
    on = np.flatnonzero(plan.weights > 0)
    return Plan(
        plan.machine, plan.beams, plan.spot_beam[on], plan.spot_energy[on], plan.u_mm[on],
        plan.v_mm[on], plan.weights[on],
    )  # fmt: skip


def _matrices(
    case: EnergyLayerCase, settings: ReferenceSettings, key: str, shelf: Shelf, rows: FineRows,
    tell: Tell,
) -> tuple[InfluenceMatrix, ...]:  # fmt: skip
    """All valid layers, scenario by scenario; none where they are not kept."""
    if not settings.keep_matrix:
        return ()
    plan = case.geometry.plan(case.geometry.valid)

    def compute(number: int, scenario: Scenario) -> InfluenceMatrix:
        engine, patient = _engine(case, settings, tell, number), case.settings.read_patient()
        return engine.influence(patient, plan, rows.grid, scenario, voxels=rows.voxels)

    return tuple(
        shelf.matrix(f"{key}-{number}", partial(compute, number, scenario))
        for number, scenario in enumerate(case.settings.scenarios, start=1)
    )


def _engine(case: EnergyLayerCase, settings: ReferenceSettings, tell: Tell, number: int):
    what = f"{case.case_id}, scenario {number} of {len(case.settings.scenarios)}"
    return reference_engine(settings, tell, what, biology_of(case.settings))


def _anchors(reference: EnergyLayerReference) -> LayerAnchors:
    """The case's anchor plans, scored by the reference."""
    case, tell = reference.case, reference.tell
    tell(f"{case.case_id}: plans of dynamic programming")
    dynamic = {
        limit: reference.worst(case.optimize(dynamic_choice(case, limit), PLAN))
        for limit in case.settings.limits
    }
    layers = bound_layers(case, lambda text: tell(f"{case.case_id}: {text}"))
    doses = reference.doses(bound_plan(case, layers, PLAN))
    return LayerAnchors(
        dynamic={PLAN: dynamic}, bound={PLAN: reference._worst_of(doses)},
        reference_metrics=reference._metrics(doses[0]), quality=case.anchors.quality,
    )  # fmt: skip


def _too_close(anchors: LayerAnchors, limit: float) -> str:
    return (
        f"scored by the reference, the anchors of limit {limit:g} do not lie {SMALLEST_GAP} apart "
        f"in log: F of the worst scenario is {anchors.dynamic[PLAN][limit]:.4g} for dynamic "
        f"programming, {anchors.bound[PLAN]:.4g} for all layers"
    )
