"""What plan files of ions and photons share: which beams treat, how the patient lies, and where
beams come from."""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage

from engine.geometry.coordinates import beam_angles, beam_frame
from engine.geometry.plan import Beam
from engine.io.dicom_dataset import DicomError, items, label, number, text, whole

# Degrees from lying head first, supine: about the long axis, towards the right side, and then about
# the vertical axis, which turning the couch is as well.
LYING = {
    "HFS": (0.0, 0.0), "HFDR": (90.0, 0.0), "HFP": (180.0, 0.0), "HFDL": (270.0, 0.0),
    "FFS": (0.0, 180.0), "FFDR": (90.0, 180.0), "FFP": (180.0, 180.0), "FFDL": (270.0, 180.0),
}  # fmt: skip
DECIMALS = 9  # of angles: one direction is one beam, however it was rounded
LEVEL_WITHIN_DEG = 0.01
BEAMS = {RTIonPlanStorage: "IonBeamSequence", RTPlanStorage: "BeamSequence"}


@dataclass(frozen=True, eq=False)
class Part:
    """What is delivered from one direction: ``rows`` (n, 4) are the energy's index, v, u in mm
    and the weight."""

    beam: Beam
    beam_number: int
    rows: np.ndarray
    no_gap: bool = False  # the file does not tell how far the range shifter is from the skin

    def sorted_rows(self) -> np.ndarray:
        """By falling energy, rising v, rising u, in float32; spots at one place are added up."""
        energy, v, u = self.rows[:, 0], *self.rows[:, 1:3].astype(np.float32).T
        keys, of = np.unique(np.column_stack([-energy, v, u]), axis=0, return_inverse=True)
        keys[:, 0] *= -1.0
        return np.column_stack([keys, np.bincount(of.ravel(), self.rows[:, 3], len(keys))])


@dataclass(frozen=True)
class Seen:
    """Where a beam comes from. A patient on the side on a turned couch sees it turned as well, by
    ``turn_deg`` about its axis, from u to v; beams of ours have no such angle, so that places in
    the beam's eye view are turned instead."""

    gantry_deg: float
    couch_deg: float
    turn_deg: float

    def places(self, u_mm: np.ndarray, v_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where u and v of the file lie in the beam's eye view of ours."""
        if self.turn_deg == 0.0:
            return u_mm, v_mm
        turn = np.deg2rad(self.turn_deg)
        cos, sin = np.cos(turn), np.sin(turn)
        return cos * u_mm - sin * v_mm, sin * u_mm + cos * v_mm


@dataclass(frozen=True)
class Setups:
    """How the patient lies, by the number of the patient setup; None for all that name none."""

    position: dict[int | None, str]

    @classmethod
    def of(cls, dataset: Dataset, notes: list[str]) -> "Setups":
        found = {
            whole(item, "PatientSetupNumber"): text(item, "PatientPosition", "")
            for item in items(dataset, "PatientSetupSequence")
        }
        told = sorted({position for position in found.values() if position})
        if not told:
            notes.append("the file does not say how the patient lies; head first, supine, is taken")
        if len(told) > 1:
            return cls(found)
        return cls({None: told[0] if told else "HFS"} | {n: p for n, p in found.items() if p})

    def seen(self, beam: Dataset, gantry: float, couch: float) -> "Seen":
        """The same beam as seen by a patient who lies head first, supine."""
        at = whole(beam, "ReferencedPatientSetupNumber", None)
        position = self.position.get(at) or self.position.get(None)
        if position not in LYING:
            raise DicomError(
                f"PatientPosition for {label(beam)} is {position!r}; beams are computed for "
                f"{', '.join(LYING)}."
            )
        about_long, about_vertical = LYING[position]
        couch = (couch + about_vertical + 180.0) % 360.0 - 180.0
        frame = beam_frame(Beam(gantry % 360.0, (0.0, 0.0, 0.0), couch), 1.0)
        a = np.deg2rad(about_long)
        turned = np.array([
            [np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0],
        ])  # fmt: skip
        angles = beam_angles(turned @ frame.u_axis, turned @ frame.direction)
        gantry, couch, turn = (round(float(angle), DECIMALS) + 0.0 for angle in angles)
        return Seen(gantry % 360.0, couch, turn)


def beam_sequence(dataset: Dataset) -> str:
    """The name of the sequence of beams."""
    kind = text(dataset, "SOPClassUID")
    if kind not in BEAMS:
        raise DicomError(f"{label(dataset)} is no RT Plan and no RT Ion Plan; give one.")
    if text(dataset, "RTPlanGeometry", "PATIENT") != "PATIENT":
        raise DicomError(
            f"RTPlanGeometry of {label(dataset)} is {text(dataset, 'RTPlanGeometry')!r}: its beams "
            "do not lie in a patient, so no dose can be computed."
        )
    return BEAMS[kind]


def treating_beams(dataset: Dataset, sequence: str, notes: list[str]) -> list[Dataset]:
    """The beams that treat; set-up beams and the like are left out."""
    treating, beams = [], items(dataset, sequence)
    refuse_doubles([whole(beam, "BeamNumber") for beam in beams], sequence, dataset)
    for beam in beams:
        kind = text(beam, "TreatmentDeliveryType", "TREATMENT")
        if kind == "TREATMENT":
            treating.append(beam)
        else:
            notes.append(f"beam {whole(beam, 'BeamNumber')} is left out: {kind}")
    if not treating:
        raise DicomError(
            f"{label(dataset)} has no treatment beam ({', '.join(notes) or 'no beam at all'}); it "
            "is a prescription or a setup, give a plan with beams."
        )
    return treating


def refuse_doubles(numbers: list[int], sequence: str, dataset: Dataset) -> None:
    """A beam that is there twice would be delivered twice."""
    for at in numbers:
        if numbers.count(at) > 1:
            raise DicomError(
                f"{sequence} of {label(dataset)} has beam {at} {numbers.count(at)} times; export "
                "the plan again."
            )


def refuse_tilts(point: Dataset, keywords: tuple[str, ...]) -> None:
    """Angles that a beam of ours does not have must be 0."""
    for keyword in keywords:
        angle = number(point, keyword, 0.0)
        if abs((angle + 180.0) % 360.0 - 180.0) > LEVEL_WITHIN_DEG:
            raise DicomError(
                f"{keyword} of {label(point)} is {angle:g}°; beams are computed with gantry and "
                "couch turned, and nothing else."
            )


def refuse_devices(beam: Dataset, names: tuple[str, ...]) -> None:
    """Devices in the beam that are not computed must be none."""
    for name in names:
        n = whole(beam, f"NumberOf{name}", 0)
        if n:
            raise DicomError(
                f"{label(beam)} has {n} {name.lower()}, which cannot be computed here."
            )
