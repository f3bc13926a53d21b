"""Sweeps of ``ptenv train -m``: killed in the middle, they go on with the same output."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from omegaconf import OmegaConf

from agents.rl.checkpoints import last_checkpoint
from scripts import cli
from scripts.configuration import composed
from scripts.resume import finish, finished_score, only_run_in

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "env.n_patients=2", "schedule.n_envs=1", "schedule.processes=false", "schedule.curve_every=16",
    "schedule.n_steps=192", "schedule.checkpoint_every=32", "agent.algorithm.n_steps=32",
    "agent.algorithm.batch_size=32", "n_cases=1", "trials.n_samplings=1", "trials.budgets=[0.1]",
)  # fmt: skip
SEARCH = ("hydra/sweeper=optuna", "space=ppo", "hydra.sweeper.n_trials=2")
needs_optuna = pytest.mark.skipif(
    not find_spec("hydra_plugins.hydra_optuna_sweeper"), reason="needs ptenv[sweep]: Optuna"
)
needs_submitit = pytest.mark.skipif(
    not find_spec("hydra_plugins.hydra_submitit_launcher"), reason="needs ptenv[sweep]: submitit"
)
needs_ray = pytest.mark.skipif(
    not (find_spec("ray") and find_spec("hydra_plugins.hydra_ray_launcher")),
    reason="needs ptenv[ray] and hydra-ray-launcher",
)


@pytest.fixture
def sweep(tiny_cases, tmp_path):
    """The call of a sweep over tiny cases, into a folder of its own."""
    return ["train", "-m", *tiny_cases, *QUICK, f"output={tmp_path / 'sweep'}"]


def _killed_when(condition, call) -> None:
    """Start a call, and kill it as soon as the condition holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *call], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 600.0
    try:
        while not condition():
            assert process.poll() is None, "the sweep ended by itself"
            assert time.monotonic() < until, "the sweep never came so far"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _kill_all_that_name(folder: Path) -> None:
    """Kill the jobs that a killed sweep left: processes with its folder in their command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_text().replace("\0", " "):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # ended meanwhile
            continue


def _logs(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "log").iterdir())


def test_a_killed_sweep_skips_what_is_done_and_goes_on_in_what_is_not(sweep, tmp_path):
    folder, call = tmp_path / "sweep", [*sweep, "seed=0,1"]
    _killed_when(lambda: last_checkpoint(folder / "1" / "checkpoints"), call)
    done = (folder / "0" / "result.json").stat().st_mtime_ns
    assert not (folder / "1" / "result.json").exists()
    assert cli.main(call) == 0
    assert (folder / "0" / "result.json").stat().st_mtime_ns == done
    assert len(_logs(folder / "0")) == 1
    assert len(_logs(folder / "1")) == 2
    record = json.loads((folder / "1" / "record.json").read_text())
    assert record["seeds"] == {"seed": 1, "trials.seed": 0}
    assert "seed=1" in record["overrides"]
    assert {"commit", "dirty"} == set(record["revision"])
    assert record["packages"]["optuna"] or not find_spec("optuna")


@needs_optuna
def test_a_killed_search_counts_its_trials_and_goes_on_in_the_one_that_ran(sweep, tmp_path):
    folder, call = tmp_path / "sweep", [*sweep, *SEARCH]
    _killed_when(lambda: last_checkpoint(folder / "1" / "checkpoints"), call)
    before = OmegaConf.load(folder / "1" / "config.yaml")
    assert cli.main(call) == 0
    after = OmegaConf.load(folder / "1" / "config.yaml")
    assert before.agent == after.agent
    assert [len(_logs(folder / n)) for n in "01"] == [1, 2]
    with (folder / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert [t["state"] for t in trials] == ["complete"] * 2
    kept = [json.loads((folder / n / "result.json").read_text())["score"] for n in "01"]
    assert [float(t["score"]) for t in trials] == kept
    best = OmegaConf.load(folder / "best.yaml")
    assert best.score == max(kept)
    assert not (folder / "2").exists()


def test_another_search_in_a_used_folder_is_refused(tmp_path, capsys):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    study = _study(tmp_path, 1)
    study.sweep(["a=interval(0,1)", "b=1"])
    from scripts.configuration import WrongCall

    with pytest.raises(WrongCall, match="another setting of b: 1, now 2"):
        _study(tmp_path, 1).sweep(["a=interval(0,1)", "b=2"])
    with pytest.raises(WrongCall, match="another search space of a"):
        _study(tmp_path, 1).sweep(["a=interval(0,2)", "b=1"])


class Launcher:
    """Runs jobs by a formula; is stopped in the middle of one of them, if so wished."""

    def __init__(self, stopped_in: int | None = None):
        self.stopped_in, self.launched = stopped_in, []

    def launch(self, overrides, initial_job_idx):
        jobs = []
        for number, of in enumerate(overrides, start=initial_job_idx):
            self.launched.append((number, tuple(sorted(of))))
            if number == self.stopped_in:
                raise KeyboardInterrupt
            values = dict(pair.split("=") for pair in of)
            jobs.append(SimpleNamespace(return_value=-((float(values["a"]) - 0.3) ** 2)))
        return jobs


def _study(folder: Path, n_trials: int, launcher=None, n_jobs: int = 1, max_failures: int = 0):
    import optuna

    from hydra_plugins.ptenv_optuna._study import ResumedStudy

    folder.mkdir(parents=True, exist_ok=True)
    sampler = partial(optuna.samplers.TPESampler, n_startup_trials=3)
    study = ResumedStudy(
        sampler, 0, "maximize", f"sqlite:///{folder}/study.db", "test", n_trials, n_jobs,
        max_failures, None,
    )  # fmt: skip
    study.launcher, study.sweep_dir, study.config = launcher or Launcher(), str(folder), None
    return study


@needs_optuna
def test_a_search_that_was_stopped_suggests_what_it_would_have_suggested(tmp_path):
    arguments = ["a=interval(0.0,1.0)", "b=choice(x,y)", "c=1"]
    whole, first, second = Launcher(), Launcher(stopped_in=4), Launcher()
    _study(tmp_path / "whole", 7, whole).sweep(arguments)
    with pytest.raises(KeyboardInterrupt):
        _study(tmp_path / "parts", 7, first).sweep(arguments)
    _study(tmp_path / "parts", 7, second).sweep(arguments)
    assert first.launched[:4] + second.launched == whole.launched
    assert [number for number, _ in second.launched] == [4, 5, 6]
    suggested = [of for _, of in whole.launched]
    assert len(set(suggested)) == 7


@needs_optuna
def test_a_batch_that_was_stopped_runs_again_in_its_folders(tmp_path):
    first, second = Launcher(stopped_in=3), Launcher()
    with pytest.raises(KeyboardInterrupt):
        _study(tmp_path, 5, first, n_jobs=2).sweep(["a=interval(0.0,1.0)"])
    _study(tmp_path, 5, second, n_jobs=2).sweep(["a=interval(0.0,1.0)"])
    assert second.launched[:2] == first.launched[2:4]
    assert [number for number, _ in second.launched] == [2, 3, 4]


@needs_optuna
def test_trials_without_a_score_are_failed_and_too_many_end_the_search(tmp_path, capsys):
    class Diverges(Launcher):
        def launch(self, overrides, initial_job_idx):
            return [SimpleNamespace(return_value=float("nan")) for _ in overrides]

    _study(tmp_path / "few", 2, Diverges(), max_failures=2).sweep(["a=interval(0.0,1.0)"])
    assert "No trial ended with a score" in capsys.readouterr().out
    with pytest.raises(ValueError, match="the score is nan"):
        _study(tmp_path / "many", 3, Diverges(), max_failures=1).sweep(["a=interval(0.0,1.0)"])


@needs_submitit
def test_a_killed_sweep_of_submitit_goes_on(sweep, tmp_path):
    folder = tmp_path / "sweep"
    call = [*sweep, "hydra/launcher=submitit_local", "seed=3"]
    _killed_when(lambda: last_checkpoint(folder / "0" / "checkpoints"), call)
    _kill_all_that_name(folder)  # its jobs are processes of their own, and live on
    assert not (folder / "0" / "result.json").exists()
    assert cli.main(call) == 0
    assert len(_logs(folder / "0")) == 2
    assert finished_score(OmegaConf.load(folder / "0" / "config.yaml"), folder / "0") is not None


@needs_submitit
def test_slurm_gets_an_array_job_that_is_queued_again(sweep, tmp_path, monkeypatch, capsys):
    """A stand-in for SLURM keeps what submitit would submit."""
    programs, kept = tmp_path / "bin", tmp_path / "submitted.sh"
    programs.mkdir()
    for name, text in {"srun": "exit 0", "sbatch": f'cp "${{@: -1}}" {kept}; exit 1'}.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    call = [*sweep, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=day", "seed=0,1,2"]
    assert cli.main(call) != 0
    flags = {line.removeprefix("#SBATCH --") for line in kept.read_text().splitlines()}
    wanted = {"array=0-2%3", "requeue", "partition=day", "time=240", "cpus-per-task=4", "mem=16GB"}
    assert wanted <= flags
    assert any(flag.startswith("signal=") and flag.endswith("@120") for flag in flags)


@pytest.fixture
def cluster(tiny_cases, monkeypatch):
    """The address of a Ray cluster of two nodes, each some processes of this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 10**8}
    nodes = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        nodes.add_node(**small)
        nodes.wait_for_nodes()
        yield nodes.address
    finally:
        ray.shutdown()
        nodes.shutdown()


