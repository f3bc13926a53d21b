"""Where training figures go: csv files in the output folder, and whatever else is wished."""

from pathlib import Path

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    Logger,
    SummaryWriter,
    TensorBoardOutputFormat,
)


def csv_logger(folder: Path, n_steps: int) -> Logger:
    """A csv file for the run from ``n_steps`` on; one that goes on later begins another."""
    return Logger(str(folder), [csv_output(folder, n_steps)])


def tensorboard_logger(folder: Path, n_steps: int) -> Logger:
    """The csv file, and event files that ``tensorboard --logdir`` shows."""
    if SummaryWriter is None:
        raise ImportError("logger=tensorboard needs tensorboard: pip install tensorboard.")
    outputs = [csv_output(folder, n_steps), TensorBoardOutputFormat(folder)]
    return Logger(str(folder), outputs)


def csv_output(folder: Path, n_steps: int) -> CSVOutputFormat:
    """The csv file of a run from ``n_steps`` on."""
    folder.mkdir(parents=True, exist_ok=True)
    return CSVOutputFormat(str(_csv_path(folder, n_steps)))


def _csv_path(folder: Path, n_steps: int) -> Path:
    return folder / f"progress_{n_steps:07d}.csv"
