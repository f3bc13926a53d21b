"""Which case: an id or a seed and all the settings that its numbers depend on."""

import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from hashlib import file_digest, sha256
from math import isfinite
from numbers import Integral
from pathlib import Path

from engine.geometry.plan import Beam
from engine.io.openkbp import read_patient
from engine.machine.library import DATA as MACHINES
from engine.patient.patient import Patient, prescribed
from engine.patient.phantom_nasopharynx import nasopharynx
from engine.patient.phantoms import head_and_neck
from engine.patient.single_target import single_target
from ptenv.cases.modality import (
    MODALITY_BOUNDS,
    MODALITY_COUNTS,
    MODALITY_OPTIONAL,
    PROTONS,
    check_modality,
)  # fmt: skip

FORMAT = 7  # of what a case holds; a change of numbers anywhere behind it counts it up
SPLITS = {
    "train": range(0, 10_000),
    "validation": range(10_000, 10_100),
    "test": range(20_000, 20_200),
}
SITES = ("head-and-neck", "nasopharynx")  # of procedural patients
PROCEDURAL = re.compile(rf"({'|'.join(SITES)})-(\d+)")

# lowest and highest value of every number; None where a setting may be left to its default
_BOUNDS = {
    "ct_spacing_mm": (0.5, 8.0), "dose_grid_mm": (0.5, 20.0), "spot_spacing_mm": (1.0, 50.0),
    "layer_spacing_mm": (0.5, 50.0), "lateral_margin_mm": (0.0, 50.0),
    "lateral_cutoff": (1e-6, 0.1), "ring_mm": (1.0, 100.0), "n_anchor_masks": (1, 1000),
    "converged_evaluations": (1, 10**6), "quality_evaluations": (1, 10**6),
    **MODALITY_BOUNDS,
}  # fmt: skip
_COUNTS = ("n_anchor_masks", "converged_evaluations", "quality_evaluations", *MODALITY_COUNTS)
_OPTIONAL = (
    "layer_spacing_mm", "lateral_margin_mm", "target_volume_cm3", "couch_deg", *MODALITY_OPTIONAL
)  # fmt: skip
_LISTS = ("target_volume_cm3", "gantry_deg", "couch_deg", "budgets")
PATTERNS = ("hexagonal", "square")
PENCIL_BEAM, YODA = ENGINES = ("pencil_beam", "yoda")


