"""Build an energy-layer case from its recipe: patient, arc, traced rows, delivery, anchors."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.pencil_beam.traced import TracedRows, trace_rows
from engine.geometry.arc import TARGET, ArcGeometry, arc_geometry
from engine.geometry.delivery import DeliveryModel, SwitchingTable
from engine.machine.library import load_machine
from engine.optimization.arc import ArcPlan, KeptLayers, thinned_layers
from engine.optimization.head_and_neck import (
    RING,
    head_and_neck_fractions,
    head_and_neck_objectives,
)  # fmt: skip
from engine.optimization.layer_sequencing import LayerSequencing, dynamic_programming
from engine.optimization.problem import PlanningProblem
from engine.optimization.regions import Region, regions_on
from engine.patient.patient import Patient
from ptenv.cases.anchors import quality_anchors
from ptenv.cases.case import BODY, judged_rows
from ptenv.cases.energy_layer_case import FIDELITIES, EnergyLayerCase, LayerAnchors
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.modality import biology_of, quantity_of
from ptenv.cases.progress import teller
from ptenv.cases.scored import (
    hu_on,
    metric_names,
    scored_goals,
    scored_grid,
    scored_volume_cm3,
    scored_voxels,
    structures_on,
)  # fmt: skip

SPARED = ("Brainstem", "SpinalCord", "Parotid")  # organs with a spot-count matrix of their own
RAY_PITCH_MM = 2.0
BOUND_SPACING_MM = 5.0  # of the layers that the bound chooses from, in water


def build_energy_layer_case(recipe: EnergyLayerRecipe) -> EnergyLayerCase:
    """The finished case; deterministic."""
    patient, geometry, counts, sequencing = arc_inputs(recipe)
    grid = scored_grid(patient, recipe.dose_grid_mm, recipe.ring_mm)
    fraction, distance = head_and_neck_fractions(
        patient, structures_on(patient, grid), recipe.ring_mm
    )
    objectives = head_and_neck_objectives(patient)
    voxels = scored_voxels(fraction, objectives)
    engine = PencilBeamEngine(
        lateral_cutoff=recipe.lateral_cutoff, ray_pitch_mm=RAY_PITCH_MM, biology=biology_of(recipe)
    )
    traced = trace_rows(engine, patient, geometry.machine, geometry.beams, grid, voxels)
    regions = regions_on(voxels, {n: f for n, f in fraction.items() if f.any()}, distance)
    regions[BODY] = Region(np.arange(len(voxels)), np.ones(len(voxels)))
    names = [n for n in (*patient.targets, *patient.organs, RING, BODY) if n in regions]
    volumes = {n: scored_volume_cm3(fraction, n, grid, len(voxels)) for n in names}
    prescriptions = {t: float(g) for t, g in patient.prescription_gy.items()}
    case = EnergyLayerCase(
        case_id=recipe.case_id, key=recipe.key(), recipe=asdict(recipe), geometry=geometry,
        counts=counts, sequencing=sequencing, traced=traced,
        regions=regions, objectives=tuple(o for o in objectives if o.structure in regions),
        quantity=quantity_of(recipe, patient.n_fractions),
        sketch_geometry=arc_geometry(
            patient, geometry.machine, recipe.arc, recipe.sketch_settings, patient.targets[0]
        ),
        sketch_rows=_sketch_rows(regions, len(voxels), recipe.sketch_rows),
        evaluation=judged_rows(regions, names, len(voxels), volumes, prescriptions),
        prescription_gy=prescriptions, volumes_cm3=volumes, hu=hu_on(patient, grid),
    )  # fmt: skip
    if recipe.keep_influence:
        case = replace(case, kept=_kept(case))
    return case.with_anchors(_anchors(case, patient, names))


def arc_inputs(
    recipe: EnergyLayerRecipe,
) -> tuple[Patient, ArcGeometry, dict[str, np.ndarray], LayerSequencing]:
    """Patient, arc, spot counts and times: all that is known before any dose."""
    patient, machine = recipe.read_patient(), load_machine(recipe.machine)
    geometry = arc_geometry(patient, machine, recipe.arc, recipe.arc_settings, patient.targets[0])
    counts = spot_counts(geometry)
    return patient, geometry, counts, _sequencing(geometry, counts[TARGET], recipe)


def spot_counts(geometry: ArcGeometry) -> dict[str, np.ndarray]:
    """Matrices (G, E) float32: the target's spots, and those of them that spare organs."""
    counts = {TARGET: geometry.counts()}
    for organ in SPARED:
        sides = [s for s in geometry.structures if s.startswith(organ)]
        counts[f"{TARGET}-{organ}"] = geometry.counts(without=sides)
    counts[f"{TARGET}-organs"] = geometry.counts(without=geometry.structures[1:])
    return {name: matrix.astype(np.float32) for name, matrix in counts.items()}


