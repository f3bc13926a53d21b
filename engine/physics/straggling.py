"""Energy and range straggling of protons.

Bohr's variance with the relativistic correction; a Gaussian is right where the Vavilov parameter
κ is above 10 or where many thin layers add up, as along a proton range: the skewed tails of one
thin layer (κ < 0.01, Landau) do not reach a dose in voxels.
"""

import numpy as np
from scipy.integrate import quad_vec

from engine.physics.constants import (
    BETHE_K_MEV_CM2_MOL,
    ELECTRON_MASS_MEV,
    PROTON_MASS_MEV,
    Numbers,
    beta2,
)
from engine.physics.materials import WATER, Material
from engine.physics.stopping_power import largest_transfer_mev, mass_stopping_power


def energy_straggling_mev2_cm(energy_mev: Numbers, material: Material = WATER) -> Numbers:
    """Variance of the energy loss per path length, MeV²/cm (Bohr, relativistic)."""
    gamma = 1.0 + energy_mev / PROTON_MASS_MEV
    ratio = ELECTRON_MASS_MEV / PROTON_MASS_MEV
    electrons = material.z_over_a * material.density_g_cm3
    shape = gamma * gamma * (1.0 - 0.5 * beta2(energy_mev))
    recoil = 1.0 + 2.0 * gamma * ratio + ratio * ratio
    return BETHE_K_MEV_CM2_MOL * ELECTRON_MASS_MEV * electrons * shape / recoil


def range_straggling_mm(energy_mev: Numbers, material: Material = WATER) -> np.ndarray:
    """Standard deviation of the range of monoenergetic protons, ∫ T/S³ dE, mm of the material."""
    top = np.atleast_1d(np.asarray(energy_mev, dtype=np.float64))
    low = 1e-3  # what lies below adds nothing

    def integrand(u: float) -> np.ndarray:
        energy = low * (top / low) ** u  # the integral runs over log energy
        stopping = mass_stopping_power(energy, material) * material.density_g_cm3
        spread = energy_straggling_mev2_cm(energy, material)
        return spread / stopping**3 * energy * np.log(top / low)

    variance_cm2, _ = quad_vec(integrand, 0.0, 1.0, epsrel=1e-8)
    return 10.0 * np.sqrt(variance_cm2).reshape(np.shape(energy_mev))


def vavilov_kappa(energy_mev: Numbers, thickness_mm: float, material: Material = WATER) -> Numbers:
    """κ = ξ / T_max of a layer: above 10 its energy loss is Gaussian, below 0.01 Landau's."""
    areal_g_cm2 = material.density_g_cm3 * thickness_mm / 10.0
    xi = 0.5 * BETHE_K_MEV_CM2_MOL * material.z_over_a / beta2(energy_mev) * areal_g_cm2
    return xi / largest_transfer_mev(energy_mev)
