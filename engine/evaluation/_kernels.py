"""Compiled search for the gamma index: branch and bound over the cells of the dose grid.

Between voxel centers the evaluated dose is trilinear. Lengths are in units of the distance to
agreement, dose differences to the reference point in units of the dose tolerance, so gamma is a
distance in four dimensions. A box of the field bounds it from below in two ways: by the distance
to the box and the interval its doses fill (corners suffice for a trilinear field), and by the
distance to the plane tangent in its middle, less the field's largest departure from that plane.
A box that cannot beat the best point found so far is dropped whole.
"""

import numpy as np
from numba import njit

_STACK = 96  # boxes waiting: 7 a level and 8 at the last, for up to 12 levels
_TOLERANCE = 1e-3  # in gamma: boxes that could gain less are dropped


@njit(cache=True, nogil=True)
def gamma_slice(
    z, reference, evaluated, mask, cells, cell_distance, spacing, tolerance_gy, levels, out
):
    """Gamma of the masked voxels of one slice ``z``, written to ``out`` (nz, ny, nx).

    ``cells`` (n, 3) are offsets of a cell's first corner, nearest first, ``cell_distance`` (n,)
    and ``spacing`` (3,) in units of the distance to agreement, ``tolerance_gy`` (nz, ny, nx) or
    one value (1, 1, 1). A cell is halved at most ``levels`` times.
    """
    boxes = np.empty((_STACK, 5))
    level = np.empty(_STACK, dtype=np.int64)
    corner, inner = np.empty(8), np.empty(8)
    origin = np.empty(3)
    local = tolerance_gy.size > 1
    for y in range(reference.shape[1]):
        for x in range(reference.shape[2]):
            if not mask[z, y, x]:
                continue
            dose = float(reference[z, y, x])
            scale = 1.0 / (tolerance_gy[z, y, x] if local else tolerance_gy[0, 0, 0])
            best = abs(float(evaluated[z, y, x]) - dose) * scale
            for refine in range(2):  # a tight best from one look at every cell, then the search
                for c in range(cells.shape[0]):
                    if cell_distance[c] >= best - _TOLERANCE:
                        break  # cells come nearest first
                    a, b, d = z + cells[c, 0], y + cells[c, 1], x + cells[c, 2]
                    if not _load_cell(evaluated, a, b, d, dose, scale, corner):
                        continue
                    off = _interval_distance(corner)
                    if cell_distance[c] ** 2 + off * off >= (best - _TOLERANCE) ** 2:
                        continue
                    for k in range(3):
                        origin[k] = cells[c, k] * spacing[k]
                    depth = levels if refine == 1 else 0
                    best = _search_cell(corner, inner, origin, spacing, depth, best, boxes, level)
                    if best <= _TOLERANCE:
                        break
            out[z, y, x] = best


@njit(cache=True, nogil=True, inline="always")
def _load_cell(evaluated, a, b, d, dose, scale, corner):
    """Scaled dose differences at the corners (8,) of a cell; False where it leaves the grid."""
    nz, ny, nx = evaluated.shape
    if a < 0 or b < 0 or d < 0 or a + 1 >= nz or b + 1 >= ny or d + 1 >= nx:
        return False
    for k in range(8):
        corner[k] = (evaluated[a + (k >> 2), b + ((k >> 1) & 1), d + (k & 1)] - dose) * scale
    return True


@njit(cache=True, nogil=True, inline="always")
def _interval_distance(corner):
    """How far 0 lies from the interval that the corners span."""
    low = corner[0]
    high = corner[0]
    for k in range(1, 8):
        low = min(low, corner[k])
        high = max(high, corner[k])
    return max(0.0, low, -high)


@njit(cache=True, nogil=True)
def _search_cell(corner, inner, origin, spacing, levels, best, boxes, level):
    """Smallest gamma in one cell with the scaled dose differences ``corner`` (8,).

    ``origin`` (3,) leads from the reference point to its first corner; ``inner`` (8,) is room for
    a box's corners. Boxes are fractions 0 … 1 of the cell: low corner (z, y, x), size, and the
    square of a gamma they cannot go below.
    """
    n = 1
    boxes[0, 0] = boxes[0, 1] = boxes[0, 2] = 0.0
    boxes[0, 3] = 1.0
    boxes[0, 4] = 0.0
    level[0] = 0
    while n > 0:
        n -= 1
        if best <= _TOLERANCE:
            break
        if boxes[n, 4] >= (best - _TOLERANCE) ** 2:
            continue
        fz, fy, fx, size, depth = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3], level[n]
        for k in range(8):
            inner[k] = _trilinear(
                corner, fz + size * (k >> 2), fy + size * ((k >> 1) & 1), fx + size * (k & 1)
            )
        bound, best = _look(corner, inner, fz, fy, fx, size, origin, spacing, best)
        if depth == levels or best <= _TOLERANCE or bound >= (best - _TOLERANCE) ** 2:
            continue
        half = 0.5 * size
        for k in range(8):
            boxes[n, 0] = fz + half * (k >> 2)
            boxes[n, 1] = fy + half * ((k >> 1) & 1)
            boxes[n, 2] = fx + half * (k & 1)
            boxes[n, 3] = half
            boxes[n, 4] = bound
            level[n] = depth + 1
            n += 1
    return best


