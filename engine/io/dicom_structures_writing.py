"""RT structure sets: a patient's masks to contours along the voxels' edges.

Source: DICOM PS3.3, A.19 (RT structure set), C.8.8.5 (structure set), C.8.8.6 (ROI contour) and
C.8.8.8 (RT ROI observations).
"""

from pathlib import Path

import numpy as np
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import RTStructureSetStorage

from engine.io.dicom_contours import outlines
from engine.io.dicom_structures import ROLES
from engine.io.dicom_study import Study, line, referenced, roi_numbers, save
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Role, Structure

TYPES: dict[Role, str] = {
    "external": "EXTERNAL", "target": "PTV", "organ": "ORGAN", "support": "SUPPORT",
}  # fmt: skip
COLORS = {"external": (128, 160, 128), "target": (220, 40, 40), "support": (130, 130, 130)}
ORGAN_COLORS = ((50, 110, 220), (240, 170, 30), (60, 180, 90), (160, 80, 200), (30, 180, 190))
_CONTOUR_DATA = Tag(0x3006, 0x0050)


def write_structures(patient: Patient, study: Study, folder: str | Path) -> Path:
    """One RTSTRUCT of all structures on the CT that ``write_ct`` writes: voxels' outlines."""
    made = study.dataset(RTStructureSetStorage, "RTSTRUCT", study.structures_uid)
    made.StructureSetLabel = "ptenv"
    made.StructureSetDate = made.StructureSetTime = ""
    made.ApprovalStatus = "UNAPPROVED"
    slices = study.ct_references(patient.grid.shape[0])
    made.ReferencedFrameOfReferenceSequence = [_referenced_frame(study, slices)]
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    made.RTROIObservationsSequence = []
    for name, roi_number in roi_numbers(patient).items():
        structure = patient.structures[name]
        made.StructureSetROISequence.append(_declared(roi_number, name, study))
        made.ROIContourSequence.append(_contoured(roi_number, structure, patient.grid, slices))
        made.RTROIObservationsSequence.append(_observed(roi_number, structure))
    return save(made, Path(folder) / "RTSTRUCT.dcm")


def _referenced_frame(study: Study, slices: list[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = study.ct_series_uid
    series.ContourImageSequence = slices
    of_study = referenced("1.2.840.10008.3.1.2.3.1", study.study_uid)  # detached study management
    of_study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = study.frame_uid
    frame.RTReferencedStudySequence = [of_study]
    return frame


def _declared(roi_number: int, name: str, study: Study) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName = roi_number, _roi_name(name, roi_number)
    item.ReferencedFrameOfReferenceUID = study.frame_uid
    item.ROIGenerationAlgorithm = ""
    return item


def _roi_name(name: str, roi_number: int) -> str:
    """The name where it fits; else what does, which the number tells from another's."""
    if line(name) == name:
        return name
    mark = f"~{roi_number}"
    return line(name, 64 - len(mark)) + mark


def _contoured(roi_number: int, structure: Structure, grid: Grid, slices: list[Dataset]) -> Dataset:
    item = Dataset()
    color = COLORS.get(structure.role, ORGAN_COLORS[roi_number % len(ORGAN_COLORS)])
    item.ReferencedROINumber, item.ROIDisplayColor = roi_number, list(color)
    contours = [
        _contour(polygon, float(z_mm), slice_)
        for plane, z_mm, slice_ in zip(structure.mask, grid.axes_mm()[0], slices)
        for polygon in outlines(plane, grid)
    ]
    if contours:  # a sequence that is optional may not be there without items (PS3.3 C.8.8.6)
        item.ContourSequence = contours
    return item


def _contour(polygon: np.ndarray, z_mm: float, slice_: Dataset) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = [slice_]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(polygon)
    points = np.column_stack([polygon, np.full(len(polygon), z_mm)])
    data = "\\".join(f"{value:.5f}".rstrip("0").rstrip(".") for value in points.ravel()).encode()
    data += b" " * (len(data) % 2)
    # As bytes that were read, which are written as they are: a decimal string object for each of
    # a million coordinates would take long.
    contour[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(data), data, 0, True, True)
    contour.set_original_encoding(True, True, default_encoding)
    return contour


def _observed(roi_number: int, structure: Structure) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = roi_number
    item.RTROIInterpretedType, item.ROIInterpreter = _type(structure), ""
    if structure.material is not None:
        item.MaterialID = line(structure.material, 16)
    return item


def _type(structure: Structure) -> str:
    """RT ROI Interpreted Type; which of the targets it is stands in a target's name (TG-263)."""
    named = structure.name[:3].upper()
    return named if structure.role == "target" == ROLES.get(named) else TYPES[structure.role]
