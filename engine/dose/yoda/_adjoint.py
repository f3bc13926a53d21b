"""Backwards along rays: what a functional owes to the materials of every cell.

The discrete adjoint of what ``_fokker_planck`` and ``_solve`` do, statement by statement from last
to first: ``x_bar`` is the derivative of the functional with respect to x. Branches (which step is
due, what has stopped, which cell counts as vacuum) are held. Only spectra at the beginning of steps
are kept; stages are solved again.
"""

import math

import numpy as np
from numba import njit

from engine.dose.yoda._fokker_planck import (
    A21,
    B1,
    B2,
    CHI,
    CHI_LOG,
    DEAD,
    ENERGY_MEV,
    GAMMA,
    HARD_ANGLE_LOG,
    LET_SUM,
    LOG_CONSTANT,
    LOG_SLOPE,
    N_STATION,
    OPTIONS,
    PENALTY,
    PER_STEP,
    REACTS,
    RELEASED,
    RELEASES,
    S_MM,
    STAGE_AT,
    STRENGTH,
    SURVIVING,
    WATER_MM,
    C,
    D,
    _at,
    assemble,
    face_coefficients,
    groups_at_rest,
    integrate,
    solve,
    step,
)
from engine.dose.yoda._solve import (
    CORE_SCATTER,
    CORE_SHARE,
    DOSE,
    GAUSSIANS,
    LEAST_Q_MM2,
    SECONDARY,
    TAIL_SCATTER,
    THIN_MM,
    beyond,
    releases,
    work_arrays,
)
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
)
from engine.physics._moliere_kernels import mixture, moliere_moments, moliere_moments_adjoint

# of a cell passed: s before it, 1 + θ²/2 there, functionals in its middle; of a step: s where it
# starts, c, d and advance
AT, LONGER, LIVING, SCATTERED, REMOVED, ADVANCE, LENGTHENS = range(7)
N_PASSED = 7


@njit(**OPTIONS)
def transposed_solve(lower, inverse, upper, first, x):
    """Gᵀ x = b, ``x`` (n, 3) going in as b, from what ``solve`` left of G."""
    n = x.shape[0]
    for g in range(first, n):
        b0, b1, b2 = x[g, 0], x[g, 1], x[g, 2]
        if g > first:
            above = upper[g - 1]
            y0, y1, y2 = x[g - 1, 0], x[g - 1, 1], x[g - 1, 2]
            b0 -= above[0, 0] * y0 + above[1, 0] * y1 + above[2, 0] * y2
            b1 -= above[0, 1] * y0 + above[1, 1] * y1 + above[2, 1] * y2
            b2 -= above[0, 2] * y0 + above[1, 2] * y1 + above[2, 2] * y2
        m = inverse[g]
        for i in range(3):
            x[g, i] = m[0, i] * b0 + m[1, i] * b1 + m[2, i] * b2
    for g in range(n - 2, first - 1, -1):
        off = lower[g + 1]
        y0, y1, y2 = x[g + 1, 0], x[g + 1, 1], x[g + 1, 2]
        b0 = off[0, 0] * y0 + off[1, 0] * y1 + off[2, 0] * y2
        b1 = off[0, 1] * y0 + off[1, 1] * y1 + off[2, 1] * y2
        b2 = off[0, 2] * y0 + off[1, 2] * y1 + off[2, 2] * y2
        m = inverse[g]
        for i in range(3):
            x[g, i] -= m[0, i] * b0 + m[1, i] * b1 + m[2, i] * b2