@needs_ray
def test_a_killed_sweep_on_two_nodes_of_ray_goes_on(sweep, cluster, tmp_path):
    folder = tmp_path / "sweep"
    call = [*sweep, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster}", "seed=0,1",
            "schedule.n_steps=320"]  # fmt: skip
    both = [folder / n / "checkpoints" for n in "01"]
    _killed_when(lambda: all(last_checkpoint(path) for path in both), call)
    assert cli.main(call) == 0
    assert max(len(_logs(folder / n)) for n in "01") == 2
    for n in "01":
        assert finished_score(OmegaConf.load(folder / n / "config.yaml"), folder / n) is not None


def test_a_folder_is_waited_for_while_another_process_works_in_it(tmp_path, capfd):
    text = (
        "import sys, time; from pathlib import Path; from scripts.resume import only_run_in\n"
        f"with only_run_in(Path({str(tmp_path)!r})): print('in', flush=True); time.sleep(1)"
    )
    other = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE)
    other.stdout.readline()
    began = time.monotonic()
    with only_run_in(tmp_path):
        waited = time.monotonic() - began
    other.wait()
    assert waited > 0.5
    assert "Another process works" in capfd.readouterr().out


def test_a_run_is_done_only_for_the_configuration_it_ended_with(tmp_path):
    cfg = OmegaConf.create({"seed": 0, "output": "a", "workers": 1})
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    assert finished_score(cfg, tmp_path) is None
    finish(tmp_path, 0.5)
    assert finished_score(OmegaConf.merge(cfg, {"output": "b", "workers": 2}), tmp_path) == 0.5
    assert finished_score(OmegaConf.merge(cfg, {"seed": 1}), tmp_path) is None


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["split=test", "seed=0,1"], "split=test cannot choose settings"),
        (["split=validation,test"], "split=test cannot choose settings"),
        (["space=ppo"], "is an interval, which only a search can draw from"),
        (["hydra/sweeper=optun"], "Did you mean `hydra/sweeper=optuna`?"),
        (["hydra/launcher=slurm"], "choose from ray, submitit_local, submitit_slurm"),
    ],
)
def test_a_wrong_sweep_is_refused_before_it_runs(tmp_path, capsys, wrong, said):
    assert cli.main(["train", "-m", f"output={tmp_path}", *wrong]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@needs_optuna
@pytest.mark.parametrize(
    "wrong, said",
    [
        (["space=pop"], "Did you mean"),
        (["hydra.sweeper.n_trial=3"], "hydra.sweeper.n_trial"),
        (["agent.algorithm.learning_rat=interval(0,1)"], "agent.algorithm.learning_rate"),
        (["hydra.sweeper.params={agent.algorithm.gama: 'choice(0,1)'}"], "agent.algorithm.gamma"),
        (["space=ppo", "agent=sac"], "is no key of this command"),
        ([], "has nothing to search"),
    ],
)
def test_a_wrong_search_is_refused_before_it_runs(tmp_path, capsys, wrong, said):
    call = ["train", "-m", "hydra/sweeper=optuna", f"output={tmp_path}", *wrong]
    assert cli.main(call) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "0").exists()


