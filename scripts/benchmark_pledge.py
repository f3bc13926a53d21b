"""Pledge an agent to a sealed season: its hash, before the test patients are known."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ptenv.benchmark.entry import checked_name
from ptenv.benchmark.season import read_season, write_season
from scripts.benchmark_agents import agent_source


def run(cfg: DictConfig) -> None:
    """Add the pledge to the season's public file."""
    path = Path(cfg.season)
    season, digest = read_season(path), agent_source(cfg.agents).digest()
    write_season(season.pledged(checked_name(str(cfg.name)), digest), path)
    print(f"{cfg.name} is pledged to season {season.name} as {digest[:12]}…; publish {path}.")


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "pledge", *sys.argv[1:]]))
