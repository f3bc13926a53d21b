"""Procedural nasopharynx patients: the target around pharynx and skull base, brainstem behind it.

After the cohort of Yang et al. 2025 (35 nasopharynx patients, 54 Gy in 30 fractions, arXiv
2506.18303), whose images are not public. Anatomies are those of the procedural head; the target is
drawn from lobes at the places where such tumors grow (roof of the pharynx, clivus, parapharyngeal
spaces, sphenoid, oropharynx), between 60 and 220 cm³. In every third seed it wraps around the
brainstem's front without a gap.
"""

import numpy as np
from scipy import ndimage

from engine.patient.patient import Patient, Structure
from engine.patient.phantom_anatomy import MUSCLE_HU, Head, draw_body, draw_head

VOLUME_CM3 = (60.0, 220.0)
PRESCRIPTION_GY, N_FRACTIONS = 54.0, 30
TARGET = "CTV_5400"
SKIN_MM = 5.0
END_MM = 20.0  # of the image's lower end, that no target reaches

# center x, y, z and semi-axes in mm of the standard head's frame; x is mirrored where it is not 0
_LOBES = {
    "nasopharynx": ((0.0, -20.0, -20.0), (22.0, 15.0, 17.0)),
    "clivus": ((0.0, -4.0, -16.0), (16.0, 13.0, 15.0)),
    "parapharyngeal": ((22.0, -6.0, -30.0), (14.0, 16.0, 22.0)),
    "sphenoid": ((0.0, -20.0, -2.0), (19.0, 15.0, 10.0)),
    "oropharynx": ((0.0, -12.0, -46.0), (20.0, 11.0, 16.0)),
    "petrous": ((26.0, 4.0, -14.0), (14.0, 11.0, 9.0)),
}
_ALWAYS = ("nasopharynx", "clivus")
_SPARED = (
    "Brainstem", "SpinalCord", "OpticChiasm", "OpticNrv_L", "OpticNrv_R", "Eye_L", "Eye_R",
    "Bone_Mandible",
)  # fmt: skip


def nasopharynx(
    seed: int, spacing_mm: float = 3.0, target_volume_cm3: tuple[float, float] | None = None
) -> Patient:
    """A patient drawn from a seed; the same arguments give the same bits.

    One target, 54 Gy (RBE) in 30 fractions. ``target_volume_cm3`` bounds its volume, drawn
    log-uniformly, 60 … 220 cm³ by default; it may be smaller where the anatomy leaves no room.
    """
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise ValueError(f"seed={seed} must be a whole number, 0 or more.")
    if not (np.isfinite(spacing_mm) and 0.5 <= spacing_mm <= 8.0):
        raise ValueError(f"spacing_mm={spacing_mm} must lie in 0.5 … 8 mm.")
    low, high = VOLUME_CM3 if target_volume_cm3 is None else target_volume_cm3
    if not 5.0 <= low <= high <= 400.0:
        raise ValueError(f"target_volume_cm3={target_volume_cm3} must be (low, high) in 5 … 400.")
    head = draw_head(np.random.default_rng([int(seed), 7]), spacing_mm)
    rng = np.random.default_rng([int(seed), 8])
    volume_cm3 = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    target = _target(head, rng, volume_cm3, gap_mm=0.0 if seed % 3 == 0 else rng.uniform(2.0, 6.0))
    hu = head.hu.copy()
    hu[target & (hu > MUSCLE_HU)] = MUSCLE_HU + 10.0  # the tumor has replaced the bone it grew in
    structures = [
        Structure("External", head.body, "external"), Structure(TARGET, target, "target"),
        *(Structure(n, m, "organ") for n, m in head.organs.items() if m.any()),
    ]  # fmt: skip
    return Patient(
        name=f"nasopharynx-{seed}", grid=head.grid, hu=hu,
        structures={s.name: s for s in structures}, prescription_gy={TARGET: PRESCRIPTION_GY},
        n_fractions=N_FRACTIONS, source=f"procedural:nasopharynx:{seed}",
    )  # fmt: skip


def _target(head: Head, rng: np.random.Generator, volume_cm3: float, gap_mm: float) -> np.ndarray:
    """The voxels nearest to the lobes in their own metrics, as many as the volume; one piece."""
    distance = _distance(head, rng)
    allowed = draw_body(head.canvas, inset_mm=SKIN_MM) & ~head.air & ~_spared(head, gap_mm)
    z = head.grid.axes_mm()[0]
    allowed &= (z > z[0] + END_MM)[:, None, None]
    n_wanted = round(volume_cm3 / head.grid.voxel_volume_cm3)
    places = np.flatnonzero(allowed)
    nearest = places[np.argsort(distance.ravel()[places], kind="stable")[:n_wanted]]
    mask = np.zeros(head.grid.shape, bool)
    mask.ravel()[nearest] = True
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == np.argmax(sizes)


def _distance(head: Head, rng: np.random.Generator) -> np.ndarray:
    """Distance (nz, ny, nx) from the nearest lobe's center in units of its semi-axes."""
    whole = tuple(slice(0, n) for n in head.grid.shape)
    x, y, z = head.canvas.coordinates(whole)
    others = [name for name in _LOBES if name not in _ALWAYS]
    drawn = rng.choice(others, int(rng.integers(1, len(others) + 1)), replace=False)
    distance = np.full(head.grid.shape, np.inf, np.float32)
    for name in (*_ALWAYS, *drawn):
        (cx, cy, cz), axes = _LOBES[name]
        cx, cy, cz = np.array([cx, cy, cz]) + rng.normal(0.0, 2.5, 3)
        axes = np.array(axes) * np.exp(rng.normal(0.0, 0.12, 3))
        for sign in (1.0, -1.0) if name in ("parapharyngeal", "petrous") else (1.0,):
            size = axes * (rng.uniform(0.5, 1.0) if sign < 0 else 1.0)  # one side is the larger
            square = (
                ((x - np.float32(sign * cx)) / np.float32(size[0])) ** 2
                + ((y - np.float32(cy)) / np.float32(size[1])) ** 2
                + ((z - np.float32(cz)) / np.float32(size[2])) ** 2
            )
            distance = np.minimum(distance, np.sqrt(square))
    return distance


def _spared(head: Head, gap_mm: float) -> np.ndarray:
    """Serial and optic organs, with a gap around brainstem and cord."""
    spared = np.logical_or.reduce([head.organs[n] for n in _SPARED])
    if gap_mm > 0:
        serial = head.organs["Brainstem"] | head.organs["SpinalCord"]
        far = ndimage.distance_transform_edt(~serial, sampling=head.grid.spacing_mm)
        spared = spared | (far <= gap_mm)
    return spared
