"""Submissions as a board takes them: read, judged by what validation wrote, or refused."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ptenv.benchmark.entry import ENTRY, Entry, digest_of_entry, read_entry
from ptenv.benchmark.records import BrokenRecord, Episode, digest_of_records, read_records
from ptenv.benchmark.suite import Suite
from ptenv.benchmark.validation import FIGURES, VALIDATION, claims

ENOUGH_SEEDS = 5  # training seeds of a learner


def printable(text: str) -> str:
    """A stranger's text without control characters, which terminals would obey."""
    return "".join(c if c.isprintable() else "�" for c in str(text))


@dataclass(frozen=True, eq=False)
class Submission:
    """A submission that holds, its records with the figures that whoever validated it replayed.

    ``validated`` is "yes", "partly" or "no", ``note`` says why it is not "yes", ``replayed`` how
    replay agreed. ``reference`` are the scores by the reference engine, or why there is none.
    """

    folder: Path
    entry: Entry
    records: Sequence[Mapping]
    validated: str
    note: str
    replayed: str
    reference: Mapping[Episode, float | str]

    @property
    def is_learner(self) -> bool:
        return self.entry.learned is not None

    @property
    def n_seeds(self) -> int | None:
        """Training seeds of a learner; None for what did not learn.

        Runs of a trained entry are its seeds; a file is believed when it names what each run
        learned from; a network among the baselines was trained once.
        """
        if not self.is_learner:
            return None
        n_learned = len(self.entry.learned)
        if self.entry.kind == "trained" or (
            self.entry.kind == "file" and n_learned == self.entry.n_runs
        ):  # fmt: skip
            return self.entry.n_runs
        return 1

    @property
    def runs_are_seeds(self) -> bool:
        return self.n_seeds == self.entry.n_runs


@dataclass(frozen=True)
class Refused:
    """What the board does not rank, and why; a stranger's words, made printable."""

    name: str
    reasons: tuple[str, ...]

    def __post_init__(self):
        object.__setattr__(self, "name", printable(self.name))
        object.__setattr__(self, "reasons", tuple(map(printable, self.reasons)))


@dataclass(frozen=True, eq=False)
class Read:
    """All submissions of a call."""

    accepted: tuple[Submission, ...]
    refused: tuple[Refused, ...]


def read_submissions(
    paths: Sequence[str | Path], suite: Suite, split: str = "test", unvalidated: bool = False
) -> Read:
    """The submissions in some folders, or in folders of folders.

    ``unvalidated`` accepts those that nobody has replayed yet; they get no rank.
    """
    accepted, refused, named = [], [], {}
    for folder in _folders(paths):
        found = _read(folder, suite, split, unvalidated)
        name = found.entry.name if isinstance(found, Submission) else found.name
        if name in named:
            raise ValueError(
                f"submissions {named[name]} and {folder} are both named {name!r}; give one of them "
                "another name, or leave it out."
            )
        named[name] = folder
        (accepted if isinstance(found, Submission) else refused).append(found)
    return Read(tuple(accepted), tuple(refused))


def _folders(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"submissions={path} does not exist; check the path.")
        inside = [path] if (path / ENTRY).is_file() else sorted(
            p.parent for p in path.glob(f"*/{ENTRY}")
        )  # fmt: skip
        if not inside:
            raise ValueError(
                f"submissions={path} holds no submission (no {ENTRY} in it or in a folder of it); "
                "give folders that `ptenv benchmark run` wrote."
            )
        found += inside
    if not found:
        raise ValueError(
            "submissions=[] names none; give folders that `ptenv benchmark run` wrote."
        )
    return list({folder.resolve(): folder for folder in found}.values())


