"""Energy measured by residual range: what the Fokker–Planck solver needs to know of protons.

A proton's energy E is told by its residual range r in water (CSDA, mm). In this coordinate water
slows all protons alike, dr = −ds over a water-equivalent step ds, so that groups which move with
the spectrum see no drift but what tells materials and energies apart:

    dr = −(c + d·h(r)) ρ dz + c·u(r) ρ dz ± √(c·κ(r) ρ dz)

Every material's mass stopping power over water's is c + d·h, h being one over Bethe's logarithm in
water: Bragg additivity means just that, with c the electrons per gram over water's. Straggling is
proportional to c. κ = T/S² is the growth of the range's variance, u = ½ T |S′|/S² Itô's term, for
the range is no linear function of the energy. Below r = 0 protons have stopped: they keep moving
with the frame, and have no energy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.physics.constants import (
    ELECTRON_MASS_MEV,
    PROTON_MASS_MEV,
    beta2,
    momentum_mev,
    pv_mev,
)
from engine.physics.materials import Material, stopping_ratio_table, water
from engine.physics.stopping_power import csda_range_mm, energy_at_range, mass_stopping_power
from engine.physics.straggling import energy_straggling_mev2_cm

HIGHEST_MEV = 300.0
STEP_MM = 0.05  # between nodes
FINER = 4  # nodes of the integrals over a group per node of their table
SLOWEST_MEV = 1.0  # for Bethe's logarithm, as in ``stopping_ratio_table``
SCATTERS_FROM_MEV = 2.0  # slower protons have 0.1 mm to go
RATIO_MEV = np.geomspace(5.0, 250.0, 60)  # where stopping ratios are fitted
KAPPA, SHIFT, INVERSE_LOG = range(3)  # columns of ``RangeAxis.coefficients``
ENERGY, LET, ALIVE, SCATTERING, REMOVAL = range(5)  # of the functionals of a spectrum
N_FUNCTIONALS = 5


@dataclass(frozen=True, eq=False)
class RangeAxis:
    """Functions of residual range in water at ``STEP_MM * arange(n)``, float64.

    ``functionals`` are what the solver integrates over a spectrum: energy in MeV, ∫ LET dE in
    MeV keV/µm, one, (pv)⁻² in MeV⁻², removal by nuclear interactions per mm.
    """

    i_water_ev: float
    range_mm: np.ndarray  # (n,)
    coefficients: np.ndarray  # (n, 3): κ in mm, u, h
    logs: np.ndarray  # (n, 2): ln β²γ², ln (pc)² in MeV²
    functionals: np.ndarray  # (n, N_FUNCTIONALS)


@lru_cache(maxsize=8)
def range_axis(i_water_ev: float, removal_per_mm: tuple[float, ...] = ()) -> RangeAxis:
    """Tables in water of one mean excitation energy.

    ``removal_per_mm`` are cross sections of nuclear interactions in water at 0, 1, 2, … MeV.
    """
    medium = water(i_water_ev)
    top_mm = float(csda_range_mm(HIGHEST_MEV, medium))
    fine = STEP_MM / FINER * np.arange(FINER * int(top_mm / STEP_MM) + 1)
    energy = energy_at_range(fine, medium)
    functionals = np.zeros((fine.size, N_FUNCTIONALS))
    functionals[:, ENERGY] = energy
    functionals[:, LET] = _let_integral(energy, medium)
    functionals[:, ALIVE] = 1.0
    functionals[:, SCATTERING] = pv_mev(np.maximum(energy, SCATTERS_FROM_MEV)) ** -2.0
    if removal_per_mm:
        functionals[:, REMOVAL] = np.interp(energy, np.arange(len(removal_per_mm)), removal_per_mm)
    slow = np.maximum(energy[::FINER], SLOWEST_MEV)
    logs = np.column_stack([2.0 * np.log(momentum_mev(slow) / PROTON_MASS_MEV),
                            2.0 * np.log(momentum_mev(slow))])  # fmt: skip
    return RangeAxis(
        i_water_ev, fine, _coefficients(energy[::FINER], medium), logs, functionals
    )


def _coefficients(energy_mev: np.ndarray, medium: Material) -> np.ndarray:
    """κ, u and h (n, 3); no straggling at rest."""
    energy = np.maximum(energy_mev, 1e-3)
    stopping = 0.1 * mass_stopping_power(energy, medium)  # MeV/mm
    steeper = 0.1 * mass_stopping_power(1.001 * energy, medium)
    slope = (steeper - stopping) / (0.001 * energy)
    straggling = 0.1 * energy_straggling_mev2_cm(energy, medium)
    kappa = straggling / stopping**2
    shift = 0.5 * straggling * np.maximum(-slope, 0.0) / stopping**2
    kappa[0] = shift[0] = 0.0
    slow = np.maximum(energy_mev, SLOWEST_MEV)
    return np.column_stack([kappa, shift, 1.0 / bethe_logarithm(slow, medium.mean_excitation_ev)])


def bethe_logarithm(energy_mev: np.ndarray, i_ev: float) -> np.ndarray:
    """ln(2 m_e c² β²γ²/I) − β²."""
    b2 = beta2(energy_mev)
    return np.log(2e6 * ELECTRON_MASS_MEV * b2 / (1.0 - b2) / i_ev) - b2


def _let_integral(energy_mev: np.ndarray, medium: Material) -> np.ndarray:
    """∫ LET dE from rest, LET in keV/µm."""
    nodes = np.geomspace(1e-4, HIGHEST_MEV * 1.01, 20_001)
    let = 0.1 * mass_stopping_power(nodes, medium)
    steps = 0.5 * np.diff(np.log(nodes)) * (let[1:] * nodes[1:] + let[:-1] * nodes[:-1])
    return np.interp(energy_mev, nodes, np.concatenate([[0.0], np.cumsum(steps)]), left=0.0)


def stopping_coefficients(
    materials: Sequence[Material], i_water_ev: float
) -> np.ndarray:
    """c and d (n_materials, 2) of the mass stopping power over water's, c + d·h(E).

    A least-squares fit from 5 to 250 MeV, exact but for rounding where both are Bethe's formula.
    """
    ratio = stopping_ratio_table(materials, RATIO_MEV, i_water_ev)
    h = 1.0 / bethe_logarithm(RATIO_MEV, i_water_ev)
    design = np.column_stack([np.ones_like(h), h])
    return np.linalg.lstsq(design, ratio.T, rcond=None)[0].T


@lru_cache(maxsize=64)
def group_moments(axis: RangeAxis, width_mm: float) -> np.ndarray:
    """∫ f P_k dr over a group, for groups centered at ``STEP_MM * arange(n) − width/2``.

    (n, N_FUNCTIONALS, 3) float64 for Legendre polynomials of the group's own coordinate. What
    lies below r = 0 counts nothing. ``width_mm`` is a multiple of twice the tables' step.
    """
    half = round(0.5 * width_mm / STEP_MM) * FINER
    if half < 1 or abs(2.0 * half * STEP_MM / FINER - width_mm) > 1e-9:
        raise ValueError(f"width_mm={width_mm} must be a multiple of {2 * STEP_MM:g} mm.")
    xi = np.arange(-half, half + 1) / half
    simpson = np.where(np.arange(2 * half + 1) % 2, 4.0, 2.0)
    simpson[[0, -1]] = 1.0
    simpson *= STEP_MM / FINER / 3.0
    table = []
    for f in axis.functionals.T:
        padded = np.concatenate([np.zeros(2 * half), f])
        table.append([
            np.correlate(padded, simpson * p, "valid")[::FINER]
            for p in (np.ones_like(xi), xi, 1.5 * xi * xi - 0.5)
        ])  # fmt: skip
    return np.ascontiguousarray(np.moveaxis(np.array(table), -1, 0))

