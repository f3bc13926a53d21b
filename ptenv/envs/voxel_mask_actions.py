"""From an action to keep-rates of rows: the three action kinds of the voxel-mask environments."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from gymnasium import spaces

from engine.optimization.voxel_sampling import draw
from ptenv.cases.case import GROUPS, Case

Kind = Literal["shells", "field", "mask"]
KINDS: tuple[Kind, ...] = ("shells", "field", "mask")

SHELL_EDGES_MM = (2.0, 6.0)  # depth below a structure's surface; in the ring: from the targets
N_SHELLS = len(SHELL_EDGES_MM) + 1
DECADES = 3.0  # a rate of −1 keeps one voxel in a thousand, +1 keeps all
ROLES = ("target", "organ", "ring")
FIELD_FEATURES = ("constant", "exp(-depth/2mm)", "exp(-depth/6mm)", "depth/20mm",
                  "exp(-organ_distance/5mm)", "violation", "log10(pull)/2")  # fmt: skip
FIELD_GAIN = 2.0  # decades per unit coefficient and unit feature
FEWEST, MOST = 1, 100  # evaluations of one round


class RowSignals(NamedTuple):
    """What the last plan says of every row, (n_rows,); ``State`` defines both."""

    violation: np.ndarray  # 0 … 1
    pull: np.ndarray  # mean 1 over the candidates


@dataclass(frozen=True)
class RoundChoice:
    """What a round does: rows before thinning, evaluations, and the share of work it may take."""

    mask: np.ndarray  # (n_rows,) bool
    n_evaluations: int
    work_share: float
    invalid: bool


@dataclass(frozen=True)
class ActionDecoder:
    """Reads actions of one kind; ``oneshot`` actions hold no evaluations and no work share.

    shells: a keep-rate per group and shell, on a log scale.
    field: coefficients of FIELD_FEATURES for targets, organs and ring, sum → log keep-rate.
    mask: one bit per row, padded to ``max_rows``; ``mask_evaluations`` and all the work left.
    The first two end with evaluations (log scale, 1 … 100) and work share, unless oneshot.
    """

    kind: Kind
    oneshot: bool
    max_rows: int
    mask_evaluations: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"action={self.kind!r} is unknown; choose from {KINDS}.")

    @property
    def n_rates(self) -> int:
        """Components of an action that say which rows."""
        if self.kind == "shells":
            return len(GROUPS) * N_SHELLS
        return len(ROLES) * len(FIELD_FEATURES)

    @property
    def space(self) -> spaces.Space:
        if self.kind == "mask":
            return spaces.MultiBinary(self.max_rows)
        n = self.n_rates + (0 if self.oneshot else 2)
        return spaces.Box(-1.0, 1.0, (n,), np.float32)

    def check(self, case: Case) -> None:
        """Refuse a case whose rows do not fit into a "mask" action."""
        n_rows = case.influence.n_rows
        if self.kind == "mask" and n_rows > self.max_rows:
            raise ValueError(
                f"max_rows={self.max_rows} is less than the {n_rows} rows of {case.case_id}; "
                f"give {n_rows} or more."
            )

    def decode(
        self, action: np.ndarray, case: Case, signals: RowSignals, rng: np.random.Generator
    ) -> RoundChoice:
        """The choice that an action makes after the plan that ``signals`` tells of."""
        action = self._checked(action)
        if self.kind == "mask":
            mask = action[: case.influence.n_rows].astype(bool)
            invalid = bool(action[case.influence.n_rows :].any()) or not mask.any()
            return RoundChoice(mask, self.mask_evaluations, 1.0, invalid)
        inside = np.clip(action, -1.0, 1.0)
        invalid = bool(np.any(inside != action))
        rates = self.rates(inside[: self.n_rates], case, signals)
        mask = draw(np.where(case.candidates, rates, 0.0), rng)
        if self.oneshot:
            return RoundChoice(mask, MOST, 1.0, invalid or not mask.any())
        evaluations = int(round(MOST ** (0.5 * (1.0 + float(inside[-2])))))
        share = 0.5 * (1.0 + float(inside[-1]))
        return RoundChoice(mask, max(FEWEST, evaluations), share, invalid or not mask.any())

    def rates(self, coefficients: np.ndarray, case: Case, signals: RowSignals) -> np.ndarray:
        """Keep-rate of every row (n_rows,) from the rate components in −1 … 1."""
        if self.kind == "shells":
            by_shell = 10.0 ** (0.5 * DECADES * (coefficients.astype(np.float64) - 1.0))
            return by_shell[shell_index(case)]
        table = coefficients.reshape(len(ROLES), len(FIELD_FEATURES)).astype(np.float64)
        exponent = np.einsum("rf,rf->r", table[row_role(case)], field_features(case, signals))
        return 10.0 ** np.clip(FIELD_GAIN * exponent - 1.0, -DECADES, 0.0)

    def _checked(self, action) -> np.ndarray:
        action = np.asarray(action)
        if action.shape != self.space.shape:
            raise ValueError(
                f"action has shape {action.shape}; {self.kind!r} actions have {self.space.shape}."
            )
        if self.kind == "mask":
            if not np.all((action == 0) | (action == 1)):
                raise ValueError("action of kind 'mask' must hold 0 and 1 only.")
            return action
        if action.dtype.kind not in "fiub":
            raise ValueError(f"action of type {action.dtype} holds no numbers; give −1 … 1.")
        if not np.all(np.isfinite(action)):
            raise ValueError(f"action={action} holds NaN or infinite values; give −1 … 1.")
        return action


def shell_index(case: Case) -> np.ndarray:
    """Place of every row's rate in a "shells" action, (n_rows,): group-major."""
    shell = np.digitize(case.depth_mm, SHELL_EDGES_MM)
    return case.group.astype(np.int64) * N_SHELLS + shell


def row_role(case: Case) -> np.ndarray:
    """Index into ROLES, (n_rows,)."""
    ring = len(GROUPS) - 1
    return np.where(case.group < 2, 0, np.where(case.group == ring, 2, 1))


def field_features(case: Case, signals: RowSignals) -> np.ndarray:
    """FIELD_FEATURES of every row, (n_rows, n_features) float64.

    With a coefficient a for the last one, keep-rates go with pull^a.
    """
    depth = case.depth_mm.astype(np.float64)
    return np.stack(
        [
            np.ones_like(depth), np.exp(-depth / 2.0), np.exp(-depth / 6.0),
            np.minimum(depth / 20.0, 2.0), np.exp(-case.organ_distance_mm / 5.0), signals.violation,
            0.5 * np.log10(np.clip(signals.pull, 1e-2, 1e2)),
        ],
        axis=1,
    )  # fmt: skip
