"""Playing an entry's episodes of a suite, in several processes, from where it was stopped."""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gymnasium as gym

from ptenv.benchmark.entry import AgentSource, Entry
from ptenv.benchmark.freezing import digest_of_case
from ptenv.benchmark.packing import packed
from ptenv.benchmark.platforms import platform_of_here, software
from ptenv.benchmark.play import play, result_of
from ptenv.benchmark.records import (
    FORMAT,
    RECORDS,
    Episode,
    append_record,
    mend,
    read_records,
)  # fmt: skip
from ptenv.benchmark.suite import Data, Suite, Task
from ptenv.processes import worker_pool

AHEAD = 2  # episodes that wait for every process


@dataclass(frozen=True, eq=False)
class Job:
    """One episode for a worker."""

    suite: Suite
    entry: Entry
    source: AgentSource
    data: Data
    episode: Episode

    @property
    def task(self) -> Task:
        return self.suite.task(self.episode.task)


@dataclass(frozen=True)
class Outcome:
    """How many episodes a call found done, and how many it played."""

    before: int
    played: int
    cut_short: bool  # whether a killed run had left half a line


def run_suite(
    suite: Suite, entry: Entry, source: AgentSource, folder: Path, data: Data,
    workers: int = 1, progress: Callable[[int, float], None] = lambda done, score: None,
) -> Outcome:  # fmt: skip
    """Play what ``folder`` lacks; ``progress`` gets the episodes done and the last one's score.

    Each finished episode is on the disk before the next of that process begins.
    """
    path = folder / RECORDS
    if path.with_name(f"{RECORDS}.gz").exists():
        raise ValueError(f"output={folder} holds packed records: unpack them with gunzip to go on.")
    wanted = [e for name in entry.tasks
              for e in suite.episodes(suite.task(name), entry.split, entry.n_runs)]  # fmt: skip
    if not wanted:
        raise ValueError(f"suite {suite.name} has no frozen case of split {entry.split!r} in "
                         f"tasks {list(entry.tasks)}.")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    entry.write(folder)
    cut_short = mend(path)
    done = {Episode.of(r) for r in read_records(path)} if path.exists() else set()
    jobs = [Job(suite, entry, source, data, e) for e in wanted if e not in done]
    for n, record in enumerate(_played(jobs, workers), start=len(wanted) - len(jobs) + 1):
        append_record(path, record)
        progress(n, record["result"]["score"])
    return Outcome(len(wanted) - len(jobs), len(jobs), cut_short)


def _played(jobs: list[Job], workers: int) -> Iterable[dict]:
    """Records as they are done; what an error leaves running is waited for first."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(play_job, jobs)
        return
    with worker_pool(workers) as pool:
        waiting, running = list(reversed(jobs)), set()
        while waiting or running:
            while waiting and len(running) < AHEAD * workers:
                running.add(pool.submit(play_job, waiting.pop()))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            yield from _results(finished, running)


def _results(finished: set[Future], running: set[Future]) -> Iterable[dict]:
    failed = [f for f in finished if f.exception() is not None]
    yield from (f.result() for f in finished if f not in failed)
    if failed:
        for future in running:
            if not future.cancel() and future.exception() is None:
                yield future.result()
        raise failed[0].exception()


@dataclass
class _Opened:
    """What a process keeps between episodes: the last environment and agent."""

    key: tuple | None = None
    env: gym.Env | None = None
    agents: dict = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


_opened = _Opened()


def play_job(job: Job) -> dict:
    """Play one episode; returns its record."""
    agent = _agent_of(job)
    env = _environment_of(job, agent)
    seed = job.suite.seed_of(job.episode)
    try:
        played = play(agent, env, seed)
    except Exception as error:
        error.add_note(f"(episode {job.episode})")
        raise
    return record_of(job, env, seed, played)


def record_of(job: Job, env: gym.Env, seed: int, played) -> dict:
    """The record of a finished episode."""
    family, case, episode = job.task.family, played.state.case, job.episode
    refuse_another_case(job.task, episode.case, case.key)
    score = partial(job.task.score, episode.case, episode.budget)
    return {
        "format": FORMAT, "suite": job.suite.name, "suite_version": job.suite.version,
        "task": job.task.name, "entry": job.entry.name,
        "agent": {"name": job.source.described, "sha256": job.entry.agent_sha256},
        "episode": {
            "case": job.episode.case, "budget": job.episode.budget, "run": job.episode.run,
            "seed": seed,
        },
        "env": {"id": job.task.env_id, "spec": plain_spec(env, job.episode.case)},
        "case": {"key": case.key, "sha256": _digest_of(case)},
        "actions": packed(played.actions), "rewards": played.rewards,
        "result": result_of(played, family.weights(played.state), score),
        "spent": {
            "wall_s": round(played.wall_s, 4), "inference_s": round(played.inference_s, 4),
            "optimization_s": round(played.optimization_s, 4),
            "engine_calls": family.engine_calls(played.state, played.infos),
        },
        "software": software(), "platform": platform_of_here(),
    }  # fmt: skip


def refuse_another_case(task: Task, name: str, key: str) -> None:
    """Raise where a case that was built here is not the one that the suite has frozen."""
    if key != task.frozen[name].key:
        raise ValueError(
            f"case {name} has key {key} here, in the suite {task.frozen[name].key}: the patient's "
            "files, the machine or the version of ptenv are not those of the suite."
        )


def plain_spec(env: gym.Env, case: str) -> dict:
    """An environment's spec as plain values, with the case by its name instead of a path."""
    spec = json.loads(env.spec.to_json())
    spec["kwargs"]["case"] = case
    return spec


def _agent_of(job: Job):
    key = (job.entry.agent_sha256, job.task.name, job.episode.run)
    if key not in _opened.agents:
        _opened.agents[key] = job.source.agent(job.task, job.episode.run)
    return _opened.agents[key]


def _environment_of(job: Job, agent) -> gym.Env:
    """The environment of the episode before, where it fits, or a new one."""
    settings = agent_settings(agent, job.episode.budget)
    key = (job.task.env_id, job.episode.task, job.episode.case, job.episode.budget,
           repr(sorted(settings.items())))  # fmt: skip
    if key != _opened.key:
        env = job.task.make(job.episode.case, job.episode.budget, job.data, settings)
        _opened.key, _opened.env = key, env
    return _opened.env


def agent_settings(agent, budget: float) -> Mapping:
    """Arguments of the environment that an agent asks for; none where it asks for nothing."""
    settings = getattr(agent, "settings", None)
    if settings is None:
        return {}
    return settings(budget) if callable(settings) else settings


def _digest_of(case) -> str:
    if case.key not in _opened.digests:
        _opened.digests[case.key] = digest_of_case(case)
    return _opened.digests[case.key]
