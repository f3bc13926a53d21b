"""Two other ways to store an influence matrix, with the same numbers, to compare with ours.

``DecodedRows``: voxel-major rows of 16-bit columns and 16-bit roots, nothing padded.
``VoxelBlocks``: eight neighbouring rows together; a column that any of them has takes eight slots.
Each computes a dose and the transposed product of that dose in two passes, over the same blocks of
rows as ours.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.dose._simd import FAST, FLOAT8, INT32X8, INT64, UINT16X8, data_pointer, float8_at, splat
from engine.parallel import run_blocks

OPTIONS = dict(cache=True, nogil=True, error_model="numpy")
ONE, EIGHT = np.uint64(1), np.uint64(8)
N_BLOCKS = 8


class DecodedRows:
    """Row r holds columns[start[r]:start[r+1]] and as many roots; columns count within a beam."""

    def __init__(self, matrix):
        self.matrix, self.n_rows = matrix, matrix.n_rows
        self.start = np.zeros(len(matrix.start), np.uint64)
        self.columns = np.empty(matrix.n_nonzeros, np.uint16)
        self.values = np.empty(matrix.n_nonzeros, np.uint16)
        _decode(matrix.start, matrix.columns, matrix.values, self.start, self.columns, self.values)
        goals = np.linspace(0, len(self.values), N_BLOCKS + 1)[1:-1]
        inner = np.searchsorted(self.start[:: matrix.n_beams], goals)
        self.cuts = np.concatenate([[0], inner, [self.n_rows]]).astype(np.uint64)

    @property
    def nbytes(self):
        return self.start.nbytes + self.columns.nbytes + self.values.nbytes

    def product_and_gradient(self, weights):
        scaled = self.matrix._padded_weights(weights)
        dose = np.empty(self.n_rows, np.float32)
        partial = np.zeros((N_BLOCKS, len(scaled)), np.float32)
        arrays = (self.cuts, self.start, self.columns, self.values, self.matrix._base[:-1])
        run_blocks(_rows_dose, N_BLOCKS, *arrays, scaled, dose)
        run_blocks(_rows_add, N_BLOCKS, *arrays, dose, partial)
        return dose, self.matrix._gradient(partial)


class VoxelBlocks:
    """Block k and beam b hold columns, each with the roots of eight rows."""

    def __init__(self, matrix):
        n_beams = matrix.n_beams
        self.matrix, self.n_rows = matrix, matrix.n_rows
        self.n_groups = -(-matrix.n_rows // 8)
        widest = int(np.diff(matrix._base.astype(int)).max())
        arguments = (matrix.start, matrix.columns, matrix.values, n_beams, self.n_groups, widest)
        self.start = np.zeros(self.n_groups * n_beams + 1, np.uint64)
        none16 = np.empty(0, np.uint16)
        total = _group(*arguments, matrix.n_rows, self.start, none16, none16, False)
        self.columns = np.empty(total, np.uint16)
        self.values = np.zeros(total * 8, np.uint16)
        _group(*arguments, matrix.n_rows, self.start, self.columns, self.values, True)
        goals = np.linspace(0, total, N_BLOCKS + 1)[1:-1]
        inner = np.searchsorted(self.start[::n_beams], goals)
        self.cuts = np.concatenate([[0], inner, [self.n_groups]]).astype(np.uint64)

    @property
    def nbytes(self):
        return self.start.nbytes + self.columns.nbytes + self.values.nbytes

    def product_and_gradient(self, weights):
        scaled = self.matrix._padded_weights(weights)
        dose = np.empty(self.n_groups * 8, np.float32)
        partial = np.zeros((N_BLOCKS, len(scaled)), np.float32)
        arrays = (self.cuts, self.start, self.columns, self.values, self.matrix._base[:-1])
        run_blocks(_groups_dose, N_BLOCKS, *arrays, scaled, dose)
        run_blocks(_groups_add, N_BLOCKS, *arrays, dose, partial)
        return dose[: self.n_rows], self.matrix._gradient(partial)


# ------------------------------------------------------------------------------- from ours


@njit(**OPTIONS)
def _decode(start, columns, values, new_start, new_columns, new_values):
    at = np.uint64(0)
    for k in range(np.uint64(len(start) - 1)):
        new_start[k] = at
        for chunk in range(start[k], start[k + ONE]):
            for lane in range(EIGHT):
                if values[chunk * EIGHT + lane]:
                    new_columns[at] = columns[chunk] + lane
                    new_values[at] = values[chunk * EIGHT + lane]
                    at += ONE
    new_start[np.uint64(len(start) - 1)] = at


@njit(**OPTIONS)
def _group(
    start, columns, values, n_beams, n_groups, widest, n_rows, new_start, new_columns, new_values,
    write,
):  # fmt: skip
    """Count the columns that any of eight rows has, or write them with their eight roots."""
    slot = np.full(widest, -1, np.int64)
    total = 0
    for group in range(n_groups):
        for beam in range(n_beams):
            new_start[group * n_beams + beam] = total
            touched = np.zeros(widest, np.bool_)
            for write_now in range(2):
                for lane in range(min(8, n_rows - 8 * group)):
                    k = (8 * group + lane) * n_beams + beam
                    for chunk in range(start[k], start[k + 1]):
                        for spot in range(8):
                            value = values[np.int64(chunk) * 8 + spot]
                            column = np.int64(columns[chunk]) + spot
                            if value == 0:
                                continue
                            if write_now == 0:
                                touched[column] = True
                            elif write:
                                new_values[slot[column] * 8 + lane] = value
                if write_now == 0:
                    for column in range(widest):
                        if touched[column]:
                            slot[column] = total
                            if write:
                                new_columns[total] = column
                            total += 1
    new_start[n_groups * n_beams] = total
    return total


# ---------------------------------------------------------------------------- rows, one by one


@njit(fastmath=True, **OPTIONS)
def _rows_dose(block, cuts, start, columns, values, base, weights, dose):
    n_beams = np.uint64(len(base))
    for row in range(cuts[block], cuts[block + 1]):
        total = np.float32(0.0)
        for beam in range(n_beams):
            k = row * n_beams + beam
            for i in range(start[k], start[k + ONE]):
                q = np.float32(values[i])
                total += q * q * weights[base[beam] + np.uint64(columns[i])]
        dose[row] = total


@njit(fastmath=True, **OPTIONS)
def _rows_add(block, cuts, start, columns, values, base, gradient, partial):
    n_beams = np.uint64(len(base))
    mine = partial[block]
    for row in range(cuts[block], cuts[block + 1]):
        g = gradient[row]
        for beam in range(n_beams):
            k = row * n_beams + beam
            for i in range(start[k], start[k + ONE]):
                q = np.float32(values[i])
                mine[base[beam] + np.uint64(columns[i])] += q * q * g


# ---------------------------------------------------------------------------- eight rows at a time


def _slot(builder, values, index):
    """Squares of the eight roots of one slot."""
    at = builder.gep(values, [builder.shl(index, ir.Constant(INT64, 3))])
    q = builder.load(builder.bitcast(at, UINT16X8.as_pointer()), align=2)
    root = builder.sitofp(builder.zext(q, INT32X8), FLOAT8)
    return builder.fmul(root, root, flags=FAST)


def _column(builder, columns, index, base):
    return builder.add(builder.zext(builder.load(builder.gep(columns, [index])), INT64), base)


@intrinsic
def _eight_dose(typingctx, values, columns, first, last, weights, base, dose, row):
    """dose[row … row+7] += Σ q² · weights[base + column] over slots first … last−1."""
    sig = types.void(values, columns, types.uint64, types.uint64, weights, types.uint64, dose,
                     types.uint64)  # fmt: skip

    def codegen(context, builder, sig, args):
        v, c, w, d = (data_pointer(context, builder, sig.args[i], args[i]) for i in (0, 1, 4, 6))
        place = float8_at(builder, d, args[7])
        total = cgutils.alloca_once_value(builder, builder.load(place, align=4))
        with cgutils.for_range(builder, args[3], start=args[2], intp=INT64) as loop:
            weight = builder.load(builder.gep(w, [_column(builder, c, loop.index, args[5])]))
            term = builder.fmul(_slot(builder, v, loop.index), splat(builder, weight), flags=FAST)
            builder.store(builder.fadd(builder.load(total), term, flags=FAST), total)
        builder.store(builder.load(total), place, align=4)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def _eight_add(typingctx, values, columns, first, last, gradient, row, total, base):
    """total[base + column] += Σ over eight rows of q² · gradient[row + lane]."""
    sig = types.void(values, columns, types.uint64, types.uint64, gradient, types.uint64, total,
                     types.uint64)  # fmt: skip

    def codegen(context, builder, sig, args):
        v, c, g, t = (data_pointer(context, builder, sig.args[i], args[i]) for i in (0, 1, 4, 6))
        factor = builder.load(float8_at(builder, g, args[5]), align=4)
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), FLOAT8])
        add_up = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.vector.reduce.fadd.v8f32"
        )
        with cgutils.for_range(builder, args[3], start=args[2], intp=INT64) as loop:
            term = builder.fmul(_slot(builder, v, loop.index), factor, flags=FAST)
            place = builder.gep(t, [_column(builder, c, loop.index, args[7])])
            zero = ir.Constant(ir.FloatType(), 0.0)
            sum8 = builder.call(add_up, [zero, term], fastmath=("reassoc",))
            builder.store(builder.fadd(builder.load(place), sum8), place)
        return context.get_dummy_value()

    return sig, codegen


@njit(**OPTIONS)
def _groups_dose(block, cuts, start, columns, values, base, weights, dose):
    n_beams = np.uint64(len(base))
    for group in range(cuts[block], cuts[block + 1]):
        for lane in range(EIGHT):
            dose[group * EIGHT + lane] = np.float32(0.0)
        for beam in range(n_beams):
            k = group * n_beams + beam
            _eight_dose(values, columns, start[k], start[k + ONE], weights, base[beam], dose,
                        group * EIGHT)  # fmt: skip


@njit(**OPTIONS)
def _groups_add(block, cuts, start, columns, values, base, gradient, partial):
    n_beams = np.uint64(len(base))
    mine = partial[block]
    for group in range(cuts[block], cuts[block + 1]):
        for beam in range(n_beams):
            k = group * n_beams + beam
            _eight_add(values, columns, start[k], start[k + ONE], gradient, group * EIGHT, mine,
                       base[beam])  # fmt: skip
