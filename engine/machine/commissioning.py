"""Build a proton machine's kernels in water from the physics: nothing is fitted.

Primaries: protons of a Gaussian spread of ranges, each slowing down by its stopping power and
thinned by non-elastic and p–p interactions and by elastic scattering off nuclei beyond 5°.
Scattered primaries and secondary protons and deuterons, with ICRU 63's spectra, carry their energy
along depth by path × cos θ; alphas and recoils stay; neutrons and γ leave. The core's width is
Fermi–Eyges with differential Molière scattering. The nuclear halo is a table of Monte Carlo
results. Densities are 1 g/cm³, so MeV/cm is MeV cm²/g.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

from engine.machine._kernels import cell_average, deposit_rays, moments_behind, spread_kernel
from engine.physics.materials import I_WATER_EV, Material, water
from engine.physics.nuclear import (
    Secondaries,
    charged_share,
    elastic_secondaries,
    interactions_per_mm,
    non_elastic_secondaries,
    proton_proton_secondaries,
)
from engine.physics.scattering import scattering_power_along
from engine.physics.stopping_power import csda_range_mm, energy_at_range, mass_stopping_power
from engine.physics.straggling import range_straggling_mm

TABLE_STEP_MM = 0.02  # of the tables over residual range
CELL_MM = 0.5  # of the secondary dose, which is smooth
SPREAD_NODES = 81  # at least, ranges from −5 to 5 standard deviations
EMISSION_STEP_MEV = 10.0

# Projected over CSDA range in water; PSTAR's projected ranges agree.
DETOUR_ENERGY_MEV = (100.0, 150.0, 200.0)
DETOUR_FACTOR = (0.9985, 0.9989, 0.9990)


def detour_factor(energy_mev: float) -> float:
    """Depth reached per path length, which multiple scattering makes less than one."""
    return float(np.interp(energy_mev, DETOUR_ENERGY_MEV, DETOUR_FACTOR))


def projected_range_mm(energy_mev: float, material: Material) -> float:
    """Mean depth at which protons stop."""
    return float(csda_range_mm(energy_mev, material)) * detour_factor(energy_mev)


@dataclass(frozen=True, eq=False)
class DepthKernel:
    """One energy's pencil in water at the given depths, each array (n_depths,)."""

    depth_mm: np.ndarray
    dose_mev_cm2_g: np.ndarray  # planar integral per proton, primaries and secondaries
    secondary_mev_cm2_g: np.ndarray  # of that, what products of non-elastic and p–p events leave
    letd_kev_um: np.ndarray  # dose-averaged over primary and secondary protons


@dataclass(frozen=True, eq=False)
class _ResidualRange:
    """Integrals over residual depth from rest, steps of TABLE_STEP_MM, each (n,)."""

    depth_mm: np.ndarray
    energy_mev: np.ndarray
    reacted: np.ndarray  # ∫ Σ dr, non-elastic
    absorbed: np.ndarray  # the same with p–p
    removed: np.ndarray  # the same with nuclear elastic
    primary: np.ndarray  # (2, n): ∫ S exp(removed), ∫ S² exp(removed)
    scattered: np.ndarray  # (2, n): the same with exp(absorbed)
    secondary: np.ndarray  # (2, n): the same with exp(reacted), and the reactions' charged energy


def _running(values: np.ndarray) -> np.ndarray:
    steps = 0.5 * TABLE_STEP_MM * (values[1:] + values[:-1])
    return np.concatenate([[0.0], np.cumsum(steps)])


@lru_cache(maxsize=4)
def _residual(length_mm: float, path_per_depth: float, i_ev: float, nuclear: bool):
    material = water(i_ev)
    r = TABLE_STEP_MM * np.arange(int(length_mm / TABLE_STEP_MM) + 2)
    energy = energy_at_range(r * path_per_depth, material)
    stopping = mass_stopping_power(np.maximum(energy, 1e-4), material) / 10.0
    lost = np.concatenate([[0.0], np.diff(energy)])
    let = np.cumsum(lost * 0.5 * (stopping + np.concatenate([[0.0], stopping[:-1]])))
    parts = [
        interactions_per_mm(energy, process, material) * path_per_depth * nuclear
        for process in ("non-elastic", "proton-proton", "nuclear-elastic")
    ]
    reacted, absorbed = _running(parts[0]), _running(parts[0] + parts[1])
    removed = _running(sum(parts))
    products = _running(parts[0] * energy * charged_share(energy) * np.exp(reacted))

    def weighted(integral: np.ndarray) -> np.ndarray:
        gains = (np.diff(c, prepend=0.0) for c in (energy, let))
        return np.array([np.cumsum(gain * np.exp(integral)) for gain in gains])

    secondary = weighted(reacted) + np.array([products, np.zeros_like(r)])
    cumulative = weighted(removed), weighted(absorbed), secondary
    return _ResidualRange(r, energy, reacted, absorbed, removed, *cumulative)


