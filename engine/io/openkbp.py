"""OpenKBP head-and-neck patients as published: a folder or a zip of sparse csv files each.

Babier et al., Med. Phys. 48 (2021) 5549; repository ababier/open-kbp. Volumes are 128³; a csv
lists flat indices (C order) of a[i, j, k] and values, a mask indices alone. i grows posterior,
j to the patient's left, k inferior (spine behind mandible, left parotid at higher j, brainstem at
lower k than the cord); ``voxel_dimensions.csv`` is in that order. HU = value − 1000. Zeros are not
stored: what is not listed is air. Many scans list only the part of the body around the targets.
"""

import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from engine.errors import PhysicsWarning
from engine.patient.ct import MAX_HU, MIN_HU
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.structures import external_from_hu

N_VOXELS_PER_AXIS = 128
HU_OFFSET = -1000.0
N_FRACTIONS = 35
TARGETS = {"PTV70": ("PTV_7000", 70.0), "PTV63": ("PTV_6300", 63.0), "PTV56": ("PTV_5600", 56.0)}
ORGANS = {  # published name: TG-263 name
    "Brainstem": "Brainstem",
    "SpinalCord": "SpinalCord",
    "RightParotid": "Parotid_R",
    "LeftParotid": "Parotid_L",
    "Esophagus": "Esophagus",
    "Larynx": "Larynx",
    "Mandible": "Bone_Mandible",
}
# Medians and peaks over the published patients, in HU; brain is 25 to 40 in any CT.
EXPECTED_BRAINSTEM_HU, EXPECTED_MUSCLE_HU, TOLERATED_HU = 31.0, 38.0, 15.0


def read_patient(path: str | Path) -> Patient:
    """One patient from a folder or a zip.

    Prescription: 70, 63, 56 Gy (RBE) in 35 fractions, for the targets that the patient has. The
    external is the largest body component of the CT with its cavities; targets are clipped to it,
    other structures stay as published (in the cut part of a scan they may lie off the body). The
    grid is centered on (0, 0, 0): the published files hold no origin. Warns of CT numbers whose
    brainstem or muscle lies off; the offset stays −1000.
    """
    files = _Files(path)
    grid = _grid(files)
    hu = np.clip(_volume(files, "ct") + np.float32(HU_OFFSET), MIN_HU, MAX_HU)
    external = external_from_hu(hu, grid)
    targets = _targets(files, external)
    organs = {tg263: _mask(files, name) for name, tg263 in ORGANS.items() if name in files}
    structures = [
        Structure("External", external, "external"),
        *(Structure(name, mask, "target") for name, mask in targets.items()),
        *(Structure(name, mask, "organ") for name, mask in organs.items() if mask.any()),
    ]
    _warn_of_odd_hu(files, hu, external, organs.get("Brainstem"))
    return Patient(
        name=files.patient,
        grid=grid,
        hu=hu,
        structures={s.name: s for s in structures},
        prescription_gy={n: gy for n, gy in TARGETS.values() if n in targets},
        n_fractions=N_FRACTIONS,
        source=f"openkbp:{files.patient}",
    )


def read_reference_dose(path: str | Path) -> np.ndarray:
    """The published dose of a patient on the patient's grid, Gy over the course, (nz, ny, nx)."""
    return _volume(_Files(path), "dose")


