"""Damaged DICOM files by the thousand: what is done to good ones, and how the readers end.

A case is a number: the files, the damage and the reader follow from it, so that a case that failed
can be run again alone, by ``run(number, bases, folder)``.
"""

import io
import linecache
import logging
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import pydicom
from dicom_samples import small_patient, written
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
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

import engine
from engine.geometry.plan import Aperture, Beam, Plan
from engine.io.dicom_ct import read_ct
from engine.io.dicom_dose import read_dose, write_dose
from engine.io.dicom_folder import scan
from engine.io.dicom_patient import read_patient
from engine.io.dicom_plan import read_plan
from engine.io.dicom_plan_writing import write_plan
from engine.io.dicom_structures import StructureSet
from engine.io.dicom_study import Study
from engine.machine.library import load_machine

NAME, IDENTIFIER, BIRTH_DATE = "Quibberton^Zaphodine", "KX7741-ZZ", "19520311"
PERSON = ("quibberton", "zaphodine", "kx7741", BIRTH_DATE)  # what no message may hold
GIVE_UP_S = 60.0
SHOWN = 300  # characters of a message
_ENGINE = str(Path(engine.__path__[0]))
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in

Files = dict[str, bytes]


@dataclass(frozen=True)
class Outcome:
    """How a case ended: "read", "refused", "crash" or "too slow"."""

    number: int
    damage: str
    target: str
    reader: str
    end: str
    message: str
    is_named: bool  # the message says which file or files
    tells_person: bool  # it, or what was returned, warned of or logged meanwhile
    seconds: float
    grown_mb: float  # largest memory above that at the beginning

    def __str__(self) -> str:
        return f"{self.number} ({self.damage} in {self.target}, {self.reader}): {self.message}"


class TooSlow(BaseException):
    """No ``Exception``, which readers turn into refusals."""


def made_bases(folder: Path) -> dict[str, Files]:
    """Files of a small patient with a plan of ions, in two encodings, and with one of photons."""
    patient = small_patient()
    study = Study.of(patient)
    ions, photons = written(patient, folder / "ions"), folder / "photons"
    reference = write_plan(_ion_plan(), patient, study, ions / "RTPLAN.dcm")
    dose_gy = np.linspace(0.0, 70.0, patient.hu.size).reshape(patient.hu.shape)
    write_dose(patient.grid, dose_gy, study, reference, ions / "RTDOSE.dcm")
    write_plan(_photon_plan(), patient, study, photons / "RTPLAN.dcm")
    plain = {path.name: _of_person(path) for path in sorted(ions.iterdir())}
    return {
        "ions": plain,
        "explicit": {name: _explicit(content) for name, content in plain.items()},
        "photons": plain | {"RTPLAN.dcm": _of_person(photons / "RTPLAN.dcm")},
    }


def run(number: int, bases: Mapping[str, Files], folder: Path) -> Outcome:
    """One case; the folder is left with its files."""
    for path in folder.iterdir():
        path.unlink()
    rng = np.random.default_rng(number)
    damage = list(DAMAGES)[number % len(DAMAGES)]
    files = dict(_chosen(rng, list(bases.values())))
    target = _chosen(rng, ["CT_0003.dcm", "RTSTRUCT.dcm", "RTPLAN.dcm", "RTDOSE.dcm"])
    reader = _chosen(rng, _suiting(target) if rng.random() < 0.9 else list(READERS))
    DAMAGES[damage](rng, files, target)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return _outcome(number, damage, target, reader, folder)


def table(outcomes: Iterable[Outcome]) -> str:
    """Cases by damage and end, with the slowest and the largest of each."""
    by_damage: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_damage.setdefault(outcome.damage, []).append(outcome)
    rows = [f"{'damage':18}" + "".join(f"{end:>10}" for end in ENDS) + "  slowest s  largest MB"]
    everything = [o for found in by_damage.values() for o in found]
    for damage, found in [*sorted(by_damage.items()), ("all", everything)]:
        counts = "".join(f"{sum(o.end == end for o in found):10d}" for end in ENDS)
        slowest, largest = max(o.seconds for o in found), max(o.grown_mb for o in found)
        rows.append(f"{damage:18}{counts}{slowest:11.2f}{largest:12.0f}")
    return "\n".join(rows)


