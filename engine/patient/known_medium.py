"""A volume whose density and composition are known voxel by voxel, in a CT calibration's place."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.patient.tissues import BIN_MATERIALS
from engine.physics.materials import (
    ELEMENTS,
    I_WATER_EV,
    Material,
    relative_stopping_power,
    water,
)

WATER_WITHIN = 0.002  # of the mass fraction of hydrogen


@dataclass(frozen=True, eq=False)
class KnownMedium:
    """A ``Calibration`` of one volume, which answers for its own voxels whatever their HU.

    ``density`` in g/cm³ float32 and ``material``, index into ``materials``, are (nz, ny, nx); of
    the materials only the composition counts. Water has the mean excitation energy ``i_water_ev``,
    everything else what its material says (Bragg additivity unless stated).
    """

    density: np.ndarray
    material: np.ndarray  # unsigned
    materials: tuple[Material, ...]
    i_water_ev: float = I_WATER_EV
    energy_mev: float = 100.0

    def density_g_cm3(self, hu: np.ndarray) -> np.ndarray:
        self._check(hu)
        return self.density.astype(np.float32)

    def composition(self, hu: np.ndarray) -> np.ndarray:
        """The nearest of ``BIN_MATERIALS``, by the distance of the mass fractions."""
        self._check(hu)
        return self._nearest_bins[self.material]

    def rsp(self, hu: np.ndarray) -> np.ndarray:
        self._check(hu)
        return (self.density * self.stopping_ratio()).astype(np.float32)

    def stopping_ratio(self) -> np.ndarray:
        """Mass stopping power over water's, (nz, ny, nx) float32: dose to medium over dose to
        water."""
        return self._ratios[self.material]

    @cached_property
    def _ratios(self) -> np.ndarray:
        return np.array(
            [mass_stopping_ratio(m, self.i_water_ev, self.energy_mev) for m in self.materials],
            np.float32,
        )

    @cached_property
    def _nearest_bins(self) -> np.ndarray:
        bins = _fractions(BIN_MATERIALS)
        distance = np.abs(_fractions(self.materials)[:, None, :] - bins[None]).sum(axis=2)
        return np.argmin(distance, axis=1).astype(np.uint8)

    def _check(self, hu: np.ndarray) -> None:
        if np.shape(hu) != self.density.shape:
            raise ValueError(
                f"hu has shape {np.shape(hu)}, the known medium {self.density.shape}; it answers "
                "for its own volume only."
            )


def mass_stopping_ratio(material: Material, i_water_ev: float, energy_mev: float = 100.0) -> float:
    """Mass stopping power over that of water with ``i_water_ev``; exactly one for water."""
    if _is_water(material):
        return 1.0
    stated = Material(material.name, 1.0, material.mass_fractions, material.mean_excitation_ev)
    return relative_stopping_power(stated, energy_mev, water(i_water_ev))


def _is_water(material: Material) -> bool:
    fractions = material.mass_fractions
    hydrogen = water().mass_fractions["H"]
    return set(fractions) == {"H", "O"} and abs(fractions["H"] - hydrogen) < WATER_WITHIN


def _fractions(materials: Sequence[Material]) -> np.ndarray:
    """Mass fractions (n_materials, n_elements)."""
    return np.array([[m.mass_fractions.get(e, 0.0) for e in ELEMENTS] for m in materials])
