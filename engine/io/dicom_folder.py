"""What a folder of DICOM files holds, and what of it belongs together by its references.

Files are known by what they say, not by their names or places. In listings and messages a UID is
shown as a digest, for UIDs may hold dates; no text of a file is shown but its modality.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from engine.io.dicom_dataset import (
    DicomError,
    is_dicom,
    items,
    meta_text,
    read_header,
    text,
    whole,
)

Kind = Literal["series", "structures", "plan", "dose"]
KINDS: dict[str, Kind] = {
    "CT": "series", "RTSTRUCT": "structures", "RTPLAN": "plan", "RTDOSE": "dose",
}  # fmt: skip
TITLES: dict[Kind, str] = {
    "series": "CT series", "structures": "structure sets", "plan": "plans", "dose": "doses",
}  # fmt: skip
SHORT = 8  # characters of a UID's digest
SHOWN_UNREADABLE = 5
_LETTERS = str.maketrans("0123456789", "ghijklmnop")
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID",
    "ReferencedFrameOfReferenceSequence", "ReferencedStructureSetSequence",
    "ReferencedRTPlanSequence", "DoseSummationType", "DoseType", "NumberOfFrames",
    "BeamSequence", "IonBeamSequence",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A CT series, or one structure set, plan or dose."""

    kind: Kind
    uid: str  # of the series; of the SOP instance
    paths: tuple[Path, ...]
    refers_to: frozenset[str] = frozenset()  # UIDs of series, structure sets and plans
    frames: frozenset[str] = frozenset()  # frames of reference
    about: str = ""  # for the listing

    @property
    def short(self) -> str:
        return short(self.uid)

    @property
    def path(self) -> Path:
        """The one file of a structure set, a plan or a dose."""
        return self.paths[0]


@dataclass(frozen=True)
class DicomFolder:
    """Entries by kind, and what else there is."""

    entries: tuple[Entry, ...]
    others: dict[str, int]  # files by modality that have no kind
    n_not_dicom: int
    unreadable: tuple[str, ...]  # what is wrong with each
    n_copies: int  # of files that are there already

    def of(self, kind: Kind) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.kind == kind)

    def listing(self) -> str:
        """What was found, one entry a line with its short UID and what it refers to."""
        lines = []
        for kind, title in TITLES.items():
            found = self.of(kind)
            lines.append(f"{len(found)} {title if len(found) != 1 else _singular(kind)}")
            lines += [f"  {self._line(entry)}" for entry in found]
        lines += [f"{n} of modality {what}" for what, n in self.others.items()]
        if self.n_copies:
            lines.append(f"{self.n_copies} copies of files that are there already")
        if self.n_not_dicom:
            lines.append(f"{self.n_not_dicom} files that are not DICOM")
        lines += [f"unreadable: {why}" for why in self.unreadable[:SHOWN_UNREADABLE]]
        if len(self.unreadable) > SHOWN_UNREADABLE:
            lines.append(f"{len(self.unreadable) - SHOWN_UNREADABLE} more are unreadable")
        return "\n".join(lines)

    def chosen(
        self, kind: Kind, wish: str | None = None, among: Iterable[Entry] | None = None
    ) -> Entry:
        """The entry that ``wish`` names, by its UID or a beginning of its digest; or the only one
        of ``among`` (by default of all of the kind). Otherwise a refusal that lists them."""
        found = self.of(kind)
        if not found:
            raise DicomError(f"there is no {_singular(kind)} in the folder. {self._found()}")
        if wish is not None:
            wished = [e for e in found if wish == e.uid or (wish and e.short.startswith(wish))]
            if len(wished) != 1:
                raise DicomError(
                    f"{kind}={wish!r} names {len(wished)} of the {TITLES[kind]} in the folder; "
                    f"choose by {kind}=… one of them. {self._found()}"
                )
            return wished[0]
        among = found if among is None else tuple(among)
        if len(among) == 1:
            return among[0]
        if not among:
            raise DicomError(
                f"no {_singular(kind)} in the folder belongs to what was chosen; choose by "
                f"{kind}=… one of them. {self._found()}"
            )
        raise DicomError(
            f"there are {len(among)} {TITLES[kind]} that could be meant; choose by {kind}=… one "
            f"of {', '.join(entry.short for entry in among)}. {self._found()}"
        )

    def belonging(self, kind: Kind, to: Entry) -> tuple[Entry, ...]:
        """Entries of a kind that refer to another or that it refers to; failing those, structure
        sets and series that share a frame of reference with it."""
        found = self.of(kind)
        direct = tuple(e for e in found if to.uid in e.refers_to or e.uid in to.refers_to)
        if direct or {kind, to.kind} != {"series", "structures"}:
            return direct
        return tuple(e for e in found if e.frames & to.frames)

    def _line(self, entry: Entry) -> str:
        refers = sorted(short(uid) for uid in entry.refers_to)
        there = {e.short for e in self.entries}
        shown = [uid if uid in there else f"{uid} (not here)" for uid in refers]
        return f"{entry.short}  {entry.about}" + (f", refers to {', '.join(shown)}" * bool(shown))

    def _found(self) -> str:
        return f"Found:\n{self.listing()}"


