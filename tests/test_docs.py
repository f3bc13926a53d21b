"""What the pages say in numbers is what the code has, and the site builds.

The code of the pages: tests/test_docs_code.py.
"""

import dataclasses
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import registry
from matplotlib.image import imread

import ptenv  # noqa: F401  registers the ids
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.library import forget_cases
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.envs.energy_layer import PRESETS as ARC_PRESETS
from ptenv.envs.voxel_mask import PRESETS
from ptenv.registration import IDS
from scripts.build_docs_pictures import DRAWN, picture

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


# ---------------------------------------------------------------------- generated pages, the site


@pytest.fixture(scope="module")
def pages():
    """The module that makes the environments' pages."""
    path = DOCS / "environment_pages.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_id_has_a_generated_page(pages):
    found = [name for family in pages.FAMILIES for name in pages.ids_of(family)]
    assert sorted(found) == sorted(IDS)
    for family in pages.FAMILIES:
        text = pages.page(family)
        for name in pages.ids_of(family):
            (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
            assert f"{IDS[name].reward_threshold:g}" in row
            assert all(key in row for key in IDS[name].settings)
            assert str(IDS[name].max_episode_steps or "no limit") in row


@pytest.mark.parametrize("family", ["voxel_mask", "energy_layer", "dose_shaping"])
def test_a_generated_page_has_all_arguments_and_settings(pages, family):
    made, text = pages.environment_class(family), pages.page(family)
    arguments = list(inspect.signature(made.__init__).parameters.values())[1:]
    assert len(arguments) > 10
    for argument in arguments:
        assert f"\n| `{argument.name}` | " in text
        assert f"`{argument.default!r}`" in text
    for setting in dataclasses.fields(pages.recipe_of(family)):
        assert setting.name == "patient" or f"\n| `{setting.name}` | " in text


@pytest.mark.parametrize("family", ["voxel_mask", "energy_layer", "dose_shaping"])
def test_a_generated_page_has_the_whole_docstring(pages, family):
    text = pages.page(family)
    for heading in re.findall(r"### (.+)", pages.environment_class(family).__doc__):
        assert f"\n## {heading}\n" in text
    for line in pages.environment_class(family).__doc__.splitlines():
        if not line.strip().startswith("###"):
            assert line.strip().replace("``", "`") in text


def test_pages_are_written_again_only_when_they_changed(pages, tmp_path):
    pages.write_pages(tmp_path)
    first, second, third = sorted(tmp_path.iterdir())
    text = first.read_text(encoding="utf-8")
    first.write_text("another", encoding="utf-8")
    os.utime(second, (1.0, 1.0))
    pages.write_pages(tmp_path)
    assert first.read_text(encoding="utf-8") == text
    assert second.stat().st_mtime == 1.0


@pytest.mark.parametrize("family", ["voxel_mask", "energy_layer", "dose_shaping"])
def test_a_picture_shows_what_the_environment_draws(pages, family, monkeypatch, tmp_path):
    """By size and most of its pixels: text and dose differ by a little from machine to machine."""
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path))
    forget_cases()
    kept = imread(pages.FOLDER / f"{family}.png")[:, :, :3]
    drawn = picture(DRAWN[family]) / 255.0
    forget_cases()
    assert kept.shape == drawn.shape
    assert np.mean(np.abs(kept - drawn).max(axis=2) > 0.1) < 0.03
    assert DRAWN[family].id in pages.ids_of(family)
    assert f"({family}.png)" in pages.page(family)


def test_the_site_builds_without_warnings(tmp_path):
    for needed in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(needed, reason=f"{needed} builds the site; it is among the dev extras")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html",
         "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    for page in (*DOCS.glob("*.md"), *(DOCS / "environments").glob("*.md")):
        html = (tmp_path / "html" / page.relative_to(DOCS)).with_suffix(".html")
        assert html.stat().st_size > 5000
    assert "voxel_mask.png" in {p.name for p in (tmp_path / "html" / "_images").iterdir()}
