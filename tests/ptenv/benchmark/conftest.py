"""Made-up submissions: records with a record's form and a suite's claims, and scores at will."""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from ptenv.benchmark.entry import digest_of_entry
from ptenv.benchmark.packing import packed
from ptenv.benchmark.platforms import platform_of_here, software
from ptenv.benchmark.records import RECORDS, Episode, digest_of_records, schema_error
from ptenv.benchmark.suite import FrozenCase, Suite, Task
from ptenv.benchmark.validation import FIGURES

ENV_IDS = {
    "voxel-mask": "ptenv/VoxelMask-mini-v0", "energy-layer": "ptenv/EnergyLayer-mini-v0",
    "dose-shaping": "ptenv/DoseShaping-mini-v0",
}  # fmt: skip
SOFTWARE, PLATFORM = software(), platform_of_here()
HOSTILE = "a&b 'c' | *d* {{ 7*7 }} $e_f$"
Score = Callable[[Episode], float]


def made_suite(n_cases: int = 6, shifts: bool = True, unsound: bool = True) -> Suite:
    """A frozen suite of three tasks and two shifts whose cases nobody can build."""

    def frozen(names, first_unsound=()):
        return {
            name: FrozenCase(f"key-{name}", "0" * 64, {}, tuple(first_unsound) if i == 0 else ())
            for i, name in enumerate(names)
        }

    cases = tuple(f"head-and-neck-{20000 + i}" for i in range(n_cases))
    shifted = tuple(f"head-and-neck-{20100 + i}" for i in range(4))
    first = (0.05,) if unsound else ()
    tasks = [
        Task("voxel-mask", ENV_IDS["voxel-mask"], (0.05, 0.2), {"test": cases, "validation": ()},
             frozen=frozen(cases, first)),
        Task("energy-layer", ENV_IDS["energy-layer"], (1.15, 1.6),
             {"test": cases, "validation": ()}, frozen=frozen(cases)),
        Task("dose-shaping", ENV_IDS["dose-shaping"], (0.0, 1.0),
             {"test": cases, "validation": ()}, frozen=frozen(cases)),
    ]  # fmt: skip
    if shifts:
        tasks += [
            Task(f"voxel-mask-{axis}", ENV_IDS["voxel-mask"], (0.05, 0.2),
                 {"test": shifted, "validation": ()}, {}, "voxel-mask", axis, frozen(shifted))
            for axis in ("size", "site")
        ]  # fmt: skip
    return Suite(
        "made", 0, "A made-up suite.", 5, 3, {"head-and-neck-": (0, 9999)}, tuple(tasks),
        "head-and-neck-", (8, 64, 512), None,
        {"frozen_on": "2026-11-26", "software": {"numpy": "2.3"}}, "d" * 64,
    )  # fmt: skip


def record_of(suite: Suite, entry: Mapping, episode: Episode, score: float, cost: float) -> dict:
    """A record with a score that was made up."""
    task = suite.task(episode.task)
    spec = {"id": task.env_id, "entry_point": "nowhere:Nothing", "kwargs": {}}
    return {
        "format": 1, "suite": suite.name, "suite_version": suite.version, "task": task.name,
        "entry": entry["name"],
        "agent": {"name": entry["described"] or "?", "sha256": entry["agent_sha256"]},
        "episode": {"case": episode.case, "budget": episode.budget, "run": episode.run,
                    "seed": suite.seed_of(episode)},
        "env": {"id": task.env_id, "spec": spec},
        "case": {"key": task.frozen[episode.case].key, "sha256": "0" * 64},
        "actions": packed([0, 1]), "rewards": [0.0, score],
        "result": {
            "score": score, "raw_score": score, "Q": 0.5 + 0.3 * score, "objective": 1.0,
            "cost": cost, "constraints": {}, "metrics": {"PTV": {"D95%[%]": 96.0}}, "n_steps": 2,
            "n_invalid": 0, "plan_sha256": "0" * 64,
        },
        "spent": {"wall_s": 1.5, "inference_s": 0.25, "optimization_s": 1.0, "engine_calls": 40.0},
        "software": SOFTWARE, "platform": PLATFORM,
    }  # fmt: skip


