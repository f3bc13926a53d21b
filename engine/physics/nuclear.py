"""Nuclear interactions of protons: how many are lost, and where their energy goes.

Cross sections and secondaries are ICRU Report 63's, as tabulated with MCsquare (Souris, Lee and
Sterpin, Med. Phys. 43 (2016) 1700). Neutrons and γ carry their share away.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from engine.physics.constants import (
    ATOMIC_MASS_UNIT_MEV,
    AVOGADRO_PER_MOL,
    BARN_CM2,
    PROTON_MASS_MEV,
    Numbers,
    momentum_mev,
    pv_mev,
)
from engine.physics.materials import ELEMENTS, WATER, Material

# ICRU 63, mb. Columns of the elastic table start at 5° and so contain Rutherford scattering.
ENERGY_MEV = np.array([10, 15, 20, 30, 40, 50, 60, 70, 80, 100, 120, 150, 180, 200, 220, 250.0])
NON_ELASTIC_MB = {
    "C": [320, 382, 441, 401, 363, 334, 306, 281, 256, 227, 222, 222, 214, 210, 209, 210],
    "N": [415, 481, 519, 472, 424, 362, 330, 300, 279, 260, 258, 257, 257, 257, 257, 257],
    "O": [425, 518, 535, 501, 449, 401, 362, 333, 313, 297, 295, 295, 295, 295, 295, 295],
    "P": [620, 716, 766, 795, 743, 688, 643, 599, 558, 488, 453, 441, 440, 440, 441, 443],
    "Ca": [703, 838, 843, 880, 812, 755, 706, 664, 631, 583, 557, 537, 527, 529, 532, 535],
}
THRESHOLD_MEV = {"C": 5.0, "N": 3.0, "O": 7.0, "P": 5.0, "Ca": 5.0}
ELASTIC_MB = {
    "C": [6781, 3247, 2053, 1148, 772, 557, 418, 353, 284, 193, 137, 90, 68, 63, 64, 74],
    "O": [11703, 5417, 3273, 1690, 1077, 753, 553, 453, 360, 241, 171, 112, 84, 76, 74, 82],
    "Ca": [67410, 28179, 15016, 6251, 3471, 2242, 1575, 1160, 894, 573, 395, 253, 189, 173, 170]
    + [182],
}
# p–p elastic per hydrogen atom, mb; isotropic in the center of mass.
PP_ENERGY_MEV = np.array([20.0, 40.0, 70.0, 100.0, 130.0, 150.0, 200.0, 250.0])
PP_ELASTIC_MB = np.array([160.0, 79.0, 46.0, 33.0, 28.0, 25.0, 23.5, 22.0])

NUCLEAR_ELASTIC_FROM_MEV = 50.0  # below, the elastic table is mostly Rutherford scattering
ELASTIC_TABLE_FROM_RAD = np.radians(5.0)
# dσ/dt ∝ exp(−b |t|) with b = 10 A^(2/3) / (GeV/c)², the size of the nucleus: good to some 20 %
DIFFRACTION_SLOPE_PER_GEV2 = 10.0

# ICRU 63, protons on oxygen, at 50 … 250 MeV: multiplicity, share of the incident energy, and the
# energy-weighted mean cosine of the secondary protons; deuterons; shares of alphas and recoils.
SECONDARY_ENERGY_MEV = np.array([50.0, 100.0, 150.0, 200.0, 250.0])
PROTON_MULTIPLICITY = np.array([1.21, 1.69, 1.99, 2.17, 2.34])
PROTON_SHARE = np.array([0.38, 0.42, 0.46, 0.47, 0.49])
PROTON_COSINE = np.array([0.55, 0.65, 0.71, 0.72, 0.73])
DEUTERON_MULTIPLICITY = np.array([0.18, 0.28, 0.37, 0.43, 0.45])
DEUTERON_SHARE = np.array([0.07, 0.09, 0.10, 0.10, 0.09])
ALPHA_SHARE = np.array([0.08, 0.06, 0.05, 0.04, 0.04])
RECOIL_SHARE = np.array([0.048, 0.034, 0.024, 0.021, 0.020])
# Of the protons, the share boiled off isotropically, and the temperature of that Maxwellian.
EVAPORATED_SHARE = 0.45
EVAPORATION_MEV = 2.5

Process = Literal["non-elastic", "proton-proton", "nuclear-elastic"]


def non_elastic_mb(energy_mev: Numbers, symbol: str) -> np.ndarray:
    """Non-elastic cross section per atom, mb; none below the threshold, none for hydrogen.

    Elements without a table follow the nearest one as A^(2/3), the geometric cross section.
    """
    energy = np.asarray(energy_mev, dtype=np.float64)
    if symbol == "H":
        return np.zeros_like(energy)
    name, scale = _nearest(symbol, NON_ELASTIC_MB)
    value = np.interp(energy, ENERGY_MEV, NON_ELASTIC_MB[name]) * scale
    return np.where(energy >= THRESHOLD_MEV[name], value, 0.0)


def proton_proton_mb(energy_mev: Numbers) -> np.ndarray:
    """p–p elastic cross section per hydrogen atom, mb; log-log between and below the nodes."""
    log_energy = np.log(np.maximum(energy_mev, 1.0))
    log_nodes, log_values = np.log(PP_ENERGY_MEV), np.log(PP_ELASTIC_MB)
    slope = (log_values[1] - log_values[0]) / (log_nodes[1] - log_nodes[0])
    below = slope * np.minimum(log_energy - log_nodes[0], 0.0)
    return np.exp(np.interp(log_energy, log_nodes, log_values) + below)


def nuclear_elastic_mb(energy_mev: Numbers, symbol: str) -> np.ndarray:
    """Elastic scattering by the nuclear force per atom, mb: the table less Rutherford's share.

    Only from 50 MeV: below, Coulomb scattering rules, and multiple scattering holds it.
    """
    energy = np.asarray(energy_mev, dtype=np.float64)
    if symbol == "H":
        return np.zeros_like(energy)
    name, scale = _nearest(symbol, ELASTIC_MB)
    high = np.maximum(energy, NUCLEAR_ELASTIC_FROM_MEV)
    value = np.interp(high, ENERGY_MEV, ELASTIC_MB[name]) - rutherford_mb(
        high, ELEMENTS[name].z, ELASTIC_TABLE_FROM_RAD
    )
    return np.where(energy >= NUCLEAR_ELASTIC_FROM_MEV, np.maximum(value, 0.0) * scale, 0.0)


def rutherford_mb(energy_mev: Numbers, z: int, from_angle_rad: float) -> Numbers:
    """Coulomb scattering of a point nucleus beyond an angle, mb."""
    half_distance_fm = z * 1.43996 / (2.0 * pv_mev(energy_mev))
    return 10.0 * np.pi * (half_distance_fm / np.tan(0.5 * from_angle_rad)) ** 2


def _nearest(symbol: str, table: dict) -> tuple[str, float]:
    """The tabulated element nearest in mass, and the geometric factor to ``symbol``."""
    a = ELEMENTS[symbol].a_g_mol
    name = min(table, key=lambda s: abs(np.log(ELEMENTS[s].a_g_mol / a)))
    return name, (a / ELEMENTS[name].a_g_mol) ** (2.0 / 3.0)


def interactions_per_mm(
    energy_mev: Numbers, process: Process = "non-elastic", material: Material = WATER
) -> np.ndarray:
    """Interactions per mm of path, shape of ``energy_mev``. Water at 150 MeV: 1 % per cm."""
    total = np.zeros(np.shape(energy_mev))
    for symbol, fraction in material.mass_fractions.items():
        atoms_per_cm3 = (
            material.density_g_cm3 * fraction / ELEMENTS[symbol].a_g_mol * AVOGADRO_PER_MOL
        )
        total = total + atoms_per_cm3 * 1e-3 * BARN_CM2 / 10.0 * _mb(process, energy_mev, symbol)
    return total


def _mb(process: Process, energy_mev: Numbers, symbol: str) -> np.ndarray:
    if process == "non-elastic":
        return non_elastic_mb(energy_mev, symbol)
    if process == "nuclear-elastic":
        return nuclear_elastic_mb(energy_mev, symbol)
    if process == "proton-proton":
        return proton_proton_mb(energy_mev) if symbol == "H" else np.zeros(np.shape(energy_mev))
    raise ValueError(
        f'process={process!r} is unknown; choose "non-elastic", "proton-proton" or '
        '"nuclear-elastic".'
    )


def charged_share(energy_mev: Numbers) -> np.ndarray:
    """Share of the incident energy that a non-elastic event hands to charged particles."""
    shares = PROTON_SHARE + DEUTERON_SHARE + ALPHA_SHARE + RECOIL_SHARE
    return np.interp(energy_mev, SECONDARY_ENERGY_MEV, shares)


@dataclass(frozen=True, eq=False)
class Secondaries:
    """Charged particles from one event, as (n,) rays: number, energy, direction along the beam.

    ``local_mev`` is deposited on the spot (alphas, recoils, and what does not travel).
    """

    number: np.ndarray
    energy_mev: np.ndarray
    cosine: np.ndarray
    local_mev: float


def proton_proton_secondaries(energy_mev: float, n: int = 32) -> Secondaries:
    """Both protons of an elastic p–p collision: each one's energy is uniform from 0 to E."""
    share = (np.arange(n) + 0.5) / n
    each = share * energy_mev
    cosine = np.sqrt(
        share * (energy_mev + 2.0 * PROTON_MASS_MEV) / (each + 2.0 * PROTON_MASS_MEV)
    )  # two-body kinematics
    return Secondaries(np.full(n, 2.0 / n), each, cosine, 0.0)


