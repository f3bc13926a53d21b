"""Simulated repeat CTs of a head and neck: thinner, with filled sinuses, with the head tilted.

A repeat CT is given in the room's coordinates, registered to the planning CT: the grid, the
targets and the organs stay as planned, only the HU and the external change. A planned structure
may therefore reach beyond the new external, where there is vacuum. What the plan sees as vacuum
(everything off the external and the supports) is air at −1000 HU in the new CT.

Voxels that the body fills in part get the HU of the mixture and belong to the external from a
share of 5 % on, so that water-equivalent depths change smoothly with the strength.

Where a scan is cut in the body (flat face across z), the body is taken to go on beyond the cut:
no skin is lost there, and a tilt brings in the last slice's tissue. Nothing beyond the cut is kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from scipy import ndimage

from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.patient.structures import distance_mm

AIR_HU, CAVITY_HU, RIM_HU, MUCUS_HU, BONE_HU = -1000.0, -400.0, -150.0, 25.0, 200.0
MAX_SHRINK_MM, MAX_ANGLE_DEG = 10.0, 10.0
MIN_SHARE = 0.05  # of a voxel that belongs to the external
BEYOND_CUT_MM = 40.0  # a body is taken to go on that far

SOFT_TISSUE_REACH_MM = 30.0  # tissue deeper than that does not move with the skin
MIN_BONE_CM3, MIN_CAVITY_CM3 = 0.3, 0.3  # smaller ones are noise or streaks

# Where sinuses, nose and mouth lie, from the foramen magnum and the middle of cord or brainstem.
HEAD_BELOW_FORAMEN_MM = 60.0  # to the floor of the mouth
PHARYNX_FRONT_MM = 55.0  # soft palate and choanae before the cord …
PHARYNX_ROOF_MM = 20.0  # … up to here above the foramen, where the sphenoid sinus follows
SINUS_BEFORE_BRAINSTEM_MM = 20.0  # ear canals and mastoid cells lie further back …
SINUS_HALF_WIDTH_MM = 45.0  # … and further out
JOINT_BELOW_FORAMEN_MM, JOINT_BEFORE_CORD_MM = 20.0, 10.0  # C1 to C2, about which a head nods

REPEAT_CTS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "weight_loss": (1.0, 2.0, 3.0, 4.0, 5.0),  # mm
        "filled_sinuses": (0.2, 0.4, 0.6, 0.8, 1.0),
        "tilted_neck": (1.0, 2.0, 3.0, 4.0, 5.0),  # degrees
    }
)


def repeat_series(patient: Patient, kind: str, n: int = 5) -> Iterator[tuple[str, Patient]]:
    """Label and patient for n strengths of a kind, evenly from a n-th of the strongest up to it.

    Kinds and strengths are those of ``REPEAT_CTS``. Arguments are checked at the call.
    """
    if kind not in REPEAT_CTS:
        raise ValueError(f"kind={kind!r} is unknown; choose from {tuple(REPEAT_CTS)}.")
    if n != int(n) or n < 1:
        raise ValueError(f"n={n} must be a whole number from 1 on.")
    simulate, label = {
        "weight_loss": (weight_loss, "weight loss {:.3g} mm"),
        "filled_sinuses": (filled_sinuses, "sinuses {:.0%} filled"),
        "tilted_neck": (tilted_neck, "neck tilted {:.3g}°"),
    }[kind]
    strengths = REPEAT_CTS[kind][-1] * np.arange(1, int(n) + 1) / int(n)
    return ((label.format(s), simulate(patient, float(s))) for s in strengths)


def weight_loss(patient: Patient, shrink_mm: float) -> Patient:
    """The skin ``shrink_mm`` further in: the soft tissue beneath it is thinner, bones stay.

    Tissue moves along the skin's normal, by the full amount at the skin and less and less down
    to the nearest bone or cavity, or to 30 mm depth. Its HU stay, so mass is lost. A layer over
    bone keeps half its thickness at least: the scalp loses less than the cheeks and the neck.
    """
    _check_strength("shrink_mm", shrink_mm, MAX_SHRINK_MM)
    if shrink_mm == 0:
        return _repeated(patient, "weight_loss=0mm", patient.hu.copy(), patient.external.mask)
    scan = _beyond_cuts(patient)
    amount_mm, normal, moving = _skin_shift(scan, patient.grid, shrink_mm)
    spacing = np.array(patient.grid.spacing_mm)[:, None]
    target = np.stack(np.nonzero(moving)).astype(np.float32)
    source = target
    for _ in range(6):  # the shift at the source, not at the target; contracts by half or better
        shift_mm = _sampled(amount_mm, source)
        source = target + shift_mm * np.stack([_sampled(n, source) for n in normal]) / spacing
    return _warped(patient, scan, moving, source, f"weight_loss={shrink_mm:g}mm")


def filled_sinuses(patient: Patient, fraction: float) -> Patient:
    """Sinuses, nose and mouth filled with mucus (25 HU) up to a level, by ``fraction`` of the air.

    The patient lies on the back, so every connected cavity fills from the posterior side (+y);
    the row at its level holds a mixture. Cavities are what is below −400 HU in the external, with
    the rim that is partly air, from the skull down to 60 mm below the foramen magnum or to the
    larynx. Pharynx, larynx and trachea stay open: all that lies within 55 mm before the cord, up
    to 20 mm above the foramen magnum. Ear canals and mastoid cells, lateral and posterior, stay
    too. Brainstem or cord must be drawn, as the places are told from them.
    """
    _check_strength("fraction", fraction, 1.0)
    if fraction == 0:
        return _repeated(patient, "filled_sinuses=0", patient.hu.copy(), patient.external.mask)
    hu = patient.hu.astype(np.float32)
    share = fluid_share(patient, fraction)
    hu += share * (np.float32(MUCUS_HU) - hu)
    name = f"filled_sinuses={fraction:g}"
    return _repeated(patient, name, hu, patient.external.mask)


def fluid_share(patient: Patient, fraction: float) -> np.ndarray:
    """Share of every voxel's air that mucus replaces, (nz, ny, nx) float32; 0 off the sinuses."""
    cavities = sinus_air(patient)
    parts, n_parts = ndimage.label(cavities, np.ones((3, 3, 3)))
    air = np.clip((MUCUS_HU - patient.hu) / (MUCUS_HU - AIR_HU), 0.0, 1.0)
    share = np.zeros(patient.grid.shape, np.float32)
    for part, window in enumerate(ndimage.find_objects(parts, n_parts), start=1):
        inside = parts[window] == part
        by_row = (air[window] * inside).sum(axis=(0, 2), dtype=np.float64)
        behind = np.cumsum(by_row[::-1])[::-1] - by_row  # air further back than the row
        room = fraction * by_row.sum() - behind
        level = np.clip(room / np.maximum(by_row, 1e-9), 0.0, 1.0).astype(np.float32)
        share[window] += inside * level[None, :, None]
    return share


