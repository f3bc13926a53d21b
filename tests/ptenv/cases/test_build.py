import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engine.evaluation.goals import RING
from engine.patient.patient import Patient
from engine.patient.phantoms import head_and_neck
from ptenv.cases import build
from ptenv.cases.build import build_case
from ptenv.cases.case import BODY, GROUPS, Case
from ptenv.cases.planned import _group_of
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.cases.scored import scored_grid


@pytest.mark.parametrize("level", ["L0", "L1", "L2", "L3", "L4"])
def test_every_level_of_procedural_patients_builds(small, level):
    recipe = VoxelMaskRecipe(patient="head-and-neck-00007", **{**small, "level": level})
    case = build_case(recipe)
    assert case.target_rows.any()
    assert case.anchors.is_sound(0.1)
    assert np.isfinite(case.quality(case.metrics(case.dose_gy(case.start_weights))))
    assert (len(case.targets) == 3) == (level == "L3")


def test_the_same_recipe_gives_the_same_bits(case, recipe):
    description, arrays = case.as_entry()
    again, others = build_case(recipe).as_entry()
    assert json.dumps(again) == json.dumps(description)
    for name in arrays:
        np.testing.assert_array_equal(others[name], arrays[name])


def test_a_stored_case_plans_bit_by_bit_as_the_one_that_was_built(case):
    stored = Case.from_entry(*case.as_entry())
    weights = np.asarray(case.start_weights)
    for one, other in zip(case.problem.evaluate(weights), stored.problem.evaluate(weights)):
        np.testing.assert_array_equal(one, other)
    mask = np.random.default_rng(3).random(case.influence.n_rows) < 0.2
    rng = [np.random.default_rng(4) for _ in "ab"]
    one, other = (c.problem.masked(mask, rng=r) for c, r in zip((case, stored), rng))
    np.testing.assert_array_equal(one.evaluate(weights)[1], other.evaluate(weights)[1])
    dose = case.dose_gy(weights)
    assert stored.metrics(dose) == case.metrics(dose)
    assert stored.anchors == case.anchors


def test_the_objective_is_the_sum_over_all_rows(case):
    physical = case.influence.dose(case.start_weights)
    by_row, _ = case.problem.penalty_by_row(physical)
    value = case.problem.value_of_dose(physical)
    assert by_row.sum(dtype=np.float64) == pytest.approx(value, rel=1e-5)
    assert case.anchors.f_start == pytest.approx(value, rel=1e-5)


def test_rows_belong_to_what_fills_them(case):
    """Groups follow the regions: no row of an organ far from the targets is called ring."""
    share = {}
    for name in (*case.targets, RING):
        region = case.problem.structures[name]
        share[name] = np.zeros(case.influence.n_rows)
        share[name][region.rows] = region.volume / region.volume.max()
    highest, ring = case.targets[0], len(GROUPS) - 1
    np.testing.assert_array_equal(case.group == 0, share[highest] >= 0.5)
    assert np.all(share[RING][case.group == ring] > 0)
    assert np.all(case.depth_mm[case.group == ring] <= case.recipe["ring_mm"])
    assert case.depth_mm.min() >= 0.0
    assert np.all((case.organ_distance_mm >= 0) & (case.organ_distance_mm <= 100.0))


def test_distances_are_those_to_the_nearest_serial_or_optic_organ(case):
    points = case.grid.points_mm(case.influence.voxels)
    critical = np.isin(case.group, [GROUPS.index("serial"), GROUPS.index("optic")])
    between_centers, _ = cKDTree(points[critical]).query(points)
    near = case.organ_distance_mm < 100.0
    apart = np.abs(case.organ_distance_mm - between_centers)[near]
    assert critical.any()
    assert apart.max() < 1.5 * max(case.grid.spacing_mm)  # surfaces lie between the centers


def test_a_row_goes_to_the_first_half_then_to_the_ring_then_to_the_largest_share():
    # columns: half in two groups; a bit of one beside the ring; a bit of two beyond the ring
    shares = np.zeros((len(GROUPS) - 1, 3), np.float32)
    shares[[1, 4], 0] = 0.5
    shares[2, 1] = 0.4
    shares[[3, 5], 2] = 0.1, 0.3
    np.testing.assert_array_equal(_group_of(shares, np.array([0.0, 0.6, 0.0])), [1, 6, 5])


def test_metrics_cover_targets_organs_ring_and_body(case):
    metrics = case.metrics(case.dose_gy(case.start_weights))
    assert set(case.targets) | {RING, BODY} <= set(metrics)
    for goal in case.quality.scorecard.goals:
        assert np.isfinite(metrics[goal.structure][goal.metric])
    assert any(goal.structure == BODY for goal in case.quality.scorecard.goals)


def test_structures_of_the_case_fill_their_volume(case, recipe):
    patient = recipe.read_patient()
    for name in (*patient.targets, *patient.organs):
        wanted = np.count_nonzero(patient.mask(name)) * patient.grid.voxel_volume_cm3
        assert case.volumes_cm3[name] == pytest.approx(wanted, rel=0.1, abs=0.1), name


def test_the_grid_holds_all_that_is_scored():
    patient = head_and_neck(1, spacing_mm=5.0, target_volume_cm3=(6.0, 10.0))
    grid = scored_grid(patient, 4.0, 8.0)
    for name in (*patient.targets, *patient.organs):
        box, _ = patient.grid.cropped(patient.mask(name))
        assert np.all(grid.lower_mm <= box.lower_mm + 1e-6)
        assert np.all(grid.upper_mm >= box.upper_mm - 1e-6)


def test_a_patient_without_a_target_is_refused(recipe, monkeypatch):
    def without_target(self):
        patient = head_and_neck(1, spacing_mm=5.0, target_volume_cm3=(6.0, 10.0), level="L2")
        kept = {n: s for n, s in patient.structures.items() if s.role != "target"}
        return Patient(patient.name, patient.grid, patient.hu, kept, {}, patient.n_fractions)

    monkeypatch.setattr(build.VoxelMaskRecipe, "read_patient", without_target)
    with pytest.raises(ValueError, match="has no target"):
        build_case(recipe)


def test_an_organ_without_voxels_is_left_out(recipe, monkeypatch):
    def with_empty_organ(self):
        patient = head_and_neck(1, spacing_mm=5.0, target_volume_cm3=(6.0, 10.0), level="L2")
        larynx = patient.structures["Larynx"]
        return patient.with_structures(replace(larynx, mask=np.zeros_like(larynx.mask)))

    monkeypatch.setattr(build.VoxelMaskRecipe, "read_patient", with_empty_organ)
    case = build_case(recipe)
    assert "Larynx" not in case.evaluation.structures
    assert all(goal.structure != "Larynx" for goal in case.quality.scorecard.goals)


def test_copies_of_a_case_are_the_case(case):
    assert copy.copy(case) is case
    assert copy.deepcopy({"case": case})["case"] is case
