"""Compiled loops of the commissioning: what secondary protons leave along depth."""

import math

from numba import njit


@njit(cache=True, nogil=True)
def at(table, step, r):
    """Linear look-up in a table that starts at 0; 0 below it, its last entry above."""
    if r <= 0.0:
        return 0.0
    u = r / step
    i = int(u)
    if i >= table.size - 1:
        return table[table.size - 1]
    return table[i] + (u - i) * (table[i + 1] - table[i])


@njit(cache=True, nogil=True)
def deposit_rays(start, number, range_mm, cosine, offset, cumulative, table_step, step, out):
    """Add rays that start in the middle of cell ``start`` to cells of ``step`` mm.

    ``cumulative`` (n_tables, n) holds integrals over residual range, each table_step mm; each ray
    is scaled by its number and exp(−offset). ``out`` is (n_tables, n_cells).
    """
    n_cells = out.shape[1]
    origin = (start + 0.5) * step
    for i in range(number.size):
        mu = cosine[i]
        if abs(mu) < 1e-3:
            mu = 1e-3 if mu >= 0.0 else -1e-3
        reach = range_mm[i] * mu
        low, high = min(origin, origin + reach), max(origin, origin + reach)
        first, last = max(int(math.floor(low / step)), 0), int(math.floor(high / step))
        scale = number[i] * math.exp(-offset[i])
        for cell in range(first, min(last, n_cells - 1) + 1):
            z0, z1 = max(cell * step, low), min((cell + 1) * step, high)
            r0 = range_mm[i] - (z0 - origin) / mu
            r1 = range_mm[i] - (z1 - origin) / mu
            for k in range(out.shape[0]):
                gain = at(cumulative[k], table_step, r0) - at(cumulative[k], table_step, r1)
                out[k, cell] += scale * abs(gain)


@njit(cache=True, nogil=True)
def spread_kernel(weights, lower, fraction, kernels, zero_cell, out):
    """Superpose kernels of the energies emitted in every cell, linear between two energies.

    weights (n_cells,), lower (n_cells,) unsigned index of the energy below, fraction (n_cells,)
    towards the next; kernels (n_energies, n_tables, n_offsets) with ``zero_cell`` at offset 0;
    out (n_tables, n_cells).
    """
    n_tables, n_cells = out.shape
    for j in range(weights.size):
        if weights[j] == 0.0:
            continue
        first = max(0, j - zero_cell)
        last = min(n_cells, j - zero_cell + kernels.shape[2])
        a, b = weights[j] * (1.0 - fraction[j]), weights[j] * fraction[j]
        for k in range(n_tables):
            for cell in range(first, last):
                o = cell - j + zero_cell
                out[k, cell] += a * kernels[lower[j], k, o] + b * kernels[lower[j] + 1, k, o]


@njit(cache=True, nogil=True)
def cell_average(centers, half, ranges, weights, cumulative, table_step, out):
    """Mean over cells of a pencil of protons with a spread of ranges.

    cumulative (n_tables, n) are integrals over residual range; out (n_tables, n_centers).
    A cell is cut at the surface, depth 0.
    """
    for i in range(centers.size):
        z0, z1 = max(centers[i] - half, 0.0), centers[i] + half
        for k in range(out.shape[0]):
            total = 0.0
            for j in range(ranges.size):
                total += weights[j] * (
                    at(cumulative[k], table_step, ranges[j] - z0)
                    - at(cumulative[k], table_step, ranges[j] - z1)
                )
            out[k, i] = total / (z1 - z0)


@njit(cache=True, nogil=True)
def moments_behind(power, step, out):
    """Fermi–Eyges A0, A1, A2 (3, n) of a scattering power (n,), trapezoid within steps."""
    a0 = a1 = a2 = 0.0
    out[:, 0] = 0.0
    for i in range(1, power.size):
        t = 0.5 * (power[i] + power[i - 1]) * step
        a2 += 2.0 * a1 * step + a0 * step * step + t * step * step / 3.0
        a1 += a0 * step + 0.5 * t * step
        a0 += t
        out[0, i], out[1, i], out[2, i] = a0, a1, a2
