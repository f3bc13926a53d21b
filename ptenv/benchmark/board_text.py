"""A board as text for a terminal, and as Markdown."""

import math
from collections.abc import Callable, Sequence

from ptenv.benchmark.board import Board, CurveBoard, ShiftBoard, TaskBoard
from ptenv.benchmark.board_figures import short
from ptenv.benchmark.board_submissions import printable
from ptenv.benchmark.statistics import Difference, Estimate
from ptenv.rendering import score_table

RANK, ENTRY = "#", "entry"
HOW_TO_READ = (
    "Score: interquartile mean over episodes between the suite's frozen anchors, by the engine "
    "that agents play with; 0 is the baseline, 1 the bound. Reference: the same plans and formula "
    "by the reference engine on a finer grid, of protons the deterministic one, of carbon ions and "
    "photons their own; scores end at -1 and 1.5, and where they reach an end the column no longer "
    "tells entries apart. Intervals: 95 %, bootstrap over patients, and over training seeds of "
    "learners; none for one patient or where all are alike. P(better): that a run beats one of the "
    "best rule on the same patient and budget. Lead: mean difference to the best rule on the same "
    "patients; p flips signs of patients and is not corrected for the number of entries. Cost is "
    "counted, not timed; seconds are those of the machine that played."
)
_SPECIAL = "\\`*_{}[]<>()#+|~!&@:"


def as_text(board: Board) -> str:
    """All tables, aligned."""
    return _document(board, "{}", _text_table, printable)


def as_markdown(board: Board) -> str:
    """All tables as one Markdown file; names are escaped."""
    return _document(board, "## {}", _markdown_table, escaped)


def _document(board: Board, heading: str, table: Callable, safe: Callable[[str], str]) -> str:
    is_markdown = heading.startswith("#")
    title = f"{safe(board.suite)} version {board.version}"
    parts = [f"# {title}" if is_markdown else title, safe(board.description)]
    if board.ranking.by == "reference":
        parts.append("Ranked by the score of the reference engine.")
    for task in board.tasks:
        parts.append(heading.format(f"{safe(task.name)} ({safe(task.env_id)}, {_extent(task)})"))
        parts.append(table(_rows(task, safe)))
        parts.append(table(_budget_rows(task, safe)))
        parts += [safe(note) for note in notes_of(task)]
    for shift in board.shifts:
        parts.append(heading.format(f"{safe(shift.task)}, shifted along one axis: score less the "
                                    "score at home"))  # fmt: skip
        parts.append(table(_shift_rows(shift, safe)))
    for curve in board.curves:
        parts.append(heading.format(f"{safe(curve.task)} over the number of training patients"))
        parts.append(table(_curve_rows(curve, safe)))
    if board.refused:
        parts.append(heading.format("Refused"))
        parts.append(table([{ENTRY: safe(r.name), "reason": safe(shortened("; ".join(r.reasons)))}
                            for r in board.refused]))  # fmt: skip
    parts.append(HOW_TO_READ if is_markdown else _wrapped(HOW_TO_READ))
    return "\n\n".join(parts) + "\n"


def _extent(task: TaskBoard) -> str:
    return f"{task.n_cases} patients"


def notes_of(task: TaskBoard) -> list[str]:
    """What a reader of a task's table must know: exclusions, warnings, what was not replayed."""
    told = notes_of_cases(task)
    for row in task.rows:
        told += [f"{row.name}: {warning}." for warning in row.warnings]
        if row.note:
            told.append(f"{row.name} was validated {row.validated}: {row.note}.")
        if row.reference.n and not row.reference.is_complete:
            judged = f"{row.reference.n} of {row.reference.n_episodes} plans"
            why_not = shortened(row.reference.why_not)
            same = "" if row.reference.fast is None else (
                f"; the fast engine scores these {row.reference.fast:.3f}"
            )  # fmt: skip
            told.append(f"{row.name}: the reference engine judged {judged} ({why_not}){same}.")
    return told


