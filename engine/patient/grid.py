"""The regular voxel grid: the one place where index and millimeter meet.

Axes are the DICOM patient's: x to the patient's left, y posterior, z superior. Arrays run
``(nz, ny, nx)``; spacing and origin follow the array, ``(z, y, x)``; points run ``(n, 3)`` in
``x, y, z``. The origin is the *center* of voxel ``(0, 0, 0)``.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Shape, spacing and origin of a volume; hashable, compared by value."""

    shape: tuple[int, int, int]  # (nz, ny, nx)
    spacing_mm: tuple[float, float, float]  # (dz, dy, dx)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)  # (z, y, x) of voxel (0, 0, 0)

    def __post_init__(self):
        object.__setattr__(self, "shape", _triple("shape", self.shape, int))
        object.__setattr__(self, "spacing_mm", _triple("spacing_mm", self.spacing_mm, float))
        object.__setattr__(self, "origin_mm", _triple("origin_mm", self.origin_mm, float))
        if min(self.shape) < 1:
            raise ValueError(f"shape={self.shape} has an empty axis; give at least one voxel.")
        if not min(self.spacing_mm) > 0:
            raise ValueError(f"spacing_mm={self.spacing_mm} must be positive on every axis.")

    @classmethod
    def centered(cls, shape, spacing_mm) -> "Grid":
        """A grid whose middle lies at (0, 0, 0) mm."""
        shape, spacing = tuple(shape), tuple(spacing_mm)
        return cls(shape, spacing, tuple(-0.5 * (n - 1) * s for n, s in zip(shape, spacing)))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def voxel_volume_cm3(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def lower_mm(self) -> np.ndarray:
        """Outer face of the first voxels, (x, y, z) in mm."""
        return (np.array(self.origin_mm) - 0.5 * np.array(self.spacing_mm))[::-1]

    @property
    def upper_mm(self) -> np.ndarray:
        """Outer face of the last voxels, (x, y, z) in mm."""
        return self.lower_mm + (np.array(self.shape) * np.array(self.spacing_mm))[::-1]

    @property
    def center_mm(self) -> np.ndarray:
        """Middle of the volume, (x, y, z) in mm."""
        return 0.5 * (self.lower_mm + self.upper_mm)

    def axes_mm(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Voxel centers along z, y and x in mm."""
        return tuple(
            o + s * np.arange(n) for n, s, o in zip(self.shape, self.spacing_mm, self.origin_mm)
        )

    def points_mm(self, voxels: np.ndarray | None = None) -> np.ndarray:
        """Centers of voxels given by flat index (all by default), (n, 3) as x, y, z in mm."""
        flat = np.arange(self.size) if voxels is None else np.asarray(voxels)
        index = np.stack(np.unravel_index(flat, self.shape), axis=-1)
        return (np.array(self.origin_mm) + index * np.array(self.spacing_mm))[:, ::-1]

    def index_of(self, points_mm: np.ndarray) -> np.ndarray:
        """Fractional (z, y, x) indices of points (n, 3) in mm; whole numbers are centers."""
        zyx = np.asarray(points_mm, dtype=float)[..., ::-1]
        return (zyx - np.array(self.origin_mm)) / np.array(self.spacing_mm)

    def resampled(self, spacing_mm) -> "Grid":
        """A grid of another spacing over the same box: outer faces coincide at the low end."""
        spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
        extent = np.array(self.shape) * np.array(self.spacing_mm)
        shape = np.maximum(1, np.ceil(extent / spacing - 1e-6)).astype(int)
        origin = np.array(self.origin_mm) - 0.5 * np.array(self.spacing_mm) + 0.5 * spacing
        return Grid(tuple(shape), tuple(spacing), tuple(origin))

    def cropped(self, mask: np.ndarray, margin_mm: float = 0.0) -> "tuple[Grid, tuple[slice, ...]]":
        """The smallest grid around a mask (nz, ny, nx) plus a margin, and the slices that cut."""
        mask = np.asarray(mask)
        if mask.shape != self.shape:
            raise ValueError(f"mask has shape {mask.shape}, the grid {self.shape}.")
        if not mask.any():
            raise ValueError("mask is empty; there is nothing to crop to.")
        cut = []
        for axis, (n, s) in enumerate(zip(self.shape, self.spacing_mm)):
            hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            pad = int(np.ceil(margin_mm / s))
            cut.append(slice(max(0, hit[0] - pad), min(n, hit[-1] + 1 + pad)))
        return self.part(tuple(cut)), tuple(cut)

    def part(self, cut: tuple[slice, slice, slice]) -> "Grid":
        """The grid of the voxels that slices (z, y, x) with a start and a stop cut out."""
        shape = tuple(c.stop - c.start for c in cut)
        origin = tuple(o + c.start * s for o, c, s in zip(self.origin_mm, cut, self.spacing_mm))
        return Grid(shape, self.spacing_mm, origin)


def _triple(name: str, value, kind) -> tuple:
    triple = tuple(kind(v) for v in value)
    if len(triple) != 3 or not np.all(np.isfinite(triple)):
        raise ValueError(f"{name}={value!r} must be three finite numbers in the order z, y, x.")
    return triple
