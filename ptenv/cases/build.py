"""Build a voxel-mask case from its recipe: patient, spots, influence matrix, features, anchors."""

from dataclasses import asdict, replace

import numpy as np
from scipy.ndimage import map_coordinates

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.quantities import RbeDose
from engine.evaluation.goals import head_and_neck_goals
from engine.evaluation.scorecard import Goal
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
from engine.patient.structures import distance_mm, on_grid
from ptenv.cases.anchors import compute_anchors
from ptenv.cases.case import BODY, GROUPS, Case, judged_rows
from ptenv.cases.recipe import VoxelMaskRecipe

SERIAL = ("SpinalCord", "Brainstem")
OPTIC = ("OpticNrv", "OpticChiasm", "Eye", "Lens")
GLAND = ("Parotid", "Glnd_Submand")
FAR_MM = 100.0


def build_case(recipe: VoxelMaskRecipe) -> Case:
    """The finished case; deterministic."""
    patient = recipe.read_patient()
    grid = scored_grid(patient, recipe.dose_grid_mm, recipe.ring_mm)
    plan = place_spots(
        patient, load_machine("generic_proton"), [Beam(g) for g in recipe.gantry_deg],
        SpotSettings(
            spot_spacing_mm=recipe.spot_spacing_mm, layer_spacing_mm=recipe.layer_spacing_mm,
            lateral_margin_mm=recipe.lateral_margin_mm,
        ),
    )  # fmt: skip
    fraction, distance = head_and_neck_fractions(patient, on_grid(patient, grid), recipe.ring_mm)
    objectives = head_and_neck_objectives(patient)
    voxels = _scored_voxels(fraction, objectives)
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
    volumes = {n: _volume(fraction, n, grid, len(voxels)) for n in names}
    prescriptions = {t: float(g) for t, g in patient.prescription_gy.items()}
    group, depth, organ_distance = _row_features(patient, grid, fraction, distance, voxels)
    case = Case(
        case_id=recipe.case_id, key=recipe.key(), recipe=asdict(recipe), problem=problem,
        evaluation=judged_rows(regions, names, len(voxels), volumes, prescriptions),
        prescription_gy=prescriptions, volumes_cm3=volumes, group=group, depth_mm=depth,
        organ_distance_mm=organ_distance, candidates=_candidates(patient, influence, regions),
        start_weights=initial_weights(problem), hu=_hu_on(patient, grid), plan=_plain(plan),
    )  # fmt: skip
    goals = _goals(patient, names)
    wanted = replace(case.evaluation, metrics={g.structure: _metric_names(goals, g) for g in goals})
    anchors = compute_anchors(
        problem, case.start_weights, case.candidates, wanted, goals, recipe.budgets,
        recipe.n_anchor_masks, recipe.converged_evaluations, recipe.quality_evaluations,
    )  # fmt: skip
    return case.with_anchors(anchors)


def scored_grid(patient: Patient, spacing_mm: float, ring_mm: float) -> Grid:
    """Cubes around everything that is scored: targets with their ring, and the organs."""
    around, _ = patient.grid.cropped(patient.target_union(), ring_mm + spacing_mm)
    lower, upper = around.lower_mm, around.upper_mm
    for organ in patient.organs:
        mask = patient.mask(organ)
        if mask.any():
            box, _ = patient.grid.cropped(mask)
            lower, upper = np.minimum(lower, box.lower_mm), np.maximum(upper, box.upper_mm)
    shape = np.maximum(1, np.ceil((upper - lower) / spacing_mm - 1e-6)).astype(int)[::-1]
    origin = (lower + 0.5 * spacing_mm)[::-1]
    return Grid(tuple(shape), (spacing_mm,) * 3, tuple(origin))


def _scored_voxels(fraction, objectives) -> np.ndarray:
    asked = sorted({o.structure for o in objectives})
    inside = np.logical_or.reduce([fraction[name] > 1e-3 for name in asked])
    return np.flatnonzero(inside).astype(np.uint32)


def _volume(fraction, name: str, grid: Grid, n_rows: int) -> float:
    inside = n_rows if name == BODY else fraction[name].sum(dtype=np.float64)
    return float(inside) * grid.voxel_volume_cm3


def _row_features(patient: Patient, grid: Grid, fraction, to_target, voxels):
    """Group, depth in the group and distance to the nearest serial or optic organ, (n_rows,)."""
    highest = patient.targets[:1]
    members = [
        highest, patient.targets[1:], _organs(patient, SERIAL), _organs(patient, OPTIC),
        _organs(patient, GLAND), [o for o in patient.organs if not _organ_is(o, SERIAL + OPTIC + GLAND)],
    ]  # fmt: skip
    group = np.full(len(voxels), len(GROUPS) - 1, np.uint8)
    depth = to_target.ravel()[voxels].astype(np.float32)
    critical = np.full(len(voxels), FAR_MM, np.float32)
    for index in range(len(members) - 1, -1, -1):
        present = [fraction[name] for name in members[index] if fraction[name].any()]
        if not present:
            continue
        mask = np.maximum.reduce(present) >= 0.5
        outside = distance_mm(mask, grid).ravel()[voxels]
        here = mask.ravel()[voxels]
        group[here], depth[here] = index, -outside[here]
        if index in (2, 3):
            critical = np.minimum(critical, np.clip(outside, 0.0, FAR_MM))
    return group, depth, critical


def _organs(patient: Patient, bases: tuple[str, ...]) -> list[str]:
    return [o for o in patient.organs if _organ_is(o, bases)]


def _organ_is(name: str, bases: tuple[str, ...]) -> bool:
    return name.startswith(bases)


def _candidates(patient: Patient, influence, regions) -> np.ndarray:
    """Rows that equation (1) of Quarz 2024 leaves, (n_rows,) bool; limits are the goals'."""
    limits = {g.structure: g.limit for g in head_and_neck_goals(patient) if g.metric.endswith("[Gy]")}
    organs = {o: regions[o] for o in patient.organs if o in regions}
    return equation_1_mask(
        influence.largest_entries().max(axis=1),
        [regions[t] for t in patient.targets if t in regions],
        relative_constraints(organs, limits, patient.prescription_gy[patient.targets[0]]),
    )


def _goals(patient: Patient, names: list[str]) -> tuple[Goal, ...]:
    """The default goals on what the case scores; integral dose is the mean over all of it."""
    goals = [
        replace(g, structure=BODY) if g.structure == patient.external.name else g
        for g in head_and_neck_goals(patient, RING, integral=True)
    ]
    return tuple(g for g in goals if g.structure in names)


def _metric_names(goals: tuple[Goal, ...], goal: Goal) -> tuple[str, ...]:
    return tuple(g.metric for g in goals if g.structure == goal.structure)


def _hu_on(patient: Patient, grid: Grid) -> np.ndarray:
    """CT numbers at the dose grid's centers, (nz, ny, nx) int16; air beyond the CT."""
    axes = [
        (axis - origin) / spacing
        for axis, origin, spacing in zip(
            grid.axes_mm(), patient.grid.origin_mm, patient.grid.spacing_mm, strict=True
        )
    ]
    at = np.stack(np.meshgrid(*axes, indexing="ij"))
    return map_coordinates(patient.hu, at, order=1, mode="nearest").astype(np.int16)


def _plain(plan: Plan) -> dict:
    """Beams as plain values and spots as arrays."""
    return {
        "machine": plan.machine.name, "beams": [asdict(b) for b in plan.beams],
        "spot_beam": plan.spot_beam, "spot_energy": plan.spot_energy,
        "u_mm": plan.u_mm, "v_mm": plan.v_mm,
    }  # fmt: skip
