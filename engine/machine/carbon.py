"""Build a carbon machine's kernels in water from the physics of fragmentation.

Ranges spread by straggling, by the accelerator's energy spread and by a ripple filter, whose
modulation counts as a normal one. The core of a pencil is multiple scattering alone, also for
fragments from lithium up; hydrogen and helium make the halo, by the angles at which they set out.
"""

from dataclasses import dataclass

import numpy as np

from engine.physics.fragmentation import MixedField, mixed_field
from engine.physics.ions import (
    CARBON,
    lateral_variance_mm2,
    range_mm,
    range_straggling_mm,
    stopping_power_mev_cm2_g,
)

# A ripple filter of 3 mm makes peaks of about 3 mm full width at half maximum, so that layers 2 to
# 3 mm apart add up smoothly. A choice, as are the numbers that follow.
RIPPLE_STD_MM = 1.2  # of the water-equivalent thicknesses that ions meet
ENERGY_STD_SHARE = 1e-3  # relative energy spread of a synchrotron's beam
SPOT_STD_MM = 2.5  # at the isocenter, where the beam is focused: 6 mm full width, as at GSI and HIT
DIVERGENCE_RAD = 1e-3
NOZZLE_TO_ISOCENTER_MM = 1000.0
VIRTUAL_SOURCE_MM = 7000.0  # scanning magnets stand 6 to 9 m upstream

CELLS_PLATEAU, CELLS_PEAK, CELLS_TAIL = 111, 130, 80
GROUPS = (3, 2, 4)  # cells that share one node of the spectra, in the three parts
TAIL_RANGES, TAIL_MM = 2.5, 50.0  # kernels end where these are reached, and at LONGEST_MM
LONGEST_MM = 345.0
HALO_CHARGES = 2  # species up to helium
LEAST_HALO_MM2 = 1e-2
SPECTRUM_LEVELS = 65535


@dataclass(frozen=True, eq=False)
class CarbonKernel:
    """One energy's pencil in water; curves (n_nodes,) and spectra at nodes of their own.

    ``dose_share`` (n_spectra, 6, n_bins) as in ``IonSpectra``.
    """

    depth_mm: np.ndarray
    dose_mev_cm2_g: np.ndarray  # planar integral per ion
    scatter_variance_mm2: np.ndarray
    halo_weight: np.ndarray
    halo_variance_mm2: np.ndarray
    letd_kev_um: np.ndarray
    r80_mm: float
    spectra_depth_mm: np.ndarray
    dose_share: np.ndarray


def carbon_range_mm(energy_mev: float) -> float:
    return float(range_mm(CARBON.charge, CARBON.mass_number, energy_mev))


def range_per_mev_mm(energy_mev: float) -> float:
    """Range that one MeV per nucleon more gives in water."""
    return 10.0 * CARBON.mass_number / float(stopping_power_mev_cm2_g(CARBON.charge, energy_mev))


def filter_spread_mm(energy_mev: float) -> float:
    """Standard deviation of the range by ripple filter and energy spread, without straggling."""
    accelerator = ENERGY_STD_SHARE * energy_mev * range_per_mev_mm(energy_mev)
    return float(np.hypot(RIPPLE_STD_MM, accelerator))


def energy_std_mev(energy_mev: float) -> float:
    """Spread of energy per nucleon that spreads ranges as much as filter and accelerator do."""
    return filter_spread_mm(energy_mev) / range_per_mev_mm(energy_mev)


def range_spread_mm(energy_mev: float) -> float:
    straggling = range_straggling_mm(CARBON.charge, CARBON.mass_number, energy_mev)
    return float(np.hypot(straggling, filter_spread_mm(energy_mev)))


def cell_edges(energy_mev: float) -> np.ndarray:
    """Edges (n_cells + 1,) in mm: dense at the surface and around the peak."""
    mean, spread = carbon_range_mm(energy_mev), range_spread_mm(energy_mev)
    begin, end = mean - 8.0 * spread, mean + 5.0 * spread
    last = min(TAIL_RANGES * mean + TAIL_MM, LONGEST_MM)
    plateau = begin * np.linspace(0.0, 1.0, CELLS_PLATEAU + 1) ** 1.3
    peak = np.linspace(begin, end, CELLS_PEAK + 1)[1:]
    tail = end + (last - end) * np.linspace(0.0, 1.0, CELLS_TAIL + 1)[1:] ** 1.3
    return np.concatenate([plateau, peak, tail])


def carbon_kernel(energy_mev: float) -> CarbonKernel:
    """Every curve of one energy, at the surface and in the middle of every cell."""
    field = mixed_field(energy_mev, cell_edges(energy_mev), filter_spread_mm(energy_mev))
    depth = np.append(0.0, 0.5 * (field.edges_mm[1:] + field.edges_mm[:-1]))
    dose, letd = (_from_surface(v) for v in (field.total_mev_cm2_g, field.let_kev_um))
    light = field.species_mev_cm2_g[:, :HALO_CHARGES]
    share = light.sum(axis=1) / field.total_mev_cm2_g
    wide = np.sum(light * field.angle_variance_mm2[:, :HALO_CHARGES], axis=1)
    wide = np.maximum(wide / np.maximum(light.sum(axis=1), 1e-12), LEAST_HALO_MM2)
    core = lateral_variance_mm2(CARBON.charge, CARBON.mass_number, energy_mev, depth)
    return CarbonKernel(
        depth,
        dose,
        core,
        _from_surface(share),
        core + _from_surface(wide),
        letd,
        _r80_mm(depth, dose),
        *_spectra(field),
    )


def _from_surface(cells: np.ndarray) -> np.ndarray:
    return np.concatenate([cells[:1], cells])


def _r80_mm(depth_mm: np.ndarray, dose: np.ndarray) -> float:
    """Depth behind the peak where dose has fallen to 80 % of it."""
    top = int(np.argmax(dose))
    return float(np.interp(-0.8, -dose[top:] / dose[top], depth_mm[top:]))


def _spectra(field: MixedField) -> tuple[np.ndarray, np.ndarray]:
    """Depths (n_spectra,) and shares of groups of cells."""
    cells = np.array([CELLS_PLATEAU, CELLS_PEAK, CELLS_TAIL])
    sizes = np.repeat(GROUPS, cells // GROUPS)
    first = np.concatenate([[0], np.cumsum(sizes)])
    widths = np.diff(field.edges_mm)[:, None, None]
    energy = np.add.reduceat(field.dose_mev_cm2_g * widths, first[:-1], axis=0)
    depth = 0.5 * (field.edges_mm[first[:-1]] + field.edges_mm[first[1:]])
    return depth, energy / energy.sum(axis=(1, 2), keepdims=True)


def nozzle_moments(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per-plane <x²> mm², <xθ> mm rad and <θ²> rad² at the nozzle exit, (n,): one for all."""
    drift, angle = NOZZLE_TO_ISOCENTER_MM, DIVERGENCE_RAD**2
    moments = SPOT_STD_MM**2 + angle * drift**2, -angle * drift, angle
    return tuple(np.full(n, m) for m in moments)
