"""Procedural head-and-neck patients: one seed, one anatomy, one tumor.

Tumors follow table 1 of Quarz et al. 2024 (70 skull base and head-and-neck patients): 24.5 to
575 cm³, median 115, at many sites, from apart from every organ to wrapped around one. Five levels
of difficulty:

- L0  one convex target in homogeneous soft tissue, no organs
- L1  a concave target that leaves a gap around an organ, homogeneous soft tissue
- L2  a target that touches an organ, homogeneous soft tissue
- L3  air and bone, a lobed target with three dose levels
- L4  air and bone, a small target that an organ reaches into
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import ndtr, ndtri

from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.phantom_anatomy import AIR_HU, MUSCLE_HU, Head, draw_body, draw_head

LEVELS = ("L0", "L1", "L2", "L3", "L4")
LEVEL_SHARES = (0.1, 0.2, 0.2, 0.3, 0.2)  # when no level is asked for
VOLUME_CM3 = (24.5, 575.0)  # Quarz 2024, table 1
MEDIAN_VOLUME_CM3, LOG_VOLUME_STD = 115.5, 0.65  # extremes of 70 draws then fit table 1
SMALL_VOLUME_CM3 = (24.5, 60.0)
N_FRACTIONS = 35
DOSE_LEVELS_GY = {"PTV_7000": 70.0, "PTV_6300": 63.0, "PTV_5600": 56.0}
SKIN_MM = 3.0

SITES = {  # center in the frame of the standard head, mm; x is mirrored at random
    "skull base": (2.0, -4.0, -18.0),
    "nasal": (14.0, -50.0, -20.0),
    "oropharynx": (18.0, -14.0, -55.0),
    "neck": (36.0, 14.0, -85.0),
    "parotid side": (48.0, 0.0, -38.0),
    "temporal": (42.0, -8.0, 22.0),
    "frontal": (20.0, -45.0, 35.0),
    "larynx": (8.0, -12.0, -100.0),
}
_NEIGHBORS = ("Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "OpticChiasm")
_SPARED = ("Brainstem", "SpinalCord", "OpticChiasm", "OpticNrv_L", "OpticNrv_R", "Eye_L", "Eye_R")


@dataclass(frozen=True, eq=False)
class _Tumor:
    """Voxels (flat, ascending in ``order``: from the middle outwards) of one tumor."""

    order: np.ndarray
    site: str


def head_and_neck(
    seed: int,
    spacing_mm: float = 3.0,
    level: str | None = None,
    target_volume_cm3: tuple[float, float] | None = None,
    crop_mm: float | None = None,
) -> Patient:
    """A patient drawn from a seed; the same arguments give the same bits.

    ``spacing_mm`` is isotropic; a seed gives the same anatomy at every spacing (but for noise).
    ``level`` is one of L0 … L4 (see the module), by default drawn too. ``target_volume_cm3``
    bounds the volume of all targets together, drawn log-uniformly; by default volumes follow the
    module's table.
    ``crop_mm`` keeps only the slices within that distance of the targets, as scans often do.

    Targets are exclusive shells (as in OpenKBP) whose union is the tumor: PTV_7000 innermost,
    then PTV_6300 and PTV_5600 at L3; 70, 63, 56 Gy (RBE) in 35 fractions. They lie inside the
    body, 3 mm or more below the skin, and hold no air. Organs are exclusive of each other.
    """
    _check(spacing_mm, level, target_volume_cm3, crop_mm)
    rng = np.random.default_rng(seed)
    level = str(rng.choice(LEVELS, p=LEVEL_SHARES)) if level is None else _spend(rng, level)
    volume_cm3 = _draw_volume(rng, level, target_volume_cm3)
    head = draw_head(rng, spacing_mm)
    tumor = _grow_tumor(head, np.random.default_rng([seed, 1]), level, volume_cm3)
    patient = _assemble(head, tumor, level, seed, np.random.default_rng([seed, 2]))
    return patient if crop_mm is None else crop_slices(patient, crop_mm)


def crop_slices(patient: Patient, margin_mm: float) -> Patient:
    """The patient within a margin of the targets along z; the rest of the body is cut off."""
    hit = np.flatnonzero(patient.target_union().any(axis=(1, 2)))
    pad = int(np.ceil(margin_mm / patient.grid.spacing_mm[0]))
    first, last = max(0, hit[0] - pad), min(patient.grid.shape[0], hit[-1] + 1 + pad)
    z, y, x = patient.grid.origin_mm
    grid = Grid(
        (last - first, *patient.grid.shape[1:]),
        patient.grid.spacing_mm,
        (z + first * patient.grid.spacing_mm[0], y, x),
    )
    cut = (
        Structure(s.name, s.mask[first:last].copy(), s.role, s.material)
        for s in patient.structures.values()
    )
    structures = {s.name: s for s in cut if s.mask.any()}
    hu = patient.hu[first:last].copy()
    return Patient(
        patient.name, grid, hu, structures, patient.prescription_gy, patient.n_fractions,
        patient.source + f":crop={margin_mm:g}mm",
    )  # fmt: skip


def _draw_volume(rng, level: str, bounds: tuple[float, float] | None) -> float:
    if bounds is not None:
        return float(np.exp(rng.uniform(*np.log(bounds))))
    low, high = SMALL_VOLUME_CM3 if level == "L4" else VOLUME_CM3
    score = (np.log([low, high]) - np.log(MEDIAN_VOLUME_CM3)) / LOG_VOLUME_STD
    drawn = ndtri(rng.uniform(*ndtr(score)))
    return float(MEDIAN_VOLUME_CM3 * np.exp(LOG_VOLUME_STD * drawn))


def _spend(rng, level: str) -> str:
    """Draw and drop the level, so that a seed's anatomy is the same whether it is given or not."""
    rng.random()
    return level


