"""What a dose-shaping agent sees: figures with histograms, critical spots, and the dose volume."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from ptenv.cases.case import GROUPS
from ptenv.cases.dose_shaping_case import DoseShapingCase
from ptenv.cases.shaping_goals import KINDS
from ptenv.envs.dose_shaping_actions import N_SPOTS, place_of

if TYPE_CHECKING:
    from ptenv.envs.dose_shaping import State

KINDS_OF_OBSERVATION = ("full", "dvh")
DVH_LEVELS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1)  # of the group's reference dose
SPOT_FEATURES = ("x", "y", "z", "dose", "wanted", "excess", "share", "listed")
CHANNELS = ("dose", "target", "organ", "penalty")
N_CLOCK = 3
N_FIGURES = N_CLOCK + len(GROUPS) + 2 * len(KINDS) + len(GROUPS) * len(DVH_LEVELS)


class ShapingObserver:
    """Observations of one size: "full" is a Dict, "dvh" its figures alone (partially observed).

    figures, −1 … 1: requests left, log of the dose products (0.01 to 1000) and of the objective
    over the start's, multipliers of the goals (log, by 3 decades), worst excess of every kind (by
    a fifth of the prescription), each kind's share of the objective, volume of every group above
    nine doses relative to its prescription (of targets) or the highest.
    """

    def __init__(self, kind: str, size: Sequence[int]):
        given = np.asarray(size)
        if given.shape != (3,) or given.dtype.kind not in "iu" or given.min() < 1:
            raise ValueError(f"volume_size={size!r} must be three whole numbers (nz, ny, nx) > 0.")
        self.kind, self.size = kind, tuple(given.tolist())
        figures = spaces.Box(-1.0, 1.0, (N_FIGURES,), np.float32)
        self.space: spaces.Space = figures
        if kind == "full":
            shape = (len(CHANNELS), *self.size)
            self.space = spaces.Dict({
                "figures": figures,
                "spots": spaces.Box(-1.0, 1.0, (N_SPOTS, len(SPOT_FEATURES)), np.float32),
                "volume": spaces.Box(0.0, 1.0, shape, np.float32),
            })  # fmt: skip

    def __call__(self, state: "State"):
        figures = np.clip(_figures(state), -1.0, 1.0).astype(np.float32)
        if self.kind == "dvh":
            return figures
        return {
            "figures": figures,
            "spots": np.clip(_spots(state), -1.0, 1.0).astype(np.float32),
            "volume": self._volume(state),
        }

    def _volume(self, state: "State") -> np.ndarray:
        """Means over the rows of every cell of a box around all that is scored."""
        case = state.case
        cell, count = _cells(case, self.size)
        top = 1.2 * case.prescription_gy[case.targets[0]]
        penalty = state.weighted.penalty(state.dose_gy)
        relative = np.sqrt(penalty / max(float(penalty.max()), 1e-12))
        rows = (state.dose_gy / top, case.model.target_share, case.model.organ_share, relative)
        means = [np.bincount(cell, values, len(count)) / np.maximum(count, 1) for values in rows]
        volume = np.stack(means).reshape(len(rows), *self.size)
        return np.clip(volume, 0.0, 1.0).astype(np.float32)


def _figures(state: "State") -> np.ndarray:
    case, goals = state.case, state.weighted
    highest = case.prescription_gy[case.targets[0]]
    excess = [0.0 if w is None else w.excess_gy / (0.2 * highest) for w in state.worst]
    shares = state.shares / max(float(state.shares.sum()), 1e-12)
    clock = (
        1.0 - state.n_requests / state.most_requests,
        np.log10(max(state.products, 1e-2)) / 3.0,
        np.log10(max(state.objective, 1e-12) / max(state.start_objective, 1e-12)),
    )
    decades = np.log10(goals.multiplier) / 3.0
    return np.concatenate([clock, decades, excess, shares, _histograms(case, state.dose_gy)])


def _histograms(case: DoseShapingCase, dose_gy: np.ndarray) -> np.ndarray:
    """Share of every group's rows above its doses, group-major."""
    references = [case.prescription_gy[case.targets[0]]] * len(GROUPS)
    references[1] = case.prescription_gy[case.targets[min(1, len(case.targets) - 1)]]
    above = np.zeros((len(GROUPS), len(DVH_LEVELS)))
    for group, reference in enumerate(references):
        dose = dose_gy[_rows_of(case)[group]]
        if len(dose):
            above[group] = [np.mean(dose >= level * reference) for level in DVH_LEVELS]
    return above.ravel()


def _spots(state: "State") -> np.ndarray:
    case = state.case
    highest = case.prescription_gy[case.targets[0]]
    table = np.zeros((N_SPOTS, len(SPOT_FEATURES)))
    for line, spot in zip(table, state.spots):
        dose, level = float(state.dose_gy[spot.row]), spot.wanted.level_gy
        line[:3] = place_of(case, spot.row)
        line[3:] = (
            dose / (1.2 * highest), level / (1.2 * highest), (level - dose) / (0.2 * highest),
            spot.penalty / max(state.objective, 1e-12), 1.0,
        )  # fmt: skip
    return table


def _rows_of(case: DoseShapingCase) -> list[np.ndarray]:
    return _kept(case, "groups", lambda: [
        np.flatnonzero(case.group == g) for g in range(len(GROUPS))
    ])  # fmt: skip


def _cells(case: DoseShapingCase, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cell of every row (n_rows,), z-major, and the number of rows of every cell."""

    def made() -> tuple[np.ndarray, np.ndarray]:
        points = case.scene.points_mm[:, ::-1]  # z, y, x
        low, high = points.min(axis=0), points.max(axis=0)
        share = (points - low) / np.maximum(high - low, 1e-6)
        index = np.minimum((share * np.array(size)).astype(np.int64), np.array(size) - 1)
        cell = np.ravel_multi_index(tuple(index.T), size)
        return cell, np.bincount(cell, minlength=int(np.prod(size)))

    return _kept(case, f"cells {size}", made)


def _kept(case: DoseShapingCase, name: str, made):
    """What does not change in a case, made once."""
    key = (case.key, name)
    if key not in _KEPT:
        while len(_KEPT) >= MANY:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[key] = made()
    return _KEPT[key]


MANY = 192
_KEPT: dict[tuple[str, str], object] = {}