def _suiting(target: str) -> list[str]:
    """Readers of such a file in most cases, or of its folder."""
    of_folder = [name for name, (of, _) in READERS.items() if not of]
    own = [name for name, (of, _) in READERS.items() if of and of in target]
    return of_folder + own * (6 // len(own))


def _outcome(number: int, damage: str, target: str, reader: str, folder: Path) -> Outcome:
    names = (target,) if reader in OF_ONE_FILE else (*(p.name for p in folder.iterdir()), *SETS)
    of, read = READERS[reader]
    end, message, is_named, returned = "read", "", True, ""
    began, before = time.perf_counter(), _memory_mb()
    with _heard() as heard, _limited(GIVE_UP_S):
        try:
            returned = read(folder, folder / target)
        except (ValueError, FileNotFoundError) as error:
            end = "refused" if _is_meant(error) else "crash"
            message = str(error) if end == "refused" else _traced(error)
            is_named = any(name in message for name in (*names, STRUCK_OUT))
        except TooSlow as error:
            end, message = "too slow", _traced(error)
        except Exception as error:
            end, message = "crash", _traced(error)
    seconds, grown_mb = time.perf_counter() - began, _peak_mb() - before
    said = " ".join([message, returned, *heard]).lower()
    tells_person = any(word in said for word in PERSON)
    return Outcome(
        number, damage, target, reader, end, message[:SHOWN], is_named, tells_person, seconds,
        grown_mb,
    )  # fmt: skip


def _is_meant(error: Exception) -> bool:
    """Whether a line of ours raised it, rather than numpy or Python on one of our lines."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    line = linecache.getline(file, trace.tb_lineno)
    return file.startswith(_ENGINE) and line.strip().startswith("raise ")


def _traced(error: BaseException) -> str:
    """The error and the lines of ours that led to it, last first."""
    places, trace = [], error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        places.append(f"{file.name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({' < '.join(places[:-7:-1])})"


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is warned of and logged meanwhile."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    logging.getLogger("pydicom").addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard
        heard += [str(warning.message) for warning in warned]
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("pydicom").removeHandler(handler)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def give_up(*_):
        raise TooSlow(f"still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _memory_mb() -> float:
    """Of the process at present, where the system lets its peak be forgotten; else its peak."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e6


# Readers: the files that suit them, and how they are called; what they return is what is shown.


def _scanned(folder: Path, _: Path) -> str:
    return scan(folder).listing()


def _ct(folder: Path, _: Path) -> str:
    return str(read_ct(sorted(folder.glob("CT_*"))).notes)


def _patient(folder: Path, _: Path, **keys) -> str:
    patient = read_patient(folder, **keys)
    return f"{patient.name} {patient.source} {sorted(patient.structures)}"


def _structures(_: Path, path: Path) -> str:
    structure_set, grid, notes = StructureSet(path), small_patient().grid, []
    for roi in structure_set.rois:
        if roi.n_contours:
            drawn = structure_set.structure(roi, grid, roi.frame_uid)
            drawn.mask_on(grid), drawn.fraction_on(grid), drawn.volume_cm3()
            notes += drawn.notes
    return str(notes)


def _plan(_: Path, path: Path, **keys) -> str:
    read = read_plan(path, **keys)
    if not np.all(np.isfinite(read.plan.weights)):
        raise ArithmeticError("weights of a plan that was read are not finite")
    return str(read.notes)


def _plan_in_patient(folder: Path, path: Path) -> str:
    return _plan(folder, path, patient=small_patient())


def _dose(_: Path, path: Path) -> str:
    dose = read_dose(path)
    if not np.all(np.isfinite(dose.dose_gy)):
        raise ArithmeticError("a dose that was read is not finite")
    return dose.summation


READERS: dict[str, tuple[str, Callable[[Path, Path], str]]] = {
    "scan": ("", _scanned),
    "read_patient": ("", _patient),
    "read_patient, keys": (
        "", partial(_patient, n_fractions=30, prescription_gy={"PTV_7000": 66.0}),
    ),
    "read_ct": ("CT", _ct),
    "StructureSet": ("RTSTRUCT", _structures),
    "read_plan": ("RTPLAN", _plan),
    "read_plan, protons": ("RTPLAN", partial(_plan, machine=load_machine("generic_proton"))),
    "read_plan, patient": ("RTPLAN", _plan_in_patient),
    "read_dose": ("RTDOSE", _dose),
}  # fmt: skip
OF_ONE_FILE = [name for name, (of, _) in READERS.items() if of not in ("", "CT")]
STRUCK_OUT = "…"  # of a file's name what might be a person's, which one letter may be
# How messages call what is wrong with several files together, or is for a key to say.
SETS = ("CT files", "slice", "in the folder", "n_fractions", "prescription_gy", "path=")
ENDS = ("read", "refused", "crash", "too slow")


# Damage: each changes ``files`` in place, mostly the one that is the target.


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
    content, other = files[target], files[_chosen(rng, sorted(files))]
    at, start = rng.integers(132, len(content)), rng.integers(len(other))
    piece = other[start : start + rng.integers(1, 400)]
    kept = content[at + len(piece) * int(rng.integers(2)) :]
    files[target] = content[:at] + piece + kept


def _removed(rng, files: Files, target: str) -> None:
    def change(file):
        for _ in range(rng.integers(1, 4)):
            holder, at = _place(rng, file)
            del holder[at]

    files[target] = _edited(files[target], change)


def _absurd(rng, files: Files, target: str) -> None:
    def change(file):
        for _ in range(rng.integers(1, 3)):
            element = _value(rng, file)
            element.value = _absurd_value(rng, element.kind)

    files[target] = _edited(files[target], change)


def _scaled(rng, files: Files, target: str) -> None:
    """Numbers that are numbers, only wrong ones."""
    factors = [-1.0, 0.0, 0.5, 1.01, 10.0, 1e3, 1e6, 1e12, 1e30, 1e-6, 1e-30]

    def change(file):
        for _ in range(rng.integers(1, 3)):
            element = _value(rng, file, of=NUMERIC)
            values = _numbers_in(element)
            at = rng.integers(len(values)) if rng.random() < 0.5 else slice(None)
            values[at] = values[at] * _chosen(rng, factors) + _chosen(rng, [0.0, 0.0, 1.0, -1.0])
            element.value = _as_bytes(element.kind, values)

    files[target] = _edited(files[target], change)


def _of_other_kind(rng, files: Files, target: str) -> None:
    """A value that says to be of another kind (VR) than it is; only explicit files can."""
    kinds = ["SQ", "UN", "FD", "FL", "US", "AT", "PN", "DS", "IS", "OB", "UT", "OW", "??"]

    def change(file):
        file.syntax = _chosen(rng, [ExplicitVRLittleEndian, ExplicitVRBigEndian])
        for _ in range(rng.integers(1, 3)):
            holder, at = _place(rng, file)
            element = holder[at]
            if isinstance(element.value, list):
                element.value = rng.bytes(int(rng.integers(20)))
            element.kind = _chosen(rng, kinds)

    files[target] = _edited(files[target], change)


def _of_many(rng, files: Files, target: str) -> None:
    """10⁵ values where one or a few belong; sequences of no item or of hundreds."""

    def change(file):
        if rng.random() < 0.5:
            element = _value(rng, file)
            element.value = _many_values(rng, element.kind)
            return
        sequences = [e for e in _elements(file.elements) if isinstance(e.value, list)]
        if sequences:
            element = _chosen(rng, sequences)
            element.value = (element.value or [[]]) * _chosen(rng, [0, 2, 300])

    files[target] = _edited(files[target], change)


def _about_person(rng, files: Files, target: str) -> None:
    """Names, IDs and character sets that are wrong, empty, or the length of a book."""
    values = [
        b"", b"\\", b"\xff\xfe\xff", b"^" * 1000, b"(.*", NAME.encode() * 2000, b"dcm", b"CT",
        " ".join(f"w{i}" for i in range(20_000)).encode(), b"ISO 2022 IR 87\\x", b"1.2\\1.3",
    ]  # fmt: skip
    tags = ("PatientName", "PatientID", "SpecificCharacterSet", "SOPInstanceUID")

    def change(file):
        file.syntax = _chosen(rng, [file.syntax, ExplicitVRLittleEndian])
        tag = tag_for_keyword(_chosen(rng, tags))
        element = next(e for e in file.elements if e.tag == tag)
        element.value = _chosen(rng, values)
        element.kind = _chosen(rng, [element.kind, "FD", "SQ", "US", "UN"])

    files[target] = _edited(files[target], change)


def _uids(rng, files: Files, target: str) -> None:
    """References to itself, in cycles, or to files of other kinds."""
    of_others = sorted({uid for content in files.values() for uid in _own_uids(content)})

    def change(file):
        own = _own_uids(files[target])
        for _ in range(rng.integers(1, 6)):
            _value(rng, file, of=("UI",)).value = _chosen(rng, own + of_others)

    files[target] = _edited(files[target], change)


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
            _put(file, "Rows", "US", b"\xff\xff"), _put(file, "Columns", "US", b"\xff\xff")
        for keyword in rng.choice(list(claims), rng.integers(1, 4), replace=False):
            kind, options = claims[keyword]
            value = _chosen(rng, options)
            _put(file, keyword, kind, value if isinstance(value, bytes) else _as_bytes(kind, value))

    files[target] = _edited(files[target], change)


def _compressed(rng, files: Files, target: str) -> None:
    """A compressed transfer syntax over pixels that are none of it, or that unfold to many."""
    contents = [
        (None, lambda: rng.bytes(200)), (None, lambda: b""), (RLELossless, lambda: _rle_bomb(rng)),
        (JPEGBaseline8Bit, partial(_blank_image, "JPEG")),
        (JPEG2000Lossless, partial(_blank_image, "JPEG2000")),
    ]  # fmt: skip
    syntax, content = _chosen(rng, contents)

    def change(file):
        file.syntax = syntax or _chosen(rng, AllTransferSyntaxes)
        if rng.random() < 0.7:
            _put(file, "PixelData", "OB", content(), is_encapsulated=True)
        for keyword in ("Rows", "Columns"):
            _put(file, keyword, "US", _as_bytes("US", _chosen(rng, [10, 1000, 4000, 65535])))
        if syntax in (JPEGBaseline8Bit, JPEG2000Lossless):
            for keyword, value in dict(
                SamplesPerPixel=1, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0
            ).items():
                _put(file, keyword, "US", _as_bytes("US", value))

    files[target] = _edited(files[target], change)


def _lengths(rng, files: Files, target: str) -> None:
    """2 GB, or no end, or a little, in the length of an element."""
    lengths = [2**31 - 2, 2**32 - 2, 2**32 - 1, 2**24, 0, 1, 7, 300]

    def change(file):
        for _ in range(rng.integers(1, 3)):
            holder, at = _place(rng, file)
            holder[at].claimed = _chosen(rng, lengths)

    files[target] = _edited(files[target], change)


def _nested(rng, files: Files, target: str) -> None:
    """A sequence in a sequence in a sequence, a thousand deep and more, with and without an end."""
    depth = _chosen(rng, [50, 200, 1000, 8000])  # pydicom's time grows with the square
    tag = _chosen(rng, [b"\x0a\x30\x02\x00", b"\x08\x00\x40\x11", b"\x09\x00\x01\x10"])
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

    files[target] = _edited(files[target], change)


def _swapped(rng, files: Files, target: str) -> None:
    other = _chosen(rng, sorted(set(files) - {target}))
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
    files[target] = _chosen(rng, [
        lambda: b"", lambda: b"\0", lambda: rng.bytes(5000), lambda: b"\0" * 128 + b"DICM",
        lambda: b"\0" * 128 + b"DICM" + rng.bytes(5000), lambda: b"\x08\x00" + rng.bytes(3000),
        lambda: b"\x02\x00" + rng.bytes(3000), _zip, lambda: _blank_image("PNG"),
        lambda: b"a text of several words\n" * 100, lambda: files[target][128:],
        lambda: files[target][:128] + b"DICM" * 500, lambda: files[target][132:],
    ])()  # fmt: skip


def _deflated(rng, files: Files, target: str) -> None:
    """Deflated as a whole: rightly, cut short, or 200 MB of nothing in 200 KB."""
    body = _parsed(files[target]).body(ExplicitVRLittleEndian)
    packed = _chosen(rng, [lambda: _packed(body), lambda: _packed(body), _bomb])()

    def change(file):
        file.syntax = DeflatedExplicitVRLittleEndian
        if rng.random() < 0.5:  # the syntax then stands where readers look no more
            file.meta.insert(0, Element(0x00020001, "OB", bytes(4096)))
        length = len(packed) // int(rng.integers(1, 3))
        file.elements = [Element(0, "", packed[:length], encoded=True)]

    files[target] = _edited(files[target], change)


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

# Values, as their bytes are in little endian.

NUMERIC = ("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL")
_CODES = {"FL": "f4", "FD": "f8", "US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "OW": "u2"}
_CODES["AT"] = "u2"


def _absurd_value(rng, kind: str) -> bytes:
    texts = [
        b"", b" ", b"\\", b"\\\\\\", b"-1", b"0", b"nan", b"inf", b"-inf", b"1e300", b"-1e300",
        b"1e-300", b"1e309", b"9" * 400, b"1,5", b"0x10", b"text", b"1.5", b"1\\2\\3\\4\\5\\6\\7",
        b"\xff\xfe\x00", b"\0", b"1 2", b"-", b"18446744073709551616", "Ärztin".encode("latin-1"),
    ]  # fmt: skip
    numbers = [np.nan, np.inf, -1.0, 0.0, 1e300, -1e30, 1e-30, 65535.0, 2.0**31]
    if kind in _CODES:
        return _chosen(rng, [*texts, *(_as_bytes(kind, number) for number in numbers)])
    return _chosen(rng, texts)


def _many_values(rng, kind: str) -> bytes:
    values = rng.uniform(-100.0, 100.0, 99_999)
    if kind in _CODES:
        return _as_bytes(kind, values)
    return _chosen(rng, [
        _as_bytes("DS", values), b"\\".join([b"1"] * 100_000), b"\\" * 100_000, b"word " * 20_000,
        b"x" * 100_000,
    ])  # fmt: skip


def _as_bytes(kind: str, values) -> bytes:
    values = np.atleast_1d(np.asarray(values, float))
    if kind in _CODES:
        with np.errstate(all="ignore"):
            return values.astype(f"<{_CODES[kind]}").tobytes()
    form = "{:.0f}" if kind == "IS" else "{:.10g}"
    return "\\".join(form.format(value) for value in values).encode()


def _numbers_in(element: "Element") -> np.ndarray:
    if element.kind in _CODES:
        return np.frombuffer(element.value, f"<{_CODES[element.kind]}").astype(float)
    return np.array([float(part) for part in element.value.split(b"\\")])


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


# Files as trees of elements, which are written as they are, however wrong.

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
        size = int(_CODES.get(self.kind, "u1")[1:])
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


def _of_person(path: Path) -> bytes:
    def change(file):
        _put(file, "PatientName", "PN", NAME.encode())
        _put(file, "PatientID", "LO", IDENTIFIER.encode())
        _put(file, "PatientBirthDate", "DA", BIRTH_DATE.encode())

    return _edited(path.read_bytes(), change)


def _explicit(content: bytes) -> bytes:
    return _edited(content, lambda file: setattr(file, "syntax", ExplicitVRLittleEndian))


def _edited(content: bytes, change: Callable[[File], None]) -> bytes:
    file = deepcopy(_parsed(content))
    change(file)
    return file.written()


@lru_cache(maxsize=128)
def _parsed(content: bytes) -> File:
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


def _elements(elements: list[Element]) -> Iterator[Element]:
    """All of them, nested ones too."""
    return (holder[at] for holder, at in _places(elements))


def _places(elements: list[Element]) -> Iterator[tuple[list[Element], int]]:
    for at, element in enumerate(elements):
        yield elements, at
        if isinstance(element.value, list):
            for item in element.value:
                yield from _places(item)


def _place(rng, file: File) -> tuple[list[Element], int]:
    """Where an element stands, at the top level in half of the cases."""
    if rng.random() < 0.5:
        return file.elements, int(rng.integers(len(file.elements)))
    return _chosen(rng, list(_places(file.elements)))


def _value(rng, file: File, of: tuple[str, ...] = ()) -> Element:
    """An element that is no sequence, of kinds that may be given, not always deep in the file."""
    found = file.elements if rng.random() < 0.5 else _elements(file.elements)
    wanted = [
        e for e in found
        if not isinstance(e.value, list) and (not of or (e.kind in of and e.value.strip()))
    ]  # fmt: skip
    return _chosen(rng, wanted)


def _put(file: File, keyword: str, kind: str, value: bytes, **options) -> None:
    """An element of the top level, in place of the one that may be there."""
    made = Element(tag_for_keyword(keyword), kind, value, **options)
    file.elements = sorted(
        [made, *(e for e in file.elements if e.tag != made.tag)], key=lambda e: e.tag
    )


def _own_uids(content: bytes) -> list[bytes]:
    """Of the instance, the series, the study and the frame of reference."""
    tags = (0x00080018, 0x0020000D, 0x0020000E, 0x00200052)
    return [e.value for e in _parsed(content).elements if e.tag in tags]


def _chosen(rng, options):
    return options[int(rng.integers(len(options)))]


def _ion_plan() -> Plan:
    """Two beams of three layers, one behind a range shifter, one through an aperture."""
    machine = load_machine("generic_proton")
    opening = ((-20.0, -20.0), (20.0, -20.0), (20.0, 20.0), (-20.0, 20.0))
    beams = (
        Beam(0.0, (0.0, 5.0, -10.0), 0.0, machine.range_shifters[0].name, 30.0, -100.0),
        Beam(90.0, (0.0, 5.0, -10.0), 10.0, aperture=Aperture(opening, -120.0)),
    )
    return _grid_of_spots(machine, beams, energies=(12, 9, 4))


def _photon_plan() -> Plan:
    beams = (Beam(0.0, (0.0, 5.0, -10.0)), Beam(120.0, (0.0, 5.0, -10.0)))
    return _grid_of_spots(load_machine("generic_photon"), beams, energies=(0,))


def _grid_of_spots(machine, beams, energies) -> Plan:
    """Nine spots a layer, 5 mm apart."""
    layer = np.array([(v, u) for v in (-5.0, 0.0, 5.0) for u in (-5.0, 0.0, 5.0)], np.float32)
    v, u = np.tile(layer, (len(beams) * len(energies), 1)).T
    n_beam = len(energies) * len(layer)
    return Plan(
        machine, beams, np.repeat(np.arange(len(beams)), n_beam).astype(np.uint16),
        np.tile(np.repeat(energies, len(layer)), len(beams)).astype(np.uint16), u, v,
        np.linspace(1.0, 2.0, len(beams) * n_beam) * 1e6,
    )  # fmt: skip
