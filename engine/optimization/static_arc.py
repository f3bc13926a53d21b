"""Static (discrete) arcs after Janson 2024: many directions, a set number of layers over all.

The plan begins with many layers at every direction; the optimizer drops the lowest-weighted ones in
cycles until the number is left. What comes out is an ordinary plan: beams with energy layers, to be
optimized and delivered step and shoot.
"""

import numpy as np

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.pencil_beam.traced import trace_rows
from engine.dose.quantities import RbeDose
from engine.geometry.arc import Arc, ArcSettings, arc_geometry
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL
from engine.machine.ion import IonMachine
from engine.optimization.arc import ArcPlanner, TracedLayers, thinned_layers
from engine.optimization.head_and_neck import head_and_neck_fractions, head_and_neck_objectives
from engine.optimization.regions import regions_on
from engine.patient.ct import Calibration, SchneiderCalibration
from engine.patient.patient import Patient
from engine.patient.structures import on_grid

CUTOFF, RING_MM = 0.02, 15.0  # of the doses that layers are ranked by


def static_arc(
    patient: Patient,
    machine: IonMachine,
    arc: Arc,
    n_layers: int,
    settings: ArcSettings = ArcSettings(),  # noqa: B008 (frozen)
    initial_spacing_mm: float = 5.0,
    cycles: int = 4,
    evaluations: int = 15,
    dose_grid_mm: float = 5.0,
    calibration: Calibration = SchneiderCalibration(),  # noqa: B008 (frozen)
) -> Plan:
    """A plan of zero weights with ``n_layers`` layers over all directions of an arc.

    It starts from layers ``initial_spacing_mm`` of water apart at every direction that reach any
    target, on a dose grid of its own. Directions that lose all layers keep their beam, empty.
    """
    if not (np.isfinite(dose_grid_mm) and dose_grid_mm > 0):
        raise ValueError(f"dose_grid_mm={dose_grid_mm} must be positive.")
    geometry = arc_geometry(patient, machine, arc, settings, calibration=calibration)
    initial = thinned_layers(geometry.valid, geometry.range_mm, initial_spacing_mm)
    if not 1 <= n_layers <= initial.sum():
        raise ValueError(
            f"n_layers={n_layers} must lie in 1 … {initial.sum()}, the layers that the arc starts "
            "from; ask for fewer, or give a smaller initial_spacing_mm."
        )
    grid = patient.grid.cropped(patient.target_union(), RING_MM)[0].resampled(dose_grid_mm)
    fraction, distance = head_and_neck_fractions(patient, on_grid(patient, grid), RING_MM)
    objectives = head_and_neck_objectives(patient)
    inside = np.logical_or.reduce([fraction[o.structure] > 1e-3 for o in objectives])
    voxels = np.flatnonzero(inside).astype(np.uint32)
    engine = PencilBeamEngine(lateral_cutoff=CUTOFF, calibration=calibration)
    traced = trace_rows(engine, patient, machine, geometry.beams, grid, voxels)
    regions = regions_on(voxels, {n: f for n, f in fraction.items() if f.any()}, distance)
    planner = ArcPlanner(
        TracedLayers(geometry, traced, (NOMINAL,)), regions,
        tuple(o for o in objectives if o.structure in regions), RbeDose(patient.n_fractions),
    )  # fmt: skip
    return geometry.plan(planner.select_layers(initial, n_layers, cycles, evaluations))
