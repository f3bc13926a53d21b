"""What an ion clinic can deliver: energies, kernels in water, phase space and limits.

Energies are per nucleon, counts are of the ions that leave the nozzle.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class IonSpectra:
    """Which ions give the dose, and at what energies, over depth in water.

    ``charge`` (n_species,) are atomic numbers, ascending; ``energy_mev`` (n_bins,) per nucleon,
    ascending, evenly spaced in the logarithm: a value between two bins is shared between them
    linearly in log energy. ``depth_mm`` (n_energies, n_nodes) are depths per beam energy, and
    ``dose_share`` (n_energies, n_nodes, n_species, n_bins) the share of the planar-integrated dose
    there, of sum 1 at every node.
    """

    charge: np.ndarray
    energy_mev: np.ndarray
    depth_mm: np.ndarray
    dose_share: np.ndarray


@dataclass(frozen=True)
class RangeShifter:
    """A slab before the patient that shortens the range of every ion.

    ``thickness_mm`` is geometric, ``wet_mm`` water equivalent; scattering uses the material.
    """

    name: str
    wet_mm: float
    thickness_mm: float
    material: str = "lexan"


@dataclass(frozen=True, eq=False)
class SecondGaussian:
    """A wide part of the spots in air, from scattering in the nozzle; arrays (n_energies,).

    ``weight`` is its share of the ions, 0 … 1; moments as the machine's at the nozzle exit.
    """

    weight: np.ndarray
    variance_mm2: np.ndarray
    covariance_mm_rad: np.ndarray
    angle_variance_rad2: np.ndarray


@dataclass(frozen=True, eq=False)
class IonMachine:
    """One beam model. Arrays over energies are (n_energies,), kernels (n_energies, n_depths).

    Kernels are of a pencil of zero width in water at depths ``depth_step_mm * arange(n_depths)``:
    the planar-integrated dose to water per ion, and the lateral spread as a core Gaussian
    (multiple scattering alone) plus a halo Gaussian of weight ``halo_weight`` (0 … 1, share of the
    integral dose) and variance ``halo_variance_mm2`` (which contains the core's).
    Phase space: per-axis moments of position and angle at the nozzle exit,
    ``nozzle_to_isocenter_mm`` upstream of the isocenter; mean of the two axes (round beams).
    ``virtual_sources_mm`` are the distances of the two scanning axes u and v where they differ;
    ``virtual_source_mm`` is then their mean, which engines without two sources use.
    ``charge`` and ``mass_number`` are the ion's; ``spectra`` are there for ions whose biological
    effect is modelled.
    """

    name: str
    energy_mev: np.ndarray
    range_mm: np.ndarray  # R80 in water
    depth_step_mm: float
    depth_dose_mev_cm2_g: np.ndarray
    scatter_variance_mm2: np.ndarray
    halo_weight: np.ndarray
    halo_variance_mm2: np.ndarray
    letd_kev_um: np.ndarray
    energy_std_mev: np.ndarray
    nozzle_variance_mm2: np.ndarray
    nozzle_covariance_mm_rad: np.ndarray
    nozzle_angle_variance_rad2: np.ndarray
    nozzle_to_isocenter_mm: float
    virtual_source_mm: float  # distance from the virtual source to the isocenter
    min_spot_weight: float  # ions per fraction
    switch_up_s: float
    switch_down_s: float
    range_shifters: tuple[RangeShifter, ...] = ()
    second_gaussian: SecondGaussian | None = None
    virtual_sources_mm: tuple[float, float] | None = None
    charge: int = 1
    mass_number: int = 1
    spectra: IonSpectra | None = None

    def energy_index(self, energy_mev: float) -> int:
        """Index of the deliverable energy nearest to a wish; refuses what lies outside."""
        low, high = float(self.energy_mev[0]), float(self.energy_mev[-1])
        if not (low - 1e-6 <= energy_mev <= high + 1e-6):
            raise ValueError(
                f"energy_mev={energy_mev} lies outside {self.name} ({low:.0f}–{high:.0f} MeV); "
                "choose a closer or deeper target, or a range shifter."
            )
        return int(np.argmin(np.abs(self.energy_mev - energy_mev)))

    def range_shifter(self, name: str) -> RangeShifter:
        for shifter in self.range_shifters:
            if shifter.name == name:
                return shifter
        known = [s.name for s in self.range_shifters]
        raise ValueError(f"range_shifter={name!r} is unknown to {self.name}; choose from {known}.")
