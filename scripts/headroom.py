"""Tell how much there is to learn: random, best heuristic, privileged search, bounds, noise.

Writes into the folder ``output``: headroom.txt, .csv and .json, scores and episodes of the
baselines, config.yaml, record.json. A search is kept in searches.jsonl when it ends, and the same
command on the same folder takes it from there.
"""

import json
import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from agents.baselines.search import Found
from agents.headroom import Job, headroom, headroom_rows, search_all
from agents.kept_searches import KeptSearches
from agents.trained import trained_agents
from engine.parallel import threads
from ptenv.cases.library import load_case
from ptenv.cases.patients import nameless_case
from ptenv.processes import preload_workers
from ptenv.rendering import score_table
from scripts.comparison import build_cases, compare, counted, tables, write_csv
from scripts.record import output_folder, save_record, stage
from scripts.resume import only_run_in


def run(cfg: DictConfig) -> float:
    """One table; returns the gain of privileged search over the best heuristic."""
    folder = output_folder()
    with only_run_in(folder):
        return _measured(cfg, folder)


def _measured(cfg: DictConfig, folder: Path) -> float:
    save_record(cfg, folder)
    environment = instantiate(cfg.env, _convert_="all")
    trials = instantiate(cfg.trials, _convert_="all").of(environment)
    search = instantiate(cfg.search, _convert_="all")
    baselines = dict(instantiate(cfg.baselines, _convert_="all"))
    if cfg.random not in baselines or len(baselines) < 2:
        raise ValueError(f"random={cfg.random!r} and a heuristic must be among {list(baselines)}.")
    names = environment.chosen_cases(cfg.cases, cfg.split, cfg.n_cases)
    trained = trained_agents(cfg.agents)
    workers = cfg.workers or threads()
    preload_workers("agents.headroom", "agents.evaluation")

    build_cases(environment, names, workers, "Cases")
    played = compare(environment, baselines | trained, names, trials, workers, folder, None)
    player = environment.make().unwrapped
    cases = {name: load_case(player.case_recipe(name)) for name in names}
    settings = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("env", "search")}
    kept = KeptSearches(folder / "searches.jsonl", settings, cases)
    episodes = [row for row in played if "budget" in row]
    jobs = [
        (name, budget)
        for name in names
        for budget in trials.budgets
        if any((r["case"], r["budget"]) == (nameless_case(name), budget) for r in episodes)
    ]  # those whose anchors lie far apart
    with stage("Privileged search") as notes, counted(len(jobs), "search") as progress:
        found = kept.found(jobs)
        progress(len(found))
        if found:
            notes.append(f"{len(found)} were done before")

        def done(job: Job, result: Found) -> None:
            kept.add(job, result)
            found[job] = result
            progress(len(found))

        left = [job for job in jobs if job not in found]
        search_all(search, environment, left, workers, done)
        notes.append(f"{sum(f.n_plans for f in found.values())} plans")
    judge = environment.judge
    heuristics = [name for name in baselines if name != cfg.random]
    by_row = {(nameless_case(name), budget): found[name, budget] for name, budget in jobs}
    of_row = {nameless_case(name): case for name, case in cases.items()}
    rows = headroom_rows(episodes, by_row, of_row, cfg.random, heuristics, judge.budget_title)
    verdict = headroom(rows)

    text = f"{_table(rows, verdict)}\n\n{verdict}\n"
    (folder / "headroom.txt").write_text(text, encoding="utf-8")
    write_csv(rows, folder / "headroom.csv")
    write_json(folder / "headroom.json", {"env_id": environment.id, **verdict.as_dict()})
    print(f"\n{tables(played, judge)}\n\n{text}\nWritten to {folder}/")
    return verdict.gain


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _table(rows: list[dict], verdict) -> str:
    overall = {
        "case": "mean", "random": verdict.random, "best heuristic": verdict.best_heuristic,
        "privileged": verdict.privileged, "best plan": verdict.best_plan,
        "bound": verdict.bound, "highest": verdict.converged, "noise": verdict.noise,
        "plans": verdict.n_plans,
    }  # fmt: skip
    shown = [{k: v for k, v in row.items() if k != "heuristic"} for row in [*rows, overall]]
    return score_table(shown, decimals=dict.fromkeys(shown[0], 3))


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["headroom", *sys.argv[1:]]))
