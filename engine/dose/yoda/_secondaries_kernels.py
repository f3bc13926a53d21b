"""Compiled loops of the secondaries: rings that rays leave, and kernels superposed along depth."""

import math

import numpy as np
from numba import njit

from engine.machine._kernels import at

_OPTIONS = dict(cache=True, nogil=True, error_model="numpy")


@njit(**_OPTIONS)
def depth_rays(number, range_mm, start, way, offset, local, tables, table_step, step, out):
    """Add rays to cells along depth; depth 0 is in the middle of the middle cell.

    ``start`` (n, 2) are depth and ring, mm, ``way`` (n, 3) the direction: along depth, outwards,
    around. ``tables`` (n_tables, n) are integrals over residual range, each table_step mm; a ray
    is scaled by its number and exp(−offset). Row 0 of ``out`` (1 or 1 + n_tables, n_cells) gets
    table 0 and ``local`` (n,), which stays at the start; further rows get the tables.
    """
    n_cells = out.shape[1]
    shift = 0.5 * n_cells * step
    for i in range(number.size):
        mu = way[i, 0]
        if abs(mu) < 1e-3:
            mu = 1e-3 if mu >= 0.0 else -1e-3
        origin = start[i, 0] + shift
        out[0, min(max(int(origin / step), 0), n_cells - 1)] += local[i]
        reach = range_mm[i] * mu
        low, high = min(origin, origin + reach), max(origin, origin + reach)
        first, last = max(int(math.floor(low / step)), 0), int(math.floor(high / step))
        scale = number[i] * math.exp(-offset[i])
        for cell in range(first, min(last, n_cells - 1) + 1):
            z0, z1 = max(cell * step, low), min((cell + 1) * step, high)
            r0 = range_mm[i] - (z0 - origin) / mu
            r1 = range_mm[i] - (z1 - origin) / mu
            gain = at(tables[0], table_step, r0) - at(tables[0], table_step, r1)
            out[0, cell] += scale * abs(gain)
            for k in range(out.shape[0] - 1):
                gain = at(tables[k], table_step, r0) - at(tables[k], table_step, r1)
                out[k + 1, cell] += scale * abs(gain)


@njit(**_OPTIONS)
def ring_rays(
    number, range_mm, start, way, offset, local, table, table_step, step, reach_mm, growth,
    own_share, primary_share, log_first, log_step, out,
):  # fmt: skip
    """Add rays to the rings of ``out`` (n_depths, n_rings); arguments as of ``depth_rays``.

    Rings lie between circles even in the logarithm of their radius over ``reach_mm``, from
    exp(log_first) on; ring k is within circle k. ``growth`` (n,) is the variance by scattering
    over its end value, even in the share of the range; ``own_share`` and ``primary_share`` are the
    end's σ over range of the ray and of a primary, whose share the core has already. What broadens
    a ring much is taken at three Gauss–Hermite points in either direction.
    """
    n_depths, n_rings = out.shape
    middle = n_depths // 2
    root3 = math.sqrt(3.0)
    for i in range(number.size):
        row = middle + int(math.floor(start[i, 0] / step + 0.5))
        if local[i] > 0.0:
            c = _ring(start[i, 1] / reach_mm, log_first, log_step, n_rings)
            out[min(max(row, 0), n_depths - 1), c] += local[i]
        length = range_mm[i]
        if length <= 0.0:
            continue
        scale = number[i] * math.exp(-offset[i])
        steps = max(12, int(1.5 * length / step) + 1)
        above = at(table, table_step, length)
        for k in range(steps):
            below = at(table, table_step, length * (steps - 1 - k) / steps)
            energy, above = scale * (above - below), below
            path = length * (k + 0.5) / steps
            depth = start[i, 0] + path * way[i, 0]
            row = min(max(middle + int(math.floor(depth / step + 0.5)), 0), n_depths - 1)
            ring = math.hypot(start[i, 1] + path * way[i, 1], path * way[i, 2])
            own = (own_share * length) ** 2 * _grown(growth, path / length)
            had = (primary_share * reach_mm) ** 2 * _grown(growth, depth / reach_mm)
            sigma = math.sqrt(max(own - had, 0.0))
            if sigma < 0.1 * ring:
                radius = math.hypot(ring, sigma) / reach_mm
                out[row, _ring(radius, log_first, log_step, n_rings)] += energy
                continue
            for a in range(3):
                part = energy * (2.0 / 3.0 if a == 1 else 1.0 / 6.0)
                x = ring + (a - 1) * root3 * sigma
                for b in range(2):
                    radius = math.hypot(x, b * root3 * sigma) / reach_mm
                    c = _ring(radius, log_first, log_step, n_rings)
                    out[row, c] += part * (2.0 / 3.0 if b == 0 else 1.0 / 3.0)


