"""Relative stopping powers known voxel by voxel, from dual-energy CT or proton radiography."""

from dataclasses import dataclass

import numpy as np

from engine.patient.tissue_ladder import ladder_materials, ladder_rsp, nearest_rung
from engine.physics.materials import I_WATER_EV, Material, stopping_ratio_table

MAX_RSP = 10.0  # gold has 10
LIMITS_MEV = (20.0, 300.0)  # where the RSP of the ladder's rungs rises from one to the next


@dataclass(frozen=True, eq=False)
class RspMap:
    """A ``Calibration`` of one volume: the RSP of its own voxels, whatever their HU.

    ``values`` (nz, ny, nx) float32 hold at ``energy_mev`` beside water of ``i_water_ev``. The
    composition is that of the ladder's rung nearest in RSP, and the density is solved so that both
    together have exactly the voxel's RSP there; elsewhere they follow the rung. What the voxels
    hold counts inside the body only, and where no structure overrides the material.
    """

    values: np.ndarray
    energy_mev: float = 100.0
    i_water_ev: float = I_WATER_EV
    source: str = "values"  # how errors call the array

    def __post_init__(self):
        values = np.asarray(self.values)
        if values.ndim != 3 or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{self.source} is {values.dtype} of shape {values.shape}; give the RSP of every "
                "CT voxel as numbers (nz, ny, nx)."
            )
        if not np.all(np.isfinite(values)):
            n_bad = int(np.count_nonzero(~np.isfinite(values)))
            raise ValueError(f"{self.source} holds {n_bad} NaN or infinite values; repair it.")
        if values.size and not (values.min() >= 0.0 and values.max() <= MAX_RSP):
            raise ValueError(
                f"{self.source} spans {values.min():.4g} … {values.max():.4g}; RSP must lie in "
                f"0 … {MAX_RSP:g} (water is 1). Scale what a scanner stored as HU or in percent."
            )
        if not LIMITS_MEV[0] <= self.energy_mev <= LIMITS_MEV[1]:
            raise ValueError(
                f"energy_mev={self.energy_mev} of {self.source} must lie within "
                f"{LIMITS_MEV[0]:g} … {LIMITS_MEV[1]:g} MeV, the energies of therapy."
            )
        object.__setattr__(self, "values", values.astype(np.float32))

    @property
    def materials(self) -> tuple[Material, ...]:
        return ladder_materials()

    def density_g_cm3(self, hu: np.ndarray) -> np.ndarray:
        energy_mev = np.array([self.energy_mev])
        per_density = stopping_ratio_table(self.materials, energy_mev, self.i_water_ev)[:, 0]
        return self.values / per_density.astype(np.float32)[self.composition(hu)]

    def composition(self, hu: np.ndarray) -> np.ndarray:
        self._check(hu)
        return nearest_rung(self.values, ladder_rsp(self.energy_mev, self.i_water_ev))

    def rsp(self, hu: np.ndarray) -> np.ndarray:
        self._check(hu)
        return self.values.copy()

    def _check(self, hu: np.ndarray) -> None:
        if np.shape(hu) != self.values.shape:
            raise ValueError(
                f"{self.source} has shape {self.values.shape}, the CT {np.shape(hu)}; give one RSP "
                "per CT voxel, axes (z, y, x)."
            )
