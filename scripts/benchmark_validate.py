"""Validate submissions: replay every episode, check limits, judge plans by the reference engine.

Writes validation.json beside the records; the board shows no entry without one.
"""

import sys
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from zlib import crc32

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from engine.parallel import threads
from ptenv.benchmark.entry import read_entry
from ptenv.benchmark.records import Episode
from ptenv.benchmark.suite import Data, load_suite
from ptenv.benchmark.validation import VALIDATION, Verdict, validate, write_verdict
from ptenv.processes import preload_workers, worker_pool
from scripts.comparison import counted
from scripts.record import stage

REFUSED = 1  # exit code of a submission that does not hold


def run(cfg: DictConfig) -> None:
    """Judge submissions one by one; ends with exit code 1 where one is refused."""
    named = cfg.submissions
    folders = [Path(f) for f in (named if isinstance(named, ListConfig) else [named])]
    if not folders:
        raise ValueError("submissions=[] names none; give folders of `ptenv benchmark run`.")
    if not 0.0 < cfg.part <= 1.0:
        raise ValueError(f"part={cfg.part} must lie in (0, 1].")
    preload_workers("ptenv.benchmark.validation")
    for folder in folders:
        read_entry(folder)  # refuses what is none, before the first is replayed
    with _pool(cfg.workers or threads()) as pool:
        verdicts = [_holds(folder, cfg, pool) for folder in folders]
    if not all(verdicts):
        raise SystemExit(REFUSED)


def _pool(workers: int):
    return worker_pool(workers) if workers > 1 else nullcontext()


def _holds(folder: Path, cfg: DictConfig, pool: Executor | None) -> bool:
    entry = read_entry(folder)
    suite, whole = load_suite(cfg.suite or entry.suite), cfg.part == 1.0

    def chosen(episode: Episode) -> bool:
        return is_chosen(episode, cfg.part)

    with stage(f"Replay of {entry.name}") as notes, counted(None, "episode") as progress:
        verdict = validate(
            folder, suite, Data(cfg.openkbp), instantiate(cfg.tolerance), pool, cfg.reference,
            chosen, progress,
        )  # fmt: skip
        notes.append(f"{verdict.n_replayed} episodes, {verdict.n_exact} compared exactly")
    if whole or not verdict.holds or not (folder / VALIDATION).exists():
        write_verdict(verdict, folder, suite, whole)
    print(told(verdict, entry.name))
    return verdict.holds


def is_chosen(episode: Episode, part: float) -> bool:
    """Whether an episode is among the share that is replayed; the same ones every time."""
    return crc32(str(episode).encode()) % 10_000 < 10_000 * part


def told(verdict: Verdict, name: str) -> str:
    """The verdict in words."""
    if verdict.holds:
        return (
            f"{name} holds: {verdict.n_replayed} episodes replayed in {verdict.seconds:.1f} s, "
            f"scores differ by {verdict.largest_difference:.2g} at most."
        )
    return "\n".join([f"{name} is REFUSED:", *(f"  {reason}" for reason in verdict.refused)])


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "validate", *sys.argv[1:]]))
