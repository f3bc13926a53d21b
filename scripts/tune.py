"""Search settings of training with Ray Tune, which stops trials that learn too slowly.

Every trial is a run of ``ptenv train`` in a folder of its own. Writes into ``output``: trials/
(their folders), ray/ (the state of the search), results.csv and .json, best.yaml (what the best
trial overrides), best_config.yaml, config.yaml, record.json. A search that was stopped goes on when
it is called with the same ``output``.
"""

import csv
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from agents.rl.curve import read_curve
from ptenv.rendering import score_table
from scripts.configuration import composed
from scripts.record import output_folder, save_record
from scripts.resume import RESULT, comparable, only_run_in
from scripts.train import train_and_judge

TRIALS, STATE, OUTPUT = "trials", "ray", "output.txt"
OWN = ("tune", "space", "output")  # keys that are not of a trial
NEVER = 2**62  # steps
LEARNED, JUDGED, STEPS = "training_score", "score", "n_steps"


def run(cfg: DictConfig) -> float:
    """Search; returns the best mean score on the cases that judge."""
    if not find_spec("ray"):
        raise ValueError("ptenv tune needs Ray: pip install 'ptenv[ray]'.")
    if cfg.split == "test" or HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            f"split={cfg.split}: tune chooses settings, in one search of its own; take "
            "split=validation and no -m, then judge what was chosen by ptenv train split=test."
        )
    folder = output_folder().resolve()
    with only_run_in(folder):
        _refuse_another_search(cfg, folder)
        save_record(cfg, folder)
        found = list(_search(cfg, folder))
        rows = [_row(folder, result) for result in found]
        if all(row["state"] != "finished" for row in rows):
            rows = _finish_best(found, rows, folder)
        return _report(rows, folder)


def _finish_best(found: list, rows: list[dict], folder: Path) -> list[dict]:
    """The trial that learned best brought to its end, where early stopping left none to judge.

    A search that was killed can end so: what Ray kept of the trials at their first comparison is
    older than the trials themselves.
    """
    stopped = [i for i, row in enumerate(rows) if row["state"] == "stopped early"]
    if not stopped:
        return rows
    scores = {i: rows[i]["training_score"] for i in stopped}
    best = max(stopped, key=lambda i: -math.inf if scores[i] is None else scores[i])
    print(f"All trials were stopped early; bringing {rows[best]['trial']} to its end", flush=True)
    overrides = trials_part(list(HydraConfig.get().overrides.task))
    _train_trial(overrides, folder, found[best].config, lambda n_steps, score: None)
    return [_row(folder, result) if i == best else rows[i] for i, result in enumerate(found)]


def _search(cfg: DictConfig, folder: Path):
    """Ray's results, of a search that begins or goes on."""
    import ray
    from ray import tune

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # paths of a call mean the same in its trials
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "10")
    overrides = trials_part(list(HydraConfig.get().overrides.task))
    trial = trainable(overrides, folder, cfg.tune.report_every)
    trial = tune.with_resources(trial, {"cpu": cfg.tune.cpus_per_trial})
    search = searcher(cfg.tune.searcher, cfg.tune.seed)
    state = folder / STATE
    if not ray.is_initialized():
        ray.init(**OmegaConf.to_container(cfg.tune.ray, resolve=True))
    try:
        if tune.Tuner.can_restore(str(state)):
            print(f"Going on with the search in {folder}/", flush=True)
            return tune.Tuner.restore(str(state), trial, restart_errored=True).fit()
        return _new_search(cfg, folder, trial, search).fit()
    finally:
        ray.shutdown()


def _new_search(cfg: DictConfig, folder: Path, trial: Callable, search):
    from ray import tune

    space = {key: domain(key, text) for key, text in cfg.space.items()}
    return tune.Tuner(
        trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=cfg.tune.n_trials, max_concurrent_trials=cfg.tune.n_jobs,
            search_alg=search, scheduler=instantiate(cfg.tune.early_stopping),
            reuse_actors=True,  # their imports take longer than a small trial
            trial_dirname_creator=lambda trial: f"{name_of(trial.config)}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=STATE, storage_path=str(folder), verbose=1,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )  # fmt: skip


def trainable(overrides: list[str], folder: Path, report_every: int) -> Callable[[dict], None]:
    """What Ray runs for a trial: compose the configuration and train, telling Ray now and then.

    A trial that begins anew goes on from the checkpoints in its folder, whose name tells its
    settings; Ray needs no checkpoints of its own.
    """

    def trial(settings: dict) -> None:
        from ray import tune

        last = {STEPS: 0, LEARNED: float("nan")}

        def tell(n_steps: int, score: float | None) -> None:
            if score is not None and n_steps >= last[STEPS] + report_every:
                last.update({STEPS: n_steps, LEARNED: score})
                tune.report(dict(last))

        score = _train_trial(overrides, folder, settings, tell)
        tune.report({**last, JUDGED: score})

    return trial


def _train_trial(overrides: list[str], folder: Path, settings: Mapping, tell: Callable) -> float:
    """The score of a trial, from its first step or its last checkpoint."""
    of_trial = [*overrides, *(f"{key}={value}" for key, value in settings.items())]
    own = folder / TRIALS / name_of(settings)
    cfg = composed("train", [*of_trial, f"output='{own}'"])
    with _printing_to(own / OUTPUT):
        return train_and_judge(cfg, own, of_trial, sweeps=True, tell=tell)


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1, encoding="utf-8") as file, redirect_stdout(file):
        yield


