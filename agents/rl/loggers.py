"""Where training figures go: csv files in the output folder, and whatever else is wished."""

from pathlib import Path

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    KVWriter,
    Logger,
    SummaryWriter,
    TensorBoardOutputFormat,
)


def csv_logger(folder: Path, n_steps: int) -> Logger:
    """A csv file for the run from ``n_steps`` on; one that goes on later begins another."""
    folder.mkdir(parents=True, exist_ok=True)
    return Logger(str(folder), [CSVOutputFormat(str(_csv_path(folder, n_steps)))])


def wandb_logger(
    folder: Path, n_steps: int, project: str = "ptenv", mode: str = "offline",
    name: str | None = None,
) -> Logger:  # fmt: skip
    """The csv file, and a run of Weights & Biases; offline needs no account."""
    if mode not in ("offline", "online", "disabled"):
        raise ValueError(f"mode={mode!r} is unknown; choose offline, online or disabled.")
    try:
        import wandb
    except ImportError as error:
        raise ImportError("logger=wandb needs wandb: pip install 'ptenv[agents]'.") from error
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project, mode=mode, name=name, dir=str(folder), resume="never",
        settings=wandb.Settings(silent=True),
    )  # fmt: skip
    return Logger(str(folder), [CSVOutputFormat(str(_csv_path(folder, n_steps))), WandbWriter(run)])


def tensorboard_logger(folder: Path, n_steps: int) -> Logger:
    """The csv file, and event files that ``tensorboard --logdir`` shows."""
    if SummaryWriter is None:
        raise ImportError("logger=tensorboard needs tensorboard: pip install tensorboard.")
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [CSVOutputFormat(str(_csv_path(folder, n_steps))), TensorBoardOutputFormat(folder)]
    return Logger(str(folder), outputs)


class WandbWriter(KVWriter):
    """Hands numbers on to a wandb run."""

    def __init__(self, run):
        self.run = run

    def write(self, key_values: dict, key_excluded: dict, step: int = 0) -> None:
        numbers = {k: v for k, v in key_values.items() if isinstance(v, (int, float))}
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


def _csv_path(folder: Path, n_steps: int) -> Path:
    return folder / f"progress_{n_steps:07d}.csv"
