"""RT structure sets: contours to structures on any grid.

Source: DICOM PS3.3, A.19 (RT structure set), C.8.8.5 (structure set), C.8.8.6 (ROI contour, with
holes in C.8.8.6.3: as keyholes, or where CLOSEDPLANAR_XOR has contours of a plane count even-odd),
C.8.8.8 (RT ROI observations). Of CLOSED_PLANAR contours, which should need no rule, one within
another is read as a hole all the same, as many systems write it; those that overlap are united.

A contour stands for the slab halfway to the next planes of its structure, so a structure's volume
is the sum of its contours' areas times their distance, wherever CT slices lie. Planes at every
second or third slice of the CT are interpolated between by signed distance. Where a structure
that has contours at every slice leaves some out, it has a gap there.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from engine.io.dicom_contours import (
    CROSSING_EVEN_ODD,
    EVEN_ODD,
    Coverage,
    Nesting,
    coverage,
    nesting,
)
from engine.io.dicom_dataset import (
    DicomError,
    items,
    label,
    number,
    numbers,
    read_dataset,
    text,
    whole,
)
from engine.io.dicom_image import POSITION_WITHIN_MM
from engine.io.dicom_study import line
from engine.patient.grid import Grid
from engine.patient.patient import PartialVolume, Role
from engine.patient.structures import distance_mm
from engine.patient.tissues import MATERIALS

ROLES: dict[str, Role] = {  # by RT ROI Interpreted Type; other types have none
    "EXTERNAL": "external",
    "PTV": "target",
    "CTV": "target",
    "GTV": "target",
    "ORGAN": "organ",
    "OAR": "organ",
    "AVOIDANCE": "organ",
    "SUPPORT": "support",
    "FIXATION": "support",
    "BOLUS": "support",
}
MATERIAL_IDS = {line(name, 16): name for name in MATERIALS}  # as SH has room for it
XOR = "CLOSEDPLANAR_XOR"
FILLED = ("CLOSED_PLANAR", XOR)
NOT_FILLED = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
HALF = 0.5 - 1e-6  # of a voxel, rounding aside
MAX_STEP_SLICES = 3.5  # contours further apart belong to separate pieces
COORDINATE_WITHIN_MM = 1e5
MOST_PIXELS = 2000  # along a side
ROUNDING_MM = 1e-3  # of contours along the faces of a grid
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest as its file declares it."""

    number: int
    name: str  # as written
    kind: str  # RT ROI Interpreted Type, "" where there is none
    frame_uid: str
    material: str | None  # of MATERIALS, as Material ID names it
    n_contours: int

    @property
    def role(self) -> Role | None:
        return ROLES.get(self.kind)


@dataclass(frozen=True, eq=False)
class Plane:
    """Contours at one z: polygons (n, 2) of x, y in mm, and how they count together."""

    polygons: tuple[np.ndarray, ...]
    nesting: Nesting

    def on(self, grid: Grid) -> Coverage:
        return coverage(self.polygons, grid, self.nesting)


@dataclass(frozen=True, eq=False)
class _Slab:
    """A layer of a structure: contours of one plane, or of two with a place between them."""

    low_mm: float
    high_mm: float
    below: int  # index into the planes
    above: int
    part: float  # 0 at the plane below, towards 1 at the one above


