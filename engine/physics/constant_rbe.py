"""A relative biological effectiveness that is the same for every ion, energy and dose."""

from dataclasses import dataclass

import numpy as np

from engine.physics.lem import OfTissue, Tissue


@dataclass(frozen=True)
class ConstantRbe(OfTissue):
    """Ions that do what rbe times their dose of photons would do in a tissue.

    Exact while rbe times the dose stays below the tissue's threshold; beyond, the ions' parabola
    goes on where photons follow a straight line, and they weigh more.
    """

    rbe: float
    tissue: Tissue

    def __post_init__(self) -> None:
        if not 0.0 < self.rbe < np.inf:
            raise ValueError(f"rbe={self.rbe} must be positive and finite; try 1.1 for protons.")

    def alpha_per_gy(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """rbe · α of photons; shape of the energy."""
        return np.full(np.shape(energy_mev), self.rbe * self.alpha_x_per_gy)

    def beta_per_gy2(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """rbe² · β of photons."""
        return np.full(np.shape(energy_mev), self.rbe * self.rbe * self.beta_x_per_gy2)
