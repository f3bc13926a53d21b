"""A planning problem as cases score it: patient and plan on a dose grid of the case's own."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import Quantity
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.evaluation.scorecard import Goal
from engine.geometry.plan import Plan
from engine.optimization.head_and_neck import (
    RING,
    head_and_neck_fractions,
    head_and_neck_objectives,
)  # fmt: skip
from engine.optimization.problem import PlanningProblem
from engine.optimization.regions import Region, regions_on
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.patient.structures import distance_mm
from ptenv.cases.case import BODY, GROUPS, judged_rows
from ptenv.cases.scored import (
    scored_goals,
    scored_grid,
    scored_volume_cm3,
    scored_voxels,
    structures_on,
)  # fmt: skip

SERIAL = ("SpinalCord", "Brainstem")
OPTIC = ("OpticNrv", "OpticChiasm", "Eye", "Lens")
GLAND = ("Parotid", "Glnd_Submand")
FAR_MM = 100.0
LONG_BUILD_NONZEROS = 20_000_000  # from here on the anchors take more than some seconds


@dataclass(frozen=True, eq=False)
class Planned:
    """Problem and evaluation on the scored rows, with what their features are made of."""

    patient: Patient
    grid: Grid
    problem: PlanningProblem
    evaluation: PlanEvaluation
    names: list[str]
    volumes_cm3: dict[str, float]
    prescription_gy: dict[str, float]
    fraction: dict[str, np.ndarray]
    to_target_mm: np.ndarray

    @property
    def voxels(self) -> np.ndarray:
        return self.problem.influence.voxels

    @property
    def goals(self) -> tuple[Goal, ...]:
        return scored_goals(self.patient, self.names)

    def row_features(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Group, depth in it and distance to the nearest serial or optic organ, (n_rows,)."""
        return _row_features(
            self.patient, self.grid, self.fraction, self.to_target_mm, self.voxels
        )


def planned(
    patient: Patient, dose_grid_mm: float, ring_mm: float,
    influence: Callable[[Grid, np.ndarray], InfluenceMatrix], quantity: Quantity,
    minimum_weight: float, ring_objectives: bool = True,
) -> Planned:  # fmt: skip
    """The default objectives of a patient on the rows that they ask for; ``influence`` computes
    the matrix of flat voxel indices on a dose grid. The ring's rows are there to be judged even
    without ``ring_objectives``."""
    grid = scored_grid(patient, dose_grid_mm, ring_mm)
    fraction, distance = head_and_neck_fractions(patient, structures_on(patient, grid), ring_mm)
    objectives = head_and_neck_objectives(patient)
    voxels = scored_voxels(fraction, objectives)
    regions = regions_on(voxels, {n: f for n, f in fraction.items() if f.any()}, distance)
    regions[BODY] = Region(np.arange(len(voxels)), np.ones(len(voxels)))
    asked = [o for o in objectives if o.structure in regions]
    if not ring_objectives:
        asked = [o for o in asked if o.structure != RING]
    problem = PlanningProblem(influence(grid, voxels), regions, asked, quantity, minimum_weight)
    names = [n for n in (*patient.targets, *patient.organs, RING, BODY) if n in regions]
    volumes = {n: scored_volume_cm3(fraction, n, grid, len(voxels)) for n in names}
    prescriptions = {t: float(g) for t, g in patient.prescription_gy.items()}
    evaluation = judged_rows(regions, names, len(voxels), volumes, prescriptions)
    return Planned(
        patient, grid, problem, evaluation, names, volumes, prescriptions, fraction, distance
    )


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


def plain_plan(plan: Plan) -> dict:
    """Beams as plain values and spots as arrays."""
    return {
        "machine": plan.machine.name, "beams": [asdict(b) for b in plan.beams],
        "spot_beam": plan.spot_beam, "spot_energy": plan.spot_energy,
        "u_mm": plan.u_mm, "v_mm": plan.v_mm,
    }  # fmt: skip
