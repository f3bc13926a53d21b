"""The directions of a plan's beams, for a new plan from the same sides.

They are in every RT Plan and RT Ion Plan, whatever shapes the beams: leaves, blocks, scatterers. A
fluence that a plan has is read by ``dicom_plan.read_plan``.
"""

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from engine.geometry.plan import Beam
from engine.io.dicom_dataset import (
    DicomError,
    items,
    label,
    number,
    numbers,
    read_dataset,
    text,
)
from engine.io.dicom_folder import scan
from engine.io.dicom_plan_parts import (
    TILTS,
    Setups,
    beam_sequence,
    refuse_full_turns,
    refuse_moving,
    refuse_tilts,
    treating_beams,
)

POINTS = {"IonBeamSequence": "IonControlPointSequence", "BeamSequence": "ControlPointSequence"}
STEADY = ("GantryAngle", "PatientSupportAngle", "IsocenterPosition")


@dataclass(frozen=True)
class DicomFields:
    """Beams of a plan file with their isocenters, equal ones once."""

    beams: tuple[Beam, ...]
    frame_uid: str  # of reference; "": not told
    notes: tuple[str, ...]


def read_fields(path: str | Path, on_ct: str = "") -> DicomFields:
    """The directions that a plan treats from, of its file or of a folder in which it is the only
    one. Range shifters and apertures are not taken. ``on_ct`` is how the patient lies on the CT,
    for plans that do not tell it.

    Raises ``DicomError`` of beams that turn or move while they treat, and of tilted ones.
    """
    path = Path(path)
    if path.is_dir():
        plans = scan(path).of("plan")
        if len(plans) != 1:
            raise DicomError(
                f"there are {len(plans)} plans in the folder; give the file of one, whose beams "
                "are to be taken."
            )
        path = plans[0].path
    dataset = read_dataset(path)
    sequence, notes = beam_sequence(dataset), []
    beams = treating_beams(dataset, sequence, notes)
    setups = Setups.of(dataset, notes, on_ct)
    found = [_field(beam, items(beam, POINTS[sequence]), setups) for beam in beams]
    frame_uid = text(dataset, "FrameOfReferenceUID", "")
    return DicomFields(tuple(dict.fromkeys(found)), frame_uid, tuple(notes))


def _field(beam: Dataset, points: list[Dataset], setups: Setups) -> Beam:
    if not points:
        raise DicomError(f"{label(beam)} has no control points; export the plan again.")
    refuse_moving(beam, points, STEADY)
    refuse_full_turns(beam, points)
    first = points[0]
    for point in points:
        refuse_tilts(point, TILTS)
    seen = setups.seen(beam, number(first, "GantryAngle"), number(first, "PatientSupportAngle"))
    isocenter = tuple(float(c) for c in numbers(first, "IsocenterPosition", 3))
    return Beam(seen.gantry_deg, isocenter, seen.couch_deg)
