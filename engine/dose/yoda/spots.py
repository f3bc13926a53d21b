"""Where a spot enters the grid, with which moments, and how it is split there."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.dose.yoda.splitting import RingScheme
from engine.geometry.coordinates import BeamFrame
from engine.patient.grid import Grid

# Beamlets are turned by this, so that none on a ring lies exactly on the planes of a grid through
# the spot's axis, where one of two voxels would have to be chosen; the one in the center becomes
# two, at this distance in its own σ.
TURN_RAD = 0.13
PAIR_SIGMAS = 0.2
PROBE_SIGMAS, PROBE_TURN_RAD = 0.7, 0.4
LATEST_SHARE = 0.8  # of the water up to the range: behind, widths grow too fast to be carried on
LEAST_DIFFERENCE_MM2 = 1e-9  # of water across a spot: below, all beamlets see the same


@dataclass(frozen=True, eq=False)
class SpotAxis:
    """A spot's axis from where it enters the grid: patient coordinates x, y, z in mm.

    ``axes`` (3, 3) are two lateral unit vectors and the direction. ``t_mm`` is the entrance's place
    along the beam, ``length_mm`` the way from there to where the axis leaves the grid.
    """

    start_mm: np.ndarray
    axes: np.ndarray
    t_mm: float
    length_mm: float


@dataclass(frozen=True, eq=False)
class Split:
    """Beamlets of a spot of unit width: weights (n,), places (n, 2), and 1 − σ² (n,).

    At a depth where the spot's core has the variance V and its beamlets the lever L, which at the
    depth of splitting is √V, a beamlet lies at L · place and has the variance V − L² (1 − σ²).
    """

    weight: np.ndarray
    places: np.ndarray
    narrower: np.ndarray


def drift(place: float, cross: float, angle: float, mm: float) -> tuple[float, float, float]:
    """a, b, c of the variance a + b t + c t² at t from a plane ``mm`` downstream of moments
    <x²>, <xθ>, <θ²>."""
    return place + 2.0 * mm * cross + mm * mm * angle, 2.0 * (cross + mm * angle), angle


def spot_axis(
    frame: BeamFrame, sources_mm: tuple[float, float], u_mm: float, v_mm: float, grid: Grid,
    from_t_mm: float,
) -> SpotAxis | None:  # fmt: skip
    """The axis of a spot through (u, v) of the isocenter plane; None where it misses the grid.

    It enters where it meets the grid's box, no farther upstream than ``from_t_mm``.
    """
    slope_u, slope_v = u_mm / sources_mm[0], v_mm / sources_mm[1]
    origin = frame.isocenter_mm + u_mm * frame.u_axis + v_mm * frame.v_axis
    along = frame.direction + slope_u * frame.u_axis + slope_v * frame.v_axis
    stretch = float(np.linalg.norm(along))
    direction = along / stretch
    enter, leave = _through_box(grid, origin, direction)
    enter = max(enter, from_t_mm * stretch)
    if not leave > enter:
        return None
    lateral = frame.u_axis - (frame.u_axis @ direction) * direction
    lateral /= np.linalg.norm(lateral)
    axes = np.stack([lateral, np.cross(direction, lateral), direction])
    return SpotAxis(origin + enter * direction, axes, enter / stretch, leave - enter)


def widened(
    axis: SpotAxis, radius_mm: float, step_mm: float, grid: Grid, from_t_mm: float
) -> SpotAxis:
    """The axis from where anything within a radius of it enters, and to where the last leaves.

    It begins whole steps before, still not upstream of ``from_t_mm``.
    """
    corners = radius_mm * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) @ axis.axes[:2]
    found = [_through_box(grid, axis.start_mm + corner, axis.axes[2]) for corner in corners]
    met = [(enter, leave) for enter, leave in found if leave > max(enter, 0.0)]
    if not met:
        return axis
    earliest = min(0.0, *(enter for enter, _ in met))
    n_before = int(min(np.ceil(-earliest / step_mm - 1e-6), (axis.t_mm - from_t_mm) // step_mm))
    before = max(n_before, 0) * step_mm
    length = before + max(axis.length_mm, *(leave for _, leave in met))
    return SpotAxis(
        axis.start_mm - before * axis.axes[2], axis.axes, axis.t_mm - before, length
    )  # fmt: skip


def _through_box(grid: Grid, origin: np.ndarray, direction: np.ndarray) -> tuple[float, float]:
    """Where a line enters and leaves a grid's box, mm from its origin; ∞ and −∞ if never."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (grid.lower_mm - origin) / direction, (grid.upper_mm - origin) / direction
    inside = (origin >= grid.lower_mm) & (origin < grid.upper_mm)
    low = np.where(direction != 0.0, np.minimum(a, b), np.where(inside, -np.inf, np.inf))
    high = np.where(direction != 0.0, np.maximum(a, b), np.where(inside, np.inf, -np.inf))
    return float(low.max()), float(high.min())


