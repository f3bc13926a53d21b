"""The figures of a board, out of what submissions recorded.

No figure of an entry depends on who else is on the board, but rank and the comparisons with the
best rule.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ptenv.benchmark.board import (
    FAST,
    REFERENCE,
    Board,
    CaseRow,
    Curve,
    CurveBoard,
    Ranking,
    Reference,
    Row,
    Shift,
    ShiftBoard,
    TaskBoard,
)
from ptenv.benchmark.board_submissions import ENOUGH_SEEDS, Read, Submission
from ptenv.benchmark.records import Episode
from ptenv.benchmark.statistics import (
    Scores,
    interquartile_mean,
    iqm_estimate,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    shift_difference,
)
from ptenv.benchmark.suite import Suite, Task

THRESHOLDS = np.linspace(-1.0, 1.5, 51)  # of profiles: all that scores can be
HEADROOM = ("random", "best_heuristic", "heuristic", "privileged", "bound")
SPENT = ("wall_s", "inference_s", "optimization_s", "engine_calls")


def make_board(
    read: Read, suite: Suite, ranking: Ranking = Ranking(),  # noqa: B008 (frozen)
    shown: Sequence[str] | None = None,
) -> Board:  # fmt: skip
    """The board of some submissions, of all tasks or those ``shown`` and their shifts."""
    if not read.accepted and not read.refused:
        raise ValueError("there are no submissions; give at least one.")
    wanted = {t.name for t in (suite if shown is None else suite.narrowed(shown)).tasks}
    tasks = tuple(
        _task_board(read.accepted, suite, task, ranking)
        for task in suite.tasks if task.name in wanted
    )  # fmt: skip
    tasks = tuple(t for t in tasks if t is not None)
    shifts = tuple(
        s for s in _shift_boards(read.accepted, suite, ranking)
        if wanted & {s.task, *(name for _, name in s.axes)}
    )  # fmt: skip
    return Board(
        suite.name, suite.version, suite.description, suite.digest, suite.notes, ranking, tasks,
        shifts, tuple(_curve_boards(read.accepted, suite, tasks)), read.refused,
    )  # fmt: skip


def scores_of(
    submission: Submission, suite: Suite, task: Task, by: str = FAST
) -> Scores | None:  # fmt: skip
    """An entry's scores in a task; None where it does not play it, or was not judged.

    By the reference engine cases and budgets count that were judged in every run.
    """
    if task.name not in submission.entry.tasks:
        return None
    values = _values(submission, task, by)
    return Scores(values, submission.runs_are_seeds) if np.isfinite(values).any() else None


def _values(submission: Submission, task: Task, by: str) -> np.ndarray:
    """Scores (runs, cases, budgets), NaN where a case was not judged in every run."""
    cases, n_runs = _cases(task, submission.entry.split), submission.entry.n_runs
    values = np.full((n_runs, len(cases), len(task.budgets)), np.nan)
    for episode, score in _scored(submission, task, by):
        if not isinstance(score, str):
            place = (cases.index(episode.case), task.budgets.index(episode.budget))
            values[(episode.run, *place)] = score
    return np.where(np.isfinite(values).all(axis=0), values, np.nan)


def _scored(submission: Submission, task: Task, by: str):
    for record in submission.records:
        if record["task"] == task.name:
            episode = Episode.of(record)
            if by == FAST:
                yield episode, record["result"]["score"]
            elif episode in submission.reference:
                yield episode, submission.reference[episode]


def _cases(task: Task, split: str) -> list[str]:
    return [case for case in task.cases[split] if case in task.frozen]


def _task_board(
    submissions: Sequence[Submission], suite: Suite, task: Task, ranking: Ranking
) -> TaskBoard | None:
    of = {s.entry.name: s for s in submissions if task.name in s.entry.tasks}
    if not of:
        return None
    scores = {name: scores_of(s, suite, task) for name, s in of.items()}
    rows = {name: _row(s, suite, task, scores[name], ranking) for name, s in of.items()}
    order = _ranked(rows.values(), ranking)
    best = next((r.name for r in order if r.rank and _is_rule(of[r.name])), None)
    judged = {name: scores_of(s, suite, task, ranking.by) for name, s in of.items()}
    means = {} if best is None else {(c.case, c.budget): c.score for c in rows[best].cases}
    compared = tuple(_compared(row, judged, best, means, ranking, task.name) for row in order)
    cases = _cases(task, ranking.split)
    excluded = tuple((c, b) for c in cases for b in task.frozen[c].unsound)
    return TaskBoard(
        task.name, task.env_id, task.family.budget, task.budgets, task.family.cost, task.shift_of,
        task.axis, len([c for c in cases if task.sound(c)]), best, excluded,
        _headroom(suite, task), compared,
    )  # fmt: skip


def _headroom(suite: Suite, task: Task) -> Mapping | None:
    """What freezing measured for a task's environment; a shifted one is another."""
    found = suite.notes.get("headroom", {}).get(task.env_id)
    return found if found and not task.shift_of and set(HEADROOM) <= set(found) else None


