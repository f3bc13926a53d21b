"""``ptenv train agent=pnet`` from the command line to its folder, also after a kill."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import cli

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "agent=pnet", "env=voxel_mask_oneshot_mini", "env.n_patients=2", "agent.n_held_out=1",
    "agent.training.turns.n_epochs=2", "agent.training.turns.per_patient=2",
    "agent.training.channels=4", "agent.training.checkpoint_every=2", "n_cases=1",
    "trials.n_samplings=1", "trials.budgets=[0.1]",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_cases):
    folder = tmp_path_factory.mktemp("pnet") / "here"
    assert cli.main(["train", *tiny_cases, *QUICK, f"output={folder}"]) == 0
    return folder


def test_the_table_names_the_network_beside_the_baselines(trained):
    said = (trained / "scores.txt").read_text()
    assert all(name in said for name in ("trained agent", "uniform", "shells", "keep-all @ 100"))
    assert (trained / "learning_curve.png").exists()


def test_the_network_can_be_evaluated(trained, tmp_path, tiny_cases, capsys):
    play = ("n_cases=1", "trials.n_samplings=1", "trials.budgets=[0.1]")
    call = ["evaluate", *tiny_cases, *play, "env=voxel_mask_oneshot_mini", f"agents=[{trained}]"]
    assert cli.main([*call, f"output={tmp_path}"]) == 0
    assert "here" in capsys.readouterr().out


@pytest.mark.parametrize("setup", ["pnet_setup1", "pnet_policy"])
def test_every_setup_trains(tmp_path, tiny_cases, setup):
    quick = [f"agent={setup}", *QUICK[1:], "agent.training.turns.n_epochs=1"]
    assert cli.main(["train", *tiny_cases, *quick, f"output={tmp_path}"]) == 0


def test_a_killed_run_goes_on(tmp_path, tiny_cases):
    folder = tmp_path / "killed"
    call = ["train", *tiny_cases, *QUICK, "agent.training.turns.n_epochs=40", f"output={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *call], cwd=ROOT, env=os.environ.copy(),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120.0
    try:
        while not (folder / "agent" / "last.ckpt").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < until, "no checkpoint was written"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert cli.main(call) == 0
    with (folder / "agent" / "plans.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == list(range(1, 161))
    assert len(list((folder / "agent" / "log").glob("progress_*.csv"))) == 2


def test_another_network_is_refused_in_a_used_folder(trained, tiny_cases, capsys):
    call = ["train", *tiny_cases, *QUICK, f"output={trained}"]
    assert cli.main([*call, "agent.training.channels=8"]) == 2
    assert "begun with another agent" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("agent.training.loss.target.regulator=half", "regulator='half'"),
        ("agent.training.turns.per_patient=0", "per_patient=0"),
        ("agent.training.max_voxels=10", "max_voxels=10"),
        ("agent.held_out=[head-and-neck-00000]", "held out"),
        ("agent.cases=[pt_1]", "case='pt_1' is unknown"),
    ],
)
def test_a_wrong_call_is_refused(tmp_path, tiny_cases, capsys, wrong, said):
    assert cli.main(["train", *tiny_cases, *QUICK, f"output={tmp_path}", wrong]) == 2
    assert said in capsys.readouterr().err
