"""What plans of a case deliver when the patient does not lie as planned: doses in scenarios.

The engine, patient and spots of a case are made again from what it keeps, so that robustness costs
nothing until it is asked for.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from engine.dose.engine import DoseEngine
from engine.geometry.plan import Beam, Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.library import load_machine
from engine.patient.patient import Patient
from ptenv.cases.build import engine_of_recipe
from ptenv.cases.case import Case
from ptenv.cases.recipe import VoxelMaskRecipe

ROWS_PER_BATCH = 50_000  # of a scenario's matrix, which is not kept


def isotropic_setup(shift_mm: float = 3.0) -> tuple[Scenario, ...]:
    """Nine scenarios: the nominal one, and shifts by ``shift_mm`` to the corners of a cube.

    Every shift is as long as the others and no axis is favored. Quarz 2024 has nine scenarios of
    "3 mm isotropic setup uncertainty" and does not say which.
    """
    if not (np.isfinite(shift_mm) and shift_mm > 0):
        raise ValueError(f"shift_mm={shift_mm} must be positive.")
    along = shift_mm / 3**0.5
    corners = np.stack(np.meshgrid(*[(-along, along)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return (NOMINAL, *(Scenario(tuple(float(s) for s in corner)) for corner in corners))


def scenario_doses(
    case: Case, weights: np.ndarray, scenarios: Sequence[Scenario]
) -> Iterator[np.ndarray]:
    """Gy (RBE) of the course of several plans in one scenario after another.

    ``weights`` (n_plans, n_spots) in particles per fraction; yields (n_plans, n_rows) float32 for
    every scenario. The nominal one is the case's own dose.
    """
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != case.influence.n_spots:
        raise ValueError(
            f"weights has shape {weights.shape}; give (n_plans, {case.influence.n_spots})."
        )
    patient, plan = None, None
    for scenario in scenarios:
        if scenario == NOMINAL:
            yield np.stack([case.dose_gy(w) for w in weights])
            continue
        if patient is None:
            patient, plan = patient_of(case), plan_of(case)
        yield _doses(case, patient, plan, weights, scenario)


def plan_of(case: Case) -> Plan:
    """Beams and spots of a case, as the engines take them; without weights."""
    spots = case.plan
    beams = tuple(Beam(**_with_tuples(b)) for b in spots["beams"])
    named = ("spot_beam", "spot_energy", "u_mm", "v_mm")
    return Plan(load_machine(spots["machine"]), beams, *(np.asarray(spots[n]) for n in named))


def patient_of(case: Case) -> Patient:
    return VoxelMaskRecipe(**case.recipe).read_patient()


def engine_of(case: Case) -> DoseEngine:
    """The engine that made the case's matrix."""
    return engine_of_recipe(VoxelMaskRecipe(**case.recipe))


def _doses(case, patient, plan, weights, scenario) -> np.ndarray:
    engine, voxels = engine_of(case), case.influence.voxels
    doses = np.empty((len(weights), len(voxels)), np.float32)
    for first in range(0, len(voxels), ROWS_PER_BATCH):
        part = slice(first, first + ROWS_PER_BATCH)
        matrix = engine.influence(patient, plan, case.grid, scenario, voxels=voxels[part])
        for dose, w in zip(doses, weights):
            dose[part] = case.quantity.value(case.quantity.of_fraction(matrix, w))
    return doses


def _with_tuples(beam: dict) -> dict:
    """A beam's arguments as they were before a store wrote them as JSON."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in beam.items()}
