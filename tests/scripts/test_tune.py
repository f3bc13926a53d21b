"""``ptenv tune``: Ray Tune stops slow trials, and a search that was killed goes on."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from agents.rl.checkpoints import last_checkpoint
from scripts import cli, tune
from scripts.tune import NEVER, domain, name_of, searcher, successive_halving, trials_part

pytest.importorskip("ray", reason="needs ptenv[ray]")
ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "env.n_patients=2", "schedule.n_envs=1", "schedule.processes=false", "schedule.curve_every=16",
    "schedule.n_steps=480", "schedule.checkpoint_every=32", "agent.algorithm.n_steps=32",
    "agent.algorithm.batch_size=32", "n_cases=1", "trials.n_samplings=1", "trials.budgets=[0.1]",
    "tune.n_trials=2", "tune.report_every=16", "tune.early_stopping.grace_period=32",
)  # fmt: skip


def test_a_killed_search_goes_on(tiny_cases, tmp_path, monkeypatch):
    """The first trial that ended is not repeated, one that ran goes on from its checkpoint."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    folder = tmp_path / "search"
    call = ["tune", *tiny_cases, *QUICK, f"output={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *call], cwd=ROOT, env=os.environ.copy(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(lambda: any(_is_under_way(trial) for trial in _trials(folder)), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(3.0)  # Ray's processes end by themselves
    done = {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/result.json")}
    stopped = [trial.name for trial in _trials(folder) if _is_under_way(trial)]

    assert cli.main(call) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    states = {row["trial"]: row["state"] for row in rows}
    assert set(states.values()) <= {"finished", "stopped early"}
    went_on = [name for name in stopped if _n_starts(folder / "trials" / name) > 1]
    assert went_on or all(states[name] == "stopped early" for name in stopped)
    for row in rows:
        assert (row["state"] == "finished") == bool(row["score"])
        assert math.isfinite(float(row["training_score"]))

    best = OmegaConf.load(folder / "best.yaml")
    assert best.score == max(float(row["score"]) for row in rows if row["score"])
    config = OmegaConf.load(folder / "best_config.yaml")
    for key, value in best.overrides.items():
        assert float(OmegaConf.select(config, key)) == float(value)
    assert json.loads((folder / "results.json").read_text())[0]["trial"] == best.trial
    record = json.loads((folder / "record.json").read_text())
    assert record["packages"]["ray"] == version("ray")
    assert record["seeds"] == {"seed": 0, "trials.seed": 0, "tune.seed": 0}

    assert cli.main([*call, "schedule.n_steps=64"]) == 2  # another search


def _n_starts(trial: Path) -> int:
    """How often training began or went on: each has a csv file."""
    return len(list((trial / "log").iterdir()))


def _trials(folder: Path) -> list[Path]:
    return sorted(folder.glob("trials/*"))


def _is_under_way(trial: Path) -> bool:
    """Trained beyond the grace period, and not at its end."""
    last, ended = last_checkpoint(trial / "checkpoints"), (trial / "result.json").exists()
    return last is not None and last.name > "step_000000064" and not ended


def _wait_for(condition, process, seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the search ended by itself"
        assert time.monotonic() < until, "no trial came so far"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "text, low, high, kind",
    [
        ("interval(0.5,2.0)", 0.5, 2.0, float),
        ("tag(log, interval(1e-4, 1e-2))", 1e-4, 1e-2, float),
        ("int(interval(2,5))", 2, 5, int),
        ("tag(log, int(interval(1, 1000)))", 1, 1000, int),
    ],
)
def test_intervals_are_drawn_from_as_hydra_writes_them(text, low, high, kind):
    drawn = domain("a", text).sample(size=500)
    assert min(drawn) >= low
    assert max(drawn) <= high
    assert all(isinstance(float(value), float) and kind(value) == value for value in drawn)
    middle = math.sqrt(low * high) if "log" in text else (low + high) / 2
    below = sum(value < middle for value in drawn) / len(drawn)
    assert 0.35 < below < 0.65


def test_both_ends_of_a_whole_numbered_interval_are_drawn():
    assert set(domain("a", "int(interval(2,5))").sample(size=300)) == {2, 3, 4, 5}


def test_choices_and_ranges_are_drawn_from():
    assert set(domain("agent", "choice(ppo,sac)").sample(size=50)) == {"ppo", "sac"}
    assert set(domain("a", "range(1,4)").sample(size=100)) == {"1", "2", "3"}


def test_what_is_no_sweep_is_refused():
    with pytest.raises(ValueError, match="a=3, which is no sweep"):
        domain("a", "3")


def test_a_trial_is_named_by_its_settings_alone():
    assert name_of({"a": 1, "b": 2}) == name_of({"b": 2, "a": 1})
    assert name_of({"a": 1, "b": 2}) != name_of({"a": 1, "b": 3})


def test_trials_get_the_overrides_of_training():
    given = ["agent=sac", "space=sac", "tune.n_trials=3", "output=x", "+env.a=1", "~env.tune"]
    assert trials_part(given) == ["agent=sac", "+env.a=1", "~env.tune"]


def test_the_worse_half_is_stopped_at_a_rung_and_the_last_step_stops_nobody():
    from ray.tune.schedulers import TrialScheduler

    class Trial:
        def __init__(self, name):
            self.trial_id = name

    asha = successive_halving(grace_period=10, reduction_factor=2)
    said = []
    for name, score in (("a", 0.5), ("b", 0.1), ("c", 0.9)):
        asha.on_trial_add(None, Trial(name))
        figures = {"n_steps": 10, "training_score": score}
        said.append(asha.on_trial_result(None, Trial(name), figures))
    assert said == [TrialScheduler.CONTINUE, TrialScheduler.STOP, TrialScheduler.CONTINUE]
    last = asha.on_trial_result(None, Trial("c"), {"n_steps": 10**9, "training_score": 0.9})
    assert last == TrialScheduler.CONTINUE
    assert NEVER > 10**12


def test_searchers_are_chosen_by_name(monkeypatch):
    assert searcher("random", 0) is not None
    with pytest.raises(ValueError, match="choose random or optuna"):
        searcher("grid", 0)
    monkeypatch.setattr("scripts.tune._installed", lambda package: "2.10.1")
    with pytest.raises(ValueError, match="needs optuna>=3"):
        searcher("optuna", 0)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["split=test"], "split=test: tune chooses settings"),
        (["-m", "seed=0,1"], "no -m"),
        (["tune.searcher=grid"], "choose random or optuna"),
        (["tune.n_trial=3"], "tune.n_trials"),
        (["space=pop"], "Did you mean `space=ppo`?"),
    ],
)
def test_a_wrong_search_is_refused(tmp_path, capsys, wrong, said):
    assert cli.main(["tune", *wrong, f"output={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "trials").exists()


class Stopped(Exception):
    """As a scheduler stops a trial: between two of its reports."""


def test_where_all_trials_were_stopped_early_the_one_that_learned_best_is_brought_to_its_end(
    tiny_cases, tmp_path, monkeypatch
):
    call = [*tiny_cases, *QUICK, "schedule.n_steps=96"]
    learned = {}

    def train_some(folder, settings):
        def tell(n_steps, score):
            if n_steps >= 64:
                learned[name_of(settings)] = score
                raise Stopped

        with pytest.raises(Stopped):
            tune._train_trial(trials_part(call), folder, settings, tell)

    def search(cfg, folder):
        for learning_rate in (0.001, 0.002):
            settings = {"agent.algorithm.learning_rate": learning_rate}
            train_some(folder, settings)
            yield SimpleNamespace(config=settings, error=None)

    monkeypatch.setattr(tune, "_search", search)
    assert cli.main(["tune", *call, f"output={tmp_path}"]) == 0
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    best = max(learned, key=learned.get)
    assert {name: row["state"] for name, row in rows.items()} == {
        name: "finished" if name == best else "stopped early" for name in learned
    }
    assert rows[best]["score"]


def test_trials_that_failed_are_not_brought_to_an_end(tmp_path):
    rows = [{"state": "failed", "training_score": 0.3}]
    assert tune._finish_best([SimpleNamespace(config={}, error="why")], rows, tmp_path) == rows
