"""Clinical goals, their scores, and the one number of a plan's clinical quality.

A score is strictly monotone and piecewise linear between two anchors: 1 at the ideal, 0 at the
worst, falling on at the same slope below it, and rising with a tenth of the slope beyond the
ideal. There are no plateaus: a plan that is better in a goal always scores more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine.evaluation.metrics import parse_metric

Sense = Literal["at least", "at most"]
Group = Literal["target", "organ", "normal tissue"]
GROUP_WEIGHTS = {"target": 0.5, "organ": 0.35, "normal tissue": 0.15}
SLOPE_BEYOND_IDEAL = 0.1
SMALLEST_SPAN = {"Gy": 1.0, "%": 2.0, "cc": 1.0, "": 0.02}  # between anchors, by unit

Metrics = Mapping[str, Mapping[str, float]]  # structure → metric name → value


@dataclass(frozen=True)
class Goal:
    """A metric of a structure that should be at least, or at most, a limit; with its source."""

    structure: str
    metric: str  # TG-263-like, see engine.evaluation.metrics
    limit: float
    sense: Sense
    source: str
    group: Group = "organ"

    def __post_init__(self):
        parse_metric(self.metric)
        if self.sense not in ("at least", "at most"):
            raise ValueError(f"sense={self.sense!r} must be 'at least' or 'at most'.")
        if self.group not in GROUP_WEIGHTS:
            raise ValueError(
                f"group={self.group!r} is unknown; choose from {tuple(GROUP_WEIGHTS)}."
            )
        if not np.isfinite(self.limit):
            raise ValueError(f"limit={self.limit} of {self.key!r} must be finite.")

    @property
    def key(self) -> str:
        return f"{self.structure} {self.metric}"

    @property
    def unit(self) -> str:
        return parse_metric(self.metric).unit

    @property
    def sign(self) -> float:
        """+1 where more is better, −1 where less is."""
        return 1.0 if self.sense == "at least" else -1.0

    def value(self, metrics: Metrics) -> float:
        """This goal's metric among evaluated ones."""
        try:
            value = float(metrics[self.structure][self.metric])
        except KeyError:
            raise KeyError(
                f"metric {self.metric!r} of {self.structure!r} was not evaluated; pass "
                "metrics_of(goals) to the evaluation."
            ) from None
        if not np.isfinite(value):
            raise ValueError(f"{self.key!r} is {value}; a score needs a finite metric.")
        return value

    def is_met(self, value: float) -> bool:
        return self.sign * (value - self.limit) >= 0


@dataclass(frozen=True)
class Anchors:
    """The two values of a metric that score 1 (``ideal``) and 0 (``worst``)."""

    ideal: float
    worst: float

    def __post_init__(self):
        if not (np.isfinite(self.ideal) and np.isfinite(self.worst)) or self.ideal == self.worst:
            raise ValueError(
                f"ideal={self.ideal}, worst={self.worst} must be finite and apart from each other."
            )

    def score(self, value: float) -> float:
        """1 − (x − ideal)/(worst − ideal), with a tenth of the slope beyond the ideal."""
        u = 1.0 - (value - self.ideal) / (self.worst - self.ideal)
        return u if u <= 1.0 else 1.0 + SLOPE_BEYOND_IDEAL * (u - 1.0)


def limit_anchors(goal: Goal) -> Anchors:
    """Anchors where no plans give them: 1 at the limit, 0 at 20 % (of the limit) on its bad side.

    A target's coverage falls from 1 to 0 over 10 %. At least the smallest span apart.
    """
    share = 0.1 if goal.group == "target" else 0.2
    span = max(share * abs(goal.limit), SMALLEST_SPAN[goal.unit])
    return Anchors(goal.limit, goal.limit - goal.sign * span)


def plan_anchors(goal: Goal, plans: Sequence[Metrics]) -> Anchors:
    """Anchors from the best and the worst of converged plans, at least the smallest span apart."""
    if not plans:
        raise ValueError("plans is empty; give the metrics of at least one converged plan.")
    values = [goal.value(plan) for plan in plans]
    ideal = max(values) if goal.sign > 0 else min(values)
    worst = min(values) if goal.sign > 0 else max(values)
    span = max(abs(ideal - worst), SMALLEST_SPAN[goal.unit])
    return Anchors(ideal, ideal - goal.sign * span)


def metrics_of(goals: Sequence[Goal]) -> dict[str, tuple[str, ...]]:
    """Metric names to evaluate per structure, as ``PlanEvaluation`` takes them."""
    names: dict[str, dict[str, None]] = {}
    for goal in goals:
        names.setdefault(goal.structure, {})[goal.metric] = None
    return {structure: tuple(metrics) for structure, metrics in names.items()}


@dataclass(frozen=True)
class ScoredGoal:
    """One row of a scorecard."""

    goal: Goal
    value: float
    met: bool
    score: float


def _rbe(rbe: float | None) -> str:
    return "by a model" if rbe is None else f"{rbe:g}"


