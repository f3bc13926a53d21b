"""The nuclear halo of a proton pencil in water: a second Gaussian, from Monte Carlo.

The long-range secondaries and large-angle scatter widen the dose beyond the core that multiple
scattering makes. Weight and width follow a table of double Gaussian fits.
"""

import numpy as np

from engine.machine.commissioning import projected_range_mm
from engine.physics.materials import I_WATER_EV, water

# Share and width of the second Gaussian of the laterally projected dose of a zero-width beam in
# water: MCsquare, 10⁶ protons, scored to ±60 mm, so wider tails are cut. Rows are 100, 150, 200
# and 230 MeV, columns depths in shares of the range. Where the runs had no entry: those at 0
# continue the next two, those at 0.1 of the outer rows follow their neighbor's shape, and those at
# 1.0 of the outer rows hold their neighbor's fall from 0.9.
HALO_RANGE_MM = np.array([77.1, 157.5, 259.3, 329.0])
HALO_DEPTH = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
HALO_WEIGHT = np.array(
    [
        [0.008, 0.018, 0.033, 0.058, 0.077, 0.089, 0.043],
        [0.008, 0.026, 0.055, 0.083, 0.088, 0.100, 0.048],
        [0.013, 0.037, 0.073, 0.109, 0.108, 0.112, 0.056],
        [0.016, 0.046, 0.091, 0.130, 0.126, 0.123, 0.061],
    ]
)
HALO_SIGMA_MM = np.array(
    [
        [4.7, 4.9, 5.3, 5.9, 7.6, 8.5, 5.0],
        [5.1, 6.8, 9.3, 12.1, 14.2, 14.0, 8.2],
        [7.3, 8.3, 9.8, 18.1, 20.3, 19.4, 12.7],
        [7.7, 8.8, 10.5, 19.9, 22.9, 23.0, 15.1],
    ]
)


def halo(energy_mev: float, depth_mm: np.ndarray, i_ev: float = I_WATER_EV):
    """Weight and variance (mm²) of the nuclear halo at every depth, from the table.

    A power law in range between two rows; below the first, its columns from 0.25 to 0.9, which
    are the measured ones, give one mean power for all. Held beyond the range. From 10 to 250 MeV
    it is at least twice as wide as the core.
    """
    range_mm = projected_range_mm(energy_mev, water(i_ev))
    share = np.clip(np.asarray(depth_mm) / range_mm, 0.0, 1.0)
    weight = np.interp(share, HALO_DEPTH, _at_range(range_mm, HALO_WEIGHT))
    sigma = np.interp(share, HALO_DEPTH, _at_range(range_mm, HALO_SIGMA_MM))
    return weight, sigma**2


def _at_range(range_mm: float, rows: np.ndarray) -> np.ndarray:
    log_range, log_rows = np.log(HALO_RANGE_MM), np.log(rows)
    i = int(np.clip(np.searchsorted(HALO_RANGE_MM, range_mm) - 1, 0, len(rows) - 2))
    t = (np.log(range_mm) - log_range[i]) / (log_range[i + 1] - log_range[i])
    steps = log_rows[i + 1] - log_rows[i]
    return np.exp(log_rows[i] + t * (steps if t >= 0.0 else np.mean(steps[2:6])))
