"""Build a voxel-mask case from its recipe: patient, spots, influence matrix, features, anchors."""

from dataclasses import asdict, replace

import numpy as np

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.quantities import RbeDose
from engine.evaluation.goals import head_and_neck_goals
from engine.geometry.plan import Beam, Plan
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.optimization.head_and_neck import (
    RING,
    head_and_neck_fractions,
    head_and_neck_objectives,
)  # fmt: skip
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.regions import Region, regions_on
from engine.optimization.voxel_sampling import equation_1_mask, relative_constraints
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.patient.structures import distance_mm
from ptenv.cases.anchors import compute_anchors
from ptenv.cases.case import BODY, GROUPS, Case, judged_rows
from ptenv.cases.progress import teller
from ptenv.cases.recipe import MACHINE, VoxelMaskRecipe
from ptenv.cases.scored import (
    hu_on,
    metric_names,
    scored_goals,
    scored_grid,
    scored_volume_cm3,
    scored_voxels,
    structures_on,
)  # fmt: skip

LONG_BUILD_NONZEROS = 20_000_000  # from here on the anchors take more than some seconds
SERIAL = ("SpinalCord", "Brainstem")
OPTIC = ("OpticNrv", "OpticChiasm", "Eye", "Lens")
GLAND = ("Parotid", "Glnd_Submand")
FAR_MM = 100.0


def build_case(recipe: VoxelMaskRecipe) -> Case:
    """The finished case; deterministic."""
    patient = recipe.read_patient()
    grid = scored_grid(patient, recipe.dose_grid_mm, recipe.ring_mm)
    plan = place_spots(
        patient, load_machine(MACHINE), [Beam(g) for g in recipe.gantry_deg],
        SpotSettings(
            spot_spacing_mm=recipe.spot_spacing_mm, layer_spacing_mm=recipe.layer_spacing_mm,
            lateral_margin_mm=recipe.lateral_margin_mm,
        ),
    )  # fmt: skip
    structures = structures_on(patient, grid)
    fraction, distance = head_and_neck_fractions(patient, structures, recipe.ring_mm)
    objectives = head_and_neck_objectives(patient)
    voxels = scored_voxels(fraction, objectives)
    influence = PencilBeamEngine(lateral_cutoff=recipe.lateral_cutoff).influence(
        patient, plan, grid, voxels=voxels
    )
    regions = regions_on(voxels, {n: f for n, f in fraction.items() if f.any()}, distance)
    regions[BODY] = Region(np.arange(len(voxels)), np.ones(len(voxels)))
    problem = PlanningProblem(
        influence, regions, [o for o in objectives if o.structure in regions],
        RbeDose(patient.n_fractions), plan.machine.min_spot_weight,
    )  # fmt: skip
    names = [n for n in (*patient.targets, *patient.organs, RING, BODY) if n in regions]
    volumes = {n: scored_volume_cm3(fraction, n, grid, len(voxels)) for n in names}
    prescriptions = {t: float(g) for t, g in patient.prescription_gy.items()}
    group, depth, organ_distance = _row_features(patient, grid, fraction, distance, voxels)
    case = Case(
        case_id=recipe.case_id, key=recipe.key(), recipe=asdict(recipe), problem=problem,
        evaluation=judged_rows(regions, names, len(voxels), volumes, prescriptions),
        prescription_gy=prescriptions, volumes_cm3=volumes, group=group, depth_mm=depth,
        organ_distance_mm=organ_distance, candidates=_candidates(patient, influence, regions),
        start_weights=initial_weights(problem), hu=hu_on(patient, grid), plan=_plain(plan),
    )  # fmt: skip
    tell = teller(case.case_id, influence.n_nonzeros > LONG_BUILD_NONZEROS)
    tell(f"{influence.n_rows} voxels, {influence.n_spots} spots, {influence.n_nonzeros} nonzeros")
    goals = scored_goals(patient, names)
    wanted = replace(case.evaluation, metrics={g.structure: metric_names(goals, g) for g in goals})
    anchors = compute_anchors(
        problem, case.start_weights, case.candidates, wanted, goals, recipe.budgets,
        recipe.n_anchor_masks, recipe.converged_evaluations, recipe.quality_evaluations,
        tell,
    )  # fmt: skip
    return case.with_anchors(anchors)


def _row_features(patient: Patient, grid: Grid, fraction, to_target, voxels):
    """Group, depth in the group and distance to the nearest serial or optic organ, (n_rows,)."""
    known = SERIAL + OPTIC + GLAND
    members = (
        patient.targets[:1], patient.targets[1:], _organs(patient, SERIAL),
        _organs(patient, OPTIC), _organs(patient, GLAND),
        [o for o in patient.organs if not o.startswith(known)],
    )  # fmt: skip
    shares = [_together(fraction, names, grid) for names in members]
    on_rows = np.stack([share.ravel()[voxels] for share in shares])
    group = _group_of(on_rows, fraction[RING].ravel()[voxels])
    depth = to_target.ravel()[voxels].astype(np.float32)
    for index, share in enumerate(shares):
        here = group == index
        if here.any():
            depth[here] = _depth_mm(share >= 0.5, grid).ravel()[voxels[here]]
    critical = np.maximum(shares[2], shares[3]) >= 0.5
    distance = np.clip(distance_mm(critical, grid).ravel()[voxels], 0.0, FAR_MM)
    return group, depth, distance.astype(np.float32)


def _together(fraction, names, grid: Grid) -> np.ndarray:
    """Largest share (nz, ny, nx) that one of some structures has in every voxel."""
    return np.maximum.reduce([np.zeros(grid.shape, np.float32), *(fraction[n] for n in names)])


def _group_of(shares: np.ndarray, ring_share: np.ndarray) -> np.ndarray:
    """Index into GROUPS (n_rows,) uint8 from the shares (n_groups − 1, n_rows) of its voxels."""
    half = shares >= 0.5
    partly = np.where(ring_share > 1e-3, len(GROUPS) - 1, shares.argmax(axis=0))
    return np.where(half.any(axis=0), half.argmax(axis=0), partly).astype(np.uint8)


def _depth_mm(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Depth below a mask's surface, (nz, ny, nx) float32, 0 outside."""
    depth = np.zeros(grid.shape, np.float32)
    if mask.any():
        part, cut = grid.cropped(mask, 2.0 * max(grid.spacing_mm))
        depth[cut] = np.maximum(-distance_mm(mask[cut], part), 0.0)
    return np.minimum(depth, FAR_MM)


def _organs(patient: Patient, bases: tuple[str, ...]) -> list[str]:
    return [o for o in patient.organs if o.startswith(bases)]


def _candidates(patient: Patient, influence, regions) -> np.ndarray:
    """Rows that equation (1) of Quarz 2024 leaves, (n_rows,) bool; limits are the goals'."""
    goals = head_and_neck_goals(patient)
    limits = {g.structure: g.limit for g in goals if g.metric.endswith("[Gy]")}
    organs = {o: regions[o] for o in patient.organs if o in regions}
    return equation_1_mask(
        influence.largest_entries().max(axis=1),
        [regions[t] for t in patient.targets if t in regions],
        relative_constraints(organs, limits, patient.prescription_gy[patient.targets[0]]),
    )


def _plain(plan: Plan) -> dict:
    """Beams as plain values and spots as arrays."""
    return {
        "machine": plan.machine.name, "beams": [asdict(b) for b in plan.beams],
        "spot_beam": plan.spot_beam, "spot_energy": plan.spot_energy,
        "u_mm": plan.u_mm, "v_mm": plan.v_mm,
    }  # fmt: skip