@njit(**OPTIONS)
def assemble_adjoint(mu, y, kappa, drift, width, first, kappa_bar, drift_bar):
    """Subtract from the bars of diffusion and drift at the faces the derivatives of µᵀ G y."""
    n = mu.shape[0]
    w = 1.0 / width
    for g in range(first, n):
        y0, y1, y2 = y[g, 0], y[g, 1], y[g, 2]
        m1, m2 = mu[g, 1], mu[g, 2]
        km = GAMMA * w * (2.0 * m1 * y1 + 6.0 * m2 * y2)
        kd = GAMMA * w * (2.0 * m1 * (y0 + y2) + 4.0 * m2 * y1)
        vm = -2.0 * GAMMA * (m1 * y0 + m2 * y1)
        vd = -GAMMA * (2.0 / 3.0 * m1 * y1 + 2.0 * m2 * y0 + 0.8 * m2 * y2)
        kappa_bar[g] -= 0.5 * (km - kd)
        kappa_bar[g + 1] -= 0.5 * (km + kd)
        drift_bar[g] -= 0.5 * (vm - vd)
        drift_bar[g + 1] -= 0.5 * (vm + vd)
    for f in range(first + 1, n):
        left, right = y[f - 1, 0] + y[f - 1, 1] + y[f - 1, 2], y[f, 0] - y[f, 1] + y[f, 2]
        slopes = y[f - 1, 1] + 3.0 * y[f - 1, 2] + y[f, 1] - 3.0 * y[f, 2]
        jump = mu[f - 1, 0] + mu[f - 1, 1] + mu[f - 1, 2] - mu[f, 0] + mu[f, 1] - mu[f, 2]
        mu_slopes = mu[f - 1, 1] + 3.0 * mu[f - 1, 2] + mu[f, 1] - 3.0 * mu[f, 2]
        across = left - right
        kappa_bar[f] -= GAMMA * w * (
            0.5 * across * (PENALTY * jump - mu_slopes) - jump * (0.25 * across + 0.5 * slopes)
        )  # fmt: skip
        kappa_bar[f - 1] -= 0.25 * GAMMA * w * jump * left
        kappa_bar[f + 1] += 0.25 * GAMMA * w * jump * right
        drift_bar[f] -= GAMMA * jump * (left if drift[f] > 0.0 else right)


@njit(**OPTIONS)
def face_adjoint(
    lowest_y, width, s, c, d, coefficients, first, kappa_bar, drift_bar
):  # fmt: skip
    """Bars of (s, c, d, advance) from those at the faces."""
    last = coefficients.shape[0] - 2
    s_bar = c_bar = d_bar = advance_bar = 0.0
    for f in range(first, kappa_bar.shape[0]):
        x = (lowest_y + f * width - s) * PER_STEP
        if x <= 0.0:
            continue
        i = min(int(x), last)
        t = x - i
        low, high = coefficients[i], coefficients[i + 1]
        dk, du = high[KAPPA] - low[KAPPA], high[SHIFT] - low[SHIFT]
        dh = high[INVERSE_LOG] - low[INVERSE_LOG]
        kb, vb = kappa_bar[f], drift_bar[f]
        c_bar += kb * (low[KAPPA] + t * dk) + vb * (low[SHIFT] + t * du - 1.0)
        d_bar -= vb * (low[INVERSE_LOG] + t * dh)
        advance_bar += vb
        s_bar -= PER_STEP * (kb * c * dk + vb * (c * du - d * dh))
    return s_bar, c_bar, d_bar, advance_bar


@njit(**OPTIONS)
def backward_arrays(n):
    """Memory of ``step_adjoint`` over ``n`` groups: three stages' blocks, faces and values."""
    return (
        np.zeros((3, n, 3, 3)), np.zeros((3, n, 3, 3)), np.zeros((3, n, 3, 3)),
        np.zeros((3, n + 1)), np.zeros((3, n + 1)), np.zeros((3, n, 3)), np.zeros((3, n, 3)),
        np.zeros((n, 3)), np.zeros(n + 1), np.zeros(n + 1),
    )  # fmt: skip