def _sequencing(
    geometry: ArcGeometry, target: np.ndarray, recipe: EnergyLayerRecipe
) -> LayerSequencing:
    delivery = DeliveryModel.of_machine(
        geometry.machine, gantry_deg_per_s=recipe.gantry_deg_per_s
    )
    table = SwitchingTable.linear(
        geometry.energy_mev, recipe.switch_up_s, recipe.switch_down_s, recipe.switch_s_per_mev
    )
    return LayerSequencing(
        table.seconds, delivery.beam_on_s(geometry.n_spots),
        delivery.gantry_s(geometry.arc.angles_deg), target > 0, recipe.layers_per_angle,
    )  # fmt: skip


def _sketch_rows(regions: dict[str, Region], n_rows: int, wanted: int | None) -> np.ndarray:
    """Ascending rows (n,) uint32: a share of every structure, by a fixed seed, the target first."""
    if wanted is None or wanted >= n_rows:
        return np.arange(n_rows, dtype=np.uint32)
    rng, chosen = np.random.default_rng(0), []
    names = [n for n in regions if n != BODY]
    shares = {n: 2 if i == 0 else 1 for i, n in enumerate(names)}
    for name in names:
        rows = regions[name].rows
        n = min(len(rows), max(20, round(wanted * shares[name] / sum(shares.values()))))
        chosen.append(rng.choice(rows, n, replace=False))
    return np.unique(np.concatenate(chosen)).astype(np.uint32)


def _kept(case: EnergyLayerCase) -> dict[str, KeptLayers]:
    scenarios = case.settings.scenarios
    return {name: KeptLayers.of(case.traced_layers(name, scenarios)) for name in FIDELITIES}


def _anchors(case: EnergyLayerCase, patient: Patient, names: list[str]) -> LayerAnchors:
    """Dynamic programming at every limit, and the plan that may use all layers."""
    settings = case.settings
    tell = teller(case.case_id, not settings.keep_influence)
    dynamic: dict[str, dict[float, float]] = {name: {} for name in FIDELITIES}
    for limit in settings.limits:
        tell(f"dynamic programming at {limit:g} times the least delivery time")
        choice = dynamic_choice(case, limit)
        for name in FIDELITIES:
            dynamic[name][limit] = case.optimize(choice, name).worst
    layers = bound_layers(case, tell)
    bound = {name: bound_plan(case, layers, name) for name in FIDELITIES}
    goals = scored_goals(patient, names)
    wanted = replace(case.evaluation, metrics={g.structure: metric_names(goals, g) for g in goals})
    tell("two plans of other priorities")
    nominal = _nominal_problem(case, bound["plan"])
    return LayerAnchors(
        dynamic=dynamic, bound={name: plan.worst for name, plan in bound.items()},
        reference_metrics=wanted.evaluate(case.quantity.value(bound["plan"].dose_gy[0])),
        quality=quality_anchors(
            nominal, bound["plan"].weights, wanted, goals, settings.bound_evaluations
        ),
    )  # fmt: skip


def dynamic_choice(case: EnergyLayerCase, limit: float) -> np.ndarray:
    """Layers (G, m) of exact dynamic programming at a limit: what scores 0."""
    times = case.sequencing
    return dynamic_programming(times, case.counts[TARGET], limit * times.floor_s)


def bound_layers(
    case: EnergyLayerCase, tell: Callable[[str], None] = lambda text: None
) -> np.ndarray:
    """The heaviest layers (G, E) bool of all, chosen on the sketch in the nominal scenario."""
    settings, valid = case.settings, case.sequencing.valid & case.sketch_geometry.valid
    initial = thinned_layers(valid, case.range_mm, BOUND_SPACING_MM)
    n_final = min(settings.bound_layers * int(valid.any(axis=1).sum()), int(initial.sum()))
    source = case.traced_layers("sketch", settings.scenarios[:1])
    planner = replace(case.planners["sketch"], source=source)
    chosen = planner.select_layers(initial, n_final, tell=tell)
    tell(f"the bound on {n_final} layers")
    return chosen


def bound_plan(case: EnergyLayerCase, layers: np.ndarray, fidelity: str = "plan") -> ArcPlan:
    """The plan of ``bound_layers``: what scores 1."""
    return case.optimize(layers, fidelity, case.settings.bound_evaluations)


def _nominal_problem(case: EnergyLayerCase, plan: ArcPlan) -> PlanningProblem:
    traced: TracedRows = case.traced
    influence = traced.influence(case.geometry.plan(plan.chosen))
    return PlanningProblem(influence, case.regions, case.objectives, case.quantity)
