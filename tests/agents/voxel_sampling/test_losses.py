"""Labels and the loss against hand calculations on six voxels, every option of them."""

import numpy as np
import pytest
import torch

from agents.voxel_sampling.labels import ColdTarget, EveryOrganVoxel, HotOrgans, OrganShells
from agents.voxel_sampling.losses import PseudoLabels

SELECTED = [1, 0, 0, 1, 1, 0]  # half of the target, half of the organ
DOSE = [0, 58, 59.2, 60, 66, 30, 20, 0]  # of 60 Gy: the first is below 98.5 %, 59.1 Gy
PENALTY = [5, 1, 0, 0, 2, 0.5, 0.0, 7]


def log_p(p):
    p = torch.tensor(p).reshape(1, 1, -1)
    return torch.stack([torch.log(1 - p), torch.log(p)])


def labels_of(rule, visit, rng=0):
    return rule(visit.volume, visit.selected[0], visit.plans[0], np.random.default_rng(rng))


@pytest.fixture
def visit(toy_visit, toy_plan):
    return toy_visit(SELECTED, toy_plan(DOSE, PENALTY))


@pytest.mark.parametrize(
    "regulator, weight", [("selected", 0.5), ("ratio", 1.0), (0.2, 0.2), (0, 0.0)]
)
def test_cold_voxels_should_be_selected(visit, regulator, weight):
    labels = labels_of(ColdTarget(0.985, regulator), visit)
    np.testing.assert_array_equal(labels.selected[:4], [True, False, False, False])
    np.testing.assert_allclose(labels.weight[:4], [1.0, weight, weight, weight])


def test_the_ratio_stays_finite(toy_visit, toy_plan):
    labels = labels_of(ColdTarget(regulator="ratio"), toy_visit([1] * 6, toy_plan()))
    assert np.isfinite(labels.weight).all()


@pytest.mark.parametrize("threshold, n_cold", [(0.9, 0), (0.99, 2), (1.05, 3)])
def test_the_threshold_is_of_the_prescription(visit, threshold, n_cold):
    assert labels_of(ColdTarget(threshold), visit).selected[:4].sum() == n_cold


def test_setup_1_takes_every_organ_voxel(visit):
    assert labels_of(EveryOrganVoxel(), visit).selected.all()


def test_setup_2_draws_shells_wholly_and_an_eighth_of_the_interior(toy_visit, toy_plan):
    from dataclasses import replace

    visit = toy_visit(SELECTED, toy_plan())
    deep = replace(visit.volume, depth_mm=np.array([9.0] * 5 + [2.0]))
    drawn = np.mean(
        [labels_of(OrganShells(), replace(visit, volume=deep), i).selected for i in range(2000)],
        axis=0,
    )
    assert drawn[5] == 1.0
    np.testing.assert_allclose(drawn[:5], 0.125, atol=0.03)
    nerve = replace(deep, always=np.array([0, 0, 0, 0, 1, 0], bool))
    assert all(
        labels_of(OrganShells(), replace(visit, volume=nerve), i).selected[4] for i in range(20)
    )


def test_hot_organs_are_those_with_a_part_in_the_objective(visit):
    labels = labels_of(HotOrgans(share=0.1), visit)
    np.testing.assert_array_equal(labels.selected[4:], [True, False])
    np.testing.assert_allclose(labels.weight[4:], [1.0, 0.5])


def test_organs_without_any_penalty_need_not_be_selected(toy_visit, toy_plan):
    assert not labels_of(HotOrgans(), toy_visit(SELECTED, toy_plan())).selected.any()


@pytest.mark.parametrize("rest, n_rest", [("volume", 3), ("organs", 2)])
@pytest.mark.parametrize("regulator, weight", [("selected", 0.5), ("ratio", 1.0), (0.2, 0.2)])
def test_the_loss_is_the_mean_in_the_target_and_the_mean_in_the_rest(
    toy_volume, toy_visit, toy_plan, rest, n_rest, regulator, weight
):
    from dataclasses import replace

    wide = np.zeros((3, 1, 1, 7), np.float32)  # a voxel more than may be selected
    volume = replace(toy_volume(), channels=wide)
    visit = toy_visit(SELECTED, toy_plan(DOSE, PENALTY), volume=volume)
    p = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.25]
    loss = PseudoLabels(ColdTarget(regulator=regulator), EveryOrganVoxel(), rest)
    total, terms = loss(log_p(p), visit)
    target = -(np.log(0.3) + weight * (np.log(0.6) + np.log(0.5) + np.log(0.4))) / 4
    around = np.log(0.75) if rest == "volume" else 0.0
    others = -(np.log(0.7) + np.log(0.8) + around) / n_rest
    assert float(terms["target"]) == pytest.approx(target, rel=1e-5)
    assert float(terms["rest"]) == pytest.approx(others, rel=1e-5)
    assert float(total) == pytest.approx(target + others, rel=1e-5)


def test_a_patient_without_organs_has_a_loss(toy_volume, toy_visit, toy_plan):
    visit = toy_visit([1, 0, 1, 0, 1, 0], toy_plan(DOSE), volume=toy_volume((1,) * 6))
    for rest in ("volume", "organs"):
        total, _ = PseudoLabels(organs=HotOrgans(), rest=rest)(log_p([0.5] * 6), visit)
        assert torch.isfinite(total)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: ColdTarget(regulator="half"), "regulator='half'"),
        (lambda: ColdTarget(regulator=-1.0), "regulator=-1.0"),
        (lambda: ColdTarget(threshold=0.0), "threshold=0.0"),
        (lambda: OrganShells(boundary_rate=2.0), "boundary_rate=2.0"),
        (lambda: HotOrgans(share=-0.1), "share=-0.1"),
        (lambda: PseudoLabels(rest="air"), "rest='air'"),
    ],
)
def test_what_means_nothing_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