@dataclass(frozen=True, eq=False)
class ContouredStructure:
    """A structure by its contours."""

    name: str
    role: Role | None
    planes: tuple[Plane, ...]
    slabs: tuple[_Slab, ...] = field(repr=False)
    notes: tuple[str, ...] = ()  # what was left out or doubtful

    def fraction_on(self, grid: Grid) -> np.ndarray:
        """Share of every voxel of a grid inside the structure, (nz, ny, nx) float32."""
        fraction = np.zeros(grid.shape, np.float32)
        for k, covered in self._slices(grid):
            fraction[k][covered.window] = covered.share
        return fraction

    def partial_on(self, grid: Grid) -> PartialVolume:
        """Shares of a grid's voxels on the part around the structure."""
        part = grid.part(self.window_on(grid))
        return PartialVolume(part, self.fraction_on(part))

    def mask_on(self, grid: Grid) -> np.ndarray:
        """Voxels of a grid that lie at least half inside the structure, (nz, ny, nx)."""
        mask = empty_mask(grid.shape)
        for k, covered in self._slices(grid):
            mask[k][covered.window] = covered.share >= HALF
        return mask

    def volume_cm3(self) -> float:
        """Volume of the contours' slabs: pixels of 1 mm in the plane, of more where a contour goes
        astray by meters; whole slabs along z."""
        grid = self._own_plane()
        coverages = self._coverages(grid)
        volume_pixels = sum(
            (slab.high_mm - slab.low_mm) * self._between(coverages, slab, grid).share.sum()
            for slab in self.slabs
        )
        return volume_pixels * grid.spacing_mm[1] ** 2 / 1000.0

    def beyond_mm(self, grid: Grid) -> float:
        """How far the structure reaches beyond the first or the last slice of a grid; 0 or less of
        one that does not."""
        below = grid.lower_mm[2] - self.slabs[0].low_mm
        return float(max(below, self.slabs[-1].high_mm - grid.upper_mm[2]))

    def window_on(self, grid: Grid) -> tuple[slice, slice, slice]:
        """The voxels (z, y, x) of a grid beyond which nothing of the structure lies."""
        low, high = ((corner - grid.lower_mm)[::-1] / grid.spacing_mm for corner in self._box_mm())
        ends = zip(np.floor(low).astype(int), np.ceil(high).astype(int), grid.shape)
        return tuple(slice(*np.clip([a, b], 0, n).tolist()) for a, b, n in ends)

    def share_off(self, grid: Grid) -> float:
        """Share of the volume that lies off a grid, by the contours' areas: a slab between two
        planes counts as both, in the parts in which it lies between them."""
        low, high = self._box_mm()
        if np.all(low > grid.lower_mm - ROUNDING_MM) and np.all(high < grid.upper_mm + ROUNDING_MM):
            return 0.0
        on_grid, whole = (self._areas_mm2(g) for g in (grid, self._own_plane()))
        inner = np.clip(
            [(slab.low_mm, slab.high_mm) for slab in self.slabs],
            grid.lower_mm[2], grid.upper_mm[2],
        )  # fmt: skip
        thickness_mm = np.array([slab.high_mm - slab.low_mm for slab in self.slabs])
        whole_mm3 = float(thickness_mm @ whole)
        if not whole_mm3 > 0.0:
            return 0.0
        return max(0.0, 1.0 - float(np.diff(inner)[:, 0] @ on_grid) / whole_mm3)

    def _box_mm(self) -> np.ndarray:
        """Lowest and highest x, y, z, (2, 3)."""
        points = np.concatenate([p for plane in self.planes for p in plane.polygons])
        z_mm = self.slabs[0].low_mm, self.slabs[-1].high_mm
        return np.column_stack([[points.min(axis=0), points.max(axis=0)], z_mm])

    def _own_plane(self) -> Grid:
        """Pixels around all contours, of 1 mm where there are not too many."""
        low, high = self._box_mm()[:, :2]
        pixel_mm = max(1.0, float((high - low).max()) / MOST_PIXELS)
        nx, ny = np.ceil((high - low) / pixel_mm + 3.0).astype(int)
        x_mm, y_mm = low - pixel_mm
        return Grid((1, ny, nx), (1.0, pixel_mm, pixel_mm), (0.0, y_mm, x_mm))

    def _areas_mm2(self, grid: Grid) -> np.ndarray:
        """Area of every slab on a grid's planes, (n_slabs,)."""
        pixel_mm2 = grid.spacing_mm[1] * grid.spacing_mm[2]
        area = np.array([plane.on(grid).share.sum() * pixel_mm2 for plane in self.planes])
        return np.array([(1 - s.part) * area[s.below] + s.part * area[s.above] for s in self.slabs])

    def _slices(self, grid: Grid) -> Iterator[tuple[int, Coverage]]:
        """Index and coverage of every slice that the structure reaches."""
        dz_mm = grid.spacing_mm[0]
        coverages = self._coverages(grid)
        for k, z_mm in enumerate(grid.axes_mm()[0]):
            low, high = z_mm - 0.5 * dz_mm, z_mm + 0.5 * dz_mm
            parts = []
            for slab in self.slabs:
                share = (min(high, slab.high_mm) - max(low, slab.low_mm)) / dz_mm
                if share > 1e-9:
                    parts.append((share, self._between(coverages, slab, grid)))
            parts = [(share, covered) for share, covered in parts if covered.share.size]
            if parts:
                yield k, _sum(parts)

    def _coverages(self, grid: Grid):
        """Coverage of a plane by its index; the last few are kept."""
        return lru_cache(maxsize=4)(lambda plane: self.planes[plane].on(grid))

    @staticmethod
    def _between(coverages, slab: _Slab, grid: Grid) -> Coverage:
        if slab.part == 0.0:
            return coverages(slab.below)
        return _interpolated(coverages(slab.below), coverages(slab.above), slab.part, grid)


