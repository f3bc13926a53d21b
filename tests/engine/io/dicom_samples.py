"""Small patients and files to read, shared by the tests of the DICOM readers."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from engine.io.dicom_ct import write_ct
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_structures_writing import write_structures
from engine.io.dicom_study import Study, referenced, save
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure

SPACING_MM = (3.0, 2.0, 1.5)
ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def small_patient() -> Patient:
    """Noise as CT, a rim of air around it, a target with a hole, and an organ in two pieces."""
    generator = np.random.default_rng(0)
    shape = nz, ny, nx = 6, 10, 12
    grid = Grid(shape, SPACING_MM, (-20.0, 7.5, -4.25))
    body = np.zeros(shape, bool)
    body[:, 1 : ny - 1, 1 : nx - 1] = True
    hu = np.where(body, generator.integers(-50, 90, shape), -1000).astype(np.float32)
    target = np.zeros(shape, bool)
    target[1 : nz - 1, 2:7, 3:9] = True
    target[2, 4, 5] = False
    cord = np.zeros(shape, bool)
    cord[:, 8, 3:5] = True
    cord[0:2, 2, 10] = True
    structures = [
        Structure("External", body, "external"),
        Structure("PTV_7000", target, "target"),
        Structure("SpinalCord", cord, "organ"),
    ]
    return Patient(
        "small", grid, hu, {s.name: s for s in structures}, {"PTV_7000": 70.0}, 35, "test:small"
    )


def written(patient: Patient, folder: Path) -> Path:
    """CT and structures of a patient in a folder."""
    study = Study.of(patient)
    write_ct(patient, study, folder)
    write_structures(patient, study, folder)
    return folder


def edited(path: Path, change, to: Path | None = None) -> Path:
    """A file after ``change(dataset)``, in place or elsewhere."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(to or path)
    return to or path


def with_bytes(path: Path, keyword: str, value: bytes, to: Path | None = None) -> Path:
    """A file (implicit little endian) with other bytes in one element, however wrong."""

    def change(dataset):
        tag = Tag(keyword)
        dataset[tag] = RawDataElement(tag, "UN", len(value), value, 0, True, True)

    return edited(path, change, to)


def refused(call, *named: str, error: type[Exception] = DicomError) -> str:
    """The message of what a call raises, which holds every part named."""
    with pytest.raises(error) as caught:
        call()
    for part in named:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


def plan_file(path: Path, study: Study, uid="1.2.3.4", structures_uid=None, **content) -> Path:
    """An RT Ion Plan of a study's structures, with attributes of one's own."""
    made = study.dataset(ION_PLAN, "RTPLAN", uid)
    drawn = referenced("1.2.3", structures_uid or study.structures_uid)
    made.ReferencedStructureSetSequence = [drawn]
    for keyword, value in content.items():
        setattr(made, keyword, value)
    return save(made, path)


def drawn_on_another_series(dataset: Dataset, uid: str = "1.2.3.77") -> None:
    """Let a structure set refer to a series that is nowhere, in the same frame of reference."""
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.SeriesInstanceUID = uid


def roi(name: str, contours, number: int = 1, kind: str = "ORGAN") -> dict:
    """A structure for ``structure_file``; contours are (z, polygon) or (z, polygon, type)."""
    return dict(name=name, contours=contours, number=number, kind=kind)


def structure_file(path: Path, rois, study: Study, frame_uid: str | None = None) -> Path:
    """An RTSTRUCT of given contours, point by point as other programs write them."""
    frame_uid = frame_uid or study.frame_uid
    made = study.dataset("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", study.structures_uid)
    series = Dataset()
    series.SeriesInstanceUID = study.ct_series_uid
    drawn_on = referenced("1.2.840.10008.3.1.2.3.1", study.study_uid)
    drawn_on.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = frame_uid, [drawn_on]
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    made.RTROIObservationsSequence = []
    for given in rois:
        declared, drawn, observed = Dataset(), Dataset(), Dataset()
        declared.ROINumber, declared.ROIName = given["number"], given["name"]
        declared.ReferencedFrameOfReferenceUID = frame_uid
        drawn.ReferencedROINumber = observed.ReferencedROINumber = given["number"]
        observed.RTROIInterpretedType = given["kind"]
        drawn.ContourSequence = [_contour(*contour) for contour in given["contours"]]
        made.StructureSetROISequence.append(declared)
        made.ROIContourSequence.append(drawn)
        made.RTROIObservationsSequence.append(observed)
    return save(made, path)


def _contour(z_mm, polygon, kind="CLOSED_PLANAR") -> Dataset:
    item = Dataset()
    item.ContourGeometricType, item.NumberOfContourPoints = kind, len(polygon)
    z_mm = np.broadcast_to(z_mm, len(polygon))
    item.ContourData = [f"{value:.4f}" for value in np.column_stack([polygon, z_mm]).ravel()]
    return item


def square(center, half) -> np.ndarray:
    """A square (4, 2) around (x, y)."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    return np.array(center) + half * corners
