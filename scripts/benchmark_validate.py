"""Validate submissions: replay every episode, check limits, judge plans by the reference engine.

Writes validation.json beside the records; the board shows no entry without one.
"""

import sys
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from engine.parallel import threads
from ptenv.benchmark.entry import Entry, read_entry
from ptenv.benchmark.suite import Data, Suite, load_suite, suites
from ptenv.benchmark.validation import VALIDATION, Verdict, validate, write_verdict
from ptenv.processes import preload_workers, worker_pool
from scripts.configuration import listed
from scripts.record import stage, told_now_and_then

REFUSED = 1  # exit code of a submission that does not hold


def run(cfg: DictConfig) -> None:
    """Judge submissions one by one; ends with exit code 1 where one is refused."""
    folders = [Path(folder) for folder in listed(cfg.submissions)]
    if not folders:
        raise ValueError("submissions=[] names none; give folders of `ptenv benchmark run`.")
    if not 0.0 < cfg.part <= 1.0:
        raise ValueError(f"part={cfg.part} must lie in (0, 1].")
    preload_workers("ptenv.benchmark.validation")
    for folder in folders:
        read_entry(folder)  # refuses what is none, before the first is replayed
    if cfg.reference:
        print("The reference engine takes minutes on a case that it meets for the first time; "
              "reference=false leaves it out.")  # fmt: skip
    with _pool(cfg.workers or threads()) as pool:
        verdicts = [_holds(folder, cfg, pool) for folder in folders]
    if not all(verdicts):
        raise SystemExit(REFUSED)


def _pool(workers: int):
    return worker_pool(workers) if workers > 1 else nullcontext()


def _holds(folder: Path, cfg: DictConfig, pool: Executor | None) -> bool:
    entry = read_entry(folder)
    suite, whole = _suite(cfg.suite, entry), cfg.part == 1.0
    tolerance = instantiate(cfg.tolerance)

    with stage(f"Replay of {entry.name}") as notes, told_now_and_then("episodes") as progress:
        verdict = validate(
            folder, suite, Data(cfg.openkbp), tolerance, pool, cfg.reference, cfg.part, progress,
        )  # fmt: skip
        notes.append(f"{verdict.n_replayed} episodes, {verdict.n_exact} compared exactly")
    if whole or not verdict.holds or not (folder / VALIDATION).exists():
        write_verdict(verdict, folder, suite, whole, tolerance)
    print(told(verdict, f"{entry.name} ({folder})"))
    return verdict.holds


def _suite(named: str | None, entry: Entry) -> Suite:
    """The suite asked for, or the one that ships under the name that a submission gives."""
    if named is None and entry.suite not in suites():
        raise ValueError(
            f"submission {entry.name} is of suite {entry.suite!r}, which does not ship; say which: "
            "suite=FILE.toml."
        )
    return load_suite(named or entry.suite)


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
