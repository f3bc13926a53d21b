"""Voxel records, as the kernels read them: one block of memory, three arrays."""

from dataclasses import dataclass

import numpy as np

from engine.dose.monte_carlo._transport import (
    DENSITY,
    HISTORY,
    MATERIAL,
    NO_HISTORY,
    QUANTA_PER_MEV,
    SQUARE_QUANTA,
    SQUARES,
    TOTAL,
)


@dataclass(frozen=True, eq=False)
class Records:
    """Records of (..., n_voxels) voxels: density, material, and the sums of what they got."""

    longs: np.ndarray  # (..., n_voxels, 4) int64
    ints: np.ndarray  # (..., n_voxels, 8) int32, the same memory
    floats: np.ndarray  # (..., n_voxels, 8) float32, the same memory

    @classmethod
    def of(cls, density_g_cm3: np.ndarray, material: np.ndarray, *lead: int) -> "Records":
        """Empty records of flat (n_voxels,) arrays, as many copies as ``lead`` says."""
        longs = np.zeros((*lead, len(density_g_cm3), 4), np.int64)
        records = cls(longs, longs.view(np.int32), longs.view(np.float32))
        records.floats[..., DENSITY] = density_g_cm3
        records.ints[..., MATERIAL] = material
        records.ints[..., HISTORY] = NO_HISTORY
        return records

    def energy_mev(self) -> np.ndarray:
        """(n_voxels,) over all copies."""
        return self._summed(TOTAL) / QUANTA_PER_MEV

    def squares_mev2(self) -> np.ndarray:
        """(n_voxels,) summed squares of what each history brought."""
        return self._summed(SQUARES) / SQUARE_QUANTA

    def _summed(self, column: int) -> np.ndarray:
        return self.longs[..., column].reshape(-1, self.longs.shape[-2]).sum(axis=0)
