"""Whether a replay agrees with its record: to the last bit, or as far as rounding allows.

On the same processor with the same versions all must be equal. Elsewhere sums are rounded
otherwise, and an optimizer that is stopped early carries that on: plans on few voxels are hardly
determined, a dose-shaping request goes to another worst voxel. Single episodes may part there; most
of a task's do not, nor does its mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from ptenv.benchmark.play import Played

COUNTS = ("n_steps", "n_invalid")
ENOUGH = 20  # episodes of a task that are held to the tolerance as it is
FEWEST = 5  # below ENOUGH to twice the tolerance, below this to nothing: chance decides
METRIC_FLOOR = 10.0  # Gy or %: metrics below it are compared as if they were as large


@dataclass(frozen=True)
class Tolerance:
    """What replay on another processor or with other versions may differ by.

    Half the episodes of a task must agree within ``score``, ``reward`` (the worst step's),
    ``quality`` (Q), ``relative`` (a share of objective and cost) and ``metric`` (of the worst
    metric, a share of itself or of 10 Gy or %), and the mean scores within ``mean``. No episode may
    exceed ``single`` in score and ``single_reward`` in a reward, but in families that part.
    """

    score: float = 0.05
    reward: float = 0.1
    quality: float = 0.3
    relative: float = 0.1
    metric: float = 0.25
    mean: float = 0.1
    single: float = 0.3
    single_reward: float = 1.0


class Apart(NamedTuple):
    """By how much a replay differs from its record, in the terms of ``Tolerance``."""

    score: float
    reward: float
    quality: float
    relative: float
    metric: float


def faults_here(record: Mapping, played: Played, result: Mapping) -> list[str]:
    """What is not equal to the last bit."""
    before = record["result"]
    figures = [
        f"{name} is {before[name]!r}, replay gives {result[name]!r}"
        for name in ("score", "raw_score", "Q", "objective", "cost")
        if result[name] != before[name]
    ]
    rest = [
        f"{name} differs from replay's"
        for name in (*COUNTS, "metrics", "constraints", "plan_sha256")
        if result[name] != before[name]
    ]
    return _reward_faults(record, played, 0.0) + figures + rest


def faults_elsewhere(
    record: Mapping, played: Played, result: Mapping, tolerance: Tolerance
) -> list[str]:
    """What rounding cannot explain in a single episode."""
    before = record["result"]
    found = _reward_faults(record, played, tolerance.single_reward)
    found += [f"{name} differs from replay's" for name in COUNTS if result[name] != before[name]]
    if _kinds(result["metrics"]) != _kinds(before["metrics"]):
        found.append("metrics are of other structures or kinds than replay's")
    if not abs(result["score"] - before["score"]) <= tolerance.single:
        found.append(f"score is {before['score']!r}, replay gives {result['score']!r}")
    return found


def apart(record: Mapping, played: Played, result: Mapping) -> Apart:
    """Compare what both have: steps, metrics and figures."""
    before = record["result"]
    rewards = [abs(a - b) for a, b in zip(played.rewards, record["rewards"], strict=False)]
    shares = [abs(result[name] - before[name]) / max(abs(before[name]), 1e-12)
              for name in ("objective", "cost")]  # fmt: skip
    metrics = [
        abs(value - before["metrics"][structure][name]) / max(abs(value), METRIC_FLOOR)
        for structure, of in result["metrics"].items()
        for name, value in of.items() if name in before["metrics"].get(structure, {})
    ]  # fmt: skip
    return Apart(
        score=abs(result["score"] - before["score"]), reward=_largest(rewards),
        quality=abs(result["Q"] - before["Q"]), relative=_largest(shares),
        metric=_largest(metrics),
    )  # fmt: skip


def faults_of_task(
    differences: Sequence[Apart], scores: Sequence[tuple[float, float]], tolerance: Tolerance
) -> list[str]:
    """What rounding cannot explain in many episodes of a task, replayed elsewhere.

    ``scores`` are (recorded, replayed).
    """
    if len(differences) < FEWEST:
        return []
    times = 1.0 if len(differences) >= ENOUGH else 2.0
    allowed, wrong = {k: times * v for k, v in asdict(tolerance).items()}, []
    for name, of in zip(Apart._fields, np.transpose(differences), strict=True):
        n_apart = int(np.count_nonzero(~(of <= allowed[name])))  # no number is no agreement
        if 2 * n_apart > len(of):
            wrong.append(f"{n_apart} of {len(of)} episodes differ by more than "
                         f"{allowed[name]:g} in {name}")  # fmt: skip
    before, now = np.mean(scores, axis=0)
    if not abs(before - now) <= allowed["mean"]:
        wrong.append(f"the mean score is {before:.3f}, replay gives {now:.3f}")
    return wrong


def _reward_faults(record: Mapping, played: Played, allowed: float) -> list[str]:
    """Another number of rewards, or the first that is further apart than allowed."""
    claims = record["rewards"]
    if len(played.rewards) != len(claims):
        return [f"{len(claims)} rewards are recorded, {len(played.rewards)} given"]
    for step, (given, claimed) in enumerate(zip(played.rewards, claims, strict=True)):
        if not abs(given - claimed) <= allowed:
            return [f"reward of step {step} is {claimed!r}, replay gives {given!r}"]
    return []


def _largest(values: Sequence[float]) -> float:
    """The largest of them, 0 of none; unlike ``max`` it is no number where one is none."""
    return float(np.max(values, initial=0.0))


def _kinds(metrics: Mapping[str, Mapping]) -> dict[str, set[str]]:
    return {structure: set(of) for structure, of in metrics.items()}
