"""Beamlets through voxels: what lies along their axes, and what they leave in voxels around."""

import math

import numpy as np
from numba import njit

from engine.dose.yoda._fokker_planck import N_COEFFICIENTS

OPTIONS = dict(cache=True, nogil=True, error_model="numpy")
FAST = dict(OPTIONS, fastmath=True)
# of a beamlet at a depth, float32: place, and amplitude and ½/variance of two Gaussians
X, Y, CORE, CORE_NARROW, TAIL, TAIL_NARROW = range(6)
EXP_SCALE = np.float32(1.0 / 64.0)


@njit(**OPTIONS)
def trace_block(
    block, cuts, axes, cell_mm, lateral, density, material, spacing, table, cells
):  # fmt: skip
    """Integrals of the materials' coefficients over mass along the rays of one block.

    ``axes`` (4, 3) are start (x, y, z in mm from the grid's lower corner), two lateral axes and
    direction; ``lateral`` (n, n_cells + 1, 2) is where rays are at the ends of cells, straight in
    between. Mass is density times depth along the axis: mm of density 1 g/cm³. ``table`` is
    (n_materials, N_COEFFICIENTS) per unit of mass, ``cells`` (n, n_cells, N_COEFFICIENTS).
    """
    shape = density.shape
    size = (shape[2], shape[1], shape[0])
    for b in range(cuts[block], cuts[block + 1]):
        for m in range(cells.shape[1]):
            for k in range(N_COEFFICIENTS):
                cells[b, m, k] = 0.0
            near = _point(axes, m * cell_mm, lateral[b, m], spacing)
            far = _point(axes, (m + 1) * cell_mm, lateral[b, m + 1], spacing)
            slope = (far[0] - near[0], far[1] - near[1], far[2] - near[2])
            t = 0.0
            while t < 1.0:
                to = 1.0
                for i in range(3):
                    to = min(to, _next_face(near[i], slope[i], t))
                middle = 0.5 * (t + to)
                x = math.floor(near[0] + middle * slope[0])
                y = math.floor(near[1] + middle * slope[1])
                z = math.floor(near[2] + middle * slope[2])
                if 0 <= x < size[0] and 0 <= y < size[1] and 0 <= z < size[2]:
                    mass = density[z, y, x] * (to - t) * cell_mm
                    if mass > 0.0:
                        of = table[material[z, y, x]]
                        for k in range(N_COEFFICIENTS):
                            cells[b, m, k] += mass * of[k]
                t = to


@njit(**OPTIONS)
def _point(axes, depth_mm, lateral, spacing):
    """A point of a ray in voxels from the grid's lower corner, x, y, z."""
    x = axes[0, 0] + depth_mm * axes[3, 0] + lateral[0] * axes[1, 0] + lateral[1] * axes[2, 0]
    y = axes[0, 1] + depth_mm * axes[3, 1] + lateral[0] * axes[1, 1] + lateral[1] * axes[2, 1]
    z = axes[0, 2] + depth_mm * axes[3, 2] + lateral[0] * axes[1, 2] + lateral[1] * axes[2, 2]
    return x / spacing[0], y / spacing[1], z / spacing[2]


@njit(**OPTIONS)
def _next_face(start, slope, t):
    """Parameter of the next voxel face after ``t`` along one axis; 1 at the latest."""
    if abs(slope) < 1e-9:
        return 1.0
    at = start + t * slope
    face = math.floor(at + 1e-7) + 1.0 if slope > 0.0 else math.ceil(at - 1e-7) - 1.0
    return (face - start) / slope


@njit(**OPTIONS)
def donors(cells, places, out):
    """Whose dose a beamlet takes in each cell, (n, n_cells): its own, or before its ray has met any
    matter that of the nearest beamlet whose ray has, if there is one."""
    n, n_cells = out.shape
    first = np.full(n, n_cells, np.int64)
    for b in range(n):
        for m in range(n_cells):
            if cells[b, m, 0] > 0.0:
                first[b] = m
                break
    for b in range(n):
        nearest, until = b, first[b]
        for m in range(first[b], n_cells):
            out[b, m] = b
        while until > 0:  # among those that have met matter before, the nearest
            best, least = -1, np.inf
            for c in range(n):
                if first[c] < until:
                    x, y = places[c, 0] - places[b, 0], places[c, 1] - places[b, 1]
                    if x * x + y * y < least:
                        best, least = c, x * x + y * y
            if best < 0:
                for m in range(until):
                    out[b, m] = nearest
                break
            nearest = best
            for m in range(first[best], until):
                out[b, m] = best
            until = first[best]


@njit(**OPTIONS)
def rows_around(axis, length, reach, shape, spacing, row, first, count):
    """Runs of voxels whose centers lie within ``reach`` of a segment; returns how many.

    ``axis`` (2, 3) are start (from the center of voxel 0, mm) and unit direction in x, y, z.
    ``row`` is z · ny + y, ``first`` the first x, ``count`` the number; a start at 0 and ``length``
    bound the distance along.
    """
    nz, ny, nx = shape
    ox, oy, oz = axis[0, 0], axis[0, 1], axis[0, 2]
    ux, uy, uz = axis[1, 0], axis[1, 1], axis[1, 2]
    n = 0
    across = 1.0 - ux * ux
    for k in range(nz):
        z = k * spacing[2] - oz
        for j in range(ny):
            y = j * spacing[1] - oy
            # point (x, y, z): distance² = |p|² − (p·u)², a quadratic in x
            along = y * uy + z * uz
            low, high = -ox, (nx - 1) * spacing[0] - ox
            rest = y * y + z * z - along * along
            if across > 1e-9:
                half = -along * ux
                d = half * half - across * (rest - reach * reach)
                if d <= 0.0:
                    continue
                root = math.sqrt(d)
                low = max(low, (-half - root) / across)
                high = min(high, (-half + root) / across)
            elif rest > reach * reach:
                continue
            if abs(ux) > 1e-9:
                a, b = -along / ux, (length - along) / ux
                low, high = max(low, min(a, b)), min(high, max(a, b))
            elif along < 0.0 or along > length:
                continue
            i0 = int(math.ceil((low + ox) / spacing[0] - 1e-9))
            i1 = int(math.floor((high + ox) / spacing[0] + 1e-9))
            if i1 >= i0:
                row[n] = k * ny + j
                first[n] = i0
                count[n] = i1 - i0 + 1
                n += 1
    return n