@njit(cache=True, nogil=True, inline="always")
def _trilinear(corner, fz, fy, fx):
    y0z0 = corner[0] + (corner[1] - corner[0]) * fx
    y1z0 = corner[2] + (corner[3] - corner[2]) * fx
    y0z1 = corner[4] + (corner[5] - corner[4]) * fx
    y1z1 = corner[6] + (corner[7] - corner[6]) * fx
    low = y0z0 + (y1z0 - y0z0) * fy
    high = y0z1 + (y1z1 - y0z1) * fy
    return low + (high - low) * fz


@njit(cache=True, nogil=True, inline="always")
def _nearest(low, high):
    """Distance from 0 to the interval low … high."""
    return max(0.0, low, -high)


@njit(cache=True, nogil=True, inline="always")
def _clip(value, low, high):
    return min(max(value, low), high)


@njit(cache=True, nogil=True)
def _look(corner, inner, fz, fy, fx, size, origin, spacing, best):
    """Square of the box's bound, and the best gamma after a look at its most promising point.

    About the box's middle the field is a plane e + g·p, p leading from the reference point, give
    or take a departure R at its corners. With |e + g·p| − R ≥ t ≥ 0 and t² ≥ 2λt − λ², the square
    of gamma is at least Σ min(p² + 2λ|g·p|) + 2λ(|e| − R) − λ² for every λ ≥ 0, with p in the
    box: a separable minimum at p = −λg clipped to the box (Lagrangian duality). The best λ for
    R = 0 also gives the point to look at; the true field is read there.
    """
    dz, dy, dx = size * spacing[0], size * spacing[1], size * spacing[2]
    z0 = origin[0] + fz * spacing[0]
    y0 = origin[1] + fy * spacing[1]
    x0 = origin[2] + fx * spacing[2]
    z1, y1, x1 = z0 + dz, y0 + dy, x0 + dx
    near = _nearest(z0, z1) ** 2 + _nearest(y0, y1) ** 2 + _nearest(x0, x1) ** 2
    bound = near + _interval_distance(inner) ** 2
    if bound >= (best - _TOLERANCE) ** 2:
        return bound, best

    i = inner
    middle = 0.125 * (i[0] + i[1] + i[2] + i[3] + i[4] + i[5] + i[6] + i[7])
    sz = 0.25 * (i[4] + i[5] + i[6] + i[7] - i[0] - i[1] - i[2] - i[3])
    sy = 0.25 * (i[2] + i[3] + i[6] + i[7] - i[0] - i[1] - i[4] - i[5])
    sx = 0.25 * (i[1] + i[3] + i[5] + i[7] - i[0] - i[2] - i[4] - i[6])
    first = middle - 0.5 * (sz + sy + sx)
    departure = 0.0
    for k in range(8):
        plane = first + sz * (k >> 2) + sy * ((k >> 1) & 1) + sx * (k & 1)
        departure = max(departure, abs(i[k] - plane))
    gz, gy, gx = sz / dz, sy / dy, sx / dx
    e = first - gz * z0 - gy * y0 - gx * x0
    if e < 0.0:
        e, gz, gy, gx = -e, -gz, -gy, -gx

    dual = e / (1.0 + gz * gz + gy * gy + gx * gx)
    norm = 1.0
    for _ in range(3):  # Newton steps up the concave dual
        z, y, x = _clip(-dual * gz, z0, z1), _clip(-dual * gy, y0, y1), _clip(-dual * gx, x0, x1)
        norm = 1.0
        norm += gz * gz if z0 < z < z1 else 0.0
        norm += gy * gy if y0 < y < y1 else 0.0
        norm += gx * gx if x0 < x < x1 else 0.0
        slope = e + gz * z + gy * y + gx * x - dual
        if abs(slope) < 1e-9:
            break
        dual = max(0.0, dual + slope / norm)
    z, y, x = _clip(-dual * gz, z0, z1), _clip(-dual * gy, y0, y1), _clip(-dual * gx, x0, x1)
    value = _trilinear(
        corner,
        (z - origin[0]) / spacing[0], (y - origin[1]) / spacing[1], (x - origin[2]) / spacing[2],
    )  # fmt: skip
    best = min(best, np.sqrt(value * value + z * z + y * y + x * x))

    dual = max(0.0, dual - departure / norm)
    z, y, x = _clip(-dual * gz, z0, z1), _clip(-dual * gy, y0, y1), _clip(-dual * gx, x0, x1)
    lagrangian = z * (z + 2 * dual * gz) + y * (y + 2 * dual * gy) + x * (x + 2 * dual * gx)
    lagrangian += dual * (2.0 * (e - departure) - dual)
    return max(bound, lagrangian), best
