"""Reveal a sealed season: check its secret and write the suite of its patients."""

import sys
import tomllib
from pathlib import Path

from omegaconf import DictConfig

from ptenv.benchmark.season import read_season, season_toml, write_season
from ptenv.benchmark.suite import definition_of, load_suite


def run(cfg: DictConfig) -> None:
    """Write season-NAME.toml beside the public file, which from now on holds the secret."""
    path, kept = Path(cfg.season), Path(cfg.secret)
    if not kept.is_file():
        raise FileNotFoundError(f"secret={kept}: no such file.")
    season = read_season(path).revealed(kept.read_text(encoding="utf-8").strip())
    base = tomllib.loads(definition_of(season.suite).read_text(encoding="utf-8"))
    suite = path.with_name(f"season-{season.name}.toml")
    suite.write_text(season_toml(season, base), encoding="utf-8")
    load_suite(suite, frozen=False)
    write_season(season, path)
    print(f"Written to {suite}; next: ptenv benchmark freeze suite={suite}")


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark", "reveal", *sys.argv[1:]]))
