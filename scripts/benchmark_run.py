"""Run an agent on a suite of the benchmark: every episode's record, from where it was stopped.

Writes into the folder ``output``: entry.json (who played) and records.jsonl (one line an episode,
with all that replay needs). A run that was stopped goes on with the same call.
"""

import sys
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from engine.parallel import threads
from ptenv.benchmark.entry import AgentSource, Entry, checked_name
from ptenv.benchmark.records import read_records
from ptenv.benchmark.run import run_suite
from ptenv.benchmark.suite import SPLITS, Data, Suite, Task, load_suite
from ptenv.benchmark.validation import VALIDATION
from ptenv.processes import preload_workers
from scripts.benchmark_agents import agent_source
from scripts.record import stage
from scripts.resume import only_run_in


def run(cfg: DictConfig) -> None:
    """Play what is not yet played."""
    suite, source = load_suite(cfg.suite), agent_source(cfg.agents)
    if cfg.split not in SPLITS:
        raise ValueError(f"split={cfg.split!r} is unknown; choose from {list(SPLITS)}.")
    tasks = _tasks(cfg, suite, source)
    name = checked_name(cfg.name or source.described)
    n_runs = _n_runs(cfg.n_runs, suite, source)
    entry = Entry.of(name, suite, cfg.split, tasks, n_runs, source)
    folder = Path(cfg.output or f"submissions/{name}")
    workers = cfg.workers or threads()
    preload_workers("agents.trained", "ptenv.benchmark.run")
    n_episodes = sum(len(list(suite.episodes(t, cfg.split, n_runs))) for t in tasks)
    print(f"Writing to {folder}/ (the same command goes on after a stop)")
    with (
        only_run_in(folder), stage(f"{name} on {suite.name}") as notes,
        _progress(n_episodes) as progress,
    ):  # fmt: skip
        done = run_suite(suite, entry, source, folder, Data(cfg.openkbp), workers, progress)
        notes.append(f"{done.played} episodes played, {done.before} were there")
        if done.cut_short:
            notes.append("half a line of a killed run was dropped")
    is_validated = not done.played and (folder / VALIDATION).is_file()
    for task, score in _means(folder).items():
        print(f"  {task}: mean score {score:.3f}{'' if is_validated else ', not validated yet'}")
    if not is_validated:
        print(f"Next: ptenv benchmark validate {folder}")


def _means(folder: Path) -> dict[str, float]:
    """Mean score of every task that was played."""
    scores: dict[str, list[float]] = {}
    for record in read_records(folder):
        scores.setdefault(record["task"], []).append(record["result"]["score"])
    return {task: sum(of) / len(of) for task, of in scores.items()}


def _tasks(cfg: DictConfig, suite: Suite, source: AgentSource) -> list[Task]:
    if cfg.tasks:
        return [suite.task(name) for name in cfg.tasks]
    meant = [task for task in suite.tasks if source.plays(task)]
    if not meant:
        known = [task.name for task in suite.tasks]
        raise ValueError(
            f"agents={cfg.agents} is meant for no task of suite {suite.name}; name some of {known} "
            "with tasks=[…]."
        )
    return meant


def _n_runs(wanted: int | None, suite: Suite, source: AgentSource) -> int:
    """Runs: as many as folders for what was trained, the suite's else."""
    if source.kind == "trained":
        n = len(source.paths)
        if wanted not in (None, n):
            raise ValueError(f"n_runs={wanted}, but agents names {n} folders, one a training seed.")
        return n
    if wanted is not None and wanted < 1:
        raise ValueError(f"n_runs={wanted} must be at least 1.")
    return wanted or suite.n_runs


@contextmanager
def _progress(total: int):
    """A bar with the last score; elsewhere than on a terminal a line every tenth of the way."""
    with tqdm(total=total, unit="episode", leave=False, disable=None) as bar:
        told = [0]

        def show(done: int, score: float) -> None:
            bar.set_postfix(score=f"{score:.3f}", refresh=False)
            bar.update(done - bar.n if not bar.disable else 0)
            if bar.disable and 10 * done // total > told[0]:
                told[0] = 10 * done // total
                print(f"\n  {done} of {total} episodes", end=" ", flush=True)

        yield show


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "run", *sys.argv[1:]]))
