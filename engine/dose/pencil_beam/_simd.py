"""Eight raster lines, then eight neighbouring spots at a time, as LLVM vectors.

Lines: which spots of each lie within reach. Spots: two Gaussians, a square root, 16 bits.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.dose._simd import (
    FAST,
    FLOAT8,
    INT32X8,
    INT64,
    LANES,
    UINT16X8,
    data_pointer,
    float8_at,
    splat,
)  # fmt: skip

# 2^f on [0, 1] by Chebyshev interpolation: 2e-7 relative, below float32's last bits
EXP2 = np.polynomial.chebyshev.Chebyshev.interpolate(np.exp2, 5, domain=[0, 1]).convert(
    kind=np.polynomial.Polynomial
)


ROUNDING = np.float32(1e-3)  # of a pitch: spots at the very edge of the reach belong to it


@intrinsic
def count_lines(
    typingctx, line_v, line_u, line_inverse, line_count, line, stop, x, y, reach, reach2
):
    """Chunks that the lines line … line+7 need, those before ``stop`` and within reach of (x, y).

    Lines are padded with eight spare entries. int32.
    """
    arrays = (line_v, line_u, line_inverse, line_count)
    sig = types.int32(*arrays, types.uint64, types.uint64, *(types.float32,) * 4)

    def codegen(context, builder, sig, args):
        pointers = [data_pointer(context, builder, sig.args[i], args[i]) for i in range(4)]
        n, *_ = _eight_lines(builder, pointers, *args[4:])
        kind = ir.FunctionType(ir.IntType(32), [INT32X8])
        name = "llvm.vector.reduce.add.v8i32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [n])

    return sig, codegen


@intrinsic
def find_chunks(
    typingctx, line_v, line_u, line_inverse, line_count, line, stop, x, y, reach, reach2,
    n_chunks, first_spot, distance2,
):  # fmt: skip
    """The same lines' number of chunks, first spot (both (8,) int32) and squared distance from y.

    A line's last chunk gives its spare lanes to real spots on both sides while the line has any:
    they cost nothing and lose less dose.
    """
    arrays = (line_v, line_u, line_inverse, line_count)
    scalars = (types.uint64, types.uint64, *(types.float32,) * 4)
    sig = types.void(*arrays, *scalars, n_chunks, first_spot, distance2)

    def codegen(context, builder, sig, args):
        pointers = [data_pointer(context, builder, sig.args[i], args[i]) for i in range(4)]
        n, low, width, count, dy2 = _eight_lines(builder, pointers, *args[4:10])
        spots = builder.shl(n, _int8(3))
        spare = builder.ashr(builder.sub(spots, width), _int8(1))
        last = _largest(builder, builder.sub(count, spots), _int8(0))
        low = _largest(builder, builder.sub(low, spare), _int8(0))
        low = builder.select(builder.icmp_signed("<", low, last), low, last)
        for i, vector in ((10, n), (11, low), (12, dy2)):
            address = data_pointer(context, builder, sig.args[i], args[i])
            builder.store(vector, builder.bitcast(address, vector.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return sig, codegen


def _eight_lines(builder, pointers, line, stop, x, y, reach, reach2):
    """Chunks, first spot in reach, spots in reach, spots at all, squared distance from y."""
    load = [builder.load(float8_at(builder, p, line), align=4) for p in pointers[:3]]
    v, u, inverse = load
    at = builder.bitcast(builder.gep(pointers[3], [line]), INT32X8.as_pointer())
    count = builder.load(at, align=4)
    top, x8, y8 = builder.sitofp(count, FLOAT8), splat(builder, x), splat(builder, y)
    dy = builder.fsub(v, y8)
    dy2 = builder.fmul(dy, dy)
    inside = builder.fsub(splat(builder, reach2), dy2)
    half = _call(builder, "llvm.sqrt.v8f32", _largest_float(builder, inside, _float8(0.0)))
    low = builder.fmul(builder.fsub(builder.fsub(x8, half), u), inverse)
    high = builder.fmul(builder.fsub(builder.fadd(x8, half), u), inverse)
    low = _call(builder, "llvm.ceil.v8f32", builder.fsub(low, _float8(ROUNDING)))
    high = _call(builder, "llvm.floor.v8f32", builder.fadd(high, _float8(ROUNDING)))
    high = builder.fadd(high, _float8(1.0))
    low, high = (_clamped(builder, a, top) for a in (low, high))
    width = builder.sub(high, low)
    n = builder.ashr(_largest(builder, builder.add(width, _int8(7)), _int8(0)), _int8(3))
    reached = builder.fcmp_ordered("<=", v, splat(builder, builder.fadd(y, reach)))
    left = builder.trunc(builder.sub(stop, line), ir.IntType(32))
    there = builder.icmp_signed("<", _int8(range(LANES)), splat_int(builder, left))
    n = builder.select(builder.and_(reached, there), n, _int8(0))
    return n, low, width, count, dy2


def _clamped(builder, value, top):
    """A float vector between 0 and ``top`` as whole numbers."""
    value = _largest_float(builder, value, _float8(0.0))
    value = builder.select(builder.fcmp_ordered("<", value, top), value, top)
    return builder.fptosi(value, INT32X8)


def _largest(builder, a, b):
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _largest_float(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _float8(value):
    return ir.Constant(FLOAT8, [float(np.float32(value))] * LANES)


def _int8(value):
    values = [value] * LANES if isinstance(value, int) else list(value)
    return ir.Constant(INT32X8, values)


def splat_int(builder, scalar):
    """One 32-bit integer in all eight lanes."""
    vector = ir.Constant(INT32X8, ir.Undefined)
    for lane in range(LANES):
        vector = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), lane))
    return vector


@intrinsic
def write_chunk(typingctx, values, chunk, spot_u, column, n_valid, u, k1, k2, a1, a2, y2):
    """values[8·chunk + lane] = √(a1·2^(k1·r²) + a2·2^(k2·r²)).

    r² = (spot_u[column + lane] − u)² + y². Lanes from ``n_valid`` on are zero.
    Exponents are at most 0, the sum at most 65535².
    """
    scalars = (types.float32,) * 6
    sig = types.void(values, types.uint64, spot_u, types.uint64, types.int32, *scalars)

    def codegen(context, builder, sig, args):
        pointer = data_pointer(context, builder, sig.args[0], args[0])
        spots = data_pointer(context, builder, sig.args[2], args[2])
        u, k1, k2, a1, a2, y2 = (splat(builder, a) for a in args[5:11])
        x = builder.fsub(builder.load(float8_at(builder, spots, args[3]), align=4), u)
        x2 = builder.fadd(builder.fmul(x, x), y2)
        core = builder.fmul(a1, _exp2(builder, builder.fmul(k1, x2)))
        halo = builder.fmul(a2, _exp2(builder, builder.fmul(k2, x2)))
        root = _call(builder, "llvm.sqrt.v8f32", builder.fadd(core, halo, flags=FAST))
        whole = builder.fptosi(builder.fadd(root, _float8(0.5)), INT32X8)
        valid = builder.icmp_signed("<", _int8(range(LANES)), splat_int(builder, args[4]))
        kept = builder.select(valid, whole, _int8(0))
        address = builder.gep(pointer, [builder.shl(args[1], ir.Constant(INT64, 3))])
        builder.store(
            builder.trunc(kept, UINT16X8), builder.bitcast(address, UINT16X8.as_pointer()), align=2
        )
        return context.get_dummy_value()

    return sig, codegen


def _exp2(builder, x):
    """2^x for x ≤ 0 in eight lanes; below −100 it stays at 2^−100."""
    x = _largest_float(builder, x, _float8(-100.0))  # not near denormals, which are slow
    whole = _call(builder, "llvm.floor.v8f32", x)
    part = builder.fsub(x, whole)
    value = _float8(EXP2.coef[-1])
    for c in EXP2.coef[-2::-1]:
        value = builder.fadd(builder.fmul(value, part, flags=FAST), _float8(c), flags=FAST)
    bits = builder.add(builder.fptosi(whole, INT32X8), _int8(127))
    power = builder.bitcast(builder.shl(bits, _int8(23)), FLOAT8)
    return builder.fmul(value, power)


def _call(builder, name, vector):
    function_type = ir.FunctionType(FLOAT8, [FLOAT8])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, [vector])