def elastic_secondaries(energy_mev: float, symbol: str = "O", n: int = 48) -> Secondaries:
    """The proton after diffractive scattering off a nucleus; the recoil stays on the spot."""
    a = ELEMENTS[symbol].a_g_mol
    slope_per_mev2 = DIFFRACTION_SLOPE_PER_GEV2 * a ** (2.0 / 3.0) * 1e-6
    t_mev2 = -np.log(1.0 - (np.arange(n) + 0.5) / n) / slope_per_mev2
    cosine = 1.0 - t_mev2 / (2.0 * momentum_mev(energy_mev) ** 2)
    recoil = np.minimum(t_mev2 / (2.0 * a * ATOMIC_MASS_UNIT_MEV), 0.5 * energy_mev)
    return Secondaries(
        np.full(n, 1.0 / n), energy_mev - recoil, np.maximum(cosine, -1.0), float(recoil.mean())
    )


def non_elastic_secondaries(
    energy_mev: float, particle: Literal["proton", "deuteron"] = "proton"
) -> Secondaries:
    """Protons or deuterons of a non-elastic event on oxygen.

    A parametric stand-in for ICRU 63's spectra that keeps their multiplicity, energy and
    energy-weighted cosine: 45 % of the protons are evaporated, isotropic with a Maxwellian of
    2.5 MeV; the others are flat in energy from 0 to twice their mean, with directions
    ∝ exp(k E'/E cos θ). Shape within those three numbers is an assumption. Alphas' and recoils'
    energy counts as the protons' ``local_mev``.
    """
    shares = [np.interp(energy_mev, SECONDARY_ENERGY_MEV, s) for s in _tables(particle)]
    number, share, cosine = shares
    affordable = 0.5 * share * energy_mev / (2.0 * EVAPORATION_MEV)  # binds below 20 MeV only
    evaporated = min(EVAPORATED_SHARE * number, affordable) if particle == "proton" else 0.0
    boiled_mev = evaporated * 2.0 * EVAPORATION_MEV
    fast = number - evaporated
    top = min(2.0 * max(share * energy_mev - boiled_mev, 0.0) / fast / energy_mev, 1.0)
    forward = cosine * share * energy_mev / max(share * energy_mev - boiled_mev, 1e-9)
    rays = _cascade(fast, top, energy_mev, _forwardness(top, min(forward, 0.95)))
    local = 0.0
    if particle == "proton":
        rays = [
            np.concatenate(r) for r in zip(rays, _evaporation(evaporated, energy_mev), strict=True)
        ]
        heavy = np.interp(energy_mev, SECONDARY_ENERGY_MEV, ALPHA_SHARE + RECOIL_SHARE)
        local = float(heavy * energy_mev)
    return Secondaries(*rays, local)


