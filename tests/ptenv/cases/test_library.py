import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest

from ptenv.cases import library
from ptenv.cases.library import forget_cases, load_case
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.cases.store import CacheWarning


@pytest.fixture
def tiny(small):
    """The smallest case there is: a target alone, hardly any anchors."""
    least = {"level": "L0", "n_anchor_masks": 1, "converged_evaluations": 2,
             "quality_evaluations": 2, "budgets": [0.1]}  # fmt: skip
    return VoxelMaskRecipe(patient="head-and-neck-00003", **{**small, **least})


def count_builds(monkeypatch):
    name = VoxelMaskRecipe.__name__
    built, kind = [], library.KINDS[name]
    counting = kind._replace(build=lambda r: built.append(r) or kind.build(r))
    monkeypatch.setitem(library.KINDS, name, counting)
    return built


def test_a_case_is_built_once_and_read_by_later_processes(own_cache, tiny, monkeypatch):
    built = count_builds(monkeypatch)
    case = load_case(tiny)
    assert load_case(tiny) is case
    forget_cases()  # as a new process would
    again = load_case(tiny)
    assert len(built) == 1
    assert again.key == case.key
    np.testing.assert_array_equal(again.influence.values, case.influence.values)


def test_without_the_cache_the_disk_is_left_alone(own_cache, tiny, monkeypatch):
    built = count_builds(monkeypatch)
    assert load_case(tiny, cache=False) is load_case(tiny, cache=False)
    assert len(built) == 1
    assert not own_cache.exists()


def test_a_damaged_entry_is_built_again(own_cache, tiny, monkeypatch):
    first = load_case(tiny)
    path = own_cache / tiny.key() / "influence.values.npy"
    path.write_bytes(path.read_bytes()[:-10])
    forget_cases()
    built = count_builds(monkeypatch)
    with pytest.warns(CacheWarning, match="is damaged"):
        again = load_case(tiny)
    assert len(built) == 1
    assert again.anchors == first.anchors


def test_a_cache_that_cannot_be_written_stops_before_anything_is_built(tmp_path, tiny, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path / "file" / "cache"))
    forget_cases()
    built = count_builds(monkeypatch)
    with pytest.raises(OSError, match="set PTENV_CACHE"):
        load_case(tiny)
    assert not built
    assert load_case(tiny, cache=False).key == tiny.key()


def test_a_case_that_does_not_fit_on_the_disk_is_not_lost(own_cache, tiny, monkeypatch):
    def no_space(self, key, description, arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.CaseStore, "write", no_space)
    with pytest.warns(CacheWarning, match="No space left"):
        assert load_case(tiny).key == tiny.key()


def test_two_processes_may_build_the_same_case_at_once(own_cache, tiny):
    code = (
        "import sys, json, warnings; warnings.simplefilter('error');"
        "from ptenv.cases.library import load_case; from ptenv.cases.recipe import VoxelMaskRecipe;"
        "print(load_case(VoxelMaskRecipe(**json.loads(sys.argv[1]))).anchors.f_star)"
    )
    command = [sys.executable, "-c", code, json.dumps(asdict(tiny))]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    values = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert values[0] == values[1] != ""
    assert [p.name for p in own_cache.iterdir()] == [tiny.key()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_case(tiny)


def test_memory_holds_a_bounded_number_of_cases(own_cache, tiny, monkeypatch):
    monkeypatch.setattr(library, "IN_MEMORY", 2)
    cases = [load_case(replace(tiny, quality_evaluations=n)) for n in (2, 3, 4)]
    assert list(library._memory) == [c.key for c in cases[1:]]


def test_a_pickled_case_is_its_recipe(own_cache, tiny, monkeypatch):
    case = load_case(tiny)
    text = pickle.dumps(case)
    assert len(text) < 5000
    assert pickle.loads(text) is case
    built = count_builds(monkeypatch)
    forget_cases()
    assert pickle.loads(text).key == case.key  # read from the cache
    assert not built
    monkeypatch.setenv("PTENV_CACHE", str(own_cache.parent / "other"))
    forget_cases()
    assert pickle.loads(text).anchors == case.anchors  # built again
    assert len(built) == 1


def test_a_pickled_case_of_another_version_is_refused(own_cache, tiny):
    case = replace(load_case(tiny), key="0" * 24)
    with pytest.raises(ValueError, match="changed; start the episode again"):
        pickle.loads(pickle.dumps(case))
