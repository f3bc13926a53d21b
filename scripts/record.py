"""What every run leaves behind: progress on the screen, and a record that repeats it."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

PACKAGES = ("ptenv", "numpy", "scipy", "numba", "gymnasium", "stable-baselines3", "torch")


@contextmanager
def stage(title: str) -> Iterator[list[str]]:
    """Print what begins, and when it has ended the seconds and whatever was noted meanwhile."""
    began, notes, title = time.perf_counter(), [], f"{title:<20}"
    print(title, end=" ", flush=True)
    try:
        yield notes
    except BaseException:
        print("failed", flush=True)
        raise
    again = f"\r{title} " if sys.stdout.isatty() else ""  # a progress bar may have taken the line
    print(f"{again}{time.perf_counter() - began:6.2f} s  {'; '.join(notes)}", flush=True)


@contextmanager
def solver_progress(total: int | None) -> Iterator[Callable[[int, float, np.ndarray], None]]:
    """A bar on a terminal, nothing elsewhere; yields the callback that a solver takes."""
    with tqdm(total=total, unit="it", leave=False, disable=None) as bar:

        def show(iteration: int, value: float, weights: np.ndarray) -> None:
            bar.set_postfix(objective=f"{value:.4g}", refresh=False)
            bar.update(iteration - bar.n)

        yield show


def output_folder() -> Path:
    """The folder of this run: ``output``, or the numbered part of a sweep below it."""
    return Path(HydraConfig.get().runtime.output_dir)


def save_record(cfg: DictConfig, folder: Path) -> None:
    """Write the resolved configuration; beside it overrides, revision, versions and platform."""
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    record = {
        "overrides": list(HydraConfig.get().overrides.task),
        "revision": _revision(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> dict[str, str | bool] | None:
    """Git revision of the source and whether it was changed since; None for an installed wheel."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        tracked = _git(here, "ls-files", Path(__file__).name)
        dirty = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": head, "dirty": bool(dirty)} if tracked else None


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return run.stdout.strip()
