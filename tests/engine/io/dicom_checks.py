"""Written files against the standard, by programs that know it; shared by the tests of engine/io.

``dciodvfy`` (David Clunie's dicom3tools) holds a file against its IOD. ``dicom-validator`` reads
the standard itself, whose docbook files are too large to ship: PTENV_DICOM_STANDARD names a folder
of them, as its own ``--standard-path`` takes it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pydicom
import pytest

STANDARD = "PTENV_DICOM_STANDARD"
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


def assert_follows_docbook(paths: Iterable[Path]) -> None:
    """The same by dicom-validator; skips where it or a copy of the standard is missing."""
    folder = os.environ.get(STANDARD)
    if shutil.which("validate_iods") is None or not folder:
        pytest.skip(f"needs dicom-validator, and {STANDARD}: a folder with the standard's docbook")
    for path in paths:
        done = subprocess.run(
            ["validate_iods", "--standard-path", folder, str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


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
