"""Products with an influence matrix stored as voxel-major rows of eight-spot chunks.

Row r, beam b owns the chunks ``start[r·B + b] … start[r·B + b + 1] − 1``; a chunk covers the
eight places ``base[b] + column … + 7``, with ``base`` (n_beams + 1,). Row blocks are cut
beforehand, so sums across blocks have a fixed order.

Chunk c may have two 16-bit factors, ``factors[2c]`` (α) and ``factors[2c + 1]`` (√β), relative to
``factor_scale`` (2,): the dose of its spots times them are the linear parts of the biological
effect ε = A + B², A = Σ α·dose and B = Σ √β·dose.
"""

import numpy as np
from numba import njit

from engine.dose._simd import chunks_add, chunks_add_effects, chunks_dot, chunks_dot_effects

OPTIONS = dict(cache=True, nogil=True, error_model="numpy")
ONE = np.uint64(1)
TWO = np.uint64(2)
LANES = np.uint64(8)


@njit(**OPTIONS)
def dose_block(block, cuts, start, columns, values, base, first_beam, last_beam, weights, dose):
    """Dose of the rows of one block from the scaled weights at their places."""
    n_beams = np.uint64(len(base) - 1)
    for row in range(cuts[block], cuts[block + 1]):
        total = np.float32(0.0)
        for beam in range(first_beam, last_beam):
            k = row * n_beams + beam
            total += chunks_dot(values, columns, start[k], start[k + ONE], weights, base[beam])
        dose[row] = total


@njit(**OPTIONS)
def adjoint_block(
    block, cuts, start, columns, values, base, first_beam, last_beam, row_gradient, partial
):
    """Σ rows of the block: gradient over places, in ``partial[block]``."""
    n_beams = np.uint64(len(base) - 1)
    mine = partial[block]
    mine[:] = np.float32(0.0)
    for row in range(cuts[block], cuts[block + 1]):
        g = row_gradient[row]
        if g == np.float32(0.0):
            continue
        for beam in range(first_beam, last_beam):
            k = row * n_beams + beam
            chunks_add(values, columns, start[k], start[k + ONE], g, mine, base[beam])


@njit(**OPTIONS)
def penalty_block(
    block, cuts, start, columns, values, base, weights,
    first_row, term_start, level, term_weight, side, value, partial,
):  # fmt: skip
    """Value and gradient of the row penalties of one block, reading the matrix once.

    ``term_start`` counts rows from ``first_row[block]`` on.
    """
    n_beams = np.uint64(len(base) - 1)
    mine = partial[block]
    mine[:] = np.float32(0.0)
    total = 0.0
    for row in range(cuts[block], cuts[block + 1]):
        term_row = row - first_row[block]
        first, last = term_start[term_row], term_start[term_row + ONE]
        if first == last:
            continue
        dose = np.float32(0.0)
        for beam in range(n_beams):
            k = row * n_beams + beam
            dose += chunks_dot(values, columns, start[k], start[k + ONE], weights, base[beam])
        g = np.float32(0.0)
        for t in range(first, last):
            excess = side[t] * (dose - level[t])
            if excess > np.float32(0.0):
                total += np.float64(term_weight[t]) * np.float64(excess) * np.float64(excess)
                g += np.float32(2.0) * term_weight[t] * excess * side[t]
        if g != np.float32(0.0):
            for beam in range(n_beams):
                k = row * n_beams + beam
                chunks_add(values, columns, start[k], start[k + ONE], g, mine, base[beam])
    value[block] = total


@njit(**OPTIONS)
def penalties_block(
    block, cuts, start, columns, values, base, weights,
    term_start, level, term_weight, side, value, partial,
):  # fmt: skip
    """As ``penalty_block``, for several weights (n_sets, n_places): a row is read once for all."""
    n_beams = np.uint64(len(base) - 1)
    partial[block] = np.float32(0.0)
    value[block] = 0.0
    for row in range(cuts[block], cuts[block + 1]):
        first, last = term_start[row], term_start[row + ONE]
        if first == last:
            continue
        for s in range(np.uint64(len(weights))):
            mine, dose = weights[s], np.float32(0.0)
            for beam in range(n_beams):
                k = row * n_beams + beam
                dose += chunks_dot(values, columns, start[k], start[k + ONE], mine, base[beam])
            g, total = np.float32(0.0), 0.0
            for t in range(first, last):
                excess = side[t] * (dose - level[t])
                if excess > np.float32(0.0):
                    total += np.float64(term_weight[t]) * np.float64(excess) * np.float64(excess)
                    g += np.float32(2.0) * term_weight[t] * excess * side[t]
            value[block, s] += total
            if g != np.float32(0.0):
                goal = partial[block, s]
                for beam in range(n_beams):
                    k = row * n_beams + beam
                    chunks_add(values, columns, start[k], start[k + ONE], g, goal, base[beam])