def notes_of_cases(task: TaskBoard) -> list[str]:
    """What a reader must know of a task's cases, whoever plays."""
    told = []
    if task.excluded:
        pairs = ", ".join(f"{case} at {task.budget} {b:g}" for case, b in task.excluded)
        told.append(f"Excluded, for their anchors lie too close: {pairs}.")
    if task.headroom:
        h = task.headroom
        told.append(f"Mean scores when the environment was frozen: random {h['random']:.2f}, best "
                    f"heuristic {h['best_heuristic']:.2f} ({h['heuristic']}), search that sees the "
                    f"score {h['privileged']:.2f}, bound {h['bound']:g}.")  # fmt: skip
    return told


def _rows(task: TaskBoard, safe) -> list[dict]:
    return [
        {
            RANK: row.rank, ENTRY: safe(row.name), "kind": row.kind,
            "runs": runs_text(row), "score": row.score.value,
            "95 %": interval_text(row.score),
            "reference": None if row.reference.estimate is None else row.reference.estimate.value,
            "Q": row.quality, safe(task.cost): short(row.cost),
            "s": short(row.spent["wall_s"]), "thought s": short(row.spent["inference_s"]),
            "calls": short(row.spent["engine_calls"]),
            "P(better)": "best rule" if row.is_best_rule else estimate_text(row.improvement),
            "lead": difference_text(row.difference), "validated": row.validated,
        }
        for row in task.rows
    ]  # fmt: skip


def _budget_rows(task: TaskBoard, safe) -> list[dict]:
    return [
        {ENTRY: safe(row.name), **{f"{task.budget} {b:g}": estimate_text(e)
                                   for b, e in zip(task.budgets, row.by_budget)}}
        for row in task.rows
    ]  # fmt: skip


def _shift_rows(board: ShiftBoard, safe) -> list[dict]:
    return [
        {ENTRY: safe(name), "at home": home.value,
         **{safe(axis): "–" if cell is None else estimate_text(cell.difference, signed=True)
            for (axis, _), cell in zip(board.axes, cells)}}
        for name, home, cells in board.rows
    ]  # fmt: skip


def _curve_rows(board: CurveBoard, safe) -> list[dict]:
    return [
        {"learner": safe(curve.name),
         **{f"{size} patients": estimate_text(p) for size, p in zip(board.sizes, curve.points)}}
        for curve in board.curves
    ]  # fmt: skip


def runs_text(row) -> str:
    """How often an entry played: samplings, or training seeds."""
    if row.n_seeds is None:
        return f"{row.n_runs}"
    seeds = f"{row.n_seeds} seed{'s' * (row.n_seeds != 1)}"
    return seeds if row.n_seeds == row.n_runs else f"{row.n_runs} of {seeds}"


def interval_text(estimate: Estimate | Difference | None, signed: bool = False) -> str:
    if estimate is None or estimate.interval is None:
        return "–"
    sign = "+" if signed else ""
    return f"{estimate.interval.low:{sign}.2f} … {estimate.interval.high:{sign}.2f}"


def estimate_text(estimate: Estimate | None, signed: bool = False) -> str:
    """A figure and its interval."""
    if estimate is None:
        return "–"
    value = f"{estimate.value:{'+' if signed else ''}.3f}"
    return value if estimate.interval is None else f"{value} ({interval_text(estimate, signed)})"


def difference_text(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    told = f"{difference.mean:+.3f}"
    if difference.interval is not None:
        told += f" ({interval_text(difference, signed=True)}"
        told += "" if difference.p_value is None else f", {p_text(difference.p_value)}"
        told += ")"
    return told


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def escaped(text: str) -> str:
    """A stranger's text in Markdown: nothing in it is markup."""
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in printable(text))


def shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text_table(rows: Sequence[dict]) -> str:
    return score_table(rows, decimals={"score": 3, "reference": 3, "Q": 3, "at home": 3})


def _markdown_table(rows: Sequence[dict]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = [all(isinstance(r.get(c), int | float | None) for r in rows) for c in columns]
    rule = ["---:" if right else "---" for right in numeric]
    body = [[_markdown_cell(row.get(c)) for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, rule, *body])


def _markdown_cell(value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _wrapped(text: str) -> str:
    from textwrap import fill

    return fill(text, 100)
