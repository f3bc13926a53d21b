"""Fields made from linear products of the influence matrix, each with its pullback.

The influence matrix answers in physical Gy per particle; what is prescribed is Gy (RBE) over the
whole course. A ``Quantity`` is that step, and its pullback carries a gradient back to particles.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Quantity(Protocol):
    """A field (n_rows,) computed from linear products of the weights."""

    name: str

    def value(self, physical_gy: np.ndarray) -> np.ndarray:
        """The field (n_rows,) from the physical dose of one fraction (n_rows,) in Gy."""

    def pullback(self, physical_gy: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """df/d(physical dose) (n_rows,) from df/d(field) (n_rows,)."""


@dataclass(frozen=True)
class RbeDose:
    """Course dose in Gy (RBE) with a constant RBE: n_fractions × rbe × physical dose.

    1.1 is the clinical convention for protons (ICRU Report 78).
    """

    n_fractions: int
    rbe: float = 1.1
    name: str = "rbe_dose"

    def __post_init__(self):
        if self.n_fractions < 1 or not self.rbe > 0:
            raise ValueError(f"n_fractions={self.n_fractions}, rbe={self.rbe} must be positive.")

    @property
    def scale(self) -> float:
        """Gy (RBE) of the course per physical Gy of one fraction."""
        return self.rbe * self.n_fractions

    def value(self, physical_gy: np.ndarray) -> np.ndarray:
        return physical_gy * np.float32(self.scale)

    def pullback(self, physical_gy: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return gradient * np.float32(self.scale)
