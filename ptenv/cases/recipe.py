"""Which case: an id or a seed and all the settings that its numbers depend on."""

import json
import re
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path

from engine.io.openkbp import read_patient
from engine.patient.patient import Patient
from engine.patient.phantoms import head_and_neck

FORMAT = 3  # of what a case holds; a change of numbers anywhere behind it counts it up
SPLITS = {"train": range(0, 10_000), "validation": range(10_000, 10_100), "test": range(20_000, 20_200)}
PROCEDURAL = re.compile(r"head-and-neck-(\d+)")


@dataclass(frozen=True)
class VoxelMaskRecipe:
    """Settings of a voxel-mask case; lengths in mm, angles IEC 61217.

    ``dose_grid_mm`` sets the voxel density in the target (1.7 mm: 204 per cm³). ``patient`` is
    "head-and-neck-NUMBER" (the number is the seed) or "openkbp:PATH".
    """

    patient: str
    ct_spacing_mm: float = 2.0  # of procedural patients
    target_volume_cm3: tuple[float, float] | None = None  # of procedural patients
    level: str | None = None  # of procedural patients: L0 … L4
    dose_grid_mm: float = 1.7
    gantry_deg: tuple[float, ...] = (60.0, 180.0, 300.0)
    spot_spacing_mm: float = 5.0
    layer_spacing_mm: float | None = None
    lateral_margin_mm: float | None = None
    lateral_cutoff: float = 0.005
    ring_mm: float = 15.0
    budgets: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)  # of keep-all at 100 evaluations
    n_anchor_masks: int = 10
    converged_evaluations: int = 600
    quality_evaluations: int = 200

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))
        if not all(0 < b <= 1 for b in self.budgets) or not self.budgets:
            raise ValueError(f"budgets={self.budgets} must be shares of keep-all's work in (0, 1].")
        if not 0.5 <= self.dose_grid_mm <= 20:
            raise ValueError(f"dose_grid_mm={self.dose_grid_mm} must lie in 0.5 … 20 mm.")
        if not self.gantry_deg:
            raise ValueError("gantry_deg is empty; give at least one field.")

    def key(self) -> str:
        """Hash of everything the case depends on, the patient's files and FORMAT included."""
        content = {"format": FORMAT, **asdict(self), "patient": self._patient_content()}
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    def read_patient(self) -> Patient:
        procedural = PROCEDURAL.fullmatch(self.patient)
        if procedural:
            return head_and_neck(
                int(procedural[1]), spacing_mm=self.ct_spacing_mm, level=self.level,
                target_volume_cm3=self.target_volume_cm3,
            )  # fmt: skip
        return read_patient(_openkbp_path(self.patient))

    @property
    def case_id(self) -> str:
        """Name of the case without a path."""
        if PROCEDURAL.fullmatch(self.patient):
            return self.patient
        return f"openkbp:{_openkbp_path(self.patient).stem}"

    def _patient_content(self) -> str:
        if PROCEDURAL.fullmatch(self.patient):
            return self.patient
        path = _openkbp_path(self.patient)
        digest = sha256()
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.read_bytes())
        return digest.hexdigest()


def procedural_id(seed: int) -> str:
    return f"head-and-neck-{seed:05d}"


def split_seeds(split: str, n_patients: int | None) -> range:
    """Procedural seeds of a split, the first ``n_patients`` of it (all when None)."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose from {list(SPLITS)}.")
    seeds = SPLITS[split]
    if n_patients is None:
        return seeds
    if not 1 <= n_patients <= len(seeds):
        raise ValueError(f"n_patients={n_patients} must lie in 1 … {len(seeds)} of {split!r}.")
    return seeds[:n_patients]


def checked_case(case: str) -> str:
    """A case id in its canonical form; refuses what it does not know."""
    if not isinstance(case, str):
        raise ValueError(f"case={case!r} must be a string: 'head-and-neck-00017' or 'openkbp:PATH'.")
    procedural = PROCEDURAL.fullmatch(case)
    if procedural:
        return procedural_id(int(procedural[1]))
    if case.startswith("openkbp:"):
        _openkbp_path(case)
        return case
    raise ValueError(
        f"case={case!r} is unknown; give 'head-and-neck-NUMBER' (the number is the seed) or "
        "'openkbp:PATH' with the path of a patient's folder or zip."
    )


def _openkbp_path(patient: str) -> Path:
    scheme, _, path = patient.partition(":")
    if scheme != "openkbp" or not path:
        raise ValueError(f"patient={patient!r} is neither 'head-and-neck-NUMBER' nor 'openkbp:PATH'.")
    if not Path(path).exists():
        raise FileNotFoundError(f"case 'openkbp:{path}': no such file or folder; check the path.")
    return Path(path)
