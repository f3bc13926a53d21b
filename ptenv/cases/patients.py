"""Patients of cases by name: procedural ones by their seed, others by the path of their files."""

import re
from numbers import Integral
from pathlib import Path

from engine.io.openkbp import read_patient
from engine.patient.patient import Patient
from engine.patient.phantom_nasopharynx import nasopharynx
from engine.patient.phantoms import head_and_neck
from ptenv.cases.digests import digest_of_files

SPLITS = {
    "train": range(0, 10_000),
    "validation": range(10_000, 10_100),
    "test": range(20_000, 20_200),
}
SITES = ("head-and-neck", "nasopharynx")  # of procedural patients
PROCEDURAL = re.compile(rf"({'|'.join(SITES)})-(\d+)")


def patient_content(patient: str) -> str:
    """What stands for a patient in a key: its name says all, or the hash of its files."""
    return patient if PROCEDURAL.fullmatch(patient) else digest_of_files(_openkbp_path(patient))


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
