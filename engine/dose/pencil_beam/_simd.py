"""Write eight neighbouring spots' entries at once: two Gaussians, a square root, 16 bits."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.dose._simd import (
    FAST, FLOAT8, INT32X8, INT64, LANES, UINT16X8, data_pointer, float8_at, splat,
)  # fmt: skip

# 2^f on [0, 1] by Chebyshev interpolation: 2e-7 relative, below float32's last bits
EXP2 = np.polynomial.chebyshev.Chebyshev.interpolate(np.exp2, 5, domain=[0, 1]).convert(
    kind=np.polynomial.Polynomial
)


@intrinsic
def write_chunk(typingctx, values, chunk, spot_u, column, n_valid, u, k1, k2, a1, a2, y2):
    """values[8·chunk + lane] = √(a1·2^(k1·r²) + a2·2^(k2·r²)), r² = (spot_u[column+lane] − u)² + y².

    Lanes from ``n_valid`` on are zero. Exponents are at most 0, the sum at most 65535².
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
        half = ir.Constant(FLOAT8, [0.5] * LANES)
        whole = builder.fptosi(builder.fadd(root, half), INT32X8)
        lanes = ir.Constant(INT32X8, list(range(LANES)))
        n = ir.Constant(INT32X8, ir.Undefined)
        for k in range(LANES):
            n = builder.insert_element(n, args[4], ir.Constant(ir.IntType(32), k))
        valid = builder.icmp_signed("<", lanes, n)
        kept = builder.select(valid, whole, ir.Constant(INT32X8, [0] * LANES))
        address = builder.gep(pointer, [builder.shl(args[1], ir.Constant(INT64, 3))])
        builder.store(
            builder.trunc(kept, UINT16X8), builder.bitcast(address, UINT16X8.as_pointer()), align=2
        )
        return context.get_dummy_value()

    return sig, codegen


def _exp2(builder, x):
    """2^x for x ≤ 0 in eight lanes; below −126 it stays at 2^−126."""
    floor_bound = ir.Constant(FLOAT8, [-126.0] * LANES)
    x = builder.select(builder.fcmp_ordered(">", x, floor_bound), x, floor_bound)
    whole = _call(builder, "llvm.floor.v8f32", x)
    part = builder.fsub(x, whole)
    value = ir.Constant(FLOAT8, [float(np.float32(EXP2.coef[-1]))] * LANES)
    for c in EXP2.coef[-2::-1]:
        constant = ir.Constant(FLOAT8, [float(np.float32(c))] * LANES)
        value = builder.fadd(builder.fmul(value, part, flags=FAST), constant, flags=FAST)
    bits = builder.add(builder.fptosi(whole, INT32X8), ir.Constant(INT32X8, [127] * LANES))
    power = builder.bitcast(builder.shl(bits, ir.Constant(INT32X8, [23] * LANES)), FLOAT8)
    return builder.fmul(value, power)


def _call(builder, name, vector):
    function_type = ir.FunctionType(FLOAT8, [FLOAT8])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, [vector])
