"""``ptenv shape`` from case to episode: what is served is the environment's, and plays again."""

import json

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="the page of dose shaping needs bokeh")

from agents.environments import DoseShapingEnvironment  # noqa: E402
from engine.optimization.shaping_requests import VoxelRequest  # noqa: E402
from ptenv.envs.dose_shaping_demonstrations import (  # noqa: E402
    demonstration,
    recorded_environment,
)  # fmt: skip
from scripts import shape  # noqa: E402
from scripts.configuration import composed  # noqa: E402

RECIPE = {
    "ct_spacing_mm": 6.0, "dose_grid_mm": 6.0, "gantry_deg": [0.0, 120.0, 240.0],
    "bixel_mm": 8.0, "reach_mm": 25.0, "n_goals": 2, "start_evaluations": 10,
    "converged_evaluations": 20, "direct_evaluations": 10, "quality_evaluations": 5,
}  # fmt: skip


class Visitor:
    """In the server's place: makes one request, then leaves."""

    def __init__(self, session, view, record_path, about):
        view.check(session.scene)
        self.session, self.path, self.about = session, record_path, about

    def start(self, port):
        return f"http://127.0.0.1:{port}/"

    def wait(self):
        row = int(np.argmax(self.session.dose_gy))
        at = tuple(float(c) for c in self.session.scene.points_mm[row])
        self.session.request(VoxelRequest(at, 0.9 * float(self.session.dose_gy[row])))
        record = {**self.about, "requests": self.session.record}
        self.path.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shape, "output_folder", lambda: tmp_path)
    monkeypatch.setattr(shape, "save_record", lambda cfg, folder: None)
    monkeypatch.setattr(shape, "ShapeServer", Visitor)
    case = "case=head-and-neck-10001"
    overrides = ["env=dose_shaping_mini", case, "open_browser=false", "port=1"]
    config = composed("shape", overrides)
    config.env.recipe = RECIPE
    return config


def test_a_session_ends_with_an_episode_a_picture_and_the_plan_s_worth(cfg, tmp_path, capsys):
    worth = shape.run(cfg)
    assert (tmp_path / "plan.png").stat().st_size > 1000
    assert "127.0.0.1" in capsys.readouterr().out
    env, requests = recorded_environment(tmp_path / shape.EPISODE)
    examples = demonstration(env, requests)
    assert len(examples) == 1
    assert examples[0].info["objective"] == pytest.approx(worth)


def test_the_page_draws_targets_first_and_organs(cfg):
    player = DoseShapingEnvironment(recipe=dict(RECIPE)).make(case="head-and-neck-10001").unwrapped
    player.reset(seed=0)
    view = shape.view_of(player.state)
    assert next(iter(view.masks)) == player.state.case.targets[0]
    assert "zRing" not in view.masks
    assert view.prescription_gy == player.state.case.prescription_gy
    session = shape.session_of(player)
    np.testing.assert_array_equal(session.plan.weights, player.state.plan.weights)
