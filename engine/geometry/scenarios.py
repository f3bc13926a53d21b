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


def setup_and_range(
    shift_mm: float = 3.0, range_percent: float = 3.5, combined: bool = False
) -> tuple[Scenario, ...]:
    """The nominal scenario first, then ± range errors and shifts by ``shift_mm`` along the axes.

    Errors of 0 leave their scenarios out. ``combined`` crosses every shift with every range, the
    21 scenarios of Janson 2024, where the default of 9 varies one at a time. Errors beyond 5 mm
    or 5 % want more scenarios in between, which are not made here.
    """
    if not (np.isfinite(shift_mm) and shift_mm >= 0):
        raise ValueError(f"shift_mm={shift_mm} must be 0 or more.")
    if not (np.isfinite(range_percent) and 0 <= range_percent < 50):
        raise ValueError(f"range_percent={range_percent} must lie in 0 … 50.")
    scales = [1.0 + sign * range_percent / 100.0 for sign in (1, -1)] if range_percent else []
    shifts = [
        tuple(sign * shift_mm if axis == i else 0.0 for i in range(3))
        for axis in range(3) for sign in (1, -1)
    ] if shift_mm else []  # fmt: skip
    nominal = NOMINAL.shift_mm
    if combined:
        return tuple(Scenario(s, d) for s in (nominal, *shifts) for d in (1.0, *scales))
    return (NOMINAL, *(Scenario(nominal, d) for d in scales), *(Scenario(s) for s in shifts))
