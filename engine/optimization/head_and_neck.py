"""The planning objective of head-and-neck cases: smooth, and a sum over voxels throughout.

Uniform dose on every target (a lower level leaves out what a higher one covers), one-sided squares
on organs, and always a normal-tissue ring with a dose fall-off. Mean doses are held down by a
square above a low level, so that everything fits the fused product. Levels lie somewhat below
the goals of RTOG 0225/0615 and QUANTEC (IJROBP 76, 2010); weights are this package's choice.
"""

from collections.abc import Mapping

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import Quantity, RbeDose
from engine.optimization.objectives import DoseFallOff, MaxDose, MinDose, Objective, UniformDose
from engine.optimization.problem import PlanningProblem
from engine.optimization.regions import regions_on
from engine.patient.patient import Patient, without_side
from engine.patient.structures import RING, DoseStructures, distance_mm

RING_MM = 30.0
TARGET_WEIGHT, UNDERDOSE_WEIGHT = 100.0, 100.0  # what is missing counts twice what is too much
RING_WEIGHT, WHOLE_RING_WEIGHT = 20.0, 0.01

# TG-263 name without its side: (level in Gy (RBE), weight, spare only what lies outside targets)
_ORGANS = {
    "SpinalCord": (38.0, 20.0, False),
    "Brainstem": (46.0, 20.0, False),
    "OpticChiasm": (48.0, 10.0, False),
    "OpticNrv": (48.0, 10.0, False),
    "Bone_Mandible": (62.0, 2.0, False),
    "Eye": (20.0, 0.1, True),
    "Parotid": (12.0, 0.03, True),
    "Larynx": (28.0, 0.3, True),
}
_OTHER_ORGAN = (0.4, 0.2, True)  # level relative to the highest prescription


def head_and_neck_objectives(patient: Patient) -> tuple[Objective, ...]:
    """Objectives on the structures that ``head_and_neck_fractions`` makes of this patient."""
    highest_gy = patient.prescription_gy[patient.targets[0]]
    objectives: list[Objective] = []
    for target, name in zip(patient.targets, _target_regions(patient)):
        level_gy = patient.prescription_gy[target]
        objectives.append(UniformDose(name, level_gy, TARGET_WEIGHT))
        objectives.append(MinDose(name, level_gy, UNDERDOSE_WEIGHT))
    for organ in patient.organs:
        level_gy, weight, spare = _organ(organ, highest_gy)
        objectives.append(MaxDose(outside_targets(organ) if spare else organ, level_gy, weight))
    objectives.append(DoseFallOff(RING, highest_gy, 0.3 * highest_gy, 15.0, RING_WEIGHT))
    objectives.append(MaxDose(RING, 0.2 * highest_gy, WHOLE_RING_WEIGHT))
    return tuple(objectives)


def head_and_neck_fractions(
    patient: Patient, structures: DoseStructures, ring_mm: float = RING_MM
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Shares (nz, ny, nx) of every structure of the objectives, and mm to the targets (nz, ny, nx).

    Besides the patient's own: targets without the higher levels, organs without the targets, and
    the ring, tissue within ``ring_mm`` of the targets.
    """
    fraction = dict(structures.fraction)
    covered = np.zeros(structures.grid.shape, np.float32)
    for target, name in zip(patient.targets, _target_regions(patient)):
        own = structures.fraction[target]
        fraction[name] = np.clip(own - covered, 0.0, None)
        covered = np.maximum(covered, own)
    for organ in patient.organs:
        fraction[outside_targets(organ)] = np.clip(fraction[organ] - covered, 0.0, None)
    distance = distance_mm(covered >= min(0.5, float(covered.max())), structures.grid)
    body = structures.fraction[patient.external.name]
    fraction[RING] = np.where(distance <= ring_mm, np.clip(body - covered, 0.0, None), 0.0)
    return fraction, np.maximum(distance, 0.0)


def head_and_neck_voxels(
    patient: Patient, structures: DoseStructures, ring_mm: float = RING_MM
) -> np.ndarray:
    """Flat indices (n,) uint32, ascending, of the voxels that carry objectives."""
    fraction, _ = head_and_neck_fractions(patient, structures, ring_mm)
    asked = {o.structure for o in head_and_neck_objectives(patient)}
    carries = np.logical_or.reduce([fraction[name] > 1e-3 for name in sorted(asked)])
    return np.flatnonzero(carries).astype(np.uint32)


def head_and_neck_problem(
    patient: Patient,
    structures: DoseStructures,
    influence: InfluenceMatrix,
    quantity: Quantity | None = None,
    minimum_weight: float | None = None,
    ring_mm: float = RING_MM,
) -> PlanningProblem:
    """The default problem; structures without a row in ``influence`` carry no objective.

    ``quantity`` is course dose in Gy (RBE) with RBE 1.1 when None.
    """
    fraction, distance = head_and_neck_fractions(patient, structures, ring_mm)
    regions = regions_on(influence.voxels, _nonempty(fraction), distance)
    objectives = [o for o in head_and_neck_objectives(patient) if o.structure in regions]
    quantity = RbeDose(patient.n_fractions) if quantity is None else quantity
    return PlanningProblem(influence, regions, objectives, quantity, minimum_weight)


def outside_targets(organ: str) -> str:
    """Name of an organ's part outside all targets."""
    return f"{organ}-Targets"


def _target_regions(patient: Patient) -> list[str]:
    """The targets, highest first, each lower one without what lies above it."""
    first, *lower = patient.targets
    return [first, *(f"{name}-Higher" for name in lower)]


def _organ(name: str, highest_gy: float) -> tuple[float, float, bool]:
    if without_side(name) in _ORGANS:
        return _ORGANS[without_side(name)]
    share, weight, spare = _OTHER_ORGAN
    return share * highest_gy, weight, spare


def _nonempty(fraction: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: share for name, share in fraction.items() if share.any()}
