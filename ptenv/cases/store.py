"""The disk cache of cases: one folder an entry, plain npy arrays that workers map and share.

An entry is written under a temporary name and renamed, so a reader never sees half of one and two
processes may build the same entry at once. Checksums are compared when a process first opens an
entry; a damaged one is removed with a warning, and the caller builds it anew. The oldest entries
go when the store outgrows its limit, and what an interrupted process left behind goes after a day.

A map holds its file open, and many systems allow a process 1024 open files or fewer: the few arrays
that make up an entry are mapped, the many small ones beside them are read.
"""

import json
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from zlib import crc32

import numpy as np

DEFAULT_LIMIT_GB = 20.0
MAPPED_SHARE = 0.05  # of an entry's bytes: arrays from here on are mapped
ABANDONED_S = 86_400.0  # age at which a folder that was never finished is removed
TEMPORARY = ".building-"
Entry = tuple[dict, dict[str, np.ndarray]]  # plain description, arrays by name


class CacheWarning(UserWarning):
    """An entry of the case cache was damaged or could not be read or written."""


def default_folder() -> Path:
    """PTENV_CACHE, or the user's cache folder."""
    chosen = os.environ.get("PTENV_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ptenv" / "cases"


class CaseStore:
    """Entries by key under one folder, at most ``limit_gb`` in all (PTENV_CACHE_GB)."""

    def __init__(self, folder: Path | str | None = None, limit_gb: float | None = None):
        self.folder = Path(folder) if folder is not None else default_folder()
        limit = _limit_of_environment() if limit_gb is None else limit_gb
        if not limit > 0:
            raise ValueError(f"limit_gb={limit} must be positive.")
        self.limit_bytes = limit * 1e9
        self._checked: set[str] = set()

    def require_writable(self) -> None:
        """Raise OSError with advice if entries cannot be added."""
        shutil.rmtree(self._temporary_folder(), ignore_errors=True)

    def read(self, key: str) -> Entry | None:
        """An entry with its arrays read-only, or None if there is none that is whole."""
        folder = self.folder / key
        if not folder.is_dir():
            return None
        try:
            return self._opened(key, folder)
        except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError) as error:
            _warn(f"case cache entry {folder} is damaged ({error}); building it again.")
            shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:  # no rights, too many open files: the entry may be sound
            _warn(f"case cache entry {folder} cannot be read ({error}); building the case anew.")
        return None

    def write(self, key: str, description: dict, arrays: dict[str, np.ndarray]) -> None:
        """Add an entry; another process's equal entry is as good as ours."""
        temporary = self._temporary_folder()
        try:
            sums = {}
            for name, array in arrays.items():
                array = np.ascontiguousarray(array)
                np.save(temporary / f"{name}.npy", array)
                sums[name] = _checksum(array)
            text = json.dumps(description)
            content = {"description": text, "checksum": crc32(text.encode()), "arrays": sums}
            (temporary / "entry.json").write_text(json.dumps(content))
            os.replace(temporary, self.folder / key)
        except OSError:
            if not (self.folder / key).is_dir():  # not because somebody else was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._evict(keep=key)

    def _opened(self, key: str, folder: Path) -> Entry:
        entry = json.loads((folder / "entry.json").read_text())
        if crc32(entry["description"].encode()) != entry["checksum"]:
            raise ValueError("the description has another checksum")
        mapped_from = MAPPED_SHARE * _size(folder)
        arrays = {}
        for name, checksum in entry["arrays"].items():
            array = _read_only(folder / f"{name}.npy", mapped_from)
            if key not in self._checked and _checksum(array) != checksum:
                raise ValueError(f"array {name!r} has another checksum")
            arrays[name] = array
        self._checked.add(key)
        _mark_used(folder)
        return json.loads(entry["description"]), arrays

    def _temporary_folder(self) -> Path:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.folder))
        except OSError as error:
            raise OSError(
                f"the case cache {self.folder} cannot be written ({error}); set PTENV_CACHE to a "
                "folder that can, or pass cache=False to build without it."
            ) from error

    def _evict(self, keep: str) -> None:
        entries = []
        for folder in self.folder.iterdir():
            if folder.name.startswith(TEMPORARY):
                if time.time() - _last_used(folder) > ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
            elif (folder / "entry.json").is_file():  # nothing else here is ours to remove
                entries.append(folder)
        sizes = {f: _size(f) for f in entries}
        total = sum(sizes.values())
        for folder in sorted(entries, key=_last_used):
            if total <= self.limit_bytes:
                break
            if folder.name != keep:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]


def _limit_of_environment() -> float:
    text = os.environ.get("PTENV_CACHE_GB", "")
    if not text:
        return DEFAULT_LIMIT_GB
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"PTENV_CACHE_GB={text!r} is no number; unset it or give GB.") from None


def _read_only(path: Path, mapped_from: float) -> np.ndarray:
    """A file's array, mapped where the file has ``mapped_from`` bytes or more."""
    mode = "r" if path.stat().st_size >= mapped_from else None
    # a plain view: compiled code takes a map for another kind of array, call by call
    array = np.asarray(np.load(path, mmap_mode=mode))
    array.flags.writeable = False
    return array


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=3)


def _checksum(array: np.ndarray) -> int:
    return crc32(array.data.cast("B") if array.size else b"")


def _mark_used(folder: Path) -> None:
    try:
        os.utime(folder)  # used now: the last to be evicted
    except OSError:  # a store that others own may be read all the same
        pass


def _size(folder: Path) -> int:
    try:
        return sum(f.stat().st_size for f in folder.iterdir())
    except OSError:  # another process evicts it just now
        return 0


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
