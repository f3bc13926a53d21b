"""Two doses of the same beams, compared: depth and width along the axes, integrals, differences.

Doses are (nz, ny, nx) on one grid; axes are a start (x, y, z) in mm and a unit direction.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from engine.patient.grid import Grid

AXIS_STEP = 0.25  # of the finest voxel spacing
EDGE = 0.1  # of the largest dose on the axis: where the distal edge is looked for
PEAK_DROP = 0.1  # of the peak: what dose must fall by before it for the peak to be one
STOPPED = 0.2  # of the peak: what dose must fall to for the beam to have a range
EDGE_LENGTHS, EDGE_LEAST_MM = 8.0, 3.0  # from 40 % back to before the peak of any proton beam
CORE_FROM = 0.2  # of a Gaussian's middle: out to there the core's width is fitted
CORE_PITCH = 0.5  # of the finest voxel spacing, as that of the points across a depth profile
CORE_ROUNDS = 8  # each brings the radius of the fit closer to its own σ
POINTS_ACROSS = 60  # of a depth profile at most


@dataclass(frozen=True, eq=False)
class AxisProfile:
    """Dose along a spot's axis; ``along_mm`` and ``dose`` are (n,), from the box's first face.

    On the axis itself, or the mean over discs about it: an integral across the beam.
    """

    start_mm: np.ndarray  # (x, y, z) where along_mm is 0: where the axis enters the box
    direction: np.ndarray
    along_mm: np.ndarray
    dose: np.ndarray

    @property
    def distal_edge_mm(self) -> tuple[float, float] | None:
        """From before the last peak to where dose has fallen to STOPPED of it; None if it never
        does, because the beam leaves.

        The peak lies within EDGE_LENGTHS of the fall from 40 to 20 %. What is further upstream
        belongs to protons of another range, as behind half a slab: its height must not decide
        where the last ones stop.
        """
        top = self.dose[self._rough_peak]
        r40, r20 = self._last_mm(2.0 * STOPPED * top), self._last_mm(STOPPED * top)
        if not np.isfinite(r20):
            return None
        return r40 - max(EDGE_LENGTHS * (r20 - r40), EDGE_LEAST_MM), r20

    @property
    def peak_index(self) -> int:
        """The largest dose of the distal edge; where the beam leaves, the last maximum."""
        edge = self.distal_edge_mm
        return self._rough_peak if edge is None else self._largest_within(edge)

    @property
    def peak_mm(self) -> float:
        """Where the peak lies: the vertex through its three highest samples."""
        i = self.peak_index
        if i in (0, len(self.dose) - 1):
            return float(self.along_mm[i])
        low, top, high = self.dose[i - 1 : i + 2]
        bend = low - 2.0 * top + high
        shift = 0.5 * (low - high) / bend if bend < 0.0 else 0.0
        step = self.along_mm[1] - self.along_mm[0]
        return float(self.along_mm[i] + np.clip(shift, -0.5, 0.5) * step)

    def distal_mm(self, level: float = 0.8, edge_mm: tuple[float, float] | None = None) -> float:
        """Where dose has fallen to a share of the peak for good; NaN where the beam leaves.

        ``edge_mm`` is the distal edge to take, of another dose on the axis: its own by default.
        """
        edge = self.distal_edge_mm if edge_mm is None else edge_mm
        if edge is None or self.distal_edge_mm is None:
            return float("nan")
        return self._last_mm(level * float(self.dose[self._largest_within(edge)]))

    @property
    def _rough_peak(self) -> int:
        """The last maximum: from the distal edge upstream, until dose falls by PEAK_DROP.

        On the axis of a narrow beam the peak may be lower than the entrance.
        """
        i = int(np.flatnonzero(self.dose >= EDGE * self.dose.max())[-1])
        highest = np.maximum.accumulate(self.dose[i::-1])
        dropped = np.flatnonzero(self.dose[i::-1] < (1.0 - PEAK_DROP) * highest)
        seen = int(dropped[0]) if dropped.size else i + 1
        return i - int(np.argmax(self.dose[i::-1][:seen]))

    def _largest_within(self, edge_mm: tuple[float, float]) -> int:
        low, high = np.clip(np.searchsorted(self.along_mm, edge_mm), 0, len(self.dose) - 1)
        return int(low + np.argmax(self.dose[low : high + 1]))

    def _last_mm(self, dose: float) -> float:
        """Where dose falls below a value for good; NaN where it never does or never was above."""
        above = np.flatnonzero(self.dose >= dose)
        if not dose > 0.0 or not above.size or above[-1] == len(self.dose) - 1:
            return float("nan")
        i = int(above[-1])
        share = (self.dose[i] - dose) / (self.dose[i] - self.dose[i + 1])
        return float(self.along_mm[i] + share * (self.along_mm[i + 1] - self.along_mm[i]))


def axis_profile(
    dose: np.ndarray, grid: Grid, start_mm, direction, radius_mm: float = 0.0
) -> AxisProfile:
    """Dose on a spot's axis by linear interpolation, from the first voxel centers to the last.

    With a ``radius_mm``, the mean over the disc across the axis: the dose integrated laterally over
    the disc's area, which has little noise where single voxels have much.
    """
    start, direction = np.asarray(start_mm, dtype=float), np.asarray(direction, dtype=float)
    enter, leave = _chord(grid, start, direction)
    step = AXIS_STEP * min(grid.spacing_mm)
    along = np.arange(0.5 * step, leave - enter, step)
    entry = start + enter * direction
    disc = _disc(grid, direction, radius_mm)
    values = [sampled(dose, grid, entry + t * direction + disc).mean() for t in along]
    return AxisProfile(entry, direction, along, np.array(values))


def _disc(grid: Grid, direction: np.ndarray, radius_mm: float) -> np.ndarray:
    """Offsets (n, 3) in mm that fill a disc across a direction evenly; no radius, no offset."""
    pitch = max(CORE_PITCH * min(grid.spacing_mm), 2.0 * radius_mm / POINTS_ACROSS)
    offsets = np.arange(-np.floor(radius_mm / pitch), np.floor(radius_mm / pitch) + 1) * pitch
    a, b = (axis.ravel() for axis in np.meshgrid(offsets, offsets, indexing="ij"))
    first, second = lateral_axes(direction)
    within = a * a + b * b <= radius_mm**2
    return a[within, None] * first + b[within, None] * second


def sampled(dose: np.ndarray, grid: Grid, points_mm: np.ndarray) -> np.ndarray:
    """Dose at points (…, 3) in mm by linear interpolation between voxel centers, 0 off the grid.

    Within half a voxel of the box's faces the outermost voxels' dose holds.
    """
    index = np.moveaxis(grid.index_of(points_mm), -1, 0)
    sizes = np.array(grid.shape).reshape(3, *(1,) * (index.ndim - 1))
    inside = np.all((index >= -0.5) & (index <= sizes - 0.5), axis=0)
    values = map_coordinates(np.asarray(dose, np.float64), index, order=1, mode="nearest")
    return np.where(inside, values, 0.0)


def lateral_axes(direction) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors across a direction; the first lies across the patient's long axis z."""
    direction = np.asarray(direction, dtype=float)
    helper = np.array([0.0, 0.0, 1.0]) if abs(direction[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    first = np.cross(helper, direction)
    first /= np.linalg.norm(first)
    return first, np.cross(direction, first)


def core_sigma_mm(
    dose: np.ndarray, grid: Grid, center_mm, direction, guess_mm: float, depth_mm: float = 0.0
) -> float:
    """Standard deviation of a round Gaussian fitted to the core of a lateral plane; NaN if none.

    Least squares in the logarithm, weighted with the dose, which is best where particles are
    counted, out to where that Gaussian has fallen to CORE_FROM: by radius, as a choice by dose
    would choose noise. The plane is the mean over ``depth_mm`` along the axis about ``center_mm``.
    ``guess_mm`` may be too large; the fit does not look farther than 2.5 times it.
    """
    reach = 2.5 * guess_mm
    pitch = min(CORE_PITCH * min(grid.spacing_mm), reach / 3.0)
    offsets = np.arange(-np.ceil(reach / pitch), np.ceil(reach / pitch) + 1) * pitch
    a, b = np.meshgrid(offsets, offsets, indexing="ij")
    first, second = lateral_axes(direction)
    points = np.asarray(center_mm) + a[..., None] * first + b[..., None] * second
    step = AXIS_STEP * min(grid.spacing_mm)
    n_half = int(0.5 * depth_mm / step)
    depths = step * np.arange(-n_half, n_half + 1)
    plane = np.mean([sampled(dose, grid, points + t * np.asarray(direction)) for t in depths], 0)
    return _gaussian_core(plane, a * a + b * b, guess_mm, reach)


def _gaussian_core(plane: np.ndarray, r2: np.ndarray, sigma: float, reach: float) -> float:
    """σ of a round Gaussian fitted to where it exceeds CORE_FROM, which a few rounds find."""
    for _ in range(CORE_ROUNDS):
        core = (r2 <= min(-2.0 * np.log(CORE_FROM) * sigma**2, reach**2)) & (plane > 0.0)
        if np.count_nonzero(core) < 8:
            return float("nan")
        slope = np.polyfit(r2[core], np.log(plane[core]), 1, w=np.sqrt(plane[core]))[0]
        if not slope < 0.0:
            return float("nan")
        sigma = float(np.sqrt(-0.5 / slope))
    return sigma


@dataclass(frozen=True)
class Difference:
    """How far one dose lies from another; all in percent, dose relative to the reference's top."""

    integral_percent: float  # of the integral dose
    largest_percent: float  # signed, where it is largest
    largest_at_mm: tuple[float, float, float]  # x, y, z
    mean_high_percent: float  # signed mean over voxels above half the maximum
    rms_high_percent: float  # over the same voxels
    rms_percent: float  # over voxels above a tenth of the maximum


def difference(reference: np.ndarray, evaluated: np.ndarray, grid: Grid) -> Difference:
    """Evaluated less reference, on voxels of one size."""
    top = float(reference.max())
    apart = 100.0 * (evaluated.astype(np.float64) - reference) / top
    worst, high = int(np.argmax(np.abs(apart))), reference >= 0.5 * top
    x, y, z = grid.points_mm([worst])[0]
    integral = float(evaluated.sum(dtype=np.float64) / reference.sum(dtype=np.float64))
    return Difference(
        100.0 * (integral - 1.0),
        float(apart.flat[worst]),
        (float(x), float(y), float(z)),
        float(apart[high].mean()),
        float(np.sqrt(np.mean(apart[high] ** 2))),
        float(np.sqrt(np.mean(apart[reference >= 0.1 * top] ** 2))),
    )


@dataclass(frozen=True)
class Noise:
    """What the reference's own standard error explains."""

    mean_percent: float  # of the dose, over voxels above half the maximum
    reduced_chi2: float  # mean squared difference over error², voxels above a tenth
    within_two_percent: float  # of those voxels whose difference is at most two errors


def noise(reference: np.ndarray, sem: np.ndarray, evaluated: np.ndarray) -> Noise:
    """How large the standard error is, and how the difference compares with it."""
    top = float(reference.max())
    high, chosen = reference >= 0.5 * top, (reference >= 0.1 * top) & (sem > 0.0)
    mean = 100.0 * float(np.mean(sem[high] / reference[high]))
    if not chosen.any():
        return Noise(mean, float("nan"), float("nan"))
    pull = (evaluated[chosen].astype(np.float64) - reference[chosen]) / sem[chosen]
    return Noise(mean, float(np.mean(pull**2)), 100.0 * float(np.mean(np.abs(pull) <= 2.0)))


def _chord(grid: Grid, start: np.ndarray, direction: np.ndarray) -> tuple[float, float]:
    """Where an axis enters and leaves a grid's box, in mm along it, not before its start."""
    along = np.abs(direction) > 1e-12
    faces = np.stack([grid.lower_mm, grid.upper_mm])[:, along]
    t = np.sort((faces - start[along]) / direction[along], axis=0)
    enter, leave = max(float(t[0].max()), 0.0), float(t[1].min())
    if not leave > enter:
        raise ValueError(f"the axis from {start.tolist()} mm along {direction.tolist()} misses.")
    return enter, leave
