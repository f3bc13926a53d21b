"""What beams of ions and photons in plan files share: how the patient lies, and where beams come
from."""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from engine.geometry.plan import Beam
from engine.io.dicom_dataset import DicomError, items, label, number, text, whole

# How a beam looks to a patient who lies otherwise, as one that comes to a supine patient with the
# head first: gantry and couch are turned by these angles, the couch after a change of its sign.
# Turning the patient about the vertical axis is turning the couch; about the long axis, the gantry.
AS_SUPINE = {
    "HFS": (0.0, 1.0, 0.0), "HFP": (180.0, -1.0, 0.0),
    "FFS": (0.0, 1.0, 180.0), "FFP": (180.0, -1.0, 180.0),
}  # fmt: skip
LEVEL_WITHIN_DEG = 0.01


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

    def angles_deg(self, beam: Dataset, gantry: float, couch: float) -> tuple[float, float]:
        """Gantry and couch of the same beam for a patient who lies head first, supine."""
        at = whole(beam, "ReferencedPatientSetupNumber", None)
        position = self.position.get(at) or self.position.get(None)
        if position not in AS_SUPINE:
            raise DicomError(
                f"PatientPosition for {label(beam)} is {position!r}; beams are computed for "
                f"{', '.join(AS_SUPINE)}."
            )
        turn_gantry, sign, turn_couch = AS_SUPINE[position]
        couch = sign * (couch + turn_couch)
        return (gantry + turn_gantry) % 360.0, (couch + 180.0) % 360.0 - 180.0


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