@njit(**OPTIONS)
def products_block(
    block, cuts, start, columns, values, factors, factor_scale, base, first_beam, last_beam,
    weights, products,
):  # fmt: skip
    """Dose, α·dose and √β·dose of the rows of one block, into products (3, n_rows)."""
    n_beams = np.uint64(len(base) - 1)
    for row in range(cuts[block], cuts[block + 1]):
        dose, a, b = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for beam in range(first_beam, last_beam):
            k = row * n_beams + beam
            d1, a1, b1 = chunks_dot_effects(
                values, columns, factors, start[k], start[k + ONE], weights, base[beam]
            )
            dose += d1
            a += a1
            b += b1
        products[0, row] = dose
        products[1, row] = a * factor_scale[0]
        products[2, row] = b * factor_scale[1]


@njit(**OPTIONS)
def products_adjoint_block(
    block, cuts, start, columns, values, factors, factor_scale, base, first_beam, last_beam,
    row_gradient, partial,
):  # fmt: skip
    """Σ rows of the block: gradients (3, n_rows) by the products, in ``partial[block]``."""
    n_beams = np.uint64(len(base) - 1)
    mine = partial[block]
    mine[:] = np.float32(0.0)
    for row in range(cuts[block], cuts[block + 1]):
        g, ga, gb = (
            row_gradient[0, row], row_gradient[1, row] * factor_scale[0],
            row_gradient[2, row] * factor_scale[1],
        )  # fmt: skip
        if g == np.float32(0.0) and ga == np.float32(0.0) and gb == np.float32(0.0):
            continue
        for beam in range(first_beam, last_beam):
            k = row * n_beams + beam
            chunks_add_effects(
                values, columns, factors, start[k], start[k + ONE], g, ga, gb, mine, base[beam]
            )


@njit(**OPTIONS)
def effect_penalty_block(
    block, cuts, start, columns, values, factors, factor_scale, base, weights, photons,
    first_row, term_start, level, term_weight, side, value, partial,
):  # fmt: skip
    """As ``penalty_block``, of the photon dose of equal effect; levels are of that dose.

    ``photons`` is (α, β, threshold dose, effect at it, slope beyond it).
    """
    n_beams = np.uint64(len(base) - 1)
    mine = partial[block]
    mine[:] = np.float32(0.0)
    total = 0.0
    for row in range(cuts[block], cuts[block + 1]):
        term_row = row - first_row[block]
        first, last = term_start[term_row], term_start[term_row + ONE]
        if first == last:
            continue
        a, b = np.float32(0.0), np.float32(0.0)
        for beam in range(n_beams):
            k = row * n_beams + beam
            _, a1, b1 = chunks_dot_effects(
                values, columns, factors, start[k], start[k + ONE], weights, base[beam]
            )
            a += a1
            b += b1
        a *= factor_scale[0]
        b *= factor_scale[1]
        effect = max(a + b * b, np.float32(0.0))
        if effect <= photons[3]:
            root = np.sqrt(photons[0] * photons[0] + np.float32(4.0) * photons[1] * effect)
            dose, slope = np.float32(2.0) * effect / (photons[0] + root), np.float32(1.0) / root
        else:
            dose = photons[2] + (effect - photons[3]) / photons[4]
            slope = np.float32(1.0) / photons[4]
        g = np.float32(0.0)
        for t in range(first, last):
            excess = side[t] * (dose - level[t])
            if excess > np.float32(0.0):
                total += np.float64(term_weight[t]) * np.float64(excess) * np.float64(excess)
                g += np.float32(2.0) * term_weight[t] * excess * side[t]
        if g != np.float32(0.0):
            ga = g * slope * factor_scale[0]
            gb = g * slope * np.float32(2.0) * b * factor_scale[1]
            for beam in range(n_beams):
                k = row * n_beams + beam
                chunks_add_effects(
                    values, columns, factors, start[k], start[k + ONE], np.float32(0.0), ga, gb,
                    mine, base[beam],
                )  # fmt: skip
    value[block] = total