def sinus_air(patient: Patient) -> np.ndarray:
    """The cavities that ``filled_sinuses`` fills, with their partial voxels, (nz, ny, nx)."""
    place = _sinus_region(patient) & patient.external.mask
    cavity = place & (patient.hu < CAVITY_HU)
    cavity = _without_specks(cavity, patient.grid, MIN_CAVITY_CM3)
    if not cavity.any():
        raise ValueError(
            f"patient {patient.name!r} has no sinus, nose or mouth of {MIN_CAVITY_CM3} cm³ below "
            f"{CAVITY_HU:g} HU; filled_sinuses needs one in the scan, so choose another patient."
        )
    rim = ndimage.binary_dilation(cavity) & (patient.hu < RIM_HU)
    return cavity | (rim & place)


def tilted_neck(
    patient: Patient,
    angle_deg: float,
    pivot_yz_mm: tuple[float, float] | None = None,
    blend_mm: float = 60.0,
    chin: Literal["down", "up"] = "down",
) -> Patient:
    """The head pitched by ``angle_deg`` about a left-right axis through the neck.

    The angle rises smoothly from 0 to its full value over ``blend_mm`` in z around the pivot, so
    that the neck bends and the shoulders stay. The pivot is by default where a head nods: 20 mm
    below the foramen magnum (C1 to C2), 10 mm before the cord; the middle of the highest target
    where neither cord nor brainstem is drawn. HU are interpolated linearly.
    """
    _check_strength("angle_deg", angle_deg, MAX_ANGLE_DEG)
    if not (np.isfinite(blend_mm) and blend_mm >= 20.0):
        raise ValueError(f"blend_mm={blend_mm} must be 20 mm or more; shorter ones fold the neck.")
    if chin not in ("down", "up"):
        raise ValueError(f"chin={chin!r} is unknown; choose 'down' or 'up'.")
    pivot_y, pivot_z = _nodding_joint(patient) if pivot_yz_mm is None else _pivot(pivot_yz_mm)
    name = f"tilted_neck={angle_deg:g}deg,chin={chin}"
    if angle_deg == 0:
        return _repeated(patient, name, patient.hu.copy(), patient.external.mask)
    z, y, _ = patient.grid.axes_mm()
    angle_rad = np.radians(angle_deg if chin == "down" else -angle_deg)
    angle_rad = angle_rad * _smooth_step((z - pivot_z) / blend_mm + 0.5)
    moving = np.broadcast_to((angle_rad != 0.0)[:, None, None], patient.grid.shape)
    iz, iy, ix = np.nonzero(moving)
    dy, dz = (y - pivot_y)[iy], (z - pivot_z)[iz]
    sine, cosine = np.sin(angle_rad)[iz], np.cos(angle_rad)[iz]
    back_z, back_y = dz * cosine - dy * sine - dz, dy * cosine + dz * sine - dy
    step_z, step_y, _ = patient.grid.spacing_mm
    source = np.stack([iz + back_z / step_z, iy + back_y / step_y, ix])
    return _warped(patient, _beyond_cuts(patient), moving, source, name)


