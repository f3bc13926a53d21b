"""Written files against the standard, by programs that know it; shared by the tests of engine/io.

``dciodvfy`` (David Clunie's dicom3tools) holds a file against its IOD. ``dicom-validator`` does so
by the standard's own tables: those of 2020 that ``standard_docbook`` makes from a package, or those
in the folder that PTENV_DICOM_STANDARD names, where ``validate_iods --standard-path`` left them.
Each finds what the other does not ask for.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pydicom
import pytest
import standard_docbook
from pydicom.uid import (
    CTImageStorage,
    RTDoseStorage,
    RTIonPlanStorage,
    RTPlanStorage,
    RTStructureSetStorage,
)

STANDARD = "PTENV_DICOM_STANDARD"
WRITTEN = (
    CTImageStorage, RTStructureSetStorage, RTPlanStorage, RTIonPlanStorage, RTDoseStorage,
)  # fmt: skip
# dciodvfy of 2022 wants this type of MODULATED beams; by PS3.3 C.8.8.25 it is of MODULATED_SPEC
# alone, and may not be there otherwise
MISTAKEN = "Error - Missing attribute Type 1C Conditional Element=<ModulatedScanModeType>"


def assert_valid(paths: Iterable[Path], scratch: Path) -> None:
    """No error in any of the files; skips where dciodvfy is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian's package dicom3tools)")
    paths = list(paths)
    assert paths
    found = {path.name: errors(path, scratch) for path in paths}
    assert {name: said for name, said in found.items() if said} == {}


def errors(path: Path, scratch: Path) -> list[str]:
    """What dciodvfy calls an error, and whatever it died of.

    It stops at pixels of 32 bits (so it does at pydicom's rtdose.dcm); of such a dose it is given
    a copy with pixels of 16.
    """
    done = subprocess.run(
        ["dciodvfy", str(_with_short_pixels(path, scratch))], capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    died = [f"exit code {done.returncode}"] if done.returncode < 0 else []
    said = [line for line in lines if line.startswith("Error") and not line.startswith(MISTAKEN)]
    return said + died


def assert_follows_docbook(paths: Iterable[Path], config: pytest.Config) -> None:
    """The same by dicom-validator; skips where it or the standard's tables are not installed."""
    paths = list(paths)
    assert paths
    info = standard(config)
    found = {path.name: departures(pydicom.dcmread(path), info) for path in paths}
    assert {name: said for name, said in found.items() if said} == {}


def departures(dataset: pydicom.Dataset, info) -> list[str]:
    """What dicom-validator finds: module, tags from the outermost sequence on, kind of error."""
    from dicom_validator.validator.error_handler import NullValidationResultHandler
    from dicom_validator.validator.iod_validator import IODValidator
    from dicom_validator.validator.validation_result import Status

    handler = NullValidationResultHandler()
    result = IODValidator(dataset, info, error_handler=handler).validate()
    if result.status not in (Status.Passed, Status.Failed):
        return [result.status.name]
    return [
        f"{module}: {tag} {error.code.name}"
        for module, found in result.module_errors.items()
        for tag, error in found.items()
    ]


@cache
def standard(config: pytest.Config):
    """The IODs that we write as dicom-validator's ``DicomInfo``.

    It takes ten seconds to make of our tables, and is kept in pytest's cache.
    """
    pytest.importorskip("dicom_validator", reason="dicom-validator is not installed (extra dev)")
    from dicom_validator.spec_reader.edition_reader import EditionReader
    from dicom_validator.validator.dicom_info import DicomInfo

    if folder := os.environ.get(STANDARD):
        return EditionReader(folder).dicom_info_for_edition("local")
    pytest.importorskip("dicom_standard", reason="dicom-standard is not installed (extra dev)")
    ours = sha256(Path(standard_docbook.__file__).read_bytes()).hexdigest()[:12]
    key = f"dicom_standard/{version('dicom-validator')}_{ours}"
    if (kept := config.cache.get(key, None)) is None:
        with TemporaryDirectory() as folder:
            standard_docbook.write_docbook(Path(folder), WRITTEN)
            kept = asdict(EditionReader(folder).dicom_info_for_edition("local"))
        config.cache.set(key, kept)
    return DicomInfo(**kept)


def _with_short_pixels(path: Path, scratch: Path) -> Path:
    dataset = pydicom.dcmread(path)
    if dataset.get("BitsAllocated") != 32:
        return path
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
    copy = scratch / f"short_{path.name}"
    dataset.save_as(copy)
    return copy