def _read(folder: Path, suite: Suite, split: str, unvalidated: bool) -> Submission | Refused:
    try:
        entry = read_entry(folder)
    except (ValueError, TypeError, RecursionError) as error:
        return Refused(folder.name, (f"its {ENTRY} cannot be read: {error}",))
    if entry.suite != suite.name:
        raise ValueError(
            f"submission {folder} is of suite {entry.suite!r}, the board is of {suite.name!r}; "
            "name submissions of one suite."
        )
    try:
        records = read_records(folder)
    except (BrokenRecord, FileNotFoundError, RecursionError) as error:
        return Refused(entry.name, (str(error),))
    wrong = _claimed(entry, records, suite, split)
    if wrong:
        return Refused(entry.name, tuple(wrong))
    found = _validation(folder, suite, len(records))
    if found.validated is None or (found.validated == "no" and not unvalidated):
        return Refused(entry.name, (found.note,))
    return Submission(
        folder, entry, _as_replayed(records, found.figures), found.validated, found.note,
        found.replayed, found.reference,
    )  # fmt: skip


def _as_replayed(records: Sequence[Mapping], figures: Mapping[Episode, Mapping]) -> list[dict]:
    """Records whose figures are the validator's: elsewhere a submitter's may lie within the
    tolerance, and where episodes part they are his word alone."""
    return [
        {**record, "result": {**record["result"], **figures.get(Episode.of(record), {})}}
        for record in records
    ]


def _claimed(entry: Entry, records: Sequence[Mapping], suite: Suite, split: str) -> list[str]:
    """Faults that show without replay; they are looked for again, for files change."""
    if entry.split != split:
        return [f"it was played on split {entry.split}, the board is of {split}"]
    unknown = sorted(set(entry.tasks) - {task.name for task in suite.tasks})
    if unknown:
        return [f"it names tasks that {suite.name} has not: {', '.join(unknown)}"]
    return claims(entry, records, suite)


class _Found(NamedTuple):
    """What a validation says; ``validated`` is None where it refuses."""

    validated: str | None
    note: str
    replayed: str = ""
    reference: Mapping[Episode, float | str] = {}
    figures: Mapping[Episode, Mapping[str, float]] = {}


def _validation(folder: Path, suite: Suite, n_records: int) -> _Found:
    path = folder / VALIDATION
    if not path.is_file():
        return _Found("no", "it was not validated: `ptenv benchmark validate FOLDER` replays it")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        holds, complete = plain["holds"] is True, plain["complete"] is True
        n_replayed, n_exact = int(plain["n_replayed"]), int(plain["n_exact"])
        apart, reasons = float(plain["largest_difference"]), [str(r) for r in plain["refused"]]
        found = [(_episode(e["episode"]), e) for e in plain["episodes"]]
        reference = {
            name: _scored(e["reference"], e["reference_why_not"]) for name, e in found
        }
        figures = {name: _figures(e["figures"]) for name, e in found if e["figures"] is not None}
        of_records, of_suite = plain["records_sha256"], plain["suite_digest"]
        of_entry = plain["entry_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return _Found("no", f"{VALIDATION} cannot be read ({error!r}); validate it again")
    if of_records != digest_of_records(folder) or of_entry != digest_of_entry(folder):
        return _Found(
            None, "its records or its entry were changed after validation; validate it again"
        )
    if of_suite != suite.digest:
        return _Found(
            None, "it was validated with another freezing of the suite; validate it again"
        )
    if not holds:
        return _Found(None, "; ".join(reasons) or "validation refused it")
    replayed = (
        f"{n_replayed} of {n_records} episodes replayed, {n_exact} of them to the last bit; scores "
        f"differ by {apart:.2g} at most"
    )
    if complete and n_replayed == n_records:
        return _Found("yes", "", replayed, reference, figures)
    note = f"{n_replayed} of {n_records} episodes were replayed"
    return _Found("partly", note, replayed, reference, figures)


def _episode(plain: Sequence) -> Episode:
    task, case, budget, run = plain
    return Episode(str(task), str(case), float(budget), int(run))


def _figures(plain: Mapping) -> dict[str, float]:
    figures = {name: float(plain[name]) for name in FIGURES}
    if not all(map(math.isfinite, figures.values())):
        raise ValueError(f"figures {figures} are no numbers")
    return figures


def _scored(score, why_not) -> float | str:
    if score is None:
        return str(why_not or "not scored by the reference engine")
    if isinstance(score, bool) or not math.isfinite(score):
        raise ValueError(f"reference score {score!r} is no number")
    return float(score)