def test_test_cases_by_name_cannot_choose_settings(sweep, tmp_path, capsys):
    call = [*sweep, "cases=[head-and-neck-20003]", "seed=0,1"]
    assert cli.main(call) == 2
    assert "head-and-neck-20003 of split=test cannot choose settings" in capsys.readouterr().err
    assert not (tmp_path / "sweep" / "0" / "checkpoints").exists()


@pytest.mark.parametrize("space", sorted(p.stem for p in (ROOT / "conf" / "space").glob("*.yaml")))
def test_every_search_space_names_keys_of_its_agent(space):
    agent = composed("train", [f"agent={space}"])
    for key in OmegaConf.load(ROOT / "conf" / "space" / f"{space}.yaml"):
        assert OmegaConf.select(agent, key) is not None


def test_the_sweep_of_weights_and_biases_calls_what_exists(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    sweep = yaml.safe_load((ROOT / "sweeps" / "wandb_ppo.yaml").read_text())
    fixed = [word for word in sweep["command"][2:] if word != "${args_no_hyphens}"]
    values = {k: v["values"][0] if "values" in v else v["min"]
              for k, v in sweep["parameters"].items()}  # fmt: skip
    low = [f"{key}={value}" for key, value in values.items()]
    cfg = composed("train", [*fixed, *low])
    assert cfg.output == "outputs/wandb/abc123"
    assert cfg.logger.mode == "online"
    assert cfg.agent.algorithm.learning_rate == 3.0e-4
