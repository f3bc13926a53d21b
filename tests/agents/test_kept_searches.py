"""Searches on disk: a killed headroom table goes on from those that had ended."""

from types import SimpleNamespace

import numpy as np
import pytest

from agents.baselines.search import Found
from agents.kept_searches import KeptSearches

FIELD = Found("field", np.array([0.1, -1.0], np.float32), np.array([0.4, 0.5]), 0.6, 12)
LAYERS = Found("annealing", np.array([[3, 4]]), np.array([0.3]), 0.3, 7)
SETTINGS = {"search": {"steps": 3}, "env": {"id": "a-v0"}}


def kept(path, settings=SETTINGS, key="k"):
    return KeptSearches(path, settings, {"a": SimpleNamespace(key=key)})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "searches.jsonl"
    kept(path).add(("a", 0.1), FIELD)
    kept(path).add(("a", 0.2), LAYERS)
    return path


def test_what_was_found_comes_back_with_its_kinds_of_numbers(path):
    found = kept(path).found([("a", 0.1), ("a", 0.2), ("a", 0.3)])
    assert list(found) == [("a", 0.1), ("a", 0.2)]
    for wanted, got in zip((FIELD, LAYERS), found.values()):
        assert got.as_dict() == wanted.as_dict()
        assert got.action.dtype == wanted.action.dtype
        assert np.array_equal(got.scores, wanted.scores)


def test_other_settings_or_another_case_are_searched_anew(path):
    jobs = [("a", 0.1)]
    assert kept(path, {**SETTINGS, "search": {"steps": 4}}).found(jobs) == {}
    assert kept(path, {**SETTINGS, "env": {"id": "b-v0"}}).found(jobs) == {}
    assert kept(path, key="other").found(jobs) == {}


def test_no_folder_of_a_patient_is_named(tmp_path):
    folder = tmp_path / "Doe_Jane"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(b"a")
    name, path = f"dicom:{folder}", tmp_path / "searches.jsonl"
    searches = KeptSearches(path, SETTINGS, {name: SimpleNamespace(key="k")})
    searches.add((name, 0.1), FIELD)
    assert list(searches.found([(name, 0.1)])) == [(name, 0.1)]
    assert "Doe" not in path.read_text()


def test_a_line_that_a_kill_cut_is_forgotten_and_later_ones_are_whole(path):
    path.write_bytes(path.read_bytes()[:-20])
    assert list(kept(path).found([("a", 0.1), ("a", 0.2)])) == [("a", 0.1)]
    kept(path).add(("a", 0.2), LAYERS)
    assert len(kept(path).found([("a", 0.1), ("a", 0.2)])) == 2


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "k"}', '{"key": "k", "found": {"kind": 1}}'])
def test_a_file_of_something_else_is_refused_with_the_line(path, line):
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match="line 3 holds no search .* remove the file"):
        kept(path).found([("a", 0.1)])