@dataclass(frozen=True)
class VoxelMaskRecipe:
    """Settings of a voxel-mask case; lengths in mm, angles IEC 61217.

    ``dose_grid_mm`` sets the voxel density in the target (1.7 mm: 204 per cm³). ``patient`` is
    "head-and-neck-NUMBER" (the number is the seed) or "openkbp:PATH".

    ``single_target`` leaves the target of the highest dose alone. Without ``ring_objectives`` the
    ring of normal tissue is judged but not optimized, as in Quarz 2024. With
    ``weight_after_equation_1`` the voxels that a mask keeps of a structure count for all that
    equation (1) left of it, without for the whole structure. ``machine``, ``biology``
    ("lem1", "mkm", "constant", None: physical dose times ``rbe``) and ``tissue`` are the ions and
    what their dose counts for; ``fraction_gy`` (Gy (RBE), of the highest target) and
    ``n_fractions`` replace the patient's own prescription. ``engine`` computes the influence:
    "pencil_beam", or for protons "yoda", a hundred spots a second.
    """

    patient: str
    ct_spacing_mm: float = 2.0  # of procedural patients
    target_volume_cm3: tuple[float, float] | None = None  # of procedural patients
    level: str | None = None  # of procedural patients: L0 … L4
    dose_grid_mm: float = 1.7
    single_target: bool = False
    machine: str = PROTONS
    biology: str | None = None
    tissue: str | tuple[float, float, float, float] = "chordoma"
    rbe: float = 1.1
    fraction_gy: float | None = None
    n_fractions: int | None = None
    engine: str = PENCIL_BEAM
    gantry_deg: tuple[float, ...] = (60.0, 180.0, 300.0)
    couch_deg: tuple[float, ...] | None = None  # None: 0 for every field
    spot_spacing_mm: float = 5.0
    spot_pattern: str = "hexagonal"
    layer_spacing_mm: float | None = None
    lateral_margin_mm: float | None = None
    lateral_cutoff: float = 0.005
    ring_mm: float = 15.0
    ring_objectives: bool = True
    weight_after_equation_1: bool = False
    budgets: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)  # of keep-all at 100 evaluations
    n_anchor_masks: int = 10
    converged_evaluations: int = 300
    quality_evaluations: int = 60

    def __post_init__(self):
        make_plain(self, _BOUNDS, _COUNTS, _OPTIONAL, _LISTS)
        if not self.budgets or not all(0 < b <= 1 for b in self.budgets):
            raise ValueError(f"budgets={self.budgets} must be shares of keep-all's work in (0, 1].")
        if len(set(self.budgets)) < len(self.budgets):
            raise ValueError(f"budgets={self.budgets} names one share twice.")
        if not self.gantry_deg:
            raise ValueError("gantry_deg is empty; give at least one field.")
        if self.target_volume_cm3 is not None and len(self.target_volume_cm3) != 2:
            raise ValueError(f"target_volume_cm3={self.target_volume_cm3} must be (low, high).")
        if self.couch_deg is not None and len(self.couch_deg) != len(self.gantry_deg):
            raise ValueError(
                f"couch_deg={self.couch_deg} must have one angle for each of the gantry's "
                f"{len(self.gantry_deg)}, or be None."
            )
        if self.spot_pattern not in PATTERNS:
            raise ValueError(
                f"spot_pattern={self.spot_pattern!r} is unknown; choose from {list(PATTERNS)}."
            )
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r} is unknown; choose from {list(ENGINES)}.")
        if self.engine == YODA and self.machine != PROTONS:
            raise ValueError(f"engine='yoda' computes protons, the machine is {self.machine!r}.")
        for name in ("single_target", "ring_objectives", "weight_after_equation_1"):
            object.__setattr__(self, name, bool(getattr(self, name)))
        check_modality(self)
        self.beams  # noqa: B018  refuses what is no angle, before a patient is read

    @property
    def beams(self) -> list[Beam]:
        couch = self.couch_deg or (0.0,) * len(self.gantry_deg)
        return [Beam(g, couch_deg=c) for g, c in zip(self.gantry_deg, couch)]

    def key(self) -> str:
        """Hash of all that the case depends on: settings, files of patient and machine, FORMAT."""
        content = {
            "format": FORMAT, **asdict(self), "patient": patient_content(self.patient),
            "machine": machine_content(self.machine),
        }  # fmt: skip
        if self.engine == PENCIL_BEAM:  # keys are older than the choice
            del content["engine"]
        return digest_of_content(content)

    def read_patient(self) -> Patient:
        """The patient with the targets and the prescription of this recipe."""
        patient = named_patient(
            self.patient, self.ct_spacing_mm, self.level, self.target_volume_cm3
        )
        chosen = single_target(patient) if self.single_target else patient
        return prescribed(chosen, self.fraction_gy, self.n_fractions)

    @property
    def case_id(self) -> str:
        """Name of the case without a path."""
        return name_without_path(self.patient)


def digest_of_content(content: dict) -> str:
    """Key of a case from all that its numbers depend on."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def machine_content(machine: str = PROTONS) -> str:
    """What stands for a machine in a key: the hash of its file."""
    return _digest(MACHINES / f"{machine}.npz")


def patient_content(patient: str) -> str:
    """What stands for a patient in a key: its name says all, or the hash of its files."""
    return patient if PROCEDURAL.fullmatch(patient) else _digest(_openkbp_path(patient))


def name_without_path(patient: str) -> str:
    if PROCEDURAL.fullmatch(patient):
        return patient
    return f"openkbp:{_openkbp_path(patient).stem}"


def named_patient(
    patient: str, spacing_mm: float, level: str | None = None,
    target_volume_cm3: tuple[float, float] | None = None,
) -> Patient:  # fmt: skip
    """The patient of a case id; the settings are of procedural ones."""
    procedural = PROCEDURAL.fullmatch(patient)
    if not procedural:
        return read_patient(_openkbp_path(patient))
    site, seed = procedural[1], int(procedural[2])
    if site == "nasopharynx":
        return nasopharynx(seed, spacing_mm=spacing_mm)
    return head_and_neck(
        seed, spacing_mm=spacing_mm, level=level, target_volume_cm3=target_volume_cm3
    )


def procedural_id(seed: int, site: str = "head-and-neck") -> str:
    return f"{site}-{seed:05d}"


def split_seeds(split: str, n_patients: int | None) -> range:
    """Procedural seeds of a split, the first ``n_patients`` of it (all when None)."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose from {list(SPLITS)}.")
    seeds = SPLITS[split]
    if n_patients is None:
        return seeds
    if not isinstance(n_patients, Integral) or not 1 <= n_patients <= len(seeds):
        raise ValueError(
            f"n_patients={n_patients!r} must be a whole number in 1 … {len(seeds)} of {split!r}."
        )
    return seeds[:n_patients]


