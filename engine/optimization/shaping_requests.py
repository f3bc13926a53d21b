"""What a planner asks for, as wishes on rows: a voxel, a set, an isodose line or surface, a DVH.

Positions are patient x, y, z in mm; doses Gy (RBE) of the whole course. Requests are plain values,
so that an episode of them can be written down and played again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.spatial import cKDTree

from engine.dose.quantities import RbeDose
from engine.optimization.regions import Region
from engine.optimization.shaping import Wish
from engine.patient.grid import Grid

AXES = {"axial": 2, "coronal": 1, "sagittal": 0}  # component of (x, y, z) that a slice fixes


class RequestRefused(ValueError):
    """A request that cannot be carried out; the message says why, and what would do."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Where requests look: rows (voxels of a dose grid, flat indices), structures and quantity."""

    grid: Grid
    voxels: np.ndarray  # (n_rows,)
    structures: Mapping[str, Region]
    quantity: RbeDose

    @cached_property
    def points_mm(self) -> np.ndarray:
        """(n_rows, 3) float32, x, y, z."""
        return self.grid.points_mm(self.voxels).astype(np.float32)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points_mm)

    def nearest_row(self, position_mm) -> int:
        """The row whose voxel holds a position; refuses what lies outside all of them."""
        position = finite_point("position_mm", position_mm)
        distance, row = self._tree.query(position)
        if distance > 0.5 * float(np.linalg.norm(self.grid.spacing_mm)) + 1e-6:
            raise RequestRefused(
                f"position_mm={_plain(position)} lies outside what is planned, {distance:.0f} mm "
                "from its nearest voxel; choose a point in or near the targets and organs."
            )
        return int(row)

    def rows_within(self, center_mm, radius_mm: float) -> np.ndarray:
        """Rows (n,) of a ball, ascending."""
        return np.sort(np.array(self._tree.query_ball_point(center_mm, radius_mm), np.int64))

    def per_fraction(self, dose_gy: float) -> float:
        return dose_gy / self.quantity.scale


@dataclass(frozen=True)
class VoxelRequest:
    """Give the voxel at a position a dose."""

    position_mm: tuple[float, float, float]
    dose_gy: float
    kind: ClassVar[str] = "voxel"

    def wish(self, scene: Scene, dose_gy: np.ndarray) -> Wish:
        row = scene.nearest_row(self.position_mm)
        goal = possible_dose("dose_gy", self.dose_gy)
        return _toward(scene, np.array([row]), goal, bool(goal < dose_gy[row]))


@dataclass(frozen=True)
class VoxelsRequest:
    """Bring a set of voxels, given by positions, to at most (``lower``) or at least a dose."""

    positions_mm: tuple[tuple[float, float, float], ...]
    dose_gy: float
    lower: bool
    kind: ClassVar[str] = "voxels"

    def wish(self, scene: Scene, dose_gy: np.ndarray) -> Wish:
        if not len(self.positions_mm):
            raise RequestRefused("positions_mm is empty; give one position or more.")
        rows = np.unique([scene.nearest_row(p) for p in self.positions_mm])
        goal = possible_dose("dose_gy", self.dose_gy)
        return _only_wrong(scene, rows, goal, self.lower, dose_gy)


@dataclass(frozen=True)
class IsodoseDrag:
    """Drag an isodose line within a slice from one point to another.

    Voxels of the slice within ``radius_mm`` of the way are brought to the level: up to it where
    the line moves away from the high dose, down to it where it moves in.
    """

    plane: str
    level_gy: float
    from_mm: tuple[float, float, float]
    to_mm: tuple[float, float, float]
    radius_mm: float = 4.0
    kind: ClassVar[str] = "isodose line"

    def wish(self, scene: Scene, dose_gy: np.ndarray) -> Wish:
        if self.plane not in AXES:
            raise RequestRefused(f"plane={self.plane!r} is unknown; choose from {list(AXES)}.")
        level, radius = possible_level(self.level_gy), possible_radius(self.radius_mm)
        start, end = finite_point("from_mm", self.from_mm), finite_point("to_mm", self.to_mm)
        lower = bool(dose_gy[scene.nearest_row(end)] > level)
        axis = AXES[self.plane]
        thickness = scene.grid.spacing_mm[::-1][axis]
        points = scene.points_mm
        in_slice = np.flatnonzero(np.abs(points[:, axis] - end[axis]) <= 0.5 * thickness + 1e-4)
        near = _distance_to_segment(points[in_slice], start, end, axis) <= radius
        return _only_wrong(scene, in_slice[near], level, lower, dose_gy)


@dataclass(frozen=True)
class IsodosePush:
    """Push an isodose surface with a ball: out of it (``lower``), or over all of it."""

    level_gy: float
    center_mm: tuple[float, float, float]
    radius_mm: float
    lower: bool
    kind: ClassVar[str] = "isodose surface"

    def wish(self, scene: Scene, dose_gy: np.ndarray) -> Wish:
        level, radius = possible_level(self.level_gy), possible_radius(self.radius_mm)
        center = finite_point("center_mm", self.center_mm)
        rows = scene.rows_within(center, radius)
        if not len(rows):
            rows = np.array([scene.nearest_row(center)])
        return _only_wrong(scene, rows, level, self.lower, dose_gy)


