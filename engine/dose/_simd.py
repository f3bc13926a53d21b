"""Eight spots at a time: the two inner loops of every product, as LLVM vectors.

Left to itself LLVM turns neither loop into vector code (16-bit loads, a possible overlap between
the gradient and the matrix), which costs a factor of three; spelled out as vectors of eight they
compile to whatever the processor has. Values are square roots in 16 bits: dose = scale · q².
Where every chunk has two factors (biological effect), three sums are made at once.
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
        return _lane_sum(builder, builder.load(total))

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


@intrinsic
def chunks_dot_effects(typingctx, values, columns, factors, first, last, weights, base):
    """As ``chunks_dot``, and the same sums with every chunk times its two 16-bit factors.

    Chunk c has the factors ``factors[2c]`` and ``factors[2c + 1]``; three float32.
    """
    sig = types.UniTuple(types.float32, 3)(
        values, columns, factors, types.uint64, types.uint64, weights, types.uint64
    )

    def codegen(context, builder, sig, args):
        v, c, f, w = (data_pointer(context, builder, sig.args[i], args[i]) for i in (0, 1, 2, 5))
        zero = ir.Constant(FLOAT8, [0.0] * LANES)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(3)]
        for total in totals:
            builder.store(zero, total)
        w = builder.gep(w, [args[6]])
        with cgutils.for_range(builder, args[4], start=args[3], intp=INT64) as loop:
            dose, column = _chunk(builder, v, c, loop.index)
            weight = builder.load(float8_at(builder, w, column), align=4)
            term = builder.fmul(dose, weight, flags=FAST)
            shares = [term]
            for factor in _factors(builder, f, loop.index):
                shares.append(builder.fmul(term, splat(builder, factor), flags=FAST))
            for total, share in zip(totals, shares):
                builder.store(builder.fadd(builder.load(total), share, flags=FAST), total)
        sums = [_lane_sum(builder, builder.load(total)) for total in totals]
        return context.make_tuple(builder, sig.return_type, sums)

    return sig, codegen


@intrinsic
def chunks_add_effects(
    typingctx, values, columns, factors, first, last, plain, one, two, total, base
):
    """As ``chunks_add`` with ``plain + one · factors[2c] + two · factors[2c + 1]`` for chunk c."""
    sig = types.void(
        values, columns, factors, types.uint64, types.uint64, types.float32, types.float32,
        types.float32, total, types.uint64,
    )  # fmt: skip

    def codegen(context, builder, sig, args):
        v, c, f, t = (data_pointer(context, builder, sig.args[i], args[i]) for i in (0, 1, 2, 8))
        t = builder.gep(t, [args[9]])
        with cgutils.for_range(builder, args[4], start=args[3], intp=INT64) as loop:
            dose, column = _chunk(builder, v, c, loop.index)
            place = float8_at(builder, t, column)
            slope = args[5]
            for share, factor in zip(args[6:8], _factors(builder, f, loop.index)):
                product = builder.fmul(share, factor, flags=FAST)
                slope = builder.fadd(slope, product, flags=FAST)
            term = builder.fmul(dose, splat(builder, slope), flags=FAST)
            builder.store(
                builder.fadd(builder.load(place, align=4), term, flags=FAST), place, align=4
            )
        return context.get_dummy_value()

    return sig, codegen


def _factors(builder, factors, chunk):
    """The two factors of a chunk as floats."""
    first = builder.shl(chunk, ir.Constant(INT64, 1))
    places = (first, builder.add(first, ir.Constant(INT64, 1)))
    return [
        builder.uitofp(builder.load(builder.gep(factors, [place])), ir.FloatType())
        for place in places
    ]


def _lane_sum(builder, lanes):
    """Sum of eight lanes, pairwise."""
    parts = [builder.extract_element(lanes, ir.Constant(ir.IntType(32), k)) for k in range(LANES)]
    while len(parts) > 1:
        parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2])]
    return parts[0]
