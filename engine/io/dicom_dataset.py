"""DICOM files read with care: every way in which one can be wrong ends in a ``DicomError``.

An error names the file by its last part, with whatever of it is the patient's name or ID struck
out, the tag, and of numbers and codes the value; text that may be a person's is never shown, and
neither are pydicom's own messages, which may quote it.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, AllTransferSyntaxes, DeflatedExplicitVRLittleEndian

MAX_VOXELS = 2**30
MAX_COMPRESSION = 1000  # a blank slice of JPEG 2000 comes near; small data may claim a little more
FREE_BYTES = 2**22
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # of files that lack the preamble
_UNDEFINED_LENGTH = 0xFFFFFFFF
_CONTROL = frozenset(map(chr, range(32))) - set("\t\n\f\r\x1b")
_REQUIRED = object()


class DicomError(ValueError):
    """A DICOM file, or a set of them, that cannot be read; the message says why."""


def is_dicom(path: str | Path) -> bool:
    """Whether a file begins as DICOM does: PS3.10's preamble, or at once with group 2 or 8."""
    head = _head(path)
    return head[128:132] == b"DICM" or (len(head) > 8 and head[:2] in _FIRST_GROUPS)


def read_header(path: str | Path, keywords: Iterable[str] | None = None) -> Dataset:
    """What a file says before its pixels; of the top level only ``keywords``, if they are given."""
    wanted = None if keywords is None else [*keywords, "PatientName", "PatientID"]
    return _read(path, stop_before_pixels=True, specific_tags=wanted)


def read_dataset(path: str | Path) -> Dataset:
    """A whole file. Values are converted only when they are asked for, pixels by
    ``pixel_frames``."""
    dataset = _read(path)
    for element in dataset.values():
        if (
            isinstance(element, RawDataElement)
            and element.length != _UNDEFINED_LENGTH
            and len(element.value or b"") < element.length
        ):
            raise DicomError(
                f"{label(dataset)} ends within {_named(element.tag)}: {len(element.value or b'')} "
                f"of {element.length} bytes are there; copy it again."
            )
    return dataset


def label(dataset: Dataset) -> str:
    """How messages call a dataset: its file, and the place in it."""
    place = getattr(dataset, "place", None)
    if place is not None:
        return place
    name = getattr(dataset, "filename", None)
    return "the dataset" if not name else _without_person(Path(name).name, dataset)


def required(dataset: Dataset, keyword: str) -> Any:
    """The value of an element as pydicom gives it, refused where it is missing or empty."""
    value = _value(dataset, keyword)
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        raise DicomError(f"{label(dataset)} has no {_named(keyword)}, which is needed here.")
    return value


def has(dataset: Dataset, keyword: str) -> bool:
    """Whether an element is there and not empty."""
    value = _value(dataset, keyword)
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0)


def number(dataset: Dataset, keyword: str, default: Any = _REQUIRED) -> float:
    """A finite number; ``default`` where the element is missing or empty."""
    if default is not _REQUIRED and not has(dataset, keyword):
        return default
    return float(numbers(dataset, keyword, 1)[0])


def whole(dataset: Dataset, keyword: str, default: Any = _REQUIRED) -> int:
    """A whole number; ``default`` where the element is missing or empty."""
    if default is not _REQUIRED and not has(dataset, keyword):
        return default
    value = number(dataset, keyword)
    if value != int(value):
        raise DicomError(
            f"{_named(keyword)} of {label(dataset)} is {value:g}; a whole number is needed."
        )
    return int(value)


def numbers(dataset: Dataset, keyword: str, n: int | None = None) -> np.ndarray:
    """Finite numbers, (n,) float64; any count from one on where ``n`` is None.

    Decimal strings are read from their bytes, as contours hold them by the million.
    """
    tag = tag_for_keyword(keyword)
    raw = dataset.get_item(tag, keep_deferred=True) if keyword in dataset else None
    is_text = isinstance(raw, RawDataElement) and dictionary_VR(raw.tag) in ("DS", "IS")
    if is_text and raw.value and raw.value.strip(b" \0"):
        found = _parsed(raw.value.strip(b" \0"))
    else:
        found = _as_floats(required(dataset, keyword))
    if found is None or not np.all(np.isfinite(found)):
        shown = "" if found is None else f" ({found[~np.isfinite(found)][0]})"
        raise DicomError(
            f"{_named(keyword)} of {label(dataset)} holds something that is no finite "
            f"number{shown}; export the file again."
        )
    if n is not None and len(found) != n:
        raise DicomError(
            f"{_named(keyword)} of {label(dataset)} holds {len(found)} numbers where {n} "
            f"{'is' if n == 1 else 'are'} needed."
        )
    return found


