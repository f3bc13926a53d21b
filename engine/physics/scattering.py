"""Multiple Coulomb scattering of protons: scattering powers, and the Fermi–Eyges moments.

Scattering power is d<θ²>/dz per plane, with θ the projected angle. Differential Molière (fdM,
Gottschalk, Med. Phys. 37 (2010) 352) is the default; differential Highland is Kanematsu, Nucl.
Instrum. Methods B 266 (2008) 5056. Both describe the Gaussian core: the single-scattering tail is
not in them. Moments: Eyges, Phys. Rev. 74 (1948) 1534. Depths run along depth, shape (n_depths,).
"""

from dataclasses import dataclass

import numpy as np

from engine.physics.constants import (
    AVOGADRO_PER_MOL,
    CLASSICAL_ELECTRON_RADIUS_CM,
    FINE_STRUCTURE,
    Numbers,
    pv_mev,
)
from engine.physics.materials import WATER, Material
from engine.physics.stopping_power import csda_range_mm, energy_at_range

E_S_MEV = 15.0
LOWEST_ENERGY_MEV = 2.0  # the last 0.1 mm of range scatter nowhere
TABULATED_X0_G_CM2 = {"water": 36.08}  # Particle Data Group; others by Tsai's short formula


def scattering_length_mm(material: Material = WATER) -> float:
    """Scattering length X_S of differential Molière (Gottschalk 2010, eq. 36)."""
    fractions, z, a = material.per_element()
    screening = 2.0 * np.log(33219.0 * (a * z) ** (-1.0 / 3.0)) - 1.0
    constant = FINE_STRUCTURE * AVOGADRO_PER_MOL * CLASSICAL_ELECTRON_RADIUS_CM**2
    inverse_g_cm2 = constant * np.sum(fractions * z * z / a * screening)
    return float(10.0 / (inverse_g_cm2 * material.density_g_cm3))


def radiation_length_mm(material: Material = WATER) -> float:
    """Radiation length; short formula of the Particle Data Group, within 1 % of its tables."""
    fractions, z, a = material.per_element()
    by_element = 716.4 * a / (z * (z + 1) * np.log(287.0 / np.sqrt(z)))
    areal = TABULATED_X0_G_CM2.get(material.name, 1.0 / float(np.sum(fractions / by_element)))
    return 10.0 * areal / material.density_g_cm3


def differential_moliere(
    pv: Numbers, entrance_pv: Numbers, material: Material = WATER
) -> np.ndarray:
    """fdM scattering power in rad²/mm, at pβc = ``pv`` of a beam that entered with
    ``entrance_pv`` (both MeV).

    Not local: the ratio of the two tells how much matter lies behind, whatever its kind, so slabs
    of different materials need no more. Zero in the very first layers, where it would be negative.
    """
    slowing = np.log10(np.maximum(1.0 - (pv / entrance_pv) ** 2, 1e-12))
    log_pv = np.log10(pv)
    factor = 0.5244 + 0.1975 * slowing + 0.2320 * log_pv - 0.0098 * log_pv * slowing
    return np.maximum(factor, 0.0) * (E_S_MEV / pv) ** 2 / scattering_length_mm(material)


def differential_highland(
    pv: Numbers, radiation_lengths: Numbers, material: Material = WATER
) -> np.ndarray:
    """Kanematsu's differential Highland in rad²/mm, after ``radiation_lengths`` of matter."""
    log_length = np.log(np.maximum(radiation_lengths, 1e-9))
    factor = 0.970 * (1.0 + log_length / 20.7) * (1.0 + log_length / 22.7)
    return np.maximum(factor, 0.0) * (E_S_MEV / pv) ** 2 / radiation_length_mm(material)


def highland_angle_rad(pv: Numbers, thickness_mm: Numbers, material: Material = WATER) -> Numbers:
    """Projected angle of a slab without energy loss (Highland 1975, Gottschalk's 1993 form)."""
    lengths = np.asarray(thickness_mm) / radiation_length_mm(material)
    return 14.1 / pv * np.sqrt(lengths) * (1.0 + np.log10(lengths) / 9.0)


def scattering_power_along(
    energy_mev: float,
    depth_mm: np.ndarray,
    material: Material = WATER,
    model: str = "moliere",
    path_per_depth: float = 1.0,
) -> np.ndarray:
    """Scattering power at every depth of one beam in one material, rad²/mm, (n_depths,).

    ``model`` is "moliere" (fdM) or "highland". Zero where less than 2 MeV are left.
    """
    residual_mm = csda_range_mm(energy_mev, material) - np.asarray(depth_mm) * path_per_depth
    energy = energy_at_range(np.maximum(residual_mm, 0.0), material)
    pv = pv_mev(np.maximum(energy, LOWEST_ENERGY_MEV))
    if model == "moliere":
        power = differential_moliere(pv, pv_mev(energy_mev), material)
    elif model == "highland":
        lengths = np.asarray(depth_mm) / radiation_length_mm(material)
        power = differential_highland(pv, lengths, material)
    else:
        raise ValueError(f'model={model!r} is unknown; choose "moliere" or "highland".')
    return np.where(energy >= LOWEST_ENERGY_MEV, power, 0.0)


@dataclass(frozen=True, eq=False)
class LateralMoments:
    """Second moments of angle θ and offset x from the beam axis, per plane, (n_depths,)."""

    angle_rad2: np.ndarray  # A0 = <θ²>
    covariance_mm_rad: np.ndarray  # A1 = <xθ>
    position_mm2: np.ndarray  # A2 = <x²>


def propagate(
    surface: tuple[float, float, float],
    depth_mm: np.ndarray,
    scattering_power_rad2_per_mm: np.ndarray,
) -> LateralMoments:
    """Carry the moments (A0, A1, A2) from the first depth to every other.

    Scattering power (n_depths,) is linear within a step: its integral, first and second moments
    enter by the trapezoid rule, so steps should lose less than 2 % of the energy.
    """
    z = np.asarray(depth_mm, dtype=np.float64)
    if np.any(np.diff(z) <= 0):
        raise ValueError("depth_mm must increase along the ray; sort it before propagating.")
    power = np.asarray(scattering_power_rad2_per_mm, dtype=np.float64)
    c0, c1, c2 = (_running(z, power * (z - z[0]) ** k) for k in range(3))
    u = z - z[0]
    a0, a1, a2 = surface
    return LateralMoments(
        a0 + c0,
        a1 + a0 * u + u * c0 - c1,
        a2 + 2.0 * a1 * u + a0 * u * u + u * u * c0 - 2.0 * u * c1 + c2,
    )


def _running(z: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Integral from the first depth, (n_depths,)."""
    return np.concatenate([[0.0], np.cumsum(0.5 * np.diff(z) * (values[1:] + values[:-1]))])
