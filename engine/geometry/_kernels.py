"""Ray tracing through voxels, and interpolation in what it found."""

import numpy as np
from numba import njit

OPTIONS = dict(cache=True, nogil=True, error_model="numpy")
FAR = 1e30
ONE = np.uint64(1)


@njit(**OPTIONS)
def slab(position, slope, size):
    """Where a line enters and leaves 0 … size along one axis, in units of its parameter."""
    if slope == 0.0:
        inside = 0.0 <= position < size
        return (-FAR, FAR) if inside else (FAR, -FAR)
    t0, t1 = -position / slope, (size - position) / slope
    return min(t0, t1), max(t0, t1)


@njit(**OPTIONS)
def first_cell(position, slope, size, enter):
    """Cell at the entrance, step, parameter of the next face and from face to face, one axis."""
    at = position + enter * slope + 1e-9 * np.sign(slope)
    cell = min(max(int(np.floor(at)), 0), size - 1)
    if slope > 0.0:
        return cell, 1, (cell + 1 - position) / slope, 1.0 / slope
    if slope < 0.0:
        return cell, -1, (cell - position) / slope, -1.0 / slope
    return cell, 0, FAR, FAR


@njit(**OPTIONS)
def trace_block(
    block, cuts, rsp, lower, spacing, isocenter, step_u, step_v, source, first_u, first_v, n_u,
    stations, wet,
):  # fmt: skip
    """Water-equivalent path from outside to every station of the rays of one block.

    Rays are counted from the one through ``isocenter`` (3,), from ``first_u`` and ``first_v`` on;
    ``step_u`` and ``step_v`` (3,) lead to neighbours in the isoplane, ``source`` (3,) is where all
    come from. A ray is point + s · (point − source),
    and ``stations`` (n,) ascending are values of s (0 at the isoplane); ``wet`` is (n_rays, n).
    Exact through voxels of constant RSP (Amanatides and Woo 1987).
    """
    nz, ny, nx = rsp.shape
    n = len(stations)
    first = (source[0] - lower[0], source[1] - lower[1], source[2] - lower[2])
    for ray in range(cuts[block], cuts[block + 1]):
        i, j = first_u + ray % n_u, first_v + ray // n_u
        px = isocenter[0] + i * step_u[0] + j * step_v[0] - lower[0]
        py = isocenter[1] + i * step_u[1] + j * step_v[1] - lower[1]
        pz = isocenter[2] + i * step_u[2] + j * step_v[2] - lower[2]
        ax, ay, az = px - first[0], py - first[1], pz - first[2]
        length = np.sqrt(ax * ax + ay * ay + az * az)  # mm per unit of s
        px, ax = px / spacing[0], ax / spacing[0]
        py, ay = py / spacing[1], ay / spacing[1]
        pz, az = pz / spacing[2], az / spacing[2]
        x0, x1 = slab(px, ax, nx)
        y0, y1 = slab(py, ay, ny)
        z0, z1 = slab(pz, az, nz)
        here, leave = max(max(x0, y0), max(z0, -1.0)), min(x1, min(y1, z1))
        k = 0
        while k < n and (leave <= here or stations[k] <= here):
            wet[ray, k] = np.float32(0.0)
            k += 1
        if leave <= here:
            continue
        cx, sx, tx, dx = first_cell(px, ax, nx, here)
        cy, sy, ty, dy = first_cell(py, ay, ny, here)
        cz, sz, tz, dz = first_cell(pz, az, nz, here)
        total = 0.0
        while here < leave and k < n:
            slope = rsp[cz, cy, cx] * length
            to = min(min(tx, ty), min(tz, leave))
            while k < n and stations[k] <= to:
                wet[ray, k] = np.float32(total + slope * (stations[k] - here))
                k += 1
            total += slope * (to - here)
            here = to
            if to == tx:
                cx += sx
                tx += dx
                if cx < 0 or cx >= nx:
                    break
            elif to == ty:
                cy += sy
                ty += dy
                if cy < 0 or cy >= ny:
                    break
            else:
                cz += sz
                tz += dz
                if cz < 0 or cz >= nz:
                    break
        while k < n:
            wet[ray, k] = np.float32(total)
            k += 1


@njit(**OPTIONS)
def interpolate_block(block, cuts, wet, u0, du, v0, dv, t0, dt, u, v, t, shift, depth):
    """Trilinear WET at points (u, v, t + shift); ``wet`` is (n_v, n_u, n_t). NaN off the map."""
    n_v, n_u, n_t = wet.shape
    last_x, last_y, last_z = n_u - 1.0, n_v - 1.0, n_t - 1.0
    per_u, per_v, per_t, first_t = 1.0 / du, 1.0 / dv, 1.0 / dt, shift - t0
    slack, one = 1e-3, np.float32(1.0)
    for p in range(np.uint64(cuts[block]), np.uint64(cuts[block + 1])):
        x = (u[p] - u0) * per_u
        y = (v[p] - v0) * per_v
        z = min(max((t[p] + first_t) * per_t, 0.0), last_z)
        if not (-slack <= x <= last_x + slack and -slack <= y <= last_y + slack):
            depth[p] = np.float32(np.nan)
            continue
        # unsigned: numba's check for negative indices costs more than the look-ups
        i = np.uint64(min(max(x, 0.0), last_x - 1.0))
        j = np.uint64(min(max(y, 0.0), last_y - 1.0))
        k = np.uint64(min(z, last_z - 1.0))
        fx, fy, fz = np.float32(x - i), np.float32(y - j), np.float32(z - k)
        gx, gz = one - fx, one - fz
        i1, j1, k1 = i + ONE, j + ONE, k + ONE
        low = gx * (wet[j, i, k] * gz + wet[j, i, k1] * fz) + fx * (
            wet[j, i1, k] * gz + wet[j, i1, k1] * fz
        )
        high = gx * (wet[j1, i, k] * gz + wet[j1, i, k1] * fz) + fx * (
            wet[j1, i1, k] * gz + wet[j1, i1, k1] * fz
        )
        depth[p] = low + fy * (high - low)


@njit(**OPTIONS)
def project_block(block, cuts, voxels, shape, origin, spacing, isocenter, axes, source, u, v, t):
    """Beam coordinates of voxel centers given by flat index; ``axes`` (3, 3) rows u, v, t."""
    ny, nx = np.uint32(shape[1]), np.uint32(shape[2])
    x0, y0, z0 = origin[0] - isocenter[0], origin[1] - isocenter[1], origin[2] - isocenter[2]
    for p in range(np.uint64(cuts[block]), np.uint64(cuts[block + 1])):
        row = voxels[p] // nx
        k = row // ny
        x = x0 + (voxels[p] - row * nx) * spacing[0]
        y = y0 + (row - k * ny) * spacing[1]
        z = z0 + k * spacing[2]
        along = x * axes[2, 0] + y * axes[2, 1] + z * axes[2, 2]
        shrink = source / (source + along)
        u[p] = np.float32((x * axes[0, 0] + y * axes[0, 1] + z * axes[0, 2]) * shrink)
        v[p] = np.float32((x * axes[1, 0] + y * axes[1, 1] + z * axes[1, 2]) * shrink)
        t[p] = np.float32(along)
