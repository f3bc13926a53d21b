"""What ``logger=csv|wandb|tensorboard`` makes, as a Lightning logger."""

from collections.abc import Mapping

from lightning.pytorch.loggers import Logger as LightningLogger
from stable_baselines3.common.logger import Logger


class Recorded(LightningLogger):
    """Hands the figures of a Lightning run on to a logger that reinforcement learning uses too."""

    def __init__(self, logger: Logger):
        super().__init__()
        self.logger = logger

    @property
    def name(self) -> str:
        return "ptenv"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        """The run's folder holds its configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.logger.record(name, value)
        self.logger.dump(step or 0)

    def finalize(self, status: str) -> None:
        self.logger.close()