def pristine_peak(
    energy_mev: float,
    depth_mm: np.ndarray,
    energy_std_mev: float = 0.0,
    cell_mm: float = 0.25,
    i_ev: float = I_WATER_EV,
    nuclear: bool = True,
) -> DepthKernel:
    """Planar-integrated dose to water and LETd of a pencil, means over cells of ``cell_mm``.

    Range straggling is Gaussian, with the spread of the incoming energy added.
    """
    material = water(i_ev)
    mean_mm = projected_range_mm(energy_mev, material)
    spread_mm = range_spread_mm(energy_mev, energy_std_mev, material)
    path = 1.0 / detour_factor(energy_mev)
    table = _residual(mean_mm + 8.0 * spread_mm, path, i_ev, nuclear)
    # dose and LET numerator of primaries, then of all protons
    primary = _primaries(np.asarray(depth_mm, dtype=np.float64), mean_mm, spread_mm, cell_mm, table)
    if not nuclear:
        letd = _ratio(primary[1], primary[0])
        return DepthKernel(depth_mm, 10.0 * primary[0], np.zeros_like(primary[0]), letd)
    cells = _secondary_dose(mean_mm, spread_mm, path, i_ev, table)
    dose, products, protons, let = (_resample(depth_mm, v) for v in cells)
    letd = _ratio(primary[1] + let, primary[0] + protons)
    return DepthKernel(depth_mm, 10.0 * (primary[0] + dose), 10.0 * products, letd)


def range_spread_mm(energy_mev: float, energy_std_mev: float, material: Material) -> float:
    """Standard deviation of the depth reached: straggling and the incoming energy's spread."""
    stopping = mass_stopping_power(energy_mev, material) * material.density_g_cm3 / 10.0
    return float(np.hypot(range_straggling_mm(energy_mev, material), energy_std_mev / stopping))


def _primaries(depth_mm, mean_mm, spread_mm, cell_mm, table: _ResidualRange) -> np.ndarray:
    finest = int(80.0 * spread_mm / cell_mm)  # eight ranges in a cell, or the peak has ripples
    u = np.linspace(-5.0, 5.0, max(SPREAD_NODES, finest))
    ranges = mean_mm + u * spread_mm
    weights = np.exp(-0.5 * u * u)
    weights /= weights.sum()
    weights *= np.exp(-np.interp(ranges, table.depth_mm, table.removed))
    out = np.zeros((2, depth_mm.size))
    cell_average(depth_mm, 0.5 * cell_mm, ranges, weights, table.primary, TABLE_STEP_MM, out)
    return out


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient down to 1e-4 of the peak; its last value beyond."""
    there = denominator > 1e-4 * denominator.max()
    ratio = numerator / np.where(there, denominator, 1.0)
    last = int(np.flatnonzero(there)[-1])
    ratio[last + 1 :] = ratio[last]
    return ratio


def _resample(depth_mm: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Linear between centers of cells of CELL_MM, and on to the surface."""
    centers = (np.arange(values.size) + 0.5) * CELL_MM
    inner = np.interp(depth_mm, centers, values, right=0.0)
    surface = values[0] + (depth_mm - centers[0]) / CELL_MM * (values[1] - values[0])
    return np.where(depth_mm < centers[0], surface, inner)


def _secondary_dose(mean_mm, spread_mm, path, i_ev, table: _ResidualRange):
    """MeV/mm in cells of CELL_MM: dose, dose but for scattered primaries, and the protons' dose
    and LET × dose."""
    n = int((mean_mm + 6.0 * spread_mm) / CELL_MM) + 1
    centers = (np.arange(n) + 0.5) * CELL_MM
    emitting = centers < mean_mm
    residual = mean_mm - centers[emitting]
    energy, absorbed, removed = (
        np.interp(residual, table.depth_mm, v)
        for v in (table.energy_mev, table.absorbed, table.removed)
    )
    entry = [np.interp(mean_mm, table.depth_mm, v) for v in (table.absorbed, table.removed)]
    kept, primary = np.exp(absorbed - entry[0]), np.exp(removed - entry[1])
    rates = [
        interactions_per_mm(energy, p, water(i_ev)) * path * CELL_MM
        for p in ("non-elastic", "proton-proton", "nuclear-elastic")
    ]
    products, scattered, heavy = np.zeros((2, n)), np.zeros((2, n)), np.zeros(n)
    _spread_non_elastic(energy, rates[0] * kept, i_ev, products, heavy)
    _deposit_collisions(energy, rates[1] * kept, table, products)
    _deposit_elastic(energy, rates[2] * primary, table, scattered, heavy)
    protons = products + scattered
    return [
        gaussian_filter1d(v, spread_mm / CELL_MM, mode="nearest") / CELL_MM
        for v in (protons[0] + heavy, products[0] + heavy, protons[0], protons[1])
    ]


