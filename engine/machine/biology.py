"""What a mixed field does to cells: dose-weighted averages over its species and energies.

α = Σ share · α(species, energy), √β = Σ share · √β(species, energy), per depth in water and beam
energy (Zaider and Rossi 1980, as in TRiP98: Krämer and Scholz 2000).
"""

from functools import lru_cache

import numpy as np

from engine.machine.depth_kernels import curve_behind, layer_kernel
from engine.machine.ion import IonMachine, IonSpectra, RangeShifter
from engine.physics.biology import BiologicalModel


@lru_cache(maxsize=8)
def mixed_field(machine: IonMachine, model: BiologicalModel) -> tuple[np.ndarray, np.ndarray]:
    """α in 1/Gy and √β in 1/Gy at the machine's depths, each (n_energies, n_depths) float32.

    Linear between the nodes of the spectra, held beyond them. Shared by all who ask: read-only.
    """
    spectra = machine.spectra
    if spectra is None:
        raise ValueError(
            f"machine={machine.name!r} tells no spectra of its mixed field; choose one that does, "
            "such as generic_carbon, or plan physical dose."
        )
    depth = machine.depth_step_mm * np.arange(machine.depth_dose_mev_cm2_g.shape[1])
    alpha, sqrt_beta = (_along(depth, spectra, table) for table in _tables(spectra, model))
    return alpha, sqrt_beta


def _tables(spectra: IonSpectra, model: BiologicalModel) -> tuple[np.ndarray, np.ndarray]:
    """α and √β of every species and energy, each (n_species, n_bins)."""
    energy = spectra.energy_mev.astype(np.float64)
    alpha = [model.alpha_per_gy(int(charge), energy) for charge in spectra.charge]
    beta = [model.beta_per_gy2(int(charge), energy) for charge in spectra.charge]
    return np.array(alpha), np.sqrt(np.array(beta))


def _along(depth_mm: np.ndarray, spectra: IonSpectra, table: np.ndarray) -> np.ndarray:
    nodes = np.tensordot(spectra.dose_share, table.astype(np.float32), axes=2)
    rows = [np.interp(depth_mm, z, v) for z, v in zip(spectra.depth_mm, nodes, strict=True)]
    out = np.array(rows, dtype=np.float32)
    out.setflags(write=False)
    return out


def layer_biology(
    machine: IonMachine,
    energy_index: int,
    model: BiologicalModel,
    range_shifter: RangeShifter | None = None,
) -> np.ndarray:
    """α and √β of one energy, (2, n) float32, on the depths of its ``layer_kernel``.

    A range shifter moves them by its water-equivalent thickness.
    """
    n = layer_kernel(machine, energy_index, range_shifter).depth_dose_mev_cm2_g.size
    return _layer(machine, energy_index, model, range_shifter, n)


@lru_cache(maxsize=1024)
def _layer(
    machine: IonMachine, i: int, model: BiologicalModel, shifter: RangeShifter | None, n: int
) -> np.ndarray:
    wet_mm = shifter.wet_mm if shifter is not None else 0.0
    rows = [curve[i] for curve in mixed_field(machine, model)]
    rows = [curve_behind(row, wet_mm, machine.depth_step_mm)[:n] for row in rows]
    out = np.array(rows, dtype=np.float32)
    out.setflags(write=False)
    return out
