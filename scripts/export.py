"""Write a patient as DICOM: CT, structures and prescription, with a plan and its doses if wished.

The folder ``output`` then holds one study without a name, a date or a path of anybody:
CT_*.dcm, RTSTRUCT.dcm, RTPLAN.dcm, RTDOSE.dcm and RTDOSE_beam_*.dcm.
"""

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from engine.io.dicom_study import Study
from engine.io.openkbp import read_reference_dose
from engine.patient.patient import Patient
from scripts import dicom_files, plan_files
from scripts.patient_keys import patient_of
from scripts.record import output_folder, stage

OPENKBP = "engine.io.openkbp.read_patient"


def run(cfg: DictConfig) -> None:
    """One patient; nothing is recorded beside it, for the folder is to be given away."""
    folder = output_folder()
    try:
        _export(cfg, folder)
    except BaseException:
        with suppress(OSError):  # it holds an earlier export
            folder.rmdir()
        raise
    print(f"\nWritten to {folder}/")


def _export(cfg: DictConfig, folder: Path) -> None:
    if cfg.plan is not None and cfg.published_dose:
        raise ValueError(
            "dose=true is the dose that was published with the patient, not that of plan="
            f"{cfg.plan}; export one of them, or each into a folder of its own."
        )
    if cfg.published_dose and cfg.patient.get("_target_") != OPENKBP:
        raise ValueError(
            "dose=true needs a dose that was published with the patient, as OpenKBP's are; take "
            "patient=openkbp, or leave it out."
        )
    dicom_files.refuse_others(folder)
    with stage("Patient") as notes:
        patient = patient_of(cfg)
        notes.append(f"{patient.grid.shape[0]} slices, {len(patient.structures)} structures")
    plan, doses = None, None
    if cfg.plan is not None:
        with stage("Plan") as notes:
            made = plan_files.read(Path(str(cfg.plan)), cfg.plan_machine)
            patient, plan, doses = _prescribed(patient, made), made.plan, made.doses
            notes.append(f"{plan.n_spots} spots in {len(plan.beams)} beams")
    if cfg.published_dose:
        doses = dicom_files.Doses(patient.grid, read_reference_dose(cfg.patient.path))
    with stage("DICOM") as notes:
        notes += dicom_files.write(patient, folder, plan, doses)


def _prescribed(patient: Patient, made: "plan_files.ReadPlan") -> Patient:
    """The patient with the prescription of a plan that was made for it."""
    own = patient.source or patient.name
    if made.patient != own:
        raise ValueError(
            f"the plan was made for {made.patient}, and this patient is {own}; give the plan's "
            "patient, with the same keys."
        )
    if made.image != Study.of(patient).pseudonym:
        raise ValueError(
            f"the plan was made on another CT of {own}: of other voxels, or of another part of the "
            "patient; give the same keys of patient as for the plan."
        )
    return replace(
        patient, prescription_gy=made.prescription_gy, n_fractions=made.n_fractions
    )


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
