"""Samplers that learn nothing, and the problem they plan."""

import numpy as np
import pytest

from agents.environments import Environment
from agents.voxel_sampling.samplers import (
    AtEqualWork,
    Importance,
    Shells,
    Uniform,
    ViolationDriven,
    WithoutOrgans,
    filled_to,
)
from agents.voxel_sampling.study import case_named
from agents.voxel_sampling.study_problem import (
    RING_GROUP,
    plannable,
    row_penalty,
    sampled_problem,
    voxels,
)
from engine.patient.structures import RING

ALL = (Shells(), Uniform(0.3), Uniform(None, 20), WithoutOrgans(0.5), Importance(0.3),
       ViolationDriven(0.3), AtEqualWork(Importance(), Uniform(0.2)))  # fmt: skip


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def case():
    recipe = {
        "ct_spacing_mm": 4.0, "dose_grid_mm": 4.0, "spot_spacing_mm": 9.0, "n_anchor_masks": 2,
        "converged_evaluations": 30, "quality_evaluations": 5,
    }  # fmt: skip
    return case_named(Environment(recipe=recipe), "head-and-neck-00001")


@pytest.fixture(scope="module")
def plan_gy(case):
    """A dose (n_rows,) with violations on both sides."""
    weights = case.start_weights * _rng().uniform(0.2, 2.0, case.influence.n_spots)
    return case.dose_gy(weights.astype(np.float32))


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: type(s).__name__)
def test_rows_are_voxels_that_equation_1_leaves(case, sampler):
    rows = sampler.rows(case, _rng())
    assert rows.dtype == bool
    assert 0 < rows.sum() < voxels(case).sum()
    assert not np.any(rows & ~voxels(case))
    np.testing.assert_array_equal(rows, sampler.rows(case, _rng()))
    assert sampler.extra_work(case) >= 0


def test_voxels_are_targets_and_organs_without_the_ring(case):
    assert np.any(case.group == RING_GROUP)
    np.testing.assert_array_equal(plannable(case), case.group != RING_GROUP)
    assert not np.any(voxels(case) & ~case.candidates)


def test_the_ring_carries_no_objective(case):
    structures = {o.structure for o in sampled_problem(case).objectives}
    assert structures == {o.structure for o in case.problem.objectives} - {RING}
    assert sampled_problem(case) is sampled_problem(case)


def test_shares_of_rows_are_those_of_the_problem(case, plan_gy):
    physical = (plan_gy / case.quantity.scale).astype(np.float32)
    penalty, slope = row_penalty(case.problem, plan_gy)
    known, known_slope = case.problem.penalty_by_row(physical)
    np.testing.assert_allclose(penalty, known, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(
        slope * case.quantity.scale, known_slope, rtol=1e-4, atol=1e-5 * np.abs(known_slope).max()
    )
    assert penalty.sum() == pytest.approx(case.problem.value_of_dose(physical), rel=1e-5)


def test_shells_are_dense_at_the_surface(case):
    rates, inside = Shells(1.0, 0.125, 5.0).rates(case, _rng()), voxels(case)
    assert set(rates[inside & (case.depth_mm <= 5.0)]) == {1.0}
    assert set(rates[inside & (case.depth_mm > 5.0)]) <= {0.125}
    assert not rates[~inside].any()


def test_uniform_keeps_the_number_asked_for(case):
    assert Uniform(None, 17).rows(case, _rng()).sum() == 17
    assert Uniform(None, 10**6).rows(case, _rng()).sum() == voxels(case).sum()
    with pytest.raises(ValueError, match="give one of them"):
        Uniform(0.2, 100)


def test_without_organs_keeps_targets(case):
    rows = WithoutOrgans().rows(case, _rng())
    np.testing.assert_array_equal(rows, voxels(case) & case.target_rows)


def test_importance_follows_the_pull_on_the_weights(case):
    sampler = Importance(0.2, probing_evaluations=0, exploration=0.0, sharpness=1.0)
    rates, start = sampler.rates(case, _rng()), case.start_weights
    _, slope = row_penalty(sampled_problem(case), case.dose_gy(start))
    pull, free = np.abs(slope) * case.row_reach, voxels(case) & (rates < 1.0)
    kept = free & (pull > 1e-6 * pull.max())
    by_pull = rates[kept] / pull[kept]
    np.testing.assert_allclose(by_pull, by_pull[0], rtol=1e-3)
    assert rates[voxels(case)].mean() == pytest.approx(0.2, rel=1e-6)


def test_a_probing_plan_costs_what_is_reported(case):
    nonzeros = case.row_nonzeros[voxels(case)].sum()
    sampler = Importance(probing_evaluations=20, probing_share=0.05)
    assert sampler.extra_work(case) == int(2.0 * nonzeros)
    assert Importance(probing_evaluations=0).extra_work(case) == nonzeros


def test_later_rounds_follow_the_violations(case):
    sampler = ViolationDriven(0.2, exploration=0.0, sharpness=1.0)
    np.testing.assert_allclose(sampler.rates(case, _rng())[voxels(case)], 0.2)
    rates = sampler.rates(case, _rng(), case.start_weights)
    penalty, _ = row_penalty(sampled_problem(case), case.dose_gy(case.start_weights))
    met = voxels(case) & (penalty == 0.0)
    assert met.any()
    assert rates[met].max() < 1e-6
    assert rates[voxels(case)].mean() == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize("sampler", [Uniform(), Shells(), Importance()], ids=repr)
def test_equal_work_is_equal_but_for_a_row(case, sampler):
    nonzeros = case.row_nonzeros
    room = int(nonzeros[Shells().rows(case, _rng())].sum() // 2)
    rows = AtEqualWork(sampler, "named").within(room, case, _rng(), None)
    assert room - nonzeros.max() < nonzeros[rows].sum() <= room


def test_a_room_is_filled_by_chance_and_rows_without_one_stay_out():
    rates, nonzeros = np.array([0.0, 1.0, 1.0, 3.0]), np.array([1, 2, 2, 2])
    picked = np.array([filled_to(rates, _rng(seed).random(4), nonzeros, 2) for seed in range(3000)])
    assert set(picked.sum(axis=1)) == {1}
    assert not picked[:, 0].any()
    # u/3 is the smallest of three with probability ∫₀^⅓ 3 (1 − x)² dx
    assert picked[:, 3].mean() == pytest.approx(19 / 27, abs=0.03)


def test_whose_work_must_be_known():
    sampler = AtEqualWork(Uniform(), "pnet")
    with pytest.raises(ValueError, match="of='pnet' is no sampler here"):
        sampler.named({"heuristic": Shells()})
    assert sampler.named({"pnet": Shells()}).of == Shells()
    with pytest.raises(ValueError, match="is a name"):
        sampler.rows(None, _rng())