@dataclass(frozen=True, eq=False)
class _Scan:
    """A body that goes on beyond the cuts of its scan; volumes (nz, ny, nx)."""

    body: np.ndarray  # with what was added
    hu: np.ndarray  # air off the body
    unseen: np.ndarray  # beyond the cuts: what was added, and around it


def _beyond_cuts(patient: Patient) -> _Scan:
    """Repeat the slice before a flat face across z (30 % of the slice, 30 cm²) for 40 mm."""
    seen = patient.external.mask
    hu = np.where(seen, patient.hu, np.float32(AIR_HU)).astype(np.float32)
    body, unseen = seen.copy(), np.zeros_like(seen)
    for k, step, face in _cuts(seen, patient.grid):
        for beyond in _slices_beyond(k, step, patient.grid, BEYOND_CUT_MM):
            fresh = face & ~body[beyond]
            body[beyond] |= fresh
            hu[beyond][fresh] = patient.hu[k][fresh]
        around = ndimage.distance_transform_edt(~face, sampling=patient.grid.spacing_mm[1:])
        for beyond in _slices_beyond(k, step, patient.grid, 2.0 * BEYOND_CUT_MM):
            unseen[beyond] |= around <= BEYOND_CUT_MM  # a tilt moves what was added
    return _Scan(body, hu, unseen & ~seen)


def _cuts(body: np.ndarray, grid: Grid) -> Iterator[tuple[int, int, np.ndarray]]:
    """Slice, direction (1 up, −1 down) and face (ny, nx) where a body ends flat across z."""
    voxels = body.sum(axis=(1, 2))
    smallest = 3000.0 / (grid.spacing_mm[1] * grid.spacing_mm[2])
    for k in np.flatnonzero(voxels > smallest):
        for step in (1, -1):
            if 0 <= k + step < len(body):
                face = body[k] & ~body[k + step]
                if face.sum() > max(0.3 * voxels[k], smallest):
                    yield k, step, face


def _slices_beyond(k: int, step: int, grid: Grid, reach_mm: float) -> range:
    last = k + step * (int(np.ceil(reach_mm / grid.spacing_mm[0])) + 1)
    return range(k + step, int(np.clip(last, -1, grid.shape[0])), step)


def _skin_shift(scan: _Scan, grid: Grid, shrink_mm: float):
    """How far tissue moves inwards in mm (nz, ny, nx), the outward normal (three volumes), and
    the voxels that may change."""
    to_skin = distance_mm(scan.body, grid)
    if not np.isfinite(to_skin).all():
        raise ValueError("the external fills the whole CT, so no skin is in it; use a larger CT.")
    depth = np.maximum(-to_skin, 0.0)
    bone = _without_specks(scan.body & (scan.hu > BONE_HU), grid, MIN_BONE_CM3)
    fixed = bone | (scan.body & ((scan.hu < CAVITY_HU) | (depth > SOFT_TISSUE_REACH_MM)))
    to_fixed = np.clip(distance_mm(fixed, grid), 0.0, SOFT_TISSUE_REACH_MM)
    layer = np.maximum(depth + to_fixed, np.float32(1e-3))
    amount = np.minimum(np.float32(shrink_mm), 0.5 * layer) * to_fixed / layer
    sigma = 1.5 * max(grid.spacing_mm) / np.array(grid.spacing_mm)
    normal = np.gradient(ndimage.gaussian_filter(to_skin, sigma), *grid.spacing_mm)
    length = np.maximum(np.sqrt(sum(np.square(n) for n in normal)), np.float32(1e-3))
    return amount, [n / length for n in normal], scan.body & (amount > 0.0)


def _warped(patient: Patient, scan: _Scan, moving, source, name: str) -> Patient:
    """Voxels of ``moving`` take what is at ``source``, indices (3, n) as z, y, x."""
    hu, share = scan.hu.copy(), scan.body.astype(np.float32)
    new_hu, new_share = (_sampled(volume, source) for volume in (hu, share))
    hu[moving], share[moving] = new_hu, new_share
    external = (share >= MIN_SHARE) & ~scan.unseen
    hu[~external] = AIR_HU
    for support in (s.mask for s in patient.structures.values() if s.role == "support"):
        kept = support & ~external
        hu[kept] = patient.hu[kept]
    return _repeated(patient, name, hu.astype(patient.hu.dtype, copy=False), external)


