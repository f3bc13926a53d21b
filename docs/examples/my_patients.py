"""Patients from arrays: out of a file of one's own, and into files that the environments read."""

from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.structures import external_from_hu

TARGETS = ("PTV70", "PTV63", "PTV56")  # what OpenKBP's files call them, highest dose first
ORGANS = {
    "Brainstem": "Brainstem", "SpinalCord": "SpinalCord", "Parotid_R": "RightParotid",
    "Parotid_L": "LeftParotid", "Esophagus": "Esophagus", "Larynx": "Larynx",
    "Bone_Mandible": "Mandible",
}  # fmt: skip
N = 128  # voxels along each axis of an OpenKBP patient


def read(path: str, prescription_gy: dict[str, float], n_fractions: int) -> Patient:
    """A patient from an npz file: ``hu`` (nz, ny, nx), ``spacing_mm`` (z, y, x), and boolean masks.

    What has a prescription, in Gy (RBE) over the course, is a target; other masks are organs.
    """
    with np.load(path) as file:
        arrays = dict(file)
    hu = arrays.pop("hu").astype(np.float32)
    grid = Grid.centered(hu.shape, arrays.pop("spacing_mm"))
    structures = [Structure("External", external_from_hu(hu, grid), "external")]
    for name, mask in arrays.items():
        role = "target" if name in prescription_gy else "organ"
        structures.append(Structure(name, mask, role))
    return Patient(
        name=Path(path).stem, grid=grid, hu=hu, structures={s.name: s for s in structures},
        prescription_gy=prescription_gy, n_fractions=n_fractions, source=f"arrays:{path}",
    )  # fmt: skip


def write_openkbp(patient: Patient, folder: str) -> None:
    """The patient as OpenKBP has them: 128³ voxels around the body, sparse csv files."""
    body, _ = patient.grid.cropped(patient.external.mask, 10.0)
    spacing = [max(n * s / N, 1.0) for n, s in zip(body.shape, body.spacing_mm)]
    middle = [o + (n - 1) * s / 2 for o, n, s in
              zip(body.origin_mm, body.shape, body.spacing_mm)]  # fmt: skip
    grid = Grid((N, N, N), spacing, [m - (N - 1) * s / 2 for m, s in zip(middle, spacing)])
    at = _indices(grid, patient.grid)
    files = Path(folder)
    files.mkdir(parents=True, exist_ok=True)

    dz, dy, dx = grid.spacing_mm
    (files / "voxel_dimensions.csv").write_text(f"{dy}\n{dx}\n{dz}\n")
    hu = map_coordinates(patient.hu, at, order=1, cval=-1000.0)
    _write(files / "ct.csv", np.round(hu) + 1000.0)
    names = dict(zip(patient.targets, TARGETS)) | ORGANS
    for name in (*patient.targets, *patient.organs):
        if name not in names:
            print(f"{name} has no place in the format and is left out")
            continue
        inside = map_coordinates(patient.mask(name).astype(np.float32), at, order=1) >= 0.5
        _write(files / f"{names[name]}.csv", inside)


def _indices(grid: Grid, of: Grid) -> np.ndarray:
    """Where the voxels of a grid lie in another's arrays, (3, nz, ny, nx)."""
    axes = [(axis - o) / s for axis, o, s in zip(grid.axes_mm(), of.origin_mm, of.spacing_mm)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _write(path: Path, volume: np.ndarray) -> None:
    """A csv of flat indices and values; of indices alone for a mask."""
    flat = volume[::-1].transpose(1, 2, 0).ravel()  # (z, y, x) to (posterior, left, inferior)
    index = np.flatnonzero(flat)
    values = np.full(len(index), "") if volume.dtype == bool else flat[index]
    path.write_text("\n".join([",data", *(f"{i},{v}" for i, v in zip(index, values))]) + "\n")