def _grow_tumor(head: Head, rng, level: str, volume_cm3: float) -> _Tumor:
    """The voxels nearest to a center in a metric that gives the shape, as many as the volume."""
    radius = 10.0 * (3.0 * volume_cm3 / (4.0 * np.pi)) ** (1.0 / 3.0)
    site, center, toward, neighbor = _place(head, rng, level, radius)
    window = _around(head, center, 3.0 * radius)
    allowed = _allowed(head, level, window)
    x, y, z = (a - np.float32(c) for a, c in zip(_grid_xyz(head.grid, window), center))
    distance = _metric(rng, level, radius, (x, y, z))
    allowed &= ~_kept_free(head, rng, level, window, neighbor)
    if level == "L1":
        allowed &= ~_channel((x, y, z), toward, radius)
    n_wanted = max(8, round(volume_cm3 / head.grid.voxel_volume_cm3))
    chosen = _nearest(distance, allowed, n_wanted)
    if level == "L4":
        chosen = _reach(head, distance, allowed, n_wanted, chosen, window, neighbor)
    index = np.unravel_index(chosen, distance.shape)
    offset = [w.start for w in window]
    flat = np.ravel_multi_index([i + o for i, o in zip(index, offset)], head.grid.shape)
    return _Tumor(flat, site)


def _place(head: Head, rng, level: str, radius: float):
    """Site, center (x, y, z mm of the grid), direction to the neighbor, and the neighbor's name."""
    if level in ("L0", "L3"):
        site = str(rng.choice(list(SITES)))
        center = np.array(SITES[site]) * (rng.choice([-1.0, 1.0]), 1.0, 1.0)
        center = center + rng.normal(0.0, 4.0, 3)
        center = _deep_enough(head, center, radius) if level == "L0" else center
        return site, center, np.zeros(3), None
    neighbor = str(rng.choice([n for n in _NEIGHBORS if head.organs[n].any()]))
    organ = _upper_part(head, neighbor)
    middle = 0.5 * organ[int(rng.random() * len(organ))] + 0.5 * organ.mean(axis=0)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    toward = np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.3, 0.3)])
    toward /= np.linalg.norm(toward)
    away = toward if (_head_middle(head) - middle) @ toward < 0 else -toward  # stay off the skin
    apart = {"L1": 0.4, "L2": 0.75, "L4": 0.7}[level] * radius
    return f"near {neighbor}", middle - apart * away, away, neighbor


def _deep_enough(head: Head, center: np.ndarray, radius: float) -> np.ndarray:
    """The nearest place where a ball fits below the skin without being clipped."""
    depth = ndimage.distance_transform_edt(head.body, sampling=head.grid.spacing_mm)
    room = 1.2 * radius + 2.0 * SKIN_MM
    z = head.grid.axes_mm()[0]
    depth[z < z[0] + 20.0 + room] = 0.0  # the scan ends there
    places = np.flatnonzero(depth >= min(room, 0.95 * depth.max()))
    points = head.grid.points_mm(places)
    return points[np.argmin(np.sum(np.square(points - center), axis=1))]


