"""What the page of the environments says in numbers is what the code has."""

from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.registration import registry

import ptenv  # noqa: F401  registers the ids
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.envs.energy_layer import PRESETS as ARC_PRESETS
from ptenv.envs.voxel_mask import PRESETS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "environments.md").read_text(encoding="utf-8")
ARCS = (DOCS / "energy_layer.md").read_text(encoding="utf-8")
SHAPING = (DOCS / "dose_shaping.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in registry if name.startswith("ptenv/")])
def test_every_id_is_on_the_page(name):
    pages = {"EnergyLayer": ARCS, "DoseShaping": SHAPING}
    assert f"`{name}`" in next((page for part, page in pages.items() if part in name), PAGE)


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


@pytest.mark.parametrize("preset", ["full", "2-degree", "mini"])
def test_arcs_are_those_of_the_page(preset):
    recipe = EnergyLayerRecipe("nasopharynx-00000", **ARC_PRESETS[preset])
    assert f"| {recipe.n_angles} ({360 / recipe.n_angles:g}°) |" in ARCS
    limits = ", ".join(f"{limit:g}" for limit in recipe.limits[:-1])
    assert limits in ARCS


def test_planes_and_clock_are_those_of_the_page():
    space = gym.make("ptenv/EnergyLayer-v0").observation_space
    assert f"Box(0, 1, ({space['plane'].shape[0]}, G, E))" in ARCS
    assert f"Box(−1, 1, ({space['clock'].shape[0]},))" in ARCS


def test_spaces_of_dose_shaping_are_those_of_the_page():
    for action in ("goal", "candidates"):
        env = gym.make("ptenv/DoseShaping-v0", action=action)
        assert f'| `"{action}"` | Discrete({env.action_space.n}) |' in SHAPING
    for name in ("ptenv/DoseShaping-v0", "ptenv/DoseShaping-mini-v0"):
        env = gym.make(name)
        space = env.observation_space
        assert f"`figures` Box(−1, 1, ({space['figures'].shape[0]},))" in SHAPING
        n_spots, n_features = space["spots"].shape
        assert f"`spots` Box(−1, 1, ({n_spots}, {n_features}))" in SHAPING
        assert " × ".join(map(str, space["volume"].shape[1:])) in SHAPING
        n = len(env.unwrapped.weightings)
        assert f"has {n} weightings" in SHAPING or f"({n} for the mini id)" in SHAPING


def test_sketches_are_those_of_the_page():
    recipe = EnergyLayerRecipe("nasopharynx-00000")
    assert f"{recipe.sketch_rows} sampled voxels" in ARCS
    assert f"spots {recipe.sketch_spacing_mm:g} mm apart" in ARCS
    assert f"with {recipe.evaluations} evaluations" in ARCS
    assert f"robustly ({recipe.bound_evaluations} evaluations)" in ARCS
