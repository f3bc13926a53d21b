"""Backwards from voxels to beamlets, and from the cells of rays to voxels."""

import math

import numpy as np
from numba import njit

from engine.dose.yoda._beamlets import (
    CORE,
    CORE_NARROW,
    FAST,
    OPTIONS,
    TAIL,
    TAIL_NARROW,
    X,
    Y,
    _falls,
    _next_face,
    _point,
)
from engine.dose.yoda._fokker_planck import N_COEFFICIENTS
from engine.dose.yoda._solve import CORE_SCATTER, CORE_SHARE, DOSE, TAIL_SCATTER, _between

PX, PY, PT, PG = range(4)  # of a point: lateral mm, place between two depths, weight


@njit(**OPTIONS)
def place_points(
    row, first, count, axes, shape, spacing, cell_mm, n_cells, reach2, split, density, weight,
    near, all_of, starts, points,
):  # fmt: skip
    """The points of voxels that have a weight, sorted by the depths they lie between.

    ``all_of`` (n_cells,) gets their numbers and ``near`` those within ``reach2``, which come
    first. With ``starts`` (n_cells,), ``points`` (4, n) are filled; without, only counted.
    """
    near[:] = 0
    all_of[:] = 0
    fill = starts.shape[0] > 0
    n_sub = split[0] * split[1] * split[2]
    ends = np.zeros(all_of.shape[0], np.int64)
    if fill:
        ends[:-1] = starts[1:]
        ends[-1] = points.shape[1]
    for r in range(row.shape[0]):
        k, j = row[r] // shape[1], row[r] % shape[1]
        for i in range(first[r], first[r] + count[r]):
            voxel = row[r] * shape[2] + i
            if weight[voxel] == 0.0 or density[voxel] <= 0.0:
                continue
            for sub in range(n_sub):
                a = sub % split[0]
                b = (sub // split[0]) % split[1]
                c = sub // (split[0] * split[1])
                px = (i + (a + 0.5) / split[0] - 0.5) * spacing[0] - axes[0, 0]
                py = (j + (b + 0.5) / split[1] - 0.5) * spacing[1] - axes[0, 1]
                pz = (k + (c + 0.5) / split[2] - 0.5) * spacing[2] - axes[0, 2]
                z = (px * axes[3, 0] + py * axes[3, 1] + pz * axes[3, 2]) / cell_mm - 0.5
                if z < -0.5 or z > n_cells - 0.5:
                    continue
                low = min(max(int(math.floor(z)), 0), n_cells - 2)
                x = np.float32(px * axes[1, 0] + py * axes[1, 1] + pz * axes[1, 2])
                y = np.float32(px * axes[2, 0] + py * axes[2, 1] + pz * axes[2, 2])
                within = x * x + y * y <= reach2[low]
                if fill:
                    at = starts[low] + near[low]
                    if not within:
                        at = ends[low] - 1 - (all_of[low] - near[low])
                    points[PX, at], points[PY, at] = x, y
                    points[PT, at] = min(max(z - low, 0.0), 1.0)
                    points[PG, at] = weight[voxel] / n_sub
                all_of[low] += 1
                if within:
                    near[low] += 1


@njit(**FAST)
def _beamlet(points, low, high, out_low, out_high):
    """Bars of one beamlet (6,) at the depths before and behind points; Σ of weight times dose."""
    one = np.float32(1.0)
    lx, ly, lc, ln, lt, lm = low[0], low[1], low[2], low[3], low[4], low[5]
    rx, ry, rc = high[0] - lx, high[1] - ly, high[2] - lc
    rn, rt, rm = high[3] - ln, high[4] - lt, high[5] - lm
    x0 = x1 = y0 = y1 = c0 = c1 = n0 = n1 = t0 = t1 = m0 = m1 = value = np.float32(0.0)
    for i in range(points.shape[1]):
        t, g = points[PT, i], points[PG, i]
        before = one - t
        dx, dy = points[PX, i] - (lx + t * rx), points[PY, i] - (ly + t * ry)
        r2 = dx * dx + dy * dy
        cn, tn = ln + t * rn, lm + t * rm
        core, tail = g * _falls(r2 * cn), g * _falls(r2 * tn)
        of_core, of_tail = core * (lc + t * rc), tail * (lt + t * rt)
        value += of_core + of_tail
        pull = np.float32(2.0) * (of_core * cn + of_tail * tn)
        c0 += before * core
        c1 += t * core
        t0 += before * tail
        t1 += t * tail
        n0 -= before * r2 * of_core
        n1 -= t * r2 * of_core
        m0 -= before * r2 * of_tail
        m1 -= t * r2 * of_tail
        x0 += before * pull * dx
        x1 += t * pull * dx
        y0 += before * pull * dy
        y1 += t * pull * dy
    out_low[X], out_low[Y], out_low[CORE], out_low[CORE_NARROW] = x0, y0, c0, n0
    out_low[TAIL], out_low[TAIL_NARROW] = t0, m0
    out_high[X], out_high[Y], out_high[CORE], out_high[CORE_NARROW] = x1, y1, c1, n1
    out_high[TAIL], out_high[TAIL_NARROW] = t1, m1
    return value


@njit(**OPTIONS)
def _around(points, low, high, per_mm, out_low, out_high, center_low, center_high):
    """The same for what is symmetric around the axis, tables over radius, and for its center."""
    value = 0.0
    for i in range(points.shape[1]):
        t, g, x, y = points[PT, i], points[PG, i], points[PX, i], points[PY, i]
        r = np.sqrt(x * x + y * y)
        q = int(r * per_mm)
        if q >= low.shape[0] - 1:
            continue
        f = r * per_mm - np.float32(q)
        before = np.float32(1.0) - t
        out_low[q] += before * (np.float32(1.0) - f) * g
        out_low[q + 1] += before * f * g
        out_high[q] += t * (np.float32(1.0) - f) * g
        out_high[q + 1] += t * f * g
        rise = before * (low[q + 1] - low[q]) + t * (high[q + 1] - high[q])
        value += g * (before * low[q] + t * high[q] + f * rise)
        if r > 0.0:
            pull = -g * rise * per_mm / r
            center_low[0] += before * pull * x
            center_low[1] += before * pull * y
            center_high[0] += t * pull * x
            center_high[1] += t * pull * y
    return value


@njit(**OPTIONS)
def deposit_adjoint_block(
    block, cuts, points, starts, near, all_of, beamlets, radial, per_mm, bars, radial_bars,
    center_bars, values,
):  # fmt: skip
    """Backwards through ``deposit_block`` between the depths of one block.

    ``beamlets`` (n_cells, n, 6) and ``radial`` (n_cells, n_radii); ``bars`` (2, n_cells, n, 6),
    ``radial_bars`` (2, n_cells, n_radii) and ``center_bars`` (2, n_cells, 2) get what points leave
    at the depth before and the one behind, by the depth before; ``values`` (n_cells,) the
    functional.
    """
    for low in range(cuts[block], cuts[block + 1]):
        if all_of[low] == 0:
            continue
        of = points[:, starts[low] : starts[low] + all_of[low]]
        total = _around(
            of, radial[low], radial[low + 1], per_mm, radial_bars[0, low], radial_bars[1, low],
            center_bars[0, low], center_bars[1, low],
        )  # fmt: skip
        of = of[:, : near[low]]
        if near[low] > 0:
            for b in range(beamlets.shape[1]):
                total += _beamlet(
                    of, beamlets[low, b], beamlets[low + 1, b], bars[0, low, b], bars[1, low, b]
                )
        values[low] = total


@njit(**FAST)
def radial_adjoint(radial_bar, wide, per_mm, wide_bar):
    """Backwards through ``radial_block``: ``wide_bar`` (n_cells, 2, J) is added to."""
    for m in range(wide.shape[0]):
        for i in range(radial_bar.shape[1]):
            bar = radial_bar[m, i]
            if bar == 0.0:
                continue
            r2 = np.float32(i * i) / (per_mm * per_mm)
            for j in range(wide.shape[2]):
                falls = bar * _falls(r2 * wide[m, 1, j])
                wide_bar[m, 0, j] += falls
                wide_bar[m, 1, j] -= falls * r2 * wide[m, 0, j]


@njit(**OPTIONS)
def pack_adjoint(
    solved, which, donor, weight, places, narrower, air, lever, voxel_variance, thickness_cells,
    unit, out_bar, solved_bar, lever_bar,
):  # fmt: skip
    """Backwards through ``pack`` for the dose.

    ``out_bar`` (n_cells, n, 6); ``solved_bar`` (n, total cells, columns), of every beamlet by
    itself, and ``lever_bar`` (n_cells,) are added to.
    """
    n_cells = out_bar.shape[0]
    running, running_bar = np.empty(n_cells + 1), np.empty(n_cells + 1)
    for b in range(out_bar.shape[1]):
        of, bars = solved[which[b]], solved_bar[b]
        running[0] = 0.0
        for m in range(n_cells):
            running[m + 1] = running[m] + solved[which[donor[b, m]], m, DOSE]
        running_bar[:] = 0.0
        factor = unit * weight[b] / (2.0 * math.pi)
        for m in range(n_cells):
            upper, lower = m + 0.5 + 0.5 * thickness_cells, m + 0.5 - 0.5 * thickness_cells
            here = (_between(running, upper) - _between(running, lower)) / thickness_cells
            amplitude, share, bar = factor * here, of[m, CORE_SHARE], out_bar[m, b]
            whole, square = air[m] + of[m, CORE_SCATTER], lever[m] * lever[m]
            least, straight = 0.5 * (1.0 - narrower[b]) * square, whole - narrower[b] * square
            core = max(straight, least) + voxel_variance
            tail = core + of[m, TAIL_SCATTER] - of[m, CORE_SCATTER]
            lever_bar[m] += places[b, 0] * bar[X] + places[b, 1] * bar[Y]
            amplitude_bar = bar[CORE] * share / core + bar[TAIL] * (1.0 - share) / tail
            bars[m, CORE_SHARE] += amplitude * (bar[CORE] / core - bar[TAIL] / tail)
            tail_bar = -(bar[TAIL] * amplitude * (1.0 - share) + 0.5 * bar[TAIL_NARROW])
            tail_bar /= tail * tail
            core_bar = -(bar[CORE] * amplitude * share + 0.5 * bar[CORE_NARROW]) / (core * core)
            core_bar += tail_bar
            bars[m, TAIL_SCATTER] += tail_bar
            bars[m, CORE_SCATTER] -= tail_bar
            if straight >= least:
                bars[m, CORE_SCATTER] += core_bar
                lever_bar[m] -= 2.0 * narrower[b] * lever[m] * core_bar
            else:
                lever_bar[m] += (1.0 - narrower[b]) * lever[m] * core_bar
            here_bar = factor * amplitude_bar / thickness_cells
            _between_adjoint(running_bar, upper, here_bar)
            _between_adjoint(running_bar, lower, -here_bar)
        behind = 0.0
        for m in range(n_cells - 1, -1, -1):
            behind += running_bar[m + 1]
            solved_bar[donor[b, m], m, DOSE] += behind


@njit(**OPTIONS)
def _between_adjoint(running_bar, x, bar):
    x = min(max(x, 0.0), running_bar.shape[0] - 1.0)
    i = min(int(x), running_bar.shape[0] - 2)
    running_bar[i] += (1.0 - (x - i)) * bar
    running_bar[i + 1] += (x - i) * bar


@njit(**OPTIONS)
def trace_adjoint(axes, cell_mm, lateral, shape, spacing, cells_bar, factor, per_voxel):
    """Backwards through ``trace_block``, times ``factor``: to density times coefficients.

    ``cells_bar`` (n, n_cells, N_COEFFICIENTS); ``per_voxel`` (n_voxels, N_COEFFICIENTS) is added
    to.
    """
    nz, ny, nx = shape
    for b in range(lateral.shape[0]):
        for m in range(cells_bar.shape[1]):
            near = _point(axes, m * cell_mm, lateral[b, m], spacing)
            far = _point(axes, (m + 1) * cell_mm, lateral[b, m + 1], spacing)
            slope = (far[0] - near[0], far[1] - near[1], far[2] - near[2])
            t = 0.0
            while t < 1.0:
                to = 1.0
                for i in range(3):
                    to = min(to, _next_face(near[i], slope[i], t))
                middle = 0.5 * (t + to)
                x = math.floor(near[0] + middle * slope[0])
                y = math.floor(near[1] + middle * slope[1])
                z = math.floor(near[2] + middle * slope[2])
                if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
                    length = (to - t) * cell_mm * factor
                    voxel = (z * ny + y) * nx + x
                    for k in range(N_COEFFICIENTS):
                        per_voxel[voxel, k] += length * cells_bar[b, m, k]
                t = to


@njit(**OPTIONS)
def inner_product(per_voxel, density, material, table):
    """Σ over voxels of gradient times density times the coefficients of the material there."""
    total = 0.0
    for i in range(per_voxel.shape[0]):
        if density[i] > 0.0:
            of, found = table[material[i]], 0.0
            for k in range(N_COEFFICIENTS):
                found += per_voxel[i, k] * of[k]
            total += density[i] * found
    return total