@njit(**OPTIONS)
def copy_row_factors_block(
    block, cuts, rows, n_beams, start, factors, new_n_beams, first_beam, new_start, new_factors
):
    """The factors that go with the chunks that ``copy_rows_block`` copies."""
    for i in range(cuts[block], cuts[block + 1]):
        source = start[np.uint64(rows[i]) * n_beams]
        goal = new_start[i * new_n_beams + first_beam]
        n = np.uint64(start[(np.uint64(rows[i]) + ONE) * n_beams] - source)
        for c in range(n * TWO):
            new_factors[goal * TWO + c] = factors[source * TWO + c]


@njit(**OPTIONS)
def copy_segment_factors_block(block, cuts, n_beams, source, factors, new_start, new_factors):
    """The factors that go with the chunks that ``copy_segments_block`` copies."""
    for k in range(cuts[block] * n_beams, cuts[block + 1] * n_beams):
        goal, old = new_start[k], source[k]
        for c in range((new_start[k + ONE] - goal) * TWO):
            new_factors[goal * TWO + c] = factors[old * TWO + c]


@njit(**OPTIONS)
def pad_weights(weights, scale, column_of, padded):
    """Scaled weights at their padded places."""
    for j in range(np.uint64(len(column_of))):
        padded[column_of[j]] = np.float32(weights[j]) * scale[j]


@njit(**OPTIONS)
def gather_gradient(partial, scale, column_of, gradient):
    """Sum the blocks' gradients in their order and undo the padding and the scale."""
    for j in range(np.uint64(len(column_of))):
        total = 0.0
        for block in range(partial.shape[0]):
            total += np.float64(partial[block, column_of[j]])
        gradient[j] = np.float32(total * scale[j])


@njit(**OPTIONS)
def row_starts(start, n_beams, rows, new_start):
    """Chunk offsets of a compacted matrix; returns its number of chunks."""
    total = np.uint64(0)
    for i in range(np.uint64(len(rows))):
        for beam in range(n_beams):
            k = np.uint64(rows[i]) * n_beams + beam
            new_start[i * n_beams + beam] = total
            total += start[k + ONE] - start[k]
    new_start[np.uint64(len(rows)) * n_beams] = total
    return total


@njit(**OPTIONS)
def copy_rows_block(
    block, cuts, rows, n_beams, start, columns, values,
    new_n_beams, first_beam, new_start, new_columns, new_values,
):  # fmt: skip
    """Copy the chunks of one block of chosen rows to a matrix's beams from ``first_beam`` on.

    The chunks of a row lie together, in the source and in the goal.
    """
    for i in range(cuts[block], cuts[block + 1]):
        source = start[np.uint64(rows[i]) * n_beams]
        goal = new_start[i * new_n_beams + first_beam]
        n = np.uint64(start[(np.uint64(rows[i]) + ONE) * n_beams] - source)
        for c in range(n):
            new_columns[goal + c] = columns[source + c]
        for v in range(n * LANES):
            new_values[goal * LANES + v] = values[source * LANES + v]


@njit(**OPTIONS)
def chosen_beam_starts(start, n_beams, beams, new_start, source):
    """Chunk offsets of a matrix of some beams, and where each row and beam begins in the old one;
    returns its number of chunks."""
    total = np.uint64(0)
    n_new = np.uint64(len(beams))
    n_rows = np.uint64(len(start) - 1) // n_beams
    for row in range(n_rows):
        for i in range(n_new):
            k = row * n_beams + beams[i]
            first = start[k]
            new_start[row * n_new + i] = total
            source[row * n_new + i] = first
            total += start[k + ONE] - first
    new_start[n_rows * n_new] = total
    return total


@njit(**OPTIONS)
def copy_segments_block(
    block, cuts, n_beams, source, columns, values, new_start, new_columns, new_values
):
    """Copy the chunks of every beam of one block of rows, each from where ``source`` says."""
    for k in range(cuts[block] * n_beams, cuts[block + 1] * n_beams):
        goal, old = new_start[k], source[k]
        n = new_start[k + ONE] - goal
        for c in range(n):
            new_columns[goal + c] = columns[old + c]
        for v in range(n * LANES):
            new_values[goal * LANES + v] = values[old * LANES + v]


@njit(**OPTIONS)
def largest_by_place(start, n_beams, columns, values, base, largest):
    """Largest root at every place."""
    for k in range(np.uint64(len(start) - 1)):
        first_place = base[k % n_beams]
        for c in range(start[k], start[k + ONE]):
            place = first_place + np.uint64(columns[c])
            for lane in range(LANES):
                q = values[c * LANES + lane]
                if q > largest[place + lane]:
                    largest[place + lane] = q


