"""Contours of one axial plane and the pixels they cover, both ways.

Polygons are (n, 2) arrays of x, y in mm, closed without repeating the first point. Several in a
plane count by the even-odd rule: what lies within one is inside, within two outside again, so a
hole may be a polygon of its own or part of one by a channel of no width (a keyhole).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.io import _contour_kernels
from engine.patient.grid import Grid


@dataclass(frozen=True, eq=False)
class Coverage:
    """Share of every pixel inside, of the part of a plane that polygons reach."""

    window: tuple[slice, slice]  # (y, x) of the plane
    share: np.ndarray  # of the window, float64 in 0 … 1


def coverage(polygons: Sequence[np.ndarray], grid: Grid) -> Coverage:
    """Share of the pixels of an axial plane of a grid that lies inside polygons.

    The area covered in a row of pixels is exact, but for edges that cross each other (0.4 of a
    pixel at most between rotated rectangles). Single pixels are right within 2 %: an edge that
    passes from one to the next within a sub-line is cut straight there.
    """
    in_pixels = [_in_pixels(polygon, grid) for polygon in polygons]
    edges = np.concatenate([_edges(p) for p in in_pixels]) if in_pixels else np.empty((0, 4))
    edges = edges[edges[:, 0] != edges[:, 2]]
    if len(edges) == 0:
        return Coverage((slice(0, 0), slice(0, 0)), np.zeros((0, 0)))
    low, high = edges.reshape(-1, 2).min(axis=0), edges.reshape(-1, 2).max(axis=0)
    window = tuple(
        slice(*np.clip([int(np.floor(a)), int(np.ceil(b))], 0, n).tolist())
        for a, b, n in zip(low, high, grid.shape[1:])
    )
    edges = edges - np.array([window[0].start, window[1].start] * 2)
    shape = tuple(w.stop - w.start for w in window)
    low_y, low_x, high_y, high_x = np.ascontiguousarray(_upwards(edges).T)
    return Coverage(window, _contour_kernels.coverage(low_y, low_x, high_y, high_x, *shape))


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
