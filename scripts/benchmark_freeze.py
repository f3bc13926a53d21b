"""Freeze a suite: keys, digests and anchors of its cases, after a headroom table of every id."""

import json
import sys
from pathlib import Path

from omegaconf import DictConfig

from engine.parallel import threads
from ptenv.benchmark.freezing import (
    freeze,
    frozen_case,
    known_headroom,
    names_of,
    refuse_other_content,
    write_frozen,
)  # fmt: skip
from ptenv.benchmark.suite import Data, Suite, definition_of, load_suite
from ptenv.processes import preload_workers, worker_pool
from scripts.comparison import counted
from scripts.record import stage


def run(cfg: DictConfig) -> None:
    """Build every case of a suite and write the JSON file beside its definition."""
    definition, data = definition_of(cfg.suite), Data(cfg.openkbp)
    suite = load_suite(cfg.suite, frozen=False)
    headroom, lacking = _headroom(list(cfg.headroom), suite)
    if lacking and not cfg.allow_missing:
        raise ValueError(
            f"{next(iter(lacking.values()))} allow_missing=true freezes the other tasks."
        )
    tasks = [task for task in suite.tasks if task.env_id not in lacking]
    jobs = [(task, case) for task in tasks for case in names_of(task)]
    preload_workers("ptenv.benchmark.freezing")
    cases, lost = {}, {}
    with stage(f"Cases of {suite.name}") as notes, counted(len(jobs), "case") as progress:
        with worker_pool(cfg.workers or threads()) as pool:
            futures = [(job, pool.submit(frozen_case, *job, data)) for job in jobs]
            for done, ((task, case), future) in enumerate(futures, start=1):
                try:
                    cases[task.name, case] = future.result()
                except (FileNotFoundError, ValueError) as error:
                    lost[f"{task.name}, {case}"] = str(error)
                progress(done)
        notes.append(f"{len(cases)} of {len(jobs)} cases")
    if lost and not cfg.allow_missing:
        case, why = next(iter(sorted(lost.items())))
        raise ValueError(
            f"{len(lost)} cases of suite {suite.name} could not be built, {case}: {why} "
            "allow_missing=true freezes the others."
        )
    if not cases:
        why = next(iter([*lacking.values(), *lost.values()]))
        raise ValueError(f"no case of suite {suite.name} could be built: {why}")
    content = freeze(suite, definition, data, headroom, cases)
    refuse_other_content(definition, content)
    path = write_frozen(content, definition)
    for why in lacking.values():
        print(f"  not frozen: {why}")
    for case, why in sorted(lost.items()):
        print(f"  not frozen: {case} ({why})")
    for task in suite.tasks:
        for case in names_of(task):
            unsound = cases.get((task.name, case), {}).get("unsound", [])
            if unsound:
                print(f"  left out: {task.name}, {case} at {unsound}: anchors too close")
    print(f"Written to {path}")


def _headroom(folders: list[str], suite: Suite) -> tuple[dict[str, dict], dict[str, str]]:
    """Tables of the suite's ids, from folders of ``ptenv headroom`` or of suites frozen before;
    and why an id cannot be frozen."""
    known = known_headroom() | {t["env_id"]: t for t in map(_table_in, folders)}
    needed = sorted({task.env_id for task in suite.tasks if task.shift_of is None})
    lacking = {env_id: why for env_id in needed if (why := _lack(env_id, known.get(env_id)))}
    return {i: known[i] for i in needed if i not in lacking}, lacking


def _lack(env_id: str, table: dict | None) -> str | None:
    """Why an id is not frozen, or None."""
    if table is None:
        return (
            f"{env_id} has no headroom table: run `ptenv headroom` on it and give its folder, "
            "headroom=[FOLDER]. An id without one is not frozen."
        )
    if table["is_enough"] and table["privileged"] > table["best_heuristic"]:
        return None
    return (
        f"{env_id} is not frozen: privileged search beats the best heuristic by "
        f"{table['privileged'] - table['best_heuristic']:.3f}, less than three times the "
        f"noise of {table['noise']:.3f}."
    )


def _table_in(folder: str) -> dict:
    path = Path(folder) / "headroom.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"headroom={folder}: no headroom.json there; give a folder that `ptenv headroom` wrote."
        )
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "freeze", *sys.argv[1:]]))
