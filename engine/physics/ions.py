"""Ions in matter, from the protons of the same velocity: stopping, range, straggling, scattering.

Energies are per nucleon. Stopping power goes with the square of the effective charge, so ranges
with A/Z² and their relative straggling with 1/√A. Multiple scattering is differential Molière at
pβc over Z; the detour that it costs an ion is below 1e-4 of the range and left out.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline

from engine.physics.constants import (
    ATOMIC_MASS_UNIT_MEV,
    PROTON_MASS_MEV,
    Numbers,
    beta2,
    pv_mev,
)
from engine.physics.materials import WATER, Material
from engine.physics.scattering import LOWEST_ENERGY_MEV, differential_moliere, propagate
from engine.physics.stopping_power import mass_stopping_power
from engine.physics.straggling import range_straggling_mm as proton_straggling_mm

BARKAS = 125.0  # z_eff = Z (1 − exp(−125 β Z^−⅔)), Barkas 1963
TABLE_MEV = (1e-3, 500.0)  # per nucleon, limits of the range tables
NODES_PER_TABLE = 3000
LATERAL_STEP_MM = 0.05


@dataclass(frozen=True)
class Ion:
    """A nucleus that flies alone."""

    name: str
    charge: int
    mass_number: int


PROTON = Ion("proton", 1, 1)
CARBON = Ion("carbon-12", 6, 12)
OXYGEN = Ion("oxygen-16", 8, 16)


def mass_per_nucleon_mev(charge: int) -> float:
    """Rest energy that an energy per nucleon counts on: the atomic mass unit, or the proton's."""
    return PROTON_MASS_MEV if charge == 1 else ATOMIC_MASS_UNIT_MEV


def proton_energy_mev(charge: int, energy_mev: Numbers) -> Numbers:
    """Energy of the proton that is as fast as an ion."""
    return energy_mev * (PROTON_MASS_MEV / mass_per_nucleon_mev(charge))


def effective_charge(charge: int, beta: Numbers) -> Numbers:
    """Charge that the electrons of the medium feel, relative to the proton's; Z when fast."""
    stripped = 1.0 - np.exp(-BARKAS * np.asarray(beta) * charge ** (-2.0 / 3.0))
    return charge * stripped / (1.0 - np.exp(-BARKAS * np.asarray(beta)))


def stopping_power_mev_cm2_g(
    charge: int, energy_mev: Numbers, material: Material = WATER
) -> np.ndarray:
    """Electronic stopping power S/ρ of the ion, shape of ``energy_mev`` (per nucleon)."""
    energy = proton_energy_mev(charge, np.asarray(energy_mev, dtype=np.float64))
    z = effective_charge(charge, np.sqrt(beta2(energy)))
    return z * z * mass_stopping_power(energy, material)


@dataclass(frozen=True, eq=False)
class _IonRanges:
    log_range: CubicSpline  # g/cm² of log energy per nucleon
    log_energy: CubicSpline
    lowest_g_cm2: float
    highest_g_cm2: float


@lru_cache(maxsize=64)
def _ranges(charge: int, mass_number: int, material: Material) -> _IonRanges:
    log_energy = np.linspace(*np.log(TABLE_MEV), NODES_PER_TABLE)
    energy = np.exp(log_energy)
    # total energy changes by the mass, in atomic mass units, for every MeV per nucleon
    stopping = stopping_power_mev_cm2_g(charge, energy, material) / mass_number
    steps = CubicSpline(log_energy, energy / stopping).antiderivative()(log_energy)
    ranges = steps - steps[0] + 2.0 * energy[0] / stopping[0]  # S ∝ √E below the first node
    log_range = np.log(ranges)
    curves = CubicSpline(log_energy, log_range), CubicSpline(log_range, log_energy)
    return _IonRanges(*curves, float(ranges[0]), float(ranges[-1]))


def range_mm(
    charge: int, mass_number: int, energy_mev: Numbers, material: Material = WATER
) -> np.ndarray:
    """Mean path length to rest, mm of the material, from 1 keV to 500 MeV per nucleon."""
    energy = np.asarray(energy_mev, dtype=np.float64)
    low, high = TABLE_MEV
    if not np.all((energy >= low) & (energy <= high)):
        raise ValueError(
            f"energy_mev={energy_mev} must lie within {low} … {high:.0f} MeV per nucleon."
        )
    table = _ranges(charge, mass_number, material)
    return 10.0 / material.density_g_cm3 * np.exp(table.log_range(np.log(energy)))


