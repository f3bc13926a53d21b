"""What the engine knows of a material: a few numbers per gram, all linear in its elements."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.dose.yoda._fokker_planck import (
    LOG_CONSTANT,
    LOG_SLOPE,
    N_COEFFICIENTS,
    REACTS,
    RELEASES,
    STRENGTH,
)
from engine.dose.yoda.range_axis import stopping_coefficients
from engine.physics.materials import Material, water
from engine.physics.moliere import scattering_coefficients
from engine.physics.nuclear import charged_share, interactions_per_mm

REACTING_MEV = np.linspace(30.0, 200.0, 18)
PROCESSES = ("non-elastic", "proton-proton", "nuclear-elastic")
PER_MM = 0.1  # g/cm² of a mm of density 1


def material_coefficients(
    materials: Sequence[Material], i_water_ev: float, scattering: str, nuclear: bool
) -> np.ndarray:
    """(n_materials, N_COEFFICIENTS) per mm of density 1 g/cm³, columns as in ``_fokker_planck``.

    Scattering strengths in MeV², and times their logarithms' constant and slope; reactions and
    what they set free over water's, the mean ratio from 30 to 200 MeV.
    """
    table = np.zeros((len(materials), N_COEFFICIENTS))
    table[:, :2] = stopping_coefficients(materials, i_water_ev)
    for row, material in zip(table, materials):
        found = scattering_coefficients(material, scattering)
        row[STRENGTH] = PER_MM * found.strength_mev2_rad2_cm2_g
        row[LOG_CONSTANT] = row[STRENGTH] * found.log_constant
        row[LOG_SLOPE] = row[STRENGTH] * found.log_slope
        if nuclear:
            row[REACTS], row[RELEASES] = _reactions(material, water(i_water_ev))
    return table


def _reactions(material: Material, medium: Material) -> tuple[float, float]:
    """Interactions per gram, and what their charged products get per gram, over water's."""
    theirs, ours = (_rates(replace(m, density_g_cm3=1.0)) for m in (material, medium))
    shares = np.array([charged_share(REACTING_MEV), *np.ones((2, REACTING_MEV.size))])
    return tuple(
        float(np.mean((theirs * w).sum(axis=0) / (ours * w).sum(axis=0)))
        for w in (np.ones_like(shares), shares)
    )


def _rates(material: Material) -> np.ndarray:
    """Interactions per mm, (n_processes, n_energies)."""
    return np.array([interactions_per_mm(REACTING_MEV, p, material) for p in PROCESSES])
