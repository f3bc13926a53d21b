"""Phantoms with exact geometry, and the procedural head and neck.

Axes as everywhere: x left, y posterior, z superior, (0, 0, 0) in the middle; a field at gantry 0
enters at the lowest y, so depth in a tank is y minus the tank's lowest y.
"""

import numpy as np

from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.phantom_head_neck import head_and_neck

__all__ = ["half_slab_tank", "head_and_neck", "horseshoe", "tg119_c_shape", "water_tank"]


def water_tank(
    size_mm: float | tuple[float, float, float] = 300.0,
    spacing_mm: float = 2.0,
    target_size_mm: float = 50.0,
) -> Patient:
    """A tank of water (exactly: density 1, RSP 1) of ``size_mm`` (z, y, x or one for all).

    A cube in the middle is the target, 60 Gy (RBE) in 30 fractions.
    """
    grid = _grid(size_mm, spacing_mm)
    if not 0 < target_size_mm <= min(np.array(grid.shape) * spacing_mm):
        raise ValueError(f"target_size_mm={target_size_mm} must fit into the tank of {size_mm} mm.")
    target = _box(grid, (-0.5 * target_size_mm,) * 3, (0.5 * target_size_mm,) * 3)
    tank = np.ones(grid.shape, dtype=bool)
    return _phantom(
        "water tank", grid, np.zeros(grid.shape, np.float32), tank, {"PTV": (target, 60.0)}, 30
    )


def half_slab_tank(slab_hu: float = 1000.0, spacing_mm: float = 1.0) -> Patient:
    """The tank of Burlacu et al. 2024: 10 × 10 × 10 cm³ of water with a slab in one half.

    The slab lies at depths of 20 to 30 mm (along y, for a field at gantry 0) in the half x > 0.
    Its CT number goes through the calibration; the water around it is exactly water, held by a
    support structure. ``slab_hu=0`` leaves soft tissue there, not water.
    """
    if not -1000.0 <= slab_hu <= 3000.0:
        raise ValueError(f"slab_hu={slab_hu} must lie in -1000 … 3000 HU.")
    grid = _grid(100.0, spacing_mm)
    slab = _box(grid, (0.0, -30.0, -np.inf), (np.inf, -20.0, np.inf))
    target = _box(grid, (-15.0, 5.0, -15.0), (15.0, 30.0, 15.0))
    hu = np.where(slab, np.float32(slab_hu), np.float32(0.0))
    tank = np.ones(grid.shape, dtype=bool)
    patient = _phantom(
        f"half-slab tank, {slab_hu:g} HU",
        grid,
        hu,
        tank,
        {"PTV": (target, 60.0)},
        30,
        material=None,
    )
    return patient.with_structures(Structure("Water", ~slab, "support", "water"))


def horseshoe(
    spacing_mm: tuple[float, float, float] = (2.0, 1.952, 1.952),
    diameter_mm: float = 120.0,
    organ_diameter_mm: float = 44.0,
) -> Patient:
    """The phantom of Ziegenhein et al. 2016: a horseshoe around a spherical organ, in water.

    ``spacing_mm`` (z, y, x) and the outer diameter are the paper's; the other sizes are chosen
    here: a U of rectangular section, open towards the front, 84 mm high, around a sphere of
    44 mm with a gap of 6 mm, in a cylinder of 220 mm. 60 Gy (RBE) in 30 fractions.
    """
    if not 0 < organ_diameter_mm < 0.6 * diameter_mm:
        raise ValueError(
            f"organ_diameter_mm={organ_diameter_mm} must be smaller than 0.6 × "
            f"diameter_mm={diameter_mm}; the horseshoe goes around it."
        )
    body_mm = diameter_mm + 100.0
    grid = _grid((diameter_mm + 60.0, body_mm + 10.0, body_mm + 10.0), spacing_mm)
    x, y, z = _xyz(grid)
    radius = np.hypot(x, y)
    outer, inner = 0.5 * diameter_mm, 0.5 * organ_diameter_mm + 6.0
    ring = (radius < outer) & (radius > inner) & (np.abs(z) < 0.35 * diameter_mm)
    organ = x * x + y * y + z * z < (0.5 * organ_diameter_mm) ** 2
    body = np.broadcast_to(radius < 0.5 * body_mm, grid.shape).copy()
    return _phantom(
        "horseshoe", grid, np.where(body, 0.0, -1000.0).astype(np.float32), body,
        {"PTV": (ring & ~((y < 0.0) & (np.abs(x) < inner)), 60.0)}, 30, {"Core": organ},
    )  # fmt: skip


