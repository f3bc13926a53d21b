"""From an agent of one's own to a verdict, by the commands of the README."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ptenv.benchmark.records import RECORDS, read_records
from scripts import cli

OWN = '''
import numpy as np

env_ids = None


class MyAgent:
    """Half of every structure, all of the targets."""

    env_ids = ["ptenv/VoxelMask-mini-v0"]

    def predict(self, observation, deterministic=True):
        action = np.full(23, 0.3, np.float32)
        action[:6] = 1.0
        return action


class Thinker(MyAgent):
    def settings(self, budget):
        return {"oneshot": True}


class Mute:
    pass


class Nan(MyAgent):
    def predict(self, observation, deterministic=True):
        return np.full(23, np.nan, np.float32)


class Short(MyAgent):
    def predict(self, observation, deterministic=True):
        return np.zeros(3, np.float32)
'''


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_cases, tiny_suite_file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_agent.py").write_text(OWN)
    return f"suite={tiny_suite_file}"


def _said(capsys, *arguments) -> tuple[int, str]:
    code = cli.main(["benchmark", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out + captured.err


def test_an_agent_of_ones_own_runs_is_validated_and_goes_on(here, capsys):
    code, said = _said(capsys, "run", "my_agent.py:MyAgent", here, "name=mine", "workers=2")
    assert code == 0
    assert "not validated yet" in said
    records = read_records(Path("submissions/mine"))
    assert {r["task"] for r in records} == {"voxel-mask"}
    assert len(records) == 8
    code, said = _said(capsys, "validate", "submissions/mine", here, "reference=false", "workers=1")
    assert code == 0
    assert "mine (submissions/mine) holds: 8 episodes replayed" in said
    verdict = json.loads(Path("submissions/mine/validation.json").read_text())
    assert verdict["holds"]
    assert verdict["complete"]
    code, said = _said(capsys, "run", "my_agent.py:MyAgent", here, "name=mine", "workers=1")
    assert code == 0
    assert "0 episodes played, 8 were there" in said
    assert "not validated yet" not in said


def test_a_refused_submission_ends_with_a_reason_and_an_exit_code(here, capsys):
    _said(capsys, "run", "my_agent.py:MyAgent", here, "name=mine", "workers=1", "n_runs=1")
    path = Path("submissions/mine") / RECORDS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    code, said = _said(capsys, "validate", "submissions/mine", here, "reference=false", "workers=1")
    assert code == 1
    assert "mine (submissions/mine) is REFUSED:" in said
    assert "1 episodes are missing" in said
    assert not json.loads(Path("submissions/mine/validation.json").read_text())["holds"]


def test_baselines_play_the_tasks_of_their_family(here, capsys):
    code, _ = _said(capsys, "run", "heaviest_goal", here, "workers=1", "n_runs=1")
    assert code == 0
    assert {r["task"] for r in read_records(Path("submissions/heaviest_goal"))} == {"dose-shaping"}
    code, _ = _said(capsys, "run", "random", here, "workers=1", "n_runs=1")
    assert code == 0
    assert len({r["task"] for r in read_records(Path("submissions/random"))}) == 2


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nobody"], "no baseline, no FILE.py:NAME and no folder"),
        (["nowhere.py:Agent"], "no such file"),
        (["my_agent.py:Other"], "has no Other"),
        (["my_agent.py:Mute"], "no predict"),
        (["my_agent.py:Thinker"], "not the agent's"),
        (["my_agent.py:Nan"], "NaN"),
        (["my_agent.py:Short"], "action has shape (3,)"),
        (["random", "tasks=[chess]"], "chess"),
        (["random", "split=train"], "split='train'"),
        (["random", "n_runs=0"], "n_runs=0"),
        (["random", "name=a/b"], "must not hold"),
        (["random", "suite=maxi"], "suite='maxi'"),
        (["sawtooth"], "is meant for no task"),
    ],
)
def test_bad_calls_are_refused_with_what_to_do(here, capsys, arguments, said):
    given = any(word.startswith("suite=") for word in arguments)
    code, told = _said(capsys, "run", *arguments, *([] if given else [here]), "workers=1")
    assert code == 2
    assert said in told


def test_validate_refuses_what_is_no_submission(here, capsys):
    code, said = _said(capsys, "validate", "nowhere")
    assert code == 2
    assert "entry.json" in said


def test_a_command_of_two_words_is_listed_and_half_of_it_is_refused(here, capsys):
    assert cli.main(["--help"]) == 0
    assert "benchmark validate" in capsys.readouterr().out
    code, said = _said(capsys)
    assert code == 2
    code, said = _said(capsys, "valdate")
    assert code == 2
    assert "Did you mean `benchmark validate`?" in said


def test_a_killed_run_goes_on_where_it_was(here, tmp_path):
    arguments = ["benchmark", "run", "random", here, "tasks=[voxel-mask]", "n_runs=2", "workers=2"]
    command = [sys.executable, "-m", "scripts.cli", *arguments]
    root = Path(cli.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    path, deadline = tmp_path / "submissions" / "random" / RECORDS, time.monotonic() + 120
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    n_before = path.read_bytes().count(b"\n")
    assert 1 <= n_before
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{8 - n_before} episodes played, {n_before} were there" in again.stdout
    assert len(read_records(path)) == 8


def test_two_runs_of_one_submission_wait_for_each_other(here, tmp_path):
    command = [sys.executable, "-m", "scripts.cli", "benchmark", "run", "random", here,
               "tasks=[voxel-mask]", "n_runs=1", "workers=1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(2)]  # fmt: skip
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert len(read_records(tmp_path / "submissions" / "random")) == 4
    assert sum("4 episodes played, 0 were there" in text for text in said) == 1


def test_a_season_is_sealed_pledged_and_revealed(here, capsys, monkeypatch):
    suite = here.removeprefix("suite=")
    code, _ = _said(capsys, "seal", "name=spring", f"suite={suite}", "n_patients=2")
    assert code == 0
    assert os.stat("seasons/spring.secret").st_mode & 0o077 == 0
    code, said = _said(capsys, "seal", "name=spring", f"suite={suite}")
    assert code == 2
    assert "another name" in said
    pledge = ("pledge", "season=seasons/spring.json", "agents=random", "name=r")
    assert _said(capsys, *pledge)[0] == 0
    code, said = _said(capsys, *pledge)
    assert code == 2
    Path("wrong.secret").write_text("0" * 64)
    code, said = _said(capsys, "reveal", "season=seasons/spring.json", "secret=wrong.secret")
    assert code == 2
    assert "not the one" in said
    code, _ = _said(capsys, "reveal", "season=seasons/spring.json", "secret=seasons/spring.secret")
    assert code == 0
    assert Path("seasons/season-spring.toml").is_file()
    frozen = ("freeze", "suite=seasons/season-spring.toml", "workers=1")
    assert _said(capsys, *frozen)[0] == 0  # the headroom of its ids is known from suite mini
    code, said = _said(capsys, "run", "random", "suite=seasons/season-spring.toml", "n_runs=1",
                       "name=r", "workers=1", "tasks=[voxel-mask]")  # fmt: skip
    assert code == 0
    code, said = _said(capsys, "validate", "submissions/r", "suite=seasons/season-spring.toml",
                       "reference=false", "workers=1")  # fmt: skip
    assert code == 0


TWO_TASKS = """
name = "two"
version = 0
description = "One id with headroom, one without."
n_runs = 1
seed = 1