@njit(**FAST)
def _falls(x):
    """exp(−x) for x ≥ 0 to 2e-4 of itself, in plain arithmetic that runs over eight lanes."""
    y = min(x, np.float32(40.0)) * EXP_SCALE
    y = np.float32(1.0) - y * (
        np.float32(1.0) - y * (np.float32(0.5) - y * (
            np.float32(1.0 / 6.0) - y * np.float32(1.0 / 24.0)))
    )  # fmt: skip
    y = y * y
    y = y * y
    y = y * y
    y = y * y
    y = y * y
    return y * y


@njit(**FAST)
def _sum_beamlets(low, high, t, x, y):
    """Σ of all beamlets' Gaussians at a point, between two depths ``low`` and ``high`` (6, n)."""
    total = np.float32(0.0)
    one = np.float32(1.0) - t
    for b in range(low.shape[1]):
        dx = x - (one * low[X, b] + t * high[X, b])
        dy = y - (one * low[Y, b] + t * high[Y, b])
        r2 = dx * dx + dy * dy
        core = one * low[CORE, b] + t * high[CORE, b]
        tail = one * low[TAIL, b] + t * high[TAIL, b]
        core *= _falls(r2 * (one * low[CORE_NARROW, b] + t * high[CORE_NARROW, b]))
        tail *= _falls(r2 * (one * low[TAIL_NARROW, b] + t * high[TAIL_NARROW, b]))
        total += core + tail
    return total


@njit(**FAST)
def radial_block(block, cuts, wide, step_mm, out):
    """Sums of Gaussians around the axis at radii ``step_mm`` · (0, 1, …), (n_cells, n_radii).

    ``wide`` (n_cells, 2, J) float32 are amplitudes and ½/variances; cells of one block.
    """
    for m in range(cuts[block], cuts[block + 1]):
        for i in range(out.shape[1]):
            r2 = np.float32(i * i) * step_mm * step_mm
            total = np.float32(0.0)
            for j in range(wide.shape[2]):
                total += wide[m, 0, j] * _falls(r2 * wide[m, 1, j])
            out[m, i] = total


@njit(**OPTIONS)
def deposit_block(
    block, cuts, row, first, count, offset, axes, shape, spacing, cell_mm, n_cells, beamlets,
    radial, radial_per_mm, reach2, points, factors, out,
):  # fmt: skip
    """Values at the voxels of the runs of one block, in order, averaged over points in each.

    ``axes`` (4, 3) are start, two lateral axes and direction; ``points`` (n_points, 3) are offsets
    along the lateral axes in mm and along the direction in cells; ``beamlets`` (n_depths, 6, n) and
    ``radial`` (n_depths, n_radii), which is symmetric around the axis, hold at the middle of every
    cell; ``reach2`` (n_depths,) bounds the beamlets. ``factors`` is (density, material, c, d, h),
    what turns dose to water into dose to medium: of shapes (n_voxels,), (n_voxels,),
    (n_materials,) twice, (n_depths,).
    """
    ny = shape[1]
    density, material, factor_c, factor_d, h = factors
    inverse = 1.0 / cell_mm
    n_points = points.shape[0]
    share = 1.0 / n_points
    last = n_cells - 0.5
    for r in range(cuts[block], cuts[block + 1]):
        k, j = row[r] // ny, row[r] % ny
        y, z = j * spacing[1] - axes[0, 1], k * spacing[2] - axes[0, 2]
        for i in range(count[r]):
            voxel = row[r] * shape[2] + first[r] + i
            out[offset[r] + i] = 0.0
            if density[voxel] <= 0.0:
                continue
            x = (first[r] + i) * spacing[0] - axes[0, 0]
            u = x * axes[1, 0] + y * axes[1, 1] + z * axes[1, 2]
            v = x * axes[2, 0] + y * axes[2, 1] + z * axes[2, 2]
            depth = (x * axes[3, 0] + y * axes[3, 1] + z * axes[3, 2]) * inverse
            total = 0.0
            for s in range(n_points):
                at = depth + points[s, 2] - 0.5
                if at < -0.5 or at > last:
                    continue
                low = min(max(int(at), 0), n_cells - 2)
                t = np.float32(min(max(at - low, 0.0), 1.0))
                pu, pv = np.float32(u + points[s, 0]), np.float32(v + points[s, 1])
                r2 = pu * pu + pv * pv
                radius = np.sqrt(r2) * radial_per_mm
                q = int(radius)
                if q < radial.shape[1] - 1:
                    f = radius - np.float32(q)
                    near = radial[low, q] + f * (radial[low, q + 1] - radial[low, q])
                    far = radial[low + 1, q] + f * (radial[low + 1, q + 1] - radial[low + 1, q])
                    total += near + t * (far - near)
                if r2 <= reach2[low]:
                    total += _sum_beamlets(beamlets[low], beamlets[low + 1], t, pu, pv)
            if factor_c.shape[0] > 0:
                m = material[voxel]
                total *= factor_c[m] + factor_d[m] * h[min(max(int(depth), 0), n_cells - 1)]
            out[offset[r] + i] = total * share
