"""Plans from DICOM files: beams, spots or bixels, and weights that a machine of ours can deliver.

Read are RT Ion Plans of scanned beams and RT Plans whose photon beams carry their fluence as
transmission of a compensator. What would change the dose and cannot be computed is refused; what
changes it little is told in ``notes``. Nothing of a person, and no label that someone typed, is
taken over. Sources: PS3.3 C.8.8.9 to C.8.8.14 and C.8.8.25.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Plan
from engine.geometry.rays import trace_field
from engine.io.dicom_dataset import (
    DicomError,
    has,
    items,
    label,
    number,
    read_dataset,
    text,
    whole,
)
from engine.io.dicom_ion_beams import IonReading, read_ion_beam
from engine.io.dicom_photon_beams import SQUARE_WITHIN_MM, read_photon_beam
from engine.io.dicom_plan_parts import (
    Part,
    Setups,
    beam_sequence,
    refuse_doubles,
    treating_beams,
)
from engine.machine.ion import IonMachine
from engine.machine.library import available_machines, load_machine
from engine.machine.photon import PhotonMachine
from engine.patient.patient import Patient

ENERGY_WITHIN_MEV = 0.1  # of one of the machine's: 0.1 to 0.2 mm of range
MOST_DIRECTIONS = 2**16 - 1


@dataclass(frozen=True, eq=False)
class DicomPlan:
    """A plan with what its file says besides. ``beam_numbers`` are the file's, one for each of
    ``plan.beams``: a beam that turns while it treats is several of them."""

    plan: Plan
    beam_numbers: tuple[int, ...]
    n_fractions: int | None  # None: not told
    uid: str
    structures_uid: str  # "": none
    frame_uid: str  # of reference; "": not told
    notes: tuple[str, ...]
    bixel_mm: float | None = None  # width of the bixels of photons


def read_plan(
    path: str | Path,
    machine: IonMachine | PhotonMachine | None = None,
    particles_per_mu: float | Mapping[float, float] | None = None,
    energy_within_mev: float = ENERGY_WITHIN_MEV,
    patient: Patient | None = None,
    on_ct: str = "",
) -> DicomPlan:
    """The plan of an RT Ion Plan or RT Plan file, for ``machine``.

    By default the machine is the one that the file names, or else the generic one of its particle.
    Energies are the machine's nearest, within ``energy_within_mev``. ``particles_per_mu`` is one
    number, or {MeV: number} between which is interpolated; files that count particles need none.
    With the ``patient`` a range shifter's distance from the skin is measured where the file does
    not hold it; ``on_ct`` is the PatientPosition of the CT, for files that tell none. Raises
    ``DicomError`` of anything that cannot be computed.
    """
    dataset = read_dataset(path)
    sequence = beam_sequence(dataset)
    notes: list[str] = []
    beams = treating_beams(dataset, sequence, notes)
    machine = machine or _machine_of(beams[0], notes)
    n_machines = len({text(beam, "TreatmentMachineName", "") for beam in beams})
    if n_machines > 1:
        notes.append(f"the file's beams are of {n_machines} machines; computed with {machine.name}")
    reading = IonReading(machine, particles_per_mu, energy_within_mev, notes)
    setups = Setups.of(dataset, notes, on_ct)
    parts = _parts(dataset, beams, setups, sequence == "IonBeamSequence", reading)
    return DicomPlan(
        plan=_with_skin(_assembled(machine, parts), parts, patient, notes),
        beam_numbers=tuple(part.beam_number for part in parts),
        n_fractions=_fractions(dataset)[1],
        uid=text(dataset, "SOPInstanceUID"),
        structures_uid=_structures_uid(dataset),
        frame_uid=text(dataset, "FrameOfReferenceUID", ""),
        notes=tuple(dict.fromkeys(notes)),
        bixel_mm=_bixel_mm(parts, label(dataset)),
    )


def prescription(dataset: Dataset) -> tuple[dict[int, float], int | None]:
    """Gy of the course by the targets' ROI numbers, and the number of fractions, of a plan."""
    doses = {}
    for item in items(dataset, "DoseReferenceSequence"):
        told = has(item, "TargetPrescriptionDose") and has(item, "ReferencedROINumber")
        if told and text(item, "DoseReferenceType", "") == "TARGET":
            doses[whole(item, "ReferencedROINumber")] = number(item, "TargetPrescriptionDose")
    return doses, _fractions(dataset)[1]


def _parts(
    dataset: Dataset, beams: list[Dataset], setups: Setups, are_ions: bool, reading: IonReading
) -> list[Part]:
    """What is delivered from every direction of every beam."""
    metersets, _ = _fractions(dataset)
    parts: list[Part] = []
    for beam in beams:
        meterset = _meterset(metersets, whole(beam, "BeamNumber"), dataset)
        if are_ions:
            parts += read_ion_beam(beam, setups, meterset, reading)
        else:
            parts += read_photon_beam(beam, setups, meterset, reading.machine, reading.notes)
    reading.conclude(label(dataset))
    if not 0 < len(parts) <= MOST_DIRECTIONS:
        raise DicomError(
            f"{label(dataset)} treats from {len(parts)} directions; 1 to {MOST_DIRECTIONS} can be "
            "computed."
        )
    return parts


