"""DICOM files as trees of elements, which are written as they are, however wrong.

For tests that damage files: pydicom would mend or refuse most of it.
"""

import io
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

Files = dict[str, bytes]

CODES = {"FL": "f4", "FD": "f8", "US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "OW": "u2"}
CODES["AT"] = "u2"
_LONG = ("OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UC", "UN", "UR", "UT", "??")
_ENDLESS = 2**32 - 1


@dataclass
class Element:
    """``value`` are bytes in little endian, or items, lists of elements."""

    tag: int
    kind: str  # VR
    value: "bytes | list[list[Element]]"
    claimed: int | None = None  # a length that is not the value's
    encoded: bool = False  # the value is all there is to write
    is_encapsulated: bool = False

    def written(self, syntax: str) -> bytes:
        """PS3.5, 7.1 and A.4."""
        if self.encoded:
            return self.value
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        content, length = self._content(syntax, order), self.claimed
        if length is None:
            length = _ENDLESS if self.is_encapsulated else len(content)
        tag = struct.pack(f"{order}HH", self.tag >> 16, self.tag & 0xFFFF)
        if syntax == ImplicitVRLittleEndian:
            return tag + struct.pack("<I", length) + content
        kind = self.kind if len(content) < 2**16 or self.kind in _LONG else "UN"
        if kind in _LONG:
            return tag + kind.encode() + bytes(2) + struct.pack(f"{order}I", length) + content
        return tag + kind.encode() + struct.pack(f"{order}H", length & 0xFFFF) + content

    def _content(self, syntax: str, order: str) -> bytes:
        if isinstance(self.value, list):
            items = [b"".join(e.written(syntax) for e in item) for item in self.value]
            head = struct.pack(f"{order}HH", 0xFFFE, 0xE000)
            return b"".join(head + struct.pack(f"{order}I", len(i)) + i for i in items)
        padded = self.value + b" " * (len(self.value) % 2)
        if self.is_encapsulated:
            item = b"\xfe\xff\x00\xe0"
            fragment = item + struct.pack("<I", len(padded)) + padded
            return item + bytes(4) + fragment + b"\xfe\xff\xdd\xe0" + bytes(4)
        size = int(CODES.get(self.kind, "u1")[1:])
        if order == "<" or len(padded) % size:
            return padded
        return np.frombuffer(padded, f"<u{size}").byteswap().tobytes()


@dataclass
class File:
    """Meta information and elements; the length of the former is left out."""

    syntax: str
    meta: list[Element]
    elements: list[Element]

    def body(self, syntax: str) -> bytes:
        return b"".join(element.written(syntax) for element in self.elements)

    def written(self) -> bytes:
        uid = self.syntax.encode() + b"\0" * (len(self.syntax) % 2)
        meta = [*self.meta, Element(0x00020010, "UI", uid)]
        head = b"".join(element.written(ExplicitVRLittleEndian) for element in meta)
        length = Element(0x00020000, "UL", struct.pack("<I", len(head)))
        head = bytes(128) + b"DICM" + length.written(ExplicitVRLittleEndian) + head
        return head + self.body(self.syntax)


def edited_bytes(content: bytes, change: Callable[[File], None]) -> bytes:
    file = deepcopy(parsed(content))
    change(file)
    return file.written()


@lru_cache(maxsize=128)
def parsed(content: bytes) -> File:
    """A good file in little endian."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    meta = [e for e in _tree(dataset.file_meta) if e.tag not in (0x00020000, 0x00020010)]
    return File(dataset.file_meta.TransferSyntaxUID, meta, _tree(dataset))


def _tree(dataset: Dataset) -> list[Element]:
    raw = {int(tag): dataset.get_item(tag).value or b"" for tag in dataset.keys()}
    made = []
    for element in dataset:
        value = raw[element.tag]
        if element.VR == "SQ":
            value = [_tree(item) for item in element.value]
        elif isinstance(value, str):  # a few are converted at once
            value = value.encode()
        made.append(Element(int(element.tag), element.VR, value))
    return made


def elements_of(elements: list[Element]) -> Iterator[Element]:
    """All of them, nested ones too."""
    return (holder[at] for holder, at in places_of(elements))


def places_of(elements: list[Element]) -> Iterator[tuple[list[Element], int]]:
    for at, element in enumerate(elements):
        yield elements, at
        if isinstance(element.value, list):
            for item in element.value:
                yield from places_of(item)


def put(file: File, keyword: str, kind: str, value: bytes, **options) -> None:
    """An element of the top level, in place of the one that may be there."""
    made = Element(tag_for_keyword(keyword), kind, value, **options)
    file.elements = sorted(
        [made, *(e for e in file.elements if e.tag != made.tag)], key=lambda e: e.tag
    )


def as_bytes(kind: str, values) -> bytes:
    values = np.atleast_1d(np.asarray(values, float))
    if kind in CODES:
        with np.errstate(all="ignore"):
            return values.astype(f"<{CODES[kind]}").tobytes()
    form = "{:.0f}" if kind == "IS" else "{:.10g}"
    return "\\".join(form.format(value) for value in values).encode()


def numbers_in(element: Element) -> np.ndarray:
    if element.kind in CODES:
        return np.frombuffer(element.value, f"<{CODES[element.kind]}").astype(float)
    return np.array([float(part) for part in element.value.split(b"\\")])
