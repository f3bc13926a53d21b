"""What may be wrong with DICOM files: each damage changes ``files`` in place, mostly the target."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from dicom_bases import NAME
from dicom_elements import (
    CODES,
    Element,
    File,
    Files,
    as_bytes,
    edited_bytes,
    elements_of,
    numbers_in,
    parsed,
    places_of,
    put,
)
from pydicom.datadict import tag_for_keyword
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

NUMERIC = ("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL")


def chosen(rng, options):
    return options[int(rng.integers(len(options)))]


def _truncated(rng, files: Files, target: str) -> None:
    content = files[target]
    files[target] = content[: int(len(content) * rng.random())]


def _flipped(rng, files: Files, target: str) -> None:
    content = bytearray(files[target])
    for at in rng.integers(132, len(content), rng.integers(1, 20)):
        content[at] = rng.integers(256)
    files[target] = bytes(content)


def _spliced(rng, files: Files, target: str) -> None:
    """A piece of some file in the middle of it."""
    content, other = files[target], files[chosen(rng, sorted(files))]
    at, start = rng.integers(132, len(content)), rng.integers(len(other))
    piece = other[start : start + rng.integers(1, 400)]
    kept = content[at + len(piece) * int(rng.integers(2)) :]
    files[target] = content[:at] + piece + kept


def _removed(rng, files: Files, target: str) -> None:
    def change(file):
        for _ in range(rng.integers(1, 4)):
            holder, at = _place(rng, file)
            del holder[at]

    files[target] = edited_bytes(files[target], change)


def _absurd(rng, files: Files, target: str) -> None:
    def change(file):
        for _ in range(rng.integers(1, 3)):
            element = _value(rng, file)
            element.value = _absurd_value(rng, element.kind)

    files[target] = edited_bytes(files[target], change)


def _scaled(rng, files: Files, target: str) -> None:
    """Numbers that are numbers, only wrong ones."""
    factors = [-1.0, 0.0, 0.5, 1.01, 10.0, 1e3, 1e6, 1e12, 1e30, 1e-6, 1e-30]

    def change(file):
        for _ in range(rng.integers(1, 3)):
            element = _value(rng, file, of=NUMERIC)
            values = numbers_in(element)
            at = rng.integers(len(values)) if rng.random() < 0.5 else slice(None)
            values[at] = values[at] * chosen(rng, factors) + chosen(rng, [0.0, 0.0, 1.0, -1.0])
            element.value = as_bytes(element.kind, values)

    files[target] = edited_bytes(files[target], change)


def _of_other_kind(rng, files: Files, target: str) -> None:
    """A value that says to be of another kind (VR) than it is; only explicit files can."""
    kinds = ["SQ", "UN", "FD", "FL", "US", "AT", "PN", "DS", "IS", "OB", "UT", "OW", "??"]

    def change(file):
        file.syntax = chosen(rng, [ExplicitVRLittleEndian, ExplicitVRBigEndian])
        for _ in range(rng.integers(1, 3)):
            holder, at = _place(rng, file)
            element = holder[at]
            if isinstance(element.value, list):
                element.value = rng.bytes(int(rng.integers(20)))
            element.kind = chosen(rng, kinds)

    files[target] = edited_bytes(files[target], change)


def _of_many(rng, files: Files, target: str) -> None:
    """10⁵ values where one or a few belong; sequences of no item or of hundreds."""

    def change(file):
        if rng.random() < 0.5:
            element = _value(rng, file)
            element.value = _many_values(rng, element.kind)
            return
        sequences = [e for e in elements_of(file.elements) if isinstance(e.value, list)]
        if sequences:
            element = chosen(rng, sequences)
            element.value = (element.value or [[]]) * chosen(rng, [0, 2, 300])

    files[target] = edited_bytes(files[target], change)


def _about_person(rng, files: Files, target: str) -> None:
    """Names, IDs and character sets that are wrong, empty, or the length of a book."""
    values = [
        b"", b"\\", b"\xff\xfe\xff", b"^" * 1000, b"(.*", NAME.encode() * 2000, b"dcm", b"CT",
        " ".join(f"w{i}" for i in range(20_000)).encode(), b"ISO 2022 IR 87\\x", b"1.2\\1.3",
    ]  # fmt: skip
    tags = ("PatientName", "PatientID", "SpecificCharacterSet", "SOPInstanceUID")

    def change(file):
        file.syntax = chosen(rng, [file.syntax, ExplicitVRLittleEndian])
        tag = tag_for_keyword(chosen(rng, tags))
        element = next(e for e in file.elements if e.tag == tag)
        element.value = chosen(rng, values)
        element.kind = chosen(rng, [element.kind, "FD", "SQ", "US", "UN"])

    files[target] = edited_bytes(files[target], change)


def _uids(rng, files: Files, target: str) -> None:
    """References to itself, in cycles, or to files of other kinds."""
    of_others = sorted({uid for content in files.values() for uid in _own_uids(content)})

    def change(file):
        own = _own_uids(files[target])
        for _ in range(rng.integers(1, 6)):
            _value(rng, file, of=("UI",)).value = chosen(rng, own + of_others)

    files[target] = edited_bytes(files[target], change)


def _pixel_claims(rng, files: Files, target: str) -> None:
    claims = {
        "Rows": ("US", [0, 1, 65535]), "Columns": ("US", [0, 1, 65535]),
        "NumberOfFrames": ("IS", [-1, 0, 1, 10**6, 10**12]),
        "BitsAllocated": ("US", [0, 1, 8, 32, 64, 65535]), "BitsStored": ("US", [0, 1, 12, 64]),
        "HighBit": ("US", [0, 7, 63]), "SamplesPerPixel": ("US", [0, 3, 65535]),
        "PixelRepresentation": ("US", [0, 1, 7]), "PixelPaddingValue": ("US", [0, 65535]),
        "PlanarConfiguration": ("US", [0, 1, 9]), "PixelPaddingRangeLimit": ("US", [0, 5]),
        "PhotometricInterpretation": ("CS", [b"RGB ", b"PALETTE COLOR ", b"MONOCHROME1 "]),
        "PixelData": ("OW", [b"", bytes(2), bytes(10**6)]), "FloatPixelData": ("OF", [bytes(8)]),
    }  # fmt: skip

    def change(file):
        if rng.random() < 0.3:
            put(file, "Rows", "US", b"\xff\xff"), put(file, "Columns", "US", b"\xff\xff")
        for keyword in rng.choice(list(claims), rng.integers(1, 4), replace=False):
            kind, options = claims[keyword]
            value = chosen(rng, options)
            put(file, keyword, kind, value if isinstance(value, bytes) else as_bytes(kind, value))

    files[target] = edited_bytes(files[target], change)


def _compressed(rng, files: Files, target: str) -> None:
    """A compressed transfer syntax over pixels that are none of it, or that unfold to many."""
    contents = [
        (None, lambda: rng.bytes(200)), (None, lambda: b""), (RLELossless, lambda: _rle_bomb(rng)),
        (JPEGBaseline8Bit, partial(_blank_image, "JPEG")),
        (JPEG2000Lossless, partial(_blank_image, "JPEG2000")),
    ]  # fmt: skip
    syntax, content = chosen(rng, contents)

    def change(file):
        file.syntax = syntax or chosen(rng, AllTransferSyntaxes)
        if rng.random() < 0.7:
            put(file, "PixelData", "OB", content(), is_encapsulated=True)
        for keyword in ("Rows", "Columns"):
            put(file, keyword, "US", as_bytes("US", chosen(rng, [10, 1000, 4000, 65535])))
        if syntax in (JPEGBaseline8Bit, JPEG2000Lossless):
            for keyword, value in dict(
                SamplesPerPixel=1, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0
            ).items():
                put(file, keyword, "US", as_bytes("US", value))

    files[target] = edited_bytes(files[target], change)


def _lengths(rng, files: Files, target: str) -> None:
    """2 GB, or no end, or a little, in the length of an element."""
    lengths = [2**31 - 2, 2**32 - 2, 2**32 - 1, 2**24, 0, 1, 7, 300]

    def change(file):
        for _ in range(rng.integers(1, 3)):
            holder, at = _place(rng, file)
            holder[at].claimed = chosen(rng, lengths)

    files[target] = edited_bytes(files[target], change)


def _nested(rng, files: Files, target: str) -> None:
    """A sequence in a sequence in a sequence, a thousand deep and more, with and without an end."""
    depth = chosen(rng, [50, 200, 1000, 8000])  # pydicom's time grows with the square
    tag = chosen(rng, [b"\x0a\x30\x02\x00", b"\x08\x00\x40\x11", b"\x09\x00\x01\x10"])
    opened = (tag + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * depth
    closed = (b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)) * depth
    content = opened + closed * int(rng.integers(2))
    if rng.random() < 0.5:  # of known lengths, which are read only when asked for
        content = b""
        for _ in range(min(depth, 2000)):
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
            content = tag + struct.pack("<I", len(item)) + item

    def change(file):
        file.syntax = ImplicitVRLittleEndian
        holder, at = _place(rng, file)
        holder.insert(at, Element(0, "", content, encoded=True))

    files[target] = edited_bytes(files[target], change)


def _swapped(rng, files: Files, target: str) -> None:
    other = chosen(rng, sorted(set(files) - {target}))
    end = rng.integers(4)
    if end == 0:
        files[target], files[other] = files[other], files[target]
    elif end == 1:
        files[target] = files[other]
    elif end == 2:
        files[f"copy_of_{target}"] = files[target]
    else:
        del files[other]


def _not_dicom(rng, files: Files, target: str) -> None:
    files[target] = chosen(rng, [
        lambda: b"", lambda: b"\0", lambda: rng.bytes(5000), lambda: b"\0" * 128 + b"DICM",
        lambda: b"\0" * 128 + b"DICM" + rng.bytes(5000), lambda: b"\x08\x00" + rng.bytes(3000),
        lambda: b"\x02\x00" + rng.bytes(3000), _zip, lambda: _blank_image("PNG"),
        lambda: b"a text of several words\n" * 100, lambda: files[target][128:],
        lambda: files[target][:128] + b"DICM" * 500, lambda: files[target][132:],
    ])()  # fmt: skip


def _deflated(rng, files: Files, target: str) -> None:
    """Deflated as a whole: rightly, cut short, or 200 MB of nothing in 200 KB."""
    body = parsed(files[target]).body(ExplicitVRLittleEndian)
    packed = chosen(rng, [lambda: _packed(body), lambda: _packed(body), _bomb])()

    def change(file):
        file.syntax = DeflatedExplicitVRLittleEndian
        if rng.random() < 0.5:  # the syntax then stands where readers look no more
            file.meta.insert(0, Element(0x00020001, "OB", bytes(4096)))
        length = len(packed) // int(rng.integers(1, 3))
        file.elements = [Element(0, "", packed[:length], encoded=True)]

    files[target] = edited_bytes(files[target], change)


DAMAGES: dict[str, Callable[[np.random.Generator, Files, str], None]] = {
    "truncated": _truncated,
    "bytes flipped": _flipped,
    "piece of another": _spliced,
    "elements removed": _removed,
    "absurd values": _absurd,
    "numbers scaled": _scaled,
    "wrong VR": _of_other_kind,
    "many values": _of_many,
    "person, charset": _about_person,
    "UIDs": _uids,
    "pixel claims": _pixel_claims,
    "compressed": _compressed,
    "lengths": _lengths,
    "nested": _nested,
    "files swapped": _swapped,
    "not DICOM": _not_dicom,
    "deflated": _deflated,
}


def _absurd_value(rng, kind: str) -> bytes:
    texts = [
        b"", b" ", b"\\", b"\\\\\\", b"-1", b"0", b"nan", b"inf", b"-inf", b"1e300", b"-1e300",
        b"1e-300", b"1e309", b"9" * 400, b"1,5", b"0x10", b"text", b"1.5", b"1\\2\\3\\4\\5\\6\\7",
        b"\xff\xfe\x00", b"\0", b"1 2", b"-", b"18446744073709551616", "Ärztin".encode("latin-1"),
    ]  # fmt: skip
    numbers = [np.nan, np.inf, -1.0, 0.0, 1e300, -1e30, 1e-30, 65535.0, 2.0**31]
    if kind in CODES:
        return chosen(rng, [*texts, *(as_bytes(kind, number) for number in numbers)])
    return chosen(rng, texts)


def _many_values(rng, kind: str) -> bytes:
    values = rng.uniform(-100.0, 100.0, 99_999)
    if kind in CODES:
        return as_bytes(kind, values)
    return chosen(rng, [
        as_bytes("DS", values), b"\\".join([b"1"] * 100_000), b"\\" * 100_000, b"word " * 20_000,
        b"x" * 100_000,
    ])  # fmt: skip


def _rle_bomb(rng) -> bytes:
    """A segment of long runs: 128 pixels for two bytes."""
    return struct.pack("<16I", 1, 64, *[0] * 14) + bytes([0x81, int(rng.integers(256))]) * 50_000


@cache
def _blank_image(form: str) -> bytes:
    """16 Mpixel of one gray in less than 300 KB."""
    from PIL import Image

    made = io.BytesIO()
    Image.new("L", (64, 64) if form == "PNG" else (4000, 4000)).save(made, form)
    return made.getvalue()


@cache
def _bomb() -> bytes:
    return _packed(b"\x09\x00\x01\x10OB\0\0" + struct.pack("<I", 200_000_000) + bytes(200_000_000))


def _packed(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("CT_0001.dcm", b"\0" * 1000)
    return made.getvalue()


def _place(rng, file: File) -> tuple[list[Element], int]:
    """Where an element stands, at the top level in half of the cases."""
    if rng.random() < 0.5:
        return file.elements, int(rng.integers(len(file.elements)))
    return chosen(rng, list(places_of(file.elements)))


def _value(rng, file: File, of: tuple[str, ...] = ()) -> Element:
    """An element that is no sequence, of kinds that may be given, not always deep in the file."""
    found = file.elements if rng.random() < 0.5 else elements_of(file.elements)
    wanted = [
        e for e in found
        if not isinstance(e.value, list) and (not of or (e.kind in of and e.value.strip()))
    ]  # fmt: skip
    return chosen(rng, wanted)


def _own_uids(content: bytes) -> list[bytes]:
    """Of the instance, the series, the study and the frame of reference."""
    tags = (0x00080018, 0x0020000D, 0x0020000E, 0x00200052)
    return [e.value for e in parsed(content).elements if e.tag in tags]
