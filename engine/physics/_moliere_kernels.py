"""Compiled loops of Molière's theory with drift: moments, their adjoint, and the mixture."""

import numpy as np
from numba import njit

OPTIONS = dict(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
EXPONENT = 1.0 - 2.0 * np.euler_gamma + np.log(4.0)  # of 1 − x K₁(x) for small x, see moliere.py
FIRST_B, B_STEP = 4.0, 0.5  # nodes of the tables of mixtures


@njit(**OPTIONS)
def moliere_moments(chi, chilog, w2, w2log, q, p):
    """Fill q and p (n + 1,) at the stations from the cells before them.

    chi (n,): χ_c² of each whole cell, rad²; chilog (n,): the same times its effective ln χ_a²;
    w2, w2log (n,) from ``lever_tables``. With them f(k) = exp(−¼ k² (p − q ln k²)), k per mm.
    """
    n = chi.size
    q[:] = 0.0
    p[:] = 0.0
    for m in range(n):
        strength = chi[m]
        if strength == 0.0:
            continue
        weighted = EXPONENT * strength - chilog[m]
        q_after, p_after = q[m + 1 :], p[m + 1 :]
        for d in range(n - m):
            q_after[d] += strength * w2[d]
            p_after[d] += weighted * w2[d] - strength * w2log[d]


@njit(**OPTIONS)
def moliere_moments_adjoint(qbar, pbar, w2, w2log, chibar, chilogbar):
    """Add to chibar and chilogbar (n,) the gradient of what has qbar and pbar (n + 1,)."""
    n = chibar.size
    for m in range(n):
        q_after, p_after = qbar[m + 1 :], pbar[m + 1 :]
        from_q, from_p, from_log = 0.0, 0.0, 0.0
        for d in range(n - m):
            from_q += q_after[d] * w2[d]
            from_p += p_after[d] * w2[d]
            from_log += p_after[d] * w2log[d]
        chibar[m] += from_q + EXPONENT * from_p - from_log
        chilogbar[m] -= from_p


@njit(**OPTIONS)
def mixture(b, table, out):
    """Fill out (4, n_gaussians): ω, v, dω/db, dv/db; cubic Hermite between nodes, so C¹.

    table (n_nodes, 2, 2 n_gaussians) from ``mixture_table``: values and slopes of ω, then v.
    Beyond the table's ends its ends hold, with zero derivatives.
    """
    n_nodes, n = table.shape[0], out.shape[1]
    u = (b - FIRST_B) / B_STEP
    inside = 0.0 <= u <= n_nodes - 1.0
    u = min(max(u, 0.0), n_nodes - 1.0)
    i = min(int(u), n_nodes - 2)
    u -= i
    rise = u * u * (3.0 - 2.0 * u)
    left, right = B_STEP * u * (1.0 - u) ** 2, -B_STEP * u * u * (1.0 - u)
    steep = 6.0 * u * (1.0 - u) / B_STEP
    left_slope, right_slope = (1.0 - u) * (1.0 - 3.0 * u), u * (3.0 * u - 2.0)
    before, after = table[i], table[i + 1]
    for c in range(2 * n):
        row, g = c // n, c % n
        jump = after[0, c] - before[0, c]
        out[row, g] = before[0, c] + rise * jump + left * before[1, c] + right * after[1, c]
        slope = steep * jump + left_slope * before[1, c] + right_slope * after[1, c]
        out[row + 2, g] = slope if inside else 0.0
