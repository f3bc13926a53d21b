"""Begin a sealed season: publish the hash of a secret from which test patients will follow."""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from ptenv.benchmark.entry import checked_name
from ptenv.benchmark.season import seal, write_season
from ptenv.benchmark.suite import load_suite


def run(cfg: DictConfig) -> None:
    """Write NAME.json and NAME.secret; neither replaces one that is there."""
    name = checked_name(str(cfg.name))
    load_suite(cfg.suite)  # refuses what is none, before anything is published
    folder = Path(cfg.output)
    folder.mkdir(parents=True, exist_ok=True)
    public, kept = folder / f"{name}.json", folder / f"{name}.secret"
    for path in (public, kept):
        if path.exists():
            raise ValueError(f"name={name}: {path} is there already; take another name.")
    season, secret = seal(name, str(cfg.suite), cfg.site, cfg.n_patients)
    with open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{secret}\n")
    write_season(season, public)
    print(f"Publish {public}; keep {kept} to yourself until the season is revealed.")


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "seal", *sys.argv[1:]]))
