import os
import warnings
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from ptenv.cases import store as stores
from ptenv.cases.store import CacheWarning, CaseStore, default_folder

DESCRIPTION = {"name": "one", "numbers": [0.1, 2]}


def arrays(n=1000):
    return {"a": np.arange(n, dtype=np.float32), "deep.b": np.ones((2, 3), np.uint16),
            "none": np.zeros(0, np.uint32)}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return CaseStore(tmp_path / "cache")


def test_an_entry_comes_back_bit_by_bit_and_cannot_be_written_to(store):
    store.write("k", DESCRIPTION, arrays())
    description, found = store.read("k")
    assert description == DESCRIPTION
    assert found.keys() == arrays().keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert type(found[name]) is np.ndarray
    for name in ("a", "deep.b"):  # one is mapped, one is read
        with pytest.raises(ValueError, match="read-only"):
            found[name][0] = 1


def test_what_is_not_there_is_none(store):
    assert store.read("k") is None


def test_a_reader_never_sees_half_an_entry(store, monkeypatch):
    def full_disk(path, array):
        assert store.read("k") is None  # while it is being written
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.write("k", DESCRIPTION, arrays())
    assert store.read("k") is None
    assert list(store.folder.iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "description", "json", "no json"])
def test_a_damaged_entry_is_warned_of_and_removed(store, damage):
    store.write("k", DESCRIPTION, arrays())
    folder = store.folder / "k"
    array, text = folder / "a.npy", folder / "entry.json"
    if damage == "flip":
        data = bytearray(array.read_bytes())
        data[-1] ^= 1
        array.write_bytes(data)
    elif damage == "truncate":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "remove":
        array.unlink()
    elif damage == "description":
        text.write_text(text.read_text().replace("one", "two"))
    elif damage == "json":
        text.write_text(text.read_text()[:-9])
    else:
        text.write_text("[1, 2]")
    with pytest.warns(CacheWarning, match="is damaged .* building it again"):
        assert CaseStore(store.folder).read("k") is None
    assert not folder.exists()


def test_an_entry_that_cannot_be_read_just_now_is_kept(store, monkeypatch):
    store.write("k", DESCRIPTION, arrays())

    def no_more_files(path, mmap_mode=None):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(stores.np, "load", no_more_files)
        with pytest.warns(CacheWarning, match="cannot be read .*Too many open files.* anew"):
            assert store.read("k") is None
    assert store.read("k") is not None


def test_large_arrays_are_mapped_and_small_ones_hold_no_file_open(store):
    """A process may have 1024 open files or fewer, and every map holds one."""
    parts = {f"part{i}": np.ones(100, np.float32) for i in range(50)}
    store.write("k", DESCRIPTION, {"large": np.ones(250_000, np.float32), **parts})
    _, found = store.read("k")
    mapped = [name for name, array in found.items() if isinstance(array.base, np.memmap)]
    assert mapped == ["large"]
    assert not any(array.flags.writeable for array in found.values())


def test_checksums_are_compared_when_a_process_first_opens_an_entry(store, monkeypatch):
    store.write("k", DESCRIPTION, arrays())
    sums = []
    monkeypatch.setattr(stores, "crc32", lambda data: sums.append(1) or crc32(data))
    store.read("k")
    first = len(sums)
    store.read("k")
    assert first == 1 + len(arrays())
    assert len(sums) - first == 1  # of the description alone


def test_the_oldest_entries_go_when_the_store_is_full(tmp_path):
    size = 4 * 250_000
    store = CaseStore(tmp_path, limit_gb=2.5 * size / 1e9)
    for number, key in enumerate("abc"):
        store.write(key, DESCRIPTION, arrays(250_000))
        os.utime(tmp_path / key, (1000 + number, 1000 + number))
        if key == "b":
            store.read("a")  # used last: b is the oldest now
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c"]


def test_an_entry_larger_than_the_limit_is_kept_while_it_is_new(tmp_path):
    store = CaseStore(tmp_path, limit_gb=1e-6)
    store.write("a", DESCRIPTION, arrays())
    assert store.read("a") is not None


def test_eviction_leaves_files_that_are_not_the_cache_s(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x" * 10_000)
    store = CaseStore(tmp_path, limit_gb=1e-6)
    store.write("a", DESCRIPTION, arrays())
    store.write("b", DESCRIPTION, arrays())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine"]


def test_what_an_interrupted_process_left_goes_after_a_day(tmp_path):
    for name, age in (("old", 2 * stores.ABANDONED_S), ("new", 0.0)):
        folder = tmp_path / f"{stores.TEMPORARY}{name}"
        folder.mkdir()
        then = folder.stat().st_mtime - age
        os.utime(folder, (then, then))
    CaseStore(tmp_path).write("a", DESCRIPTION, arrays())
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{stores.TEMPORARY}new", "a"]


def test_the_second_of_two_equal_entries_changes_nothing(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.write("k", DESCRIPTION, arrays())
        store.write("k", DESCRIPTION, arrays())
        CaseStore(store.folder).read("k")
    assert [p.name for p in store.folder.iterdir()] == ["k"]


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("no folder")
    store = CaseStore(tmp_path / "file" / "cache")
    for attempt in (store.require_writable, lambda: store.write("k", DESCRIPTION, arrays())):
        with pytest.raises(OSError, match="cannot be written .* set PTENV_CACHE .* cache=False"):
            attempt()


def test_the_folder_is_the_user_s_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("PTENV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/ptenv/cases")
    monkeypatch.setenv("PTENV_CACHE", "/elsewhere")
    assert default_folder() == Path("/elsewhere")


def test_wrong_limits_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="limit_gb=0"):
        CaseStore(tmp_path, limit_gb=0)
    monkeypatch.setenv("PTENV_CACHE_GB", "much")
    with pytest.raises(ValueError, match="PTENV_CACHE_GB='much' is no number"):
        CaseStore(tmp_path)
