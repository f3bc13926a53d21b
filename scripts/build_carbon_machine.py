"""Build generic_carbon from the physics: `python -m scripts.build_carbon_machine [PATH]`.

118 energies from 80 to 430 MeV per nucleon at even steps of range, 2.5 mm. The same file comes
out every time, in about a minute.
"""

import sys
from pathlib import Path

import numpy as np

from engine.machine.carbon import (
    NOZZLE_TO_ISOCENTER_MM,
    SPECTRUM_LEVELS,
    VIRTUAL_SOURCE_MM,
    carbon_kernel,
    energy_std_mev,
    nozzle_moments,
)
from engine.machine.library import DATA
from engine.machine.tables import FORMAT
from engine.physics.fragmentation import CHARGES, energy_bins
from engine.physics.ions import CARBON, energy_at_range_mm, range_mm
from engine.physics.materials import LEXAN, relative_stopping_power

N_ENERGIES = 118
LIMITS_MEV = (80.0, 430.0)
SHIFTERS = {"rs30": 30.0}  # water-equivalent mm of Lexan, for targets in the first 17 mm
MIN_SPOT_WEIGHT = 5000.0  # ions: about what monitors of GSI and HIT can dose; a choice
SWITCH_S = 3.0  # a synchrotron fills and accelerates anew, whichever way; a choice


def even_range_energies(n: int = N_ENERGIES) -> np.ndarray:
    """Energies (n,) per nucleon at even steps of range."""
    z, a = CARBON.charge, CARBON.mass_number
    ranges = np.linspace(*range_mm(z, a, np.array(LIMITS_MEV)), n)
    inner = energy_at_range_mm(z, a, ranges[1:-1])
    return np.concatenate([LIMITS_MEV[:1], inner, LIMITS_MEV[1:]])


def energy_rows(energy_mev: float) -> dict[str, np.ndarray]:
    """What the file holds of one energy: curves (n_nodes,), range and spectra."""
    kernel = carbon_kernel(energy_mev)
    curves = {
        "node_depth_mm": kernel.depth_mm,
        "depth_dose_mev_cm2_g": kernel.dose_mev_cm2_g,
        "scatter_variance_mm2": kernel.scatter_variance_mm2,
        "halo_weight": kernel.halo_weight,
        "halo_variance_mm2": kernel.halo_variance_mm2,
        "letd_kev_um": kernel.letd_kev_um,
        "spectra_depth_mm": kernel.spectra_depth_mm,
    }
    levels = np.round(SPECTRUM_LEVELS * kernel.dose_share).astype(np.uint16)
    return {
        **{name: curve.astype(np.float32) for name, curve in curves.items()},
        "range_mm": np.array(kernel.r80_mm),
        "spectra_dose_share": levels,
    }


def build() -> dict[str, np.ndarray]:
    """All that a machine file holds."""
    energies = even_range_energies()
    rows = []
    for energy in energies:
        rows.append(energy_rows(float(energy)))
        print(f"\r{energy:6.1f} MeV/u", end="", file=sys.stderr)
    print(file=sys.stderr)
    variance, covariance, angle = nozzle_moments(energies.size)
    wet = np.array(list(SHIFTERS.values()))
    return {
        "format": np.array(FORMAT),
        "charge": np.array(CARBON.charge),
        "mass_number": np.array(CARBON.mass_number),
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
        "spectra_charge": CHARGES,
        "spectra_energy_mev": energy_bins(),
        "energy_mev": energies,
        "energy_std_mev": np.array([energy_std_mev(e) for e in energies]),
        "nozzle_variance_mm2": variance,
        "nozzle_covariance_mm_rad": covariance,
        "nozzle_angle_variance_rad2": angle,
        "nozzle_to_isocenter_mm": np.array(NOZZLE_TO_ISOCENTER_MM),
        "virtual_source_mm": np.array(VIRTUAL_SOURCE_MM),
        "min_spot_weight": np.array(MIN_SPOT_WEIGHT),
        "switch_up_s": np.array(SWITCH_S),
        "switch_down_s": np.array(SWITCH_S),
        "shifter_name": np.array(list(SHIFTERS)),
        "shifter_wet_mm": wet,
        "shifter_thickness_mm": wet / relative_stopping_power(LEXAN),
        "shifter_material": np.array([LEXAN.name] * len(SHIFTERS)),
    }


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "generic_carbon.npz"
    np.savez_compressed(path, **build())
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
