"""The networks that ship: they load, say what they are, and choose as they were trained to."""

import numpy as np
import pytest

from agents.voxel_sampling.agent import WEIGHTS, PNetSampler
from agents.voxel_sampling.study_problem import voxels
from agents.voxel_sampling.training import CARD, load_pnet
from ptenv.cases.build import build_case
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.envs.voxel_mask import PRESETS

SHIPPED = sorted(folder.name for folder in WEIGHTS.glob("pnet*") if (folder / CARD).exists())


@pytest.fixture(scope="module")
def case():
    """A patient that no network was trained on, with voxels as dense as in training."""
    settings = {
        **PRESETS["carbon"], "target_volume_cm3": (40.0, 50.0), "spot_spacing_mm": 5.0,
        "n_anchor_masks": 1, "budgets": (0.1,), "converged_evaluations": 2,
        "quality_evaluations": 1, "lateral_cutoff": 0.05,
    }  # fmt: skip
    return build_case(VoxelMaskRecipe("head-and-neck-10006", **settings))


def test_both_setups_of_the_paper_ship():
    assert {"pnet_setup1", "pnet_setup2"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_says_what_for_and_from_what_it_learned(name):
    _, card = load_pnet(WEIGHTS / name)
    assert card["use"] and card["command"].startswith("ptenv train agent=pnet")
    assert card["learned_on"] and "openkbp:pt_211" not in card["learned_on"]
    assert all("head-and-neck-1" not in patient for patient in card["learned_on"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_chooses_fewer_voxels_and_more_at_the_rim(name, case):
    sampler = PNetSampler(name)
    rates, allowed = sampler.rates(case), voxels(case)
    assert not rates[~allowed].any()
    target = allowed & case.target_rows
    assert 0.03 < rates[target].mean() < 0.4
    depth = case.depth_mm
    assert rates[target & (depth <= 3.0)].mean() > 1.2 * rates[target & (depth > 6.0)].mean()
    rows = sampler.rows(case, np.random.default_rng(0))
    assert rows[target].mean() == pytest.approx(rates[target].mean(), rel=0.1)
    np.testing.assert_array_equal(rows, sampler.rows(case, np.random.default_rng(0)))


def test_setup_1_keeps_the_organs_that_setup_2_thins(case):
    organs = voxels(case) & ~case.target_rows
    first, second = (PNetSampler(f"pnet_setup{k}").rates(case)[organs].mean() for k in (1, 2))
    assert first > 0.9
    assert second < 0.8 * first
