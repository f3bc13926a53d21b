"""What ``ptenv train agent=sparc_unet`` does: arcs, folds, and the network that is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agents.energy_layers.examples import ArcExample
from agents.energy_layers.training import UnetTraining, folds_of, read_curve
from ptenv.cases.energy_layer_build import arc_inputs
from ptenv.cases.patients import name_without_path

Progress = Callable[[str, int, int, float], None]  # run, epochs done, of how many, loss


class Arcs(list[ArcExample]):
    """Examples that say what they are, and whose."""

    env_id = ""
    learned_on: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self)} arcs of {self[0].shape[0]} angles"


@dataclass(frozen=True)
class UnetLearner:
    """Trains on the arcs of the training cases, and of ``cases`` beside them.

    With ``n_folds`` networks are first trained on all folds but one each, whose loss says what to
    expect of new patients; the network that is kept in ``agent/`` learns from all arcs.
    """

    training: UnetTraining
    n_folds: int | None = 5
    cases: Sequence[str] = ()
    unit: ClassVar[str] = "epoch"

    def examples(self, environment) -> "Arcs":
        """The training arcs: traced, without any dose."""
        player = environment.make().unwrapped
        found = Arcs()
        for case in [*environment.training_cases(), *self.cases]:
            _, geometry, counts, sequencing = arc_inputs(player.case_recipe(case))
            found.append(ArcExample.of(geometry, counts, sequencing, self.training.spared))
        found.env_id = environment.id
        found.learned_on = tuple(
            name_without_path(c) for c in [*environment.training_cases(), *self.cases]
        )
        return found

    def learn(
        self, examples: Arcs, folder: Path, seed: int,
        progress: Progress = lambda run, done, total, loss: None, logger: Callable | None = None,
    ) -> None:  # fmt: skip
        """Cross-validate in ``folds/``, then train on everything into ``agent/``.

        Figures go into every run's curve.csv alone, whatever ``logger`` there is.
        """
        if self.n_folds:
            for i, held_out in enumerate(folds_of(len(examples), self.n_folds, seed)):
                out = set(held_out.tolist())
                self.training.train(
                    [e for j, e in enumerate(examples) if j not in out],
                    [examples[j] for j in held_out], folder / "folds" / f"fold_{i}", seed + i,
                    lambda done, total, loss, i=i: progress(f"fold {i}", done, total, loss),
                )  # fmt: skip
        self.training.train(
            examples, [], folder / "agent", seed,
            lambda done, total, loss: progress("all arcs", done, total, loss),
            {"env_id": examples.env_id, "learned_on": list(examples.learned_on)},
        )  # fmt: skip

    def summary(self, folder: Path) -> str:
        """Losses at the end: mean over the folds' held-out arcs, and on all that were learned."""
        held_out = [c[-1]["validation/loss"] for c in self._folds(folder) if c]
        learned = read_curve(folder / "agent")[-1]["train/loss"]
        if not held_out:
            return f"loss {learned:.4f}"
        return f"loss {learned:.4f}, {sum(held_out) / len(held_out):.4f} on held-out folds"

    def curves(self, folder: Path) -> dict[str, tuple[list[float], list[float]]]:
        """Loss by epoch of every run, to be drawn."""
        runs = {f"held-out fold {i}": (c, "validation/loss") for i, c in
                enumerate(self._folds(folder))}  # fmt: skip
        runs["all arcs, training"] = (read_curve(folder / "agent"), "train/loss")
        return {
            name: ([row["epoch"] for row in curve], [row[key] for row in curve])
            for name, (curve, key) in runs.items() if curve
        }  # fmt: skip

    @staticmethod
    def _folds(folder: Path) -> list[list[dict[str, float]]]:
        return [read_curve(f) for f in sorted((folder / "folds").glob("fold_*"))]