def _head_middle(head: Head) -> np.ndarray:
    """A point deep inside: the middle of the brainstem, (x, y, z) in mm."""
    return _upper_part(head, "Brainstem").mean(axis=0)


def _upper_part(head: Head, name: str) -> np.ndarray:
    """Centers of an organ's voxels (n, 3) in mm, without the cord's end at the image's."""
    points = head.grid.points_mm(np.flatnonzero(head.organs[name]))
    if name != "SpinalCord":
        return points
    return points[points[:, 2] > np.median(points[:, 2]) - 10.0]


def _around(head: Head, center, reach_mm: float) -> tuple[slice, slice, slice]:
    middle = head.grid.index_of(np.asarray(center)[None])[0]
    steps = reach_mm / np.array(head.grid.spacing_mm)
    low = np.floor(middle - steps).astype(int)
    high = np.ceil(middle + steps).astype(int) + 1
    return tuple(
        slice(int(np.clip(a, 0, n - 1)), int(np.clip(b, 1, n)))
        for a, b, n in zip(low, high, head.grid.shape)
    )


def _grid_xyz(grid: Grid, window):
    z, y, x = (a[w].astype(np.float32) for a, w in zip(grid.axes_mm(), window))
    return x[None, None, :], y[None, :, None], z[:, None, None]


def _allowed(head: Head, level: str, window) -> np.ndarray:
    """Where a tumor may grow: below the skin, off the image's lower end, not in air."""
    spacing = head.grid.spacing_mm[0]
    deep = draw_body(head.canvas, inset_mm=SKIN_MM + 0.5 * spacing + 1.0)[window]
    deep &= _grid_xyz(head.grid, window)[2] > head.grid.axes_mm()[0][0] + 20.0
    if level in ("L3", "L4"):
        deep &= ~head.air[window]
    return deep


def _metric(rng, level: str, radius: float, offsets) -> np.ndarray:
    """Distance from the center in the shape's own units: an ellipsoid, or several lobes."""
    stretch = np.exp(np.clip(rng.normal(0.0, 0.15, 3), -0.3, 0.3)).astype(np.float32)
    x, y, z = (o / s for o, s in zip(offsets, stretch))
    distance = np.sqrt(x * x + y * y + z * z)
    if level != "L3":
        return distance
    for _ in range(rng.integers(2, 5)):
        direction = rng.normal(size=3)
        direction *= rng.uniform(0.5, 1.0) * radius / np.linalg.norm(direction)
        a, b, c = (o - np.float32(d) for o, d in zip(offsets, direction))
        lobe = np.sqrt(a * a + b * b + c * c) * np.float32(rng.uniform(1.2, 1.8))
        distance = np.minimum(distance, lobe)
    return distance


def _kept_free(head: Head, rng, level: str, window, neighbor: str | None) -> np.ndarray:
    """Organs that the tumor spares, with a gap around them at L1 and sometimes at L3."""
    free = np.zeros([w.stop - w.start for w in window], dtype=bool)
    gap_mm = {"L1": rng.uniform(3.0, 6.0), "L3": rng.choice([0.0, 0.0, 3.0])}.get(level, 0.0)
    spared = {"L0": (), "L1": tuple(head.organs), "L2": tuple(head.organs), "L3": _SPARED}
    for name in spared.get(level, ()):
        organ = head.organs[name][window]
        if organ.any():
            free |= _grown(organ, gap_mm / head.grid.spacing_mm[0])
    return free


def _grown(mask: np.ndarray, voxels: float) -> np.ndarray:
    steps = int(np.ceil(voxels))
    return ndimage.binary_dilation(mask, iterations=steps) if steps else mask


def _channel(offsets, toward: np.ndarray, radius: float) -> np.ndarray:
    """A channel from inside the tumor out towards the neighbor, which makes it concave."""
    x, y, z = offsets
    along = x * np.float32(toward[0]) + y * np.float32(toward[1]) + z * np.float32(toward[2])
    across = np.maximum(x * x + y * y + z * z - along * along, 0.0)
    return (along > 0.1 * radius) & (across < (0.42 * radius) ** 2)


