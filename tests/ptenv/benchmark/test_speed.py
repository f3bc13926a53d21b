"""Throughput is measured in processes that end, and counts what was done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from ptenv.benchmark import speed, speed_jobs
from ptenv.benchmark.speed import SpeedSettings, chosen_ids, hardware, measure, run_job, tables
from ptenv.registration import IDS

MASK = "ptenv/VoxelMask-mini-v0"
TWO_STEPS, CALLS = 2, 3.0


class Lock(gym.Env):
    """Two steps an episode; only the action of the mask is taken."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(50)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.done_steps = 0
        return np.zeros(1, np.float32), self._info(0.0)

    def step(self, action):
        assert self.mask[action] == 1
        self.done_steps += 1
        return np.zeros(1, np.float32), 0.0, self.done_steps == TWO_STEPS, False, self._info(CALLS)

    def _info(self, calls):
        self.mask = np.zeros(50, np.int8)
        self.mask[self.np_random.integers(50)] = 1
        return {"action_mask": self.mask.copy(), "engine_calls": calls}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid, within_s=10.0):
    until = time.perf_counter() + within_s
    while alive(pid) and time.perf_counter() < until:
        time.sleep(0.05)
    return not alive(pid)


@pytest.fixture(scope="module")
def measured(small, case_cache):
    settings = SpeedSettings(
        processes=(1, 2), seconds=0.1, repeats=2, workers=2, time_limit_s=300,
        settings={"recipe": {k: v for k, v in small.items() if k != "budgets"}},
    )  # fmt: skip
    told = []
    (row,) = measure([MASK], settings, told.append)
    return row, told


@pytest.mark.parametrize("n", [1, 2])
def test_steps_are_counted_in_one_process_and_in_two(measured, n):
    row, _ = measured
    assert len(set(row["cases"])) == 2
    found = row["steps"][n]
    assert len(found["steps_per_s"]) == len(found["engine_calls_per_s"]) == 2
    assert min(found["steps_per_s"]) > 0
    assert found["steps"] >= found["episodes"] >= 2 * n
    # a round takes 1 to 100 evaluations, log-uniformly
    mean = np.sum(found["engine_calls_per_s"]) / np.sum(found["steps_per_s"])
    assert 1 < mean < 100


def test_patients_are_drawn_until_they_are_enough(small, case_cache):
    recipe = {k: v for k, v in small.items() if k != "budgets"}
    found = speed_jobs.prepare({"id": MASK, "settings": {"recipe": recipe, "n_patients": 3}})
    assert sorted(found["cases"]) == [f"head-and-neck-{i:05d}" for i in range(3)]


def test_a_named_case_stands_alone(small, case_cache):
    settings = {"recipe": small, "n_patients": 3, "case": "head-and-neck-00001"}
    found = speed_jobs.prepare({"id": MASK, "settings": settings})
    assert found["cases"] == ["head-and-neck-00001"]


def test_each_of_several_processes_has_one_thread(measured):
    assert measured[0]["steps"][2]["engine_threads"] == 1


def test_start_up_is_measured_without_and_with_the_case(measured):
    row, _ = measured
    for name in ("startup", "cached_startup"):
        parts = [row[name][part] for part in ("import_s", "reset_s", "first_step_s")]
        assert min(parts) > 0
        assert row[name]["total_s"] == pytest.approx(sum(parts))