def empty_mask(shape: tuple[int, int, int]) -> np.ndarray:
    """A volume of False in pages of 4 KB, which take memory only once they are written to.

    Most structures fill little of a large CT, and numpy asks for pages of 2 MB: 30 masks of
    512 × 512 × 200 voxels then take twice the time and 0.6 GB more.
    """
    pages = mmap.mmap(-1, int(np.prod(shape)), **_PRIVATE)
    return np.frombuffer(pages, bool).reshape(shape)


class StructureSet:
    """What an RTSTRUCT file holds; contours are read when a structure is asked for."""

    def __init__(self, path: str | Path):
        self._dataset = read_dataset(path)
        if text(self._dataset, "Modality") != "RTSTRUCT":
            raise DicomError(
                f"{label(self._dataset)} is of modality {text(self._dataset, 'Modality')}; an "
                "RTSTRUCT is needed."
            )
        self._contours = _by_number(self._dataset, "ROIContourSequence")
        self.rois = _rois(self._dataset, self._contours)

    def structure(self, roi: Roi, grid: Grid, frame_uid: str) -> ContouredStructure:
        """A structure for the CT of a grid and a frame of reference; another frame is refused."""
        if roi.frame_uid != frame_uid:
            raise DicomError(
                f"structure {roi.name!r} of {label(self._dataset)} has another frame of reference "
                "than the CT: it was drawn on another image; choose the CT that it was drawn on, "
                "or leave it out by name."
            )
        contours, kinds, notes = _closed_contours(self._contours[roi.number], roi.name)
        if not contours:
            raise DicomError(f"structure {roi.name!r} of {label(self._dataset)} has no area.")
        z_mm, polygons = _planes(contours, grid.spacing_mm[0])
        if XOR in kinds:  # the standard wants all to be of this kind then
            planes = tuple(Plane(p, CROSSING_EVEN_ODD) for p in polygons)
        else:
            planes = tuple(Plane(p, nesting(p)) for p in polygons)
            notes += _united(z_mm, planes, roi.name)
        slabs, gap_notes = _slabs(z_mm, grid.spacing_mm[0], roi.name)
        return ContouredStructure(roi.name, roi.role, planes, slabs, (*notes, *gap_notes))


def _by_number(dataset: Dataset, sequence: str) -> dict[int, Dataset]:
    """Items by the ROI number that they refer to."""
    found: dict[int, Dataset] = {}
    for item in items(dataset, sequence):
        roi_number = whole(item, "ReferencedROINumber")
        if roi_number in found:
            raise DicomError(
                f"{sequence} of {label(dataset)} has two items for ROI number {roi_number}; export "
                "the structures again."
            )
        found[roi_number] = item
    return found


