"""Figures of a board as plain geometry in pixels; templates draw them as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ptenv.benchmark.board import CurveBoard, TaskBoard
from ptenv.benchmark.statistics import Estimate

WIDTH, HEIGHT = 520, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 46
N_COLORS, MOST_LINES, MOST_BANDS = 8, 8, 3
LOG_FROM = 20.0  # largest by smallest cost


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` on pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (self._scaled(v) for v in (self.low, self.high, value))
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Pixel and label of five or so round values."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [m * 10.0**p for p in powers for m in (1, 2, 5)]
        else:
            step = _round_step((self.high - self.low) / 4.0)
            values = step * np.arange(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        inside = [float(v) for v in values if self.low <= v <= self.high]
        return [(self.at(v), short(v)) for v in inside]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


@dataclass(frozen=True)
class Mark:
    """A point with its interval, in an entry's color; ``label`` stands inside it."""

    x: float
    y: float
    low: float | None
    high: float | None
    color: int
    label: str
    title: str


@dataclass(frozen=True)
class Line:
    """A line, and a band under it, as SVG points; ``dash`` tells lines of one color apart."""

    points: str
    band: str
    color: int
    dash: int


@dataclass(frozen=True)
class Legend:
    """A name with the color, dash and label of its marks."""

    name: str
    color: int
    dash: int
    label: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure; ``described`` is for those who do not see it."""

    described: str
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    legend: Sequence[Legend] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Bar:
    """An estimate as a dot with its interval in a table's cell; ticks at 0 and 1."""

    dot: float
    low: float | None
    high: float | None
    ticks: Sequence[float]
    width: int = 96


def interval_bar(estimate: Estimate, of: Sequence[Estimate]) -> Bar:
    """The bar of one estimate on the scale of all in its column."""
    low, high = _span(of, hold=(0.0,))
    axis = Axis(low, high, 5, 91)
    interval = estimate.interval
    return Bar(
        axis.at(estimate.value), interval and axis.at(interval.low),
        interval and axis.at(interval.high), [axis.at(v) for v in (0.0, 1.0) if low <= v <= high],
    )  # fmt: skip


def cost_figure(task: TaskBoard, place: Mapping[str, int]) -> Figure:
    """Score over cost, one mark an entry with its rank; ``place`` numbers entries for colors."""
    costs = [row.cost for row in task.rows]
    log = min(costs) > 0 and max(costs) > LOG_FROM * min(costs)
    low, high = min(costs), max(costs)
    if log:
        low, high = low / 1.3, high * 1.3
    else:
        pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - pad, high + pad
    across = Axis(low, high, LEFT, WIDTH - RIGHT, log)
    up = Axis(*_span([row.score for row in task.rows], hold=(0.0,)), HEIGHT - BOTTOM, TOP)
    marks = [
        Mark(
            across.at(row.cost), up.at(row.score.value), *_ends(row.score, up),
            place[row.name] % N_COLORS, str(row.rank or "–"),
            f"{row.name}: score {row.score.value:.3f}, {task.cost} {short(row.cost)}",
        )
        for row in reversed(task.rows)  # the best on top
    ]  # fmt: skip
    return Figure(
        f"Score over {task.cost} of {len(marks)} entries of {task.name}; the table has the figures",
        f"{task.cost}, mean of an episode", "score (IQM)", across.ticks(), up.ticks(), marks,
        legend=[_legend(row.name, place, str(row.rank or "–")) for row in task.rows],
    )  # fmt: skip


def profile_figure(task: TaskBoard, place: Mapping[str, int]) -> Figure:
    """Share of the episodes above each score, the best eight entries, the best three with bands."""
    across = Axis(-1.0, 1.5, LEFT, WIDTH - RIGHT)
    up = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    lines = []
    for number, row in enumerate(task.rows[:MOST_LINES]):
        p = row.profile
        low, high = (p.low, p.high) if number < MOST_BANDS else (None, None)
        lines.append(_line(across, up, p.thresholds, p.share, low, high, place[row.name]))
    return Figure(
        f"Performance profiles of {len(lines)} entries of {task.name}",
        "score τ", "share of episodes above τ", across.ticks(), up.ticks(),
        lines=lines, legend=[_legend(r.name, place) for r in task.rows[:MOST_LINES]],
    )  # fmt: skip


def curve_figure(board: CurveBoard) -> Figure:
    """Score over the number of training patients."""
    points = [p for curve in board.curves for p in curve.points if p is not None]
    across = Axis(board.sizes[0] / 1.5, board.sizes[-1] * 1.5, LEFT, WIDTH - RIGHT, log=True)
    up = Axis(*_span(points, hold=(0.0,)), HEIGHT - BOTTOM, TOP)
    place = {curve.name: i for i, curve in enumerate(board.curves)}
    marks, lines = [], []
    for curve in board.curves:
        known = [(s, p) for s, p in zip(board.sizes, curve.points) if p is not None]
        sizes, values = [s for s, _ in known], [p.value for _, p in known]
        lines.append(_line(across, up, sizes, values, None, None, place[curve.name]))
        marks += [
            Mark(across.at(s), up.at(p.value), *_ends(p, up), place[curve.name] % N_COLORS, "",
                 f"{curve.name}: {s} patients, score {p.value:.3f}")
            for s, p in known
        ]  # fmt: skip
    return Figure(
        f"Score over the number of training patients in {board.task}",
        "training patients", "score (IQM)", [(across.at(s), str(s)) for s in board.sizes],
        up.ticks(), marks, lines, [_legend(c.name, place) for c in board.curves],
    )  # fmt: skip


def short(value: float) -> str:
    """A number in few characters: 0.05, 12.5, 1,240, 3.1e8."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def _line(across: Axis, up: Axis, x, y, low, high, number: int) -> Line:
    def points(values, of) -> str:
        return " ".join(f"{across.at(a)},{up.at(b)}" for a, b in zip(of, values))

    band = "" if low is None else f"{points(low, x)} {points(high[::-1], x[::-1])}"
    return Line(points(y, x), band, number % N_COLORS, number // N_COLORS % 3)


def _legend(name: str, place: Mapping[str, int], label: str = "") -> Legend:
    return Legend(name, place[name] % N_COLORS, place[name] // N_COLORS % 3, label)


def _span(of: Sequence[Estimate], hold: Sequence[float]) -> tuple[float, float]:
    """A range that holds all estimates with their intervals, and some values, with a margin."""
    ends = [*hold, *(e.value for e in of)]
    ends += [v for e in of if e.interval for v in (e.interval.low, e.interval.high)]
    margin = 0.05 * (max(ends) - min(ends)) or 0.05
    return min(ends) - margin, max(ends) + margin


def _ends(estimate: Estimate, axis: Axis) -> tuple[float | None, float | None]:
    interval = estimate.interval
    return (None, None) if interval is None else (axis.at(interval.low), axis.at(interval.high))


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 × 10^n."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))