def tg119_c_shape(
    spacing_mm: float = 3.0,
    field_of_view_mm: tuple[float, float, float] | None = None,
    arc_deg: float = 270.0,
) -> Patient:
    """The C-shape of AAPM TG-119 (Ezzell et al. 2009) in a box of water, 50 Gy (RBE) in 25.

    Core: a cylinder along z of radius 10 mm and length 100 mm. PTV: part of a ring from 15 to
    37 mm, 80 mm long, open towards the back; how far it reaches around (``arc_deg``) and the body
    of 300 × 200 × 200 mm³ (x, y, z) are chosen here. ``field_of_view_mm`` (z, y, x) sets the size
    of the CT; by default the body and 10 mm of air.
    """
    if not 0.0 < arc_deg <= 360.0:
        raise ValueError(f"arc_deg={arc_deg} must lie in 0 … 360 degrees.")
    body_size = np.array((200.0, 200.0, 300.0))
    size = body_size + (0.0, 20.0, 20.0) if field_of_view_mm is None else field_of_view_mm
    grid = _grid(size, spacing_mm)
    x, y, z = _xyz(grid)
    radius = np.hypot(x, y)
    ring = (radius > 15.0) & (radius < 37.0) & (np.abs(z) < 40.0)
    ring &= np.abs(np.arctan2(x, -y)) <= np.radians(0.5 * arc_deg)
    core = (radius < 10.0) & (np.abs(z) < 50.0)
    half = 0.5 * body_size[::-1]
    body = _box(grid, -half, half)
    return _phantom(
        "TG-119 C-shape", grid, np.where(body, 0.0, -1000.0).astype(np.float32), body,
        {"PTV": (ring, 50.0)}, 25, {"Core": core},
    )  # fmt: skip


def _phantom(name, grid, hu, body, targets, n_fractions, organs=None, material="water") -> Patient:
    structures = [
        Structure("External", body, "external", material),
        *(Structure(n, mask, "target") for n, (mask, _) in targets.items()),
        *(Structure(n, mask, "organ") for n, mask in (organs or {}).items()),
    ]
    return Patient(
        name, grid, hu, {s.name: s for s in structures},
        {n: dose_gy for n, (_, dose_gy) in targets.items()}, n_fractions,
        source="phantom:" + name.replace(" ", "_"),
    )  # fmt: skip


def _grid(size_mm, spacing_mm) -> Grid:
    size = np.broadcast_to(np.asarray(size_mm, dtype=float), 3)
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    if not (np.all(np.isfinite(size)) and np.all(spacing > 0) and np.all(size >= spacing)):
        raise ValueError(
            f"size {size.tolist()} mm and spacing_mm={spacing.tolist()} must be positive, and the "
            "size at least one voxel."
        )
    return Grid.centered(tuple(np.maximum(1, np.round(size / spacing)).astype(int)), spacing)


def _xyz(grid: Grid):
    z, y, x = grid.axes_mm()
    return x[None, None, :], y[None, :, None], z[:, None, None]


def _box(grid: Grid, lower_xyz, upper_xyz) -> np.ndarray:
    """Voxels whose centers lie in a box, (nz, ny, nx)."""
    inside = np.ones(grid.shape, dtype=bool)
    for axis, low, high in zip(_xyz(grid), lower_xyz, upper_xyz):
        inside &= (axis > low) & (axis < high)
    return inside