def _is_rule(submission: Submission) -> bool:
    return submission.entry.kind == "rule" and not submission.is_learner


def _row(
    submission: Submission, suite: Suite, task: Task, scores: Scores, ranking: Ranking
) -> Row:
    entry = submission.entry
    records = [r for r in submission.records if r["task"] == task.name]
    results = [r["result"] for r in records]
    n, name = ranking.n_bootstrap, entry.name

    def rng(figure: str) -> np.random.Generator:
        return ranking.rng(task.name, name, figure)

    by_budget = tuple(
        iqm_estimate(scores.of_budget(i), rng(f"budget {i}"), n)
        if np.isfinite(scores.values[0, :, i]).any() else None
        for i in range(len(task.budgets))
    )  # fmt: skip
    return Row(
        name, entry.kind, None, iqm_estimate(scores, rng("score"), n), by_budget,
        _reference(submission, suite, task, rng("reference"), n),
        _mean(r["Q"] for r in results), _mean(r["cost"] for r in results),
        {s: _mean(r["spent"][s] for r in records) for s in SPENT},
        _mean(r["n_invalid"] for r in results), entry.n_runs, submission.n_seeds, len(records),
        None, None, False, submission.validated, submission.note, _warnings(submission),
        performance_profile(scores, THRESHOLDS, rng("profile"), min(n, 1000)),
        _case_rows(submission, records),
    )  # fmt: skip


def _reference(
    submission: Submission, suite: Suite, task: Task, rng: np.random.Generator, n: int
) -> Reference:
    judged = dict(_scored(submission, task, REFERENCE))
    n_episodes = sum(r["task"] == task.name for r in submission.records)
    n_judged = sum(not isinstance(score, str) for score in judged.values())
    reasons = Counter(score for score in judged.values() if isinstance(score, str))
    if n_judged < n_episodes and not reasons:
        reasons["not judged by the reference engine"] = 1
    why_not = reasons.most_common(1)[0][0] if reasons else ""
    scores = scores_of(submission, suite, task, REFERENCE)
    if scores is None:
        return Reference(None, None, n_judged, n_episodes, why_not)
    same = np.isfinite(_values(submission, task, REFERENCE))
    fast = interquartile_mean(_values(submission, task, FAST)[same])
    return Reference(iqm_estimate(scores, rng, n), fast, n_judged, n_episodes, why_not)


def _warnings(submission: Submission) -> tuple[str, ...]:
    seeds = submission.n_seeds
    if seeds is None or seeds >= ENOUGH_SEEDS:
        return ()
    told = "1 training seed" if seeds == 1 else f"{seeds} training seeds"
    tail = "the interval is over patients alone" if seeds == 1 else "the interval is unsure"
    return (f"{told} instead of {ENOUGH_SEEDS}: {tail}",)


def _case_rows(submission: Submission, records: Sequence[Mapping]) -> tuple[CaseRow, ...]:
    grouped: dict[tuple[str, float], list[Mapping]] = {}
    for record in records:
        episode = Episode.of(record)
        grouped.setdefault((episode.case, episode.budget), []).append(record)
    return tuple(
        _case_row(submission, case, budget, of) for (case, budget), of in sorted(grouped.items())
    )


def _case_row(submission, case: str, budget: float, records: Sequence[Mapping]) -> CaseRow:
    scores = [r["result"]["score"] for r in records]
    judged = [submission.reference.get(Episode.of(r)) for r in records]
    known = [score for score in judged if isinstance(score, float)]
    return CaseRow(
        case, budget, _mean(scores), min(scores), max(scores),
        _mean(r["result"]["Q"] for r in records), _mean(r["result"]["cost"] for r in records),
        _mean(known) if known else None, None,
    )  # fmt: skip


