"""Plans as DICOM files: what plans of ions and of photons share, and a prescription without beams.

Sources: PS3.3 C.8.8.9 to C.8.8.13 (general plan, prescription, setup, fractions) and C.8.8.16.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage
from pydicom.valuerep import DSfloat

from engine.geometry.plan import Plan
from engine.io.dicom_ion_beam_writing import ion_beam
from engine.io.dicom_photon_beam_writing import photon_beam
from engine.io.dicom_study import MAKER, Study, decimal, line, referenced, roi_numbers, save
from engine.machine.ion import IonMachine
from engine.patient.patient import Patient

SETUP = 1  # the number of the one patient setup


def write_plan(plan: Plan | None, patient: Patient, study: Study, path: Path) -> Dataset:
    """Write an RT Ion Plan or RT Plan; returns the reference to it that its doses carry.

    Every beam of the plan that delivers anything is a beam of the file, so an arc is many; their
    numbers count from 1 in the plan's order. Without a plan an RT Plan of no beams holds the
    prescription. What is read again has the same spots and energies and, of ions, weights rounded
    to float32; spots of weight 0 are left out.
    """
    is_of_ions = plan is not None and isinstance(plan.machine, IonMachine)
    sop_class = RTIonPlanStorage if is_of_ions else RTPlanStorage
    uid = study.uid("plan", study.structures, _digest(plan, patient))
    made = study.dataset(sop_class, "RTPLAN", uid)
    made.RTPlanLabel, made.RTPlanDate, made.RTPlanTime = MAKER, "", ""
    made.PlanIntent, made.RTPlanGeometry = "RESEARCH", "PATIENT"
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedStructureSetSequence = [study.structures_reference()]
    made.DoseReferenceSequence = _dose_references(patient)
    setup = Dataset()
    setup.PatientSetupNumber, setup.PatientPosition = SETUP, "HFS"
    made.PatientSetupSequence = [setup]
    beams = _beams(plan, ion_beam if is_of_ions else photon_beam)
    made.FractionGroupSequence = [_fraction_group(patient.n_fractions, beams)]
    if beams:
        sequence = "IonBeamSequence" if is_of_ions else "BeamSequence"
        setattr(made, sequence, [beam for beam, _ in beams])
    save(made, path)
    return referenced(sop_class, uid)


def _beams(
    plan: Plan | None, beam_of: Callable[[Plan, int, int], tuple[Dataset, DSfloat]]
) -> list[tuple[Dataset, DSfloat]]:
    """Every beam that delivers anything, with its meterset."""
    if plan is None:
        return []
    if not (np.all(np.isfinite(plan.weights)) and plan.weights.min(initial=0.0) >= 0.0):
        raise ValueError("weights of the plan hold NaN, infinite or negative values.")
    delivered = np.unique(plan.spot_beam[plan.weights > 0.0])
    if not len(delivered):
        raise ValueError("every weight of the plan is 0; optimize it before it is written.")
    made = []
    for index in map(int, delivered):
        beam, meterset = beam_of(plan, index, index + 1)
        beam.ReferencedPatientSetupNumber = SETUP
        made.append((beam, meterset))
    return made


def _dose_references(patient: Patient) -> list[Dataset]:
    """The prescription, a dose of the course for every target."""
    roi, made = roi_numbers(patient), []
    for number, target in enumerate(patient.targets, start=1):
        item = Dataset()
        item.DoseReferenceNumber, item.DoseReferenceStructureType = number, "VOLUME"
        item.ReferencedROINumber = roi[target]
        item.DoseReferenceDescription = line(target)
        item.DoseReferenceType = "TARGET"
        item.TargetPrescriptionDose = decimal(patient.prescription_gy[target])
        made.append(item)
    return made


def _fraction_group(n_fractions: int, beams: list[tuple[Dataset, DSfloat]]) -> Dataset:
    group = Dataset()
    group.FractionGroupNumber, group.NumberOfFractionsPlanned = 1, n_fractions
    group.NumberOfBeams, group.NumberOfBrachyApplicationSetups = len(beams), 0
    if beams:
        group.ReferencedBeamSequence = [_meterset(beam.BeamNumber, mu) for beam, mu in beams]
    return group


def _meterset(number: int, meterset: DSfloat) -> Dataset:
    item = Dataset()
    item.BeamMeterset, item.ReferencedBeamNumber = meterset, number
    return item


def _digest(plan: Plan | None, patient: Patient) -> str:
    """Of everything that the file says."""
    digest = sha256(repr((dict(patient.prescription_gy), patient.n_fractions)).encode())
    if plan is not None:
        digest.update(repr((plan.machine.name, plan.beams)).encode())
        for array in (plan.spot_beam, plan.spot_energy, plan.u_mm, plan.v_mm, plan.weights):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
