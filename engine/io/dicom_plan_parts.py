"""What plan files of ions and photons share: which beams treat, how the patient lies, and where
beams come from."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage

from engine.geometry.coordinates import beam_angles, beam_frame
from engine.geometry.plan import Beam
from engine.io.dicom_dataset import DicomError, has, items, label, number, numbers, text, whole

# Degrees from lying head first, supine: about the long axis, towards the right side, and then about
# the vertical axis, which turning the couch is as well.
LYING = {
    "HFS": (0.0, 0.0), "HFDR": (90.0, 0.0), "HFP": (180.0, 0.0), "HFDL": (270.0, 0.0),
    "FFS": (0.0, 180.0), "FFDR": (90.0, 180.0), "FFP": (180.0, 180.0), "FFDL": (270.0, 180.0),
}  # fmt: skip
DECIMALS = 9  # of angles: one direction is one beam, however it was rounded
LEVEL_WITHIN_DEG = 0.01
STILL_WITHIN = 0.1  # mm of an isocenter, MV of an energy
TILTS = (
    "GantryPitchAngle", "TableTopPitchAngle", "TableTopRollAngle", "TableTopEccentricAngle",
)  # fmt: skip
BEAMS = {RTIonPlanStorage: "IonBeamSequence", RTPlanStorage: "BeamSequence"}


@dataclass(frozen=True, eq=False)
class Part:
    """What is delivered from one direction: ``rows`` (n, 4) are the energy's index, v, u in mm
    and the weight."""

    beam: Beam
    beam_number: int
    rows: np.ndarray
    no_gap: bool = False  # the file does not tell how far the range shifter is from the skin
    bixel_mm: float | None = None  # width of the bixels, of photons

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
    """How the patient lies, by the number of the patient setup, of which there is none in a plan
    that does not tell it; ``otherwise`` is of beams that name none."""

    position: dict[int, str]
    otherwise: str | None

    @classmethod
    def of(cls, dataset: Dataset, notes: list[str], on_ct: str = "") -> "Setups":
        """Those of a plan; ``on_ct`` is how the patient lies on the CT, for a plan that tells
        nothing."""
        setups = items(dataset, "PatientSetupSequence")
        numbers = [whole(item, "PatientSetupNumber") for item in setups]
        refuse_doubles(numbers, "PatientSetupSequence", dataset, "setup")
        found = {n: text(s, "PatientPosition", "") for n, s in zip(numbers, setups)}
        told = sorted({position for position in found.values() if position})
        if not told:
            taken = on_ct or "HFS"
            as_ = "as on the CT" if on_ct else "head first, supine"
            notes.append(f"the file does not say how the patient lies; {as_}, is taken")
            return cls({}, taken)
        if on_ct and told != [on_ct]:
            notes.append(f"the patient lies {', '.join(told)} in the plan, {on_ct} on the CT")
        return cls(found, told[0] if len(told) == 1 else None)

    def seen(self, beam: Dataset, gantry: float, couch: float) -> "Seen":
        """The same beam as seen by a patient who lies head first, supine."""
        at = whole(beam, "ReferencedPatientSetupNumber", None)
        named = at is not None and self.position
        position = self.position.get(at, "not there") if named else self.otherwise
        if position not in LYING:
            raise DicomError(
                f"PatientPosition for {label(beam)}, setup {at}, is {position!r}; beams are "
                f"computed for {', '.join(LYING)}. Export the plan with its patient setups."
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


def refuse_doubles(
    numbers: list[int], sequence: str, dataset: Dataset, what: str = "beam"
) -> None:
    """A beam that is there twice would be delivered twice."""
    for at in numbers:
        if numbers.count(at) > 1:
            raise DicomError(
                f"{sequence} of {label(dataset)} has {what} {at} {numbers.count(at)} times; export "
                "the plan again."
            )


def refuse_full_turns(beam: Dataset, points: list[Dataset]) -> None:
    """A gantry that turns until the next control point and stands where it stood went all round:
    ``GantryRotationDirection`` tells that from one that does not turn (PS3.3 C.8.8.14)."""
    for point in points[:-1]:
        direction = text(point, "GantryRotationDirection", "NONE")
        if direction in ("CW", "CC"):
            raise DicomError(
                f"the gantry of {label(beam)} turns {direction} while it treats; static beams are "
                "read, whose GantryRotationDirection is NONE."
            )


def refuse_moving(beam: Dataset, points: list[Dataset], keywords: Iterable[str]) -> None:
    """Angles and places that the control points tell must stay as they are."""
    for keyword in keywords:
        told = [numbers(point, keyword) for point in points if has(point, keyword)]
        is_angle, first = keyword.endswith("Angle"), told[0] if told else None
        for values in told[1:]:
            if len(values) != len(first):
                raise DicomError(
                    f"{keyword} of {label(beam)} has {len(first)}, then {len(values)} values; "
                    "export the plan again."
                )
            off = values - first
            off = (off + 180.0) % 360.0 - 180.0 if is_angle else off
            if not np.abs(off).max() <= (LEVEL_WITHIN_DEG if is_angle else STILL_WITHIN):
                raise DicomError(
                    f"{keyword} of {label(beam)} changes while it treats, from {_shown(first)} to "
                    f"{_shown(values)}; static beams are read."
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


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values)