def text(dataset: Dataset, keyword: str, default: Any = _REQUIRED) -> str:
    """A text or UID without its padding; ``default`` where the element is missing or empty."""
    if default is not _REQUIRED and not has(dataset, keyword):
        return default
    value = required(dataset, keyword)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(part, str) for part in values):
        raise DicomError(f"{_named(keyword)} of {label(dataset)} is no text; export it again.")
    joined = "\\".join(values).strip(" \0")
    if not _CONTROL.isdisjoint(joined):  # after a wrong length the person's name may be in it
        raise DicomError(
            f"{_named(keyword)} of {label(dataset)} holds control characters, as where a length is "
            "wrong; the file may be damaged, copy it again."
        )
    return joined


def meta_text(dataset: Dataset, keyword: str) -> str:
    """A UID of the file meta information, "" where it has none."""
    meta = getattr(dataset, "file_meta", Dataset())
    meta.place = label(dataset)
    return text(meta, keyword, "")


def private_value(dataset: Dataset, group: int, element: int, creator: str) -> Any:
    """The value of a private element as pydicom gives it; None where there is none."""

    def get():
        try:
            return dataset.get_private_item(group, element, creator).value
        except KeyError:
            return None

    return _guarded(dataset, f"the private element {group:04X},{element:02X}", get)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is missing; errors in them name their place."""
    found = _value(dataset, keyword)
    if found is None:
        return []
    if not isinstance(found, pydicom.Sequence):
        raise DicomError(f"{_named(keyword)} of {label(dataset)} is no sequence; export it again.")
    where = label(dataset)
    for index, item_ in enumerate(found, start=1):
        item_.place = f"{where}, item {index} of {keyword}"
    return list(found)


def item(dataset: Dataset, keyword: str) -> Dataset:
    """The one item of a sequence that must have exactly one."""
    found = items(dataset, keyword)
    if len(found) != 1:
        raise DicomError(
            f"{_named(keyword)} of {label(dataset)} has {len(found)} items where one is needed."
        )
    return found[0]


def pixel_frames(dataset: Dataset) -> np.ndarray:
    """Stored values (n_frames, rows, columns), integers, before any slope.

    What the header claims is first held against the bytes that are there, so that a small file
    with a large claim is refused before anything is allocated.
    """
    shape, dtype = _claimed(dataset)
    data = required(dataset, "PixelData")
    if not isinstance(data, bytes):
        raise DicomError(f"PixelData of {label(dataset)} are no bytes; export the file again.")
    n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if _is_compressed(dataset):
        if n_bytes > FREE_BYTES + MAX_COMPRESSION * len(data):
            raise _unfounded(dataset, shape, n_bytes, len(data))
        frames = _decompressed(dataset, shape)
    else:
        if n_bytes > len(data):
            raise _unfounded(dataset, shape, n_bytes, len(data))
        stored = dtype.newbyteorder("<" if _is_little_endian(dataset) else ">")
        frames = np.frombuffer(data, stored, count=n_bytes // dtype.itemsize).reshape(shape)
    return _stored_bits(dataset, np.asarray(frames, dtype))


def _read(path: str | Path, **options) -> Dataset:
    path = Path(path)
    shown = repr(path.name)
    if not is_dicom(path):
        why = "does not begin as DICOM does" if path.is_file() else "does not exist or is no file"
        raise DicomError(f"{shown} {why}; give a DICOM file.")
    try:
        with _silent():
            is_deflated = _is_deflated(path)
            if not is_deflated:
                return pydicom.dcmread(path, force=True, **options)
    except Exception as error:  # whatever a damaged file makes pydicom raise
        raise DicomError(
            f"{shown} cannot be read as DICOM ({type(error).__name__}); it may be truncated or "
            "damaged, copy it again."
        ) from None
    raise DicomError(
        f"{shown} is deflated as a whole, which is not read; convert it to explicit little endian."
    )


def _is_deflated(path: Path) -> bool:
    """Whether reading a file would unfold it, to whatever length."""
    head = _head(path)
    if head[128:132] != b"DICM":
        return DeflatedExplicitVRLittleEndian.encode() in head
    meta = read_file_meta_info(path)  # which may be longer than the head
    return meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian


def _head(path: str | Path) -> bytes:
    """The beginning of a file, with its transfer syntax; nothing of what cannot be opened."""
    try:
        if not Path(path).is_file():  # a pipe would wait for ever
            return b""
        with open(path, "rb") as file:
            return file.read(1024)
    except (OSError, ValueError):
        return b""


@contextmanager
def _silent(log: logging.Logger = pydicom.config.logger) -> Iterator[None]:
    """Without pydicom's warnings and log, which quote values."""
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled


def _value(dataset: Dataset, keyword: str) -> Any:
    return _guarded(dataset, _named(keyword), lambda: dataset.get(keyword))


def _guarded(dataset: Dataset, named: str, get: Callable[[], Any]) -> Any:
    try:
        with _silent():
            return get()
    except Exception as error:
        raise DicomError(
            f"{named} of {label(dataset)} cannot be read ({type(error).__name__}); the file may be "
            "damaged, copy it again."
        ) from None


