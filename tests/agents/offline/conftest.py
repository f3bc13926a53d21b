"""Datasets of tiny cases, recorded once a session."""

import json

import pytest

from agents.baselines.voxel_mask import RandomActions
from agents.environments import DoseShapingEnvironment
from agents.evaluation import Trials
from agents.offline.behaviors import Noisy, PlainRule
from agents.offline.collection import Collection
from agents.rl.first_policy import FirstPolicy
from engine.optimization.shaping_requests import VoxelRequest
from engine.optimization.shaping_session import ShapingSession

pytest.importorskip("minari")

TRIALS = Trials(budgets=(0.1, 0.2), n_samplings=1)
CASES = {
    "train": ["head-and-neck-00000", "head-and-neck-00001"],
    "validation": ["head-and-neck-10000"],
    "test": ["head-and-neck-20000"],
}
SHAPING = {
    "ct_spacing_mm": 6.0, "dose_grid_mm": 6.0, "gantry_deg": [0.0, 90.0, 180.0, 270.0],
    "bixel_mm": 8.0, "reach_mm": 25.0, "n_goals": 2, "start_evaluations": 10,
    "converged_evaluations": 40, "direct_evaluations": 25, "quality_evaluations": 10,
}  # fmt: skip


@pytest.fixture(scope="session")
def collection(environment):
    """``collection("medium", trials=…)``: a behavior of that quality on tiny cases."""
    behaviors = {
        "random": RandomActions(),
        "medium": Noisy(PlainRule(FirstPolicy(pull_exponent=0.5, work_share=1.0)), 0.1),
    }

    def made(quality="medium", cases=None, trials=TRIALS, **changes):
        return Collection(**{
            "environment": environment, "quality": quality, "behavior": behaviors[quality],
            "cases": cases or CASES, "trials": trials, "name": f"ptenv/tiny/{quality}-v0",
            "settings": {"made": "by hand"}, **changes,
        })  # fmt: skip

    return made


@pytest.fixture(scope="session")
def root(collection, tmp_path_factory):
    """A folder with the datasets of both qualities."""
    folder = tmp_path_factory.mktemp("datasets")
    for quality in ("random", "medium"):
        collection(quality).collect(folder)
    return folder


@pytest.fixture(scope="session")
def shaping_environment():
    return DoseShapingEnvironment(recipe=SHAPING, n_patients=2)


@pytest.fixture(scope="session")
def shaped(shaping_environment):
    """``shaped(path, case)`` writes what `ptenv shape` would: a dose shaped by hand."""

    def write(path, case="head-and-neck-00000", requests=2, goals=0):
        env = shaping_environment.make(case=case, goals=goals, action="point")
        env.reset()
        state = env.unwrapped.state
        shaper = state.case.shaper(goals, env.unwrapped.task.recovery)
        session = ShapingSession(shaper, state.case.scene, state.case.start_weights[goals])
        for _ in range(requests):
            hottest = state.case.scene.points_mm[session.dose_gy.argmax()]
            session.request(VoxelRequest(tuple(map(float, hottest)),
                                         0.95 * float(session.dose_gy.max())))  # fmt: skip
        settings = {**env.spec.kwargs, "case": case, "goals": goals}
        record = {
            "environment": {"id": shaping_environment.id, "settings": settings},
            "case_key": state.case.key, "requests": session.record,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, default=float))
        return path

    return write