def _repeated(patient: Patient, name: str, hu: np.ndarray, external: np.ndarray) -> Patient:
    body = replace(patient.external, mask=external.copy(), partial=None)
    source = f"{patient.source}:repeat:{name}"
    return replace(patient, hu=hu, source=source).with_structures(body)


def _sampled(volume: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear between voxels; beyond the image's edge it goes on as at the edge."""
    return ndimage.map_coordinates(volume, index, order=1, mode="nearest", output=np.float32)


def _without_specks(mask: np.ndarray, grid: Grid, minimum_cm3: float) -> np.ndarray:
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    large = np.bincount(labels.ravel()) * grid.voxel_volume_cm3 >= minimum_cm3
    large[0] = False
    return large[labels]


def _sinus_region(patient: Patient) -> np.ndarray:
    """Before the brainstem and not in the pharynx, down to the mouth's floor, (nz, ny, nx)."""
    if not _nerve_axis_names(patient):
        raise ValueError(
            f"patient {patient.name!r} has neither Brainstem nor SpinalCord; filled_sinuses tells "
            "sinuses from pharynx and ears by them, so add one."
        )
    z, y, x = patient.grid.axes_mm()
    y_mm, x_mm, foramen_mm = _nerve_axis(patient)
    floor_mm = foramen_mm - HEAD_BELOW_FORAMEN_MM
    if "Larynx" in patient.structures and patient.mask("Larynx").any():
        top = np.flatnonzero(patient.mask("Larynx").any(axis=(1, 2)))[-1]
        floor_mm = max(floor_mm, z[top] + 0.5 * patient.grid.spacing_mm[0])
    front_mm = np.where(
        z < foramen_mm + PHARYNX_ROOF_MM, PHARYNX_FRONT_MM, SINUS_BEFORE_BRAINSTEM_MM
    )
    before = y[None, :] < (y_mm - front_mm)[:, None]
    central = np.abs(x[None, :] - x_mm[:, None]) < SINUS_HALF_WIDTH_MM
    return (z > floor_mm)[:, None, None] & before[:, :, None] & central[:, None, :]


def _nodding_joint(patient: Patient) -> tuple[float, float]:
    if not _nerve_axis_names(patient):
        target = np.flatnonzero(patient.mask(patient.targets[0]))
        _, y_mm, z_mm = patient.grid.points_mm(target).mean(axis=0)
        return float(y_mm), float(z_mm)
    y_mm, _, foramen_mm = _nerve_axis(patient)
    z_mm = foramen_mm - JOINT_BELOW_FORAMEN_MM
    at_joint = np.interp(z_mm, patient.grid.axes_mm()[0], y_mm)
    return float(at_joint) - JOINT_BEFORE_CORD_MM, float(z_mm)


def _nerve_axis_names(patient: Patient) -> list[str]:
    names = ("Brainstem", "SpinalCord")
    return [n for n in names if n in patient.structures and patient.mask(n).any()]


def _nerve_axis(patient: Patient) -> tuple[np.ndarray, np.ndarray, float]:
    """Middle of cord and brainstem in every slice, y and x in mm (nz,), and the foramen magnum's
    z in mm: the brainstem's lower end, or the cord's upper one."""
    names = _nerve_axis_names(patient)
    z, y, x = patient.grid.axes_mm()
    mask = np.logical_or.reduce([patient.mask(n) for n in names])
    count = mask.sum(axis=(1, 2))
    rows = np.flatnonzero(count)
    y_mm = (mask.sum(axis=2) @ y)[rows] / count[rows]
    x_mm = (mask.sum(axis=1) @ x)[rows] / count[rows]
    slices = np.flatnonzero(patient.mask(names[0]).any(axis=(1, 2)))
    foramen_mm = z[slices[0] if names[0] == "Brainstem" else slices[-1]]
    return np.interp(z, z[rows], y_mm), np.interp(z, z[rows], x_mm), float(foramen_mm)


def _pivot(pivot_yz_mm) -> tuple[float, float]:
    pivot = tuple(float(v) for v in pivot_yz_mm)
    if len(pivot) != 2 or not np.all(np.isfinite(pivot)):
        raise ValueError(f"pivot_yz_mm={pivot_yz_mm!r} must be two finite numbers, y and z in mm.")
    return pivot


def _smooth_step(t: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, with a continuous slope."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _check_strength(name: str, value: float, largest: float) -> None:
    if not (np.isfinite(value) and 0.0 <= value <= largest):
        raise ValueError(f"{name}={value} must lie in 0 … {largest:g}.")
