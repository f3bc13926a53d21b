"""Small cases in a cache of their own: built once a session, the user's cache is left alone."""

import pytest

from ptenv.cases.build import build_case
from ptenv.cases.library import forget_cases
from ptenv.cases.recipe import VoxelMaskRecipe

SMALL = {  # a tenth of a second a case
    "ct_spacing_mm": 5.0, "target_volume_cm3": [6.0, 10.0], "dose_grid_mm": 5.0,
    "gantry_deg": [60.0, 300.0], "spot_spacing_mm": 8.0, "layer_spacing_mm": 8.0,
    "lateral_margin_mm": 4.0, "ring_mm": 8.0, "lateral_cutoff": 0.02, "budgets": [0.1, 1.0],
    "n_anchor_masks": 3, "converged_evaluations": 300, "quality_evaluations": 20,
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def case_cache(tmp_path_factory):
    """The folder of this session's case cache."""
    folder = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTENV_CACHE", str(folder))
        yield folder
        forget_cases()


@pytest.fixture(scope="session")
def small():
    """Recipe settings of small cases; a copy may be changed."""
    return SMALL


@pytest.fixture(scope="session")
def recipe(small):
    """Recipe of a small case: three target levels and organs that they touch."""
    return VoxelMaskRecipe(patient="head-and-neck-00001", **{**small, "level": "L3"})


@pytest.fixture(scope="session")
def case(recipe):
    return build_case(recipe)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder for one test, and a process that remembers no case."""
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path / "cache"))
    forget_cases()
    yield tmp_path / "cache"
    forget_cases()
