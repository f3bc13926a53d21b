"""Compiled loops of the optimizer: plain arrays in and out, float32 storage, float64 sums.

Sums over spots run in one thread in a fixed order, so that the number of threads cannot change
a bit. ``reassoc`` lets the compiler use vector registers for them; the order it picks is fixed
in the compiled code.
"""

import numpy as np
from numba import njit

VECTOR = {"cache": True, "nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}


@njit(**VECTOR)
def _dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@njit(**VECTOR)
def _masked_dot(a, b, free):
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i]) * np.float64(b[i]) * np.float64(free[i])
    return total


@njit(**VECTOR)
def _add_masked(out, factor, a, free):
    step = np.float32(factor)
    for i in range(out.size):
        out[i] += step * a[i] * free[i]


@njit(cache=True, nogil=True)
def mark_free(x, g, lower, upper, free):
    """free[i] = 0 where a variable sits on a bound and the gradient holds it there.

    Returns the largest component of the projected gradient (inf when one is not finite).
    """
    largest = np.float32(0.0)
    for i in range(x.size):
        held = (x[i] <= lower[i] and g[i] >= 0) or (x[i] >= upper[i] and g[i] <= 0)
        free[i] = np.float32(0.0) if held else np.float32(1.0)
        size = abs(g[i]) * free[i]
        if not np.isfinite(g[i]):
            return np.inf
        if size > largest:
            largest = size
    return np.float64(largest)


@njit(cache=True, nogil=True)
def quasi_newton_direction(g, free, steps, changes, n_pairs, newest, coefficient, d):
    """d = −H g on the free variables by the two-loop recursion (Nocedal 1980).

    ``steps`` and ``changes`` (memory, n_spots) are a ring of s = Δx and y = Δg whose newest entry
    is ``newest``; pairs count with their free components only, and not at all when their
    curvature there is not positive. Returns the slope g·d.
    """
    memory = steps.shape[0]
    for i in range(g.size):
        d[i] = -g[i] * free[i]
    inverse_curvature = np.zeros(memory)
    scale = 0.0
    for k in range(n_pairs):
        j = (newest + memory - k) % memory
        curvature = _masked_dot(steps[j], changes[j], free)
        size = _masked_dot(changes[j], changes[j], free)
        if curvature > 1e-10 * size and curvature > 0.0:
            inverse_curvature[j] = 1.0 / curvature
            if scale == 0.0:
                scale = curvature / size
            coefficient[j] = inverse_curvature[j] * _dot(steps[j], d)
            _add_masked(d, -coefficient[j], changes[j], free)
    if scale > 0.0:
        factor = np.float32(scale)
        for i in range(d.size):
            d[i] *= factor
    for k in range(n_pairs - 1, -1, -1):
        j = (newest + memory - k) % memory
        if inverse_curvature[j] > 0.0:
            beta = inverse_curvature[j] * _dot(changes[j], d)
            _add_masked(d, coefficient[j] - beta, steps[j], free)
    return _dot(g, d)


@njit(cache=True, nogil=True)
def projected_step(x, d, alpha, lower, upper, g, scale, x_new, weights):
    """x_new = clip(x + α d) and weights = scale · x_new; returns g·(x_new − x)."""
    a = np.float32(alpha)
    slope = 0.0
    for i in range(x.size):
        value = min(max(x[i] + a * d[i], lower[i]), upper[i])
        x_new[i] = value
        weights[i] = value * scale[i]
        slope += np.float64(g[i]) * np.float64(value - x[i])
    return slope


@njit(**VECTOR)
def scaled_slope(weight_gradient, scale, x, x_new, g_new):
    """g_new = scale · weight_gradient; returns g_new·(x_new − x)."""
    slope = 0.0
    for i in range(x.size):
        g_new[i] = weight_gradient[i] * scale[i]
        slope += np.float64(g_new[i]) * np.float64(x_new[i] - x[i])
    return slope