@dataclass(frozen=True)
class ScoreTable:
    """What a scorecard says of one plan: its rows and one normalized number."""

    rows: tuple[ScoredGoal, ...]
    total: float
    rbe: float | None = 1.1  # of the doses that were judged; None: it varies

    @property
    def n_met(self) -> int:
        return sum(row.met for row in self.rows)

    def __str__(self) -> str:
        lines = [("structure", "metric", "value", "goal", "", "score", "source")]
        for row in self.rows:
            goal = row.goal
            lines.append((
                goal.structure, goal.metric, f"{row.value:.2f}",
                f"{'≥' if goal.sense == 'at least' else '≤'} {goal.limit:g}",
                "met" if row.met else "missed", f"{row.score:.3f}", goal.source,
            ))  # fmt: skip
        width = [max(len(line[i]) for line in lines) for i in range(7)]
        right = (2, 5)
        text = [
            "  ".join(c.rjust(w) if i in right else c.ljust(w)
                      for i, (c, w) in enumerate(zip(line, width))).rstrip()
            for line in lines
        ]  # fmt: skip
        text.insert(1, "-" * max(map(len, text)))
        text.append(f"{self.n_met} of {len(self.rows)} goals met; score {self.total:.3f}. "
                    f"Doses in Gy (RBE), RBE {_rbe(self.rbe)}.")  # fmt: skip
        return "\n".join(text)


@dataclass(frozen=True, eq=False)
class Scorecard:
    """Goals with their anchors; groups weigh 0.5 (targets), 0.35 (organs), 0.15 (normal tissue).

    Within a group every goal weighs the same; a group without goals leaves its weight to the
    others. Normal tissue must be among the goals: a plan that spares only what is contoured is
    not better. Anchors by goal key; goals without get ``limit_anchors``.
    """

    goals: tuple[Goal, ...]
    anchors: Mapping[str, Anchors] = field(default_factory=dict)

    def __post_init__(self):
        goals = tuple(self.goals)
        keys = [goal.key for goal in goals]
        if len(set(keys)) != len(keys):
            raise ValueError(f"goals name the same metric twice: {sorted(keys)}.")
        if not any(goal.group == "normal tissue" for goal in goals):
            raise ValueError(
                "no goal is of the group 'normal tissue'; add one for a ring or the body."
            )
        unknown = sorted(set(self.anchors) - set(keys))
        if unknown:
            raise ValueError(f"anchors are given for {unknown}, which are no goals of {keys}.")
        anchors = {g.key: self.anchors.get(g.key) or limit_anchors(g) for g in goals}
        for goal in goals:
            if goal.sign * (anchors[goal.key].ideal - anchors[goal.key].worst) <= 0:
                raise ValueError(
                    f"anchors of {goal.key!r} run against its sense: {anchors[goal.key]}."
                )
        object.__setattr__(self, "goals", goals)
        object.__setattr__(self, "anchors", anchors)

    def weights(self) -> np.ndarray:
        """Weight of every goal (n_goals,), sum 1."""
        groups = [goal.group for goal in self.goals]
        weights = np.array([GROUP_WEIGHTS[g] / groups.count(g) for g in groups])
        return weights / weights.sum()

    def score(self, metrics: Metrics, rbe: float | None = 1.1) -> ScoreTable:
        """Judge evaluated metrics {structure: {metric: value}} of doses with an RBE."""
        rows = []
        for goal in self.goals:
            value = goal.value(metrics)
            rows.append(
                ScoredGoal(goal, value, goal.is_met(value), self.anchors[goal.key].score(value))
            )
        total = float(np.sum(self.weights() * np.array([row.score for row in rows])))
        return ScoreTable(tuple(rows), total, rbe)


@dataclass(frozen=True, eq=False)
class ClinicalQuality:
    """Q of a plan: the scorecard between the best and the worst of a case's anchor plans.

    The anchor plans are three converged plans with other priorities (target first, balanced,
    organs first). Their values are frozen with the case: ``as_dict`` and ``from_dict``.
    """

    scorecard: Scorecard

    @classmethod
    def from_plans(cls, goals: Sequence[Goal], plans: Sequence[Metrics]) -> "ClinicalQuality":
        """Anchors from the metrics of converged plans, one mapping a plan."""
        anchors = {goal.key: plan_anchors(goal, plans) for goal in goals}
        return cls(Scorecard(tuple(goals), anchors))

    def __call__(self, metrics: Metrics) -> float:
        """Q; 1 where every goal stands at its best anchor plan, 0 where all stand at the worst."""
        return self.scorecard.score(metrics).total

    def as_dict(self) -> dict:
        """Plain numbers and strings, for a case file."""
        card = self.scorecard
        return {
            "goals": [dict(vars(goal)) for goal in card.goals],
            "anchors": {key: [a.ideal, a.worst] for key, a in card.anchors.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "ClinicalQuality":
        anchors = {key: Anchors(*pair) for key, pair in data["anchors"].items()}
        return cls(Scorecard(tuple(Goal(**goal) for goal in data["goals"]), anchors))