@lru_cache
def split(scheme: RingScheme) -> Split:
    """The beamlets of a scheme, turned, and the center as a pair."""
    found = scheme.beamlets()
    cos, sin = np.cos(TURN_RAD), np.sin(TURN_RAD)
    places = np.column_stack([cos * found.x - sin * found.y, sin * found.x + cos * found.y])
    weight, variance = np.array(found.weight), np.array(found.sigma) ** 2
    if len(weight) > 1:
        away = PAIR_SIGMAS * np.sqrt(variance[0])
        pair = away * np.array([[cos, sin], [-cos, -sin]])
        center = variance[0] - 0.5 * away**2
        places = np.concatenate([pair, places[1:]])
        variance = np.concatenate([[center, center], variance[1:]])
        weight = np.concatenate([[0.5 * weight[0]] * 2, weight[1:]])
    some = weight > 0.0
    return Split(weight[some], places[some], 1.0 - variance[some])


@lru_cache
def probe() -> Split:
    """Four rays within the spot, none on a plane through its axis, which tell how it scatters."""
    angle = PROBE_TURN_RAD + 0.5 * np.pi * np.arange(4)
    places = PROBE_SIGMAS * np.column_stack([np.cos(angle), np.sin(angle)])
    return Split(np.full(4, 0.25), places, np.full(4, 0.5 * PROBE_SIGMAS**2))


def lever_mm(variance: np.ndarray, split_at: int) -> np.ndarray:
    """Lever of a spot's beamlets from the variance of its core at stations (n,), mm.

    Up to the station of splitting it is σ: protons keep their place among the others, so that as
    many pass through every matter as do. From there they fly straight on, with the mean angle of
    where they are, and each beamlet widens by its own scatter.
    """
    half_slope = 0.5 * np.gradient(variance)
    away = split_at - np.arange(len(variance))
    behind = np.sqrt(variance[split_at]) - half_slope[split_at] * away / np.sqrt(variance[split_at])
    return np.where(away > 0, np.sqrt(variance), behind)


def split_station(
    water: np.ndarray, parts: Split, variance: np.ndarray, range_mm: float
) -> int:
    """The station at which to split a spot whose beamlets pass ``water`` (n, n_cells) in cells.

    An edge in matter, seen at a depth of splitting behind it, is blurred by the scatter in between:
    a proton's place z tells its place at the edge with the variance V_e (1 − ρ²), ρ being the
    correlation of both. Beamlets of finite width blur it too. The two are the same, and the edge
    as sharp as it is, where 1/ρ² − 1 is the beamlets' variance in units of the spot's. Matter of
    many edges counts as one in the middle of all, by the variance over beamlets. No spot is split
    where any of it is in the last fifth of ``range_mm`` of water.
    """
    mean = parts.weight @ water
    differs = parts.weight @ (water - mean) ** 2
    total = float(differs.sum())
    if total < LEAST_DIFFERENCE_MM2:
        return 0
    edge = int(round(float(differs @ np.arange(len(differs))) / total))
    behind = variance[edge : len(differs) + 1]
    covariance = variance[edge] + 0.5 * np.gradient(variance)[edge] * np.arange(len(behind))
    correlation2 = covariance**2 / (variance[edge] * behind)
    beamlet = float(parts.weight @ (1.0 - parts.narrower))
    loose = np.flatnonzero(correlation2 * (1.0 + beamlet) < 1.0)
    found = edge + int(loose[0] if len(loose) else len(behind) - 1)
    passed = np.cumsum(water, axis=1)
    late = (passed > LATEST_SHARE * range_mm).any(axis=0)
    return min(found, int(np.argmax(late)) + 1 if late.any() else found)
