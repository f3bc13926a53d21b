"""Beamlets from the materials on their axes to what the deposit needs of them."""

import math

import numpy as np
from numba import njit

from engine.dose.yoda._beamlets import CORE, CORE_NARROW, TAIL, TAIL_NARROW, X, Y
from engine.dose.yoda._fokker_planck import (
    ENERGY_MEV,
    LET_SUM,
    OPTIONS,
    RELEASED,
    RELEASES,
    S_MM,
    SURVIVING,
    WATER_MM,
    C,
    D,
    march,
)
from engine.dose.yoda.range_axis import INVERSE_LOG
from engine.physics._moliere_kernels import mixture, moliere_moments

# Of a cell, what is the same for every beamlet with these materials on its axis. Doses are per mm
# of water and proton: what primaries leave and, of secondaries, what stays on their axis. Then the
# widths, then what secondaries leave: one column per width, the protons' part, and times LET.
DOSE, PROTON_DOSE, LET_DOSE, CORE_SHARE, CORE_SCATTER, TAIL_SCATTER, SECONDARY = range(7)
GAUSSIANS = 2
LEAST_Q_MM2 = 1e-12  # what scatters less does not scatter
THIN_MM = 1e-4  # of water: cells with less take the dose per water of the nearest with more


@njit(**OPTIONS)
def work_arrays(n):
    """Memory of a march over ``n`` groups."""
    return (
        np.zeros((n, 3, 3)), np.zeros((n, 3, 3)), np.zeros((n, 3, 3)), np.zeros(n + 1),
        np.zeros(n + 1), np.zeros((3, n, 3)),
    )  # fmt: skip


@njit(**OPTIONS)
def solve_block(
    block, cuts, spectrum, edges, start, cells, step_mm, axis, moments, levers, table, released,
    released_per_mm, stations, solved, n_passed,
):  # fmt: skip
    """Solve the rays of one block: ``solved`` (n, n_cells, columns) and their ``stations``.

    ``spectrum`` (n_groups, 3), ``edges`` (lowest y, width, mean range), ``start`` (s in mm, share
    of the protons left, removal per χ_c² by hard scattering, variance of the beam's angles),
    ``levers`` the tables of Molière's moments and ``table`` its mixture. ``released`` (n_nodes,
    n_columns) is what secondaries leave up to depths in water.
    """
    n_cells = cells.shape[1]
    work = work_arrays(spectrum.shape[0])
    stages = np.zeros((3, spectrum.shape[0], 3))
    scatter = np.zeros((n_cells, 2))
    q, p = np.empty(n_cells + 1), np.empty(n_cells + 1)
    gaussians = np.empty((4, GAUSSIANS))
    for b in range(cuts[block], cuts[block + 1]):
        u = spectrum.copy()
        passed = march(
            u, edges[0], edges[1], edges[2], start[0], cells[b], step_mm, axis, moments, work,
            stages, stations[b], scatter, start[3],
        )  # fmt: skip
        n_passed[b] = passed
        beyond(stations[b], passed, cells[b], axis[0])
        releases(stations[b], cells[b])
        deposits(stations[b], start[1], released, released_per_mm, solved[b])
        moliere_moments(
            scatter[:passed, 0].copy(), scatter[:passed, 1].copy(), levers[0][:passed],
            levers[1][:passed], q[: passed + 1], p[: passed + 1],
        )  # fmt: skip
        widths(q, p, scatter[:, 0], start[2], passed, table, gaussians, solved[b])


@njit(**OPTIONS)
def widths(q, p, chi, hard, passed, table, gaussians, solved):
    """Molière's two Gaussians in the middle of each cell; held behind the last one passed.

    ``hard`` per χ_c² are scattered by so much that they count as removed. Those from the first half
    of the way would be two σ and more from the core: the tail is without them.
    """
    removed, far, first = 0.0, 0, 0
    for m in range(solved.shape[0]):
        out = solved[m]
        if m >= passed:
            out[CORE_SHARE : TAIL_SCATTER + 1] = solved[m - 1, CORE_SHARE : TAIL_SCATTER + 1]
            continue
        middle_q, middle_p = 0.5 * (q[m] + q[m + 1]), 0.5 * (p[m] + p[m + 1])
        out[CORE_SHARE], out[CORE_SCATTER], out[TAIL_SCATTER] = 1.0, 0.0, 0.0
        if middle_q <= LEAST_Q_MM2:
            first = far = m
        else:
            mixture(middle_p / middle_q + math.log(middle_q), table, gaussians)
            while far < first + (m - first) // 2:
                removed += hard * chi[far]
                far += 1
            out[CORE_SHARE] = min(gaussians[0, 0] / (1.0 - removed), 1.0)
            out[CORE_SCATTER] = middle_q * gaussians[1, 0]
            out[TAIL_SCATTER] = middle_q * gaussians[1, 1]


@njit(**OPTIONS)
def beyond(stations, passed, cells, coefficients):
    """Water passed behind the last proton's range: for secondaries, which go on."""
    h = coefficients[0, INVERSE_LOG]
    for m in range(passed, cells.shape[0]):
        stations[m + 1] = 0.0
        water_mm = cells[m, C] + cells[m, D] * h
        stations[m + 1, S_MM] = stations[m, S_MM] + water_mm
        stations[m + 1, WATER_MM] = stations[m, WATER_MM] + water_mm


@njit(**OPTIONS)
def releases(stations, cells):
    """What reactions set free over what they would in water, mean of the way so far."""
    total = stations[0, WATER_MM]  # in a range shifter as in water
    stations[0, RELEASED] = 1.0
    for m in range(cells.shape[0]):
        total += cells[m, RELEASES]
        water_mm = stations[m + 1, WATER_MM]
        stations[m + 1, RELEASED] = total / water_mm if water_mm > THIN_MM else 1.0


