from dataclasses import replace

import numpy as np
import pytest

from engine.dose.influence import InfluenceMatrix
from engine.optimization.head_and_neck import (
    RING,
    head_and_neck_fractions,
    head_and_neck_objectives,
    head_and_neck_problem,
    head_and_neck_voxels,
)
from engine.optimization.objectives import DoseFallOff, MinDose, UniformDose
from engine.optimization.problem import initial_weights
from engine.optimization.solvers import LBFGSB
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.structures import on_grid


def a_patient(levels=(70.0, 56.0), organ="Parotid_L") -> Patient:
    """A cylinder with nested targets and two organs, one of them across the target's rim."""
    grid = Grid.centered((8, 24, 24), (4.0, 4.0, 4.0))
    z, y, x = np.meshgrid(*grid.axes_mm(), indexing="ij")
    parts = [
        Structure("External", np.hypot(x, y) < 46, "external"),
        Structure("PTV_High", np.hypot(x, y) < 9, "target"),
        Structure("PTV_Low", (np.hypot(x, y) < 17) & (z < 8), "target"),
        Structure(organ, np.hypot(x - 18, y) < 8, "organ"),
        Structure("SpinalCord", np.hypot(x, y - 30) < 6, "organ"),
    ]
    return Patient(
        "cylinder", grid, np.zeros(grid.shape, np.float32), {p.name: p for p in parts},
        dict(zip(("PTV_High", "PTV_Low"), levels)), 35,
    )  # fmt: skip


@pytest.fixture(scope="module")
def case():
    patient = a_patient()
    structures = on_grid(patient, patient.grid)
    voxels = head_and_neck_voxels(patient, structures)
    points = patient.grid.points_mm(voxels)
    rng = np.random.default_rng(0)
    columns = []
    for _ in range(90):  # blobs of dose: what a spot looks like does not matter here
        center = rng.uniform([-22, -22, -16], [22, 22, 16])
        blob = 1e-9 * np.exp(-np.sum((points - center) ** 2, axis=1) / (2 * 6.0**2))
        columns.append(np.where(blob > 1e-12, blob, 0.0))
    influence = InfluenceMatrix.from_dense(patient.grid, voxels, np.stack(columns, axis=1))
    return patient, structures, influence


def test_the_default_problem_runs_fused_and_improves(case):
    problem = head_and_neck_problem(*case)
    start = initial_weights(problem)
    solution = LBFGSB(40).solve(problem, start)
    assert problem.fused
    assert solution.value < 0.7 * problem.evaluate(start)[0]


def test_a_ring_is_always_an_objective(case):
    on_ring = [o for o in head_and_neck_problem(*case).objectives if o.structure == RING]
    assert any(isinstance(o, DoseFallOff) for o in on_ring)
    assert len(on_ring) == 2


def test_lower_targets_leave_out_the_higher_ones(case):
    patient, structures, _ = case
    fraction, _ = head_and_neck_fractions(patient, structures)
    high, low = fraction["PTV_High"] > 0, fraction["PTV_Low-Higher"] > 0
    assert low.any()
    assert not np.any(high & low)
    asked = {o.structure: o.level_gy for o in head_and_neck_objectives(patient)
             if isinstance(o, (UniformDose, MinDose))}  # fmt: skip
    assert asked == {"PTV_High": 70.0, "PTV_Low-Higher": 56.0}


def test_parotids_are_spared_outside_targets_and_cords_everywhere(case):
    patient, structures, _ = case
    names = {o.structure for o in head_and_neck_objectives(patient)}
    assert {"Parotid_L-Targets", "SpinalCord"} <= names
    assert "Parotid_L" not in names
    fraction, distance = head_and_neck_fractions(patient, structures)
    assert not np.any((fraction["Parotid_L-Targets"] > 0) & patient.target_union())
    assert distance[patient.target_union()].max() == 0


def test_ring_is_body_outside_targets_within_its_width(case):
    patient, structures, _ = case
    ring = head_and_neck_fractions(patient, structures, ring_mm=10.0)[0][RING] > 0
    assert ring.any()
    assert not np.any(ring & (patient.target_union() | ~patient.external.mask))


def test_unknown_organs_get_a_mild_objective_too():
    names = {o.structure for o in head_and_neck_objectives(a_patient(organ="Glnd_Thyroid"))}
    assert "Glnd_Thyroid-Targets" in names


def test_organs_without_a_row_carry_no_objective(case):
    patient, structures, influence = case
    outside = np.setdiff1d(influence.voxels, structures.members("SpinalCord")[0])
    rows = np.flatnonzero(np.isin(influence.voxels, outside))
    problem = head_and_neck_problem(patient, structures, influence.rows(rows))
    assert "SpinalCord" not in {o.structure for o in problem.objectives}


def test_equal_weights_mean_the_same_on_a_patient_of_another_size_and_level(case):
    """Same relative dose on a grid twice as fine and a prescription half as high: same value."""
    patient, structures, _ = case
    values = []
    for level, spacing in ((70.0, 4.0), (35.0, 2.0)):
        grid = patient.grid.resampled((spacing,) * 3)
        scaled = replace(patient, prescription_gy={"PTV_High": level, "PTV_Low": 0.8 * level})
        on_this = on_grid(scaled, grid)
        share = on_this.fraction["PTV_High"].ravel()
        voxels = np.flatnonzero(share > 1e-3)
        dose_gy = level * (1.0 + 0.002 * grid.points_mm(voxels)[:, 0])
        objective = UniformDose("PTV_High", level)
        values.append(objective.value(dose_gy, share[voxels] / share[voxels].sum()))
    assert values[0] == pytest.approx(values[1], rel=0.1)  # the finer grid rounds the staircase
