"""What may go wrong: set-up shifts and range errors, as arguments of every dose engine."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scenario:
    """A shift of the patient's set-up in mm and a scale of its density; nominal by default.

    ``shift_mm`` (x, y, z) moves every isocenter relative to the patient by that much.
    """

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    density_scale: float = 1.0
    image: str = "planning"

    def __post_init__(self):
        if len(self.shift_mm) != 3 or not np.all(np.isfinite(self.shift_mm)):
            raise ValueError(f"shift_mm={self.shift_mm} must be three finite numbers x, y, z.")
        if not 0.5 <= self.density_scale <= 1.5:
            raise ValueError(f"density_scale={self.density_scale} must lie in 0.5 … 1.5.")


NOMINAL = Scenario()