class _Files:
    """The csv files of one patient, by name without ending, from a folder or a zip."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise FileNotFoundError(
                f"path={str(self.path)!r} does not exist; give one patient's folder or zip."
            )
        members = self._folder() if self.path.is_dir() else self._zip()
        folders = sorted({folder for folder, name in members if name == "ct.csv"})
        if len(folders) != 1:
            found = "no ct.csv" if not folders else f"{len(folders)} patients ({folders[0]}, …)"
            raise ValueError(
                f"path={str(self.path)!r} holds {found}; give the folder or the zip of one patient."
            )
        self._member = {n[:-4]: m for (f, n), m in members.items() if f == folders[0]}
        self.patient = Path(folders[0]).name or self.path.resolve().name.removesuffix(".zip")

    def __contains__(self, name: str) -> bool:
        return name in self._member

    def label(self, name: str) -> str:
        return f"{name}.csv of {str(self.path)!r}"

    def read(self, name: str) -> bytes:
        if name not in self:
            raise ValueError(f"{self.label(name)} is missing; get the patient's files again.")
        if self.path.is_dir():
            return Path(self._member[name]).read_bytes()
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self._member[name])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.label(name)} is damaged ({error}); copy it again.") from error

    def _folder(self) -> dict[tuple[str, str], str]:
        found = [*self.path.glob("*.csv"), *self.path.glob("*/*.csv")]
        return {(str(f.parent.relative_to(self.path)), f.name): str(f) for f in found}

    def _zip(self) -> dict[tuple[str, str], str]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ValueError(
                f"path={str(self.path)!r} is no readable zip ({error}); it may be empty or "
                "truncated, copy it again."
            ) from error
        parts = {n: n.rpartition("/") for n in names if n.endswith(".csv") and "__MACOSX" not in n}
        return {(folder, file): n for n, (folder, _, file) in parts.items()}


def _grid(files: _Files) -> Grid:
    spacing = _numbers(files, "voxel_dimensions", b"\n", header=False)
    if spacing.shape != (3,) or not np.all((spacing > 0.1) & (spacing < 50.0)):
        raise ValueError(
            f"{files.label('voxel_dimensions')} holds {spacing.tolist()}; three spacings in mm "
            "(0.1 … 50) are needed."
        )
    i, j, k = spacing
    return Grid.centered((N_VOXELS_PER_AXIS,) * 3, (k, i, j))


def _targets(files: _Files, external: np.ndarray) -> dict[str, np.ndarray]:
    targets = {tg263: _mask(files, n) for n, (tg263, _) in TARGETS.items() if n in files}
    targets = {name: mask for name, mask in targets.items() if mask.any()}
    if not targets:
        raise ValueError(
            f"{str(files.path)!r} has no target; one of {list(TARGETS)} must be there."
        )
    clipped = {name: mask & external for name, mask in targets.items()}
    empty = [name for name, mask in clipped.items() if not mask.any()]
    if empty:
        raise ValueError(f"targets {empty} of {str(files.path)!r} lie off the body; check ct.csv.")
    return clipped


def _mask(files: _Files, name: str) -> np.ndarray:
    """Boolean volume (nz, ny, nx) from a list of indices."""
    flat = np.zeros(N_VOXELS_PER_AXIS**3, dtype=bool)
    flat[_indices(files, name, _numbers(files, name, b","))] = True
    return _to_zyx(flat)


def _volume(files: _Files, name: str) -> np.ndarray:
    """Float32 volume (nz, ny, nx) from a list of indices and values, 0 where nothing is listed."""
    table = _numbers(files, name, b",\n")
    if table.size == 0 or table.size % 2:
        raise ValueError(
            f"{files.label(name)} lists {table.size} numbers; pairs of index and value are needed."
        )
    flat = np.zeros(N_VOXELS_PER_AXIS**3, dtype=np.float32)
    flat[_indices(files, name, table[::2])] = table[1::2]
    return _to_zyx(flat)


def _numbers(files: _Files, name: str, ends: bytes, header: bool = True) -> np.ndarray:
    """All numbers of a csv in order; ``ends`` are the bytes that may follow a number."""
    text = files.read(name).replace(b"\r", b"").strip()
    n_lines = text.count(b"\n") + (not header)
    if header:
        text = text.partition(b"\n")[2]
    if not text.strip():
        return np.zeros(0)
    for end in ends.decode():
        text = text.replace(end.encode(), b" ")
    try:
        numbers = np.fromstring(text, sep=" ")
    except ValueError:
        numbers = np.array([np.nan])
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"{files.label(name)} holds something that is no number; get it again.")
    if numbers.size != n_lines * (2 if ends == b",\n" else 1):
        raise ValueError(
            f"{files.label(name)} has {numbers.size} numbers in {n_lines} lines; it is truncated "
            "or no OpenKBP file."
        )
    return numbers


def _indices(files: _Files, name: str, numbers: np.ndarray) -> np.ndarray:
    index = numbers.astype(np.int64)
    wrong = (index != numbers) | (index < 0) | (index >= N_VOXELS_PER_AXIS**3)
    if wrong.any():
        raise ValueError(
            f"{files.label(name)} lists index {numbers[wrong][0]:g}; indices are whole numbers "
            f"from 0 to {N_VOXELS_PER_AXIS**3 - 1} (128³ voxels)."
        )
    return index


def _to_zyx(flat: np.ndarray) -> np.ndarray:
    """From a[i, j, k] with (i, j, k) = (P, L, I) to (z, y, x) with (x, y, z) = (L, P, S)."""
    volume = flat.reshape((N_VOXELS_PER_AXIS,) * 3)
    return np.ascontiguousarray(volume.transpose(2, 0, 1)[::-1])


def _warn_of_odd_hu(files: _Files, hu, external, brainstem) -> None:
    if brainstem is not None and brainstem.sum() >= 20:
        name, found, expected = "brainstem", float(np.median(hu[brainstem])), EXPECTED_BRAINSTEM_HU
    else:
        name, found, expected = "muscle", _muscle_peak_hu(hu[external]), EXPECTED_MUSCLE_HU
    if abs(found - expected) > TOLERATED_HU:
        warnings.warn(
            f"{name} of {files.patient} lies at {found:.0f} HU where {expected:.0f} ± "
            f"{TOLERATED_HU:.0f} is expected; its CT numbers may have another offset than −1000. "
            "They are used as they are.",
            PhysicsWarning,
            stacklevel=3,
        )


def _muscle_peak_hu(hu: np.ndarray) -> float:
    """Highest point of the smoothed histogram between fat and bone."""
    counts, edges = np.histogram(hu, bins=np.arange(-50, 131))
    return float(edges[np.argmax(np.convolve(counts, np.ones(9), "same"))])