def _fractions(dataset: Dataset) -> tuple[dict[int, float], int | None]:
    """Meterset of a fraction by beam number, and the number of fractions."""
    groups = items(dataset, "FractionGroupSequence")
    if len(groups) > 1:
        raise DicomError(
            f"{label(dataset)} has {len(groups)} fraction groups, which deliver beams in different "
            "fractions; plans of one are read, export each as a plan of its own."
        )
    if not groups:
        return {}, None
    referred = items(groups[0], "ReferencedBeamSequence")
    numbers = [whole(item, "ReferencedBeamNumber") for item in referred]
    refuse_doubles(numbers, "ReferencedBeamSequence", dataset)
    found = {
        at: number(item, "BeamMeterset")
        for at, item in zip(numbers, referred)
        if has(item, "BeamMeterset")
    }
    n_fractions = whole(groups[0], "NumberOfFractionsPlanned", None)
    return found, n_fractions


def _meterset(metersets: Mapping[int, float], beam_number: int, dataset: Dataset) -> float:
    meterset = metersets.get(beam_number)
    if meterset is None or not meterset > 0.0:
        raise DicomError(
            f"{label(dataset)} has no meterset of beam {beam_number} (BeamMeterset is {meterset}); "
            "without it the dose is unknown, export the plan with its fraction scheme."
        )
    return meterset


def _machine_of(beam: Dataset, notes: list[str]) -> IonMachine | PhotonMachine:
    """The machine that the file names, or the generic one of the particle."""
    name = text(beam, "TreatmentMachineName", "")
    if name in available_machines():
        return load_machine(name)
    kind = text(beam, "RadiationType")
    charge = whole(beam, "RadiationAtomicNumber", 0)
    generic = {
        ("PROTON", 0): "generic_proton", ("ION", 6): "generic_carbon",
        ("PHOTON", 0): "generic_photon",
    }.get((kind, charge if kind == "ION" else 0))  # fmt: skip
    if generic is None:
        raise DicomError(
            f"RadiationType of {label(beam)} is {kind}{f' of charge {charge}' if charge else ''}; "
            "protons, carbon ions and photons are computed."
        )
    notes.append(f"the file's machine is unknown here; computed with {generic}")
    return load_machine(generic)


def _bixel_mm(parts: list[Part], where: str) -> float | None:
    """The one width of all bixels; None of ions."""
    widths = sorted({part.bixel_mm for part in parts if part.bixel_mm is not None})
    if widths and widths[-1] - widths[0] > SQUARE_WITHIN_MM:
        raise DicomError(
            f"the fluence maps of {where} have pixels of {widths[0]:g} to {widths[-1]:g} mm; "
            "plans with pixels of one width are computed."
        )
    return widths[0] if widths else None


def _structures_uid(dataset: Dataset) -> str:
    found = items(dataset, "ReferencedStructureSetSequence")
    return text(found[0], "ReferencedSOPInstanceUID", "") if found else ""


def _assembled(machine: IonMachine | PhotonMachine, parts: list[Part]) -> Plan:
    """One plan of all parts, each sorted as a plan's spots are, with what is double added up."""
    rows = [part.sorted_rows() for part in parts]
    energy, v, u, weight = np.concatenate(rows).T
    return Plan(
        machine=machine,
        beams=tuple(part.beam for part in parts),
        spot_beam=np.repeat(np.arange(len(parts)), [len(r) for r in rows]).astype(np.uint16),
        spot_energy=energy.astype(np.uint16),
        u_mm=u.astype(np.float32),
        v_mm=v.astype(np.float32),
        weights=weight,
    )


def _with_skin(
    plan: Plan, parts: list[Part], patient: Patient | None, notes: list[str]
) -> Plan:
    """The plan with the distances from range shifters to the skin that the file does not hold: to
    where the first ray through a spot meets the body, or assumed without a patient."""
    unknown = [i for i, part in enumerate(parts) if part.no_gap]
    if unknown and patient is None:
        listed = ", ".join(map(str, sorted({parts[i].beam_number for i in unknown})))
        gap_mm = plan.beams[unknown[0]].air_gap_mm
        notes.append(f"range shifters of beams {listed}: {gap_mm:g} mm from the skin are assumed")
    if not unknown or patient is None:
        return plan
    body, beams = patient.external.mask.astype(np.float32), list(plan.beams)
    for index in unknown:
        beam, spots = beams[index], plan.beam_slice(index)
        u, v = plan.u_mm[spots], plan.v_mm[spots]
        frame = beam_frame(beam, plan.machine.virtual_source_mm)
        reach = (u.min(), u.max()), (v.min(), v.max())
        skin_mm = float(trace_field(body, patient.grid, frame, *reach).entrance_mm(u, v).min())
        if np.isfinite(skin_mm):
            beams[index] = replace(beam, air_gap_mm=max(0.0, skin_mm - beam.shifter_exit_mm))
    return replace(plan, beams=tuple(beams))
