"""The kernel of one energy layer as the patient meets it: behind a range shifter, after the air.

A range shifter moves the depth axis by its water-equivalent thickness. The scatter in it belongs
to the beam in air (Fermi–Eyges moments that drift over the gap), the scatter behind it to the
patient, so that both can be added at any depth. The halo of reactions in the shifter widens over
the gap by a fixed angle and fades in the patient.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.machine._kernels import moments_behind
from engine.machine.commissioning import detour_factor, projected_range_mm
from engine.machine.ion import IonMachine, RangeShifter
from engine.physics import ions, materials
from engine.physics.constants import pv_mev
from engine.physics.materials import WATER, Material
from engine.physics.scattering import (
    LOWEST_ENERGY_MEV,
    differential_moliere,
    scattering_power_along,
)
from engine.physics.stopping_power import energy_at_range

SCATTER_STEP_MM = 0.125
SHIFTER_NODES = 201
# Of the halo behind a range shifter and a gap, from our Monte Carlo: 120 and 150 MeV behind 75 mm
# of water and 50 mm of air, dose beyond 25 mm of the axis at six depths.
HALO_ANGLE_RAD = 0.42
HALO_FADES_MM = 40.0
# Of fragments of heavier ions: hydrogen's and helium's angles in engine.physics.fragmentation,
# mean by dose.
FRAGMENT_ANGLE_RAD = 0.045


@dataclass(frozen=True, eq=False)
class LayerKernel:
    """One energy behind one range shifter, over water-equivalent depth in the patient.

    Arrays are (n_depths,) float32 at ``depth_step_mm * arange(n_depths)``; behind the last there
    is no dose. ``scatter_variance_mm2`` is of the multiple scattering in the patient alone and
    ``halo_variance_mm2`` contains it; add the beam's variance in air, ``air_variance_mm2(t)``, to
    either.
    """

    depth_step_mm: float
    depth_dose_mev_cm2_g: np.ndarray
    scatter_variance_mm2: np.ndarray
    halo_weight: np.ndarray
    halo_variance_mm2: np.ndarray
    letd_kev_um: np.ndarray
    range_mm: float  # R80 left in the patient; 0 or less when the shifter stops the beam
    air_variance: tuple[float, float, float]  # a, b, c of a + b t + c t², mm²

    def air_variance_mm2(self, t_mm: np.ndarray) -> np.ndarray:
        """Variance of the beam in air at t mm along it, from the isocenter, downstream positive."""
        a, b, c = self.air_variance
        return a + t_mm * (b + c * t_mm)


def layer_kernel(
    machine: IonMachine,
    energy_index: int,
    range_shifter: RangeShifter | None = None,
    shifter_exit_mm: float = 0.0,
    air_gap_mm: float = 0.0,
) -> LayerKernel:
    """The kernel of one energy; ``shifter_exit_mm`` is where the shifter's exit face lies, along
    the beam from the isocenter, downstream positive (so it is negative), ``air_gap_mm`` how far
    before the skin.

    The variance in air holds downstream of the shifter. What reactions in the shifter set free
    spreads over the gap and is stopped in the first centimeters of the patient.
    """
    if not 0 <= energy_index < len(machine.energy_mev):
        raise ValueError(
            f"energy_index={energy_index} lies outside 0 … {len(machine.energy_mev) - 1}, the "
            f"energies of {machine.name}."
        )
    if not np.isfinite(shifter_exit_mm):
        raise ValueError(f"shifter_exit_mm={shifter_exit_mm} must be finite.")
    if range_shifter is None:
        return _bare(machine, energy_index)
    if not (np.isfinite(air_gap_mm) and air_gap_mm >= 0.0):
        raise ValueError(f"air_gap_mm={air_gap_mm} must be 0 or more; it ends at the skin.")
    return _shifted(machine, energy_index, range_shifter, float(shifter_exit_mm), float(air_gap_mm))


@lru_cache(maxsize=1024)
def _bare(machine: IonMachine, i: int) -> LayerKernel:
    rows = [row[i] for row in _curves(machine)]
    n = _length(rows[0], machine.range_mm[i], machine.depth_step_mm)
    rows = [np.ascontiguousarray(row[:n], dtype=np.float32) for row in rows]
    return LayerKernel(
        machine.depth_step_mm, *rows, float(machine.range_mm[i]), _air_variance(machine, i)
    )


@lru_cache(maxsize=1024)
def _shifted(
    machine: IonMachine, i: int, shifter: RangeShifter, exit_mm: float, gap_mm: float
) -> LayerKernel:
    dose, core, weight, halo, letd = (
        curve_behind(row[i], shifter.wet_mm, machine.depth_step_mm) for row in _curves(machine)
    )
    left_mm = float(machine.range_mm[i]) - shifter.wet_mm
    n = _length(dose, left_mm, machine.depth_step_mm)
    energy_mev = float(machine.energy_mev[i])
    ion = machine.charge, machine.mass_number
    scatter = _scatter_behind(*ion, energy_mev, shifter.wet_mm, n, machine.depth_step_mm)
    halo = scatter + np.maximum(halo[:n] - core[:n], 0.0)
    depth = machine.depth_step_mm * np.arange(n)
    halo = halo + _gap_variance_mm2(machine.charge, depth, shifter.wet_mm, gap_mm)
    rows = [dose[:n], scatter, weight[:n], halo, letd[:n]]
    if left_mm <= 0.0:
        rows[0] = np.zeros(n)
    a, b, c = _air_variance(machine, i)
    theta, cross, place = _shifter_moments(*ion, energy_mev, shifter)
    air = (
        a + place - 2.0 * cross * exit_mm + theta * exit_mm**2,
        b + 2.0 * cross - 2.0 * theta * exit_mm,
        c + theta,
    )
    rows = [np.ascontiguousarray(row, dtype=np.float32) for row in rows]
    return LayerKernel(machine.depth_step_mm, *rows, left_mm, air)


def _curves(machine: IonMachine) -> tuple[np.ndarray, ...]:
    return (
        machine.depth_dose_mev_cm2_g,
        machine.scatter_variance_mm2,
        machine.halo_weight,
        machine.halo_variance_mm2,
        machine.letd_kev_um,
    )


def _length(dose: np.ndarray, range_mm: float, step_mm: float) -> int:
    """Depths kept: 10 % beyond the range, and all that has dose."""
    with_dose = np.flatnonzero(dose)
    last = int(with_dose[-1]) if with_dose.size else 0
    return min(max(last + 2, int(1.1 * max(range_mm, 0.0) / step_mm) + 2), dose.size)


def curve_behind(row: np.ndarray, wet_mm: float, step_mm: float) -> np.ndarray:
    """A curve from ``wet_mm`` on, at least two entries."""
    shift = wet_mm / step_mm
    if abs(shift - round(shift)) < 1e-9 and round(shift) <= row.size - 2:
        return row[round(shift) :]
    position = shift + np.arange(max(row.size - int(shift), 2))
    return np.interp(position, np.arange(row.size), row)


def _air_variance(machine: IonMachine, i: int) -> tuple[float, float, float]:
    """σ² in air as a polynomial of the distance from the isocenter."""
    place = float(machine.nozzle_variance_mm2[i])
    cross = float(machine.nozzle_covariance_mm_rad[i])
    theta = float(machine.nozzle_angle_variance_rad2[i])
    d = machine.nozzle_to_isocenter_mm
    return place + 2.0 * cross * d + theta * d * d, 2.0 * cross + 2.0 * theta * d, theta


def _gap_variance_mm2(
    charge: int, depth_mm: np.ndarray, wet_mm: float, gap_mm: float
) -> np.ndarray:
    """What the gap adds to the halo. Fragments of ions that the shifter sets free are a share
    wet / (wet + depth) of all, and their angles act over the gap and the way behind it alike."""
    if charge == 1:
        return (HALO_ANGLE_RAD * gap_mm) ** 2 * np.exp(-depth_mm / HALO_FADES_MM)
    lever = gap_mm * (gap_mm + 2.0 * depth_mm + wet_mm)
    return FRAGMENT_ANGLE_RAD**2 * lever * wet_mm / (wet_mm + depth_mm)


@lru_cache(maxsize=1024)
def _scatter_behind(
    charge: int, mass_number: int, energy_mev: float, wet_mm: float, n: int, step_mm: float
) -> np.ndarray:
    """Variance (n,) that arises in the patient alone. Differential Molière keeps the entrance
    energy before the shifter, as that tells how much matter lies behind."""
    range_mm = _reach_mm(charge, mass_number, energy_mev)
    depth = step_mm * np.arange(n)
    fine = np.arange(0.0, max(range_mm - wet_mm, 0.0) + SCATTER_STEP_MM, SCATTER_STEP_MM)
    power = _power_along(charge, mass_number, energy_mev, fine + wet_mm)
    moments = np.empty((3, fine.size))
    moments_behind(power, SCATTER_STEP_MM, moments)
    return np.interp(depth, fine, moments[2])


def _reach_mm(charge: int, mass_number: int, energy_mev: float) -> float:
    """Mean depth in water at which ions stop."""
    if charge == 1:
        return projected_range_mm(energy_mev, WATER)
    return float(ions.range_mm(charge, mass_number, energy_mev))


def _power_along(
    charge: int, mass_number: int, energy_mev: float, depth_mm: np.ndarray
) -> np.ndarray:
    if charge == 1:
        path = 1.0 / detour_factor(energy_mev)
        return scattering_power_along(energy_mev, depth_mm, WATER, path_per_depth=path)
    return ions.scattering_power_along(charge, mass_number, energy_mev, depth_mm)


@lru_cache(maxsize=1024)
def _shifter_moments(
    charge: int, mass_number: int, energy_mev: float, shifter: RangeShifter
) -> tuple[float, float, float]:
    """Fermi–Eyges <θ²>, <xθ>, <x²> that the slab adds, at its exit face."""
    water_mm = np.linspace(0.0, 1.0, SHIFTER_NODES) * shifter.wet_mm
    power = _power_in_slab(charge, mass_number, energy_mev, water_mm, _material(shifter.material))
    moments = np.empty((3, SHIFTER_NODES))
    step = shifter.thickness_mm / (SHIFTER_NODES - 1)
    moments_behind(power, step, moments)
    theta, cross, place = moments[:, -1]
    return float(theta), float(cross), float(place)


def _power_in_slab(
    charge: int, mass_number: int, energy_mev: float, water_mm: np.ndarray, material: Material
) -> np.ndarray:
    """Scattering power in the slab where ``water_mm`` of water-equivalent lie behind the ion."""
    left = np.maximum(_reach_mm(charge, mass_number, energy_mev) - water_mm, 0.0)
    if charge > 1:
        energy = ions.energy_at_range_mm(charge, mass_number, left)
        return ions.scattering_power(charge, mass_number, energy, energy_mev, material)
    energy = energy_at_range(left * (1.0 / detour_factor(energy_mev)), WATER)
    pv = pv_mev(np.maximum(energy, LOWEST_ENERGY_MEV))
    power = differential_moliere(pv, pv_mev(energy_mev), material)
    return np.where(energy >= LOWEST_ENERGY_MEV, power, 0.0)


def _material(name: str) -> Material:
    found = getattr(materials, name.upper(), None)
    if not isinstance(found, Material):
        known = [m.name for m in vars(materials).values() if isinstance(m, Material)]
        raise ValueError(f"material={name!r} of the range shifter is unknown; choose from {known}.")
    return found