def _deposit_collisions(energy, rate, table: _ResidualRange, protons) -> None:
    for j, (e, weight) in enumerate(zip(energy, rate, strict=True)):
        _rays_into(protons, j, proton_proton_secondaries(e), weight, table)


def _deposit_elastic(energy, rate, table: _ResidualRange, scattered, heavy) -> None:
    """Scattered primaries go on, and are absorbed like the others."""
    for j in np.flatnonzero(rate):
        rays = elastic_secondaries(energy[j])
        ranges = np.interp(rays.energy_mev, table.energy_mev, table.depth_mm)
        offset = np.interp(ranges, table.depth_mm, table.absorbed)
        number = rays.number * rate[j]
        tables = table.scattered
        deposit_rays(
            j, number, ranges, rays.cosine, offset, tables, TABLE_STEP_MM, CELL_MM, scattered
        )
        heavy[j] += rate[j] * rays.local_mev


def _spread_non_elastic(energy, rate, i_ev, protons, heavy) -> None:
    energies, kernels, zero, local = _non_elastic_kernels(i_ev)
    position = np.clip((energy - energies[0]) / EMISSION_STEP_MEV, 0.0, energies.size - 1.001)
    lower = position.astype(np.uint32)
    out = np.zeros((3, heavy.size))
    spread_kernel(rate, lower, position - lower, kernels, zero, out)
    protons += out[:2]
    heavy += out[2]
    heavy[: energy.size] += rate * np.interp(energy, energies, local)


@lru_cache(maxsize=4)
def _non_elastic_kernels(i_ev: float):
    """Energies, kernels (n_energies, 3, n_offsets), cell of the origin, local energy.

    Tables of a kernel: protons' energy, protons' energy × LET, deuterons' energy, all per event.
    """
    energies = np.arange(EMISSION_STEP_MEV, 261.0, EMISSION_STEP_MEV)
    forward = int(csda_range_mm(260.0, water(i_ev)) / CELL_MM) + 2
    back = int(csda_range_mm(100.0, water(i_ev)) / CELL_MM) + 2
    table = _residual(float(csda_range_mm(261.0, water(i_ev))), 1.0, i_ev, True)
    kernels = np.zeros((energies.size, 3, back + forward))
    local = np.zeros(energies.size)
    for i, e in enumerate(energies):
        protons, deuterons = (non_elastic_secondaries(e, p) for p in ("proton", "deuteron"))
        local[i] = protons.local_mev
        _rays_into(kernels[i, :2], back, protons, 1.0, table)
        _deuterons_into(kernels[i, 2:], back, deuterons, table)
    return energies, kernels, back, local


def _rays_into(out, cell: int, rays: Secondaries, weight: float, table: _ResidualRange) -> None:
    ranges = np.interp(rays.energy_mev, table.energy_mev, table.depth_mm)
    offset = np.interp(ranges, table.depth_mm, table.reacted)
    number = rays.number * weight
    deposit_rays(
        cell, number, ranges, rays.cosine, offset, table.secondary, TABLE_STEP_MM, CELL_MM, out
    )


def _deuterons_into(out, cell: int, rays: Secondaries, table: _ResidualRange) -> None:
    """A deuteron goes twice as far as a proton of half its energy; its reactions are left out."""
    ranges = 2.0 * np.interp(0.5 * rays.energy_mev, table.energy_mev, table.depth_mm)
    energy = 2.0 * table.energy_mev[None, :]
    step = 2.0 * TABLE_STEP_MM
    deposit_rays(
        cell, rays.number, ranges, rays.cosine, np.zeros_like(ranges), energy, step, CELL_MM, out
    )


def core_variance_mm2(energy_mev: float, depth_mm: np.ndarray, i_ev: float = I_WATER_EV):
    """Variance of the core by multiple scattering at every depth; held beyond the range."""
    material = water(i_ev)
    step = 0.05
    fine = np.arange(0.0, projected_range_mm(energy_mev, material), step)
    path = 1.0 / detour_factor(energy_mev)
    power = scattering_power_along(energy_mev, fine, material, path_per_depth=path)
    moments = np.zeros((3, fine.size))
    moments_behind(power, step, moments)
    return np.interp(depth_mm, fine, moments[2])
