"""Damaged DICOM files by the thousand: how the readers end on them.

A case is a number: the files, the damage and the reader follow from it, so that a case that failed
can be run again alone, by ``run(number, bases, folder)``.
"""

import linecache
import logging
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dicom_bases import PERSON
from dicom_damage import DAMAGES, chosen
from dicom_elements import Files
from dicom_readers import OF_ONE_FILE, READERS, suiting

import engine

GIVE_UP_S = 60.0
SHOWN = 300  # characters of a message
STRUCK_OUT = "…"  # of a file's name what might be a person's, which one letter may be
# How messages call what is wrong with several files together, or is for a key to say.
SETS = ("CT files", "slice", "in the folder", "n_fractions", "prescription_gy", "path=")
ENDS = ("read", "refused", "crash", "too slow")
_ENGINE = str(Path(engine.__path__[0]))
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in


@dataclass(frozen=True)
class Outcome:
    """How a case ended: "read", "refused", "crash" or "too slow"."""

    number: int
    damage: str
    target: str
    reader: str
    end: str
    message: str
    is_named: bool  # the message says which file or files
    tells_person: bool  # it, or what was returned, warned of or logged meanwhile
    seconds: float
    grown_mb: float  # largest memory above that at the beginning

    def __str__(self) -> str:
        return f"{self.number} ({self.damage} in {self.target}, {self.reader}): {self.message}"


class TooSlow(BaseException):
    """No ``Exception``, which readers turn into refusals."""


def run(number: int, bases: Mapping[str, Files], folder: Path) -> Outcome:
    """One case; the folder is left with its files."""
    for path in folder.iterdir():
        path.unlink()
    rng = np.random.default_rng(number)
    damage = list(DAMAGES)[number % len(DAMAGES)]
    files = dict(chosen(rng, list(bases.values())))
    target = chosen(rng, ["CT_0003.dcm", "RTSTRUCT.dcm", "RTPLAN.dcm", "RTDOSE.dcm"])
    reader = chosen(rng, suiting(target) if rng.random() < 0.9 else list(READERS))
    DAMAGES[damage](rng, files, target)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return _outcome(number, damage, target, reader, folder)


def table(outcomes: Iterable[Outcome]) -> str:
    """Cases by damage and end, with the slowest and the largest of each."""
    by_damage: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_damage.setdefault(outcome.damage, []).append(outcome)
    rows = [f"{'damage':18}" + "".join(f"{end:>10}" for end in ENDS) + "  slowest s  largest MB"]
    everything = [o for found in by_damage.values() for o in found]
    for damage, found in [*sorted(by_damage.items()), ("all", everything)]:
        counts = "".join(f"{sum(o.end == end for o in found):10d}" for end in ENDS)
        slowest, largest = max(o.seconds for o in found), max(o.grown_mb for o in found)
        rows.append(f"{damage:18}{counts}{slowest:11.2f}{largest:12.0f}")
    return "\n".join(rows)


def _outcome(number: int, damage: str, target: str, reader: str, folder: Path) -> Outcome:
    names = (target,) if reader in OF_ONE_FILE else (*(p.name for p in folder.iterdir()), *SETS)
    of, read = READERS[reader]
    end, message, is_named, returned = "read", "", True, ""
    began, before = time.perf_counter(), _memory_mb()
    with _heard() as heard, _limited(GIVE_UP_S):
        try:
            returned = read(folder, folder / target)
        except (ValueError, FileNotFoundError) as error:
            end = "refused" if _is_meant(error) else "crash"
            message = str(error) if end == "refused" else _traced(error)
            is_named = any(name in message for name in (*names, STRUCK_OUT))
        except TooSlow as error:
            end, message = "too slow", _traced(error)
        except Exception as error:
            end, message = "crash", _traced(error)
    seconds, grown_mb = time.perf_counter() - began, _peak_mb() - before
    said = " ".join([message, returned, *heard]).lower()
    tells_person = any(word in said for word in PERSON)
    return Outcome(
        number, damage, target, reader, end, message[:SHOWN], is_named, tells_person, seconds,
        grown_mb,
    )  # fmt: skip


def _is_meant(error: Exception) -> bool:
    """Whether a line of ours raised it, rather than numpy or Python on one of our lines."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    line = linecache.getline(file, trace.tb_lineno)
    return file.startswith(_ENGINE) and line.strip().startswith("raise ")


def _traced(error: BaseException) -> str:
    """The error and the lines of ours that led to it, last first."""
    places, trace = [], error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        places.append(f"{file.name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({' < '.join(places[:-7:-1])})"


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is warned of and logged meanwhile."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    logging.getLogger("pydicom").addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard
        heard += [str(warning.message) for warning in warned]
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("pydicom").removeHandler(handler)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def give_up(*_):
        raise TooSlow(f"still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _memory_mb() -> float:
    """Of the process at present, where the system lets its peak be forgotten; else its peak."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e6
