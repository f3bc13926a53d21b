"""The learning curve: what finished episodes scored, by environment steps."""

import csv
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

ALWAYS = ("n_steps", "n_episodes", "return", "rounds")


class CurveRecorder(BaseCallback):
    """Appends a line to a csv file every ``every`` steps: means over the episodes since.

    A run that goes on from a checkpoint drops the lines after it.
    """

    def __init__(self, path: Path, every: int = 512, figures: tuple[str, ...] = ("score", "Q")):
        super().__init__()
        self.path, self.every, self.figures = path, every, figures
        self.fields = (*ALWAYS, *figures)
        self.episodes: list[dict] = []
        self.due = 0

    def _on_training_start(self) -> None:
        kept = [line for line in read_curve(self.path) if line["n_steps"] <= self.num_timesteps]
        write_curve(self.path, kept, self.fields)
        self.due = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        self.episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        if self.num_timesteps >= self.due and self.episodes:
            self._append()
        return True

    def _append(self) -> None:
        columns = {"return": "r", "rounds": "l"} | {name: name for name in self.figures}
        means = {k: float(np.mean([e[v] for e in self.episodes])) for k, v in columns.items()}
        line = {"n_steps": self.num_timesteps, "n_episodes": len(self.episodes), **means}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.fields).writerow(line)
        for name in self.figures:
            self.logger.record(f"episode/{name}", line[name])
        self.episodes, self.due = [], self.num_timesteps + self.every

    def _on_training_end(self) -> None:
        if self.episodes:
            self._append()


def read_curve(path: Path) -> list[dict[str, float]]:
    """Lines of the file; the one that a kill cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lines, names = list(reader), reader.fieldnames or []
    whole = (line for line in lines if all(line.get(name) for name in names))
    return [{name: float(line[name]) for name in names} for line in whole]


def write_curve(path: Path, lines: list[dict[str, float]], fields: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(lines)