def _rois(dataset: Dataset, contours: dict[int, Dataset]) -> tuple[Roi, ...]:
    observed = {}
    for item in items(dataset, "RTROIObservationsSequence"):
        observed[whole(item, "ReferencedROINumber")] = item
    rois = []
    for item in items(dataset, "StructureSetROISequence"):
        roi_number = whole(item, "ROINumber")
        about = observed.get(roi_number, Dataset())
        drawn = contours.get(roi_number)
        rois.append(
            Roi(
                roi_number,
                text(item, "ROIName", f"ROI {roi_number}"),
                text(about, "RTROIInterpretedType", "").upper(),
                text(item, "ReferencedFrameOfReferenceUID"),
                MATERIAL_IDS.get(text(about, "MaterialID", "")[:16]),
                0 if drawn is None else len(items(drawn, "ContourSequence")),
            )
        )
    if not rois:
        raise DicomError(f"{label(dataset)} declares no structure; export the structures again.")
    return tuple(rois)


def _closed_contours(
    drawn: Dataset, name: str
) -> tuple[list[tuple[float, np.ndarray]], set[str], list[str]]:
    """z in mm and polygon (n, 2) of every contour that has an inside, of which kinds they are, and
    what was left out."""
    contours, kinds, n_left = [], set(), 0
    for item in items(drawn, "ContourSequence"):
        kind = text(item, "ContourGeometricType")
        if kind not in FILLED + NOT_FILLED:
            raise DicomError(
                f"ContourGeometricType of {label(item)} is {kind!r}; {', '.join(FILLED)} have an "
                "inside."
            )
        points = _points(item)
        if kind in NOT_FILLED or len(points) < 3:
            n_left += 1
            continue
        if np.ptp(points[:, 2]) > POSITION_WITHIN_MM:
            raise DicomError(
                f"a contour of {name!r} ({label(item)}) spans {np.ptp(points[:, 2]):.2f} mm along "
                "z; only contours in axial planes are read."
            )
        contours.append((float(points[:, 2].mean()), points[:, :2]))
        kinds.add(kind)
    notes = [f"{name!r}: {n_left} points or open contours left out"] if n_left else []
    return contours, kinds, notes


def _points(item: Dataset) -> np.ndarray:
    """Points of a contour, (n, 3) in mm."""
    data = numbers(item, "ContourData")
    n_points = number(item, "NumberOfContourPoints", None)
    if len(data) % 3 or (n_points is not None and len(data) != 3 * n_points):
        raise DicomError(
            f"ContourData of {label(item)} holds {len(data)} numbers, its NumberOfContourPoints is "
            f"{n_points}: three a point are needed; the file may be truncated, export it again."
        )
    if np.abs(data).max() > COORDINATE_WITHIN_MM:
        raise DicomError(
            f"ContourData of {label(item)} reaches {np.abs(data).max():g} mm; points must lie "
            "within 100 m of the origin."
        )
    return data.reshape(-1, 3)


def _planes(
    contours: Sequence[tuple[float, np.ndarray]], dz_mm: float
) -> tuple[np.ndarray, tuple[tuple[np.ndarray, ...], ...]]:
    """z (n,) of the planes that hold contours, ascending, and their polygons.

    A contour that is there twice, point by point, counts once: twice would be a hole.
    """
    contours = sorted(contours, key=lambda contour: contour[0])
    within_mm = min(POSITION_WITHIN_MM, 0.25 * dz_mm)
    z_mm: list[float] = []
    planes: list[list[np.ndarray]] = []
    for z, polygon in contours:
        if not z_mm or z - z_mm[-1] > within_mm:
            z_mm.append(z)
            planes.append([])
        if not any(np.array_equal(polygon, other) for other in planes[-1]):
            planes[-1].append(polygon)
    return np.array(z_mm), tuple(tuple(plane) for plane in planes)


def _united(z_mm: np.ndarray, planes: Sequence[Plane], name: str) -> list[str]:
    """What to note of planes whose contours overlap."""
    where = z_mm[[plane.nesting is not EVEN_ODD for plane in planes]]
    if len(where) == 0:
        return []
    at = f"z = {where[0]:g}" + (f" … {where[-1]:g}" if len(where) > 1 else "")
    slices = "1 slice" if len(where) == 1 else f"{len(where)} slices"
    return [f"{name!r}: contours that overlap on {slices} ({at} mm) are united"]


