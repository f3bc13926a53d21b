"""What ``ptenv plan`` and ``ptenv export`` leave as DICOM: CT, structures, plan and doses."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from engine.dose.quantities import Quantity
from engine.geometry.plan import Plan
from engine.io.dicom_ct import write_ct
from engine.io.dicom_dataset import DicomError, is_dicom, read_header, text
from engine.io.dicom_dose import write_dose
from engine.io.dicom_plan_writing import write_plan
from engine.io.dicom_structures_writing import write_structures
from engine.io.dicom_study import MAKER, Study
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.physics.biology import BiologicalModel

PLAN, DOSE, BEAM_DOSE = "RTPLAN.dcm", "RTDOSE.dcm", "RTDOSE_beam_{}.dcm"


@dataclass(frozen=True, eq=False)
class Doses:
    """Doses of the course in Gy, (nz, ny, nx) on ``grid``: the whole plan's and, in the plan's
    order, (n_beams, nz, ny, nx) of its beams. ``weighted_by`` is "" for a physical dose."""

    grid: Grid
    total_gy: np.ndarray
    beams_gy: Sequence[np.ndarray] = ()
    weighted_by: str = ""


def write(
    patient: Patient, folder: Path, plan: Plan | None = None, doses: Doses | None = None
) -> list[str]:
    """Write all files of a patient in place of an earlier run's; says what was written. Without a
    plan the file of the plan holds the prescription alone, to which a dose then refers.

    An earlier run's files stay until all of the new ones are there."""
    refuse_others(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".writing-") as aside:
        said = _written(patient, Path(aside), plan, doses)
        for path in _dicom_in(folder):
            path.unlink()
        for path in sorted(Path(aside).iterdir()):
            path.replace(folder / path.name)
    return said


def _written(
    patient: Patient, folder: Path, plan: Plan | None, doses: Doses | None
) -> list[str]:
    study = Study.of(patient)
    said = [f"CT of {len(write_ct(patient, study, folder))} slices"]
    write_structures(patient, study, folder)
    said.append(f"{len(patient.structures)} structures")
    reference = write_plan(plan, patient, study, folder / PLAN)
    said.append("prescription" if plan is None else f"plan of {len(plan.beams)} beams")
    if doses is None:
        return said
    kind = dict(study=study, plan=reference, weighted_by=doses.weighted_by)
    write_dose(doses.grid, doses.total_gy, path=folder / DOSE, **kind)
    delivering = () if plan is None else np.unique(plan.spot_beam[plan.weights > 0.0])
    beams = [b for b in range(len(doses.beams_gy)) if b in delivering]
    for beam in beams:
        path = folder / BEAM_DOSE.format(beam + 1)
        write_dose(doses.grid, doses.beams_gy[beam], path=path, beam_number=beam + 1, **kind)
    said.append(f"dose{f' in total and of {len(beams)} beams' if beams else ''}"
                f"{', effective' if doses.weighted_by else ''}")  # fmt: skip
    return said


def refuse_others(folder: Path) -> None:
    """Refuse a folder with DICOM files of another system, with which ours would mix."""
    others = [path.name for path in _dicom_in(folder) if not _is_ours(path)]
    if others:
        raise ValueError(
            f"{folder} holds DICOM files of another system ({len(others)}, {others[0]} among "
            "them); name an empty folder, so that they are not mixed up."
        )


def _dicom_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if is_dicom(path)]  # not all end in .dcm


def _is_ours(path: Path) -> bool:
    try:
        header = read_header(path)
        return text(header, "Manufacturer", "") == MAKER and text(
            header, "PatientID", ""
        ).startswith(f"{MAKER}-")
    except DicomError:
        return False


def weighted_by(quantity: Quantity, biology: BiologicalModel | None) -> str:
    """What a dose is weighted by, in at most 64 characters; "" for nothing.

    A model of biology is named by its class and a digest of its parameters, so that another can be
    told from it.
    """
    if quantity.rbe is not None:
        return "" if quantity.rbe == 1.0 else f"RBE {quantity.rbe:g}"
    parameters = sha256(repr(biology).encode()).hexdigest()[:12]
    return f"{type(biology).__name__}, parameters {parameters}"
