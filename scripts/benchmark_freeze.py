"""Freeze a suite: keys, digests and anchors of its cases, after a headroom table of every id."""

import json
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from engine.parallel import threads
from ptenv.benchmark.freezing import freeze, frozen_case, names_of, write_frozen
from ptenv.benchmark.suite import Data, Suite, definition_of, load_suite
from ptenv.processes import preload_workers, worker_pool
from scripts.comparison import counted
from scripts.record import stage


def run(cfg: DictConfig) -> None:
    """Build every case of a suite and write the JSON file beside its definition."""
    definition, data = definition_of(cfg.suite), Data(cfg.openkbp)
    suite = load_suite(cfg.suite, frozen=False)
    headroom = _headroom(OmegaConf.to_container(cfg.headroom), suite)
    jobs = [(task, case) for task in suite.tasks for case in names_of(task)]
    preload_workers("ptenv.benchmark.freezing")
    cases, lost = {}, {}
    with stage(f"Cases of {suite.name}") as notes, counted(len(jobs), "case") as progress:
        with worker_pool(cfg.workers or threads()) as pool:
            futures = [(job, pool.submit(frozen_case, *job, data)) for job in jobs]
            for done, ((task, case), future) in enumerate(futures, start=1):
                try:
                    cases[task.name, case] = future.result()
                except (FileNotFoundError, ValueError) as error:
                    lost[case] = str(error)
                progress(done)
        notes.append(f"{len(cases)} of {len(jobs)} cases")
    if not cases:
        why = next(iter(lost.values()))
        raise ValueError(f"no case of suite {suite.name} could be built: {why}")
    path = write_frozen(freeze(suite, definition, data, headroom, cases), definition)
    for case, why in sorted(lost.items()):
        print(f"  not frozen: {case} ({why})")
    for task in suite.tasks:
        for case in names_of(task):
            unsound = cases.get((task.name, case), {}).get("unsound", [])
            if unsound:
                print(f"  left out: {task.name}, {case} at {unsound}: anchors too close")
    print(f"Written to {path}")


def _headroom(folders: dict[str, str], suite: Suite) -> dict[str, dict]:
    """The headroom of every task's id; from folders of ``ptenv headroom`` or frozen before."""
    found = dict(suite.notes.get("headroom", {}))
    for name, folder in folders.items():
        path = Path(folder) / "headroom.json"
        try:
            found[suite.task(name).name] = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise FileNotFoundError(f"headroom.{name}={folder}: no headroom.json there.") from None
    for task in suite.tasks:
        if task.shift_of is not None:
            continue
        table = found.get(task.name)
        if table is None or table["env_id"] != task.env_id:
            raise ValueError(
                f"task {task.name} has no headroom table of {task.env_id}: run `ptenv headroom` "
                f"and give its folder, headroom.{task.name}=FOLDER. An id without one is not frozen."
            )
        if not table["is_enough"]:
            raise ValueError(
                f"task {task.name} is not frozen: privileged search beats the best heuristic by "
                f"{table['privileged'] - table['best_heuristic']:.3f}, less than three times the "
                f"noise of {table['noise']:.3f}."
            )
    return found


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "freeze", *sys.argv[1:]]))
