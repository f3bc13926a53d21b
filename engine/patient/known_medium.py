"""A volume whose density and composition are known voxel by voxel, in a CT calibration's place."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.physics.materials import I_WATER_EV, Material, stopping_ratio_table


@dataclass(frozen=True, eq=False)
class KnownMedium:
    """A ``Calibration`` of one volume, which answers for its own voxels whatever their HU.

    ``density`` in g/cm³ float32 and ``material``, index into ``materials``, are (nz, ny, nx); of
    the materials only the composition counts. Water has the mean excitation energy ``i_water_ev``,
    everything else what its material says (Bragg additivity unless stated): engines that transport
    through absolute stopping powers, as those that such volumes come from, compare them as stated
    (``Material.stated``), and so do all who are handed ``materials``.
    """

    density: np.ndarray
    material: np.ndarray  # unsigned
    materials: tuple[Material, ...]
    i_water_ev: float = I_WATER_EV
    energy_mev: float = 100.0

    def __post_init__(self):
        object.__setattr__(self, "materials", tuple(m.stated() for m in self.materials))

    def density_g_cm3(self, hu: np.ndarray) -> np.ndarray:
        self._check(hu)
        return self.density.astype(np.float32)

    def composition(self, hu: np.ndarray) -> np.ndarray:
        self._check(hu)
        return self.material.astype(np.uint8)

    def rsp(self, hu: np.ndarray) -> np.ndarray:
        self._check(hu)
        return (self.density * self.stopping_ratio()).astype(np.float32)

    def stopping_ratio(self) -> np.ndarray:
        """Mass stopping power over water's, (nz, ny, nx) float32: dose to medium over dose to
        water."""
        return self._ratios[self.material]

    @cached_property
    def _ratios(self) -> np.ndarray:
        energy_mev = np.array([self.energy_mev])
        ratios = stopping_ratio_table(self.materials, energy_mev, self.i_water_ev)
        return ratios[:, 0].astype(np.float32)

    def _check(self, hu: np.ndarray) -> None:
        if np.shape(hu) != self.density.shape:
            raise ValueError(
                f"hu has shape {np.shape(hu)}, the known medium {self.density.shape}; it answers "
                "for its own volume only."
            )
