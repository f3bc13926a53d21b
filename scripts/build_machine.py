"""Build generic_proton from the physics: `python -m scripts.build_machine [PATH]`.

115 energies from 70 to 230 MeV at even steps of range. The same file comes out every time.
"""

import sys
from pathlib import Path

import numpy as np

from engine.machine.commissioning import (
    core_variance_mm2,
    pristine_peak,
    projected_range_mm,
    range_spread_mm,
)
from engine.machine.halo import halo
from engine.machine.library import DATA
from engine.machine.nozzle import (
    NOZZLE_TO_ISOCENTER_MM,
    VIRTUAL_SOURCE_MM,
    energy_std_mev,
    nozzle_moments,
)
from engine.machine.tables import FORMAT
from engine.physics.materials import I_WATER_EV, LEXAN, WATER, relative_stopping_power
from engine.physics.stopping_power import csda_range_mm, energy_at_range

N_ENERGIES = 115
LIMITS_MEV = (70.0, 230.0)
NODES_PLATEAU, NODES_PEAK = 110, 130
SHIFTERS = {"rs40": 40.0, "rs75": 75.0}  # water-equivalent mm of Lexan
MIN_SPOT_WEIGHT = 1e6
SWITCH_UP_S, SWITCH_DOWN_S = 5.5, 0.6  # IBA ProteusONE: Liu 2020, Wuyckens 2022


def even_range_energies(n: int = N_ENERGIES) -> np.ndarray:
    """Energies (n,) at even steps of CSDA range."""
    ranges = np.linspace(*csda_range_mm(np.array(LIMITS_MEV)), n)
    return np.concatenate([LIMITS_MEV[:1], energy_at_range(ranges[1:-1]), LIMITS_MEV[1:]])


def node_depths(energy_mev: float, spread_mev: float) -> np.ndarray:
    """Depths (n_nodes,) in mm: dense at the surface and around the peak."""
    range_mm = projected_range_mm(energy_mev, WATER)
    sigma_mm = range_spread_mm(energy_mev, spread_mev, WATER)
    begin, end = range_mm - 8.0 * sigma_mm, range_mm + 6.0 * sigma_mm
    t = np.linspace(0.0, 1.0, NODES_PLATEAU, endpoint=False)
    return np.concatenate([begin * t**1.3, np.linspace(begin, end, NODES_PEAK)])


def energy_curves(energy_mev: float, depth_mm: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every curve of one energy over its nodes, or over ``depth_mm``, each (n_depths,)."""
    spread = float(energy_std_mev(energy_mev))
    depth = node_depths(energy_mev, spread) if depth_mm is None else depth_mm
    peak = pristine_peak(energy_mev, depth, spread, i_ev=I_WATER_EV)
    weight, variance = halo(energy_mev, depth)
    return {
        "node_depth_mm": depth,
        "depth_dose_mev_cm2_g": peak.dose_mev_cm2_g,
        "scatter_variance_mm2": core_variance_mm2(energy_mev, depth),
        "halo_weight": weight,
        "halo_variance_mm2": variance,
        "letd_kev_um": peak.letd_kev_um,
    }


def r80_mm(energy_mev: float) -> float:
    """Depth behind the peak where dose has fallen to 80 % of it."""
    depth = np.arange(-12.0, 5.0, 0.05) + projected_range_mm(energy_mev, WATER)
    dose = pristine_peak(energy_mev, depth, float(energy_std_mev(energy_mev))).dose_mev_cm2_g
    top = int(np.argmax(dose))
    return float(np.interp(-0.8, -dose[top:] / dose[top], depth[top:]))


def build() -> dict[str, np.ndarray]:
    """All that a machine file holds."""
    energies = even_range_energies()
    rows, ranges = [], []
    for energy in energies:
        rows.append(energy_curves(energy))
        ranges.append(r80_mm(energy))
        print(f"\r{energy:6.1f} MeV", end="", file=sys.stderr)
    print(file=sys.stderr)
    variance, covariance, angle = nozzle_moments(energies)
    wet = np.array(list(SHIFTERS.values()))
    return {
        "format": np.array(FORMAT),
        **{name: np.array([row[name] for row in rows], dtype=np.float32) for name in rows[0]},
        "energy_mev": energies,
        "range_mm": np.array(ranges),
        "energy_std_mev": energy_std_mev(energies),
        "nozzle_variance_mm2": variance,
        "nozzle_covariance_mm_rad": covariance,
        "nozzle_angle_variance_rad2": angle,
        "nozzle_to_isocenter_mm": np.array(NOZZLE_TO_ISOCENTER_MM),
        "virtual_source_mm": np.array(VIRTUAL_SOURCE_MM),
        "min_spot_weight": np.array(MIN_SPOT_WEIGHT),
        "switch_up_s": np.array(SWITCH_UP_S),
        "switch_down_s": np.array(SWITCH_DOWN_S),
        "shifter_name": np.array(list(SHIFTERS)),
        "shifter_wet_mm": wet,
        "shifter_thickness_mm": wet / relative_stopping_power(LEXAN),
        "shifter_material": np.array([LEXAN.name] * len(SHIFTERS)),
    }


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "generic_proton.npz"
    np.savez_compressed(path, **build())
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
