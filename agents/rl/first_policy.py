"""The plain rule that learning and searching start from."""

from dataclasses import dataclass
from math import log10

import numpy as np

from ptenv.envs.voxel_mask_actions import DECADES, FIELD_FEATURES, FIELD_GAIN, MOST, ROLES

PULL = FIELD_FEATURES.index("log10(pull)/2")


@dataclass(frozen=True)
class FirstPolicy:
    """What an untrained policy does on average, whatever it sees: a plain rule to improve on.

    ``keep_rate`` of every row, times its pull on the last plan to the power ``pull_exponent``
    ("field" alone), ``evaluations`` of a round, and its ``work_share`` of what is left (above 1:
    random actions around it mostly spend everything).
    """

    keep_rate: float = 0.6
    evaluations: float = 16.0
    work_share: float = 1.1
    pull_exponent: float = 0.0

    def __post_init__(self):
        if not 0.001 <= self.keep_rate <= 1:
            raise ValueError(f"keep_rate={self.keep_rate} must lie in 0.001 … 1.")
        if not 1 <= self.evaluations <= MOST:
            raise ValueError(f"evaluations={self.evaluations} must lie in 1 … {MOST}.")
        if not 0 <= self.pull_exponent <= 1:
            raise ValueError(f"pull_exponent={self.pull_exponent} must lie in 0 … 1.")
        if not 0 <= self.work_share <= 2:
            raise ValueError(f"work_share={self.work_share} must lie in 0 … 2.")

    def action(self, kind: str, size: int) -> np.ndarray:
        """The action (size,) that says this; one-shot actions hold the rates alone."""
        if kind == "shells":
            oneshot = size % 3 == 0  # groups × 3 shells, else two more
            rate = 1.0 + 2.0 * log10(self.keep_rate) / DECADES
            rates = np.full(size if oneshot else size - 2, rate)
        else:
            rates = np.zeros((len(ROLES), len(FIELD_FEATURES)))
            rates[:, 0] = (log10(self.keep_rate) + 1.0) / FIELD_GAIN
            rates[:, PULL] = self.pull_exponent
            rates = rates.ravel()
        round_ = [2.0 * log10(self.evaluations) / log10(MOST) - 1.0, 2.0 * self.work_share - 1.0]
        return np.concatenate([rates, round_])[:size].astype(np.float32)