@njit(**VECTOR)
def store_pair(x, x_new, g, g_new, s, y):
    """s = x_new − x, y = g_new − g; returns s·y and y·y."""
    curvature, size = 0.0, 0.0
    for i in range(x.size):
        s[i] = x_new[i] - x[i]
        y[i] = g_new[i] - g[i]
        curvature += np.float64(s[i]) * np.float64(y[i])
        size += np.float64(y[i]) * np.float64(y[i])
    return curvature, size


@njit(cache=True, nogil=True)
def kept_volume(rows, start, structure, volume, total):
    """Volume of every structure on some rows, summed into ``total`` (n_structures,) float64."""
    for i in range(rows.size):
        row = np.uint64(rows[i])
        for k in range(np.uint64(start[row]), np.uint64(start[row + np.uint64(1)])):
            total[structure[k]] += volume[k]


@njit(cache=True, nogil=True)
def slice_terms(rows, start, level, weight, side, objective, factor):
    """The terms of some rows, weights scaled by ``factor`` (n_objectives,)."""
    one = np.uint64(1)
    new_start = np.empty(rows.size + 1, np.uint32)
    n = np.uint32(0)
    for i in range(rows.size):
        row = np.uint64(rows[i])
        new_start[i] = n
        n += start[row + one] - start[row]
    new_start[rows.size] = n
    new_level, new_weight = np.empty(n, np.float32), np.empty(n, np.float32)
    new_side, new_objective = np.empty(n, np.float32), np.empty(n, np.uint16)
    out = np.uint64(0)
    for i in range(rows.size):
        row = np.uint64(rows[i])
        for k in range(np.uint64(start[row]), np.uint64(start[row + one])):
            new_level[out] = level[k]
            new_weight[out] = np.float32(weight[k] * factor[objective[k]])
            new_side[out] = side[k]
            new_objective[out] = objective[k]
            out += one
    return new_start, new_level, new_weight, new_side, new_objective


@njit(cache=True, nogil=True)
def penalty_by_objective(dose, start, level, weight, side, objective, total):
    """Σ weight · max(0, side · (dose − level))² of every objective, into ``total`` float64."""
    for row in range(np.uint64(dose.size)):
        for k in range(np.uint64(start[row]), np.uint64(start[row + np.uint64(1)])):
            excess = side[k] * (dose[row] - level[k])
            if excess > np.float32(0.0):
                total[objective[k]] += np.float64(weight[k]) * np.float64(excess) ** 2


@njit(cache=True, nogil=True)
def penalty_by_row(dose, start, level, weight, side, total, gradient):
    """The same for every row, and its derivative by the row's dose, into (n_rows,) float32."""
    for row in range(np.uint64(dose.size)):
        value, slope = np.float32(0.0), np.float32(0.0)
        for k in range(np.uint64(start[row]), np.uint64(start[row + np.uint64(1)])):
            excess = side[k] * (dose[row] - level[k])
            if excess > np.float32(0.0):
                value += weight[k] * excess * excess
                slope += np.float32(2.0) * weight[k] * excess * side[k]
        total[row] = value
        gradient[row] = slope


@njit(cache=True, nogil=True)
def filter_layers(weights, layer_starts, minimum, filtered):
    """Spots below the minimum hand their weight to the next spot of their layer.

    What the last spots of a layer cannot hand on goes back to the last spot that stays, so a
    layer keeps its particles; a layer with fewer than the minimum is lost.
    """
    for layer in range(layer_starts.size - 1):
        carried, last_kept = 0.0, -1
        for i in range(layer_starts[layer], layer_starts[layer + 1]):
            weight = np.float64(weights[i]) + carried
            if weight < minimum:
                carried = weight
                filtered[i] = 0.0
            else:
                carried = 0.0
                filtered[i] = weight
                last_kept = i
        if last_kept >= 0:
            filtered[last_kept] += carried