@njit(**OPTIONS)
def _stages_again(u, lowest_y, width, s, c, d, advance, coefficients, first, memory):
    """Solve the stages of a step, and keep values and factors of each."""
    lower, diagonal, upper, kappa, drift, values, slopes, _, _, _ = memory
    mass = (width, width / 3.0, 0.2 * width)
    for stage in range(3):
        face_coefficients(
            lowest_y, width, s + STAGE_AT[stage] * advance, c, d, advance, coefficients,
            kappa[stage], drift[stage],
        )  # fmt: skip
        assemble(
            kappa[stage], drift[stage], width, first, lower[stage], diagonal[stage], upper[stage]
        )
        x, start = values[stage], slopes[2]
        for g in range(first, u.shape[0]):
            for i in range(3):
                start[g, i] = u[g, i]
                if stage == 1:
                    start[g, i] += A21 * slopes[0, g, i]
                elif stage == 2:
                    start[g, i] += B1 * slopes[0, g, i] + B2 * slopes[1, g, i]
                x[g, i] = mass[i] * start[g, i]
        solve(lower[stage], diagonal[stage], upper[stage], first, x)
        if stage < 2:
            for g in range(first, u.shape[0]):
                for i in range(3):
                    slopes[stage, g, i] = (x[g, i] - start[g, i]) / GAMMA


@njit(**OPTIONS)
def step_adjoint(u, u_bar, lowest_y, width, s, c, d, advance, coefficients, memory):
    """Backwards through ``step`` from the spectrum ``u``: ``u_bar`` (n, 3) in place.

    Returns the bars of s, c, d and advance.
    """
    n = u.shape[0]
    first = groups_at_rest(lowest_y, width, s, n)
    _stages_again(u, lowest_y, width, s, c, d, advance, coefficients, first, memory)
    lower, inverse, upper, kappa, drift, values, k_bar, mu, kappa_bar, drift_bar = memory
    mass = (width, width / 3.0, 0.2 * width)
    s_bar = c_bar = d_bar = advance_bar = 0.0
    for g in range(first, n):
        for i in range(3):
            mu[g, i] = u_bar[g, i]  # the last stage is the step
            u_bar[g, i] = 0.0
            k_bar[0, g, i] = 0.0
            k_bar[1, g, i] = 0.0
            k_bar[2, g, i] = 0.0
    for stage in range(2, -1, -1):
        if stage < 2:
            for g in range(first, n):
                for i in range(3):
                    mu[g, i] = k_bar[stage, g, i] / GAMMA
        transposed_solve(lower[stage], inverse[stage], upper[stage], first, mu)
        for g in range(first, n):
            for i in range(3):
                start_bar = mass[i] * mu[g, i]
                if stage < 2:
                    start_bar -= k_bar[stage, g, i] / GAMMA
                u_bar[g, i] += start_bar
                if stage == 2:
                    k_bar[0, g, i] += B1 * start_bar
                    k_bar[1, g, i] += B2 * start_bar
                elif stage == 1:
                    k_bar[0, g, i] += A21 * start_bar
        kappa_bar[:] = 0.0
        drift_bar[:] = 0.0
        assemble_adjoint(
            mu, values[stage], kappa[stage], drift[stage], width, first, kappa_bar, drift_bar
        )
        found = face_adjoint(
            lowest_y, width, s + STAGE_AT[stage] * advance, c, d, coefficients, first, kappa_bar,
            drift_bar,
        )  # fmt: skip
        s_bar += found[0]
        c_bar += found[1]
        d_bar += found[2]
        advance_bar += found[3] + STAGE_AT[stage] * found[0]
    return s_bar, c_bar, d_bar, advance_bar


@njit(**OPTIONS)
def integrate_adjoint(u, lowest_y, width, s, moments, which, bars, u_bar):
    """Backwards through ``integrate``: add to ``u_bar``, return the bar of s."""
    half_nodes = 0.5 * width * PER_STEP
    last = moments.shape[0] - 2
    s_bar = 0.0
    for g in range(u.shape[0]):
        x = (lowest_y + (g + 0.5) * width - s) * PER_STEP + half_nodes
        if x <= 0.0:
            continue
        i = min(int(x), last)
        t = x - i
        for k in range(which[0], which[1]):
            bar = bars[k]
            if bar == 0.0:
                continue
            low, high = moments[i, k], moments[i + 1, k]
            for j in range(3):
                rise = high[j] - low[j]
                u_bar[g, j] += bar * (low[j] + t * rise)
                s_bar -= bar * PER_STEP * u[g, j] * rise
    return s_bar


