"""Train the U-Net on arcs: one run with checkpoints, and cross-validation over folds.

The paper trains 1000 epochs at a learning rate of 1e-5 in batches of 16 on a graphics card; the
defaults here take fewer steps at a higher rate, which reach the same losses in minutes.
"""

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from agents.energy_layers.examples import ArcExample, collated
from agents.energy_layers.losses import RobustObjective, TriObjective
from agents.energy_layers.module import LayerSelection
from agents.nets.sparc_unet import LEVELS, SparcUnet
from agents.network_folders import read_network, write_network

CHECKPOINT, CURVE, WEIGHTS, CARD = "last.ckpt", "curve.csv", "unet.pt", "unet.json"
Progress = Callable[[int, int, float], None]  # epochs done, of how many, validation loss


@dataclass(frozen=True)
class UnetTraining:
    """How the U-Net is trained; ``loss`` is a ``TriObjective`` or a ``RobustObjective``."""

    loss: TriObjective | RobustObjective = TriObjective()
    n_epochs: int = 90
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    levels: tuple[int, ...] = LEVELS
    periodic: bool = False
    logit_limit: float | None = None
    masked: bool = True  # layers that do not reach the target have no chance
    spared: str = "target-Brainstem"
    threads: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "levels", tuple(self.levels))
        for name in ("n_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")

    def new_net(self) -> SparcUnet:
        n_planes = 3 if self.loss.told_price else 2
        return SparcUnet(n_planes, self.levels, self.periodic, self.logit_limit)

    def train(
        self, learned: Sequence[ArcExample], held_out: Sequence[ArcExample], folder: Path,
        seed: int, progress: Progress = lambda done, total, loss: None,
        card: Mapping | None = None,
    ) -> SparcUnet:  # fmt: skip
        """The trained network; a checkpoint in ``folder`` is gone on from.

        Writes last.ckpt, curve.csv, unet.pt and unet.json, where ``card`` goes as well. The same
        seed gives the same weights.
        """
        if not learned:
            raise ValueError("learned is empty; give the examples of one arc or more.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)  # we tell the progress ourselves
        L.seed_everything(seed, verbose=False)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        optimizer = partial(
            torch.optim.AdamW, lr=self.learning_rate, weight_decay=self.weight_decay
        )
        module = LayerSelection(self.new_net(), self.loss, optimizer)
        trainer = L.Trainer(
            max_epochs=self.n_epochs, accelerator="cpu", logger=False, deterministic=True,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            log_every_n_steps=1, num_sanity_val_steps=0, gradient_clip_val=1.0,
            callbacks=[_Keep(folder, self.n_epochs, seed, progress)],
        )  # fmt: skip
        last = folder / CHECKPOINT
        loaders = self._loaders(learned, held_out or learned)
        trainer.fit(module, *loaders, ckpt_path=str(last) if last.exists() else None,
                    weights_only=False if last.exists() else None)  # fmt: skip
        save_unet(folder, module.net, self, {"seed": seed, "n_arcs": len(learned), **(card or {})})
        return module.net.eval()

    def cross_validate(
        self, examples: Sequence[ArcExample], folder: Path, seed: int, n_folds: int = 5,
        progress: Progress = lambda done, total, loss: None,
    ) -> list[tuple[SparcUnet, np.ndarray]]:  # fmt: skip
        """A network for every fold, trained on the others, and the indices that it held out."""
        folds = folds_of(len(examples), n_folds, seed)
        found = []
        for i, held_out in enumerate(folds):
            kept = np.setdiff1d(np.arange(len(examples)), held_out)
            net = self.train(
                [examples[j] for j in kept], [examples[j] for j in held_out],
                folder / f"fold_{i}", seed + i, progress,
            )  # fmt: skip
            found.append((net, held_out))
        return found

    def _loaders(self, learned, held_out):
        order = torch.Generator().manual_seed(0)
        return (
            DataLoader(_grouped(learned, self.batch_size), batch_size=None, shuffle=True,
                       generator=order),
            DataLoader(_grouped(held_out, self.batch_size), batch_size=None),
        )  # fmt: skip


def folds_of(n: int, n_folds: int, seed: int) -> list[np.ndarray]:
    """Indices cut at random into folds of about equal size, each ascending."""
    if not 2 <= n_folds <= n:
        raise ValueError(f"n_folds={n_folds} must lie in 2 … {n}, the number of arcs.")
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(part) for part in np.array_split(order, n_folds)]


def save_unet(folder: Path, net: SparcUnet, training: UnetTraining, card: dict) -> Path:
    """Weights and what is needed to build the network again."""
    description = {
        "network": "SparcUnet", "n_planes": net.n_planes, "levels": list(training.levels),
        "periodic": training.periodic, "logit_limit": training.logit_limit,
        "masked": training.masked, "spared": training.spared,
        "loss": type(training.loss).__name__, "told_price": training.loss.told_price, **card,
    }  # fmt: skip
    return write_network(folder, net, WEIGHTS, CARD, description)


def load_unet(folder: Path) -> tuple[SparcUnet, dict]:
    """The network of a folder that ``save_unet`` wrote, and its card."""
    card, weights = read_network(folder, WEIGHTS, CARD, "sparc_unet")
    net = SparcUnet(
        card["n_planes"], tuple(card["levels"]), card["periodic"], card["logit_limit"]
    )
    net.load_state_dict(weights)
    return net.eval(), card


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Losses by epoch that a run wrote."""
    path = folder / CURVE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


class _Keep(L.Callback):
    """After every epoch: a line of the curve, the progress, and now and then a checkpoint."""

    def __init__(self, folder: Path, n_epochs: int, seed: int, progress: Progress):
        self.folder, self.n_epochs, self.progress = folder, n_epochs, progress
        self.every = max(1, n_epochs // 20)

    def on_train_start(self, trainer, module) -> None:  # a checkpoint is in by now
        done = trainer.current_epoch
        kept = [row for row in read_curve(self.folder) if row["epoch"] <= done]
        self._write(kept)

    def on_train_epoch_end(self, trainer, module) -> None:
        epoch = trainer.current_epoch + 1
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k}
        row = {"epoch": epoch, **figures}
        new = not (self.folder / CURVE).exists() or (self.folder / CURVE).stat().st_size == 0
        with (self.folder / CURVE).open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        if epoch % self.every == 0 or epoch == self.n_epochs:
            aside = self.folder / f".{CHECKPOINT}"
            trainer.save_checkpoint(aside)
            aside.replace(self.folder / CHECKPOINT)
        self.progress(epoch, self.n_epochs, figures.get("validation/loss", float("nan")))

    def _write(self, rows: list[dict]) -> None:
        with (self.folder / CURVE).open("w", newline="", encoding="utf-8") as file:
            if rows:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


def _grouped(examples: Sequence[ArcExample], batch_size: int) -> list:
    """Batches of arcs of one size."""
    by_shape: dict[tuple, list[ArcExample]] = {}
    for example in examples:
        by_shape.setdefault(example.shape, []).append(example)
    return [
        collated(of[i : i + batch_size])
        for of in by_shape.values()
        for i in range(0, len(of), batch_size)
    ]
