"""Random numbers for histories: one stream each, told by the history's number alone.

SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) is a bijective mix of a counter that advances by an
odd constant. History h owns the counters h · 2¹⁶ … (h + 1) · 2¹⁶ − 1 of one sequence, so streams
never overlap, and no history needs to know how many others there are, or who computes them.
A stream is a (1,) uint64 array that holds its counter, already multiplied.
"""

import math

import numpy as np
from numba import njit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_PER_HISTORY = np.uint64(1 << 16)
_S11, _S21, _S32, _S42 = np.uint64(11), np.uint64(21), np.uint64(32), np.uint64(42)
_LOW_32, _LOW_21 = np.uint64((1 << 32) - 1), np.uint64((1 << 21) - 1)
_LOW_11 = np.uint64((1 << 11) - 1)
_ONE = np.uint64(1)
_2_53, _2_32, _2_11 = 2.0**-53, 2.0**-32, 2.0**-11

NORMAL_BINS = 1024  # of the table of quantiles: ten bits


def normal_quantiles() -> np.ndarray:
    """Quantiles (NORMAL_BINS + 1,) of a normal distribution for ``three_normals``.

    Between them values are even; the two outermost end where the mean square of their bin is
    the normal's, at 3.5 or so, and all are scaled to a variance of exactly one.
    """
    from scipy.stats import norm

    inner = norm.ppf(np.arange(1, NORMAL_BINS) / NORMAL_BINS)
    edge = inner[-1]
    square = 1.0 + edge * norm.pdf(edge) * NORMAL_BINS  # mean square beyond the edge
    last = -0.5 * edge + math.sqrt(3.0 * square - 0.75 * edge * edge)
    nodes = np.concatenate([[-last], inner, [last]])
    low, high = nodes[:-1], nodes[1:]
    return nodes / math.sqrt(np.mean((low * low + low * high + high * high) / 3.0))


@njit(cache=True, nogil=True, inline="always")
def mixed(z):
    """SplitMix64's bijection of 64 bits; of uint64, or of arrays of them."""
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@njit(cache=True, nogil=True, inline="always")
def _next(stream):
    stream[0] += _STEP
    return mixed(stream[0])


@njit(cache=True, nogil=True)
def start_stream(stream, seed, history):
    """Set a stream to the beginning of a history's block; both arguments are uint64."""
    stream[0] = mixed(seed * _STEP + _ONE) + (history * _PER_HISTORY) * _STEP


@njit(cache=True, nogil=True, inline="always")
def uniform(stream):
    """Uniform in the open interval 0 … 1, 53 bits."""
    return (float(_next(stream) >> _S11) + 0.5) * _2_53


@njit(cache=True, nogil=True, inline="always")
def two_uniforms(stream):
    """Two independent uniforms in 0 … 1 (open), 32 bits each."""
    z = _next(stream)
    return (float(z >> _S32) + 0.5) * _2_32, (float(z & _LOW_32) + 0.5) * _2_32


@njit(cache=True, nogil=True, inline="always")
def _quantile(bits, quantiles):
    i = bits >> _S11
    low = quantiles[i]
    return low + (float(bits & _LOW_11) + 0.5) * _2_11 * (quantiles[i + _ONE] - low)


@njit(cache=True, nogil=True, inline="always")
def three_normals(stream, quantiles):
    """Three independent standard normals from one draw, 21 bits each; none beyond about 3.5.

    For what many small contributions add up to: straggling, the soft part of scattering.
    """
    z = _next(stream)
    return (
        _quantile(z & _LOW_21, quantiles),
        _quantile((z >> _S21) & _LOW_21, quantiles),
        _quantile((z >> _S42) & _LOW_21, quantiles),
    )


@njit(cache=True, nogil=True)
def two_normals(stream):
    """Two independent standard normals with their tails (Box and Muller)."""
    radius = math.sqrt(-2.0 * math.log(uniform(stream)))
    angle = 2.0 * math.pi * uniform(stream)
    return radius * math.cos(angle), radius * math.sin(angle)
