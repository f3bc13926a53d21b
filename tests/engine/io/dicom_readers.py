"""Our DICOM readers as a test calls them on files that may be damaged.

A reader takes a folder and the file in it that is damaged; what it returns is what would be shown.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from dicom_samples import small_patient

from engine.io.dicom_ct import read_ct
from engine.io.dicom_dose import read_dose
from engine.io.dicom_fields import read_fields
from engine.io.dicom_folder import scan
from engine.io.dicom_patient import read_patient
from engine.io.dicom_plan import read_plan
from engine.io.dicom_structures import StructureSet
from engine.machine.library import load_machine


def _scanned(folder: Path, _: Path) -> str:
    return scan(folder).listing()


def _ct(folder: Path, _: Path) -> str:
    return str(read_ct(sorted(folder.glob("CT_*"))).notes)


def _patient(folder: Path, _: Path, **keys) -> str:
    patient = read_patient(folder, **keys)
    return f"{patient.name} {patient.source} {sorted(patient.structures)}"


def _structures(_: Path, path: Path) -> str:
    structure_set, grid, notes = StructureSet(path), small_patient().grid, []
    for roi in structure_set.rois:
        if roi.n_contours:
            drawn = structure_set.structure(roi, grid, roi.frame_uid)
            drawn.mask_on(grid), drawn.fraction_on(grid), drawn.volume_cm3()
            notes += drawn.notes
    return str(notes)


def _plan(_: Path, path: Path, **keys) -> str:
    read = read_plan(path, **keys)
    if not np.all(np.isfinite(read.plan.weights)):
        raise ArithmeticError("weights of a plan that was read are not finite")
    return str(read.notes)


def _plan_in_patient(folder: Path, path: Path) -> str:
    return _plan(folder, path, patient=small_patient())


def _fields(_: Path, path: Path) -> str:
    return str(read_fields(path).notes)


def _dose(_: Path, path: Path) -> str:
    dose = read_dose(path)
    if not np.all(np.isfinite(dose.dose_gy)):
        raise ArithmeticError("a dose that was read is not finite")
    return dose.summation


# By name, with the files that they are for, "" where it is the folder.
READERS: dict[str, tuple[str, Callable[[Path, Path], str]]] = {
    "scan": ("", _scanned),
    "read_patient": ("", _patient),
    "read_patient, keys": (
        "", partial(_patient, n_fractions=30, prescription_gy={"PTV_7000": 66.0}),
    ),
    "read_ct": ("CT", _ct),
    "StructureSet": ("RTSTRUCT", _structures),
    "read_plan": ("RTPLAN", _plan),
    "read_plan, protons": ("RTPLAN", partial(_plan, machine=load_machine("generic_proton"))),
    "read_plan, patient": ("RTPLAN", _plan_in_patient),
    "read_fields": ("RTPLAN", _fields),
    "read_dose": ("RTDOSE", _dose),
}  # fmt: skip
OF_ONE_FILE = [name for name, (of, _) in READERS.items() if of not in ("", "CT")]


def suiting(target: str) -> list[str]:
    """Readers of such a file in most cases, or of its folder."""
    of_folder = [name for name, (of, _) in READERS.items() if not of]
    own = [name for name, (of, _) in READERS.items() if of and of in target]
    return of_folder + own * (6 // len(own))
