"""Weights & Biases beside the csv files: one run a folder, whatever kills and continues it.

A run is ``folder/log`` with its id in ``wandb_run``; config.yaml and record.json of ``folder`` are
its configuration. Offline every call leaves an ``offline-run-…`` of the same id, which ``wandb
sync`` sends one after the other.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
import yaml
from stable_baselines3.common.logger import KVWriter, Logger

from agents.rl.loggers import csv_output
from engine.evaluation.dvh import Dvh

MODES = ("offline", "online", "disabled")
RUN_ID, STEPS, LEVELS = "wandb_run", "n_steps", 200


@dataclass(frozen=True)
class WandbLogger:
    """``logger(folder, n_steps)`` begins or goes on; ``show`` adds what the run came to.

    ``group`` and ``tags`` find runs again: a sweep's runs share the folder above them as a group
    where none is named. ``mode`` offline needs no account.
    """

    project: str = "ptenv"
    mode: str = "offline"
    name: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is unknown; choose offline, online or disabled.")

    def __call__(self, folder: Path, n_steps: int) -> Logger:
        csv = csv_output(folder, n_steps)
        return Logger(str(folder), [csv, WandbWriter(self.run(folder))])

    def run(self, log: Path):
        """The run of a log folder: the one whose id lies there, or a new one."""
        try:
            import wandb
        except ImportError as error:
            raise ImportError("logger=wandb needs wandb: pip install 'ptenv[agents]'.") from error
        log.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project, mode=self.mode, dir=str(log), id=_run_id(log), resume="allow",
            name=self.name, group=self.group or _sweep_of(log.parent), tags=list(self.tags),
            config=_configuration(log.parent), settings=wandb.Settings(silent=True),
        )  # fmt: skip
        run.define_metric("*", step_metric=STEPS)  # a run that goes on may repeat steps
        return run

    def show(self, folder: Path, score: float, histograms: Mapping[str, Mapping[str, Dvh]]) -> None:
        """Add the score, the pictures of plans and the learning curve, and the DVH of each case."""
        import wandb

        run = self.run(folder / "log")
        shown: dict = {"score": score}
        for path in [*sorted((folder / "pictures").glob("*.png")), folder / "learning_curve.png"]:
            if path.exists():
                shown[f"pictures/{path.stem}"] = wandb.Image(str(path), caption=path.stem)
        rows = []
        for case, of in histograms.items():
            if of:
                levels, curves = dvh_curves(of)
                rows += _rows(case, levels, curves)
                shown[f"dvh/{case}"] = wandb.plot.line_series(
                    levels.tolist(), [c.tolist() for c in curves.values()], list(curves),
                    title=f"{case}: volume in %", xname="Gy (RBE)",
                )  # fmt: skip
        columns = ["case", "structure", "dose_gy", "volume_percent"]
        shown["dvh/all"] = wandb.Table(columns=columns, data=rows)
        run.log(shown)
        run.summary["score"] = score
        run.finish()


class WandbWriter(KVWriter):
    """Hands numbers on to a wandb run."""

    def __init__(self, run):
        self.run = run

    def write(self, key_values: dict, key_excluded: dict, step: int = 0) -> None:
        numbers = {k: v for k, v in key_values.items() if isinstance(v, (int, float))}
        self.run.log({**numbers, STEPS: step})

    def close(self) -> None:
        self.run.finish()


def dvh_curves(histograms: Mapping[str, Dvh]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Doses (m,) in Gy (RBE), and per structure the percent (m,) of its volume at each or more."""
    levels = np.linspace(0.0, 1.02 * max(h.max_gy for h in histograms.values()), LEVELS)
    return levels, {name: dvh.curve(levels) for name, dvh in histograms.items()}


def _rows(case: str, levels: np.ndarray, curves: Mapping[str, np.ndarray]) -> list[list]:
    return [
        [case, name, float(dose), float(percent)]
        for name, curve in curves.items()
        for dose, percent in zip(levels, curve)
    ]


def _run_id(log: Path) -> str:
    """The id that lies in the folder; of a new run that of a W&B agent, or a new one."""
    path = log / RUN_ID
    if not path.exists():
        new = os.environ.get("WANDB_RUN_ID") or token_hex(4)
        path.write_text(f"{new}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _sweep_of(folder: Path) -> str | None:
    """The sweep's folder, where this run is a numbered part of one."""
    return folder.parent.name if (folder.parent / "multirun.yaml").exists() else None


def _configuration(folder: Path) -> dict:
    """Settings, and under ``record`` overrides, seeds, revision and versions."""
    settings, record = folder / "config.yaml", folder / "record.json"
    if not settings.exists():
        return {}
    found = yaml.safe_load(settings.read_text(encoding="utf-8"))
    kept = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    return {**found, "record": kept}
