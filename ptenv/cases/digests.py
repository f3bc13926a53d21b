"""Hashes of what a case depends on: numbers, and the files of patients and machines."""

import json
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path


def digest_of_content(content: dict) -> str:
    """Key of a case from all that its numbers depend on."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def digest_of_files(path: Path) -> str:
    """Hash of a file, or of the names and contents of a folder's files.

    A zip counts as the folder that it holds: a patient is the same case however it is kept.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    stamps = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    return _digest_of(str(path), stamps)


@lru_cache(maxsize=512)  # read again only when a stamp changes
def _digest_of(path: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    if path.endswith(".zip"):
        try:
            return _digest_of_named(_in_zip(Path(path)))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
            pass  # who reads the patient says what is wrong with it
    if not Path(path).is_dir():
        return _digest_of_named([("", _sha256(Path(path).open("rb")))])
    files = [Path(file) for file, _, _ in stamps]
    return _digest_of_named([
        (f.relative_to(path).as_posix(), _sha256(f.open("rb"))) for f in files
    ])  # fmt: skip


def _in_zip(path: Path) -> list[tuple[str, bytes]]:
    """Names and hashes of a zip's files, without the folder that holds all of them."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if not n.endswith("/"))
        folders = {n.partition("/")[0] if "/" in n else "" for n in names}
        top = f"{folders.pop()}/" if len(folders) == 1 else ""
        top = "" if top == "/" else top
        return [(n.removeprefix(top), _sha256(archive.open(n))) for n in names]


def _digest_of_named(files: Iterable[tuple[str, bytes]]) -> str:
    digest = sha256()
    for name, content in sorted(files):
        digest.update(f"{name}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _sha256(stream) -> bytes:
    with stream:
        return file_digest(stream, "sha256").digest()
