"""What ``ptenv train agent=pnet`` does: patients, plans in the loop, and the network kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agents.environments import AnyEnvironment, prepare_cases
from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.study import case_named
from agents.voxel_sampling.training import CURVE, SamplingTraining, read_csv
from engine.parallel import threads
from ptenv.cases.patients import checked_case, patient_content

Progress = Callable[[str, int, int, float], None]  # run, plans done, of how many, loss


@dataclass(frozen=True, eq=False)
class Cohort:
    """Patients to learn on and patients held out, and the environment that makes their cases."""

    environment: AnyEnvironment
    learned: list[CaseVolume]
    held_out: list[CaseVolume]

    def __str__(self) -> str:
        sizes = [v.size for v in self.learned]
        largest = max(sizes, key=lambda s: s[0] * s[1] * s[2])
        return (
            f"{len(self.learned)} patients, {len(self.held_out)} held out; largest volume "
            f"{' × '.join(map(str, largest))}"
        )


@dataclass(frozen=True)
class SamplingLearner:
    """Trains on the training cases of the environment and ``cases`` beside them.

    ``own_cases=False`` leaves out the environment's. ``held_out`` names the patients that are
    planned after every epoch; None: the first ``n_held_out`` of the validation split.
    """

    training: SamplingTraining
    cases: Sequence[str] = ()
    own_cases: bool = True
    held_out: Sequence[str] | None = None
    n_held_out: int = 4
    unit: ClassVar[str] = "plan"

    def examples(self, environment: AnyEnvironment) -> Cohort:
        """The patients' volumes; cases that the cache lacks are built."""
        own = environment.training_cases() if self.own_cases else []
        learned = list(dict.fromkeys([*own, *map(checked_case, self.cases)]))
        held_out = self._held_out(environment)
        known = {patient_content(c): c for c in learned}  # one patient may have two names
        both = sorted(known[key] for key in map(patient_content, held_out) if key in known)
        if both:
            raise ValueError(f"{both} are among the patients to learn on and held out; choose.")
        prepare_cases(environment, [*learned, *held_out], threads())
        volumes = {n: CaseVolume.of(case_named(environment, n), n) for n in [*learned, *held_out]}
        return Cohort(
            environment, [volumes[n] for n in learned], [volumes[n] for n in held_out]
        )

    def _held_out(self, environment: AnyEnvironment) -> list[str]:
        if self.held_out is not None:
            return [checked_case(c) for c in self.held_out]
        if self.n_held_out == 0:
            return []
        return environment.chosen_cases(None, "validation", self.n_held_out)

    def learn(
        self, examples: Cohort, folder: Path, seed: int,
        progress: Progress = lambda run, done, total, loss: None, logger: Callable | None = None,
    ) -> None:  # fmt: skip
        """Train into ``agent/``; a stopped run goes on."""
        self.training.train(
            examples.environment, examples.learned, examples.held_out, folder / "agent", seed,
            lambda done, total, loss: progress("plans", done, total, loss), logger,
        )  # fmt: skip

    def summary(self, folder: Path) -> str:
        """Where the last epoch stood."""
        last = read_csv(folder / "agent" / CURVE)[-1]
        said = f"loss {last['train/loss']:.4f}, {last['train/selected_percent']:.1f} % selected"
        validated = [r for r in read_csv(folder / "agent" / CURVE) if "validation/dD95_high" in r]
        if not validated:
            return said
        last = validated[-1]
        return (
            f"{said}; held out: {last['validation/selected_percent']:.1f} % selected, "
            f"ΔD95 {last['validation/dD95_high']:.2f} points"
        )

    def curves(self, folder: Path) -> dict[str, tuple[list[float], list[float]]]:
        """Loss by epoch, to be drawn."""
        curve = read_csv(folder / "agent" / CURVE)
        found = ([row["epoch"] for row in curve], [row["train/loss"] for row in curve])
        return {"training": found} if curve else {}
