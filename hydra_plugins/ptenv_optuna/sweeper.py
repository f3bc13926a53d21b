"""``hydra/sweeper=optuna`` of ptenv: hydra-optuna-sweeper, made to go on where it was killed.

Hydra imports this module in every application of the environment, so Optuna is imported later.
"""

import sys

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ResumedOptunaSweeper(Sweeper):
    """Searches with one Optuna study; the arguments are those of ``conf/hydra/sweeper``."""

    def __init__(
        self, sampler, seed: int, direction: str, storage: str, study_name: str, n_trials: int,
        n_jobs: int, max_failures: int, params: DictConfig | None,
    ):  # fmt: skip
        from ._study import ResumedStudy

        self.study = ResumedStudy(
            sampler, seed, direction, storage, study_name, n_trials, n_jobs, max_failures, params
        )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.study.setup(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from scripts.configuration import WrongCall

        try:
            self.study.sweep(arguments)
        except WrongCall as wrong:
            print(f"ptenv: {wrong}", file=sys.stderr)
            raise SystemExit(2) from None
