"""Patients of cases by name: procedural ones by their seed, others by the path of their files."""

import re
from inspect import signature
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
SCHEMES = ("openkbp", "dicom")  # of patients that are read from files
KEYS_FILE = "patient.yaml"  # beside DICOM files
KNOWN = "'head-and-neck-NUMBER', 'nasopharynx-NUMBER', 'openkbp:PATH' or 'dicom:FOLDER'"
DICOM_READING = 2  # counted up where the same files give another patient than before
PROCEDURAL = re.compile(rf"({'|'.join(SITES)})-(\d+)")


def patient_content(patient: str) -> str:
    """What stands for a patient in a key: its name says all, or the hash of its files."""
    if PROCEDURAL.fullmatch(patient):
        return patient
    scheme, path = _files(patient)
    digest = digest_of_files(path)
    return f"{digest}, reading {DICOM_READING}" if scheme == "dicom" else digest


def name_without_path(patient: str) -> str:
    """A case's name in results: of DICOM a digest, for its folders are named after people."""
    if PROCEDURAL.fullmatch(patient):
        return patient
    scheme, path = _files(patient)
    return f"{scheme}:{path.stem if scheme == 'openkbp' else digest_of_files(path)[:12]}"


def nameless_case(case: str) -> str:
    """A case as records keep it: of DICOM a digest in place of the folder, others as they are."""
    return name_without_path(case) if case.startswith("dicom:") else case


def named_patient(
    patient: str, spacing_mm: float, level: str | None = None,
    target_volume_cm3: tuple[float, float] | None = None,
) -> Patient:  # fmt: skip
    """The patient of a case id; the settings are of procedural ones."""
    procedural = PROCEDURAL.fullmatch(patient)
    if not procedural:
        scheme, path = _files(patient)
        return read_patient(path) if scheme == "openkbp" else _dicom_patient(path)
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
        raise ValueError(f"case={case!r} must be text: {KNOWN}.")
    procedural = PROCEDURAL.fullmatch(case)
    if procedural:
        return procedural_id(int(procedural[2]), procedural[1])
    if case.partition(":")[0] in SCHEMES:
        _files(case)
        return case
    raise ValueError(
        f"case={case!r} is unknown; give {KNOWN}. The number is the seed, the path a patient's "
        "folder, or its zip in OpenKBP's format."
    )


def _files(patient: str) -> tuple[str, Path]:
    """Scheme and path of a patient that is read from files."""
    scheme, _, path = patient.partition(":")
    if scheme not in SCHEMES or not path:
        raise ValueError(f"patient={patient!r}: give {KNOWN}.")
    # a cohort names patients, however kept
    for found in (Path(path), Path(f"{path}.zip"))[: 2 if scheme == "openkbp" else 1]:
        if found.exists():
            return scheme, found
    raise FileNotFoundError(f"case '{scheme}:{path}': no such file or folder; check the path.")


def _dicom_patient(folder: Path) -> Patient:
    """A patient from DICOM; what its files leave open says ``patient.yaml`` among them."""
    import yaml  # with the reader, half a second that other cases need not wait

    from engine.io import dicom_patient
    from engine.io.dicom_dataset import DicomError

    path = folder / KEYS_FILE
    allowed = list(signature(dicom_patient.read_patient).parameters)[1:]
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{KEYS_FILE} of {str(folder)!r} is no YAML: {error}") from error
    if not isinstance(keys, dict) or not set(keys) <= set(allowed):
        raise ValueError(f"{KEYS_FILE} of {str(folder)!r} holds {keys!r}; its keys are {allowed}.")
    try:
        return dicom_patient.read_patient(folder, **keys)
    except ValueError as error:
        if not any(f"{key}=" in str(error) for key in allowed):
            raise
        where = f"For a case such keys stand in {KEYS_FILE} in its folder."
        kind = DicomError if isinstance(error, DicomError) else ValueError
        raise kind(f"{error}\n{where}") from error
