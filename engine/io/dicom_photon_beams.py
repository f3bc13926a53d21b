"""One photon beam of an RT Plan whose fluence the file holds (PS3.3 C.8.8.14).

The only fluence map that the standard knows is the transmission of a compensator. Beams that jaws
and leaves shape are refused: what they let through is not computed here.
"""

import numpy as np
from pydicom.dataset import Dataset

from engine.geometry.plan import Beam
from engine.io.dicom_dataset import DicomError, has, items, label, number, numbers, text, whole
from engine.io.dicom_plan_parts import (
    LEVEL_WITHIN_DEG,
    TILTS,
    Part,
    Seen,
    Setups,
    refuse_devices,
    refuse_full_turns,
    refuse_moving,
    refuse_tilts,
)
from engine.machine.ion import IonMachine
from engine.machine.photon import PhotonMachine

STEADY = (
    "GantryAngle", "NominalBeamEnergy", "PatientSupportAngle", "BeamLimitingDeviceAngle",
    "IsocenterPosition",
)  # fmt: skip
ENERGY_WITHIN_MV = 0.5
SQUARE_WITHIN_MM = 1e-3
EDGE_WITHIN_MM = 0.1  # of a pixel that reaches under a jaw
MAPS = "CompensatorTransmissionData"


def read_photon_beam(
    beam: Dataset, setups: Setups, meterset: float, machine: IonMachine | PhotonMachine,
    notes: list[str],
) -> list[Part]:  # fmt: skip
    """The beam's bixels with their monitor units of one fraction, ``meterset`` at the most."""
    points = items(beam, "ControlPointSequence")
    if not points:
        raise DicomError(f"{label(beam)} has no control points; export the plan again.")
    first = points[0]
    _refuse_unknown(beam, first, machine)
    _refuse_moving(beam, points)
    modes = [text(i, "FluenceMode", "") for i in items(beam, "PrimaryFluenceModeSequence")]
    if modes not in ([], ["STANDARD"]):
        notes.append("beams without a flattening filter are computed with one")
    seen = setups.seen(beam, number(first, "GantryAngle"), number(first, "PatientSupportAngle"))
    isocenter = tuple(float(c) for c in numbers(first, "IsocenterPosition", 3))
    rows, bixel_mm = _bixels(_map(beam, first))
    _refuse_hidden(rows, first)
    _refuse_turned(seen, beam)
    rows[:, 2], rows[:, 1] = seen.places(rows[:, 2], rows[:, 1])
    rows[:, 3] *= meterset
    beam_of_ours = Beam(seen.gantry_deg, isocenter, seen.couch_deg)
    return [Part(beam_of_ours, whole(beam, "BeamNumber"), rows, bixel_mm=bixel_mm)]


def _refuse_unknown(beam: Dataset, first: Dataset, machine: IonMachine | PhotonMachine) -> None:
    kind = text(beam, "RadiationType")
    if kind != "PHOTON" or not isinstance(machine, PhotonMachine):
        raise DicomError(
            f"{label(beam)} is of {kind}, for {machine.name}; photons with a photon machine are "
            "computed."
        )
    energy_mv = number(first, "NominalBeamEnergy")
    if abs(energy_mv - float(machine.energy_mev[0])) > ENERGY_WITHIN_MV:
        raise DicomError(
            f"NominalBeamEnergy of {label(beam)} is {energy_mv:g} MV; {machine.name} has "
            f"{machine.energy_mev[0]:g} MV alone."
        )
    unit = text(beam, "PrimaryDosimeterUnit", "MU")
    if unit != "MU":
        raise DicomError(f"PrimaryDosimeterUnit of {label(beam)} is {unit!r}; MU is read.")
    refuse_devices(beam, ("Wedges", "Boli", "Blocks"))
    for point in items(beam, "ControlPointSequence"):
        refuse_tilts(point, (*TILTS, "BeamLimitingDeviceAngle"))


def _refuse_moving(beam: Dataset, points: list[Dataset]) -> None:
    """Beams that change while they treat: only the first control point is computed."""
    refuse_moving(beam, points, STEADY)
    refuse_full_turns(beam, points)
    if len({_jaws_mm(p) for p in points} - {()}) > 1:
        raise DicomError(
            f"the jaws of {label(beam)} move while it treats; static beams are computed."
        )


