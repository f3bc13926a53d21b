"""Records of episodes: one JSON line each, with all that it takes to play it again.

A file is only ever appended to, line by line and down to the disk; a line that a kill cut short is
dropped when the file is next read, so that no more than the running episode is lost.
"""

import gzip
import json
import os
import zlib
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from jsonschema import Draft202012Validator

FORMAT = 1  # of a record; a change that older readers would misread counts it up
RECORDS = "records.jsonl"
MOST_BYTES = 2_000_000_000  # of a submission, unpacked
SCHEMA = Path(__file__).with_name("record.schema.json")


class Episode(NamedTuple):
    """Which episode of a suite a record is of."""

    task: str
    case: str
    budget: float
    run: int

    @classmethod
    def of(cls, record: Mapping) -> "Episode":
        e = record["episode"]
        return cls(record["task"], e["case"], float(e["budget"]), int(e["run"]))

    def __str__(self) -> str:
        return f"{self.task}, {self.case}, {self.budget:g}, run {self.run}"


class BrokenRecord(ValueError):
    """A line of a record file that is no record."""


def schema_error(record) -> str | None:
    """What is wrong with a record's form, or None."""
    error = next(iter(sorted(_validator().iter_errors(record), key=_place)), None)
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path) or "the record"
    return f"{where}: {error.message[:200]}"


def append_record(path: Path, record: Mapping) -> None:
    """Add a line and wait until it is on the disk."""
    wrong = schema_error(record)
    if wrong:
        raise ValueError(f"record cannot be written: {wrong}.")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())


def mend(path: Path) -> bool:
    """Cut a last line that was never finished; returns whether there was one."""
    if not path.exists():
        return False
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return False
    with path.open("r+b") as file:
        file.truncate(content.rfind(b"\n") + 1)
    return True


def read_records(path: Path) -> list[dict]:
    """All records of a file, plain or gzipped, or of the one in a folder.

    Raises `BrokenRecord` with the number of a line that is none.
    """
    path = records_in(path)
    try:
        lines = _content_of(path).decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BrokenRecord(f"{path} cannot be read ({error}).") from None
    return [_record(path, number, line) for number, line in enumerate(lines, start=1)]


def records_in(path: Path) -> Path:
    """The record file of a submission's folder, or the file itself."""
    for found in (path / RECORDS, path / f"{RECORDS}.gz") if path.is_dir() else (path,):
        if found.is_file():
            return found
    raise FileNotFoundError(f"{path}: no {RECORDS} there; give a folder that `ptenv benchmark run` "
                            "wrote.")  # fmt: skip


def digest_of_records(path: Path) -> str:
    """SHA-256 of what a record file holds, packed by gzip or not."""
    return sha256(_content_of(records_in(path))).hexdigest()


def _content_of(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    with gzip.open(path) as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise BrokenRecord(f"{path} unpacks to more than {MOST_BYTES // 10**6} MB.")
    return content


def _record(path: Path, number: int, line: str) -> dict:
    try:
        record = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(f"{path}, line {number} is no JSON ({error}).") from None
    wrong = schema_error(record)
    if wrong:
        raise BrokenRecord(f"{path}, line {number} is no record: {wrong}.")
    return record


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no number")


def _place(error) -> str:
    return ".".join(str(part) for part in error.absolute_path)


@lru_cache(maxsize=1)
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
