"""Voxel by voxel: which layers reach it, which spots of each layer's raster lines, and how much.

The same walk runs twice, once to count the chunks of every row and once to write them. Layers are
in order of falling energy, so the walk ends at the first that stops short of the voxel. A line is
a run of spots at one v and an even pitch in u; a raster line with gaps is several lines.
Depths are water-equivalent mm. Indices are cast to unsigned where they are used: numba's check for
negative ones would cost more than the look-up.
"""

import numpy as np
from numba import njit

from engine.dose.pencil_beam._simd import ROUNDING, count_lines, find_chunks, write_chunk

OPTIONS = dict(cache=True, nogil=True, error_model="numpy")
ONE, TWO, EIGHT = np.uint64(1), np.uint64(2), np.uint64(8)
CUMULATIVE, DOSE, SCATTER, HALO_WEIGHT, HALO_VARIANCE, REACH2 = (np.uint64(c) for c in range(6))
N_TABLE = 6
# columns of the effects table: α·dose and √β·dose, each summed over depth and at a depth
ALPHA_SUM, ALPHA, BETA_SUM, BETA = (np.uint64(c) for c in range(4))
THIN_MM = np.float32(0.2)  # below this water-equivalent thickness a voxel is a point
LOG2E = np.float32(1.4426950408889634)
ZERO, HALF, WHOLE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
FACTOR_MAX = np.float32(65535.0)


@njit(**OPTIONS)
def _place(table, depth, inverse_step):
    """Row of a depth table below a depth, and the fraction of a step beyond it."""
    x = min(max(depth, ZERO) * inverse_step, np.float32(table.shape[1] - 1) - ROUNDING)
    k = np.int32(x)
    return np.uint64(k), x - np.float32(k)


@njit(**OPTIONS)
def _between(table, layer, k, f, column):
    low = table[layer, k, column]
    return low + f * (table[layer, k + ONE, column] - low)


@njit(**OPTIONS)
def _mean_dose(table, layer, z_in, z_out, inverse_step):
    """Depth dose averaged over the voxel's own thickness."""
    if z_out - z_in < THIN_MM:
        k, f = _place(table, HALF * (z_in + z_out), inverse_step)
        return _between(table, layer, k, f, DOSE)
    k0, f0 = _place(table, z_in, inverse_step)
    k1, f1 = _place(table, z_out, inverse_step)
    total = _between(table, layer, k1, f1, CUMULATIVE) - _between(table, layer, k0, f0, CUMULATIVE)
    return max(total, ZERO) / (z_out - z_in)


@njit(**OPTIONS)
def _write_factors(
    factors, chunk, effects, layer, z_in, z_out, table, inverse_step, factor_inverse
):
    """α and √β of a chunk, averaged over the voxel's thickness by dose, as 16-bit factors."""
    k0, f0 = _place(table, z_in, inverse_step)
    k1, f1 = _place(table, z_out, inverse_step)
    total = _between(table, layer, k1, f1, CUMULATIVE) - _between(table, layer, k0, f0, CUMULATIVE)
    if z_out - z_in < THIN_MM or total <= ZERO:
        k0, f0 = _place(table, HALF * (z_in + z_out), inverse_step)
        total = _between(table, layer, k0, f0, DOSE)
        a = _between(effects, layer, k0, f0, ALPHA)
        b = _between(effects, layer, k0, f0, BETA)
    else:
        a = _between(effects, layer, k1, f1, ALPHA_SUM)
        a -= _between(effects, layer, k0, f0, ALPHA_SUM)
        b = _between(effects, layer, k1, f1, BETA_SUM)
        b -= _between(effects, layer, k0, f0, BETA_SUM)
    if total <= ZERO:
        a, b, total = ZERO, ZERO, WHOLE
    factors[chunk * TWO] = np.uint16(min(a / total * factor_inverse[0] + HALF, FACTOR_MAX))
    factors[chunk * TWO + ONE] = np.uint16(min(b / total * factor_inverse[1] + HALF, FACTOR_MAX))


@njit(**OPTIONS)
def _core(table, layer, k, f, t, air, air_ref, voxel_variance):
    """Core variance in mm², and the squared reach there in mm²."""
    scatter = _between(table, layer, k, f, SCATTER) + voxel_variance
    s2 = scatter + air[layer, 0] + t * (air[layer, 1] + t * air[layer, 2])
    grown = max(s2 / (scatter + air_ref[layer]), WHOLE)
    return s2, _between(table, layer, k, f, REACH2) * grown


@njit(**OPTIONS)
def _first_line(layer, v_low, v_first, v_inverse, line_at, line_at_start):
    """First line of a layer that may lie at or above ``v_low``, by the raster's own pitch."""
    first, last = line_at_start[layer], line_at_start[layer + ONE]
    bins = np.float32(last - first - ONE)
    x = np.ceil((v_low - v_first[layer]) * v_inverse - ROUNDING)
    return line_at[first + np.uint64(min(max(x, ZERO), bins))]


