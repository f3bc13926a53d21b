"""What a dose-shaping agent may say, and the wish that it means."""

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from engine.optimization.shaping import Wish
from ptenv.cases.dose_shaping_case import DoseShapingCase
from ptenv.cases.shaping_goals import KINDS, WeightedGoals, Worst

ACTIONS = ("goal", "point", "candidates")
STRENGTHS = (0.1, 0.3, 1.0)  # shares of a violation that a request takes away
N_SPOTS = 12  # critical spots that are listed
APART_MM = 10.0  # distance between them
LARGEST_CHANGE = 0.2  # of the prescription, of a "point" action
STOP_ABOVE = 0.9  # of a "point" action's last number
N_GOAL_ACTIONS = len(KINDS) * len(STRENGTHS) + 1
N_CANDIDATE_ACTIONS = N_SPOTS * len(STRENGTHS) + 1


class Spot(NamedTuple):
    """A critical spot: its row, what the goals want there, and its part of the objective."""

    row: int
    wanted: Worst
    penalty: float


class Asked(NamedTuple):
    """What an action means: a wish, or None to stop; ``replaced`` says that it was another."""

    wish: Wish | None
    replaced: bool


def action_space(kind: str) -> spaces.Space:
    if kind == "goal":
        return spaces.Discrete(N_GOAL_ACTIONS)
    if kind == "candidates":
        return spaces.Discrete(N_CANDIDATE_ACTIONS)
    return spaces.Box(-1.0, 1.0, (5,), np.float32)


def critical_spots(
    case: DoseShapingCase, goals: WeightedGoals, dose_gy: np.ndarray
) -> list[Spot]:
    """The voxels with the largest part in the objective, ``APART_MM`` from each other."""
    penalty, points, spots = goals.penalty(dose_gy).copy(), case.scene.points_mm, []
    while len(spots) < N_SPOTS:
        row = int(np.argmax(penalty))
        wanted = goals.level_of(row, dose_gy) if penalty[row] > 0 else None
        if wanted is None:
            break
        spots.append(Spot(row, wanted, float(penalty[row])))
        off = points - points[row]
        penalty[np.einsum("rc,rc->r", off, off) < APART_MM**2] = 0.0
    return spots


def masks(kind: str, worst: list[Worst | None], spots: list[Spot]) -> np.ndarray:
    """Discrete actions (n,) bool that mean something now; to stop always does."""
    there = [w is not None for w in worst] if kind == "goal" else [
        i < len(spots) for i in range(N_SPOTS)
    ]  # fmt: skip
    return np.append(np.repeat(there, len(STRENGTHS)), True)


def asked(
    kind: str, action, case: DoseShapingCase, dose_gy: np.ndarray,
    worst: list[Worst | None], spots: list[Spot],
) -> Asked:  # fmt: skip
    """The wish of a checked action; what means nothing now becomes the nearest that does."""
    if kind == "point":
        return _asked_at(np.asarray(action, np.float64), case, dose_gy)
    allowed = masks(kind, worst, spots)
    number, replaced = int(action), False
    if not allowed[number]:
        meant = np.flatnonzero(allowed[:-1])
        replaced = True
        number = int(meant[np.argmin(np.abs(meant - number))]) if len(meant) else len(allowed) - 1
    if number == len(allowed) - 1:
        return Asked(None, replaced)
    place, strength = divmod(number, len(STRENGTHS))
    wanted = worst[place] if kind == "goal" else spots[place].wanted
    before = float(dose_gy[wanted.row])
    goal = before + STRENGTHS[strength] * (wanted.level_gy - before)
    return Asked(_wish(case, wanted.row, goal, goal < before), replaced)


def _asked_at(action: np.ndarray, case: DoseShapingCase, dose_gy: np.ndarray) -> Asked:
    if action[4] > STOP_ABOVE:
        return Asked(None, False)
    row = nearest_row(case, action[:3])
    change = LARGEST_CHANGE * float(action[3]) * case.prescription_gy[case.targets[0]]
    goal = max(0.0, float(dose_gy[row]) + change)
    return Asked(_wish(case, row, goal, change < 0), False)


def nearest_row(case: DoseShapingCase, at: np.ndarray) -> int:
    """The row nearest to a place given by −1 … 1 on every axis of the scored box."""
    points = case.scene.points_mm
    low, high = points.min(axis=0), points.max(axis=0)
    off = points - (low + 0.5 * (np.asarray(at) + 1.0) * (high - low)).astype(np.float32)
    return int(np.argmin(np.einsum("rc,rc->r", off, off)))


def place_of(case: DoseShapingCase, row: int) -> np.ndarray:
    """The place (3,) in −1 … 1 of a row: what ``nearest_row`` reads."""
    points = case.scene.points_mm
    low, high = points.min(axis=0), points.max(axis=0)
    return np.clip(2.0 * (points[row] - low) / np.maximum(high - low, 1e-6) - 1.0, -1.0, 1.0)


def checked_action(kind: str, action):
    """The action as a number or an array in its space; refuses what is neither."""
    array, space = np.asarray(action), action_space(kind)
    if kind == "point":
        if array.shape != (5,) or array.dtype.kind not in "fiub" or not np.all(np.isfinite(array)):
            raise ValueError(
                f"action={action!r} must be five finite numbers in −1 … 1: x, y, z, change, stop."
            )
        return np.clip(array.astype(np.float64), -1.0, 1.0)
    if array.shape not in ((), (1,)) or array.dtype.kind not in "iu":
        raise ValueError(f"action={action!r} must be one whole number in 0 … {space.n - 1}.")
    number = int(array.reshape(()))
    if not 0 <= number < space.n:
        raise ValueError(f"action={number} must lie in 0 … {space.n - 1}.")
    return number


def _wish(case: DoseShapingCase, row: int, goal_gy: float, lower: bool) -> Wish:
    return Wish([row], [goal_gy / case.quantity.scale], lower)
