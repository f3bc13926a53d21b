"""A procedural head and neck: skin, bone, brain, air cavities and organs from analytic shapes.

Lengths are mm in the frame of a standard head (x left, y posterior, z superior, origin between
the optic canals and the brainstem); sizes follow adult anatomy. The seed stretches the head, bends
the neck and moves and sizes every organ a little.
"""

from dataclasses import dataclass

import numpy as np

from engine.patient.grid import Grid
from engine.patient.phantom_shapes import Canvas, Region

AIR_HU, FAT_HU, MUSCLE_HU, BRAIN_HU, FLUID_HU, BONE_HU = -1000.0, -90.0, 45.0, 36.0, 10.0, 950.0

_LOWER, _UPPER = np.array((-86.0, -112.0, -150.0)), np.array((86.0, 112.0, 120.0))
_AIR_AROUND_MM = 8.0
_CRANIUM = ((0, 8, 38), (77, 97, 80))
_BODY = (
    _CRANIUM,
    ((0, 2, -25), (73, 72, 62)),
    ((0, -38, -38), (62, 56, 70)),
    ((0, -90, -24), (12, 15, 20)),
    ((70, 18, -12), (10, 17, 28)),
    ((-70, 18, -12), (10, 17, 28)),
)
_NECK = np.array(
    [(-170, 0, 31, 82, 64), (-120, 0, 27, 60, 56), (-60, 0, 20, 57, 54), (-20, 0, 15, 57, 54)]
)
_FLOOR_Y = (-90, -32, -24, 5, 14, 24, 110)  # floor of the brain: anterior, middle, posterior fossa
_FLOOR_Z = (14, 14, -6, -8, -20, -36, -36)
_CORD = np.array([(-170, 0, 45, 6, 5), (-110, 0, 36, 6, 5), (-70, 0, 30, 6, 5), (-40, 0, 26, 6, 5)])
_BRAINSTEM = np.array(
    [(-40, 0, 26, 8, 7), (-25, 0, 20, 11, 9), (-8, 0, 14, 16, 13), (5, 0, 10, 13, 9),
     (16, 0, 8, 12, 8)]
)  # fmt: skip
_AIRWAY = np.array(
    [(-170, 0, -4, 9, 9), (-112, 0, -9, 8, 8), (-98, 0, -10, 5, 7), (-70, 0, -11, 11, 5),
     (-48, 0, -14, 12, 6), (-28, 0, -22, 13, 8)]
)  # fmt: skip
_LARYNX = np.array([(-124, 0, -10, 15, 14), (-110, 0, -11, 18, 16), (-94, 0, -11, 15, 14)])
_PAROTID = ((54, 4, -38), (12.5, 17, 23))
_EYE = ((31, -62, -3), 12.0)
_NERVE = ((29, -50, -3), (7, -21, 5), 2.4)
_CHIASM = ((0, -16, 7), (9, 6, 4))


@dataclass(frozen=True, eq=False)
class Head:
    """One anatomy on its grid; masks (nz, ny, nx), HU float32."""

    canvas: Canvas
    hu: np.ndarray
    body: np.ndarray
    air: np.ndarray  # cavities inside the body
    organs: dict[str, np.ndarray]  # exclusive of each other

    @property
    def grid(self) -> Grid:
        return self.canvas.grid


def draw_head(rng: np.random.Generator, spacing_mm: float) -> Head:
    """A head and neck that varies with the generator's state."""
    scale = np.clip(rng.normal(1.0, 0.045, 3), 0.9, 1.1)
    bend, tilt = rng.uniform(-0.15, 0.15), rng.uniform(-0.06, 0.06)
    grid = _grid(scale, bend, tilt, spacing_mm)
    canvas = Canvas(grid, tuple(scale), bend, tilt)
    body = draw_body(canvas)
    organs = _organs(canvas, rng, spacing_mm)
    hu = np.full(grid.shape, AIR_HU, dtype=np.float32)
    hu[body] = FAT_HU
    hu[draw_body(canvas, inset_mm=rng.uniform(4.0, 8.0))] = MUSCLE_HU
    _paint_tissues(canvas, hu, rng)
    _paint_organs(hu, organs)
    air = _draw_air(canvas, rng)
    air &= body
    for name, mask in organs.items():
        if name != "Larynx":
            air &= ~mask
    hu[air] = AIR_HU
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    hu[body & ~air] += 8.0 * noise[body & ~air]
    hu[~body] = AIR_HU
    return Head(canvas, hu, body, air, organs)


def draw_body(canvas: Canvas, inset_mm: float = 0.0) -> np.ndarray:
    """Inside of the skin, or of a surface that much below it (without ears and nose), a mask."""
    body = np.zeros(canvas.grid.shape, dtype=bool)
    for center, semi_axes in _BODY:
        if min(semi_axes) > 3.0 * inset_mm:
            canvas.ellipsoid(center, semi_axes, -inset_mm).paint(body, True)
    neck = _NECK.astype(float)
    neck[:, 3:] -= inset_mm
    canvas.column(neck).paint(body, True)
    return body