def name_of(settings: Mapping) -> str:
    """A short name that goes by the settings: the same trial finds its folder again."""
    return sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:10]


def domain(key: str, text: str):
    """A sweep in Hydra's writing (``interval``, ``choice``, ``range``; ``tag(log, …)``) for Ray."""
    from ray import tune

    override = OverridesParser.create().parse_override(f"{key}={text}")
    if not override.is_sweep_override():
        raise ValueError(
            f"space has {key}={text}, which is no sweep; write interval(LOW,HIGH), "
            "tag(log,interval(LOW,HIGH)), choice(A,B) or range(FROM,TO)."
        )
    if override.is_discrete_sweep():
        return tune.choice(list(override.sweep_string_iterator()))
    interval = override.value()
    log, (low, high) = "log" in interval.tags, (interval.start, interval.end)
    if isinstance(low, int) and isinstance(high, int):
        return (tune.lograndint if log else tune.randint)(low, high + 1)
    return (tune.loguniform if log else tune.uniform)(low, high)


def searcher(name: str, seed: int):
    """What proposes settings: at random, or Optuna's TPE from the training scores so far."""
    if name == "random":
        from ray.tune.search import BasicVariantGenerator

        return BasicVariantGenerator(random_state=seed)
    if name != "optuna":
        raise ValueError(f"tune.searcher={name} is unknown; choose random or optuna.")
    if (_installed("optuna") or "0").split(".")[0] < "3":
        raise ValueError(
            f"tune.searcher=optuna needs optuna>=3 (here: {_installed('optuna')}), which cannot be "
            "beside ptenv[sweep]; take an environment without it, or tune.searcher=random."
        )
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(metric=LEARNED, mode="max", seed=seed)


def successive_halving(grace_period: int, reduction_factor: float):
    """ASHA (Li et al. 2020) by training scores; a trial that reaches its last step ends itself."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=STEPS, metric=LEARNED, mode="max", max_t=NEVER, grace_period=grace_period,
        reduction_factor=reduction_factor,
    )  # fmt: skip


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def trials_part(overrides: list[str]) -> list[str]:
    """The overrides that trials get."""
    keys = (override.lstrip("+~").split("=")[0] for override in overrides)
    return [o for o, key in zip(overrides, keys) if key.split(".")[0].split("@")[0] not in OWN]


def _refuse_another_search(cfg: DictConfig, folder: Path) -> None:
    if not (folder / STATE).exists():
        return
    before, now = (_settings(c) for c in (OmegaConf.load(folder / "config.yaml"), cfg))
    if before != now:
        key = next(k for k in now if before.get(k) != now[k])
        raise ValueError(
            f"output={folder} was begun with another {key} (its config.yaml says which); give the "
            "same to go on, or name another folder."
        )


def _settings(cfg: DictConfig) -> dict:
    """What a search that goes on must share with its beginning: all but where it runs."""
    settings = comparable(cfg)
    return {**settings, "tune": {k: v for k, v in settings["tune"].items() if k != "ray"}}


def _row(folder: Path, result) -> dict:
    """One trial: how it ended, what it scored, its settings."""
    name = name_of(result.config)
    own = folder / TRIALS / name
    curve = read_curve(own / "learning_curve.csv")
    row = {
        "trial": name, "state": _state(own, result), "score": _score(own),
        "training_score": curve[-1]["score"] if curve else None,
        "n_steps": int(curve[-1]["n_steps"]) if curve else 0,
    }  # fmt: skip
    return {**row, **result.config}


def _state(own: Path, result) -> str:
    if result.error is not None:
        return "failed"
    return "finished" if (own / RESULT).exists() else "stopped early"


def _score(own: Path) -> float | None:
    path = own / RESULT
    return json.loads(path.read_text(encoding="utf-8"))["score"] if path.exists() else None


def _report(rows: list[dict], folder: Path) -> float:
    """The table, best first, on the screen and in files; the best score."""
    rows = sorted(rows, key=lambda row: -1e9 if row["score"] is None else row["score"])[::-1]
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"\n{score_table([_shown(row) for row in rows], decimals=3)}")
    if rows[0]["score"] is None:
        raise RuntimeError(f"no trial came to its end; {folder}/{STATE}/*/error.txt say why.")
    best = rows[0]
    settings = {k: v for k, v in best.items() if "." in k}
    record = {"trial": best["trial"], "score": best["score"], "overrides": settings}
    OmegaConf.save(OmegaConf.create(record), folder / "best.yaml")
    shutil.copy(folder / TRIALS / best["trial"] / "config.yaml", folder / "best_config.yaml")
    print(f"\nThe best: {' '.join(f'{k}={v}' for k, v in settings.items())}\nWritten to {folder}/")
    return best["score"]


def _shown(row: Mapping) -> dict:
    """A row of the table, with the last words of the settings' names."""
    return {
        key.rsplit(".", 1)[-1]: f"{value:.3g}" if "." in key and isinstance(value, float) else value
        for key, value in row.items()
    }


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["tune", *sys.argv[1:]]))
