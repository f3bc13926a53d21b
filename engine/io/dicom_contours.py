"""Contours of one axial plane and the pixels they cover, both ways.

Polygons are (n, 2) arrays of x, y in mm, closed without repeating the first point. Several in a
plane count by the even-odd rule: what lies within one is inside, within two outside again, so a
hole may be a polygon of its own or part of one by a channel of no width (a keyhole). Polygons that
overlap without one lying within the other are united instead, if a ``Nesting`` of them says so; a
polygon that crosses itself is even-odd in any case.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.io import _contour_kernels
from engine.patient.grid import Grid

APART = 0.01  # of a polygon's area, less of which it does not share with another or does
SAME_WITHIN_MM = 0.1  # mean distance of two polygons that are one drawn twice


@dataclass(frozen=True, eq=False)
class Coverage:
    """Share of every pixel inside, of the part of a plane that polygons reach."""

    window: tuple[slice, slice]  # (y, x) of the plane
    share: np.ndarray  # of the window, float64 in 0 … 1


@dataclass(frozen=True, eq=False)
class Nesting:
    """How polygons of a plane count together.

    What lies in a polygon that is no hole is inside, but for what lies in a hole within this one;
    by the even-odd rule where ``is_hole`` is empty.
    """

    is_hole: np.ndarray  # (n_polygons,)
    outers: np.ndarray  # polygons that are no holes around each hole, of all in turn
    ends: np.ndarray  # (n_polygons + 1,), where each polygon's outers begin and the last end
    are_crossing: bool  # there may be edges of two polygons that cross


_NONE = (np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(1, np.int64))
EVEN_ODD, CROSSING_EVEN_ODD = Nesting(*_NONE, False), Nesting(*_NONE, True)


def nesting(polygons: Sequence[np.ndarray]) -> Nesting:
    """How polygons count: even-odd, unless some overlap of which neither lies within the other.

    Those are united. A polygon lies within another by all but 1 % of its area, and overlaps of
    less than 1 % of it do not count, for outlines that share a stretch seldom do so to the last
    digit. Of two that are 0.1 mm apart on the mean one is enough, so that they are united too; a
    rind is wider.
    """
    if len(polygons) < 2:
        return EVEN_ODD
    low, high = (np.array([f(p, axis=0) for p in polygons]) for f in (np.min, np.max))
    pairs = _contour_kernels.touching_boxes(low, high)
    if len(pairs) == 0:
        return EVEN_ODD
    ends = np.cumsum([0, *map(len, polygons)])
    share, area = _contour_kernels.overlaps(np.concatenate(polygons), ends, low, high, pairs)
    inner, outer = pairs.T
    apart_mm2 = SAME_WITHIN_MM * np.array([_perimeter_mm(p) for p in polygons])
    is_within = (share >= 1.0 - APART) & (area[outer] - area[inner] > apart_mm2[inner])
    if not np.any(~is_within & (share > APART)):
        return EVEN_ODD
    return _nested(pairs[is_within], area)


def _nested(within: np.ndarray, area: np.ndarray) -> Nesting:
    """From pairs (m, 2) of a polygon and one around it, and the areas (n,) of all."""
    depth = np.zeros(len(area), int)
    for inner, outer in within[np.argsort(-area[within[:, 0]])]:  # all around a polygon before it
        depth[inner] = max(depth[inner], depth[outer] + 1)
    is_hole = depth % 2 == 1
    counted = within[is_hole[within[:, 0]] & ~is_hole[within[:, 1]]]
    counted = counted[np.argsort(counted[:, 0], kind="stable")]
    ends = np.searchsorted(counted[:, 0], np.arange(len(area) + 1))
    return Nesting(is_hole, np.ascontiguousarray(counted[:, 1]), ends, True)


def coverage(
    polygons: Sequence[np.ndarray], grid: Grid, nesting: Nesting = EVEN_ODD
) -> Coverage:
    """Share of the pixels of an axial plane of a grid that lies inside polygons.

    The area covered in a row of pixels is exact, but where a polygon crosses itself, or others and
    ``nesting`` does not say so, or where more than 256 edges meet in the row. Single pixels are
    right within 2 %: an edge that passes from one to the next within a sub-line is cut straight
    there.
    """
    in_pixels = [_in_pixels(polygon, grid) for polygon in polygons]
    edges = np.concatenate([_edges(p) for p in in_pixels]) if in_pixels else np.empty((0, 4))
    of = np.repeat(np.arange(len(in_pixels)), [len(p) for p in in_pixels])
    is_slanted = edges[:, 0] != edges[:, 2]
    edges, of = edges[is_slanted], of[is_slanted]
    if len(edges) == 0:
        return Coverage((slice(0, 0), slice(0, 0)), np.zeros((0, 0)))
    low, high = edges.reshape(-1, 2).min(axis=0), edges.reshape(-1, 2).max(axis=0)
    window = tuple(
        slice(*np.clip([int(np.floor(a)), int(np.ceil(b))], 0, n).tolist())
        for a, b, n in zip(low, high, grid.shape[1:])
    )
    edges = edges - np.array([window[0].start, window[1].start] * 2)
    shape = tuple(w.stop - w.start for w in window)
    sides = tuple(np.ascontiguousarray(_upwards(edges).T))
    counted = (nesting.is_hole, nesting.outers, nesting.ends, nesting.are_crossing)
    return Coverage(window, _contour_kernels.coverage(sides, of, counted, *shape))


def outlines(mask: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """Polygons around a mask (ny, nx) of an axial plane, along pixel edges; holes as keyholes.

    Pixels that touch at a corner alone have polygons apart. Filled again the polygons give the
    mask, and their area is the mask's.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != grid.shape[1:]:
        raise ValueError(
            f"mask is {mask.dtype} of shape {mask.shape}; give a boolean plane of the grid's "
            f"shape {grid.shape[1:]}."
        )
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return []
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    corners, ends = _contour_kernels.outlines(part)
    spacing = np.array(grid.spacing_mm[:0:-1])  # (x, y)
    points = grid.lower_mm[:2] + (corners[:, ::-1] + [columns[0] - 1, rows[0] - 1]) * spacing
    return [points[a:b] for a, b in zip(ends[:-1], ends[1:])]


def _perimeter_mm(polygon: np.ndarray) -> float:
    return float(np.hypot(*(polygon - np.roll(polygon, 1, axis=0)).T).sum())


def _in_pixels(polygon: np.ndarray, grid: Grid) -> np.ndarray:
    """Points as (y, x) in pixels from the corner of pixel (0, 0)."""
    spacing = np.array(grid.spacing_mm[:0:-1])
    return ((np.asarray(polygon, dtype=float) - grid.lower_mm[:2]) / spacing)[:, ::-1]


def _edges(points: np.ndarray) -> np.ndarray:
    """Edges (n, 4) as (y, x, y, x), closing one included."""
    return np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)


def _upwards(edges: np.ndarray) -> np.ndarray:
    """Edges with the end of lower y first."""
    return np.where((edges[:, 0] > edges[:, 2])[:, None], edges[:, [2, 3, 0, 1]], edges)