@njit(**OPTIONS)
def count_block(
    block, cuts, beam, u, v, t, z_in, z_out, source, table, inverse_step, air, air_ref,
    voxel_variance, z_end, box, v_first, v_inverse, line_at, line_at_start, layer_line, line_v,
    line_u, line_column, line_count, line_inverse, spot_u, counts,
):  # fmt: skip
    """Number of chunks of every row of one block for one beam, into counts[row, beam]."""
    n_layers = np.uint64(len(z_end))
    for row in range(np.uint64(cuts[block]), np.uint64(cuts[block + 1])):
        n = np.int32(0)
        if z_out[row] == z_out[row]:  # not NaN: inside the traced field
            k, f = _place(table, HALF * (z_in[row] + z_out[row]), inverse_step)
            isoplane = source / (source + t[row])
            x, y = u[row], v[row]
            for layer in range(n_layers):
                if z_in[row] > z_end[layer]:
                    break
                _, reach2 = _core(table, layer, k, f, t[row], air, air_ref, voxel_variance)
                reach2 *= isoplane * isoplane
                reach = np.sqrt(reach2)
                if (
                    x < box[layer, 0] - reach or x > box[layer, 1] + reach
                    or y < box[layer, 2] - reach or y > box[layer, 3] + reach
                ):  # fmt: skip
                    continue
                line = _first_line(layer, y - reach, v_first, v_inverse, line_at, line_at_start)
                stop = layer_line[layer + ONE]
                while line < stop and line_v[line] <= y + reach:
                    n += count_lines(
                        line_v, line_u, line_inverse, line_count, line, stop, x, y, reach, reach2
                    )
                    line += EIGHT
        counts[row, np.uint64(beam)] = n


@njit(**OPTIONS)
def fill_block(
    block, cuts, beam, u, v, t, z_in, z_out, source, table, inverse_step, air, air_ref,
    voxel_variance, z_end, box, v_first, v_inverse, line_at, line_at_start, layer_line, line_v,
    line_u, line_column, line_count, line_inverse, spot_u, n_beams, start, columns, values,
    effects, factor_inverse, factors,
):  # fmt: skip
    """Write the chunks of every row of one block for one beam.

    And their factors, where ``effects`` (n_layers, n_depths, 4) has any depths.
    """
    n_layers = np.uint64(len(z_end))
    with_effects = effects.shape[1] > 0
    n_chunks, first_spot = np.empty(8, np.int32), np.empty(8, np.int32)
    distance2 = np.empty(8, np.float32)
    for row in range(np.uint64(cuts[block]), np.uint64(cuts[block + 1])):
        place = row * n_beams + np.uint64(beam)
        chunk = start[place]
        if chunk == start[place + ONE]:
            continue
        k, f = _place(table, HALF * (z_in[row] + z_out[row]), inverse_step)
        isoplane = source / (source + t[row])
        x, y = u[row], v[row]
        for layer in range(n_layers):
            if z_in[row] > z_end[layer]:
                break
            s2, reach2 = _core(table, layer, k, f, t[row], air, air_ref, voxel_variance)
            reach2 *= isoplane * isoplane
            reach = np.sqrt(reach2)
            if (
                x < box[layer, 0] - reach or x > box[layer, 1] + reach
                or y < box[layer, 2] - reach or y > box[layer, 3] + reach
            ):  # fmt: skip
                continue
            in_air = air[layer, 0] + t[row] * (air[layer, 1] + t[row] * air[layer, 2])
            h2 = _between(table, layer, k, f, HALO_VARIANCE) + in_air + voxel_variance
            weight = _between(table, layer, k, f, HALO_WEIGHT)
            dose = _mean_dose(table, layer, z_in[row], z_out[row], inverse_step)
            k1 = -HALF * LOG2E / (isoplane * isoplane * s2)
            k2 = -HALF * LOG2E / (isoplane * isoplane * h2)
            core, halo = dose * (WHOLE - weight) / s2, dose * weight / h2
            line = _first_line(layer, y - reach, v_first, v_inverse, line_at, line_at_start)
            stop = layer_line[layer + ONE]
            first_chunk = chunk
            while line < stop and line_v[line] <= y + reach:
                find_chunks(
                    line_v, line_u, line_inverse, line_count, line, stop, x, y, reach, reach2,
                    n_chunks, first_spot, distance2,
                )  # fmt: skip
                for lane in range(min(stop - line, EIGHT)):
                    first = first_spot[lane]
                    valid = np.int32(line_count[line + lane]) - first
                    column = line_column[line + lane] + np.uint64(first)
                    for _ in range(n_chunks[lane]):
                        columns[chunk] = column
                        write_chunk(
                            values, chunk, spot_u, column, valid, x, k1, k2, core, halo,
                            distance2[lane],
                        )  # fmt: skip
                        chunk += ONE
                        column += EIGHT
                        valid -= np.int32(8)
                line += EIGHT
            if with_effects and chunk > first_chunk:
                _write_factors(
                    factors, first_chunk, effects, layer, z_in[row], z_out[row], table,
                    inverse_step, factor_inverse,
                )  # fmt: skip
                for c in range(first_chunk + ONE, chunk):
                    factors[c * TWO] = factors[first_chunk * TWO]
                    factors[c * TWO + ONE] = factors[first_chunk * TWO + ONE]


@njit(**OPTIONS)
def chunk_starts(counts, start):
    """Running sum of the counts (n_rows, n_beams) in row order; returns the total."""
    total = np.uint64(0)
    n_beams = np.uint64(counts.shape[1])
    for row in range(np.uint64(counts.shape[0])):
        for beam in range(n_beams):
            start[row * n_beams + beam] = total
            total += np.uint64(counts[row, beam])
    start[np.uint64(counts.shape[0]) * n_beams] = total
    return total