[train]
"head-and-neck-" = [0, 9999]

[[tasks]]
name = "masks"
env_id = "ptenv/VoxelMask-mini-v0"
budgets = [0.2]
test = ["head-and-neck-20000..20000"]

[[tasks]]
name = "arcs"
env_id = "ptenv/EnergyLayer-2deg-v0"
budgets = [1.25]
test = ["nasopharynx-20000..20000"]
"""


def test_an_id_is_frozen_only_after_a_headroom_table_that_shows_some(tmp_path, capsys, tiny_cases):
    (tmp_path / "two.toml").write_text(TWO_TASKS)
    table = {"env_id": "ptenv/EnergyLayer-2deg-v0", "is_enough": False, "privileged": 0.5,
             "best_heuristic": 0.4, "noise": 0.1}  # fmt: skip
    (tmp_path / "headroom.json").write_text(json.dumps(table))
    suite, given = f"suite={tmp_path}/two.toml", f"headroom=[{tmp_path}]"
    code, said = _said(capsys, "freeze", suite)
    assert code == 2
    assert "EnergyLayer-2deg-v0 has no headroom table" in said
    code, said = _said(capsys, "freeze", suite, given)
    assert code == 2
    assert "0.100, less than three times the noise of 0.100" in said
    assert not (tmp_path / "two.json").exists()
    code, said = _said(capsys, "freeze", suite, given, "allow_missing=true", "workers=1")
    assert code == 0
    assert "not frozen: ptenv/EnergyLayer-2deg-v0" in said
    kept = json.loads((tmp_path / "two.json").read_text())
    assert list(kept["tasks"]["masks"]["cases"]) == ["head-and-neck-20000"]
    assert kept["tasks"].get("arcs", {"cases": {}})["cases"] == {}
