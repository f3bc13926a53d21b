"""Record a behavior, or demonstrations by hand, as Minari datasets split by patient.

Writes below the folder ``output``: ptenv/ENVIRONMENT/QUALITY-v0 for the training patients,
QUALITY-validation-v0 and QUALITY-test-v0, each with config.yaml and record.json. A run that was
stopped goes on when it is called again.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from agents.offline import datasets
from agents.offline.collection import Collection
from agents.offline.demonstrations import HUMAN, Demonstrations
from engine.parallel import threads
from ptenv.processes import preload_workers
from scripts.comparison import build_cases
from scripts.record import save_record, stage


def run(cfg: DictConfig) -> float:
    """Record and write; returns the mean score on the first split, for sweeps."""
    datasets.require_minari()
    root = Path(cfg.output)
    environment = instantiate(cfg.env, _convert_="all")
    if cfg.demonstrations is not None:
        scores, names = _play_demonstrations(cfg, environment, root)
    else:
        scores, names = _record_behavior(cfg, environment, root)
    for split, name in names.items():
        save_record(cfg, root / name)
        score = scores[split]
        error = "" if score["se"] is None else f" ± {score['se']:.3f}"
        size = sum(f.stat().st_size for f in (root / name).rglob("*") if f.is_file()) / 1e6
        episodes = datasets.load(name, root).total_episodes
        print(f"{name}: score {score['mean']:.3f}{error} on {score['n_cases']} patients, "
              f"{episodes} episodes, {size:.1f} MB")  # fmt: skip
    print(f"\nWritten to {root}/")
    return next(iter(scores.values()))["mean"]


def _record_behavior(cfg: DictConfig, environment, root: Path) -> tuple[dict, dict]:
    """Scores and ids of the datasets by split."""
    if cfg.quality not in cfg.behaviors:
        raise ValueError(f"quality={cfg.quality} is unknown; choose from {list(cfg.behaviors)}.")
    plain = OmegaConf.to_container(cfg.behaviors[cfg.quality], resolve=True)
    collection = Collection(
        environment, cfg.quality, instantiate(cfg.behaviors[cfg.quality], _convert_="all"),
        _cases(cfg, environment), instantiate(cfg.trials, _convert_="all"),
        _name(cfg, environment, cfg.quality), plain, cfg.author,
    )  # fmt: skip
    workers = cfg.workers or threads()
    preload_workers("agents.offline.collection")
    everyone = [case for split in collection.splits for case in collection.cases[split]]
    build_cases(environment, everyone, workers, "Patients")
    with stage("Recording") as notes, _progress(collection.n_episodes) as progress:
        collection.collect(root, workers, progress)
        notes.append(f"{collection.n_episodes} episodes")
    return collection.scores(root), collection.names


def _play_demonstrations(cfg: DictConfig, environment, root: Path) -> tuple[dict, dict]:
    """Scores and ids of the datasets by split."""
    demonstrations = Demonstrations(
        environment, Path(cfg.demonstrations), _name(cfg, environment, HUMAN), cfg.author
    )
    with stage("Demonstrations") as notes, _progress(len(demonstrations.records)) as progress:
        scores = demonstrations.collect(root, progress)
        notes.append(f"{len(demonstrations.records)} episodes")
    return scores, {split: datasets.of_split(demonstrations.name, split) for split in scores}


def _name(cfg: DictConfig, environment, quality: str) -> str:
    return cfg.dataset or datasets.dataset_id(environment.id, quality, number=cfg.number)


def _cases(cfg: DictConfig, environment) -> dict[str, list[str]]:
    """Cases by split: those named, or the first of each."""
    if cfg.cases is not None:
        named = OmegaConf.to_container(cfg.cases, resolve=True)
        if not isinstance(named, dict):
            raise ValueError(f"cases={named} must be {{train: […], validation: […], test: […]}}.")
        return {split: environment.chosen_cases(names, split, 1) if names else []
                for split, names in named.items()}  # fmt: skip
    wanted = {"train": cfg.n_cases, "validation": cfg.n_validation_cases, "test": cfg.n_test_cases}
    return {split: environment.chosen_cases(None, split, n) if n else []
            for split, n in wanted.items()}  # fmt: skip


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar; elsewhere than on a terminal ten lines."""
    told = [0]
    with tqdm(total=total, unit="episode", leave=False, disable=None) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n if not bar.disable else 0)
            tenth = 10 * done // total
            if bar.disable and tenth > told[0]:
                told[0] = tenth
                print(f"\n  {done:>6} of {total} episodes", end=" ", flush=True)

        yield show
    if told[0]:
        print(flush=True)


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["collect", *sys.argv[1:]]))