@njit(**OPTIONS)
def add_runs(row, first, count, offset, values, nx, factor, volume):
    """Add runs of values to a flat volume."""
    for r in range(row.shape[0]):
        place = row[r] * nx + first[r]
        for i in range(count[r]):
            volume[place + i] += factor * values[offset[r] + i]


@njit(**OPTIONS)
def take_runs(row, first, count, nx, volume, rows, least, n, out_row, out_gy):
    """Empty runs of a volume into entries from the ``n``-th on; returns how many there are then.

    Values below ``least`` are gathered until they come to that.
    """
    gathered = 0.0
    for r in range(row.shape[0]):
        place = row[r] * nx + first[r]
        for i in range(count[r]):
            value = volume[place + i]
            volume[place + i] = 0.0
            if value <= 0.0:
                continue
            if value < least:
                gathered += value
                if gathered < least:
                    continue
                value = least
                gathered -= least
            if rows[place + i] >= 0:
                out_row[n] = rows[place + i]
                out_gy[n] = value
                n += 1
    return n


@njit(**OPTIONS)
def deposits(stations, surviving, released, released_per_mm, solved):
    """What is left per mm of water in each cell; in vacuum, what would be left in matter there."""
    known, n_columns = -1, released.shape[1]
    for m in range(solved.shape[0]):
        out = solved[m]
        near, far = stations[m, WATER_MM], stations[m + 1, WATER_MM]
        if far - near <= THIN_MM:
            if known >= 0:
                _same_dose(out, solved[known])
            else:
                out[:] = 0.0
            continue
        per_mm = 1.0 / (far - near)
        share = surviving * per_mm * 0.5 * (stations[m, SURVIVING] + stations[m + 1, SURVIVING])
        primary = share * (stations[m, ENERGY_MEV] - stations[m + 1, ENERGY_MEV])
        product = share * (stations[m, LET_SUM] - stations[m + 1, LET_SUM])
        whole = 0.0
        for j in range(n_columns):
            left = _at_node(released, j, far * released_per_mm)
            left -= _at_node(released, j, near * released_per_mm)
            left *= per_mm * stations[m + 1, RELEASED]
            out[SECONDARY + j] = left
            if j < n_columns - 2:
                whole += left
        local = out[SECONDARY] / whole if whole > 0.0 else 0.0
        out[DOSE], out[PROTON_DOSE], out[LET_DOSE] = primary, primary, product
        if n_columns > 0:
            out[DOSE] += out[SECONDARY]
            out[PROTON_DOSE] += local * out[SECONDARY + n_columns - 2]
            out[LET_DOSE] += local * out[SECONDARY + n_columns - 1]
        if known < 0:
            for k in range(m):
                _same_dose(solved[k], out)
        known = m


@njit(**OPTIONS)
def _same_dose(out, of):
    """Copy all but the widths."""
    out[:CORE_SHARE] = of[:CORE_SHARE]
    out[SECONDARY:] = of[SECONDARY:]


@njit(**OPTIONS)
def _at_node(table, column, x):
    """A table's column at a fractional node, held beyond its last."""
    x = min(x, table.shape[0] - 1.0)
    i = min(int(x), table.shape[0] - 2)
    return table[i, column] + (x - i) * (table[i + 1, column] - table[i, column])


@njit(**OPTIONS)
def pack(
    solved, which, donor, kind, weight, places, narrower, air, lever, voxel_variance,
    thickness_cells, unit, out,
):  # fmt: skip
    """Amplitudes and widths (n_cells, 6, n) float32 of a spot's beamlets at the middle of cells.

    Beamlet b has the solution ``which[b]``, in cell m the dose of beamlet ``donor[b, m]``, a share
    ``weight`` of the protons, and lies at ``places`` (n, 2) times ``lever`` (n_cells,) mm; its
    variance is ``air`` (n_cells,) and the scatter, less ``narrower`` (n,) times the lever's square.
    Doses are averaged over a voxel's thickness along the axis, in cells.
    """
    n_cells, n = out.shape[0], out.shape[2]
    running = np.empty(n_cells + 1)
    for b in range(n):
        of = solved[which[b]]
        running[0] = 0.0
        for m in range(n_cells):
            running[m + 1] = running[m] + solved[which[donor[b, m]], m, kind]
        for m in range(n_cells):
            here = (
                _between(running, m + 0.5 + 0.5 * thickness_cells)
                - _between(running, m + 0.5 - 0.5 * thickness_cells)
            ) / thickness_cells
            amplitude = unit * weight[b] * here / (2.0 * math.pi)
            whole, square = air[m] + of[m, CORE_SCATTER], lever[m] * lever[m]
            # a ray through air scatters less than the spot's axis, by which the lever goes
            own = max(whole - narrower[b] * square, 0.5 * (1.0 - narrower[b]) * square)
            core = own + voxel_variance
            tail = core + of[m, TAIL_SCATTER] - of[m, CORE_SCATTER]
            share = of[m, CORE_SHARE]
            out[m, X, b] = places[b, 0] * lever[m]
            out[m, Y, b] = places[b, 1] * lever[m]
            out[m, CORE, b] = amplitude * share / core
            out[m, CORE_NARROW, b] = 0.5 / core
            out[m, TAIL, b] = amplitude * (1.0 - share) / tail
            out[m, TAIL_NARROW, b] = 0.5 / tail


@njit(**OPTIONS)
def _between(running, x):
    """A running sum over cells at a place between their ends; constant beyond."""
    x = min(max(x, 0.0), running.shape[0] - 1.0)
    i = min(int(x), running.shape[0] - 2)
    return running[i] + (x - i) * (running[i + 1] - running[i])