def test_start_up_leaves_the_users_cache_alone(small, case_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path))
    settings = SpeedSettings(
        processes=(), workers=0,
        settings={"recipe": {**small, "ct_spacing_mm": 6.0}, "case": "head-and-neck-00003"},
    )  # fmt: skip
    (row,) = measure([MASK], settings)
    assert row["startup"]["total_s"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no smaps_rollup here")
def test_memory_of_workers_counts_shared_pages_once(measured):
    memory = measured[0]["memory"]
    one, two = memory["total_mb"]
    assert memory["added_mb"] == pytest.approx(two - one)
    assert 0 < max(memory["private_mb"]) < two - one < max(memory["resident_mb"])
    assert memory["case"] in measured[0]["cases"]
    assert 0 < memory["case_mb"] < 50


def test_progress_is_told(measured):
    _, told = measured
    assert len(told) == 2 + 1 + 2 + 1
    assert all(text.startswith(MASK) and "done" in text for text in told)


@pytest.mark.parametrize("name", ["EnergyLayer", "DoseShaping", "VoxelMask"])
def test_engine_calls_are_those_of_the_plans(name, case_cache):
    env = speed_jobs.made(f"ptenv/{name}-mini-v0", {"n_patients": 1, "split": "validation"})
    env.action_space.seed(1)
    _, info = env.reset(seed=0)
    assert info["engine_calls"] == 0
    infos, done = [], False
    while not done:
        _, _, terminated, truncated, info = env.step(speed_jobs._valid(env.action_space, info))
        infos.append(info)
        done = terminated or truncated
    counted = [i["engine_calls"] for i in infos]
    state = env.unwrapped.state
    if name == "VoxelMask":
        assert counted == [i["n_evaluations"] for i in infos]
    elif name == "EnergyLayer":
        assert counted == [0.0] * (len(infos) - 1) + [state.plan.n_evaluations]
    else:
        assert sum(counted) == pytest.approx(infos[-1]["dose_products"])
    env.reset(seed=0)
    assert env.step(env.action_space.sample(info.get("action_mask")))[4]["engine_calls"] >= 0


def test_actions_are_valid_and_resets_are_no_steps_in_a_vector():
    runner = speed_jobs._Vector(gym.vector.SyncVectorEnv([Lock] * 3))
    runner.reset("any")
    rolled = runner.roll(0.05)
    begun = rolled["steps"] - TWO_STEPS * rolled["episodes"]  # of episodes that time cut short
    assert 0 <= begun <= 3 * (TWO_STEPS - 1)
    assert rolled["engine_calls"] == CALLS * rolled["steps"]
    assert rolled["wall_s"] >= 0.05


def test_actions_are_valid_alone():
    runner = speed_jobs._Alone(Lock())
    rolled = runner.roll(0.05)
    assert 0 <= rolled["steps"] - TWO_STEPS * rolled["episodes"] <= TWO_STEPS - 1
    assert rolled["engine_calls"] == CALLS * rolled["steps"]
    assert rolled["wall_s"] >= 0.05


def test_a_job_is_stopped_at_its_limit_with_all_that_it_started(tmp_path):
    started = tmp_path / "pid"
    code = (
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(started)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    began = time.perf_counter()
    assert run_job(code, {}, limit_s=3.0) == {"failed": "stopped after the limit of 3 s"}
    assert time.perf_counter() - began < 20
    assert gone(int(started.read_text()))


def test_a_job_says_why_it_failed():
    found = run_job("raise ValueError(f'{job[\"case\"]} is no patient')", {"case": "x"}, 60.0)
    assert found == {"failed": "ValueError: x is no patient"}


def test_a_job_that_ends_without_an_answer_failed():
    assert run_job("sys.exit(3)", {}, 60.0) == {"failed": "exit code 3"}


def test_a_job_ends_when_who_wants_it_is_killed(tmp_path):
    code = f"import time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    waits = f"{code}\ntime.sleep(60)"
    asks = f"from ptenv.benchmark.speed import run_job; run_job({waits!r}, {{}}, 60.0)"
    parent = subprocess.Popen([sys.executable, "-c", asks])
    until = time.perf_counter() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.perf_counter() < until
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert gone(int((tmp_path / "pid").read_text()))


def test_what_failed_is_named_under_the_table():
    rows = [
        {
            "id": MASK, "cases": ["a"],
            "steps": {1: {"steps_per_s": [1.0, 3.0, 200.0], "engine_calls_per_s": [10.0]},
                      8: {"failed": "stopped after the limit of 5 s"}},
            "memory": {"failed": "no case of this id in the cache"},
        }
    ]  # fmt: skip
    text = tables(rows, hardware())
    line = next(line for line in text.splitlines() if line.startswith("VoxelMask-mini-v0"))
    assert line.split()[1:] == ["3.0", "–", "10.0", "–"]  # medians
    assert f"{MASK}, steps, processes 8: stopped after the limit of 5 s" in text
    assert f"{MASK}, memory: no case of this id in the cache" in text


def test_the_hardware_is_named():
    machine = hardware()
    assert machine["cores"] >= 1
    assert machine["processor"]
    assert machine["packages"]["numpy"] == np.__version__
    text = tables([], machine)
    assert machine["processor"] in text
    assert f"gymnasium {gym.__version__}" in text


def test_ids_are_chosen_by_name_or_as_mini_or_all():
    assert chosen_ids("all") == list(IDS)
    assert set(chosen_ids("mini")) == {name for name in IDS if "-mini" in name}
    assert chosen_ids(MASK) == chosen_ids([MASK]) == [MASK]
    for wrong in ("minis", [], ["ptenv/Nothing-v0"]):
        with pytest.raises(ValueError, match="ids="):
            chosen_ids(wrong)


@pytest.mark.parametrize(
    "wrong", [{"processes": (0,)}, {"seconds": -1.0}, {"repeats": 0}, {"workers": -1},
              {"time_limit_s": 0}, {"n_patients": 0}],
)  # fmt: skip
def test_settings_without_sense_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        SpeedSettings(**wrong)


def test_memory_needs_a_case_in_the_cache(small, tmp_path, monkeypatch):
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path))
    settings = SpeedSettings(settings={"recipe": {**small, "ring_mm": 7.0}})
    found = speed.memory_of_workers(MASK, settings)
    assert "failed" in found
    assert not list(tmp_path.iterdir())
