"""Spectra of incoming protons on groups of residual range."""

from dataclasses import dataclass

import numpy as np

from engine.dose.yoda.range_axis import STEP_MM, RangeAxis
from engine.physics.materials import water
from engine.physics.stopping_power import csda_range_mm, mass_stopping_power
from engine.physics.straggling import range_straggling_mm

WINDOW_SIGMAS = 5.0
GROUPS_PER_SIGMA = 2.0  # standard deviation of ranges at the end, in groups
QUANTILES = 20_000
LEAST_WIDTH_MM = 4 * STEP_MM


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Groups of width ``width_mm`` from residual range ``lowest_mm`` upwards, and their
    coefficients (n_groups, 3) per proton; ``mean_mm`` is the mean of the ranges."""

    lowest_mm: float
    width_mm: float
    coefficients: np.ndarray
    mean_mm: float
    spread_mm: float  # standard deviation that ranges have at their end


def incoming(
    energy_mev: float, energy_std_mev: float, axis: RangeAxis,
    groups_per_sigma: float = GROUPS_PER_SIGMA, window_sigmas: float = WINDOW_SIGMAS,
) -> Spectrum:  # fmt: skip
    """A Gaussian of energies, projected on groups that hold all ranges to their end.

    Groups are a share of the standard deviation that ranges will have at the end: before, a
    spectrum may be narrower than a group, which keeps its mean and variance.
    """
    medium = water(axis.i_water_ev)
    mean_mm = float(csda_range_mm(energy_mev, medium))
    stopping = 0.1 * float(mass_stopping_power(energy_mev, medium))
    spread = float(np.hypot(range_straggling_mm(energy_mev, medium), energy_std_mev / stopping))
    width = max(2 * STEP_MM * round(spread / groups_per_sigma / (2 * STEP_MM)), LEAST_WIDTH_MM)
    n = int(np.ceil(2.0 * window_sigmas * spread / width)) + 1
    lowest = mean_mm - 0.5 * n * width
    coefficients = projected(energy_mev, energy_std_mev, axis, lowest, width, n)
    return Spectrum(lowest, width, coefficients, mean_mm, spread)


def projected(
    energy_mev: float, energy_std_mev: float, axis: RangeAxis, lowest_mm: float, width_mm: float,
    n: int,
) -> np.ndarray:  # fmt: skip
    """Coefficients (n, 3) of a Gaussian of energies on given groups."""
    u = (np.arange(QUANTILES) + 0.5) / QUANTILES * 12.0 - 6.0
    weight = np.exp(-0.5 * u * u)
    energies = energy_mev + energy_std_mev * u
    weight = np.where(energies > 0.1, weight, 0.0)
    ranges = csda_range_mm(np.maximum(energies, 0.1), water(axis.i_water_ev))
    place = (ranges - lowest_mm) / width_mm
    group = np.clip(place.astype(int), 0, n - 1)
    xi = 2.0 * (place - group) - 1.0
    weight /= weight.sum()
    powers = np.stack([np.ones_like(xi), 3.0 * xi, 5.0 * (1.5 * xi * xi - 0.5)])
    coefficients = [np.bincount(group, weight * p, n) / width_mm for p in powers]
    return np.ascontiguousarray(np.array(coefficients).T)