@njit(**OPTIONS)
def tape_arrays(n_cells, n):
    """What is kept of a march: spectra before steps, steps, cells, the step after each cell."""
    return (
        np.zeros((n_cells + 1, n, 3)), np.zeros((n_cells + 1, 4)), np.zeros((n_cells, N_PASSED)),
        np.zeros(n_cells, np.int64), np.zeros(n_cells, np.bool_),
    )  # fmt: skip


@njit(**OPTIONS)
def recorded_march(
    u, lowest_y, width, mean_mm, s0, cells, step_mm, axis, moments, work, stages, stations,
    scatter, tape, angle2=0.0,
):  # fmt: skip
    """``march``, which see, on tape."""
    spectra, steps, passed, interval, stepped = tape
    coefficients, logs = axis
    s, surviving, theta2, straight, s_start = s0, 1.0, angle2, s0, s0
    c_sum = d_sum = 0.0
    k = 0
    spectra[0] = u
    found = np.empty(N_FUNCTIONALS)
    integrate(u, lowest_y, width, s, moments, (ENERGY, LET + 1), found)
    _station(stations[0], s, found, surviving, straight)
    for m in range(cells.shape[0]):
        longer = 1.0 + theta2
        c, d = cells[m, C] * longer, cells[m, D] * longer
        advance = 0.0
        if c > 0.0:
            advance = c + d * _at(coefficients, INVERSE_LOG, mean_mm - s)
        middle = s + 0.5 * advance
        integrate(u, lowest_y, width, middle, moments, (ALIVE, REMOVAL + 1), found)
        alive = found[ALIVE]
        of = passed[m]
        of[AT], of[LONGER], of[ADVANCE] = s, longer, advance
        of[LIVING], of[SCATTERED], of[REMOVED] = alive, found[SCATTERING], found[REMOVAL]
        of[LENGTHENS] = 1.0
        scatter[m, CHI] = 0.0
        scatter[m, CHI_LOG] = 0.0
        interval[m] = k
        stepped[m] = False
        if c > 0.0:
            if alive > DEAD:
                left = mean_mm - middle
                chi = cells[m, STRENGTH] * found[SCATTERING] / alive
                chi_log = found[SCATTERING] / alive * (
                    cells[m, LOG_CONSTANT] + cells[m, LOG_SLOPE] * _at(logs, 0, left)
                ) - chi * _at(logs, 1, left)  # fmt: skip
                scatter[m, CHI] = chi
                scatter[m, CHI_LOG] = chi_log
                more = 0.5 * (chi * (HARD_ANGLE_LOG - 1.0) - chi_log)
                of[LENGTHENS] = 1.0 if more > 0.0 else 0.0
                theta2 += max(more, 0.0)
                surviving *= math.exp(-cells[m, REACTS] * longer * found[REMOVAL] / alive)
            s += advance
            straight += advance / longer
            c_sum += c
            d_sum += d
            if s - s_start >= step_mm:
                now = steps[k]
                now[0], now[1], now[2], now[3] = s_start, c_sum, d_sum, s - s_start
                stepped[m] = True
                step(
                    u, lowest_y, width, s_start, c_sum, d_sum, s - s_start, coefficients, work,
                    stages,
                )  # fmt: skip
                s_start, c_sum, d_sum = s, 0.0, 0.0
                k += 1
                spectra[k] = u
        integrate(u, lowest_y, width, s, moments, (ENERGY, ALIVE + 1), found)
        _station(stations[m + 1], s, found, surviving, straight)
        if found[ALIVE] < DEAD:
            return m + 1
    return cells.shape[0]


@njit(**OPTIONS)
def _station(out, s, found, surviving, straight):
    out[S_MM] = s
    out[ENERGY_MEV] = found[ENERGY]
    out[LET_SUM] = found[LET]
    out[SURVIVING] = surviving
    out[WATER_MM] = straight


