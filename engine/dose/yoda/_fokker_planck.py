"""The Fokker–Planck equation in depth and residual range, on groups that move with the spectrum.

Discontinuous Galerkin with three Legendre polynomials per group (symmetric interior penalty,
Rivière 2008) in residual range, Alexander's three-stage third-order SDIRK in depth (Kennedy and
Carpenter 2016). Groups are rigid in y = r + s, s being how far the frame has moved: what is left
of the drift is v, which is small, and nothing flows through the outermost faces.

Blocks are 3 × 3: ``diagonal[g]`` of group g, ``lower[g]`` what g − 1 does to g, ``upper[g]`` what
g + 1 does to g. Faces f = 0 … n lie below group f. ``kappa`` and ``drift`` at the faces are whole
steps' values: the step in depth is 1.
"""

import math

import numpy as np
from numba import njit

from engine.dose.yoda.range_axis import (
    ALIVE,
    ENERGY,
    INVERSE_LOG,
    KAPPA,
    LET,
    N_FUNCTIONALS,
    REMOVAL,
    SCATTERING,
    SHIFT,
    STEP_MM,
)

GAMMA = 0.43586652150845899941601945
A21 = 0.5 * (1.0 - GAMMA)
B1 = -1.5 * GAMMA * GAMMA + 4.0 * GAMMA - 0.25
B2 = 1.5 * GAMMA * GAMMA - 5.0 * GAMMA + 1.25
STAGE_AT = (GAMMA, 0.5 * (1.0 + GAMMA), 1.0)
PENALTY = 10.0
PER_STEP = 1.0 / STEP_MM
DEAD = 1e-9  # share of the protons still moving at which a beamlet has ended
HARD_ANGLE_LOG = -2.0 * 2.5  # ln θ²: largest angle that lengthens paths, 0.082 rad
# columns of a material's coefficients and of a cell: their integral over mass along the path
C, D, STRENGTH, LOG_CONSTANT, LOG_SLOPE, REACTS, RELEASES = range(7)
N_COEFFICIENTS = 7
# columns of what comes out at every station, and for every cell
S_MM, ENERGY_MEV, LET_SUM, SURVIVING, WATER_MM, RELEASED = range(6)
N_STATION = 6
CHI, CHI_LOG = range(2)
OPTIONS = dict(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@njit(**OPTIONS)
def face_coefficients(lowest_y, width, s, c, d, advance, coefficients, kappa, drift):
    """Diffusion and drift of one step at every face, with the frame at ``s``; zero at rest."""
    last = coefficients.shape[0] - 2
    for f in range(kappa.shape[0]):
        x = (lowest_y + f * width - s) * PER_STEP
        if x <= 0.0:
            kappa[f] = 0.0
            drift[f] = 0.0
            continue
        i = min(int(x), last)
        t = x - i
        kappa[f] = c * (
            coefficients[i, KAPPA] + t * (coefficients[i + 1, KAPPA] - coefficients[i, KAPPA])
        )
        u = coefficients[i, SHIFT] + t * (coefficients[i + 1, SHIFT] - coefficients[i, SHIFT])
        h = coefficients[i, INVERSE_LOG] + t * (
            coefficients[i + 1, INVERSE_LOG] - coefficients[i, INVERSE_LOG]
        )
        drift[f] = advance - c - d * h + c * u


@njit(**OPTIONS)
def assemble(kappa, drift, width, first, lower, diagonal, upper):
    """G = M + γ A of the groups from ``first`` on."""
    n = kappa.shape[0] - 1
    w = 1.0 / width
    for g in range(first, n):
        km, kd = 0.5 * (kappa[g] + kappa[g + 1]), 0.5 * (kappa[g + 1] - kappa[g])
        vm, vd = 0.5 * (drift[g] + drift[g + 1]), 0.5 * (drift[g + 1] - drift[g])
        block = diagonal[g]
        block[0, 0] = width
        block[0, 1] = 0.0
        block[0, 2] = 0.0
        block[1, 0] = GAMMA * (2.0 * w * kd - 2.0 * vm)
        block[1, 1] = width / 3.0 + GAMMA * (2.0 * w * km - 2.0 / 3.0 * vd)
        block[1, 2] = GAMMA * 2.0 * w * kd
        block[2, 0] = GAMMA * -2.0 * vd
        block[2, 1] = GAMMA * (4.0 * w * kd - 2.0 * vm)
        block[2, 2] = 0.2 * width + GAMMA * (6.0 * w * km - 0.8 * vd)
    for f in range(first + 1, n):
        _face(
            kappa[f - 1], kappa[f], kappa[f + 1], drift[f], w, diagonal[f - 1], upper[f - 1],
            lower[f], diagonal[f],
        )  # fmt: skip


@njit(**OPTIONS)
def _face(k_left, k, k_right, v, w, left_left, left_right, right_left, right_right):
    """Add γ times the terms of one face to the blocks (test group, trial group)."""
    slope_left, slope_right = 0.25 * w * (k - k_left), 0.25 * w * (k_right - k)
    half = 0.5 * w * k  # ¼ K times the derivative's 2/h
    jump = 0.5 * PENALTY * w * k
    # ¼ (K n)' of either side, and traces, by polynomial
    ql = (slope_left, slope_left + half, slope_left + 3.0 * half)
    qr = (slope_right, -slope_right + half, slope_right - 3.0 * half)
    tl, tr = (1.0, 1.0, 1.0), (1.0, -1.0, 1.0)
    dl, dr = (0.0, 1.0, 3.0), (0.0, 1.0, -3.0)
    up_l, up_r = (v, 0.0) if v > 0.0 else (0.0, v)
    for i in range(3):
        for j in range(3):
            into_left = (jump * tl[i] - half * dl[i], -jump * tl[i] + half * dl[i])
            into_right = (-jump * tr[i] - half * dr[i], jump * tr[i] + half * dr[i])
            left_left[i, j] += GAMMA * ((into_left[0] + up_l * tl[i]) * tl[j] - tl[i] * ql[j])
            left_right[i, j] = GAMMA * ((into_left[1] + up_r * tl[i]) * tr[j] - tl[i] * qr[j])
            right_left[i, j] = GAMMA * ((into_right[0] - up_l * tr[i]) * tl[j] + tr[i] * ql[j])
            right_right[i, j] += GAMMA * ((into_right[1] - up_r * tr[i]) * tr[j] + tr[i] * qr[j])


@njit(**OPTIONS)
def solve(lower, diagonal, upper, first, x):
    """Block Thomas: ``x`` (n, 3) goes in as right-hand side; ``diagonal`` ends as inverses."""
    n = x.shape[0]
    for g in range(first, n):
        block = diagonal[g]
        if g > first:
            before, off, above = diagonal[g - 1], lower[g], upper[g - 1]
            for i in range(3):
                w0 = off[i, 0] * before[0, 0] + off[i, 1] * before[1, 0] + off[i, 2] * before[2, 0]
                w1 = off[i, 0] * before[0, 1] + off[i, 1] * before[1, 1] + off[i, 2] * before[2, 1]
                w2 = off[i, 0] * before[0, 2] + off[i, 1] * before[1, 2] + off[i, 2] * before[2, 2]
                for j in range(3):
                    block[i, j] -= w0 * above[0, j] + w1 * above[1, j] + w2 * above[2, j]
                x[g, i] -= w0 * x[g - 1, 0] + w1 * x[g - 1, 1] + w2 * x[g - 1, 2]
        _invert(block)
    for g in range(n - 1, first - 1, -1):
        b0, b1, b2 = x[g, 0], x[g, 1], x[g, 2]
        if g < n - 1:
            above = upper[g]
            y0, y1, y2 = x[g + 1, 0], x[g + 1, 1], x[g + 1, 2]
            b0 -= above[0, 0] * y0 + above[0, 1] * y1 + above[0, 2] * y2
            b1 -= above[1, 0] * y0 + above[1, 1] * y1 + above[1, 2] * y2
            b2 -= above[2, 0] * y0 + above[2, 1] * y1 + above[2, 2] * y2
        inverse = diagonal[g]
        for i in range(3):
            x[g, i] = inverse[i, 0] * b0 + inverse[i, 1] * b1 + inverse[i, 2] * b2


@njit(**OPTIONS)
def _invert(m):
    """A 3 × 3 block, in place, by cofactors."""
    a, b, c = m[0, 0], m[0, 1], m[0, 2]
    d, e, f = m[1, 0], m[1, 1], m[1, 2]
    g, h, i = m[2, 0], m[2, 1], m[2, 2]
    ca, cb, cc = e * i - f * h, f * g - d * i, d * h - e * g
    over = 1.0 / (a * ca + b * cb + c * cc)
    m[0, 0], m[0, 1], m[0, 2] = ca * over, (c * h - b * i) * over, (b * f - c * e) * over
    m[1, 0], m[1, 1], m[1, 2] = cb * over, (a * i - c * g) * over, (c * d - a * f) * over
    m[2, 0], m[2, 1], m[2, 2] = cc * over, (b * g - a * h) * over, (a * e - b * d) * over


@njit(**OPTIONS)
def step(u, lowest_y, width, s, c, d, advance, coefficients, work, stages):
    """One SDIRK step of the spectrum ``u`` (n, 3); stage values are left in ``stages`` (3, n, 3).

    ``work`` is (lower, diagonal, upper, kappa, drift, y).
    """
    lower, diagonal, upper, kappa, drift, y = work
    n = u.shape[0]
    first = groups_at_rest(lowest_y, width, s, n)
    mass = (width, width / 3.0, 0.2 * width)
    for stage in range(3):
        face_coefficients(
            lowest_y, width, s + STAGE_AT[stage] * advance, c, d, advance, coefficients, kappa,
            drift,
        )  # fmt: skip
        assemble(kappa, drift, width, first, lower, diagonal, upper)
        x = stages[stage]
        for g in range(first, n):
            for i in range(3):
                start = u[g, i]
                if stage == 1:
                    start += A21 * y[0, g, i]
                elif stage == 2:
                    start += B1 * y[0, g, i] + B2 * y[1, g, i]
                y[2, g, i] = start
                x[g, i] = mass[i] * start
        solve(lower, diagonal, upper, first, x)
        if stage < 2:
            for g in range(first, n):
                for i in range(3):
                    y[stage, g, i] = (x[g, i] - y[2, g, i]) / GAMMA
    for g in range(first, n):  # stiffly accurate: the last stage is the step
        for i in range(3):
            u[g, i] = stages[2, g, i]


@njit(**OPTIONS)
def groups_at_rest(lowest_y, width, s, n):
    """Number of groups whose protons have all stopped, which nothing moves any more."""
    return min(max(int(math.floor((s - lowest_y) / width)), 0), n - 1)


@njit(**OPTIONS)
def integrate(u, lowest_y, width, s, moments, which, out):
    """∫ f n dr of the functionals ``which`` (first, stop) into ``out``."""
    half_nodes = 0.5 * width * PER_STEP
    for k in range(which[0], which[1]):
        out[k] = 0.0
    last = moments.shape[0] - 2
    for g in range(u.shape[0]):
        # moments[0] is centered half a width below rest
        x = (lowest_y + (g + 0.5) * width - s) * PER_STEP + half_nodes
        if x <= 0.0:
            continue
        i = min(int(x), last)
        t = x - i
        for k in range(which[0], which[1]):
            low, high = moments[i, k], moments[i + 1, k]
            out[k] += (
                u[g, 0] * (low[0] + t * (high[0] - low[0]))
                + u[g, 1] * (low[1] + t * (high[1] - low[1]))
                + u[g, 2] * (low[2] + t * (high[2] - low[2]))
            )


@njit(**OPTIONS)
def march(
    u, lowest_y, width, mean_mm, s0, cells, step_mm, axis, moments, work, stages, stations, scatter,
    angle2=0.0,
):  # fmt: skip
    """Carry a spectrum through cells along its axis until it stops; returns the cells passed.

    ``u`` (n_groups, 3) is changed in place. ``mean_mm`` is the mean range at s = 0, ``s0`` where
    the frame stands. ``cells`` (n_cells, N_COEFFICIENTS) hold the coefficients' integrals over
    mass along the axis. ``stations`` (n_cells + 1, N_STATION) get s (mm of water along the winding
    path), ∫E n, ∫Λ n (per proton that no nuclear reaction took), the share of protons that none
    took, and mm of water along the axis; ``scatter`` (n_cells, 2) χ_c² and χ_c² ln χ_a² of each
    cell. ``angle2`` is the beam's own variance of angles per axis: they make paths longer, too.
    Steps are taken once ``step_mm`` of water lie behind the last: between, spectra only move.
    """
    coefficients, logs = axis
    s, surviving, theta2, straight = s0, 1.0, angle2, s0
    c_sum = d_sum = s_start = 0.0
    found = np.empty(N_FUNCTIONALS)
    integrate(u, lowest_y, width, s, moments, (ENERGY, LET + 1), found)
    stations[0, S_MM] = s
    stations[0, ENERGY_MEV] = found[ENERGY]
    stations[0, LET_SUM] = found[LET]
    stations[0, SURVIVING] = surviving
    stations[0, WATER_MM] = s0
    s_start = s
    for m in range(cells.shape[0]):
        c, d = cells[m, C], cells[m, D]
        scatter[m, CHI] = 0.0
        scatter[m, CHI_LOG] = 0.0
        if c > 0.0:
            longer = 1.0 + theta2
            c, d = c * longer, d * longer
            advance = c + d * _at(coefficients, INVERSE_LOG, mean_mm - s)
            middle = s + 0.5 * advance
            integrate(u, lowest_y, width, middle, moments, (ALIVE, REMOVAL + 1), found)
            alive = found[ALIVE]
            if alive > DEAD:
                left = mean_mm - middle
                chi = cells[m, STRENGTH] * found[SCATTERING] / alive
                log_angle = -_at(logs, 1, left)
                chi_log = found[SCATTERING] / alive * (
                    cells[m, LOG_CONSTANT] + cells[m, LOG_SLOPE] * _at(logs, 0, left)
                ) + chi * log_angle  # fmt: skip
                scatter[m, CHI] = chi
                scatter[m, CHI_LOG] = chi_log
                theta2 += max(0.5 * (chi * (HARD_ANGLE_LOG - 1.0) - chi_log), 0.0)
                surviving *= math.exp(-cells[m, REACTS] * longer * found[REMOVAL] / alive)
            s += advance
            straight += advance / longer
            c_sum += c
            d_sum += d
            if s - s_start >= step_mm:
                step(
                    u, lowest_y, width, s_start, c_sum, d_sum, s - s_start, coefficients, work,
                    stages,
                )  # fmt: skip
                s_start, c_sum, d_sum = s, 0.0, 0.0
        integrate(u, lowest_y, width, s, moments, (ENERGY, ALIVE + 1), found)
        stations[m + 1, S_MM] = s
        stations[m + 1, ENERGY_MEV] = found[ENERGY]
        stations[m + 1, LET_SUM] = found[LET]
        stations[m + 1, SURVIVING] = surviving
        stations[m + 1, WATER_MM] = straight
        if found[ALIVE] < DEAD:
            return m + 1
    return cells.shape[0]


@njit(**OPTIONS)
def _at(table, column, range_mm):
    """A table over residual range, linear between its nodes."""
    x = max(range_mm, 0.0) * PER_STEP
    i = min(int(x), table.shape[0] - 2)
    low = table[i, column]
    return low + (x - i) * (table[i + 1, column] - low)
