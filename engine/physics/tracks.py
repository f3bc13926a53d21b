"""Amorphous ion tracks: mean dose against distance from the path, in water.

Both forms are a flat core and λ/r² from there to the reach of the fastest electrons; together they
hold the whole LET. Scholz & Kraft (LEM I: Adv. Space Res. 18 (1996) 5) fix the core's size;
The other (halo: Kiefer & Straaten, Phys. Med. Biol. 31 (1986) 1201; core: Chatterjee & Schaefer,
Radiat. Environ. Biophys. 13 (1976) 215) fixes the halo, and the core takes what is left.
Distances in µm of water.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.physics.constants import Numbers, beta2
from engine.physics.ions import effective_charge, mass_per_nucleon_mev, stopping_power_mev_cm2_g

GY_UM2_PER_MEV_CM2_G = 1.602176634e-2  # dose × area of one track of 1 MeV cm²/g in water
ION_CHARGES = (1, 2, 3, 4, 5, 6)
TRACK_ENERGY_MEV = (0.1, 500.0)  # per nucleon
SCHOLZ_KRAFT_CORE_UM = 0.01
INNER_RINGS, OUTER_RINGS = 96, 128
TABLE_NODES = 72
NEAREST_UM = 1e-4  # the rings' distance from the disc's edge starts here
ARCS = 64  # circles around the track that resolve the disc


@dataclass(frozen=True)
class Track:
    """Radial dose of one ion: core_gy inside the core, λ/r² to the reach, nothing beyond."""

    core_um: float
    core_gy: float
    halo_gy_um2: float  # λ
    reach_um: float

    def dose_gy(self, radius_um: Numbers) -> np.ndarray:
        """Local dose at a distance from the path."""
        radius = np.asarray(radius_um, dtype=np.float64)
        halo = self.halo_gy_um2 / np.maximum(radius, self.core_um) ** 2
        dose = np.where(radius <= self.core_um, self.core_gy, halo)
        return np.where(radius <= self.reach_um, dose, 0.0)

    def within_gy_um2(self, radius_um: Numbers = np.inf) -> np.ndarray:
        """Integral of the dose over a disc around the path; all of it is 0.1602 LET (keV/µm)."""
        core = np.minimum(radius_um, self.core_um)
        halo = np.clip(radius_um, self.core_um, self.reach_um)
        return np.pi * (
            core**2 * self.core_gy + 2.0 * self.halo_gy_um2 * np.log(halo / self.core_um)
        )


def scholz_kraft(charge: int, energy_mev: float) -> Track:
    """Track of LEM I; below 0.34 MeV per nucleon, where no electron leaves the core, all core."""
    whole = _whole_gy_um2(charge, energy_mev)
    core = SCHOLZ_KRAFT_CORE_UM
    reach = max(0.062 * float(energy_mev) ** 1.7, core)
    halo = whole / float(np.pi * (1.0 + 2.0 * np.log(reach / core)))
    return Track(core, halo / core**2, halo, reach)


def kiefer_chatterjee(charge: int, energy_mev: float) -> Track:
    """Track of the microdosimetric kinetic model; at all energies some LET is left for the core."""
    whole = _whole_gy_um2(charge, energy_mev)
    beta = float(np.sqrt(beta2(energy_mev, mass_per_nucleon_mev(charge))))
    core, reach = 0.0116 * beta, 0.0616 * energy_mev**1.7
    halo = 1.25e-4 * (float(effective_charge(charge, beta)) / beta) ** 2
    core_gy = (whole / np.pi - 2.0 * halo * np.log(reach / core)) / core**2
    return Track(core, float(core_gy), halo, float(reach))


def _whole_gy_um2(charge: int, energy_mev: float) -> float:
    _check_charge(charge)
    low, high = TRACK_ENERGY_MEV
    if not low * (1.0 - 1e-9) <= energy_mev <= high * (1.0 + 1e-9):
        raise ValueError(f"energy_mev={energy_mev} per nucleon must lie within {low} … {high:.0f}.")
    return GY_UM2_PER_MEV_CM2_G * float(stopping_power_mev_cm2_g(charge, energy_mev))


def disc_average(
    within: Callable[[np.ndarray], np.ndarray], disc_um: float, impact_um: np.ndarray
) -> np.ndarray:
    """Mean over a disc of something radial about a path that misses the disc's center by b > 0.

    ``within(r)`` is its integral over a disc of radius r around the path. Circles around the path
    count by the share of them that lies inside; they crowd where that share is steep.
    """
    b = np.asarray(impact_um, dtype=np.float64)[:, None]
    near, far = np.maximum(np.abs(disc_um - b), 1e-6 * disc_um), disc_um + b
    middle, half = 0.5 * np.log(near * far), 0.5 * np.log(far / near)
    angle = np.pi / ARCS * np.arange(0.0, ARCS + 0.25, 0.5)
    radius = np.exp(middle - half * np.cos(angle))  # edges and centers by turns
    center = radius[:, 1::2]
    cosine = (center**2 + b**2 - disc_um**2) / (2.0 * center * b)
    share = np.arccos(np.clip(cosine, -1.0, 1.0)) / np.pi
    partial = np.sum(np.diff(within(radius[:, ::2]), axis=1) * share, axis=1)
    complete = np.where(b < disc_um, within(near), 0.0)[:, 0]
    return (complete + partial) / (np.pi * disc_um**2)


def impact_rings(disc_um: float, reach_um: float) -> tuple[np.ndarray, np.ndarray]:
    """Impact parameters (n,) from 0 to disc plus reach, and the areas in µm² that they stand for.

    They crowd at the disc's edge, where the core of the track passes it.
    """
    inside = np.geomspace(NEAREST_UM, disc_um, INNER_RINGS)
    outside = np.geomspace(NEAREST_UM, max(reach_um, 2.0 * NEAREST_UM), OUTER_RINGS)
    edges = np.concatenate([disc_um - inside[::-1], [disc_um], disc_um + outside])
    squares = edges**2
    return np.sqrt(0.5 * (squares[1:] + squares[:-1])), np.pi * np.diff(squares)


def table_energies() -> np.ndarray:
    """Energies per nucleon (n,) at which track models are tabulated."""
    return np.geomspace(*TRACK_ENERGY_MEV, TABLE_NODES)


def log_table_energy(charge: int, energy_mev: Numbers) -> np.ndarray:
    """Where to read a table of an ion: checked, and held at its lower end below it."""
    _check_charge(charge)
    low, high = TRACK_ENERGY_MEV
    energy = np.asarray(energy_mev, dtype=np.float64)
    if not np.all((energy >= 0.0) & (energy <= high)):
        worst = energy.flat[np.argmin((energy >= 0.0) & (energy <= high))]
        raise ValueError(f"energy_mev={worst} per nucleon must lie within 0 … {high:.0f}.")
    return np.log(np.clip(energy, low, high))


def _check_charge(charge: int) -> None:
    if charge not in ION_CHARGES:
        raise ValueError(f"charge={charge} has no track; use 1 (hydrogen) to 6 (carbon).")
