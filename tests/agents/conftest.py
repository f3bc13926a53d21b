"""Tiny cases in a cache of their own, shared by the tests of a session."""

import pytest

from agents.environments import Environment
from ptenv.cases.library import forget_cases

TINY = {  # less than half a second a case
    "ct_spacing_mm": 6.0, "dose_grid_mm": 6.0, "spot_spacing_mm": 9.0, "n_anchor_masks": 3,
    "converged_evaluations": 60, "quality_evaluations": 20,
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def case_cache(tmp_path_factory):
    """The folder of this session's case cache."""
    folder = tmp_path_factory.mktemp("agent_cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTENV_CACHE", str(folder))
        forget_cases()
        yield folder
        forget_cases()


@pytest.fixture(scope="session")
def environment():
    """The mini id with tiny cases and a pool of two training patients."""
    return Environment(recipe=TINY, n_patients=2)