def checked_case(case: str) -> str:
    """A case id in its canonical form; refuses what it does not know."""
    if not isinstance(case, str):
        raise ValueError(f"case={case!r} must be text: 'head-and-neck-00017' or 'openkbp:PATH'.")
    procedural = PROCEDURAL.fullmatch(case)
    if procedural:
        return procedural_id(int(procedural[2]), procedural[1])
    if case.startswith("openkbp:"):
        _openkbp_path(case)
        return case
    raise ValueError(
        f"case={case!r} is unknown; give 'head-and-neck-NUMBER' or 'nasopharynx-NUMBER' (the "
        "number is the seed), or 'openkbp:PATH' with the path of a patient's folder or zip."
    )


def _openkbp_path(patient: str) -> Path:
    scheme, _, path = patient.partition(":")
    if scheme != "openkbp" or not path:
        raise ValueError(f"patient={patient!r}: give 'head-and-neck-NUMBER' or 'openkbp:PATH'.")
    for found in (Path(path), Path(f"{path}.zip")):  # a cohort names patients, however kept
        if found.exists():
            return found
    raise FileNotFoundError(f"case 'openkbp:{path}': no such file or folder; check the path.")


def make_plain(recipe, bounds: dict, counts=(), optional=(), lists=()) -> None:
    """Settings as floats, ints and tuples within ``bounds``: 4 and 4.0, (…) and […] are one case.

    ``counts`` are whole numbers, ``optional`` may be None, ``lists`` hold numbers.
    """
    for f in fields(recipe):
        name, value = f.name, getattr(recipe, f.name)
        if value is None and name in optional:
            continue
        if name in lists:
            value = _numbers(name, value)
        elif name in bounds:
            number = _within(name, value, *bounds[name])
            value = int(number) if name in counts else number
        object.__setattr__(recipe, name, value)


def _numbers(name: str, value) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name}={value!r} must be a list of numbers.")
    return tuple(_number(name, v) for v in value)


def _within(name: str, value, low: float, high: float) -> float:
    number = _number(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name}={value} must lie in {low} … {high}.")
    return number


def _number(name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"{name}={value!r} must be a number.")
    return number


def _digest(path: Path) -> str:
    """Hash of a file, or of the names and contents of a folder's files.

    A zip counts as the folder that it holds: a patient is the same case however it is kept.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    stamps = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    return _digest_of(str(path), stamps)


@lru_cache(maxsize=512)  # read again only when a stamp changes
def _digest_of(path: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    if path.endswith(".zip"):
        try:
            return _digest_of_named(_in_zip(Path(path)))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
            pass  # who reads the patient says what is wrong with it
    if not Path(path).is_dir():
        return _digest_of_named([("", _sha256(Path(path).open("rb")))])
    files = [Path(file) for file, _, _ in stamps]
    return _digest_of_named([
        (f.relative_to(path).as_posix(), _sha256(f.open("rb"))) for f in files
    ])  # fmt: skip


def _in_zip(path: Path) -> list[tuple[str, bytes]]:
    """Names and hashes of a zip's files, without the folder that holds all of them."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if not n.endswith("/"))
        folders = {n.partition("/")[0] if "/" in n else "" for n in names}
        top = f"{folders.pop()}/" if len(folders) == 1 else ""
        top = "" if top == "/" else top
        return [(n.removeprefix(top), _sha256(archive.open(n))) for n in names]


def _digest_of_named(files: Iterable[tuple[str, bytes]]) -> str:
    digest = sha256()
    for name, content in sorted(files):
        digest.update(f"{name}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _sha256(stream) -> bytes:
    with stream:
        return file_digest(stream, "sha256").digest()
