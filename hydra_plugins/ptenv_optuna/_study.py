"""One Optuna study over Hydra jobs, which a second call goes on with.

hydra-optuna-sweeper runs ``n_trials`` more on every call, numbers its folders from 0 again, draws
the first suggestions of its seed again, and leaves what was running as it was. Here

- ``n_trials`` counts all trials of the study, and trial n works in folder n;
- a trial that was running keeps its parameters and its folder, where its training goes on;
- the draws of trial n depend on the seed and n alone, so that a sweep that was killed suggests what
  it would have suggested (with ``n_jobs=1``, where trials end in their order).
"""

import csv
from collections.abc import Sequence
from itertools import count, takewhile
from math import isfinite
from pathlib import Path

import numpy as np
import optuna
from hydra_plugins.hydra_optuna_sweeper._impl import (
    OptunaSweeperImpl,
    create_params_from_overrides,
)
from omegaconf import OmegaConf
from optuna.trial import Trial, TrialState

from scripts.configuration import WrongCall
from scripts.resume import NO_MATTER, only_run_in

SPACE, SETTINGS = "search space", "setting"  # what a study was begun with


class ResumedStudy(OptunaSweeperImpl):
    """``sampler`` is a partial that waits for its seed."""

    def __init__(
        self, sampler, seed, direction, storage, study_name, n_trials, n_jobs, max_failures, params
    ):
        super().__init__(
            sampler, direction, storage, study_name, n_trials, n_jobs, 0.0, None, None, params
        )
        self.seed, self.max_failures = seed, max_failures

    def sweep(self, arguments: list[str]) -> None:
        space, fixed = create_params_from_overrides(
            [*self._parse_sweeper_params_config(), *arguments]
        )
        if not space:
            raise WrongCall(
                "hydra/sweeper=optuna has nothing to search; choose space=ppo, or give a key as "
                "'KEY=interval(LOW,HIGH)' or KEY=A,B."
            )
        with only_run_in(Path(self.sweep_dir)):
            study = self._study(space, fixed)
            while batch := self._next_trials(study):
                overrides = self._configure_trials(batch, space, fixed)
                self._launch(study, batch, overrides)
            self._report(study)

    def _study(self, space: dict, fixed: dict) -> optuna.Study:
        """The study of the storage, begun here unless it is there already."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self.study_name, storage=self.storage, sampler=self.sampler(seed=self.seed),
            direction=self.direction, load_if_exists=True,
        )  # fmt: skip
        asked = {
            SPACE: {name: str(of) for name, of in sorted(space.items())},
            SETTINGS: {name: str(v) for name, v in fixed.items() if name not in NO_MATTER},
        }
        for kind, now in asked.items():
            before = study.user_attrs.get(kind, now)
            if before != now:
                name = next(n for n in {**before, **now} if before.get(n) != now.get(n))
                raise WrongCall(
                    f"{self.sweep_dir}/ was begun with another {kind} of {name}: "
                    f"{before.get(name)}, now {now.get(name)}; give the same to go on, or name "
                    "another output=FOLDER."
                )
            study.set_user_attr(kind, now)
        return study

    def _next_trials(self, study: optuna.Study) -> list[Trial]:
        """Trials that were stopped, lowest first; when there are none, new ones."""
        known = study.get_trials(deepcopy=False)
        stopped = [t for t in known if t.state == TrialState.RUNNING]
        if stopped:
            expected = count(stopped[0].number)
            row = list(takewhile(lambda t: t.number == next(expected), stopped))[: self.n_jobs]
            print("Going on with trial", ", ".join(str(trial.number) for trial in row))
            return [Trial(self._seeded(study, trial.number), trial._trial_id) for trial in row]
        first, end = len(known), min(len(known) + self.n_jobs, self.n_trials)
        return [self._seeded(study, number).ask() for number in range(first, end)]

    def _seeded(self, study: optuna.Study, number: int) -> optuna.Study:
        """The study with the draws of one trial."""
        entropy = np.random.SeedSequence([self.seed, number])
        study.sampler = self.sampler(seed=int(entropy.generate_state(1)[0]))
        return study

    def _launch(self, study, batch: list[Trial], overrides: Sequence[Sequence[str]]) -> None:
        returns = self.launcher.launch(overrides, initial_job_idx=batch[0].number)
        for trial, job in zip(batch, returns):
            self._tell(study, trial, job)

    def _tell(self, study: optuna.Study, trial: Trial, job) -> None:
        try:
            score = float(job.return_value)  # raises what the job raised
            if not isfinite(score):
                raise ValueError(f"the score is {score}")
        except Exception as error:
            study.tell(trial, state=TrialState.FAIL)
            print(f"Trial {trial.number} failed: {error}")
            failed = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.FAIL]
            if len(failed) > self.max_failures:
                raise
        else:
            study.tell(trial, score)

    def _report(self, study: optuna.Study) -> None:
        """trials.csv, best.yaml (overrides of the best trial), and the best on the screen."""
        trials = study.get_trials(deepcopy=False)
        folder = Path(self.sweep_dir)
        _write_trials(trials, folder / "trials.csv")
        if not any(t.state == TrialState.COMPLETE for t in trials):
            print("No trial ended with a score")
            return
        best = study.best_trial
        record = {"trial": best.number, "score": best.value, "overrides": dict(best.params)}
        OmegaConf.save(OmegaConf.create(record), folder / "best.yaml")
        chosen = " ".join(f"{name}={value}" for name, value in best.params.items())
        print(f"\n{len(trials)} trials; the best is {best.number}, score {best.value:.3f}: {chosen}"
              f"\nWritten to {folder}/trials.csv and best.yaml")  # fmt: skip


def _write_trials(trials: Sequence[optuna.trial.FrozenTrial], path: Path) -> None:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", "score", *names])
        for trial in trials:
            values = [trial.params.get(name, "") for name in names]
            score = "" if trial.value is None else trial.value
            table.writerow([trial.number, trial.state.name.lower(), score, *values])