def _grid(scale, bend: float, tilt: float, spacing_mm: float) -> Grid:
    reach = np.abs([tilt, bend]) * 110.0  # the neck's end moves by that much
    lower = (_LOWER - (reach[0], max(0.0, reach[1] - 60.0), 0.0)) * scale
    upper = (_UPPER + (reach[0], max(0.0, reach[1] - 5.0), 0.0)) * scale
    air = np.array((_AIR_AROUND_MM, _AIR_AROUND_MM, 0.0))
    lower, upper = lower - air, upper + air + (0.0, 0.0, _AIR_AROUND_MM)
    shape = np.ceil((upper - lower) / spacing_mm).astype(int)
    origin = lower + 0.5 * spacing_mm
    return Grid(tuple(shape[::-1]), (spacing_mm,) * 3, tuple(origin[::-1]))


def _organs(canvas: Canvas, rng: np.random.Generator, spacing_mm: float) -> dict[str, np.ndarray]:
    """Organ masks; a voxel that two shapes claim belongs to the one drawn first."""
    thin = 0.75 * spacing_mm  # no organ falls between the voxels
    regions: dict[str, list[Region]] = {
        "Brainstem": [canvas.column(_jittered(rng, _BRAINSTEM))],
        "SpinalCord": [canvas.column(_CORD)],
        "OpticChiasm": [canvas.ellipsoid(*_sized(rng, *_CHIASM, at_least=thin))],
    }
    nerve_radius = max(_NERVE[2], thin)
    for side, sign in (("L", 1.0), ("R", -1.0)):
        eye, radius = _EYE
        eye_center, eye_axes = _sized(rng, _mirror(eye, sign), (radius,) * 3, spread=0.05)
        socket = (eye_center[0], eye_center[1] + radius, eye_center[2])
        nerve = canvas.tube(socket, _mirror(_NERVE[1], sign), nerve_radius, nerve_radius)
        regions[f"Eye_{side}"] = [canvas.ellipsoid(eye_center, eye_axes)]
        regions[f"OpticNrv_{side}"] = [nerve]
    regions["Bone_Mandible"] = _mandible(canvas, rng)
    for side, sign in (("L", 1.0), ("R", -1.0)):
        center, axes = _sized(rng, _mirror(_PAROTID[0], sign), _PAROTID[1], spread=0.1)
        regions[f"Parotid_{side}"] = [canvas.ellipsoid(center, axes)]
    regions["Larynx"] = [canvas.column(_jittered(rng, _LARYNX))]
    free = draw_body(canvas, inset_mm=1.0)
    organs = {}
    for name, parts in regions.items():
        mask = np.zeros(canvas.grid.shape, dtype=bool)
        for part in parts:
            part.paint(mask, True)
        organs[name] = mask & free
        free &= ~mask
    return organs


def _mandible(canvas: Canvas, rng: np.random.Generator) -> list[Region]:
    width, depth = rng.normal(0.0, 1.5, 2)
    arc = canvas.arc((0, -34), (44 + width, 38 + depth), (34 + width, 28 + depth), (-88, -67), -28)
    rami = [
        canvas.tube((s * (41 + width), -28, -80), (s * (49 + width), -9, -26), 7.0, 5.0)
        for s in (1.0, -1.0)
    ]
    return [arc, *rami]


def _paint_tissues(canvas: Canvas, hu: np.ndarray, rng: np.random.Generator) -> None:
    """Everything that is no organ and no air, from the outside inwards."""
    bone = BONE_HU + rng.normal(0.0, 60.0)
    scalp = rng.uniform(6.0, 8.0)
    thickness = rng.uniform(5.5, 7.5)
    outer = canvas.ellipsoid(*_CRANIUM, -scalp)
    canvas.roof(outer, _FLOOR_Y, np.array(_FLOOR_Z) - 6.0).paint(hu, bone)
    diploe = canvas.ellipsoid(*_CRANIUM, -scalp - 0.3 * thickness)
    canvas.roof(diploe, _FLOOR_Y, np.array(_FLOOR_Z) - 4.0).paint(hu, 0.6 * bone)
    inner = canvas.ellipsoid(*_CRANIUM, -scalp - 0.7 * thickness)
    canvas.roof(inner, _FLOOR_Y, np.array(_FLOOR_Z) - 2.0).paint(hu, bone)
    brain = canvas.ellipsoid(*_CRANIUM, -scalp - thickness)
    canvas.roof(brain, _FLOOR_Y, _FLOOR_Z).paint(hu, BRAIN_HU)
    clivus = np.array([(-36, 0, 4, 13, 5), (-4, 0, -8, 13, 5)])
    canvas.column(clivus).paint(hu, 0.6 * bone)
    canvas.ellipsoid((0, -60, -30), (36, 20, 20)).paint(hu, 0.35 * bone)  # maxilla
    canvas.arc((0, -46), (31, 32), (24, 25), (-58, -46), -44).paint(hu, 1.2 * bone)  # upper teeth
    for sign in (1.0, -1.0):
        _paint_side(canvas, hu, bone, sign)
    _paint_spine(canvas, hu, bone)


