"""Build a voxel-mask case from its recipe: patient, spots, influence matrix, features, anchors."""

from dataclasses import asdict, replace

import numpy as np

from engine.dose.engine import DoseEngine
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.yoda.engine import YodaEngine
from engine.evaluation.goals import head_and_neck_goals
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.voxel_sampling import equation_1_mask, relative_constraints
from engine.patient.patient import Patient
from ptenv.cases.anchors import compute_anchors
from ptenv.cases.case import Case
from ptenv.cases.modality import biology_of, quantity_of
from ptenv.cases.planned import LONG_BUILD_NONZEROS, plain_plan, planned
from ptenv.cases.progress import teller
from ptenv.cases.recipe import YODA, VoxelMaskRecipe
from ptenv.cases.scored import hu_on, metric_names


def build_case(recipe: VoxelMaskRecipe) -> Case:
    """The finished case; deterministic."""
    patient = recipe.read_patient()
    plan = place_spots(
        patient, load_machine(recipe.machine), recipe.beams,
        SpotSettings(
            spot_spacing_mm=recipe.spot_spacing_mm, layer_spacing_mm=recipe.layer_spacing_mm,
            lateral_margin_mm=recipe.lateral_margin_mm, pattern=recipe.spot_pattern,
        ),
    )  # fmt: skip
    engine = engine_of_recipe(recipe)
    made = planned(
        patient, recipe.dose_grid_mm, recipe.ring_mm,
        lambda grid, voxels: engine.influence(patient, plan, grid, voxels=voxels),
        quantity_of(recipe, patient.n_fractions), plan.machine.min_spot_weight,
        recipe.ring_objectives,
    )  # fmt: skip
    problem, influence = made.problem, made.problem.influence
    group, depth, organ_distance = made.row_features()
    case = Case(
        case_id=recipe.case_id, key=recipe.key(), recipe=asdict(recipe), problem=problem,
        evaluation=made.evaluation, prescription_gy=made.prescription_gy,
        volumes_cm3=made.volumes_cm3, group=group, depth_mm=depth,
        organ_distance_mm=organ_distance,
        candidates=_candidates(patient, problem),
        start_weights=initial_weights(problem), hu=hu_on(patient, made.grid), plan=plain_plan(plan),
    )  # fmt: skip
    tell = teller(case.case_id, influence.n_nonzeros > LONG_BUILD_NONZEROS)
    tell(f"{influence.n_rows} voxels, {influence.n_spots} spots, {influence.n_nonzeros} nonzeros")
    goals = made.goals
    wanted = replace(case.evaluation, metrics={g.structure: metric_names(goals, g) for g in goals})
    anchors = compute_anchors(
        problem, case.start_weights, case.candidates, wanted, goals, recipe.budgets,
        recipe.n_anchor_masks, recipe.converged_evaluations, recipe.quality_evaluations,
        tell, case.sampled_from,
    )  # fmt: skip
    return case.with_anchors(anchors)


def engine_of_recipe(recipe: VoxelMaskRecipe) -> DoseEngine:
    """What computes the influence matrix."""
    if recipe.engine == YODA:
        return YodaEngine()
    return PencilBeamEngine(lateral_cutoff=recipe.lateral_cutoff, biology=biology_of(recipe))


def _candidates(patient: Patient, problem: PlanningProblem) -> np.ndarray:
    """Rows that equation (1) of Quarz 2024 leaves, (n_rows,) bool; limits are the goals'."""
    goals, influence, regions = head_and_neck_goals(patient), problem.influence, problem.structures
    limits = {g.structure: g.limit for g in goals if g.metric.endswith("[Gy]")}
    organs = {o: regions[o] for o in patient.organs if o in regions}
    kept = equation_1_mask(
        influence.largest_entries().max(axis=1),
        [regions[t] for t in patient.targets if t in regions],
        relative_constraints(organs, limits, patient.prescription_gy[patient.targets[0]]),
    )
    return kept & problem.has_objective
