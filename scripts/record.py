"""What every run leaves behind: progress on the screen, and a record that repeats it."""

import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from engine.errors import PhysicsWarning
from scripts.nameless import dicom_folders, nameless, without

if TYPE_CHECKING:
    from engine.dose.progress import Progress

LINE_EVERY_S = 10.0  # of progress in a log
PACKAGES = (
    "ptenv", "numpy", "scipy", "numba", "gymnasium", "stable-baselines3", "sb3-contrib", "torch",
    "lightning", "hydra-core", "wandb", "optuna", "hydra-optuna-sweeper", "hydra-submitit-launcher",
    "submitit", "ray", "hydra-ray-launcher",
)  # fmt: skip


@contextmanager
def stage(title: str) -> Iterator[list[str]]:
    """Print what begins, and when it has ended the seconds and whatever was noted meanwhile."""
    began, notes, title = time.perf_counter(), [], f"{title:<20}"
    told: list = []
    print(title, end=" ", flush=True)
    try:
        with _warnings_apart(told):
            yield notes
    except BaseException:
        print(f"{title} failed" if told else "failed", flush=True)
        raise
    again = f"{title} " if told else ""
    if sys.stdout.isatty():
        again = f"\r{title} "  # a progress bar may have taken the line
    print(f"{again}{time.perf_counter() - began:6.2f} s  {'; '.join(notes)}", flush=True)


@contextmanager
def _warnings_apart(told: list) -> Iterator[None]:
    """Warnings begin a line of their own, ours without the line of code, and are in ``told``."""
    show, spell = warnings.showwarning, warnings.formatwarning

    def show_below(message, *about):
        if not told:
            print(flush=True)  # ends what began the line
        told.append(message)
        show(message, *about)

    def spell_ours(message, category, filename, lineno, line=None):
        if issubclass(category, PhysicsWarning):
            return f"{category.__name__}: {message}\n"
        return spell(message, category, filename, lineno, line)

    warnings.showwarning, warnings.formatwarning = show_below, spell_ours
    try:
        yield
    finally:
        warnings.showwarning, warnings.formatwarning = show, spell


@contextmanager
def told_now_and_then(what: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line now and then elsewhere; yields what takes the number done."""
    spoken = time.perf_counter()
    with tqdm(unit=f" {what}", leave=False, disable=None) as bar:

        def show(done: int) -> None:
            nonlocal spoken
            bar.update(done - bar.n if not bar.disable else 0)
            if bar.disable and time.perf_counter() - spoken >= LINE_EVERY_S:
                spoken = time.perf_counter()
                print(f"\n  {done} {what}", end=" ", flush=True)

        yield show


@contextmanager
def solver_progress(total: int | None) -> Iterator[Callable[[int, float, np.ndarray], None]]:
    """A bar on a terminal, nothing elsewhere; yields the callback that a solver takes."""
    with tqdm(total=total, unit="it", leave=False, disable=None) as bar:

        def show(iteration: int, value: float, weights: np.ndarray) -> None:
            bar.set_postfix(objective=f"{value:.4g}", refresh=False)
            bar.update(iteration - bar.n)

        yield show


@contextmanager
def dose_progress() -> Iterator[Callable[..., None]]:
    """A bar on a terminal, a line now and then elsewhere; yields what an engine calls,
    with a second argument that names the part of the work.

    For use inside a ``stage``, whose title and notes stay on lines of their own.
    """
    spoken, n_lines = time.perf_counter(), 0
    with tqdm(unit="", unit_scale=True, leave=False, delay=0.5, disable=None) as bar:

        def show(progress: "Progress", part: str = "") -> None:
            nonlocal spoken, n_lines
            if progress.done < bar.n:  # the next part
                bar.reset()
            bar.total = progress.expected
            bar.set_description_str(part, refresh=False)
            bar.set_postfix_str(f"{progress.unit}{_so_far(progress)}", refresh=False)
            bar.update(progress.done - bar.n)
            if not sys.stdout.isatty() and time.perf_counter() - spoken >= LINE_EVERY_S:
                print(f"\n  {_line(part, progress)}", end="", flush=True)
                spoken, n_lines = time.perf_counter(), n_lines + 1

        try:
            yield show
        finally:
            if n_lines:
                print(f"\n{'':<20}", end=" ", flush=True)


def _line(part: str, progress: "Progress") -> str:
    done, expected = progress.done, max(progress.expected, 1)
    of = f"{amount(done)} of {amount(expected)} {progress.unit} ({100 * done // expected} %)"
    return f"{part}: {of}{_so_far(progress)}" if part else f"{of}{_so_far(progress)}"


def _so_far(progress: "Progress") -> str:
    percent = progress.uncertainty_percent
    return "" if np.isnan(percent) else f", uncertainty so far {percent:.2g} %"


def amount(n: int) -> str:
    """A large number as a person says it: 52 000, 1.25 million."""
    return f"{n / 1e6:.3g} million" if n >= 1e6 else f"{n:,}".replace(",", " ")


def output_folder() -> Path:
    """The folder of this run: ``output``, or the numbered part of a sweep below it."""
    return Path(HydraConfig.get().runtime.output_dir)


def save_record(cfg: DictConfig, folder: Path, overrides: list[str] | None = None) -> None:
    """Write the resolved configuration; beside it overrides (None: Hydra's), seeds, revision,
    versions and platform. Neither tells the paths of DICOM folders."""
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(nameless(cfg)), encoding="utf-8")
    given = list(HydraConfig.get().overrides.task) if overrides is None else overrides
    folders = dicom_folders(OmegaConf.to_container(cfg, resolve=True))
    record = {
        "overrides": [without(override, folders) for override in given],
        "seeds": seeds(OmegaConf.to_container(cfg, resolve=True)),
        "revision": _revision(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def seeds(settings: Mapping, prefix: str = "") -> dict[str, int]:
    """Every seed of a configuration, by its full name."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= seeds(value, f"{prefix}{key}.")
        elif str(key) == "seed":
            found[f"{prefix}{key}"] = value
    return found


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
