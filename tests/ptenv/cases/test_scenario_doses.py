"""Doses of a case's plans when the patient does not lie as planned."""

import numpy as np
import pytest

from engine.geometry.scenarios import NOMINAL, Scenario
from ptenv.cases import scenario_doses as module
from ptenv.cases.build import build_case
from ptenv.cases.library import load_case
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.cases.scenario_doses import isotropic_setup, plan_of, scenario_doses


@pytest.fixture(scope="module")
def weights(case):
    rng = np.random.default_rng(0)
    return case.start_weights * rng.uniform(0.5, 1.5, (2, case.influence.n_spots))


def test_nine_scenarios_are_equally_far_from_the_nominal_one():
    nominal, *shifted = isotropic_setup(3.0)
    assert nominal == NOMINAL
    shifts = np.array([s.shift_mm for s in shifted])
    assert len({s.shift_mm for s in shifted}) == 8
    np.testing.assert_allclose(np.linalg.norm(shifts, axis=1), 3.0)
    np.testing.assert_allclose(np.square(shifts).mean(axis=0), 3.0)  # no axis is favored
    with pytest.raises(ValueError, match="shift_mm=0"):
        isotropic_setup(0.0)


def test_the_engine_made_again_gives_the_dose_of_the_case(case, weights):
    unmoved = Scenario(shift_mm=(1e-9, 0.0, 0.0))  # not the nominal one, so it is computed
    (again,) = scenario_doses(case, weights, [unmoved])
    planned = np.stack([case.dose_gy(w) for w in weights])
    np.testing.assert_allclose(again, planned, rtol=1e-3, atol=1e-4 * planned.max())


def test_carbon_is_made_again_with_its_biology(small):
    quantity = {"machine": "generic_carbon", "biology": "lem1", "fraction_gy": 3.0,
                "n_fractions": 20, "single_target": True, "ring_objectives": False}  # fmt: skip
    quick = {"converged_evaluations": 5, "quality_evaluations": 2, "n_anchor_masks": 2}
    case = build_case(VoxelMaskRecipe("head-and-neck-00001", **{**small, **quantity, **quick}))
    weights = case.start_weights[None]
    (again,) = scenario_doses(case, weights, [Scenario(shift_mm=(1e-9, 0.0, 0.0))])
    planned = case.dose_gy(weights[0])
    assert planned.max() > 20.0
    np.testing.assert_allclose(again[0], planned, rtol=2e-3, atol=2e-4 * planned.max())


def test_the_nominal_dose_is_the_case_s_own(case, weights):
    nominal, shifted = scenario_doses(case, weights, [NOMINAL, Scenario((0.0, 0.0, 3.0))])
    np.testing.assert_array_equal(nominal[1], case.dose_gy(weights[1]))
    assert nominal.shape == shifted.shape == (2, case.influence.n_rows)
    assert np.abs(shifted - nominal).max() > 0.02 * nominal.max()


def test_batches_of_rows_change_nothing(case, weights, monkeypatch):
    scenario = [Scenario((2.0, -1.0, 1.0))]
    (whole,) = scenario_doses(case, weights, scenario)
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 171)
    (parts,) = scenario_doses(case, weights, scenario)
    np.testing.assert_allclose(parts, whole, rtol=2e-3, atol=2e-4 * whole.max())  # 16-bit roots


def test_a_case_of_the_cache_has_the_same_spots(recipe, case):
    stored, built = plan_of(load_case(recipe)), plan_of(case)
    assert stored.beams == built.beams
    assert stored.machine is built.machine
    np.testing.assert_array_equal(stored.u_mm, built.u_mm)


def test_weights_of_another_plan_are_refused(case):
    with pytest.raises(ValueError, match="n_plans"):
        next(scenario_doses(case, case.start_weights, [NOMINAL]))
