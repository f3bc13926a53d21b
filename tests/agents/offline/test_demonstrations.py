"""Doses shaped by hand become episodes of the environment."""

import json

import numpy as np
import pytest

from agents.offline import datasets
from agents.offline.demonstrations import Demonstrations, split_of

NAME = "ptenv/shaping/human-v0"


@pytest.fixture(scope="module")
def folder(shaped, tmp_path_factory):
    """Two patients to learn from and one of validation, each in a folder of `ptenv shape`."""
    folder = tmp_path_factory.mktemp("shaped")
    for i, case in enumerate(("head-and-neck-00000", "head-and-neck-00001",
                              "head-and-neck-10000")):  # fmt: skip
        shaped(folder / f"run_{i}" / "episode.json", case, requests=2 + i % 2)
    return folder


@pytest.fixture(scope="module")
def written(shaping_environment, folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("human")
    return root, Demonstrations(shaping_environment, folder, NAME).collect(root)


def test_demonstrations_are_split_by_patient(written):
    root, scores = written
    assert {split: s["n_cases"] for split, s in scores.items()} == {"train": 2, "validation": 1}
    cases = [about["case"] for about in datasets.of_episodes(datasets.load(NAME, root))]
    assert cases == ["head-and-neck-00000", "head-and-neck-00001"]


def test_demonstrated_actions_give_the_recorded_rewards_in_the_recovered_environment(written):
    dataset = datasets.load(NAME, written[0])
    env = dataset.recover_environment()
    assert env.action_space.shape == (5,)
    for about, episode in zip(datasets.of_episodes(dataset), dataset, strict=True):
        env.reset(seed=about["seed"], options=about["options"])
        steps = [env.step(action) for action in episode.actions]
        np.testing.assert_array_equal([s[1] for s in steps], episode.rewards)
        assert steps[-1][2] and episode.actions[-1, 4] == 1.0  # it ends by the stop action
        assert len(episode.rewards) == 3 + (about["case"] == "head-and-neck-00001")


def test_single_voxels_score_what_the_person_reached(written):
    for about in datasets.of_episodes(datasets.load(NAME, written[0])):
        assert about["score"] == pytest.approx(about["score_of_requests"], abs=0.01)


def test_other_patients_are_to_learn_from():
    assert split_of("head-and-neck-10003") == "validation"
    assert split_of("nasopharynx-20001") == "test"
    assert split_of("openkbp:pt_1.zip") == split_of("head-and-neck-50000") == "train"


def test_a_folder_without_demonstrations_is_refused(shaping_environment, tmp_path):
    with pytest.raises(ValueError, match="holds no episode.json"):
        Demonstrations(shaping_environment, tmp_path, NAME)


def test_demonstrations_without_a_request_are_refused(shaping_environment, shaped, tmp_path):
    shaped(tmp_path / "episode.json", requests=0)
    with pytest.raises(ValueError, match="none with a request"):
        Demonstrations(shaping_environment, tmp_path, NAME)


def test_a_file_that_is_no_demonstration_is_refused(shaping_environment, tmp_path):
    for content in ("no json", json.dumps({"requests": []})):
        (tmp_path / "episode.json").write_text(content)
        with pytest.raises(ValueError, match=r"episode\.json"):
            Demonstrations(shaping_environment, tmp_path, NAME)


def test_demonstrations_of_another_environment_are_refused(
    shaping_environment, shaped, tmp_path
):
    path = shaped(tmp_path / "episode.json")
    record = json.loads(path.read_text())
    record["environment"]["id"] = "ptenv/DoseShaping-v0"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="shaped in ptenv/DoseShaping-v0"):
        Demonstrations(shaping_environment, tmp_path, NAME)
    shaped(path)
    record["environment"]["id"] = shaping_environment.id
    record["environment"]["settings"]["n_recovery"] = 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "episode.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="n_recovery"):
        Demonstrations(shaping_environment, tmp_path, NAME)


def test_datasets_that_are_there_are_not_written_over(shaping_environment, folder, written):
    with pytest.raises(ValueError, match="already"):
        Demonstrations(shaping_environment, folder, NAME).collect(written[0])
