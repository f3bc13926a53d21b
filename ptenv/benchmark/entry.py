"""An entry of a board: an agent, what it learned on, and the folder that its episodes go to."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from ptenv.benchmark.platforms import platform_of_here, software
from ptenv.benchmark.suite import Suite, Task

FORMAT = 1
ENTRY = "entry.json"
AGREE = ("suite", "suite_version", "suite_digest", "split", "agent_sha256", "n_runs")
NAME_LENGTH = 60
KINDS = ("rule", "trained", "file")
MOST_RUNS = 1000


class AgentSource(Protocol):
    """Where an agent comes from; picklable, for it is opened in worker processes."""

    kind: str  # rule, trained, file
    described: str  # in a word or two, without a path

    def agent(self, task: Task, run: int):
        """The agent of one run: for a learner that of one training seed."""

    def plays(self, task: Task) -> bool:
        """Whether it is meant for a task."""

    def learned(self) -> list[dict] | None:
        """Per training seed what it learned from ({"cases": […], …}); None: it did not learn."""

    def digest(self) -> str:
        """SHA-256 of all that it is made of."""


@dataclass(frozen=True)
class Entry:
    """What a submission says of itself."""

    name: str
    suite: str
    suite_version: int
    suite_digest: str
    split: str
    tasks: tuple[str, ...]
    n_runs: int
    kind: str
    described: str
    agent_sha256: str
    learned: tuple[Mapping, ...] | None

    @classmethod
    def of(
        cls, name: str, suite: Suite, split: str, tasks: Sequence[Task], n_runs: int,
        source: AgentSource,
    ) -> "Entry":  # fmt: skip
        learned = source.learned()
        return cls(
            checked_name(name), suite.name, suite.version, suite.digest, split,
            tuple(t.name for t in tasks), n_runs, source.kind, source.described, source.digest(),
            None if learned is None else tuple(learned),
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Into a new folder, or into one that the same agent began on the same suite."""
        path = folder / ENTRY
        if path.exists():
            self._refuse_another(read_entry(folder), folder)
            kept = tuple(dict.fromkeys([*read_entry(folder).tasks, *self.tasks]))
            content = {**self.__dict__, "tasks": kept}
        else:
            content = dict(self.__dict__)
        plain = {"format": FORMAT, **content, "software": software(),
                 "platform": platform_of_here()}  # fmt: skip
        aside = folder / f".{ENTRY}"
        aside.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, path)

    def _refuse_another(self, before: "Entry", folder: Path) -> None:
        differ = [name for name in AGREE if getattr(before, name) != getattr(self, name)]
        if differ:
            raise ValueError(
                f"output={folder} holds episodes of another entry: {', '.join(differ)} differ; "
                "name another folder, output=FOLDER."
            )


def read_entry(folder: Path) -> Entry:
    """The entry of a submission; says what is wrong with one that is none."""
    path = folder / ENTRY
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise FileNotFoundError(
            f"{folder}: no {ENTRY} there; give a folder that `ptenv benchmark run` wrote."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}).") from None
    fields = Entry.__dataclass_fields__
    if not isinstance(plain, dict) or plain.get("format") != FORMAT or set(fields) - set(plain):
        missing = sorted(set(fields) - set(plain)) if isinstance(plain, dict) else sorted(fields)
        raise ValueError(f"{path} is no entry of format {FORMAT}; it lacks {missing}.")
    try:
        return _entry_of({name: plain[name] for name in fields})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no entry: {error}.") from None


def _entry_of(plain: Mapping) -> Entry:
    learned = plain["learned"]
    entry = Entry(**{
        **plain, "tasks": tuple(plain["tasks"]),
        "learned": None if learned is None else tuple(learned),
    })  # fmt: skip
    _refuse_form(entry)
    return entry


def _refuse_form(entry: Entry) -> None:
    """Raise for what no run writes: a person may have written it."""
    checked_name(entry.name)
    if entry.kind not in KINDS:
        raise ValueError(f"its kind is {entry.kind!r}, none of {list(KINDS)}")
    if type(entry.n_runs) is not int or not 1 <= entry.n_runs <= MOST_RUNS:
        raise ValueError(f"its n_runs is {entry.n_runs!r}, not a number from 1 to {MOST_RUNS}")
    texts = [entry.suite, entry.split, entry.described, entry.agent_sha256, *entry.tasks]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("suite, split, described, agent_sha256 and tasks must be text")
    for run in entry.learned or ():
        cases = run.get("cases", []) if isinstance(run, Mapping) else None
        if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
            raise ValueError("learned must hold an object a training seed, each with a list cases")
    if entry.kind == "trained" and (entry.learned is None or len(entry.learned) != entry.n_runs):
        raise ValueError("it was trained, and does not say what each of its runs learned from")


def digest_of_entry(folder: Path) -> str:
    """SHA-256 of what a submission says of itself."""
    return sha256((folder / ENTRY).read_bytes()).hexdigest()


def checked_name(name: str) -> str:
    """A name that can head a row and be a folder."""
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_LENGTH or not name.isprintable():
        raise ValueError(f"name={name!r} must be 1 … {NAME_LENGTH} printable characters.")
    if any(c in name for c in '/\\<>"') or name.startswith("."):
        raise ValueError(f"name={name!r} must not hold / \\ < > \" or begin with a dot.")
    return name


def digest_of_files(folder: Path, names: Sequence[str] | None = None) -> str:
    """SHA-256 of the names and contents of some files of a folder, or of all."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    digest = sha256()
    for file in files:
        name = file.relative_to(folder).as_posix()
        if names is None or name in names:
            digest.update(f"{name}\0".encode())
            digest.update(sha256(file.read_bytes()).digest())
    return digest.hexdigest()