@njit(**OPTIONS)
def march_adjoint(
    n_passed, lowest_y, width, mean_mm, cells, axis, moments, stations, tape, memory, station_bar,
    scatter_bar, u_bar, end_bar, cells_bar,
):  # fmt: skip
    """Backwards through ``march``, from the bars of its stations and scattering.

    ``u_bar`` (n, 3) goes in as the bar of the spectrum at the end and comes out as that of the
    first; ``end_bar`` likewise of s, mm of water along the axis and share of protons left.
    ``cells_bar`` (n_cells, N_COEFFICIENTS) is added to. Vacuum has the derivatives of matter that
    is almost none.
    """
    spectra, steps, passed, interval, stepped = tape
    coefficients, logs = axis
    s_bar, straight_bar, surviving_bar = end_bar[0], end_bar[1], end_bar[2]
    theta2_bar = start_bar = c_sum_bar = d_sum_bar = 0.0
    bars = np.zeros(N_FUNCTIONALS)
    for m in range(n_passed - 1, -1, -1):
        k = interval[m]
        after = k + 1 if stepped[m] else k
        bars[ENERGY] = station_bar[m + 1, ENERGY_MEV]
        s_bar += integrate_adjoint(
            spectra[after], lowest_y, width, stations[m + 1, S_MM], moments, (ENERGY, ENERGY + 1),
            bars, u_bar,
        )  # fmt: skip
        surviving_bar += station_bar[m + 1, SURVIVING]
        straight_bar += station_bar[m + 1, WATER_MM]
        if stepped[m]:
            now = steps[k]
            found = step_adjoint(
                spectra[k], u_bar, lowest_y, width, now[0], now[1], now[2], now[3], coefficients,
                memory,
            )  # fmt: skip
            s_bar += start_bar + found[3]
            start_bar = found[0] - found[3]
            c_sum_bar, d_sum_bar = found[1], found[2]
        of, cell, bar = passed[m], cells[m], cells_bar[m]
        s, longer, advance, alive = of[AT], of[LONGER], of[ADVANCE], of[LIVING]
        c_bar, d_bar = c_sum_bar, d_sum_bar
        advance_bar = straight_bar / longer + s_bar
        longer_bar = -straight_bar * advance / (longer * longer)
        middle = s + 0.5 * advance
        if alive > DEAD:
            bars[ALIVE] = 0.0
            rate = of[REMOVED] / alive
            exponent_bar = surviving_bar * stations[m + 1, SURVIVING]
            surviving_bar *= math.exp(-cell[REACTS] * longer * rate)
            bar[REACTS] -= exponent_bar * longer * rate
            longer_bar -= exponent_bar * cell[REACTS] * rate
            bars[REMOVAL] = -exponent_bar * cell[REACTS] * longer / alive
            bars[ALIVE] -= bars[REMOVAL] * rate
            chi_bar, chi_log_bar = scatter_bar[m, CHI], scatter_bar[m, CHI_LOG]
            more_bar = 0.5 * theta2_bar * of[LENGTHENS]
            chi_bar += (HARD_ANGLE_LOG - 1.0) * more_bar
            chi_log_bar -= more_bar
            left, ratio = mean_mm - middle, of[SCATTERED] / alive
            speed, momentum = _at(logs, 0, left), _at(logs, 1, left)
            chi_bar -= chi_log_bar * momentum
            chi = cell[STRENGTH] * ratio
            left_bar = chi_log_bar * (
                ratio * cell[LOG_SLOPE] * _slope(logs, 0, left) - chi * _slope(logs, 1, left)
            )
            bar[LOG_CONSTANT] += chi_log_bar * ratio
            bar[LOG_SLOPE] += chi_log_bar * ratio * speed
            bar[STRENGTH] += chi_bar * ratio
            ratio_bar = chi_bar * cell[STRENGTH] + chi_log_bar * (
                cell[LOG_CONSTANT] + cell[LOG_SLOPE] * speed
            )
            bars[SCATTERING] = ratio_bar / alive
            bars[ALIVE] -= ratio_bar * ratio / alive
            middle_bar = integrate_adjoint(
                spectra[k], lowest_y, width, middle, moments, (ALIVE, REMOVAL + 1), bars, u_bar
            ) - left_bar  # fmt: skip
            s_bar += middle_bar
            advance_bar += 0.5 * middle_bar
        h = _at(coefficients, INVERSE_LOG, mean_mm - s)
        c_bar += advance_bar
        d_bar += advance_bar * h
        s_bar -= (
            advance_bar * cell[D] * longer * _slope(coefficients, INVERSE_LOG, mean_mm - s)
        )
        bar[C] += c_bar * longer
        bar[D] += d_bar * longer
        theta2_bar += longer_bar + c_bar * cell[C] + d_bar * cell[D]
    bars[ENERGY] = station_bar[0, ENERGY_MEV]
    s_bar += integrate_adjoint(
        spectra[0], lowest_y, width, stations[0, S_MM], moments, (ENERGY, ENERGY + 1), bars, u_bar
    )
    end_bar[0] = s_bar + start_bar
    end_bar[1] = straight_bar + station_bar[0, WATER_MM]
    end_bar[2] = surviving_bar


