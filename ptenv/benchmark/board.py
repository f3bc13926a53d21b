"""What a board shows: a suite's entries per task, shifts out of distribution, data curves.

`board_making` computes it, `board_text` and `board_html` render it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from zlib import crc32

import numpy as np

from ptenv.benchmark.board_submissions import Refused
from ptenv.benchmark.statistics import N_BOOTSTRAP, Difference, Estimate, Profile

FAST, REFERENCE = RANKED_BY = ("fast", "reference")


@dataclass(frozen=True)
class Ranking:
    """How a board is made: ``by`` the scores of the fast engine or of the reference engine."""

    by: str = FAST
    split: str = "test"
    n_bootstrap: int = N_BOOTSTRAP
    seed: int = 0

    def __post_init__(self):
        if self.by not in RANKED_BY:
            raise ValueError(f"by={self.by!r} is unknown; choose from {list(RANKED_BY)}.")
        if self.n_bootstrap < 100:
            raise ValueError(f"n_bootstrap={self.n_bootstrap} must be at least 100.")

    def rng(self, *names: str) -> np.random.Generator:
        """A stream for one figure, the same whatever else is computed."""
        return np.random.default_rng([self.seed, *(crc32(name.encode()) for name in names)])


@dataclass(frozen=True)
class Reference:
    """Score by the reference engine over the ``n`` of ``n_episodes`` that it could judge.

    ``fast`` is the fast engine's score of the same plans.
    """

    estimate: Estimate | None
    fast: float | None
    n: int
    n_episodes: int
    why_not: str = ""

    @property
    def is_complete(self) -> bool:
        return self.n == self.n_episodes


@dataclass(frozen=True)
class CaseRow:
    """An entry at one case and budget: means over runs; ``difference`` to the best rule's score."""

    case: str
    budget: float
    score: float
    lowest: float
    highest: float
    quality: float
    cost: float
    reference: float | None
    difference: float | None


@dataclass(frozen=True, eq=False)
class Row:
    """An entry in one task.

    Quality, cost, seconds and calls are means over episodes. ``improvement`` is the probability
    that a run of it beats one of the best rule, ``difference`` its mean lead over patients.
    """

    name: str
    kind: str
    rank: int | None
    score: Estimate
    by_budget: tuple[Estimate | None, ...]
    reference: Reference
    quality: float
    cost: float
    spent: Mapping[str, float]
    n_invalid: float
    n_runs: int
    n_seeds: int | None
    n_episodes: int
    improvement: Estimate | None
    difference: Difference | None
    is_best_rule: bool
    validated: str
    note: str
    warnings: tuple[str, ...]
    profile: Profile
    cases: tuple[CaseRow, ...]


@dataclass(frozen=True, eq=False)
class TaskBoard:
    """One task's entries, best first.

    ``excluded`` are (case, budget) without a measurable gap; ``headroom`` is what was measured when
    the environment was frozen.
    """

    name: str
    env_id: str
    budget: str
    budgets: tuple[float, ...]
    cost: str
    shift_of: str | None
    axis: str | None
    n_cases: int
    best_rule: str | None
    excluded: tuple[tuple[str, float], ...]
    headroom: Mapping | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Shift:
    """An entry's score on a shifted task, and less its score where it is at home."""

    score: Estimate
    difference: Estimate


@dataclass(frozen=True)
class ShiftBoard:
    """Entries of one task over the axes that it is shifted along; None: not played."""

    task: str
    axes: tuple[tuple[str, str], ...]  # axis, and the task's name
    rows: tuple[tuple[str, Estimate, tuple[Shift | None, ...]], ...]


@dataclass(frozen=True)
class Curve:
    """One learner trained on several numbers of patients; None where there is no entry."""

    name: str
    points: tuple[Estimate | None, ...]
    entries: tuple[str | None, ...]


@dataclass(frozen=True)
class CurveBoard:
    """Scores over the number of training patients, per learner."""

    task: str
    sizes: tuple[int, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True, eq=False)
class Board:
    """All of it."""

    suite: str
    version: int
    description: str
    digest: str
    notes: Mapping
    ranking: Ranking
    tasks: tuple[TaskBoard, ...]
    shifts: tuple[ShiftBoard, ...]
    curves: tuple[CurveBoard, ...]
    refused: tuple[Refused, ...]

    def plain(self) -> dict:
        """All figures as JSON can hold them."""
        return {"format": 1, **_plain(self)}

    def rows_of(self, entry: str) -> list[tuple[TaskBoard, Row]]:
        """An entry in every task that it plays."""
        return [(t, row) for t in self.tasks for row in t.rows if row.name == entry]

    def entries(self) -> list[str]:
        """Names of all entries, in the order in which the board shows them first."""
        return list(dict.fromkeys(row.name for t in self.tasks for row in t.rows))


def _plain(value):
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def as_json(board: Board) -> str:
    """A board for machines; the same submissions give the same text."""
    return json.dumps(board.plain(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
