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
CORE_FROM = 0.3  # of a plane's dose on the axis: what the core's width is fitted to
CORE_PITCH = 0.5  # of the finest voxel spacing


@dataclass(frozen=True, eq=False)
class AxisProfile:
    """Dose along a spot's axis; ``along_mm`` and ``dose`` are (n,), from the box's first face."""

    start_mm: np.ndarray  # (x, y, z) where along_mm is 0: where the axis enters the box
    direction: np.ndarray
    along_mm: np.ndarray
    dose: np.ndarray

    @property
    def peak_index(self) -> int:
        """The last maximum: from the distal edge upstream, until dose falls by PEAK_DROP.

        On the axis of a narrow beam the peak may be lower than the entrance.
        """
        i = int(np.flatnonzero(self.dose >= EDGE * self.dose.max())[-1])
        highest = np.maximum.accumulate(self.dose[i::-1])
        dropped = np.flatnonzero(self.dose[i::-1] < (1.0 - PEAK_DROP) * highest)
        seen = int(dropped[0]) if dropped.size else i + 1
        return i - int(np.argmax(self.dose[i::-1][:seen]))

    @property
    def peak_mm(self) -> float:
        """Where the peak lies: the vertex through its three highest samples."""
        i = self.peak_index
        if i in (0, len(self.dose) - 1):
            return float(self.along_mm[i])
        low, top, high = self.dose[i - 1 : i + 2]
        bend = low - 2.0 * top + high
        shift = 0.5 * (low - high) / bend if bend < 0.0 else 0.0
        return float(self.along_mm[i] + shift * (self.along_mm[1] - self.along_mm[0]))

    def distal_mm(self, level: float = 0.8) -> float:
        """Where dose has fallen to a share of the peak for good; NaN where it never does."""
        wanted = level * self.dose[self.peak_index]
        i = int(np.flatnonzero(self.dose >= wanted)[-1])
        if i == len(self.dose) - 1 or not wanted > 0.0:
            return float("nan")
        share = (self.dose[i] - wanted) / (self.dose[i] - self.dose[i + 1])
        return float(self.along_mm[i] + share * (self.along_mm[i + 1] - self.along_mm[i]))


def axis_profile(dose: np.ndarray, grid: Grid, start_mm, direction) -> AxisProfile:
    """Dose on a spot's axis by linear interpolation, from the first voxel centers to the last."""
    start, direction = np.asarray(start_mm, dtype=float), np.asarray(direction, dtype=float)
    enter, leave = _chord(grid, start, direction)
    step = AXIS_STEP * min(grid.spacing_mm)
    along = np.arange(0.5 * step, leave - enter, step)
    entry = start + enter * direction
    points = entry + along[:, None] * direction
    return AxisProfile(entry, direction, along, sampled(dose, grid, points))


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


def core_sigma_mm(dose: np.ndarray, grid: Grid, center_mm, direction, guess_mm: float) -> float:
    """Standard deviation of a round Gaussian fitted to the core of a lateral plane; NaN if none.

    Least squares in the logarithm, weighted with the dose squared, on what lies within 2.5
    ``guess_mm`` and above CORE_FROM of the dose on the axis.
    """
    pitch = CORE_PITCH * min(grid.spacing_mm)
    reach = max(2.5 * guess_mm, 3.0 * pitch)
    offsets = np.arange(-np.ceil(reach / pitch), np.ceil(reach / pitch) + 1) * pitch
    a, b = np.meshgrid(offsets, offsets, indexing="ij")
    first, second = lateral_axes(direction)
    points = np.asarray(center_mm) + a[..., None] * first + b[..., None] * second
    plane, r2 = sampled(dose, grid, points), a * a + b * b
    core = (plane > CORE_FROM * plane[len(offsets) // 2, len(offsets) // 2]) & (r2 <= reach**2)
    core &= plane > 0.0
    if np.count_nonzero(core) < 8:
        return float("nan")
    slope = np.polyfit(r2[core], np.log(plane[core]), 1, w=plane[core])[0]
    return float(np.sqrt(-0.5 / slope)) if slope < 0.0 else float("nan")


@dataclass(frozen=True)
class Difference:
    """How far one dose lies from another; all in percent, dose relative to the reference's top."""

    integral_percent: float  # of the integral dose
    largest_percent: float  # signed, where it is largest
    largest_at_mm: tuple[float, float, float]  # x, y, z
    mean_high_percent: float  # signed mean over voxels above half the maximum
    rms_percent: float  # over voxels above a tenth of the maximum


def difference(reference: np.ndarray, evaluated: np.ndarray, grid: Grid) -> Difference:
    """Evaluated less reference, on voxels of one size."""
    top = float(reference.max())
    apart = 100.0 * (evaluated.astype(np.float64) - reference) / top
    worst = int(np.argmax(np.abs(apart)))
    x, y, z = grid.points_mm([worst])[0]
    integral = float(evaluated.sum(dtype=np.float64) / reference.sum(dtype=np.float64))
    return Difference(
        100.0 * (integral - 1.0),
        float(apart.flat[worst]),
        (float(x), float(y), float(z)),
        float(apart[reference >= 0.5 * top].mean()),
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
