"""Build a dose-shaping case from its recipe: patient, fields, influence, starts, anchors."""

from dataclasses import asdict, dataclass, replace

import numpy as np

from engine.dose.engine import DoseEngine
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.dose.quantities import RbeDose
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Plan
from engine.geometry.scenarios import Scenario
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.solvers import LBFGSB
from engine.patient.patient import Patient
from ptenv.cases.anchors import quality_anchors
from ptenv.cases.dose_shaping_case import DoseShapingCase, ShapingAnchors, goal_multipliers
from ptenv.cases.dose_shaping_recipe import DoseShapingRecipe
from ptenv.cases.planned import LONG_BUILD_NONZEROS, plain_plan, planned
from ptenv.cases.progress import teller
from ptenv.cases.scored import hu_on, metric_names

PROTON_RBE = 1.1


def build_dose_shaping_case(recipe: DoseShapingRecipe) -> DoseShapingCase:
    """The finished case; deterministic."""
    patient = recipe.read_patient()
    plan, engine = _fields(recipe, patient)
    rbe = PROTON_RBE if recipe.modality == "proton" else 1.0
    made = planned(
        patient, recipe.dose_grid_mm, recipe.ring_mm,
        lambda grid, voxels: engine.influence(patient, plan, grid, voxels=voxels),
        RbeDose(patient.n_fractions, rbe), plan.machine.min_spot_weight,
    )  # fmt: skip
    influence = made.problem.influence
    case = DoseShapingCase(
        case_id=recipe.case_id, key=recipe.key(), recipe=asdict(recipe), problem=made.problem,
        evaluation=made.evaluation, prescription_gy=made.prescription_gy,
        volumes_cm3=made.volumes_cm3, group=made.row_features()[0],
        multipliers=goal_multipliers(recipe),
        start_weights=np.empty((0, influence.n_spots), np.float32),
        hu=hu_on(patient, made.grid), plan=plain_plan(plan),
    )  # fmt: skip
    tell = teller(case.case_id, influence.n_nonzeros > LONG_BUILD_NONZEROS)
    tell(f"{influence.n_rows} voxels, {influence.n_spots} spots, {influence.n_nonzeros} nonzeros")
    starts = case.start_weights
    if recipe.start == "yesterday":
        before = Scenario((recipe.shift_mm,) * 3, 1.0 + recipe.weight_loss)
        old = engine.influence(patient, plan, made.grid, before, voxels=influence.voxels)
        starts = _solved(case, old, recipe.start_evaluations, tell)
    elif recipe.start == "open_fields":
        starts = np.tile(initial_weights(made.problem), (recipe.n_goals, 1))
    else:
        plans = _solved(case, influence, recipe.start_evaluations, tell)
        starts = np.roll(plans, -1, axis=0)  # of the next weighting
    case = replace(case, start_weights=starts.astype(np.float32))
    goals = made.goals
    wanted = replace(case.evaluation, metrics={g.structure: metric_names(goals, g) for g in goals})
    return case.with_anchors(_anchors(case, wanted, goals, tell))


def _fields(recipe: DoseShapingRecipe, patient: Patient) -> tuple[Plan, DoseEngine]:
    machine = load_machine(recipe.machine)
    if recipe.modality == "photon":
        plan = place_bixels(patient, machine, recipe.beams, recipe.bixel_mm, recipe.margin_mm)
        return plan, PhotonSvdEngine(recipe.bixel_mm, recipe.reach_mm)
    settings = SpotSettings(
        spot_spacing_mm=recipe.bixel_mm, layer_spacing_mm=recipe.layer_spacing_mm,
        lateral_margin_mm=recipe.margin_mm,
    )  # fmt: skip
    plan = place_spots(patient, machine, recipe.beams, settings)
    return plan, PencilBeamEngine(lateral_cutoff=recipe.lateral_cutoff)


def _solved(case: DoseShapingCase, influence, evaluations: int, tell) -> np.ndarray:
    """Plans (n_goals, n_spots) of every weighting on an influence matrix."""
    plans, solver = [], LBFGSB(max_evaluations=evaluations, tolerance=0.0)
    for index in range(case.n_goals):
        tell(f"start of weighting {index + 1} of {case.n_goals}")
        problem = _on(case, index, influence)
        plans.append(solver.solve(problem, initial_weights(problem)).weights)
    return np.stack(plans)


def _on(case: DoseShapingCase, index: int, influence) -> PlanningProblem:
    problem = case.goals(index).problem
    return problem if influence is case.influence else replace(problem, influence=influence)


def _anchors(case: DoseShapingCase, wanted, goals, tell) -> ShapingAnchors:
    settings = case.settings
    f_star, direct, reference = [], [], None
    for index in range(case.n_goals):
        tell(f"anchors of weighting {index + 1} of {case.n_goals}")
        problem = case.goals(index).problem
        start = case.start_weights[index]
        passed = direct_plans(problem, start, settings.direct_evaluations)
        values, at_end = passed.values[passed.best_after].tolist(), passed.weights[-1]
        # as an episode computes it, so that a start scores 0 to the bit
        values[0] = case.goals(index).value(case.quantity.value(case.problem.fraction_dose(start)))
        values = np.minimum.accumulate(values).tolist()
        converged = LBFGSB(max_evaluations=settings.converged_evaluations, tolerance=0.0).solve(
            problem, at_end
        )
        f_star.append(min(converged.value, min(values)))
        direct.append(tuple(values))
        if reference is None:
            reference = wanted.evaluate(case.quantity.value(case.problem.fraction_dose(at_end)))
    balanced = LBFGSB(max_evaluations=settings.converged_evaluations, tolerance=1e-7).solve(
        case.problem, initial_weights(case.problem)
    )
    return ShapingAnchors(
        tuple(f_star), tuple(direct), reference,
        quality_anchors(
            case.problem, balanced.weights, wanted, goals, settings.quality_evaluations
        ),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DirectPlans:
    """Plans that the solver passes, (n, n_spots) float32, their F (n,), and which of them is the
    best after 0, 1, … evaluations, (n_evaluations + 1,)."""

    weights: np.ndarray
    values: np.ndarray
    best_after: np.ndarray


def direct_plans(problem: PlanningProblem, start: np.ndarray, evaluations: int) -> DirectPlans:
    """Direct optimization from a start.

    The start's own value and gradient are an evaluation, too: after one, nothing has moved.
    """
    passed: list[np.ndarray] = []
    solution = LBFGSB(max_evaluations=evaluations, tolerance=0.0).solve(
        problem, start, callback=lambda iteration, value, weights: passed.append(weights)
    )
    counts, values = solution.trace[:, 0], solution.trace[:, 1]
    weights = np.stack([*passed[: len(values) - 1], solution.weights])
    at = np.searchsorted(counts, np.arange(evaluations + 1), side="right") - 1
    is_best = values == np.minimum.accumulate(values)
    best = np.maximum.accumulate(np.where(is_best, np.arange(len(values)), 0))
    return DirectPlans(weights, values, best[np.maximum(at, 0)])
