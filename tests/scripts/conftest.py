"""Tiny cases in a cache of their own for the commands that play."""

import pytest

from ptenv.cases.library import forget_cases

TINY = ("ct_spacing_mm: 6, dose_grid_mm: 6, spot_spacing_mm: 9, n_anchor_masks: 3, "
        "converged_evaluations: 60, quality_evaluations: 20")  # fmt: skip


@pytest.fixture(scope="session")
def tiny_cases(tmp_path_factory):
    """Overrides that make cases of less than half a second, and the cache that keeps them."""
    folder = tmp_path_factory.mktemp("script_cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTENV_CACHE", str(folder))
        forget_cases()
        yield (f"env.recipe={{{TINY}}}", "workers=1")
        forget_cases()
