"""What the page of the environments says in numbers is what the code has."""

from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.registration import registry

import ptenv  # noqa: F401  registers the ids
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.envs.voxel_mask import PRESETS

PAGE = (Path(__file__).parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in registry if name.startswith("ptenv/")])
def test_every_id_is_on_the_page(name):
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("action", ["shells", "field"])
def test_spaces_are_those_of_the_page(action):
    env = gym.make("ptenv/VoxelMask-v0", action=action)
    (n,) = env.action_space.shape
    assert f'| `"{action}"` | Box(−1, 1, ({n},)) |' in PAGE
    assert f'`"compact"`, Box(−1, 1, ({env.observation_space.shape[0]},))' in PAGE


@pytest.mark.parametrize("name", ["ptenv/VoxelMask-v0", "ptenv/VoxelMask-mini-v0"])
def test_volumes_are_those_of_the_page(name):
    size = gym.make(name, observation="volume").observation_space["volume"].shape[1:]
    assert " × ".join(map(str, size)) in PAGE


def test_settings_of_cases_are_those_of_the_page():
    full = VoxelMaskRecipe("head-and-neck-00000")
    mini = VoxelMaskRecipe("head-and-neck-00000", **PRESETS["mini"])
    for recipe in (full, mini):
        spacing = recipe.dose_grid_mm
        assert f"| {1000 / spacing**3:.0f} per cm³ ({spacing} mm) |" in PAGE
    wanted = (
        f"({full.converged_evaluations} further evaluations after keep-all, "
        f"{mini.converged_evaluations} for the mini ids"
    )
    assert wanted in " ".join(PAGE.split())
    assert f"geometric mean over {full.n_anchor_masks} frozen masks" in PAGE
