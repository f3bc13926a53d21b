"""Analytic shapes drawn on a grid: ellipsoids, tapered tubes, and ellipses swept along z.

Every shape is evaluated only inside its bounding box, in float32, which keeps a whole head within
tens of milliseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.patient.grid import Grid

Point = tuple[float, float, float]  # x, y, z in mm


@dataclass(frozen=True, eq=False)
class Region:
    """Part of a volume: a window (slices z, y, x) and the voxels inside it."""

    window: tuple[slice, slice, slice]
    inside: np.ndarray

    def paint(self, volume: np.ndarray, value: float) -> None:
        """Write a value into the region of a volume that the caller allocated."""
        volume[self.window][self.inside] = value

    def mask(self, shape: tuple[int, int, int]) -> np.ndarray:
        mask = np.zeros(shape, dtype=bool)
        mask[self.window] = self.inside
        return mask


class Canvas:
    """Coordinates of a grid in the frame of an anatomy.

    The frame is the grid's, stretched by ``scale`` (x, y, z) about the origin and, below
    ``bend_below_mm``, sheared along y by ``bend`` and along x by ``tilt`` mm per mm of z: a flexed
    or tilted neck.
    """

    def __init__(
        self,
        grid: Grid,
        scale: Point = (1.0, 1.0, 1.0),
        bend: float = 0.0,
        tilt: float = 0.0,
        bend_below_mm: float = -40.0,
    ):
        z, y, x = (axis.astype(np.float32) for axis in grid.axes_mm())
        self.grid = grid
        self._z = z / np.float32(scale[2])
        below = np.minimum(self._z - np.float32(bend_below_mm), 0.0)
        self._y = y[None, :] / np.float32(scale[1]) - np.float32(bend) * below[:, None]
        self._x = x[None, :] / np.float32(scale[0]) - np.float32(tilt) * below[:, None]

    def ellipsoid(self, center: Point, semi_axes: Point, grow_mm: float = 0.0) -> Region:
        a, b, c = (max(s + grow_mm, 1e-3) for s in semi_axes)
        window, (x, y, z) = self._window(
            [m - s for m, s in zip(center, (a, b, c))], [m + s for m, s in zip(center, (a, b, c))]
        )
        square = _square(x - center[0], a) + _square(y - center[1], b) + _square(z - center[2], c)
        return Region(window, square <= 1.0)

    def tube(self, start: Point, end: Point, start_radius: float, end_radius: float) -> Region:
        """A capsule whose radius runs linearly from start to end, in mm."""
        reach = max(start_radius, end_radius)
        low = [min(p, q) - reach for p, q in zip(start, end)]
        high = [max(p, q) + reach for p, q in zip(start, end)]
        window, (x, y, z) = self._window(low, high)
        px, py, pz = (np.float32(p) for p in start)
        dx, dy, dz = (np.float32(q - p) for p, q in zip(start, end))
        x, y, z = x - px, y - py, z - pz
        along = np.clip((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
        square = (x - along * dx) ** 2 + (y - along * dy) ** 2 + (z - along * dz) ** 2
        radius = start_radius + (end_radius - start_radius) * along
        return Region(window, square <= radius * radius)

    def column(
        self, knots: np.ndarray, grow_mm: float = 0.0, rows: Callable | None = None
    ) -> Region:
        """An ellipse in x and y swept along z.

        ``knots`` (n, 5): z ascending, center x, center y, semi-axes along x and y in mm, linear
        between them and nothing beyond. ``rows`` picks slices by z (boolean of z).
        """
        knots = np.asarray(knots, dtype=np.float32)
        z_knots, cx, cy, ax, ay = knots.T
        ax, ay = np.maximum(ax + grow_mm, 1e-3), np.maximum(ay + grow_mm, 1e-3)
        low = ((cx - ax).min(), (cy - ay).min(), z_knots[0] - grow_mm)
        high = ((cx + ax).max(), (cy + ay).max(), z_knots[-1] + grow_mm)
        window, (x, y, z) = self._window(low, high)
        cx, cy, ax, ay = (
            np.interp(z, z_knots, values).astype(np.float32) for values in (cx, cy, ax, ay)
        )
        inside = ((x - cx) / ax) ** 2 + ((y - cy) / ay) ** 2 <= 1.0
        if rows is not None:
            inside &= rows(z)
        return Region(window, inside)

    def arc(self, center: tuple[float, float], outer, inner, z_range, y_max: float) -> Region:
        """The anterior part (y < ``y_max``) of an elliptic ring, a jaw; semi-axes (x, y) in mm."""
        low = (center[0] - outer[0], center[1] - outer[1], z_range[0])
        window, (x, y, z) = self._window(low, (center[0] + outer[0], y_max, z_range[1]))
        x, y = x - np.float32(center[0]), y - np.float32(center[1])
        ring = _square(x, outer[0]) + _square(y, outer[1]) <= 1.0
        ring &= _square(x, inner[0]) + _square(y, inner[1]) > 1.0
        return Region(window, ring & (y + center[1] < y_max) & (z == z))

    def roof(self, region: Region, y_knots, z_knots) -> Region:
        """The part of a region above a floor z(y) given by knots, in mm."""
        zs, ys, _ = region.window
        floor = np.interp(self._y[zs, ys], y_knots, z_knots)
        above = self._z[zs, None] > floor
        return Region(region.window, region.inside & above[:, :, None])

    def coordinates(self, window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z of a window's voxels in the frame, broadcastable to its shape."""
        zs, ys, xs = window
        return self._x[zs, None, xs], self._y[zs, ys, None], self._z[zs, None, None]

    def _window(self, low, high):
        zs = _between(self._z, self._z, low[2], high[2])
        x, y = self._x[zs], self._y[zs]
        if len(x) == 0:
            window = (zs, slice(0, 0), slice(0, 0))
        else:
            window = (
                zs,
                _between(y.min(axis=0), y.max(axis=0), low[1], high[1]),
                _between(x.min(axis=0), x.max(axis=0), low[0], high[0]),
            )
        return window, self.coordinates(window)


def _square(offset: np.ndarray, semi_axis: float) -> np.ndarray:
    return np.square(offset * np.float32(1.0 / semi_axis))


def _between(smallest: np.ndarray, largest: np.ndarray, low: float, high: float) -> slice:
    """Indices of an ascending axis that may lie between two bounds."""
    start = int(np.searchsorted(largest, low, side="left"))
    stop = int(np.searchsorted(smallest, high, side="right"))
    return slice(start, max(start, stop))
