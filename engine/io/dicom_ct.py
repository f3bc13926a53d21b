"""CT series: files of single axial slices, in any order, to CT numbers on a grid, and back.

Source: DICOM PS3.3, A.3 (CT image), C.8.2.1 (its module), C.7.6.2 (image plane).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from engine.io.dicom_dataset import (
    DicomError,
    has,
    label,
    number,
    numbers,
    pixel_frames,
    read_dataset,
    read_header,
    required,
    text,
    whole,
)
from engine.io.dicom_image import AxialStack, axial_stack
from engine.io.dicom_study import Study, decimal, decimals, save
from engine.patient.ct import MAX_HU, MIN_HU
from engine.patient.grid import Grid
from engine.patient.patient import Patient

HU_TYPES = ("HU", "HU_MOD", "US", "")  # of the rescaled values; unspecified are taken for HU
SPACING_WITHIN_MM = 1e-3
COSINE_WITHIN = 1e-4
THIN = 1.9  # distance of slices over their thickness from which some may be missing


@dataclass(frozen=True, eq=False)
class Ct:
    """CT numbers (nz, ny, nx) float32 on their grid, and what other files call them by."""

    grid: Grid
    hu: np.ndarray
    frame_uid: str  # the frame of reference
    notes: tuple[str, ...] = ()  # what was left out or is doubtful


def read_ct(paths: Sequence[str | Path]) -> Ct:
    """The CT of a series' files, sorted by position, in HU within −1000 … 3000.

    Every slice has its own slope and intercept; padding is air. Localizers are left out with a
    note, and slices far apart for their thickness are noted. Refused with what was found: slices
    of more than one series, frame of reference, size, spacing or orientation; values that are not
    CT numbers; enhanced (multi-frame) CT; and all that ``axial_stack`` refuses.
    """
    headers = [read_header(path) for path in paths]
    slices = [header for header in headers if not is_localizer(header)]
    if not slices:
        raise DicomError(f"{len(headers)} CT files hold no axial slice; choose another series.")
    for header in slices:
        _refuse_what_is_no_slice(header)
    _refuse_mixed(slices)
    stack = _stack(slices)
    hu = stack.volume((_hu(read_dataset(header.filename)) for header in slices), np.float32)
    n_left = len(headers) - len(slices)
    notes = [f"{n_left} localizer image{'s' * (n_left > 1)} left out"] if n_left else []
    notes += _about_thin_slices(slices[0], stack.grid.spacing_mm[0])
    return Ct(stack.grid, hu, text(slices[0], "FrameOfReferenceUID"), tuple(notes))


def position_on(paths: Sequence[str | Path]) -> str:
    """How the patient lies on a series, such as HFS; "" where its first file does not tell."""
    return text(read_header(paths[0], ("PatientPosition",)), "PatientPosition", "")


def write_ct(patient: Patient, study: Study, folder: str | Path) -> list[Path]:
    """One file a slice from feet to head, CT numbers rounded to whole HU; their paths."""
    stored = np.rint(np.clip(patient.hu, MIN_HU, MAX_HU)).astype("<i2")
    paths = []
    for index, z_mm in enumerate(patient.grid.axes_mm()[0]):
        slice_ = study.dataset(CTImageStorage, "CT", study.ct_uid(index))
        _describe_image(slice_, patient.grid, float(z_mm), index)
        slice_.PixelData = stored[index].tobytes()
        paths.append(save(slice_, Path(folder) / f"CT_{index + 1:04d}.dcm"))
    return paths


def is_localizer(header: Dataset) -> bool:
    """Whether an image is a scout view: the third value of ImageType (PS3.3 C.8.2.1.1.1)."""
    kind = text(header, "ImageType", "").upper().split("\\")
    return "LOCALIZER" in kind[2:]


def _refuse_what_is_no_slice(header: Dataset) -> None:
    sop_class = text(header, "SOPClassUID", CTImageStorage)
    if sop_class == EnhancedCTImageStorage:
        raise DicomError(
            f"{label(header)} is enhanced (multi-frame) CT, which is not read; export single "
            "slices (CT Image Storage)."
        )
    if text(header, "Modality") != "CT":
        raise DicomError(
            f"{label(header)} is of modality {text(header, 'Modality')}; a CT slice is needed."
        )
    if text(header, "PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        raise DicomError(
            f"PhotometricInterpretation of {label(header)} is "
            f"{text(header, 'PhotometricInterpretation')}; CT is MONOCHROME2."
        )
    kind = text(header, "RescaleType", "")
    if kind not in HU_TYPES:
        raise DicomError(
            f"RescaleType of {label(header)} is {kind}; CT numbers (HU) are needed."
        )


def _refuse_mixed(slices: Sequence[Dataset]) -> None:
    """What all slices of a volume must share."""
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID"):
        found = {text(header, keyword) for header in slices}
        if len(found) > 1:
            raise DicomError(
                f"{len(slices)} CT files have {len(found)} different {keyword}; give the files of "
                "one series."
            )
    for keyword, n, within in (
        ("Rows", 1, 0.0),
        ("Columns", 1, 0.0),
        ("PixelSpacing", 2, SPACING_WITHIN_MM),
        ("ImageOrientationPatient", 6, COSINE_WITHIN),
    ):
        found = np.array([numbers(header, keyword, n) for header in slices])
        off = np.flatnonzero(np.abs(found - found[0]).max(axis=1) > within)
        if len(off):
            raise DicomError(
                f"{keyword} differs within the series: {found[0].tolist()} in {label(slices[0])}, "
                f"{found[off[0]].tolist()} in {label(slices[off[0]])}; {len(off)} of "
                f"{len(slices)} files are unlike the first. Leave those of one scan."
            )


def _stack(slices: Sequence[Dataset]) -> AxialStack:
    first = slices[0]
    return axial_stack(
        (whole(first, "Rows"), whole(first, "Columns")),
        np.array([numbers(header, "ImagePositionPatient", 3) for header in slices]),
        numbers(first, "ImageOrientationPatient", 6),
        numbers(first, "PixelSpacing", 2),
        number(first, "SliceThickness", None),
    )


def _about_thin_slices(first: Dataset, dz_mm: float) -> list[str]:
    """Of slices far apart for their thickness: every other one that is missing leaves no gap."""
    thickness_mm = number(first, "SliceThickness", None)
    if not thickness_mm or dz_mm < THIN * abs(thickness_mm):
        return []
    return [f"slices of {thickness_mm:g} mm lie {dz_mm:g} mm apart, some between may be missing"]


def _hu(slice_: Dataset) -> np.ndarray:
    """CT numbers (rows, columns) float32 of one slice."""
    frames = pixel_frames(slice_)
    if len(frames) != 1:
        raise DicomError(f"{label(slice_)} has {len(frames)} frames; a CT slice has one.")
    slope, intercept = number(slice_, "RescaleSlope"), number(slice_, "RescaleIntercept")
    if slope == 0:
        raise DicomError(f"RescaleSlope of {label(slice_)} is 0; export the series again.")
    hu = np.clip(frames[0] * slope + intercept, MIN_HU, MAX_HU).astype(np.float32)
    if has(slice_, "PixelPaddingValue"):
        hu[_is_padding(slice_, frames[0])] = MIN_HU
    return hu


def _is_padding(slice_: Dataset, stored: np.ndarray) -> np.ndarray:
    """Pixels beyond the scanned field (PS3.3 C.7.5.1.1.2): one value, or a range of them."""
    ends = [required(slice_, "PixelPaddingValue")]
    ends.append(
        required(slice_, "PixelPaddingRangeLimit")
        if has(slice_, "PixelPaddingRangeLimit")
        else ends[0]
    )
    if not all(isinstance(end, int) for end in ends):
        raise DicomError(f"PixelPaddingValue of {label(slice_)} is no number; export it again.")
    return (stored >= min(ends)) & (stored <= max(ends))


def _describe_image(slice_: Dataset, grid: Grid, z_mm: float, index: int) -> None:
    """General image, image plane, image pixel and CT image modules."""
    dz_mm, dy_mm, dx_mm = grid.spacing_mm
    _, y_mm, x_mm = grid.origin_mm
    slice_.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    slice_.PatientPosition = "HFS"
    slice_.AcquisitionNumber, slice_.InstanceNumber, slice_.Laterality = "", index + 1, ""
    slice_.KVP = ""
    slice_.ImagePositionPatient = decimals((x_mm, y_mm, z_mm))
    slice_.ImageOrientationPatient = decimals((1, 0, 0, 0, 1, 0))
    slice_.PixelSpacing = decimals((dy_mm, dx_mm))
    slice_.SliceThickness = decimal(dz_mm)
    slice_.Rows, slice_.Columns = grid.shape[1:]
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
    slice_.PixelRepresentation = 1
    slice_.RescaleIntercept, slice_.RescaleSlope, slice_.RescaleType = "0", "1", "HU"