def _jaws_mm(point: Dataset) -> tuple[tuple[str, float, float], ...]:
    """X or Y and the edges of every pair of jaws that a control point tells."""
    return tuple(
        (axis, *numbers(opening, "LeafJawPositions", 2).tolist())
        for opening in items(point, "BeamLimitingDevicePositionSequence")
        if (axis := text(opening, "RTBeamLimitingDeviceType").removeprefix("ASYM")) in ("X", "Y")
    )


def _map(beam: Dataset, first: Dataset) -> Dataset:
    """The compensator that holds the fluence; refuses beams that have none."""
    found = [c for c in items(beam, "CompensatorSequence") if has(c, MAPS)]
    shaped_by = [
        text(device, "RTBeamLimitingDeviceType")
        for device in items(beam, "BeamLimitingDeviceSequence")
    ]
    leaves = [name for name in shaped_by if name.startswith("MLC")]
    if len(found) == 1 and not leaves:
        return found[0]
    raise DicomError(
        f"{label(beam)}, {number(first, 'NominalBeamEnergy'):g} MV from gantry "
        f"{number(first, 'GantryAngle'):g}°, has {len(found)} fluence maps ({MAPS}) and is shaped "
        f"by {', '.join(shaped_by) or 'nothing'}; leaves and jaws are not computed here, only "
        "beams of one map and no leaves are. A new plan can take its directions "
        "(geometry.beams.from_plan)."
    )


def _bixels(compensator: Dataset) -> tuple[np.ndarray, float]:
    """Rows (n, 4) of 0, v, u and transmission of the pixels that let anything through, and how
    wide they are."""
    shape = whole(compensator, "CompensatorRows"), whole(compensator, "CompensatorColumns")
    if min(shape) < 1:
        raise DicomError(f"{label(compensator)} has {shape[0]} × {shape[1]} pixels.")
    pixels = numbers(compensator, MAPS, shape[0] * shape[1]).reshape(shape)
    if pixels.min() < 0.0 or not pixels.max() > 0.0:
        raise DicomError(
            f"{MAPS} of {label(compensator)} spans {pixels.min():g} … {pixels.max():g}; it must be "
            "0 or more, and let something through."
        )
    between_rows, between_columns = numbers(compensator, "CompensatorPixelSpacing", 2)
    if not between_rows > 0.0 or abs(between_columns - between_rows) > SQUARE_WITHIN_MM:
        raise DicomError(
            f"CompensatorPixelSpacing of {label(compensator)} is {between_rows:g} × "
            f"{between_columns:g} mm; square pixels are computed."
        )
    u0, v0 = numbers(compensator, "CompensatorPosition", 2)
    row, column = np.nonzero(pixels)
    rows = np.column_stack([
        np.zeros(len(row)), v0 - between_rows * row, u0 + between_columns * column,
        pixels[row, column],
    ])  # fmt: skip
    return rows, float(between_rows)


def _refuse_turned(seen: Seen, beam: Dataset) -> None:
    """Bixels are squares along u and v."""
    if abs((seen.turn_deg + 45.0) % 90.0 - 45.0) > LEVEL_WITHIN_DEG:
        raise DicomError(
            f"{label(beam)} on a turned couch is seen turned by {seen.turn_deg:g}° by a patient "
            "who lies on the side; bixels are computed at multiples of 90°."
        )


def _refuse_hidden(rows: np.ndarray, first: Dataset) -> None:
    """Pixels whose middle lies under a jaw."""
    for axis, low, high in _jaws_mm(first):
        at = rows[:, 2 if axis == "X" else 1]
        hidden = int(np.count_nonzero((at < low - EDGE_WITHIN_MM) | (at > high + EDGE_WITHIN_MM)))
        if hidden:
            raise DicomError(
                f"{hidden} pixels of the fluence map of {label(first)} lie under the {axis} jaws, "
                "which are not computed here; open them, or cut the map."
            )
