"""What ``ptenv train agent=bc`` does: a dataset, its validation patients, and the cloned policy."""

import csv
import inspect
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import gymnasium as gym
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from agents.energy_layers.training import CURVE, read_curve
from agents.environments import AnyEnvironment
from agents.offline import datasets
from agents.offline.collection import comparable
from agents.offline.module import Cloning, set_deviation
from agents.offline.policies import new_model
from agents.offline.steps import Batches, Steps, StepsModule, steps_of
from agents.rl.trained import DESCRIPTION, save_agent
from agents.voxel_sampling.recorded import Recorded
from ptenv.cases.patients import name_without_path

if TYPE_CHECKING:
    from minari import MinariDataset

CLONING, LAST, BEST = "cloning", "last", "best"
OF_REWARDS = ("reward", "terminal", "limit", "goals", "budget")  # no action depends on them
NOISE = (".*LeafSpec.*", "Checkpoint directory .* exists")  # of Lightning; we do mean to go on
HELD_OUT_EVERY = 5  # patient, where no dataset of validation patients is there
Progress = Callable[[str, int, int, float], None]  # run, epochs done, of how many, loss


@dataclass(frozen=True, eq=False)
class Lessons:
    """Steps to learn from and steps held out, of different patients, and where they are from."""

    environment: AnyEnvironment
    learned: Steps
    held_out: Steps
    about: Mapping  # what a benchmark must know: cases, dataset, env_id …

    def __str__(self) -> str:
        return (
            f"{self.about['dataset']}: {len(self.learned)} steps, {len(self.held_out)} held out"
        )


@dataclass(frozen=True)
class CloningLearner:
    """Clones the behavior of a ``dataset`` (the id of its training patients).

    ``validation`` is the dataset that stops the training, None: that of the validation patients,
    and where that is not there a fifth of the patients is held out. ``root`` is the folder of
    datasets, None: Minari's. ``best`` is the share of episodes that is learned from, those that
    score best of each case and budget. After ``patience`` epochs without a lower loss it ends.
    """

    dataset: str | None = None
    validation: str | None = None
    root: str | None = None
    best: float = 1.0
    max_epochs: int = 200
    patience: int = 15
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    net_arch: Sequence[int] = (256, 256)
    unit: ClassVar[str] = "epoch"

    def __post_init__(self):
        for name in ("max_epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"learning_rate={self.learning_rate} must be positive, weight_decay="
                f"{self.weight_decay} 0 or more."
            )
        if not 0 < self.best <= 1:
            raise ValueError(f"best={self.best} must lie in 0 … 1, 0 excluded.")

    def examples(self, environment: AnyEnvironment) -> Lessons:
        """The dataset's steps, once it is sure that they are of this environment."""
        if self.dataset is None:
            raise ValueError("agent.dataset is missing; give the id of one: agent.dataset=ID.")
        dataset = datasets.load(self.dataset, self.root)
        refuse_another_environment(environment, dataset)
        cases, held_out, validation = self._held_out(environment, dataset)
        return Lessons(
            environment, steps_of(dataset, self.best, cases),
            steps_of(validation, self.best, held_out),
            {
                "env_id": dataset.env_spec.id, "settings": dataset.env_spec.kwargs,
                "dataset": dataset.id, "validation": validation.id,
                "quality": datasets.about(dataset)["quality"],
                "cases": sorted({*map(name_without_path, cases or _cases(dataset))}),
                "chosen_on": sorted({*map(name_without_path, held_out or _cases(validation))}),
            },
        )  # fmt: skip

    def learn(
        self, examples: Lessons, folder: Path, seed: int,
        progress: Progress = lambda run, done, total, loss: None, logger: Callable | None = None,
    ) -> None:  # fmt: skip
        """Train into ``agent/``; a stopped run goes on from its last epoch, a finished one is as it
        is. The same seed gives the same weights."""
        if (folder / "agent" / DESCRIPTION).exists():
            return
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)  # we tell the progress ourselves
        L.seed_everything(seed, verbose=False)
        env = examples.environment.make_for_training()
        model = new_model(env, seed, self.net_arch)
        module = Cloning(model.policy, partial(
            torch.optim.AdamW, lr=self.learning_rate, weight_decay=self.weight_decay
        ))  # fmt: skip
        steps = StepsModule(examples.learned, examples.held_out, self.batch_size, seed)
        self._fit(module, steps, folder, progress, logger)
        if isinstance(env.action_space, gym.spaces.Box):
            order = np.arange(len(steps.held_out))
            set_deviation(module, Batches(steps.held_out, order, self.batch_size))
        _save(model, folder / "agent", examples, seed)

    def summary(self, folder: Path) -> str:
        curve = read_curve(folder / CLONING)
        if not curve:
            return "trained before"
        best = min(curve, key=lambda row: row["validation/loss"])
        return (
            f"loss {best['train/loss']:.4f}, {best['validation/loss']:.4f} on held-out patients "
            f"after {best['epoch']:.0f} of {len(curve)} epochs"
        )

    def curves(self, folder: Path) -> dict[str, tuple[list[float], list[float]]]:
        """Losses by epoch, to be drawn."""
        curve = read_curve(folder / CLONING)
        names = {"recorded": "train/loss", "held-out patients": "validation/loss"}
        return {
            title: ([row["epoch"] for row in curve], [row[key] for row in curve])
            for title, key in names.items() if curve
        }  # fmt: skip

    def _fit(self, module: Cloning, steps: StepsModule, folder: Path, progress, logger) -> None:
        """Fit, and leave the weights with the lowest loss on held-out patients in the module."""
        kept = folder / CLONING
        stop = EarlyStopping("validation/loss", patience=self.patience)
        best = ModelCheckpoint(
            kept, BEST, monitor="validation/loss", save_on_train_epoch_end=True,
            enable_version_counter=False,
        )  # fmt: skip
        last = ModelCheckpoint(
            kept, LAST, save_on_train_epoch_end=True, enable_version_counter=False
        )
        begun = kept / f"{LAST}.ckpt"
        recorded = logger and Recorded(logger(folder / "log", len(read_curve(kept))))
        trainer = L.Trainer(
            max_epochs=self.max_epochs, accelerator="cpu", logger=recorded or False,
            deterministic=True, enable_progress_bar=False, enable_model_summary=False,
            log_every_n_steps=1, num_sanity_val_steps=0, gradient_clip_val=1.0,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[_Curve(kept, self.max_epochs, progress), stop, best, last],
        )  # fmt: skip
        goes_on = {"ckpt_path": str(begun), "weights_only": False} if begun.exists() else {}
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message)
            trainer.fit(module, datamodule=steps, **goes_on)
        found = torch.load(kept / f"{BEST}.ckpt", weights_only=False)
        module.load_state_dict(found["state_dict"])
        module.eval()

    def _held_out(self, environment, dataset: "MinariDataset"):
        """Cases to learn from (None: all), cases held out, and the dataset of these."""
        named = self.validation or datasets.of_split(self.dataset, "validation")
        with datasets.datasets_in(self.root):
            there = datasets.is_there(datasets.usual_root(), named)
        if self.validation is not None or there:
            validation = datasets.load(named, self.root)
            refuse_another_environment(environment, validation)
            both = sorted(set(_cases(dataset)) & set(_cases(validation)))
            if both:
                raise ValueError(
                    f"validation={named!r} has patients of {dataset.id!r}, {both}; choose another."
                )
            return None, None, validation
        cases = _cases(dataset)
        if len(cases) < 2:
            raise ValueError(
                f"dataset={dataset.id!r} is of one patient, and there is no {named!r}: nobody can "
                "be held out. Record more patients, or name agent.validation."
            )
        held_out = set(cases[:: -HELD_OUT_EVERY])
        return set(cases) - held_out, held_out, dataset


