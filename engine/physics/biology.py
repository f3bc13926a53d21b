"""What a biological model of ions must answer, whichever it is.

Photons: −ln S = αD + βD² up to a threshold dose, from there on a straight line of the slope that
the parabola has there (linear-quadratic-linear). Ions of one species and energy: −ln S = αD + βD².
"""

from typing import Protocol

import numpy as np


class BiologicalModel(Protocol):
    """Cell survival of ions and of the photons that they are compared with; hashable."""

    alpha_x_per_gy: float
    beta_x_per_gy2: float
    threshold_gy: float  # np.inf where photons stay linear-quadratic

    def alpha_per_gy(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """Initial slope of ions of an atomic number and energy per nucleon, shape of the energy."""

    def beta_per_gy2(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """Quadratic term of the same, 1/Gy², 0 or more."""