def scan(path: str | Path) -> DicomFolder:
    """What a folder with its sub-folders holds; a file that is in it twice counts once."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"path={str(path)!r} is no folder; give one with DICOM files.")
    headers: dict[str, Dataset] = {}
    others, unreadable = Counter(), []
    n_not_dicom = n_copies = 0
    for file in _files(folder):
        if not is_dicom(file):
            n_not_dicom += 1
            continue
        try:
            header = read_header(file, _KEYWORDS)
            modality = _modality(header)
            if modality not in KINDS:
                others[modality] += 1
                continue
            uid = text(header, "SOPInstanceUID")
        except DicomError as error:
            unreadable.append(str(error))
            continue
        n_copies += uid in headers
        headers.setdefault(uid, header)
    entries = _entries(headers, unreadable)
    if not entries and not unreadable and not others:
        raise DicomError(
            f"path={str(path)!r} holds no DICOM file ({n_not_dicom} of other kinds); give the "
            "folder of a patient's files."
        )
    return DicomFolder(
        entries, dict(sorted(others.items())), n_not_dicom, tuple(unreadable), n_copies
    )


def short(uid: str) -> str:
    """A UID's digest, which tells nothing but whether two are the same.

    It is of letters alone: of 75e94123 a command line makes a number.
    """
    return sha256(uid.encode()).hexdigest()[:SHORT].translate(_LETTERS)


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(parent, name) for name in sorted(names)]
    return found


def _modality(header: Dataset) -> str:
    """What a file is; a directory of files (PS3.10 8) has no modality of its own."""
    if meta_text(header, "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return "DICOMDIR"
    modality = text(header, "Modality")
    return modality if modality.isalnum() and len(modality) <= 16 else "unknown"


def _entries(headers: dict[str, Dataset], unreadable: list[str]) -> tuple[Entry, ...]:
    """Series first, then what refers to them, in the order of their files."""
    entries: dict[tuple[Kind, str], Entry] = {}
    for sop_uid, header in headers.items():
        try:
            entry = _entry(header, sop_uid)
        except DicomError as error:
            unreadable.append(str(error))
            continue
        known = entries.get((entry.kind, entry.uid))
        if known is not None:
            entry = replace(
                known, paths=known.paths + entry.paths, frames=known.frames | entry.frames
            )
        entries[entry.kind, entry.uid] = entry
    order = list(TITLES)
    found = sorted(entries.values(), key=lambda entry: order.index(entry.kind))
    return tuple(
        replace(e, about=f"{len(e.paths)} files") if e.kind == "series" else e for e in found
    )


def _entry(header: Dataset, sop_uid: str) -> Entry:
    kind = KINDS[text(header, "Modality")]
    frame = text(header, "FrameOfReferenceUID", "")
    frames = frozenset([frame] if frame else [])
    paths = (Path(header.filename),)
    if kind == "series":
        return Entry(kind, text(header, "SeriesInstanceUID"), paths, frames=frames)
    if kind == "structures":
        series, drawn_in = _drawn_on(header)
        return Entry(kind, sop_uid, paths, series, frames | drawn_in, "structures")
    refers_to = frozenset(
        text(item, "ReferencedSOPInstanceUID", "")
        for sequence in ("ReferencedStructureSetSequence", "ReferencedRTPlanSequence")
        for item in items(header, sequence)
    ) - {""}
    about = _about_plan(header) if kind == "plan" else _about_dose(header)
    return Entry(kind, sop_uid, paths, refers_to, frames, about)


def _drawn_on(header: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """UIDs of the series and of the frames of reference that a structure set was drawn on."""
    series, frames = set(), set()
    for frame in items(header, "ReferencedFrameOfReferenceSequence"):
        frames.add(text(frame, "FrameOfReferenceUID", ""))
        for study in items(frame, "RTReferencedStudySequence"):
            for item in items(study, "RTReferencedSeriesSequence"):
                series.add(text(item, "SeriesInstanceUID", ""))
    return frozenset(series - {""}), frozenset(frames - {""})


def _about_plan(header: Dataset) -> str:
    ions, photons = items(header, "IonBeamSequence"), items(header, "BeamSequence")
    what = "ions" if ions else "photons or electrons"
    return f"{len(ions or photons)} beams of {what}"


def _about_dose(header: Dataset) -> str:
    parts = [text(header, keyword, "") for keyword in ("DoseSummationType", "DoseType")]
    n_frames = whole(header, "NumberOfFrames", 1)
    return ", ".join([*(part for part in parts if part.isalpha()), f"{n_frames} slices"])


def _singular(kind: Kind) -> str:
    return TITLES[kind] if kind == "series" else TITLES[kind].removesuffix("s")
