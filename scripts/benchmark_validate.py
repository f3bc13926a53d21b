"""Validate a submission: replay every episode, check limits, judge plans by the reference engine.

Writes validation.json beside the records; the board shows no entry without one.
"""

import sys
from pathlib import Path
from zlib import crc32

from hydra.utils import instantiate
from omegaconf import DictConfig

from engine.parallel import threads
from ptenv.benchmark.entry import read_entry
from ptenv.benchmark.records import Episode, read_records
from ptenv.benchmark.suite import Data, load_suite
from ptenv.benchmark.validation import Verdict, validate, write_verdict
from ptenv.processes import preload_workers
from scripts.comparison import counted
from scripts.record import stage

REFUSED = 1  # exit code of a submission that does not hold


def run(cfg: DictConfig) -> None:
    """Judge one submission; ends with exit code 1 where it is refused."""
    folder = Path(cfg.submission)
    entry = read_entry(folder)
    suite = load_suite(cfg.suite or entry.suite)
    if not 0.0 < cfg.part <= 1.0:
        raise ValueError(f"part={cfg.part} must lie in (0, 1].")
    workers = cfg.workers or threads()
    preload_workers("ptenv.benchmark.validation")
    n = len(read_records(folder))
    with stage(f"Replay of {entry.name}") as notes, counted(n, "episode") as progress:
        verdict = validate(
            folder, suite, Data(cfg.openkbp), instantiate(cfg.tolerance), workers, cfg.reference,
            lambda episode: is_chosen(episode, cfg.part), progress,
        )  # fmt: skip
        notes.append(f"{verdict.n_replayed} of {n} episodes, {verdict.n_exact} compared exactly")
    write_verdict(verdict, folder, suite, cfg.part == 1.0)
    print(told(verdict, entry.name))
    if not verdict.holds:
        raise SystemExit(REFUSED)


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