def _tables(particle: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if particle == "proton":
        return PROTON_MULTIPLICITY, PROTON_SHARE, PROTON_COSINE
    return DEUTERON_MULTIPLICITY, DEUTERON_SHARE, PROTON_COSINE


def _cascade(number: float, top: float, energy_mev: float, k: float, n: int = 24, m: int = 16):
    """Rays flat in x = E'/E up to ``top``, directions ∝ exp(k x µ): number, energy, cosine."""
    x = np.repeat(top * (np.arange(n) + 0.5) / n, m)
    q = np.tile((np.arange(m) + 0.5) / m, n)
    kappa = k * x
    cosine = 1.0 + np.log(q + (1.0 - q) * np.exp(-2.0 * kappa)) / np.maximum(kappa, 1e-9)
    return [np.full(n * m, number / (n * m)), x * energy_mev, cosine]


def _evaporation(number: float, top_mev: float, n: int = 12, m: int = 8):
    """Isotropic rays with spectrum E exp(−E/T), none above ``top_mev``."""
    edges = np.linspace(0.0, 10.0, n + 1) * EVAPORATION_MEV
    cumulative = 1.0 - (1.0 + edges / EVAPORATION_MEV) * np.exp(-edges / EVAPORATION_MEV)
    weight = np.repeat(np.diff(cumulative) / cumulative[-1], m) * number / m
    energy = np.repeat(0.5 * (edges[1:] + edges[:-1]), m)
    energy *= 2.0 * EVAPORATION_MEV * number / np.sum(weight * energy)  # keep the mean exactly
    energy = np.minimum(energy, top_mev)
    return [weight, energy, np.tile(-1.0 + 2.0 * (np.arange(m) + 0.5) / m, n)]


@lru_cache(maxsize=4096)
def _forwardness(top: float, mean_cosine: float) -> float:
    """k for which exp(k x µ), x flat to ``top``, has this energy-weighted mean cosine."""
    x = top * (np.arange(64) + 0.5) / 64

    def excess(k: float) -> float:
        kappa = k * x
        langevin = 1.0 / np.tanh(kappa) - 1.0 / kappa
        return float(np.sum(x * langevin) / np.sum(x)) - mean_cosine

    return float(brentq(excess, 1e-3, 1e3))
