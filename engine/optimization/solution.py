"""What a solver hands back."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Reason = Literal[
    "small_change",  # the objective changed less than the tolerance in 3 iterations on end
    "max_iterations",
    "max_evaluations",
    "no_improving_direction",
    "stopped_by_callback",
]


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights in particles per fraction, how the solver ended, and its trace.

    ``trace`` (n_iterations + 1, 3): evaluations so far, objective, and the largest component of
    the projected gradient in the solver's scaled variables; the first row is the start.
    """

    weights: np.ndarray  # (n_spots,) float32
    value: float
    reason: Reason
    trace: np.ndarray
    n_evaluations: int
    n_iterations: int