@njit(**OPTIONS)
def _slope(table, column, range_mm):
    """Derivative of ``_at``, per mm."""
    if range_mm <= 0.0:
        return 0.0
    i = min(int(range_mm * PER_STEP), table.shape[0] - 2)
    return PER_STEP * (table[i + 1, column] - table[i, column])


@njit(**OPTIONS)
def deposits_adjoint(
    stations, surviving, released, released_per_mm, bars, station_bar, released_bar
):  # fmt: skip
    """Backwards through ``deposits``; returns the bar of ``surviving``.

    ``bars`` (n_cells, columns) of the solution are overwritten; only DOSE and what secondaries
    leave beside the axis count.
    """
    n_cells, n_columns = bars.shape[0], released.shape[1]
    known = -1
    for m in range(n_cells):  # vacuum takes another cell's
        if stations[m + 1, WATER_MM] - stations[m, WATER_MM] <= THIN_MM:
            if known >= 0:
                _hand_over(bars[m], bars[known])
            continue
        if known < 0:
            for k in range(m):
                _hand_over(bars[k], bars[m])
        known = m
    start_bar = 0.0
    for m in range(n_cells):
        near, far = stations[m, WATER_MM], stations[m + 1, WATER_MM]
        if far - near <= THIN_MM:
            continue
        per_mm = 1.0 / (far - near)
        dose_bar = bars[m, DOSE]
        half = 0.5 * surviving * per_mm
        lost = stations[m, ENERGY_MEV] - stations[m + 1, ENERGY_MEV]
        share = half * (stations[m, SURVIVING] + stations[m + 1, SURVIVING])
        station_bar[m, SURVIVING] += dose_bar * half * lost
        station_bar[m + 1, SURVIVING] += dose_bar * half * lost
        station_bar[m, ENERGY_MEV] += dose_bar * share
        station_bar[m + 1, ENERGY_MEV] -= dose_bar * share
        start_bar += dose_bar * share * lost / surviving
        per_mm_bar = dose_bar * share * lost / per_mm
        near_bar = far_bar = 0.0
        times = stations[m + 1, RELEASED]
        for j in range(max(n_columns - 2, 0)):
            bar = dose_bar if j == 0 else bars[m, SECONDARY + j]
            of = bar * per_mm * times
            upper, upper_slope = _node(released, j, far * released_per_mm, of, released_bar)
            lower, lower_slope = _node(released, j, near * released_per_mm, -of, released_bar)
            per_mm_bar += bar * times * (upper - lower)
            station_bar[m + 1, RELEASED] += bar * per_mm * (upper - lower)
            far_bar += of * upper_slope * released_per_mm
            near_bar -= of * lower_slope * released_per_mm
        station_bar[m, WATER_MM] += near_bar + per_mm_bar * per_mm * per_mm
        station_bar[m + 1, WATER_MM] += far_bar - per_mm_bar * per_mm * per_mm
    return start_bar


