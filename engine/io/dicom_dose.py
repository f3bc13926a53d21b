"""Doses as DICOM files, in and out: an RT Dose is a volume of whole numbers and a step in Gy.

A dose is of the whole course: of a plan, or of one of its beams (PS3.3 C.8.8.3). Doses weighted
with a biological effect are marked ``EFFECTIVE``; what they are weighted with stands in the dose
comment of our own files, and is not looked for in others', where a comment may be anything.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import RTDoseStorage

from engine.io.dicom_dataset import (
    DicomError,
    has,
    items,
    label,
    number,
    numbers,
    pixel_frames,
    read_dataset,
    text,
    whole,
)
from engine.io.dicom_image import axial_volume
from engine.io.dicom_study import MAKER, Study, decimal, decimals, save
from engine.patient.grid import Grid

LEVELS = 2**32 - 2  # one less than there are: the step, a decimal string, may be rounded down
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OFFSET_WITHIN_MM = 0.01
MOST_GY = 1e6


@dataclass(frozen=True, eq=False)
class DicomDose:
    """A dose of the whole course in Gy, (nz, ny, nx) float32.

    ``summation`` is what it is of: "PLAN", "BEAM" with its ``beam_numbers``, or another of the
    standard's words. ``step_gy`` is the step of the file's numbers; ``weighted_by`` what our own
    files say of an effective dose, else "".
    """

    grid: Grid
    dose_gy: np.ndarray
    is_effective: bool
    summation: str
    beam_numbers: tuple[int, ...]
    plan_uid: str
    frame_uid: str
    step_gy: float
    weighted_by: str


def read_dose(path: str | Path) -> DicomDose:
    """A dose in Gy on axial planes; ``DicomError`` of relative doses, error maps, odd planes."""
    dataset = read_dataset(path)
    _refuse_other_kinds(dataset)
    step_gy = number(dataset, "DoseGridScaling")
    if not step_gy > 0.0:
        raise DicomError(
            f"DoseGridScaling of {label(dataset)} is {step_gy:g}, which gives no dose; it must be "
            "positive."
        )
    grid, stored = _volume(dataset)
    if stored.dtype.kind == "i" and stored.min() < 0:
        raise DicomError(
            f"{label(dataset)} falls to {stored.min() * step_gy:g} Gy; a dose is 0 or more."
        )
    if float(stored.max()) * step_gy > MOST_GY:
        raise DicomError(
            f"{label(dataset)} reaches {float(stored.max()) * step_gy:g} Gy; a dose of at most "
            f"{MOST_GY:g} Gy is read."
        )
    plan, beams = _reference(dataset)
    return DicomDose(
        grid=grid,
        dose_gy=_scaled(stored, step_gy),
        is_effective=text(dataset, "DoseType") == "EFFECTIVE",
        summation=text(dataset, "DoseSummationType"),
        beam_numbers=beams,
        plan_uid=plan,
        frame_uid=text(dataset, "FrameOfReferenceUID", ""),
        step_gy=step_gy,
        weighted_by=_weighted_by(dataset),
    )


def write_dose(
    grid: Grid,
    dose_gy: np.ndarray,
    study: Study,
    plan: Dataset,
    path: Path,
    beam_number: int | None = None,
    weighted_by: str = "",
) -> Path:
    """Write a dose of the course (nz, ny, nx) in Gy, of a plan or one of its beams.

    ``plan`` is the reference that ``write_plan`` gave. ``weighted_by`` says in at most 64
    characters by what the dose is RBE-weighted; "" for a physical dose. What is read again lies
    within half a step, the largest dose / (2³² − 2), and float32's rounding.
    """
    if not (np.all(np.isfinite(dose_gy)) and dose_gy.min() >= 0.0):
        raise ValueError("dose_gy holds negative, NaN or infinite values; it cannot be written.")
    step_gy = decimal(float(dose_gy.max()) / LEVELS or 1.0)
    stored = np.rint(dose_gy.astype(np.float64) / float(step_gy)).clip(0, 2**32 - 1).astype("<u4")
    content = _digest(grid, stored, f"{step_gy} {weighted_by}")
    uid = study.uid("dose", plan.ReferencedSOPInstanceUID, beam_number, content)
    made = study.dataset(RTDoseStorage, "RTDOSE", uid, plan.ReferencedSOPInstanceUID)
    made.InstanceNumber = 1 if beam_number is None else 1 + beam_number
    _describe_planes(made, grid)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 32
    made.HighBit, made.PixelRepresentation = 31, 0
    made.DoseUnits, made.DoseType = "GY", "EFFECTIVE" if weighted_by else "PHYSICAL"
    if weighted_by:
        made.DoseComment = weighted_by
    made.DoseSummationType = "PLAN" if beam_number is None else "BEAM"
    made.TissueHeterogeneityCorrection = "IMAGE"
    made.DoseGridScaling = step_gy
    made.ReferencedRTPlanSequence = [_with_beam(plan, beam_number)]
    made.PixelData = stored.tobytes()
    made["PixelData"].VR = "OW"
    return save(made, path)


def _volume(dataset: Dataset) -> tuple[Grid, np.ndarray]:
    """The stored numbers (nz, ny, nx) on their grid, which is freed of the rounding of sums: by it
    a voxel that is half in the body would fall out."""
    frames = pixel_frames(dataset)
    places = (
        _positions_mm(dataset, len(frames)), numbers(dataset, "ImageOrientationPatient", 6),
        numbers(dataset, "PixelSpacing", 2), number(dataset, "SliceThickness", None),
    )  # fmt: skip
    try:
        grid, stored = axial_volume(frames, *places)
    except DicomError as error:
        raise DicomError(f"planes of {label(dataset)}: {error}") from None
    origin, spacing = np.round(grid.origin_mm, 9), np.round(grid.spacing_mm, 9)
    return Grid(grid.shape, spacing, origin), stored


def _refuse_other_kinds(dataset: Dataset) -> None:
    if text(dataset, "SOPClassUID") != RTDoseStorage:
        raise DicomError(f"{label(dataset)} is no RT Dose; give one.")
    if text(dataset, "DoseUnits") != "GY":
        raise DicomError(
            f"DoseUnits of {label(dataset)} is {text(dataset, 'DoseUnits')!r}; a dose in GY is "
            "needed, export it as an absolute dose."
        )
    if text(dataset, "DoseType") not in ("PHYSICAL", "EFFECTIVE"):
        raise DicomError(
            f"DoseType of {label(dataset)} is {text(dataset, 'DoseType')!r}; PHYSICAL and "
            "EFFECTIVE are read."
        )


def _positions_mm(dataset: Dataset, n_frames: int) -> np.ndarray:
    """The first pixel of every plane (n, 3); PS3.3 C.8.8.3.2, both ways to tell it."""
    first = numbers(dataset, "ImagePositionPatient", 3)
    orientation = numbers(dataset, "ImageOrientationPatient", 6)
    normal = np.cross(orientation[:3], orientation[3:])
    if n_frames == 1 and not has(dataset, "GridFrameOffsetVector"):
        return first[None]
    offsets = numbers(dataset, "GridFrameOffsetVector", n_frames)
    if offsets[0] == 0.0:
        return first + offsets[:, None] * normal
    if abs(offsets[0] - first[2]) <= OFFSET_WITHIN_MM and np.allclose(orientation, AXIAL):
        return first + (offsets - offsets[0])[:, None] * normal
    raise DicomError(
        f"GridFrameOffsetVector of {label(dataset)} begins with {offsets[0]:g}: it must be 0, or "
        "the z of the first plane of an upright image; export the dose again."
    )


def _scaled(stored: np.ndarray, step_gy: float) -> np.ndarray:
    """Gy as float32, plane by plane: a product in 64 bits of the whole would be twice as large."""
    dose = np.empty(stored.shape, np.float32)
    for k, plane in enumerate(stored):
        dose[k] = plane * step_gy
    return dose


def _reference(dataset: Dataset) -> tuple[str, tuple[int, ...]]:
    """The plan that the dose is of, "" where it names none, and the beams, () for all."""
    plans = items(dataset, "ReferencedRTPlanSequence")
    if len(plans) != 1:
        return "", ()
    groups = items(plans[0], "ReferencedFractionGroupSequence")
    beams = [beam for group in groups for beam in items(group, "ReferencedBeamSequence")]
    return (
        text(plans[0], "ReferencedSOPInstanceUID"),
        tuple(whole(beam, "ReferencedBeamNumber") for beam in beams),
    )


def _weighted_by(dataset: Dataset) -> str:
    is_ours = text(dataset, "Manufacturer", "") == MAKER
    return text(dataset, "DoseComment", "") if is_ours else ""


def _describe_planes(made: Dataset, grid: Grid) -> None:
    z, y, x = grid.origin_mm
    dz, dy, dx = grid.spacing_mm
    made.NumberOfFrames, made.Rows, made.Columns = grid.shape
    made.PixelSpacing, made.SliceThickness = decimals([dy, dx]), decimal(dz)
    made.ImagePositionPatient = decimals([x, y, z])
    made.ImageOrientationPatient = decimals(AXIAL)
    made.GridFrameOffsetVector = decimals(dz * np.arange(grid.shape[0]))
    made.FrameIncrementPointer = tag_for_keyword("GridFrameOffsetVector")


def _with_beam(plan: Dataset, beam_number: int | None) -> Dataset:
    """The reference to a plan, narrowed down to one beam where there is one."""
    item = Dataset()
    item.update(plan)
    if beam_number is not None:
        beam, group = Dataset(), Dataset()
        beam.ReferencedBeamNumber = beam_number
        group.ReferencedFractionGroupNumber = 1
        group.ReferencedBeamSequence = [beam]
        item.ReferencedFractionGroupSequence = [group]
    return item


def _digest(grid: Grid, stored: np.ndarray, about: str) -> str:
    digest = sha256(f"{grid} {about}".encode())
    digest.update(stored.tobytes())
    return digest.hexdigest()