@njit(**OPTIONS)
def rescale_block(block, cuts, start, columns, values, base, factor, new_values):
    """Roots times a factor per place, rounded to 16 bits."""
    n_beams = np.uint64(len(base) - 1)
    for row in range(cuts[block], cuts[block + 1]):
        for beam in range(n_beams):
            k = row * n_beams + beam
            for c in range(start[k], start[k + ONE]):
                place = base[beam] + np.uint64(columns[c])
                for lane in range(LANES):
                    root = np.float32(values[c * LANES + lane]) * factor[place + lane]
                    root = min(root + np.float32(0.5), np.float32(65535.0))
                    new_values[c * LANES + lane] = np.uint16(root)


@njit(**OPTIONS)
def count_row_nonzeros(start, n_beams, values, nonzeros):
    """Nonzero entries of every row."""
    for row in range(np.uint64(len(nonzeros))):
        n = 0
        for v in range(start[row * n_beams] * LANES, start[(row + ONE) * n_beams] * LANES):
            n += values[v] != 0
        nonzeros[row] = n


@njit(**OPTIONS)
def largest_by_row(block, cuts, start, columns, values, base, scale, largest):
    """Largest entry of every row and beam, (n_rows, n_beams): equation (1) of Quarz 2024."""
    n_beams = np.uint64(len(base) - 1)
    for row in range(cuts[block], cuts[block + 1]):
        for beam in range(n_beams):
            k = row * n_beams + beam
            top = np.float32(0.0)
            for c in range(start[k], start[k + ONE]):
                for lane in range(LANES):
                    q = np.float32(values[c * LANES + lane])
                    entry = q * q * scale[base[beam] + np.uint64(columns[c]) + lane]
                    top = max(top, entry)
            largest[row, beam] = top


@njit(**OPTIONS)
def count_columns(beam_starts, starts, rows, last, start):
    """First chunk of every row and beam from lists of entries per spot; ``last`` (n_rows,) is
    working memory. Chunks begin at every eighth spot of a beam."""
    n_beams = len(beam_starts) - 1
    for beam in range(n_beams):
        last[:] = -1
        for spot in range(beam_starts[beam], beam_starts[beam + 1]):
            group = (spot - beam_starts[beam]) >> 3
            for entry in range(starts[spot], starts[spot + 1]):
                row = rows[entry]
                if last[row] != group:
                    last[row] = group
                    start[np.int64(row) * n_beams + beam + 1] += ONE
    for k in range(1, len(start)):
        start[k] += start[k - 1]


@njit(**OPTIONS)
def fill_columns(beam_starts, starts, rows, gy, scale, start, last, columns, values):
    """Write the chunks that ``count_columns`` counted; values as 16-bit roots of their scale."""
    n_beams = len(beam_starts) - 1
    chunk = np.empty(len(last), np.int64)
    for beam in range(n_beams):
        last[:] = -1
        for row in range(len(last)):
            chunk[row] = np.int64(start[row * n_beams + beam]) - 1
        for spot in range(beam_starts[beam], beam_starts[beam + 1]):
            place = spot - beam_starts[beam]
            group = place >> 3
            for entry in range(starts[spot], starts[spot + 1]):
                row = rows[entry]
                if last[row] != group:
                    last[row] = group
                    chunk[row] += 1
                    columns[chunk[row]] = group << 3
                root = np.sqrt(gy[entry] / scale[spot])
                values[(chunk[row] << 3) + (place & 7)] = np.uint16(min(root + 0.5, 65535.0))


@njit(**OPTIONS)
def count_by_column(start, n_beams, columns, values, base, column_at, counts):
    """Nonzero entries of every column."""
    for k in range(np.uint64(len(start) - 1)):
        first_place = base[k % n_beams]
        for c in range(start[k], start[k + ONE]):
            place = first_place + np.uint64(columns[c])
            for lane in range(LANES):
                if values[c * LANES + lane] != 0:
                    counts[column_at[place + lane]] += 1


@njit(**OPTIONS)
def fill_by_column(start, n_beams, columns, values, base, column_at, scale, place_of, rows, gy):
    """Rows and Gy of every column, from ``place_of`` (n_spots,) on, which moves along."""
    for k in range(np.uint64(len(start) - 1)):
        first_place = base[k % n_beams]
        for c in range(start[k], start[k + ONE]):
            place = first_place + np.uint64(columns[c])
            for lane in range(LANES):
                root = np.float32(values[c * LANES + lane])
                if root > 0:
                    column = column_at[place + lane]
                    goal = place_of[column]
                    rows[goal] = np.uint32(k // n_beams)
                    gy[goal] = root * root * scale[column]
                    place_of[column] = goal + 1