def _slabs(z_mm: np.ndarray, dz_mm: float, name: str) -> tuple[tuple[_Slab, ...], list[str]]:
    """The layers that planes at z (n,) stand for, on a CT of spacing dz; what to note of gaps."""
    gaps_mm = np.diff(z_mm)
    near = gaps_mm[gaps_mm < MAX_STEP_SLICES * dz_mm]
    step_mm = float(np.median(near)) if len(near) else dz_mm
    end_mm = 0.5 * min(step_mm, dz_mm)  # beyond an outermost plane
    bridged = gaps_mm <= 1.5 * max(step_mm, dz_mm)
    n_steps = np.maximum(1, np.rint(gaps_mm / dz_mm)).astype(int)
    n_steps[~bridged | (step_mm <= 1.5 * dz_mm)] = 1
    half_mm = np.where(bridged, 0.5 * gaps_mm / n_steps, end_mm)
    slabs = []
    for i, z in enumerate(z_mm):
        low = z - (half_mm[i - 1] if i else end_mm)
        high = z + (half_mm[i] if i < len(gaps_mm) else end_mm)
        slabs.append(_Slab(low, high, i, i, 0.0))
        for j in range(1, n_steps[i] if i < len(gaps_mm) else 1):
            middle = z + j * gaps_mm[i] / n_steps[i]
            slabs.append(
                _Slab(middle - half_mm[i], middle + half_mm[i], i, i + 1, j / n_steps[i])
            )
    gaps = np.flatnonzero(~bridged & (gaps_mm < MAX_STEP_SLICES * dz_mm))
    notes = [
        f"{name!r}: no contour between z = {z_mm[i]:g} and {z_mm[i + 1]:g} mm, left empty"
        for i in gaps
    ]
    return tuple(slabs), notes


def _sum(parts: list[tuple[float, Coverage]]) -> Coverage:
    """Coverages times their shares of a slice."""
    if len(parts) == 1:
        share, covered = parts[0]
        return Coverage(covered.window, np.minimum(share * covered.share, 1.0))
    window = _around([covered for _, covered in parts])
    total = np.zeros([w.stop - w.start for w in window])
    for share, covered in parts:
        total[_within(covered.window, window)] += share * covered.share
    return Coverage(window, np.minimum(total, 1.0))


def _interpolated(below: Coverage, above: Coverage, part: float, grid: Grid) -> Coverage:
    """The shape between two: where the signed distances to their edges, in parts, are negative."""
    if not (below.share.size and above.share.size):
        return Coverage((slice(0, 0), slice(0, 0)), np.zeros((0, 0)))
    window = _around([below, above])
    window = tuple(  # a pixel of rim, for masks that fill their window have no surface
        slice(max(0, w.start - 1), min(n, w.stop + 1)) for w, n in zip(window, grid.shape[1:])
    )
    plane = Grid((1, *(w.stop - w.start for w in window)), grid.spacing_mm)
    distance = np.zeros(plane.shape[1:])
    for covered, weight in ((below, 1.0 - part), (above, part)):
        mask = np.zeros(plane.shape, bool)
        mask[0][_within(covered.window, window)] = covered.share >= HALF
        if not mask.any() or mask.all():
            return below if part < 0.5 else above
        distance += weight * distance_mm(mask, plane)[0]
    return Coverage(window, np.clip(0.5 - distance / min(grid.spacing_mm[1:]), 0.0, 1.0))


def _around(coverages: Sequence[Coverage]) -> tuple[slice, slice]:
    windows = [covered.window for covered in coverages]
    return tuple(
        slice(min(w[axis].start for w in windows), max(w[axis].stop for w in windows))
        for axis in range(2)
    )


def _within(window: tuple[slice, slice], outer: tuple[slice, slice]) -> tuple[slice, slice]:
    return tuple(slice(w.start - o.start, w.stop - o.start) for w, o in zip(window, outer))
