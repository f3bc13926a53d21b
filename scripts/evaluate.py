"""Compare agents and baselines on the same episodes: score, Q, plan metrics, pictures.

Writes into the folder ``output``: scores.txt and .csv, episodes.csv and .jsonl (with the actions,
to play them again), pictures/, config.yaml, record.json.
"""

import sys

from hydra.utils import instantiate
from omegaconf import DictConfig

from agents.evaluation import mean_score
from agents.trained import trained_agents
from engine.parallel import threads
from ptenv.processes import preload_workers
from scripts.comparison import EVERY_AGENT, build_cases, compare, tables
from scripts.record import output_folder, save_record


def run(cfg: DictConfig) -> float:
    """One comparison; returns the mean score of the agent that is drawn, for sweeps."""
    folder = output_folder()
    save_record(cfg, folder)
    environment = instantiate(cfg.env, _convert_="all")
    trials = instantiate(cfg.trials, _convert_="all").of(environment)
    cases = environment.chosen_cases(cfg.cases, cfg.split, cfg.n_cases)
    agents = dict(instantiate(cfg.baselines, _convert_="all"))
    agents |= trained_agents(cfg.agents)
    drawn = _drawn(cfg.picture_of, list(agents))
    workers = cfg.workers or threads()
    preload_workers("agents.rl.trained", "agents.evaluation")

    build_cases(environment, cases, workers, "Cases")
    rows = compare(environment, agents, cases, trials, workers, folder, drawn)
    drawn = list(agents)[-1] if drawn == EVERY_AGENT else drawn

    print(f"\n{tables(rows, environment.judge)}\n\nWritten to {folder}/")
    return mean_score(rows, drawn)


def _drawn(wished: str | None, names: list[str]) -> str:
    if not names:
        raise ValueError("agents=[] and no baselines: nobody would play; name one.")
    if wished not in (None, EVERY_AGENT, *names):
        known = [*names, EVERY_AGENT]
        raise ValueError(f"picture_of={wished!r} does not play; choose from {known}.")
    return wished or names[-1]


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
