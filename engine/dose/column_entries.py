"""The influence matrix column by column, for plans that change a few spots at a time.

A full product reads every entry; a patch of some dozen spots concerns a few percent of them.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit


@dataclass(frozen=True, eq=False)
class ColumnEntries:
    """Column j has ``rows`` and ``gy`` (Gy per particle) from ``start[j]`` to ``start[j + 1]``."""

    start: np.ndarray  # (n_spots + 1,) int64
    rows: np.ndarray  # (n_entries,) uint32, ascending in a column
    gy: np.ndarray  # (n_entries,) float32

    @property
    def n_entries(self) -> int:
        return len(self.rows)

    def add(self, dose: np.ndarray, columns: np.ndarray, change: np.ndarray) -> int:
        """Add Σ change · column to ``dose`` (n_rows,) float32; returns the entries touched.

        ``columns`` (n,) are distinct column indices, ``change`` (n,) their change in particles.
        """
        return int(_add_columns(self.start, self.rows, self.gy, columns, change, dose))

    def largest(self) -> np.ndarray:
        """Largest entry of every column, (n_spots,) float32; 0 where it has none."""
        largest = np.maximum.reduceat(np.append(self.gy, np.float32(0.0)), self.start[:-1])
        return np.where(np.diff(self.start) > 0, largest, np.float32(0.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _add_columns(start, rows, gy, columns, change, dose):
    touched = 0
    for k in range(len(columns)):
        first, last = start[columns[k]], start[columns[k] + 1]
        c = np.float32(change[k])
        for e in range(np.uint64(first), np.uint64(last)):
            dose[rows[e]] += c * gy[e]
        touched += last - first
    return touched
