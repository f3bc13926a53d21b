"""What all DICOM files of one patient share: identifiers, a pseudonym, and the modules about them.

Every identifier follows from content alone, so that the same image gives the same study wherever
and whenever it is written, and files that were written one by one fit together. UIDs are UUIDs of
kind 5 under 2.25 (PS3.5 B.2). No file holds a name, a date or an identifier of a person: the
patient is called after a digest of the image, and the tags that the standard wants in any case stay
empty (PS3.3 C.7.1.1, C.7.2.1).
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ImplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import DSfloat

from engine.patient.patient import Patient

MAKER = "ptenv"
FORM = "ptenv:1"  # of the files; another number is another set of UIDs
SERIES_NUMBERS = {"CT": 1, "RTSTRUCT": 2, "RTPLAN": 3, "RTDOSE": 4}
DIGITS = 12  # of a digest, where it stands in a name
ORIGIN_WITHIN_MM = 1e-4  # finer differences of a grid are rounding


@dataclass(frozen=True)
class Study:
    """The identity of a patient's files, from the digests of image and structures."""

    image: str
    structures: str

    @classmethod
    def of(cls, patient: Patient) -> "Study":
        """Of the CT as a file holds it, in whole HU, and of the structures' masks in their order,
        which numbers them."""
        image, structures = sha256(), sha256()
        geometry = (*patient.grid.spacing_mm, *patient.grid.origin_mm)
        image.update(np.rint(np.array(geometry) / ORIGIN_WITHIN_MM).astype("<i8").tobytes())
        image.update(np.array(patient.grid.shape, "<i8").tobytes())
        image.update(np.rint(patient.hu).astype("<i2").tobytes())
        structures.update(image.digest())
        for name, structure in patient.structures.items():
            structures.update(f"\0{name}\0{structure.role}\0{structure.material}\0".encode())
            structures.update(np.packbits(structure.mask).tobytes())
        return cls(image.hexdigest(), structures.hexdigest())

    @property
    def pseudonym(self) -> str:
        return self.image[:DIGITS]

    @property
    def study_uid(self) -> UID:
        return self.uid("study")

    @property
    def frame_uid(self) -> UID:
        """The frame of reference of everything in the study."""
        return self.uid("frame of reference")

    @property
    def ct_series_uid(self) -> UID:
        return self.series_uid("CT")

    @property
    def structures_uid(self) -> UID:
        """The SOP instance that holds the structures."""
        return self.uid("structures", self.structures)

    def ct_uid(self, index: int) -> UID:
        """The SOP instance of one slice, counted from 0 along z."""
        return self.uid("CT", index)

    def series_uid(self, modality: str, of: str = "") -> UID:
        """One series a modality, or one for every ``of``."""
        return self.uid("series", modality, of)

    def uid(self, *parts: object) -> UID:
        """The UID of whatever the parts name within this study."""
        named = "\0".join([FORM, self.image, *map(str, parts)])
        return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, named).int}")

    def dataset(self, sop_class: str, modality: str, uid: UID, of: str = "") -> Dataset:
        """A file's beginning: patient, study, series, frame of reference, equipment, SOP common.

        ``uid`` is the SOP instance's; ``of`` tells series of one modality apart.
        """
        made = Dataset()
        made.SpecificCharacterSet = "ISO_IR 192"
        made.SOPClassUID, made.SOPInstanceUID = sop_class, uid
        _about_nobody(made, self.pseudonym)
        made.StudyInstanceUID, made.StudyID = self.study_uid, ""
        made.Modality = modality
        made.SeriesInstanceUID = self.series_uid(modality, of)
        made.SeriesNumber = SERIES_NUMBERS[modality]
        made.FrameOfReferenceUID, made.PositionReferenceIndicator = self.frame_uid, ""
        made.Manufacturer = made.ManufacturerModelName = MAKER
        made.SoftwareVersions = _version()
        return made

    def ct_references(self, n_slices: int) -> list[Dataset]:
        """A reference to every slice, for contour image and referenced image sequences."""
        return [referenced(CTImageStorage, self.ct_uid(i)) for i in range(n_slices)]

    def structures_reference(self) -> Dataset:
        return referenced(RTStructureSetStorage, self.structures_uid)


def _about_nobody(made: Dataset, pseudonym: str) -> None:
    """The patient and study modules, with nothing of a person."""
    made.PatientName, made.PatientID = f"ptenv^{pseudonym}", f"ptenv-{pseudonym}"
    made.PatientBirthDate = made.PatientSex = ""
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = "Written anew; no attribute of a person is carried over"
    made.StudyDate = made.StudyTime = made.AccessionNumber = made.ReferringPhysicianName = ""
    made.OperatorsName = ""


def roi_numbers(patient: Patient) -> dict[str, int]:
    """Number of every structure in the files, from 1 on in the patient's order, by name."""
    return {name: number for number, name in enumerate(patient.structures, start=1)}


def referenced(sop_class: str, uid: str) -> Dataset:
    """An item that refers to another SOP instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


def line(words: str, at_most: int = 64) -> str:
    """A text as LO takes it, or SH with 16 characters: a backslash would part it in two values,
    and control characters are none of its own (PS3.5 6.2)."""
    return re.sub(r"[\\\x00-\x1f\x7f]", "_", words)[:at_most]


def decimal(value: float) -> DSfloat:
    """A number as a decimal string, which has 16 characters at most (PS3.5 6.2)."""
    return DSfloat(float(value), auto_format=True)


def decimals(values: Sequence[float] | np.ndarray) -> list[DSfloat]:
    return [decimal(value) for value in np.ravel(values)]


def save(dataset: Dataset, path: Path) -> Path:
    """Write a file; its folder is made where it is missing.

    Implicit little endian, the standard's default: contours, spots and fluences may be longer than
    the 64 KB that a value of explicit VR can have (PS3.5 7.1.2).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    file = FileDataset(str(path), dataset, preamble=b"\0" * 128, file_meta=meta)
    file.save_as(path, enforce_file_format=True)
    return path


def _version() -> str:
    try:
        return version("ptenv")
    except PackageNotFoundError:
        return ""
