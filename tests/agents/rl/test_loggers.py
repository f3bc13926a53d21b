"""Weights & Biases offline: what a run leaves, and that a run that goes on keeps its id."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from stable_baselines3 import PPO

from agents.rl.first_policy import FirstPolicy
from agents.rl.learner import Learner
from agents.rl.loggers import tensorboard_logger
from agents.rl.training import Schedule, train
from engine.evaluation.dvh import Dvh

wandb = pytest.importorskip("wandb")
from agents.rl.wandb_logger import RUN_ID, WandbLogger, dvh_curves  # noqa: E402

PPO_TINY = partial(PPO, policy="MlpPolicy", n_steps=32, batch_size=32, n_epochs=2, device="cpu")
LEARNER = Learner(PPO_TINY, FirstPolicy())
SCHEDULE = Schedule(n_steps=64, n_envs=1, processes=False, checkpoint_every=32, curve_every=16)
HISTOGRAMS = {
    "case-1": {"PTV": Dvh(np.array([59.0, 60.0, 61.0]), np.ones(3)),
               "Cord": Dvh(np.array([5.0, 20.0]), np.ones(2))},
}  # fmt: skip


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A run's folder with its configuration and one picture, in a sweep; W&B without an account."""
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "my_sweep" / "0"
    (folder / "pictures").mkdir(parents=True)
    (folder.parent / "multirun.yaml").write_text("a: 1\n")
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 7, "agent": {"rate": 0.5}}))
    (folder / "record.json").write_text(json.dumps({"revision": {"commit": "abc", "dirty": True}}))
    _picture(folder / "pictures" / "case-1.png")
    return folder


def _picture(path: Path) -> None:
    from matplotlib.figure import Figure

    Figure(figsize=(1, 1)).savefig(path)


class RecordedRun:
    """What a logger hands to W&B."""

    def __init__(self):
        self.logged, self.summary, self.finished, self.metrics = [], {}, 0, []

    def log(self, values):
        self.logged.append(values)

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def finish(self):
        self.finished += 1


@pytest.fixture
def begun(monkeypatch):
    """Runs as they are begun: their arguments and what is logged to them."""
    runs = []

    def init(**arguments):
        runs.append(SimpleNamespace(arguments=arguments, run=RecordedRun()))
        return runs[-1].run

    monkeypatch.setattr(wandb, "init", init)
    return runs


def test_an_offline_run_leaves_numbers_pictures_and_histograms(environment, run_folder):
    logger = WandbLogger(tags=("tiny",))
    train(LEARNER, environment, SCHEDULE, run_folder, 0, logger)
    logger.show(run_folder, 0.25, HISTOGRAMS)
    parts = sorted((run_folder / "log" / "wandb").glob("offline-run-*"))
    run_id = (run_folder / "log" / RUN_ID).read_text().strip()
    assert len(parts) == 2
    assert all(part.name.endswith(run_id) for part in parts)
    raw = [next(part.glob("*.wandb")).read_bytes() for part in parts]
    assert all(word in raw[0] for word in (b"episode/score", b"n_steps", b"my_sweep", b"tiny"))
    assert all(word in raw[1] for word in (b"pictures/case-1", b"dvh/case-1", b"dvh/all"))
    assert list(parts[1].glob("files/media/images/pictures/case-1*.png"))
    table = json.loads(next(parts[1].glob("files/media/table/dvh/all*.json")).read_text())
    assert table["columns"] == ["case", "structure", "dose_gy", "volume_percent"]
    assert ["case-1", "PTV", 0.0, 100.0] in table["data"]


def test_a_run_that_goes_on_keeps_its_id_group_and_configuration(environment, run_folder, begun):
    logger = WandbLogger()
    train(LEARNER, environment, SCHEDULE, run_folder, 0, logger)
    train(LEARNER, environment, replace(SCHEDULE, n_steps=128), run_folder, 0, logger)
    logger.show(run_folder, 0.25, {})
    assert len(begun) == 3
    assert len({run.arguments["id"] for run in begun}) == 1
    for run in begun:
        assert run.arguments["resume"] == "allow"
        assert run.arguments["mode"] == "offline"
        assert run.arguments["group"] == "my_sweep"
        assert run.arguments["config"]["seed"] == 7
        assert run.arguments["config"]["record"]["revision"]["dirty"] is True
        assert run.run.finished == 1
    steps = [values["n_steps"] for run in begun[:2] for values in run.run.logged]
    assert steps == [32, 64, 96, 128]
    assert ("*", "n_steps") in begun[0].run.metrics


def test_the_result_is_shown_with_a_score_for_sweeps(run_folder, begun):
    WandbLogger(group="named", tags=("a", "b")).show(run_folder, 0.25, HISTOGRAMS)
    arguments, run = begun[0].arguments, begun[0].run
    assert arguments["group"] == "named"
    assert arguments["tags"] == ["a", "b"]
    shown = run.logged[0]
    assert shown["score"] == run.summary["score"] == 0.25
    assert isinstance(shown["pictures/case-1"], wandb.Image)
    assert isinstance(shown["dvh/all"], wandb.Table)
    assert {"dvh/case-1", "dvh/all", "score", "pictures/case-1"} == set(shown)


def test_the_run_of_an_agent_of_weights_and_biases_is_used(run_folder, begun, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "fromagent")
    WandbLogger()(run_folder / "log", 0).close()
    assert begun[0].arguments["id"] == "fromagent"
    monkeypatch.delenv("WANDB_RUN_ID")
    WandbLogger()(run_folder / "log", 64).close()
    assert begun[1].arguments["id"] == "fromagent"


def test_curves_of_histograms_fall_from_all_to_nothing():
    levels, curves = dvh_curves(HISTOGRAMS["case-1"])
    assert levels[0] == 0.0
    assert levels[-1] > 61.0
    for curve in curves.values():
        assert curve[0] == 100.0
        assert curve[-1] == 0.0
        assert np.all(np.diff(curve) <= 0)
    half = np.interp(60.0, levels, curves["PTV"])
    assert half == pytest.approx(50.0, abs=10.0)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="choose offline, online or disabled"):
        WandbLogger(mode="later")


def test_tensorboard_gets_event_files_beside_the_csv(tmp_path):
    log = tensorboard_logger(tmp_path, 32)
    log.record("episode/score", 0.5)
    log.dump(32)
    log.close()
    assert (tmp_path / "progress_0000032.csv").read_text().startswith("episode/score")
    assert list(tmp_path.glob("events.out.tfevents.*"))