def _ranked(rows, ranking: Ranking) -> list[Row]:
    """Best first. What was not replayed as a whole, or not judged by the reference engine, has no
    rank."""

    def key(row: Row) -> float | None:
        if ranking.by == FAST:
            return row.score.value
        return row.reference.estimate.value if row.reference.is_complete else None

    ranked = [r for r in rows if r.validated == "yes" and key(r) is not None]
    others = [r for r in rows if r not in ranked]
    ranked.sort(key=lambda r: (-key(r), r.name))
    others.sort(key=lambda r: (-r.score.value, r.name))
    ranks = {r.name: 1 + sum(key(o) > key(r) for o in ranked) for r in ranked}
    return [replace(r, rank=ranks[r.name]) for r in ranked] + others


def _compared(
    row: Row, scores: Mapping[str, Scores | None], best: str | None,
    rule: Mapping[tuple[str, float], float], ranking: Ranking, task: str,
) -> Row:  # fmt: skip
    """A row with what compares it to the best rule, whose mean scores are ``rule``."""
    if best is None or row.name == best:
        return replace(row, is_best_rule=row.name == best)
    cases = tuple(replace(c, difference=c.score - rule[c.case, c.budget]) for c in row.cases)
    a, b, n = scores[row.name], scores[best], ranking.n_bootstrap
    if a is None:  # the reference engine judged none of it
        return replace(row, cases=cases)
    rng = ranking.rng(task, row.name, best)
    return replace(
        row, cases=cases, improvement=probability_of_improvement(a, b, rng, n),
        difference=paired_difference(a, b, rng, n),
    )  # fmt: skip


def _shift_boards(submissions: Sequence[Submission], suite: Suite, ranking: Ranking):
    """One for every task that others are shifts of."""
    for home in suite.tasks:
        away = [t for t in suite.tasks if t.shift_of == home.name]
        rows = []
        for s in submissions:
            at_home = scores_of(s, suite, home)
            cells = tuple(_shift(s, suite, home, at_home, t, ranking) for t in away)
            if any(cells):
                estimate = iqm_estimate(
                    at_home, ranking.rng(home.name, s.entry.name, "score"), ranking.n_bootstrap
                )
                rows.append((s.entry.name, estimate, cells))
        if rows:
            rows.sort(key=lambda row: (-row[1].value, row[0]))
            axes = tuple((t.axis or t.name, t.name) for t in away)
            yield ShiftBoard(home.name, axes, tuple(rows))


def _shift(
    submission: Submission, suite: Suite, home: Task, at_home: Scores | None, away: Task,
    ranking: Ranking,
) -> Shift | None:  # fmt: skip
    shifted = scores_of(submission, suite, away)
    if shifted is None or at_home is None:
        return None
    name, n = submission.entry.name, ranking.n_bootstrap
    return Shift(
        iqm_estimate(shifted, ranking.rng(away.name, name, "score"), n),
        shift_difference(shifted, at_home, ranking.rng(away.name, name, home.name), n),
    )


def _curve_boards(submissions: Sequence[Submission], suite: Suite, tasks: Sequence[TaskBoard]):
    """Learners that were trained on two or more sizes of the suite's pool, task by task."""
    families: dict[tuple[str, str], dict[int, str]] = {}
    for s in submissions:
        size = learned_size(s, suite)
        if size is not None:
            group = families.setdefault((s.entry.described, base_name(s.entry.name, size)), {})
            group[size] = s.entry.name
    for task in tasks:
        found = {row.name: row.score for row in task.rows}
        curves = []
        for (_, base), group in sorted(families.items()):
            entries = tuple(n if (n := group.get(size)) in found else None
                            for size in suite.curve_sizes)  # fmt: skip
            if sum(e is not None for e in entries) >= 2:
                curves.append(Curve(base, tuple(found.get(e) for e in entries), entries))
        if curves:
            yield CurveBoard(task.name, suite.curve_sizes, tuple(curves))


def learned_size(submission: Submission, suite: Suite) -> int | None:
    """On how many patients of the data curve's pool each seed of a trained entry learned."""
    if submission.entry.kind != "trained":
        return None
    pools = [{str(case) for case in run.get("cases", ())} for run in submission.entry.learned]
    sizes = {len(pool) for pool in pools}
    size = sizes.pop() if len(sizes) == 1 else None
    if size not in suite.curve_sizes or any(pool != set(suite.pool(size)) for pool in pools):
        return None
    return size


def base_name(name: str, size: int) -> str:
    """A name without the number of training patients at its end: ppo-64 is ppo."""
    return re.sub(rf"[-_ ]*(?<!\d){size}$", "", name) or name


def _mean(values) -> float:
    return float(np.mean(list(values)))