@dataclass(frozen=True)
class DvhPoint:
    """Move a point of a structure's dose-volume histogram: ``volume_percent`` shall get
    ``dose_gy`` or more. Those voxels change that need the least."""

    structure: str
    dose_gy: float
    volume_percent: float
    kind: ClassVar[str] = "dvh point"

    def wish(self, scene: Scene, dose_gy: np.ndarray) -> Wish:
        if self.structure not in scene.structures:
            raise RequestRefused(
                f"structure={self.structure!r} is unknown; choose from {list(scene.structures)}."
            )
        level = possible_level(self.dose_gy)
        if not 0.0 <= _number(self.volume_percent) <= 100.0:
            raise RequestRefused(f"volume_percent={self.volume_percent} must lie in 0 … 100.")
        region = scene.structures[self.structure]
        dose = dose_gy[region.rows]
        above = dose >= level
        excess = float(region.volume[above].sum()) - 0.01 * self.volume_percent
        lower = excess > 0
        candidates = np.flatnonzero(above if lower else ~above)
        order = candidates[np.argsort(np.abs(dose[candidates] - level), kind="stable")]
        volume = np.cumsum(region.volume[order])
        n = int(np.searchsorted(volume, abs(excess) - 1e-9)) + (abs(excess) > 1e-9)
        goal = level * (0.998 if lower else 1.0)  # at the level itself a voxel would count
        rows = np.sort(region.rows[order[:n]]).astype(np.int64)
        return _only_wrong(scene, rows, goal, lower, dose_gy)


KINDS = {r.kind: r for r in (VoxelRequest, VoxelsRequest, IsodoseDrag, IsodosePush, DvhPoint)}
Request = VoxelRequest | VoxelsRequest | IsodoseDrag | IsodosePush | DvhPoint


def as_plain(request: Request) -> dict:
    """A request as JSON can hold it."""
    return {"kind": request.kind, **asdict(request)}


def from_plain(plain: Mapping) -> Request:
    """The request that ``as_plain`` wrote."""
    settings = dict(plain)
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise RequestRefused(f"kind={kind!r} is unknown; choose from {list(KINDS)}.")
    try:
        return KINDS[kind](**{k: _frozen(v) for k, v in settings.items()})
    except TypeError as error:
        raise RequestRefused(f"a request of kind {kind!r} cannot be read: {error}.") from None


def finite_point(name: str, position_mm) -> np.ndarray:
    """A position (3,) float64; refuses NaN and what is no point."""
    try:
        point = np.asarray(position_mm, np.float64)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (3,) or not np.all(np.isfinite(point)):
        raise RequestRefused(f"{name}={position_mm} must be three finite numbers x, y, z in mm.")
    return point


def possible_dose(name: str, dose_gy: float) -> float:
    if not 0.0 <= _number(dose_gy) < np.inf:
        raise RequestRefused(
            f"{name}={dose_gy} Gy must be finite and not negative: no fluence takes dose away."
        )
    return float(dose_gy)


def possible_level(level_gy: float) -> float:
    if not 0.0 < _number(level_gy) < np.inf:
        raise RequestRefused(f"level_gy={level_gy} must be positive.")
    return float(level_gy)


def possible_radius(radius_mm: float) -> float:
    if not 0.0 < _number(radius_mm) <= 100.0:
        raise RequestRefused(f"radius_mm={radius_mm} must lie in 0 … 100.")
    return float(radius_mm)


def _number(value) -> float:
    """The value as a number; NaN, which no range holds, where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _only_wrong(scene: Scene, rows, goal: float, lower: bool, dose_gy: np.ndarray) -> Wish:
    """A wish on the rows that do not have it yet."""
    wrong = rows[dose_gy[rows] > goal] if lower else rows[dose_gy[rows] < goal]
    if not len(wrong):
        side = "at most" if lower else "at least"
        raise RequestRefused(f"nothing to change: all of it has {side} {goal:.2f} Gy already.")
    return _toward(scene, wrong, goal, lower)


def _toward(scene: Scene, rows: np.ndarray, goal_gy: float, lower: bool) -> Wish:
    return Wish(rows, np.full(len(rows), scene.per_fraction(goal_gy), np.float32), lower)


def _distance_to_segment(points: np.ndarray, start, end, axis: int) -> np.ndarray:
    """Distance (n,) of points to a segment, both seen along one axis."""
    seen = [i for i in range(3) if i != axis]
    p, a, b = points[:, seen].astype(np.float64), start[seen], end[seen]
    along = b - a
    square = float(along @ along)
    share = np.clip((p - a) @ along / square, 0.0, 1.0) if square > 0 else np.zeros(len(p))
    return np.linalg.norm(p - a - share[:, None] * along, axis=1)


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _plain(point: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(c), 1) for c in point)
