"""``ptenv train`` from the command line to its folder, also after a kill."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.rl.checkpoints import last_checkpoint, steps_of
from agents.voxel_mask_judge import COLUMNS
from scripts import cli

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".lock", "agent", "checkpoints", "config.yaml", "episodes.csv", "episodes.jsonl",
    "learning_curve.csv", "learning_curve.png", "log", "pictures", "record.json", "result.json",
    "scores.csv", "scores.txt",
}  # fmt: skip
QUICK = (
    "env.n_patients=2", "schedule.n_envs=1", "schedule.processes=false", "schedule.curve_every=16",
    "schedule.n_steps=64", "schedule.checkpoint_every=32", "agent.algorithm.n_steps=32",
    "agent.algorithm.batch_size=32", "n_cases=1", "trials.n_samplings=1", "trials.budgets=[0.1]",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_cases):
    folder = tmp_path_factory.mktemp("train") / "here"
    assert cli.main(["train", *tiny_cases, *QUICK, f"output={folder}"]) == 0
    return folder


def test_a_run_leaves_its_files(trained):
    assert {path.name for path in trained.iterdir()} == FILES
    assert [p.name for p in (trained / "pictures").iterdir()] == ["head-and-neck-10000.png"]


def test_the_table_names_the_agent_beside_the_baselines(trained):
    said = (trained / "scores.txt").read_text()
    baselines = ("keep-all @ 100", "random", "uniform", "violation_driven", "keep_all")
    for name in ("trained agent", *baselines):
        assert name in said
    assert all(title in said for title in COLUMNS.values())


def test_scores_are_written_as_a_table(trained):
    with (trained / "scores.csv").open(newline="") as file:
        rows = {row["agent"]: row for row in csv.DictReader(file)}
    assert float(rows["keep-all @ 100"]["score"]) == 1.0
    assert -1.0 <= float(rows["trained agent"]["score"]) <= 1.5


def test_the_agent_can_be_evaluated(trained, tmp_path, tiny_cases, capsys):
    play = ("n_cases=1", "trials.n_samplings=1", "trials.budgets=[0.1]")
    output = f"output={tmp_path}"
    assert cli.main(["evaluate", *tiny_cases, *play, f"agents=[{trained}]", output]) == 0
    assert "here" in capsys.readouterr().out
    assert (tmp_path / "pictures" / "head-and-neck-10000.png").exists()


def test_a_killed_run_goes_on(tmp_path, tiny_cases, capsys):
    folder = tmp_path / "killed"
    call = ["train", *tiny_cases, *QUICK, f"output={folder}"]
    long = [*call, "schedule.n_steps=512"]
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *long], cwd=ROOT, env=os.environ.copy(),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(lambda: last_checkpoint(folder / "checkpoints"), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = steps_of(last_checkpoint(folder / "checkpoints"))
    assert done < 512
    assert cli.main([*call, "schedule.n_steps=64"]) == 2
    assert "was begun for 512" in capsys.readouterr().err
    assert cli.main(long) == 0
    assert (folder / "log" / f"progress_{done:07d}.csv").exists()
    assert steps_of(folder / "agent") >= 512


def _wait_for(condition, process, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.05)


def test_another_agent_is_refused_in_a_used_folder(trained, tiny_cases, capsys):
    call = ["train", *tiny_cases, *QUICK, f"output={trained}"]
    assert cli.main([*call, "agent.algorithm.learning_rate=0.1"]) == 2
    assert "begun with another agent" in capsys.readouterr().err
    assert cli.main([*call, "resume=never"]) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("agent=pop", "Did you mean `agent=ppo`?"),
        ("agent.algorithm.learning_rat=1", "agent.algorithm.learning_rate"),
        ("schedule.steps=5", "schedule.n_steps"),
        ("resume=perhaps", "choose auto or never"),
        ("env.action=jump", "action='jump' is unknown"),
        ("split=exam", "split='exam' is unknown"),
        ("n_cases=0", "n_patients=0"),
        ("cases=[pt_1]", "case='pt_1' is unknown"),
        ("trials.budgets=[0.07]", "budget=0.07"),
        ("schedule.n_steps=0", "n_steps=0 must be at least 1"),
        ("agent.first.keep_rate=2", "keep_rate=2 must lie in"),
    ],
)
def test_a_wrong_call_is_refused(tmp_path, tiny_cases, capsys, wrong, said):
    assert cli.main(["train", *tiny_cases, *QUICK, f"output={tmp_path}", wrong]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
