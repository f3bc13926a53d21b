"""Physical constants (CODATA 2018), in MeV, cm and g, and the conversions to what users see."""

import numpy as np

ELECTRON_MASS_MEV = 0.51099895
PROTON_MASS_MEV = 938.272088
ATOMIC_MASS_UNIT_MEV = 931.494102
CLASSICAL_ELECTRON_RADIUS_CM = 2.8179403e-13
AVOGADRO_PER_MOL = 6.02214076e23
FINE_STRUCTURE = 1.0 / 137.035999
BETHE_K_MEV_CM2_MOL = 0.307075  # 4π N_A r_e² m_e c²
BARN_CM2 = 1e-24

GY_G_PER_MEV = 1.602176634e-10  # dose of one MeV in one gram
# Dose [Gy] of a fluence of one particle per mm² times a mass stopping power of 1 MeV cm²/g.
GY_MM2_PER_MEV_CM2_G = 1.602176634e-8

Numbers = float | np.ndarray


def beta2(energy_mev: Numbers, mass_mev: float = PROTON_MASS_MEV) -> Numbers:
    """Squared velocity β² at a kinetic energy; any shape."""
    gamma = 1.0 + energy_mev / mass_mev
    return 1.0 - 1.0 / (gamma * gamma)


def momentum_mev(energy_mev: Numbers, mass_mev: float = PROTON_MASS_MEV) -> Numbers:
    """Momentum pc at a kinetic energy."""
    return np.sqrt(energy_mev * (energy_mev + 2.0 * mass_mev))


def pv_mev(energy_mev: Numbers, mass_mev: float = PROTON_MASS_MEV) -> Numbers:
    """Momentum times velocity pβc, the energy that multiple scattering depends on."""
    return energy_mev * (energy_mev + 2.0 * mass_mev) / (energy_mev + mass_mev)
