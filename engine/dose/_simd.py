"""Eight spots at a time: the two inner loops of every product, as LLVM vectors.

Left to itself LLVM turns neither loop into vector code (16-bit loads, a possible overlap between
the gradient and the matrix), which costs a factor of three; spelled out as vectors of eight they
compile to whatever the processor has. Values are square roots in 16 bits: dose = scale · q².
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
FLOAT8 = ir.VectorType(ir.FloatType(), LANES)
UINT16X8 = ir.VectorType(ir.IntType(16), LANES)
INT32X8 = ir.VectorType(ir.IntType(32), LANES)
INT64 = ir.IntType(64)
FAST = ("contract", "nsz", "reassoc", "arcp")


def data_pointer(context, builder, array_type, value):
    """Address of an array's first element."""
    return context.make_array(array_type)(context, builder, value).data


def splat(builder, scalar):
    """One float in all eight lanes."""
    vector = ir.Constant(FLOAT8, ir.Undefined)
    for lane in range(LANES):
        vector = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), lane))
    return vector


def float8_at(builder, pointer, index):
    """Address of eight floats that start at ``pointer[index]``."""
    return builder.bitcast(builder.gep(pointer, [index]), FLOAT8.as_pointer())


def _chunk(builder, values, columns, chunk):
    """Decoded values of one chunk, and the column it starts at."""
    address = builder.gep(values, [builder.shl(chunk, ir.Constant(INT64, 3))])
    q = builder.load(builder.bitcast(address, UINT16X8.as_pointer()), align=2)
    root = builder.sitofp(builder.zext(q, INT32X8), FLOAT8)
    column = builder.zext(builder.load(builder.gep(columns, [chunk])), INT64)
    return builder.fmul(root, root, flags=FAST), column


@intrinsic
def chunks_dot(typingctx, values, columns, first, last, weights, base):
    """Σ q² · weights[base + column + lane] over the chunks first … last−1, float32."""
    sig = types.float32(values, columns, types.uint64, types.uint64, weights, types.uint64)

    def codegen(context, builder, sig, args):
        v, c, w = (data_pointer(context, builder, sig.args[i], args[i]) for i in (0, 1, 4))
        zero = ir.Constant(FLOAT8, [0.0] * LANES)
        total = cgutils.alloca_once_value(builder, zero)
        builder.store(zero, total)
        w = builder.gep(w, [args[5]])
        with cgutils.for_range(builder, args[3], start=args[2], intp=INT64) as loop:
            dose, column = _chunk(builder, v, c, loop.index)
            weight = builder.load(float8_at(builder, w, column), align=4)
            term = builder.fmul(dose, weight, flags=FAST)
            builder.store(builder.fadd(builder.load(total), term, flags=FAST), total)
        lanes = builder.load(total)
        parts = [
            builder.extract_element(lanes, ir.Constant(ir.IntType(32), k)) for k in range(LANES)
        ]
        while len(parts) > 1:
            parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2])]
        return parts[0]

    return sig, codegen


@intrinsic
def chunks_add(typingctx, values, columns, first, last, factor, total, base):
    """total[base + column + lane] += factor · q² over the chunks first … last−1."""
    sig = types.void(
        values, columns, types.uint64, types.uint64, types.float32, total, types.uint64
    )

    def codegen(context, builder, sig, args):
        v, c, t = (data_pointer(context, builder, sig.args[i], args[i]) for i in (0, 1, 5))
        factor8 = splat(builder, args[4])
        t = builder.gep(t, [args[6]])
        with cgutils.for_range(builder, args[3], start=args[2], intp=INT64) as loop:
            dose, column = _chunk(builder, v, c, loop.index)
            place = float8_at(builder, t, column)
            term = builder.fmul(dose, factor8, flags=FAST)
            builder.store(
                builder.fadd(builder.load(place, align=4), term, flags=FAST), place, align=4
            )
        return context.get_dummy_value()

    return sig, codegen
