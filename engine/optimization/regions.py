"""Where an objective looks: rows of the matrix, and how much of a structure each holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Region:
    """A structure on the rows of an influence matrix.

    ``rows`` (n,) ascend; ``volume`` (n,) are the voxels' volumes inside the structure, scaled to
    a sum of 1; ``distance_mm`` (n,) to the target is wanted by dose fall-off alone.
    """

    rows: np.ndarray  # uint32
    volume: np.ndarray  # float64
    distance_mm: np.ndarray | None = None  # float32

    def __post_init__(self):
        rows = np.asarray(self.rows)
        volume = np.asarray(self.volume, np.float64)
        if rows.ndim != 1 or rows.shape != volume.shape:
            raise ValueError(f"rows {rows.shape} and volume {volume.shape} must be equal lists.")
        if len(rows) == 0:
            raise ValueError("a region needs at least one row; leave empty structures out.")
        if rows.min() < 0 or np.any(np.diff(rows.astype(np.int64)) <= 0):
            raise ValueError("rows of a region must be 0 or more and ascend without repeats.")
        if not np.all(np.isfinite(volume)) or volume.min() < 0 or not volume.sum() > 0:
            raise ValueError("volume of a region must be finite, not negative, and not all 0.")
        object.__setattr__(self, "rows", rows.astype(np.uint32))
        object.__setattr__(self, "volume", volume / volume.sum())
        if self.distance_mm is not None:
            distance = np.asarray(self.distance_mm, np.float32)
            if distance.shape != rows.shape or np.any(np.isnan(distance)):
                raise ValueError(f"distance_mm {distance.shape} must give {rows.shape} numbers.")
            object.__setattr__(self, "distance_mm", distance)


def region_of(entry) -> Region:
    """A region from itself or from (rows, volume) or (rows, volume, distance_mm)."""
    return entry if isinstance(entry, Region) else Region(*entry)


def regions_on(
    voxels: np.ndarray,
    fraction: Mapping[str, np.ndarray],
    distance_mm: np.ndarray | None = None,
    minimum: float = 1e-3,
) -> dict[str, Region]:
    """Structures as regions, from the share (nz, ny, nx) of every voxel that lies inside.

    ``voxels`` (n_rows,) are the flat indices of the matrix's rows, ``distance_mm`` (nz, ny, nx)
    the distance to the target. Shares up to ``minimum`` do not count; structures without a row
    are left out.
    """
    voxels = np.asarray(voxels)
    regions = {}
    for name, share in fraction.items():
        on_rows = np.asarray(share).ravel()[voxels]
        rows = np.flatnonzero(on_rows > minimum)
        if len(rows):
            distance = None if distance_mm is None else distance_mm.ravel()[voxels[rows]]
            regions[name] = Region(rows, on_rows[rows], distance)
    return regions


class MaskedRegions(Mapping):
    """Regions on the rows that a mask kept, worked out when asked for.

    ``keep_total_weight`` scales what is left of a structure back to a volume of 1, or to its
    ``weight``.
    """

    def __init__(
        self, regions: Mapping, rows: np.ndarray, n_rows: int, keep_total_weight: bool,
        weight: Mapping[str, float] | None = None,
    ):  # fmt: skip
        self._regions, self._rows, self._weight = regions, rows, weight or {}
        self._n_rows, self._keep = n_rows, keep_total_weight
        self._done: dict[str, Region] = {}

    def __getitem__(self, name: str) -> Region:
        if name not in self._done:
            self._done[name] = self._masked(self._regions[name], self._weight.get(name, 1.0))
        return self._done[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def _masked(self, region: Region, weight: float) -> Region:
        place = np.full(self._n_rows, -1, np.int64)
        place[self._rows] = np.arange(len(self._rows))
        kept = place[region.rows] >= 0
        if not kept.any():  # no objective asks for this one, or it would have kept a voxel
            raise KeyError("the mask left nothing of this structure")
        distance = None if region.distance_mm is None else region.distance_mm[kept]
        masked = Region(place[region.rows[kept]], region.volume[kept], distance)
        if not self._keep:
            object.__setattr__(masked, "volume", region.volume[kept])
        elif weight != 1.0:
            object.__setattr__(masked, "volume", masked.volume * weight)
        return masked