def write_submission(
    folder: Path, suite: Suite, score: Score, *, kind: str = "rule", n_runs: int = 5,
    tasks: list[str] | None = None, learned: list | None = None, cost: float = 10.0,
    name: str | None = None, described: str = "made up", validated: bool = True,
    reference: Callable[[Episode, float], float | None] = lambda episode, score: score - 0.02,
    entry: Mapping | None = None, validation: Mapping | None = None,
) -> Path:  # fmt: skip
    """A submission's folder: entry.json, records.jsonl and validation.json."""
    folder.mkdir(parents=True)
    tasks = tasks or [t.name for t in suite.tasks]
    plain = {
        "format": 1, "name": name or folder.name, "suite": suite.name,
        "suite_version": suite.version, "suite_digest": suite.digest, "split": "test",
        "tasks": tasks, "n_runs": n_runs, "kind": kind, "described": described,
        "agent_sha256": sha256((name or folder.name).encode()).hexdigest(), "learned": learned,
        "software": SOFTWARE, "platform": PLATFORM,
    }  # fmt: skip
    judged, lines = [], []
    for task in tasks:
        for episode in suite.episodes(suite.task(task), "test", n_runs):
            value = float(score(episode))
            record = record_of(suite, plain, episode, value, cost)
            lines.append(json.dumps(record) + "\n")
            of = reference(episode, value)
            judged.append({
                "episode": list(episode), "reference": of,
                "reference_why_not": None if of is not None else "no engine for it",
                "figures": {name: record["result"][name] for name in FIGURES},
            })  # fmt: skip
    assert schema_error(record) is None
    (folder / RECORDS).write_text("".join(lines))
    (folder / "entry.json").write_text(json.dumps(plain | dict(entry or {})))
    if validated:
        found = {
            "format": 1, "suite": suite.name, "suite_version": suite.version,
            "suite_digest": suite.digest, "holds": True, "complete": True, "refused": [],
            "n_replayed": len(judged), "n_exact": len(judged), "largest_difference": 0.0,
            "seconds": 1.0, "episodes": judged,
            "records_sha256": digest_of_records(folder), "entry_sha256": digest_of_entry(folder),
        }  # fmt: skip
        (folder / "validation.json").write_text(json.dumps(found | dict(validation or {})))
    return folder


def noisy(mean: float, spread: float = 0.1, seeds: float = 0.0, seed: int = 0) -> Score:
    """Scores that differ by patient, training seed and episode; the same for the same episode."""

    def normal(*of) -> float:
        text = " ".join(map(str, of)).encode()
        state = np.frombuffer(sha256(text).digest()[:16], np.uint32)
        return np.random.default_rng(state).normal()

    def score(episode: Episode) -> float:
        value = mean + spread * normal(episode.task, episode.case) + 0.3 * spread * normal(
            seed, *episode
        )  # fmt: skip
        return float(np.clip(value + seeds * normal(seed, episode.run), -1.0, 1.5))

    return score


def pool(size: int) -> dict:
    """What one training seed learned from."""
    return {"cases": [f"head-and-neck-{i:05d}" for i in range(size)]}


@pytest.fixture(scope="session")
def made():
    """A made-up suite: three tasks, two shifts, one case without a gap at one budget."""
    return made_suite()


@pytest.fixture
def submit(made, tmp_path):
    """Writes a submission to ``made`` from a mean score, or a function of the episode."""

    def write(folder: str, score: float | Score = 0.3, **settings) -> Path:
        if not callable(score):
            score = noisy(score, seed=len(folder))
        return write_submission(tmp_path / "submissions" / folder, made, score, **settings)

    return write


@pytest.fixture(scope="session")
def shown(made, tmp_path_factory) -> Path:
    """A folder of submissions of all kinds, not to be changed."""
    folder = tmp_path_factory.mktemp("shown")
    learner = {"kind": "trained", "described": "PPO"}

    def write(name, mean, seed, seeds=0.0, **settings):
        score = noisy(mean, seeds=seeds, seed=seed)
        write_submission(folder / f"{seed}", made, score, name=name, **settings)

    write("random", -0.3, 1, cost=3.0)
    write("importance", 0.45, 2, cost=120.0)
    for size, mean in ((8, 0.2), (64, 0.4), (512, 0.6)):
        write(f"ppo-{size}", mean, size, 0.05, learned=[pool(size)] * 5, **learner)
    write("three seeds", 0.35, 3, 0.1, learned=[pool(64)] * 3, n_runs=3, **learner,
          tasks=["voxel-mask", "voxel-mask-size"])  # fmt: skip
    write("partly", 0.3, 4, kind="file", validation={"complete": False, "n_replayed": 12},
          reference=lambda episode, score: None)  # fmt: skip
    write(HOSTILE, 0.1, 5, described="<b>$x$</b>\u202e")
    write("tampered", 0.9, 6, validation={"records_sha256": "0" * 64})
    write("refused", 0.9, 7, validation={"holds": False, "refused": ["<script>boo()</script>"]})
    write("nobody replayed", 0.9, 9, validated=False)
    return folder
