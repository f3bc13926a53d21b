"""What a patch does to rows that should stay within bands of dose."""

import numpy as np
from numba import njit

OPTIONS = dict(cache=True, nogil=True, error_model="numpy")  # bands may be infinite: no fastmath


@njit(**OPTIONS)
def harm(dose, change, shares, low, high, total):
    """``total`` (n_shares,) = Σ (distance from low … high)² of dose + share · change."""
    total[:] = 0.0
    for row in range(np.uint64(len(dose))):
        for s in range(np.uint64(len(shares))):
            d = dose[row] + shares[s] * change[row]
            off = max(low[row] - d, d - high[row])
            if off > np.float32(0.0):
                total[s] += np.float64(off) ** 2


@njit(**OPTIONS)
def outside(dose, low, high, off):
    """How far every row lies outside its band, negative inside."""
    for row in range(np.uint64(len(dose))):
        off[row] = max(low[row] - dose[row], dose[row] - high[row])
