"""Rays of all angles of an arc in one pass: which layers stop in the target, what they cross."""

import numpy as np
from numba import njit

from engine.geometry._kernels import FAR, OPTIONS, first_cell, slab


@njit(**OPTIONS)
def _into_grid(aim, source, lower, spacing, shape):
    """A ray from its source through a point, in voxels of each axis per unit of s (1: the point).

    Returns position at s = 0, slope, where it enters and leaves the grid, and its length in mm.
    """
    sx, sy, sz = source[0] - lower[0], source[1] - lower[1], source[2] - lower[2]
    dx, dy, dz = aim[0] - source[0], aim[1] - source[1], aim[2] - source[2]
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    px, py, pz = sx / spacing[0], sy / spacing[1], sz / spacing[2]
    ax, ay, az = dx / spacing[0], dy / spacing[1], dz / spacing[2]
    x0, x1 = slab(px, ax, shape[2])
    y0, y1 = slab(py, ay, shape[1])
    z0, z1 = slab(pz, az, shape[0])
    enter, leave = max(max(x0, y0), max(z0, 0.0)), min(x1, min(y1, z1))
    return (px, py, pz), (ax, ay, az), enter, leave, length


@njit(**OPTIONS)
def meet_block(
    block, cuts, rsp, labels, lower, spacing, isocenter, step_u, step_v, source, first_u, first_v,
    n_u, n_rays, edges, meets, span, entrance,
):  # fmt: skip
    """Walk the rays of one block, counted angle by angle: ``n_rays`` of each.

    ``labels`` (nz, ny, nx) holds a bit per structure, bit 0 the target. ``edges`` (E + 1,) rise:
    layer e stops between two of them in mm of water. ``meets`` (G · n_rays, E) gets bit 0 where
    that stretch lies in the target, and the bits of all structures passed up to its end; ``span``
    (G · n_rays, 2) the target's least and largest depth (FAR and −1 where the ray misses it);
    ``entrance`` (G · n_rays,) where the ray meets matter, s from the source (1: the isoplane).
    Vectors of the angles are (G, 3).
    """
    shape = rsp.shape
    n_layers = len(edges) - 1
    target = np.uint16(1)
    for ray in range(cuts[block], cuts[block + 1]):
        g, place = ray // n_rays, ray % n_rays
        i, j = first_u + place % n_u, first_v + place // n_u
        aim = (
            isocenter[g, 0] + i * step_u[g, 0] + j * step_v[g, 0],
            isocenter[g, 1] + i * step_u[g, 1] + j * step_v[g, 1],
            isocenter[g, 2] + i * step_u[g, 2] + j * step_v[g, 2],
        )
        p, a, enter, leave, length = _into_grid(aim, source[g], lower, spacing, shape)
        span[ray, 0], span[ray, 1], entrance[ray] = FAR, -1.0, FAR
        if leave <= enter:
            continue
        cx, sx, tx, dx = first_cell(p[0], a[0], shape[2], enter)
        cy, sy, ty, dy = first_cell(p[1], a[1], shape[1], enter)
        cz, sz, tz, dz = first_cell(p[2], a[2], shape[0], enter)
        here, depth, layer, passed = enter, 0.0, 0, np.uint16(0)
        while here < leave:
            to = min(min(tx, ty), min(tz, leave))
            deeper = depth + rsp[cz, cy, cx] * length * (to - here)
            bits = labels[cz, cy, cx]
            passed |= bits
            if entrance[ray] == FAR and deeper > 0.5:
                entrance[ray] = here
            if bits & target:
                span[ray, 0] = min(span[ray, 0], np.float32(depth))
                span[ray, 1] = np.float32(deeper)
            while layer < n_layers and edges[layer + 1] <= depth:
                layer += 1
            e = layer
            while e < n_layers and edges[e] < deeper:
                meets[ray, e] |= (passed & ~target) | (bits & target)
                e += 1
            depth, here = deeper, to
            if to == tx:
                cx += sx
                tx += dx
                if cx < 0 or cx >= shape[2]:
                    break
            elif to == ty:
                cy += sy
                ty += dy
                if cy < 0 or cy >= shape[1]:
                    break
            else:
                cz += sz
                tz += dz
                if cz < 0 or cz >= shape[0]:
                    break


@njit(**OPTIONS)
def depth_block(block, cuts, rsp, lower, spacing, source, points, depth):
    """Water-equivalent depth in mm of points (P, 3) from sources (G, 3); ``depth`` is (G · P,)."""
    shape = rsp.shape
    n_points = len(points)
    for ray in range(cuts[block], cuts[block + 1]):
        g, at = ray // n_points, ray % n_points
        p, a, enter, leave, length = _into_grid(points[at], source[g], lower, spacing, shape)
        depth[ray] = 0.0
        leave = min(leave, 1.0)
        if leave <= enter:
            continue
        cx, sx, tx, dx = first_cell(p[0], a[0], shape[2], enter)
        cy, sy, ty, dy = first_cell(p[1], a[1], shape[1], enter)
        cz, sz, tz, dz = first_cell(p[2], a[2], shape[0], enter)
        here, total = enter, 0.0
        while here < leave:
            to = min(min(tx, ty), min(tz, leave))
            total += rsp[cz, cy, cx] * length * (to - here)
            here = to
            if to == tx:
                cx += sx
                tx += dx
                if cx < 0 or cx >= shape[2]:
                    break
            elif to == ty:
                cy += sy
                ty += dy
                if cy < 0 or cy >= shape[1]:
                    break
            else:
                cz += sz
                tz += dz
                if cz < 0 or cz >= shape[0]:
                    break
        depth[ray] = np.float32(total)