@njit(**OPTIONS)
def releases_adjoint(stations, station_bar, cells_bar):
    """Backwards through ``releases``."""
    total_bar = 0.0
    for m in range(cells_bar.shape[0] - 1, -1, -1):
        water_mm, bar = stations[m + 1, WATER_MM], station_bar[m + 1, RELEASED]
        if water_mm > THIN_MM:
            total_bar += bar / water_mm
            station_bar[m + 1, WATER_MM] -= bar * stations[m + 1, RELEASED] / water_mm
        cells_bar[m, RELEASES] += total_bar
    station_bar[0, WATER_MM] += total_bar


@njit(**OPTIONS)
def _node(table, column, x, bar, table_bar):
    """Value and slope per node of a table, held beyond its last; its bar is added."""
    last = table.shape[0] - 1.0
    held = x > last
    x = min(x, last)
    i = min(int(x), table.shape[0] - 2)
    t = x - i
    rise = table[i + 1, column] - table[i, column]
    table_bar[i, column] += (1.0 - t) * bar
    table_bar[i + 1, column] += t * bar
    return table[i, column] + t * rise, 0.0 if held else rise


@njit(**OPTIONS)
def _hand_over(bars, to):
    """Of a cell that has another's dose; its widths are its own."""
    to[DOSE] += bars[DOSE]
    for j in range(SECONDARY, bars.shape[0]):
        to[j] += bars[j]


@njit(**OPTIONS)
def widths_adjoint(
    q, p, scatter, hard, n_passed, table, gaussians, bars, q_bar, p_bar, chi_bar
):  # fmt: skip
    """Backwards through ``widths``; ``bars`` of the widths behind the last cell move to it.

    ``chi_bar`` (n_cells,) gets what comes through those removed by hard scattering.
    """
    chi_bar[:] = 0.0
    removed, far, first = 0.0, 0, 0
    for m in range(bars.shape[0] - 1, n_passed - 1, -1):
        if m > 0:
            for j in range(CORE_SHARE, TAIL_SCATTER + 1):
                bars[m - 1, j] += bars[m, j]
    for m in range(n_passed):
        middle_q, middle_p = 0.5 * (q[m] + q[m + 1]), 0.5 * (p[m] + p[m + 1])
        if middle_q <= LEAST_Q_MM2:
            first = far = m
            continue
        mixture(middle_p / middle_q + math.log(middle_q), table, gaussians)
        of = bars[m]
        core_bar, tail_bar = of[CORE_SCATTER], of[TAIL_SCATTER]
        while far < first + (m - first) // 2:
            removed += hard * scatter[far, CHI]
            far += 1
        share_bar = of[CORE_SHARE] / (1.0 - removed)
        if gaussians[0, 0] >= 1.0 - removed:
            share_bar = 0.0
        if far > 0:
            chi_bar[far - 1] += hard * share_bar * gaussians[0, 0] / (1.0 - removed)
        shape_bar = share_bar * gaussians[2, 0] + middle_q * (
            core_bar * gaussians[3, 0] + tail_bar * gaussians[3, 1]
        )
        from_q = core_bar * gaussians[1, 0] + tail_bar * gaussians[1, 1]
        from_q += shape_bar * (1.0 - middle_p / middle_q) / middle_q
        for edge in (m, m + 1):
            q_bar[edge] += 0.5 * from_q
            p_bar[edge] += 0.5 * shape_bar / middle_q
    for m in range(n_passed - 2, -1, -1):  # all cells up to the one counted last
        chi_bar[m] += chi_bar[m + 1]