def _paint_side(canvas: Canvas, hu: np.ndarray, bone: float, sign: float) -> None:
    """Bones, fat and fluid that come in pairs."""

    def at(*point):
        return _mirror(point, sign)

    canvas.ellipsoid(at(42, 12, -12), (24, 9, 9)).paint(hu, 1.15 * bone)  # petrous bone
    canvas.ellipsoid(at(57, 26, -22), (10, 12, 16)).paint(hu, 0.3 * bone)  # mastoid
    canvas.tube(at(34, -66, -20), at(64, -18, -16), 5.0, 4.0).paint(hu, 0.85 * bone)  # zygoma
    canvas.tube(at(31, -57, -3), at(10, -27, 1), 17.5, 6.0).paint(hu, 0.6 * bone)  # orbit's wall
    canvas.tube(at(31, -60, -3), at(10, -28, 1), 15.0, 3.5).paint(hu, FAT_HU)
    canvas.ellipsoid(at(27, -12, -46), (6, 9, 15)).paint(hu, FAT_HU)  # parapharyngeal space
    canvas.ellipsoid(at(9, 6, 36), (6, 26, 10)).paint(hu, FLUID_HU)  # lateral ventricle


def _paint_spine(canvas: Canvas, hu: np.ndarray, bone: float) -> None:
    def vertebra(z):
        return np.mod(z, 19.0) > 5.0

    column = _shifted(_CORD, dy=-20.0, semi_axes=(13.0, 10.5))
    canvas.column(column).paint(hu, 90.0)  # discs
    canvas.column(column, rows=vertebra).paint(hu, 0.4 * bone)
    for dy, semi_axes in ((0.0, (15.0, 13.0)), (-8.0, (24.0, 6.0)), (20.0, (4.0, 11.0))):
        canvas.column(_shifted(_CORD, dy, semi_axes), rows=vertebra).paint(hu, 0.6 * bone)
    canal = np.vstack([_shifted(_CORD, 0.0, (10.0, 8.0)), [(-28, 0, 21, 13, 10)]])
    canvas.column(canal).paint(hu, FLUID_HU)


def _paint_organs(hu: np.ndarray, organs: dict[str, np.ndarray]) -> None:
    values = {"Bone_Mandible": 1.05 * BONE_HU, "Brainstem": 32.0, "SpinalCord": 38.0}
    for name, mask in organs.items():
        kind = name.split("_")[0]
        hu[mask] = values.get(name, {"Eye": 12.0, "Parotid": -12.0, "Larynx": 55.0}.get(kind, 34.0))


def _draw_air(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Nasal cavity, sinuses, mouth, pharynx and trachea, (nz, ny, nx)."""
    air = np.zeros(canvas.grid.shape, dtype=bool)
    ellipsoids = [
        ((0, -17, -9), (11, 9, 6)),  # sphenoid sinus
        ((0, -50, -54), (20, 20, rng.uniform(1.5, 5.0))),  # mouth
    ]
    for s in (1.0, -1.0):
        ellipsoids += [
            ((s * 6.5, -56, -24), (4.5, 29, 16)),  # nasal cavity
            ((s * 26, -58, -28), (12, 14, 14)),  # maxillary sinus
            ((s * 7, -45, 3), (5, 15, 8)),  # ethmoid cells
            ((s * 10, -78, 27), (9, 4, 9)),  # frontal sinus
        ]
    for center, semi_axes in ellipsoids:
        center, semi_axes = _sized(rng, center, semi_axes, spread=0.12)
        canvas.ellipsoid(center, semi_axes).paint(air, True)
    airway = _jittered(rng, _AIRWAY)
    canvas.column(airway).paint(air, True)
    return air


def _mirror(point, sign: float):
    return (sign * point[0], point[1], point[2])


def _sized(rng, center, semi_axes, spread: float = 0.08, at_least: float = 0.0):
    """A center moved by about 1 mm and semi-axes stretched by about ``spread``."""
    move = np.clip(rng.normal(0.0, 1.0, 3), -2.0, 2.0)
    stretch = np.clip(rng.normal(1.0, spread, 3), 1.0 - 2 * spread, 1.0 + 2 * spread)
    axes = np.maximum(np.array(semi_axes) * stretch, at_least)
    return tuple(np.array(center) + move), tuple(axes)


def _jittered(rng, knots: np.ndarray, spread: float = 0.08) -> np.ndarray:
    """A column moved along y by about 1 mm and widened by about ``spread``."""
    changed = knots.astype(float)
    changed[:, 2] += np.clip(rng.normal(0.0, 1.0), -2.0, 2.0)
    changed[:, 3:] *= np.clip(rng.normal(1.0, spread, 2), 1.0 - 2 * spread, 1.0 + 2 * spread)
    return changed


def _shifted(knots: np.ndarray, dy: float, semi_axes) -> np.ndarray:
    """A column moved along y, with other semi-axes."""
    changed = knots.astype(float)
    changed[:, 2] += dy
    changed[:, 3:] = semi_axes
    return changed