def _named(tag: int | str) -> str:
    number_ = tag_for_keyword(tag) if isinstance(tag, str) else int(tag)
    keyword = tag if isinstance(tag, str) else keyword_for_tag(tag)
    return f"{keyword} ({number_ >> 16:04X},{number_ & 0xFFFF:04X})".strip()


def _without_person(name: str, dataset: Dataset) -> str:
    """A file's name without words of the person's; nothing of it where those cannot be read."""
    try:
        with _silent():
            person = f"{dataset.get('PatientName') or ''} {dataset.get('PatientID') or ''}"
    except Exception:
        return repr("…")
    words = {word for word in re.findall(r"\w{2,}", person) if word.lower() in name.lower()}
    for word in sorted(words, key=len, reverse=True):
        name = re.sub(re.escape(word), "…", name, flags=re.IGNORECASE)
    return repr(name)


def _parsed(value: bytes) -> np.ndarray | None:
    """Numbers of a decimal string; None where one is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = np.fromstring(value, sep="\\")
        except ValueError:
            found = np.empty(0)
    if len(found) == value.count(b"\\") + 1:
        return found
    try:  # padded with blanks, which numpy does not take before a separator
        return np.array([float(part) for part in value.split(b"\\")])
    except ValueError:
        return None


def _as_floats(value: Any) -> np.ndarray | None:
    try:
        return np.atleast_1d(np.array(value, dtype=float))
    except (TypeError, ValueError):
        return None


def _claimed(dataset: Dataset) -> tuple[tuple[int, int, int], np.dtype]:
    """Shape of the frames and type of a stored value."""
    shape = (
        whole(dataset, "NumberOfFrames", 1), whole(dataset, "Rows"), whole(dataset, "Columns"),
    )  # fmt: skip
    if min(shape) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise DicomError(
            f"{label(dataset)} claims {shape[0]} frames of {shape[1]} × {shape[2]} pixels; 1 to "
            f"{MAX_VOXELS} are read."
        )
    if whole(dataset, "SamplesPerPixel", 1) != 1:
        raise DicomError(f"{label(dataset)} is in color; one sample per pixel is needed.")
    bits = whole(dataset, "BitsAllocated")
    if bits not in (8, 16, 32):
        raise DicomError(f"BitsAllocated of {label(dataset)} is {bits}; 8, 16 or 32 are read.")
    is_signed = whole(dataset, "PixelRepresentation", 0) == 1
    return shape, np.dtype(f"{'i' if is_signed else 'u'}{bits // 8}")


def _unfounded(dataset: Dataset, shape, n_bytes: int, n_there: int) -> DicomError:
    return DicomError(
        f"{label(dataset)} claims {shape[0]} frames of {shape[1]} × {shape[2]} pixels, "
        f"{n_bytes} bytes, but holds {n_there}; it is truncated or damaged, copy it again."
    )


def _is_compressed(dataset: Dataset) -> bool:
    syntax = meta_text(dataset, "TransferSyntaxUID")
    if syntax == "":
        return False
    if syntax not in AllTransferSyntaxes:
        shown = syntax if re.fullmatch(r"[0-9.]{1,64}", str(syntax)) else "no UID"
        raise DicomError(
            f"TransferSyntaxUID of {label(dataset)} is {shown}, which is none of the standard's; "
            "convert it to explicit little endian."
        )
    return UID(syntax).is_encapsulated


def _is_little_endian(dataset: Dataset) -> bool:
    return dataset.original_encoding[1] is not False  # None of a dataset that was not read


def _decompressed(dataset: Dataset, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        with _silent(), _silent(logging.getLogger("pydicom.pixels.decoders.base")):
            return pydicom.pixels.pixel_array(dataset, raw=True).reshape(shape)
    except Exception as error:
        syntax = UID(meta_text(dataset, "TransferSyntaxUID"))
        raise DicomError(
            f"pixels of {label(dataset)}, in {syntax.name}, cannot be decompressed here "
            f"({type(error).__name__}); convert it to explicit little endian, or install "
            "pylibjpeg with its plugins."
        ) from None


def _stored_bits(dataset: Dataset, frames: np.ndarray) -> np.ndarray:
    """Only the bits that hold the value, with its sign: PS3.5, 8.1.1."""
    allocated = 8 * frames.dtype.itemsize
    stored = whole(dataset, "BitsStored", allocated)
    high = whole(dataset, "HighBit", stored - 1)
    if not 1 <= stored <= high + 1 <= allocated:
        raise DicomError(
            f"{label(dataset)} stores {stored} bits up to bit {high} of {allocated}, which cannot "
            "be; export it again."
        )
    if stored == allocated:
        return frames
    return (frames << (allocated - 1 - high)) >> (allocated - stored)