@njit(**OPTIONS)
def unroll_block(
    block, cuts, rows, ray, cells, solved_bar, water_bar, water_share, spectrum, edges, start,
    step_mm, axis, moments, levers, table, released, released_per_mm, cells_bar, spectrum_bar,
    start_bar, released_bar,
):  # fmt: skip
    """Backwards through ``solve_block``.

    A row is a beamlet: ``rows`` (n,) in an order that leaves those with the same ``ray`` (n,), an
    index into ``cells``, side by side. ``solved_bar`` (n, n_cells, columns) are the beamlets',
    ``water_bar`` (n_cells + 1,) is that of the mean water passed, of which a beamlet has
    ``water_share`` (n,). ``cells_bar`` (n, n_cells, N_COEFFICIENTS) are the beamlets' own;
    ``spectrum_bar`` (n_blocks, n_groups, 3), ``start_bar`` (n_blocks, 3) of s, water and protons
    left, and ``released_bar`` (n_blocks, nodes, columns) are sums over them.
    """
    n_cells, n_groups = cells.shape[1], spectrum.shape[0]
    work, memory = work_arrays(n_groups), backward_arrays(n_groups)
    tape = tape_arrays(n_cells, n_groups)
    stages = np.zeros((3, n_groups, 3))
    stations, scatter = np.zeros((n_cells + 1, N_STATION)), np.zeros((n_cells, 2))
    station_bar, scatter_bar = np.zeros((n_cells + 1, N_STATION)), np.zeros((n_cells, 2))
    q, p = np.zeros(n_cells + 1), np.zeros(n_cells + 1)
    q_bar, p_bar = np.zeros(n_cells + 1), np.zeros(n_cells + 1)
    chi, chi_log, hard_bar = np.zeros(n_cells), np.zeros(n_cells), np.zeros(n_cells)
    bars = np.zeros((n_cells, solved_bar.shape[2]))
    gaussians = np.empty((4, GAUSSIANS))
    u_bar, end_bar = np.zeros((n_groups, 3)), np.zeros(3)
    at_rest = axis[0][0, INVERSE_LOG]
    passed, last = 0, -1
    for i in range(cuts[block], cuts[block + 1]):
        row = rows[i]
        of = cells[ray[row]]
        if ray[row] != last:
            last = ray[row]
            passed = recorded_march(
                spectrum.copy(), edges[0], edges[1], edges[2], start[0], of, step_mm, axis,
                moments, work, stages, stations, scatter, tape, start[3],
            )  # fmt: skip
            beyond(stations, passed, of, axis[0])
            releases(stations, of)
            for m in range(passed):
                chi[m], chi_log[m] = scatter[m, CHI], scatter[m, CHI_LOG]
            moliere_moments(
                chi[:passed], chi_log[:passed], levers[0][:passed], levers[1][:passed],
                q[: passed + 1], p[: passed + 1],
            )  # fmt: skip
        for m in range(n_cells):
            for j in range(bars.shape[1]):
                bars[m, j] = solved_bar[row, m, j]
        station_bar[:] = 0.0
        station_bar[:, WATER_MM] = water_share[row] * water_bar
        q_bar[:] = 0.0
        p_bar[:] = 0.0
        scatter_bar[:] = 0.0
        widths_adjoint(
            q, p, scatter, start[2], passed, table, gaussians, bars, q_bar, p_bar, hard_bar
        )  # fmt: skip
        chi[:] = 0.0
        chi_log[:] = 0.0
        moliere_moments_adjoint(
            q_bar[: passed + 1], p_bar[: passed + 1], levers[0][:passed], levers[1][:passed],
            chi[:passed], chi_log[:passed],
        )  # fmt: skip
        for m in range(passed):
            scatter_bar[m, CHI], scatter_bar[m, CHI_LOG] = chi[m] + hard_bar[m], chi_log[m]
        left_bar = deposits_adjoint(
            stations, start[1], released, released_per_mm, bars, station_bar, released_bar[block]
        )  # fmt: skip
        releases_adjoint(stations, station_bar, cells_bar[row])
        for m in range(n_cells - 1, passed - 1, -1):  # behind the last proton
            cells_bar[row, m, C] += station_bar[m + 1, WATER_MM]
            cells_bar[row, m, D] += station_bar[m + 1, WATER_MM] * at_rest
            station_bar[m, WATER_MM] += station_bar[m + 1, WATER_MM]
        u_bar[:] = 0.0
        end_bar[:] = 0.0
        march_adjoint(
            passed, edges[0], edges[1], edges[2], of, axis, moments, stations, tape, memory,
            station_bar, scatter_bar, u_bar, end_bar, cells_bar[row],
        )  # fmt: skip
        spectrum_bar[block] += u_bar
        start_bar[block, 0] += end_bar[0]
        start_bar[block, 1] += end_bar[1]
        start_bar[block, 2] += left_bar

