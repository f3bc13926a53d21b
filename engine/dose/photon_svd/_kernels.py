"""Bixels on voxels, and lateral sums on voxels; positions count in steps of the lattice.

``lateral`` tables are (n, n, 3): C_i of one bixel at lattice offsets of a quadrant. Rows carry
their position (u, v) in lattice steps and D_i(l) times the inverse square, (n_rows, 3).
"""

import numpy as np
from numba import njit

OPTIONS = dict(cache=True, nogil=True, error_model="numpy", fastmath=True)


@njit(inline="always")
def _entry(lateral, du, dv, d0, d1, d2):
    """Σ_i D_i C_i at an offset of 0 or more lattice steps, bilinear; inside the table."""
    i, j = np.uint32(du), np.uint32(dv)
    fu, fv = du - np.float32(i), dv - np.float32(j)
    one = np.float32(1.0)
    a = lateral[i, j, 0] * d0 + lateral[i, j, 1] * d1 + lateral[i, j, 2] * d2
    k = i + np.uint32(1)
    b = lateral[k, j, 0] * d0 + lateral[k, j, 1] * d1 + lateral[k, j, 2] * d2
    m = j + np.uint32(1)
    c = lateral[i, m, 0] * d0 + lateral[i, m, 1] * d1 + lateral[i, m, 2] * d2
    d = lateral[k, m, 0] * d0 + lateral[k, m, 1] * d1 + lateral[k, m, 2] * d2
    return (a * (one - fu) + b * fu) * (one - fv) + (c * (one - fu) + d * fu) * fv


@njit(**OPTIONS)
def count_block(block, cuts, u_bixel, v_bixel, u, v, reach, counts):
    """Rows within ``reach`` lattice steps of every bixel of a block."""
    for bixel in range(cuts[block], cuts[block + 1]):
        n, ub, vb = 0, u_bixel[bixel], v_bixel[bixel]
        for row in range(len(u)):
            du, dv = u[row] - ub, v[row] - vb
            n += du * du + dv * dv < reach * reach
        counts[bixel] = n


@njit(**OPTIONS)
def fill_block(
    block, cuts, u_bixel, v_bixel, fluence, u, v, depth, reach, lateral, starts, rows, gy
):  # fmt: skip
    """Rows and entries of every bixel of a block, in the places that were counted."""
    for bixel in range(cuts[block], cuts[block + 1]):
        k, ub, vb, f = starts[bixel], u_bixel[bixel], v_bixel[bixel], fluence[bixel]
        for row in range(len(u)):
            du, dv = abs(u[row] - ub), abs(v[row] - vb)
            if du * du + dv * dv < reach * reach:
                dose = _entry(lateral, du, dv, depth[row, 0], depth[row, 1], depth[row, 2])
                rows[k] = row
                gy[k] = max(np.float32(0.0), dose * f)
                k += 1


@njit(**OPTIONS)
def add_block(block, cuts, u0, v0, u, v, depth, lateral_sum, dose):
    """Add Σ_i D_i C_i to the rows of a block; ``lateral_sum`` (n_u, n_v, 3) starts at (u0, v0)."""
    n_u, n_v = lateral_sum.shape[0] - 1, lateral_sum.shape[1] - 1
    for row in range(cuts[block], cuts[block + 1]):
        du, dv = u[row] - u0, v[row] - v0
        if du >= 0.0 and dv >= 0.0 and du < n_u and dv < n_v:
            dose[row] += _entry(
                lateral_sum, np.float32(du), np.float32(dv),
                depth[row, 0], depth[row, 1], depth[row, 2],
            )  # fmt: skip
