"""Where a spot enters the grid, with which moments, and how it is split there."""

from dataclasses import dataclass

import numpy as np

from engine.dose.yoda.splitting import RingScheme
from engine.geometry.coordinates import BeamFrame
from engine.patient.grid import Grid

# Beamlets on rings are turned by this, so that none lies exactly on the planes of a grid through
# the spot's axis, where one of two voxels would have to be chosen.
TURN_RAD = 0.13
RAY_TURN_RAD = 0.4  # of the rays around a beamlet's axis, for the same reason


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
class Moments:
    """Second moments per axis at a plane: <x²> mm², <xθ> mm rad, <θ²> rad²."""

    place: float
    cross: float
    angle: float

    def drifted(self, mm: float) -> "Moments":
        return Moments(
            self.place + 2.0 * mm * self.cross + mm * mm * self.angle,
            self.cross + mm * self.angle, self.angle,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Split:
    """Beamlets of one spot, each (n, …): weights, x, y and their slopes, moments of their own."""

    weight: np.ndarray
    places: np.ndarray
    moments: np.ndarray


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
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (grid.lower_mm - origin) / along, (grid.upper_mm - origin) / along
    inside = (origin >= grid.lower_mm) & (origin < grid.upper_mm)
    low = np.where(along != 0.0, np.minimum(a, b), np.where(inside, -np.inf, np.inf))
    high = np.where(along != 0.0, np.maximum(a, b), np.where(inside, np.inf, -np.inf))
    enter, leave = max(float(low.max()), from_t_mm), float(high.min())
    if not leave > enter:
        return None
    stretch = float(np.linalg.norm(along))
    direction = along / stretch
    lateral = frame.u_axis - (frame.u_axis @ direction) * direction
    lateral /= np.linalg.norm(lateral)
    axes = np.stack([lateral, np.cross(direction, lateral), direction])
    return SpotAxis(origin + enter * along, axes, enter, (leave - enter) * stretch)


def split(parent: Moments, scheme: RingScheme) -> Split:
    """Beamlets that together have the parent's moments.

    Each has the parent's mean angle at its place, and shares what is left of the angles.
    """
    beamlets = scheme.beamlets()
    sigma = np.sqrt(parent.place)
    slope = parent.cross / parent.place
    rest = max(parent.angle - slope * parent.cross, 0.0)
    cos, sin = np.cos(TURN_RAD), np.sin(TURN_RAD)
    x = sigma * (cos * beamlets.x - sin * beamlets.y)
    y = sigma * (sin * beamlets.x + cos * beamlets.y)
    place = parent.place * beamlets.sigma**2
    return Split(
        np.asarray(beamlets.weight, dtype=np.float64),
        np.column_stack([x, y, slope * x, slope * y]),
        np.column_stack([place, slope * place, rest + slope * slope * place]),
    )


def ray_places(beamlets: Split, parent: Moments, n_rays: int) -> np.ndarray:
    """x, y and slopes (n · n_rays, 4) of the rays along which a beamlet's materials are found.

    One on its axis, or more on a circle that has the beamlet's own second moment.
    """
    if n_rays == 1:
        return beamlets.places
    angle = RAY_TURN_RAD + 2.0 * np.pi * np.arange(n_rays) / n_rays
    radius = np.sqrt(2.0 * beamlets.moments[:, 0])
    slope = parent.cross / parent.place
    offset = radius[:, None, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    offset = np.concatenate([offset, slope * offset], axis=2)
    return (beamlets.places[:, None] + offset).reshape(-1, 4)