def energy_at_range_mm(
    charge: int, mass_number: int, range_mm: Numbers, material: Material = WATER
) -> np.ndarray:
    """Energy per nucleon that a residual range in mm belongs to; 0 at no range."""
    table = _ranges(charge, mass_number, material)
    ranges = np.asarray(range_mm, dtype=np.float64) * material.density_g_cm3 / 10.0
    if not np.all((ranges >= 0.0) & (ranges <= table.highest_g_cm2 * (1.0 + 1e-12))):
        limit = 10.0 * table.highest_g_cm2 / material.density_g_cm3
        raise ValueError(f"range_mm={range_mm} must lie within 0 … {limit:.0f} mm.")
    floor = table.lowest_g_cm2
    energy = np.exp(table.log_energy(np.log(np.maximum(ranges, floor))))
    return np.where(ranges >= floor, energy, TABLE_MEV[0] * (ranges / floor) ** 2)


def range_straggling_mm(
    charge: int, mass_number: int, energy_mev: Numbers, material: Material = WATER
) -> np.ndarray:
    """Standard deviation of the range of monoenergetic ions, mm of the material.

    Straggling per path goes with Z², stopping power too: √A/Z² of the proton's of that velocity.
    """
    masses = mass_number * mass_per_nucleon_mev(charge) / PROTON_MASS_MEV
    proton = proton_straggling_mm(proton_energy_mev(charge, energy_mev), material)
    return np.sqrt(masses) / charge**2 * proton


def magnetic_pv_mev(charge: int, mass_number: int, energy_mev: Numbers) -> Numbers:
    """pβc over charge: what stands for the proton's pβc in formulas of its scattering."""
    return mass_number / charge * pv_mev(energy_mev, mass_per_nucleon_mev(charge))


def scattering_power(
    charge: int,
    mass_number: int,
    energy_mev: Numbers,
    entrance_mev: float,
    material: Material = WATER,
) -> np.ndarray:
    """Scattering power in rad²/mm at an energy of ions that entered with ``entrance_mev``.

    Differential Molière, 0 where less than 2 MeV per nucleon are left. A proton's factor at pβc/Z
    stands for the ion's; carbon's σ over a proton's of equal range is then within 2 % of what the
    theory for thick targets says (Molière with Hanson's width and each ion's own screening).
    """
    energy = np.asarray(energy_mev, dtype=np.float64)
    pv = magnetic_pv_mev(charge, mass_number, np.maximum(energy, LOWEST_ENERGY_MEV))
    power = differential_moliere(pv, magnetic_pv_mev(charge, mass_number, entrance_mev), material)
    return np.where(energy >= LOWEST_ENERGY_MEV, power, 0.0)


def scattering_power_along(
    charge: int,
    mass_number: int,
    energy_mev: float,
    depth_mm: np.ndarray,
    material: Material = WATER,
) -> np.ndarray:
    """Scattering power at every depth of one beam in one material, rad²/mm, (n_depths,)."""
    whole = range_mm(charge, mass_number, energy_mev, material)
    left = np.maximum(whole - np.asarray(depth_mm), 0.0)
    energy = energy_at_range_mm(charge, mass_number, left, material)
    return scattering_power(charge, mass_number, energy, energy_mev, material)


def lateral_variance_mm2(
    charge: int,
    mass_number: int,
    energy_mev: float,
    depth_mm: np.ndarray,
    material: Material = WATER,
) -> np.ndarray:
    """Variance per plane of a pencil by multiple scattering, at every depth; held beyond the
    range."""
    end = float(range_mm(charge, mass_number, energy_mev, material))
    fine = np.linspace(0.0, end, max(int(end / LATERAL_STEP_MM), 2) + 1)
    power = scattering_power_along(charge, mass_number, energy_mev, fine, material)
    moments = propagate((0.0, 0.0, 0.0), fine, power)
    return np.interp(depth_mm, fine, moments.position_mm2)