def _nearest(distance: np.ndarray, allowed: np.ndarray, n_wanted: int) -> np.ndarray:
    """Flat indices of the nearest allowed voxels, nearest first; splinters are dropped."""
    places = np.flatnonzero(allowed)
    if len(places) == 0:
        raise RuntimeError("no room for a target in this anatomy; this is a bug of the phantom.")
    far = distance.ravel()[places]
    order = np.argsort(far, kind="stable")[: min(n_wanted, len(far))]
    chosen = places[order]
    mask = np.zeros(allowed.shape, dtype=bool)
    mask.ravel()[chosen] = True
    labels, n_parts = ndimage.label(mask)
    if n_parts == 1:
        return chosen
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = sizes >= max(8, 0.1 * sizes.max())
    large[np.argmax(sizes)] = True
    return chosen[large[labels.ravel()[chosen]]]


def _reach(head, distance, allowed, n_wanted, chosen, window, neighbor) -> np.ndarray:
    """Make sure that the neighbor reaches into the target: else grow from the neighbor's edge."""
    organ = head.organs[neighbor][window]
    if organ.ravel()[chosen].any() or not (organ & allowed).any():
        return chosen
    to_organ = ndimage.distance_transform_edt(~organ).astype(np.float32)
    return _nearest(to_organ + 0.05 * distance, allowed, n_wanted)


def _assemble(head: Head, tumor: _Tumor, level: str, seed: int, rng) -> Patient:
    organs = {} if level == "L0" else head.organs
    targets = _target_masks(head, tumor, level, rng)
    structures = [
        Structure("External", head.body, "external"),
        *(Structure(name, mask, "target") for name, mask in targets.items()),
        *(Structure(name, mask, "organ") for name, mask in organs.items() if mask.any()),
    ]
    return Patient(
        name=f"head-and-neck-{seed}",
        grid=head.grid,
        hu=_tumor_hu(head, tumor, level),
        structures={s.name: s for s in structures},
        prescription_gy={name: DOSE_LEVELS_GY[name] for name in targets},
        n_fractions=N_FRACTIONS,
        source=f"procedural:head_and_neck:{seed}:{level}:{tumor.site}",
    )


def _target_masks(head: Head, tumor: _Tumor, level: str, rng) -> dict[str, np.ndarray]:
    """PTV_7000, and at L3 the shells around it; every one has some voxels."""
    n = len(tumor.order)
    shares = [1.0]
    if level == "L3":
        inner = rng.uniform(0.3, 0.5)
        shares = [inner, inner + (1.0 - inner) * rng.uniform(0.35, 0.6), 1.0]
    ends = [0, *(round(share * n) for share in shares)]
    masks = {}
    for name, first, last in zip(DOSE_LEVELS_GY, ends[:-1], ends[1:]):
        mask = np.zeros(head.grid.shape, dtype=bool)
        mask.ravel()[tumor.order[first:last]] = True
        masks[name] = mask
    return masks


def _tumor_hu(head: Head, tumor: _Tumor, level: str) -> np.ndarray:
    """The CT: homogeneous up to L2; beyond, the tumor's core has replaced the bone it grew in."""
    if level in ("L0", "L1", "L2"):
        return np.where(head.body, np.float32(MUSCLE_HU), np.float32(AIR_HU))
    hu = head.hu.copy()
    core = tumor.order[: len(tumor.order) // 3]
    hu.ravel()[core] = np.minimum(hu.ravel()[core], MUSCLE_HU + 10.0)
    return hu


def _check(spacing_mm, level, target_volume_cm3, crop_mm) -> None:
    if not (np.isfinite(spacing_mm) and 0.5 <= spacing_mm <= 8.0):
        raise ValueError(f"spacing_mm={spacing_mm} must lie in 0.5 … 8 mm.")
    if level is not None and level not in LEVELS:
        raise ValueError(f"level={level!r} is unknown; choose from {LEVELS} or None.")
    if target_volume_cm3 is not None:
        low, high = target_volume_cm3
        if not 2.0 <= low <= high <= 1000.0:
            raise ValueError(
                f"target_volume_cm3={target_volume_cm3} must be (low, high) within 2 … 1000 cm³."
            )
    if crop_mm is not None and not crop_mm >= 0:
        raise ValueError(f"crop_mm={crop_mm} must be 0 or more, or None for the whole scan.")
