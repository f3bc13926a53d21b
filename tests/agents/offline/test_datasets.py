"""Names of datasets, and how they are found."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from agents.offline import datasets


def test_ids_name_the_environment_the_quality_and_the_split():
    named = datasets.dataset_id
    assert named("ptenv/VoxelMask-mini-v0", "expert") == "ptenv/voxel-mask-mini/expert-v0"
    assert named("ptenv/DoseShaping-v0", "human", "test", 2) == "ptenv/dose-shaping/human-test-v2"
    assert datasets.of_split("a/b-v1", "validation") == "a/b-validation-v1"
    with pytest.raises(ValueError, match="dataset='expert'"):
        datasets.of_split("expert", "test")


def test_a_dataset_that_is_not_there_is_named_with_those_that_are(root):
    with pytest.raises(ValueError, match=r"ptenv/tiny/mediun-v0.*ptenv/tiny/medium-v0"):
        datasets.load("ptenv/tiny/mediun-v0", root)


def test_a_folder_is_given_to_minari_only_for_a_while(tmp_path, monkeypatch):
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    with datasets.datasets_in(tmp_path):
        assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path)
    assert "MINARI_DATASETS_PATH" not in os.environ


def test_a_relative_folder_will_do(collection, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = collection("random", {"train": ["head-and-neck-00000"]})
    made.collect(Path("here"))
    assert datasets.load(made.name, "here").total_episodes == 2
    assert (tmp_path / "here" / made.name / "data" / "metadata.json").exists()


def test_large_arrays_are_compressed_on_disk_and_read_as_they_were(tmp_path):
    path = tmp_path / "main_data.hdf5"
    plane, rewards = np.zeros((25, 9, 24, 20), np.float32), np.arange(24.0)
    plane[:, 2] = 0.25
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        group.attrs["seed"] = 7
        group.create_dataset("observations/plane", data=plane, maxshape=(None, 9, 24, 20))
        group.create_dataset("rewards", data=rewards, maxshape=(None,), chunks=True)
    before = path.stat().st_size
    datasets._compress(path)
    assert path.stat().st_size < before / 10
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["episode_0/observations/plane"], plane)
        np.testing.assert_array_equal(file["episode_0/rewards"], rewards)
        assert file["episode_0"].attrs["seed"] == 7


def test_what_a_killed_run_left_is_written_anew(collection, tmp_path):
    made = collection("random", {"train": ["head-and-neck-00000"]})
    half = tmp_path / ".collecting" / ".writing" / made.name / made.name / "data"
    half.mkdir(parents=True)
    (half / "metadata.json").write_text("{")
    made.collect(tmp_path)
    assert datasets.load(made.name, tmp_path).total_episodes == 2
    assert not (tmp_path / ".collecting").exists()


def test_minari_alone_recovers_the_environment(root):
    """A person who loads a dataset imports minari, and nothing of ours."""
    said = subprocess.run(
        [sys.executable, "-c", "import minari; d = minari.load_dataset('ptenv/tiny/medium-v0');"
         "print(d.recover_environment().spec.id)"],
        env={**os.environ, "MINARI_DATASETS_PATH": str(root)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "ptenv/VoxelMask-mini-v0"


def test_missing_packages_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ValueError, match=r"ptenv\[offline\]"):
        datasets.require_minari()
