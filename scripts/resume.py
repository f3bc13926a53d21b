"""One run at a time in a folder, and none twice: what lets a sweep that was killed go on.

A run holds a lock on its folder while it works, which the system opens when its process dies, and
ends by writing its score. A second call with the same configuration returns that score.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from scripts.nameless import nameless

RESULT, LOCK, CONFIG = "result.json", ".lock", "config.yaml"
NO_MATTER = ("output", "workers", "resume", "logger")  # change no number of a run


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Wait until no other process works in the folder, and keep others out.

    A killed sweep can leave jobs behind that still work (SLURM's, submitit's local ones); the sweep
    that goes on meets them here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process works in {folder}/; waiting for it to end", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def finished_score(cfg: DictConfig, folder: Path) -> float | None:
    """The score of a run that ended here with the same configuration; None: there is work left."""
    if not (folder / RESULT).exists() or not (folder / CONFIG).exists():
        return None
    if comparable(OmegaConf.load(folder / CONFIG)) != comparable(cfg):
        return None
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))["score"]


def comparable(cfg: DictConfig) -> dict:
    """The resolved configuration without what changes no number."""
    settings = OmegaConf.to_container(nameless(cfg))
    return {key: value for key, value in settings.items() if key not in NO_MATTER}


def begin(folder: Path) -> None:
    """Forget an earlier end: until ``finish`` there is work left."""
    (folder / RESULT).unlink(missing_ok=True)


def finish(folder: Path, score: float) -> None:
    """Keep the score, written aside and renamed: a kill leaves a whole file or none."""
    aside = folder / f".{RESULT}"
    aside.write_text(json.dumps({"score": score}) + "\n", encoding="utf-8")
    aside.replace(folder / RESULT)
