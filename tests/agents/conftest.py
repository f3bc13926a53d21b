"""Tiny cases in a cache of their own, shared by the tests of a session."""

import pytest

from agents.environments import EnergyLayerEnvironment, Environment
from ptenv.cases.library import forget_cases, load_case

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


ARC = {
    "ct_spacing_mm": 5.0, "dose_grid_mm": 7.0, "n_angles": 12, "n_layers": 14,
    "layer_spacing_mm": 8.0, "spot_spacing_mm": 9.0, "ring_mm": 8.0, "n_points": 150,
    "lateral_cutoff": 0.05, "evaluations": 6, "sketch_evaluations": 6, "bound_evaluations": 8,
    "sketch_rows": 200, "sketch_spacing_mm": 12.0, "limits": [1.1, 1.5],
}  # fmt: skip


@pytest.fixture(scope="session")
def arc_environment():
    """Energy layers on a small arc: ``arc_environment(layers_per_angle=2)``."""

    def made(**recipe):
        return EnergyLayerEnvironment(
            "ptenv/EnergyLayer-v0", site="nasopharynx", learn_on="proxy", n_patients=2,
            recipe={**ARC, **recipe},
        )  # fmt: skip

    return made


@pytest.fixture(scope="session")
def arc_case(arc_environment):
    """A case of that arc."""

    def loaded(name: str = "nasopharynx-00000", **recipe):
        return load_case(arc_environment(**recipe).make().unwrapped.case_recipe(name))

    return loaded