@njit(**_OPTIONS)
def _ring(radius, log_first, log_step, n_rings):
    c = int(math.ceil((math.log(max(radius, 1e-9)) - log_first) / log_step))
    return min(max(c, 0), n_rings - 1)


@njit(**_OPTIONS)
def _grown(growth, share):
    """Even table over 0 … 1, held beyond."""
    last = growth.size - 1
    u = min(max(share, 0.0), 1.0) * last
    i = min(int(u), last - 1)
    return growth[i] + (u - i) * (growth[i + 1] - growth[i])


@njit(**_OPTIONS)
def superpose_depth(weights, reach_mm, lower, fraction, kernels, zero, cells, step, out):
    """What every cell's events leave along depth, MeV into ``out`` (n_tables, n_cells).

    Events sit in the middles of cells of ``step`` mm; weights (3, n_emitting) are MeV by process,
    reach_mm (n_emitting,) scales their depths, lower and fraction say between which energies.
    kernels (3, n_energies, n_tables, n_edges) are cumulative along depth, with edges each 1/cells
    of the reach and the events at edge ``zero``, which lies between two.
    """
    n_tables, n_edges = kernels.shape[2], kernels.shape[3]
    row = np.empty(n_edges)
    for j in range(reach_mm.size):
        for t in range(n_tables):
            row[:] = 0.0
            for s in range(kernels.shape[0]):
                a = weights[s, j] * (1.0 - fraction[j])
                b = weights[s, j] * fraction[j]
                low, high = kernels[s, lower[j], t], kernels[s, lower[j] + 1, t]
                for e in range(n_edges):
                    row[e] += a * low[e] + b * high[e]
            _spread(row, j, zero, step * cells / reach_mm[j], out[t])


@njit(**_OPTIONS)
def superpose_circles(
    weights, reach_mm, lower, fraction, kernels, zero, cells, step, radii_mm, log_first, log_step,
    out,
):  # fmt: skip
    """What every cell's events leave within circles, MeV into ``out`` (n_radii, n_cells).

    As ``superpose_depth``; kernels (3, n_energies, n_circles, n_edges) are of circles even in the
    logarithm of their radius over the reach. The last circle holds all.
    """
    n_circles, n_edges = kernels.shape[2], kernels.shape[3]
    row = np.empty(n_edges)
    for j in range(reach_mm.size):
        for k in range(radii_mm.size):
            u = (math.log(radii_mm[k] / reach_mm[j]) - log_first) / log_step
            u = min(max(u, 0.0), n_circles - 1.0)
            c = min(int(u), n_circles - 2)
            v = u - c
            row[:] = 0.0
            for s in range(kernels.shape[0]):
                for i in range(2):
                    weight = weights[s, j] * (fraction[j] if i else 1.0 - fraction[j])
                    kernel = kernels[s, lower[j] + i]
                    inner, outer = kernel[c], kernel[c + 1]
                    a, b = weight * (1.0 - v), weight * v
                    for e in range(n_edges):
                        row[e] += a * inner[e] + b * outer[e]
            _spread(row, j, zero, step * cells / reach_mm[j], out[k])


@njit(**_OPTIONS)
def _spread(row, j, zero, edges_per_cell, out):
    """Add a cumulative kernel (n_edges,) of cell ``j`` to the cells of ``out``."""
    first = max(int(j - zero / edges_per_cell) - 1, 0)
    last = min(int(j + 0.5 + (row.size - 1 - zero) / edges_per_cell) + 2, out.size)
    before = _between(row, zero + (first - j - 0.5) * edges_per_cell)
    for i in range(first, last):
        after = _between(row, zero + (i - j + 0.5) * edges_per_cell)
        out[i] += after - before
        before = after


@njit(**_OPTIONS)
def _between(row, u):
    if u <= 0.0:
        return 0.0
    i = int(u)
    if i >= row.size - 1:
        return row[row.size - 1]
    return row[i] + (u - i) * (row[i + 1] - row[i])
