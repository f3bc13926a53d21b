"""Loops that carry a mask from one grid to another; see ``engine.patient.structures``."""

import numpy as np
from numba import njit

SAMPLES = 4  # sub-samples per axis and voxel
SOFT_STEP = 0.2  # width of the step from outside to inside, in units of the interpolated mask


@njit(cache=True, nogil=True, inline="always")
def _interpolated(field, z, y, x):
    """Trilinear value at a fractional index, constant beyond the outermost centers."""
    nz, ny, nx = field.shape
    z = min(max(z, 0.0), nz - 1.0)
    y = min(max(y, 0.0), ny - 1.0)
    x = min(max(x, 0.0), nx - 1.0)
    k, j, i = np.uint32(z), np.uint32(y), np.uint32(x)
    k1, j1, i1 = min(k + 1, nz - 1), min(j + 1, ny - 1), min(i + 1, nx - 1)
    c, b, a = z - k, y - j, x - i
    lower = (1 - b) * ((1 - a) * field[k, j, i] + a * field[k, j, i1]) + b * (
        (1 - a) * field[k, j1, i] + a * field[k, j1, i1]
    )
    upper = (1 - b) * ((1 - a) * field[k1, j, i] + a * field[k1, j, i1]) + b * (
        (1 - a) * field[k1, j1, i] + a * field[k1, j1, i1]
    )
    return (1 - c) * lower + c * upper


@njit(cache=True, nogil=True, inline="always")
def _span(first, last, n):
    """Centers that bear on positions first … last of an axis, as a half-open range."""
    low = min(max(int(np.floor(first)), 0), n - 1)
    high = min(max(int(np.ceil(last)), 0), n - 1)
    return low, high + 1


@njit(cache=True, nogil=True)
def _bounds(field, zs, ys, xs):
    low, high = 1.0, 0.0
    for k in range(zs[0], zs[1]):
        for j in range(ys[0], ys[1]):
            for i in range(xs[0], xs[1]):
                value = field[k, j, i]
                low = min(low, value)
                high = max(high, value)
    return low, high


@njit(cache=True, nogil=True)
def value_histogram(field, n_bins):
    """How often the interpolated mask takes each value, sub-sampled over its own voxels.

    ``field`` (nz, ny, nx) float32 in 0 … 1; bin b holds values around b / (n_bins − 1). (n_bins,)
    """
    counts = np.zeros(n_bins, dtype=np.int64)
    nz, ny, nx = field.shape
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                low, high = _bounds(
                    field, _span(k - 0.5, k + 0.5, nz), _span(j - 0.5, j + 0.5, ny),
                    _span(i - 0.5, i + 0.5, nx),
                )  # fmt: skip
                if low == high:
                    counts[int(low * (n_bins - 1) + 0.5)] += SAMPLES**3
                    continue
                for s in range(SAMPLES**3):
                    z = k - 0.5 + (s // SAMPLES**2 + 0.5) / SAMPLES
                    y = j - 0.5 + (s // SAMPLES % SAMPLES + 0.5) / SAMPLES
                    x = i - 0.5 + (s % SAMPLES + 0.5) / SAMPLES
                    counts[int(_interpolated(field, z, y, x) * (n_bins - 1) + 0.5)] += 1
    return counts


@njit(cache=True, nogil=True)
def smooth_fractions(field, level, first, step, shape):
    """Share of every target voxel that lies inside the smooth surface, (shape) float32.

    Target voxel (a, b, c) covers indices first + step · (a, b, c) ± step / 2 of ``field``. Inside
    is where the interpolated mask exceeds ``level``, softened by SOFT_STEP; beyond the outer faces
    of ``field`` is outside.
    """
    nz, ny, nx = field.shape
    inside = np.zeros(shape, dtype=np.float32)
    half_z, half_y, half_x = 0.5 * step[0], 0.5 * step[1], 0.5 * step[2]
    for c in range(shape[0]):
        z0 = first[0] + step[0] * c
        zs = _span(z0 - half_z, z0 + half_z, nz)
        for b in range(shape[1]):
            y0 = first[1] + step[1] * b
            ys = _span(y0 - half_y, y0 + half_y, ny)
            for a in range(shape[2]):
                x0 = first[2] + step[2] * a
                low, high = _bounds(field, zs, ys, _span(x0 - half_x, x0 + half_x, nx))
                if high <= level - 0.5 * SOFT_STEP:
                    continue
                solid = low >= level + 0.5 * SOFT_STEP
                whole = (
                    min(z0 - half_z, y0 - half_y, x0 - half_x) >= -0.5
                    and z0 + half_z <= nz - 0.5
                    and y0 + half_y <= ny - 0.5
                    and x0 + half_x <= nx - 0.5
                )
                if solid and whole:
                    inside[c, b, a] = 1.0
                    continue
                total = 0.0
                for s in range(SAMPLES**3):
                    z = z0 + step[0] * ((s // SAMPLES**2 + 0.5) / SAMPLES - 0.5)
                    y = y0 + step[1] * ((s // SAMPLES % SAMPLES + 0.5) / SAMPLES - 0.5)
                    x = x0 + step[2] * ((s % SAMPLES + 0.5) / SAMPLES - 0.5)
                    if min(z, y, x) < -0.5 or z > nz - 0.5 or y > ny - 0.5 or x > nx - 0.5:
                        continue
                    if solid:
                        total += 1.0
                        continue
                    value = _interpolated(field, z, y, x)
                    total += min(max((value - level) / SOFT_STEP + 0.5, 0.0), 1.0)
                inside[c, b, a] = total / SAMPLES**3
    return inside
