"""Bixels on voxels, and lateral sums on voxels; positions count in steps of the lattice.

``lateral`` tables are (n, n, 3): C_i of one bixel at lattice offsets of a quadrant. Rows carry
their position (u, v) in lattice steps and D_i(l) times the inverse square, (n_rows, 3).
"""

import numpy as np
from numba import njit

OPTIONS = dict(cache=True, nogil=True, error_model="numpy", fastmath=True)
EXACT = dict(cache=True, nogil=True, error_model="numpy")  # what is counted must be what is filled


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


@njit(**EXACT)
def count_block(block, cuts, u_bixel, v_bixel, u, v, reach, counts):
    """Rows within ``reach`` lattice steps of every bixel of a block."""
    for bixel in range(cuts[block], cuts[block + 1]):
        n, ub, vb = 0, u_bixel[bixel], v_bixel[bixel]
        for row in range(len(u)):
            du, dv = u[row] - ub, v[row] - vb
            n += du * du + dv * dv < reach * reach
        counts[bixel] = n


@njit(**EXACT)
def fill_block(
    block, cuts, u_bixel, v_bixel, fluence, u, v, depth, reach, lateral, starts, rows, gy
):  # fmt: skip
    """Rows and entries of every bixel of a block, in the places that were counted."""
    for bixel in range(cuts[block], cuts[block + 1]):
        k, ub, vb, f = starts[bixel], u_bixel[bixel], v_bixel[bixel], fluence[bixel]
        end = starts[bixel + 1]
        for row in range(len(u)):
            du, dv = abs(u[row] - ub), abs(v[row] - vb)
            if du * du + dv * dv < reach * reach and k < end:
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


@njit(**OPTIONS)
def control_points_block(
    block, beam_of_block, table_step, lateral, amplitude_u, amplitude_v, change, first,
    node_u0, node_v0, node_step, sums,
):  # fmt: skip
    """C_i of one beam's patch at control points, by direct summation in coordinate space.

    Positions count in amplitudes; ``lateral`` is a bixel's table at ``table_step`` nodes an
    amplitude. ``sums`` (n_beams, n, n, 3) has its nodes ``node_step`` amplitudes apart from
    (node_u0, node_v0) of the beam on; the patch has the amplitudes ``first[beam]`` …
    """
    beam = beam_of_block[block]
    n, reach = sums.shape[1], np.int64(lateral.shape[0])
    for i in range(n):
        u = node_u0[beam] + i * node_step
        for j in range(n):
            v = node_v0[beam] + j * node_step
            s0, s1, s2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for k in range(first[beam], first[beam + 1]):
                a = abs(u - amplitude_u[k]) * table_step
                b = abs(v - amplitude_v[k]) * table_step
                if a < reach and b < reach:
                    p, q, c = np.uint32(a), np.uint32(b), change[k]
                    s0 += lateral[p, q, 0] * c
                    s1 += lateral[p, q, 1] * c
                    s2 += lateral[p, q, 2] * c
            sums[beam, i, j, 0] = s0
            sums[beam, i, j, 1] = s1
            sums[beam, i, j, 2] = s2


@njit(**OPTIONS)
def add_patch_block(
    block, cuts, beams, u, v, components, near, near_u0, near_v0, far, far_u0, far_v0, far_step,
    dose,
):  # fmt: skip
    """Add the dose of a patch to the rows of a block, interpolated between control points: dense
    ones near the patch, ``far_step`` amplitudes apart elsewhere.

    ``u``, ``v`` (n_beams, n_rows) count in amplitudes, ``components`` are (n_beams, n_rows, 3).
    """
    n_near, n_far = np.float32(near.shape[1] - 1), np.float32(far.shape[1] - 1)
    shrink, zero = np.float32(1.0) / np.float32(far_step), np.float32(0.0)
    for k in range(len(beams)):
        beam = beams[k]
        nu, nv = np.float32(near_u0[beam]), np.float32(near_v0[beam])
        fu, fv = np.float32(far_u0[beam]), np.float32(far_v0[beam])
        near_sums, far_sums = near[beam], far[beam]
        for row in range(cuts[block], cuts[block + 1]):
            du, dv = u[beam, row] - nu, v[beam, row] - nv
            if du >= zero and dv >= zero and du < n_near and dv < n_near:
                dose[row] += _entry(
                    near_sums, du, dv, components[beam, row, 0], components[beam, row, 1],
                    components[beam, row, 2],
                )  # fmt: skip
                continue
            du, dv = (u[beam, row] - fu) * shrink, (v[beam, row] - fv) * shrink
            if du >= zero and dv >= zero and du < n_far and dv < n_far:
                dose[row] += _entry(
                    far_sums, du, dv, components[beam, row, 0], components[beam, row, 1],
                    components[beam, row, 2],
                )  # fmt: skip