def refuse_another_environment(environment: AnyEnvironment, dataset: "MinariDataset") -> None:
    """A dataset is learned from in the environment that it was recorded in."""
    env, spec = environment.make_for_training(), dataset.env_spec
    if spec.id != env.spec.id:
        raise ValueError(
            f"dataset={dataset.id!r} was recorded in {spec.id}, env has {env.spec.id}; choose the "
            "env of the dataset."
        )
    here, there = _settings(env, env.spec.kwargs), _settings(env, spec.kwargs)
    other = {k: (there[k], here[k]) for k in here if here[k] != there[k]}
    if other:
        told = "; ".join(f"{k} {a!r}, env has {b!r}" for k, (a, b) in other.items())
        raise ValueError(
            f"dataset={dataset.id!r} was recorded with {told}: give env the same, such as "
            f"env.{next(iter(other))}=…"
        )


def _settings(env: gym.Env, given: Mapping) -> dict:
    """What an environment's actions and observations depend on, defaults included, plain."""
    parameters = inspect.signature(type(env.unwrapped)).parameters.values()
    settings = comparable({**{p.name: p.default for p in parameters}, **given})
    kept = {k: v for k, v in settings.items() if k not in (*OF_REWARDS, "cache")}
    return json.loads(json.dumps(kept))


def _cases(dataset: "MinariDataset") -> list[str]:
    """Ids of the cases that a dataset has episodes of."""
    return sorted({about["case"] for about in datasets.of_episodes(dataset)})


def _save(model, folder: Path, examples: Lessons, seed: int) -> None:
    """Write the agent aside and rename it: what is there is whole."""
    aside = folder.with_name(f".{folder.name}-{os.getpid()}")
    settings = examples.environment.learner_settings()
    save_agent(model, aside, settings, {**examples.about, "seed": seed})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


class _Curve(L.Callback):
    """Writes the losses of every epoch, and tells them."""

    def __init__(self, folder: Path, n_epochs: int, progress: Progress):
        self.folder, self.n_epochs, self.progress = folder, n_epochs, progress
        folder.mkdir(parents=True, exist_ok=True)

    def on_train_start(self, trainer, module) -> None:  # a checkpoint is in by now
        self.rows = [r for r in read_curve(self.folder) if r["epoch"] <= trainer.current_epoch]

    def on_train_epoch_end(self, trainer, module) -> None:
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k}
        self.rows.append({"epoch": trainer.current_epoch + 1, **figures})
        with (self.folder / CURVE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        loss = figures["validation/loss"]
        self.progress("behavior cloning", trainer.current_epoch + 1, self.n_epochs, loss)
