"""Train a sampling network with plans in the loop: section 2.5.3 of Quarz 2024."""

import csv
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import torch

from agents.environments import AnyEnvironment
from agents.nets.pnet import MAX_VOXELS, PNet
from agents.network_folders import read_network, write_network
from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.losses import PseudoLabels
from agents.voxel_sampling.module import LearningRate, VoxelSampling
from agents.voxel_sampling.plans import Planner
from agents.voxel_sampling.policy_gradient import LocalCredit
from agents.voxel_sampling.recorded import Recorded
from agents.voxel_sampling.visits import (
    HELD_OUT,
    Turns,
    Visits,
    drawn_before,
    held_out_visits,
)
from engine.parallel import threads
from ptenv.cases.patients import name_without_path

CHECKPOINT, WEIGHTS, CARD = "last.ckpt", "pnet.pt", "pnet.json"
PLANS, CURVE, EPOCHS, REFERENCES = "plans.csv", "curve.csv", "epochs", "references.json"
LIMITS = "cases built like those it learned on: beams, dose grid, prescription, kinds of structures"
USE = "research on voxel sampling in treatment planning; no plan of it may treat a person"
Progress = Callable[[int, int, float], None]  # plans done, of how many, loss


@dataclass(frozen=True)
class SamplingTraining:
    """How a sampling network is trained; defaults are the paper's, but for what it leaves open.

    ``loss`` is ``PseudoLabels`` or ``LocalCredit``. ``workers`` processes make the plans (0: this
    one, between the steps), ``attempts`` times when one is killed. ``threads`` of the network;
    None: the cores that workers leave. A checkpoint every ``checkpoint_every`` plans; held-out
    patients are planned, and weights kept in epochs/, every ``validate_every`` epochs.
    ``largest_gradient`` bounds the norm; None does not.
    """

    loss: PseudoLabels | LocalCredit = PseudoLabels()
    turns: Turns = Turns()
    learning_rate: LearningRate = LearningRate()
    channels: int = 16
    side_channels: int | None = None
    selected: float = 0.5  # about what share of voxels an untrained network selects
    max_voxels: int = MAX_VOXELS
    bfloat16: bool = True
    largest_gradient: float | None = 1.0
    workers: int = 1
    attempts: int = 3
    threads: int | None = None
    checkpoint_every: int = 25
    validate_every: int = 1

    def __post_init__(self):
        for name in ("checkpoint_every", "validate_every", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if isinstance(self.loss, LocalCredit) and self.turns.even:
            raise ValueError(
                "even=true with LocalCredit: a policy's gradient wants voxels drawn one by one; "
                "give turns.even=false."
            )

    def new_net(self) -> PNet:
        return PNet(3, self.channels, self.side_channels, self.max_voxels, self.selected)

    def train(
        self, environment: AnyEnvironment, learned: Sequence[CaseVolume],
        held_out: Sequence[CaseVolume], folder: Path, seed: int,
        progress: Progress = lambda done, total, loss: None, logger: Callable | None = None,
        card: Mapping | None = None,
    ) -> PNet:  # fmt: skip
        """The trained network; a checkpoint in ``folder`` is gone on from, in mid-epoch too.

        Writes last.ckpt, plans.csv (a line a plan), curve.csv (a line an epoch), epochs/, pnet.pt
        and pnet.json. The same seed and number of threads give the same weights.
        ``logger(folder, n_steps)`` gets the figures besides.
        """
        self._check(learned, held_out)
        folder.mkdir(parents=True, exist_ok=True)
        L.seed_everything(seed, verbose=False)
        torch.set_num_threads(self.threads or max(1, threads() - self.workers))
        per_epoch = self.turns.per_epoch(len(learned))
        module = VoxelSampling(
            self.new_net(), replace(self.loss), lambda step: self.learning_rate(step / per_epoch),
            self.bfloat16,
        )
        with Planner(environment, self.workers, self.attempts) as planner:
            visits = self._visits(module, learned, planner, seed, folder / CHECKPOINT)
            references = _references(held_out, planner, self.turns, folder / REFERENCES)
            keep = _Keep(self, folder, visits, per_epoch, held_out, references, progress)
            if len(visits):
                trainer = self._trainer(keep, logger and logger(folder / "log", visits.step))
                trainer.fit(module, visits)
                keep.checkpoint(trainer)
        save_pnet(folder, module.net, self, {
            "seed": seed, "learned_on": [name_without_path(v.name) for v in learned],
            "environment": _plain(environment), **(card or {}),
        })  # fmt: skip
        return module.net.eval()

    def _check(self, learned, held_out) -> None:
        if not learned:
            raise ValueError("learned is empty; give the volume of one patient or more.")
        net = self.new_net()
        for volume in (*learned, *held_out):
            net.check_size(volume.size, volume.name)

    def _visits(self, module, learned, planner, seed: int, last: Path) -> Visits:
        """From the beginning, or from where a checkpoint stands; the module is brought there."""
        visits = Visits(learned, module.chances, planner, self.turns, seed, module.loss.second)
        if not last.exists():
            return visits
        checkpoint = torch.load(last, map_location="cpu", weights_only=False)
        state = checkpoint["visits"]
        if state["patients"] != [v.name for v in learned]:
            raise ValueError(
                f"{last} was begun with other patients ({len(state['patients'])}, now "
                f"{len(learned)}); name another folder, or give the same ones."
            )
        module.load_state_dict(checkpoint["state_dict"])
        module.optimizer_state = checkpoint["optimizer_states"][0]
        module.loss.remember(checkpoint["loss"])
        return replace(visits, step=state["step"], waiting=drawn_before(state))

    def _trainer(self, keep: L.Callback, logger) -> L.Trainer:
        """For Lightning a run is one epoch of turns, so that a stop lies always in its middle."""
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)  # we tell the progress ourselves
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*|.*does not have many w.*")
        return L.Trainer(
            max_epochs=1, accelerator="cpu", deterministic=True, callbacks=[keep],
            logger=False if logger is None else Recorded(logger), log_every_n_steps=1,
            gradient_clip_val=self.largest_gradient, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip


class _Keep(L.Callback):
    """After every plan a line and the progress; now and then a checkpoint; the held-out patients
    at the end of epochs.
    """

    def __init__(self, training, folder, visits, per_epoch, held_out, references, progress):
        self.training, self.folder, self.visits = training, folder, visits
        self.per_epoch, self.held_out, self.references = per_epoch, held_out, references
        self.progress = progress

    def on_train_start(self, trainer, module) -> None:
        """Lines after the checkpoint are of plans that are made again."""
        for path in (self.folder / PLANS, self.folder / CURVE):
            _write(path, [row for row in _lines(path) if float(row["step"]) <= self.visits.step])

    def on_train_batch_end(self, trainer, module, outputs, visit, index) -> None:
        step = visit.step + 1
        line = {"step": step, "epoch": step / self.per_epoch, "case": visit.volume.name,
                "learning_rate": module.rate(visit.step), **module.said}  # fmt: skip
        append(self.folder / PLANS, line)
        _log(trainer, {f"train/{name}": value for name, value in module.said.items()}, step)
        if step % self.per_epoch == 0:
            self._end_of_epoch(trainer, module, step)
        if step % self.training.checkpoint_every == 0:
            self.checkpoint(trainer)
        self.progress(step, self.visits.total, module.said["loss"])

    def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
        checkpoint["visits"] = {
            **self.visits.state(), "patients": [v.name for v in self.visits.volumes]
        }  # fmt: skip
        checkpoint["loss"] = module.loss.state()

    def _end_of_epoch(self, trainer, module, step: int) -> None:
        epoch = step // self.per_epoch
        of_it = [r for r in read_csv(self.folder / PLANS) if step - self.per_epoch < r["step"]]
        line = {"step": step, "epoch": epoch}
        line |= {f"train/{n}": _mean(of_it, n) for n in module.said}
        held_out = {}
        if epoch % self.training.validate_every == 0:
            folder = self.folder / EPOCHS
            folder.mkdir(exist_ok=True)
            torch.save(module.net.state_dict(), folder / f"pnet_{epoch:03d}.pt")
            held_out = self._validation(module)
            _log(trainer, held_out, step)
        append(self.folder / CURVE, {**line, **held_out})

    def _validation(self, module) -> dict[str, float]:
        """Means over the held-out patients, one sampling each."""
        if not self.held_out:
            return {}
        seed = self.visits.seed
        visits = held_out_visits(
            self.held_out, module.chances, self.visits.planner, self.training.turns, seed
        )
        rows = []
        for visit in visits:
            figures, of = visit.figures(), self.references[visit.volume.name]
            lost = [of["d95_percent"][t] - d for t, d in visit.plans[0].d95_percent.items()]
            figures |= {"objective_ratio": figures["objective"] / max(of["objective"], 1e-12),
                        "dD95_high": lost[0], "dD95_worst": max(lost)}  # fmt: skip
            rows.append(figures)
        return {f"validation/{name}": _mean(rows, name) for name in rows[0]}

    def checkpoint(self, trainer) -> None:
        aside = self.folder / f".{CHECKPOINT}"
        trainer.save_checkpoint(aside)
        aside.replace(self.folder / CHECKPOINT)


def _references(
    held_out: Sequence[CaseVolume], planner: Planner, turns: Turns, kept: Path
) -> dict[str, dict]:
    """The plans of the held-out patients on all voxels that may be selected; kept in a file."""
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    numbers = {
        v.name: planner.order(turns.order(v, np.ones(len(v.rows), bool), [0, HELD_OUT, i]))
        for i, v in enumerate(held_out) if v.name not in known
    }  # fmt: skip
    for name, number in numbers.items():
        plan = planner.plan(number)
        known[name] = {"objective": plan.objective, "d95_percent": plan.d95_percent}
    if numbers:
        kept.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return known


# ------------------------------------------------------------------ folders


def save_pnet(folder: Path, net: PNet, training: SamplingTraining, card: Mapping) -> Path:
    """Weights and what is needed to build the network again, what for and from what it learned."""
    description = {
        "network": "PNet", "channels": net.channels, "side_channels": net.side_channels,
        "max_voxels": net.max_voxels, "bfloat16": training.bfloat16,
        "loss": _plain(training.loss), "turns": _plain(training.turns),
        "learning_rate": _plain(training.learning_rate), **card, "use": USE, "limits": LIMITS,
    }  # fmt: skip
    return write_network(folder, net, WEIGHTS, CARD, description)


def load_pnet(folder: Path) -> tuple[PNet, dict]:
    """The network of a folder that ``save_pnet`` wrote, and its card."""
    card, weights = read_network(folder, WEIGHTS, CARD, "pnet")
    net = PNet(3, card["channels"], card["side_channels"], card["max_voxels"])
    net.load_state_dict(weights)
    return net.eval(), card


def _plain(thing) -> dict:
    """A dataclass as its settings, with the names of its kinds."""
    settings = {f.name: getattr(thing, f.name) for f in fields(thing) if f.init}
    plain = {name: _plain(v) if is_dataclass(v) else v for name, v in settings.items()}
    return {"kind": type(thing).__name__, **plain}


def read_csv(path: Path) -> list[dict]:
    """Lines of a file as numbers, where they are."""
    return [{k: _number(v) for k, v in row.items() if v} for row in _lines(path)]


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Mapping) -> None:
    """One more line; the file is written anew where it has other columns."""
    columns = _columns(path)
    if not set(row) <= set(columns):
        _write(path, [*_lines(path), row])
        return
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns).writerow(row)


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _write(path: Path, rows: Sequence[Mapping]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _log(trainer: L.Trainer, figures: dict[str, float], step: int) -> None:
    if trainer.logger is not None and figures:
        trainer.logger.log_metrics(figures, step)


def _mean(rows: Sequence[Mapping], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
