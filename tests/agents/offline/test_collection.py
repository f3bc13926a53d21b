"""Datasets that a collection writes: replayed, split by patient, gone on with after a stop."""

import json
from dataclasses import replace

import minari
import numpy as np
import pytest

from agents.baselines.energy_layer import RandomLayers
from agents.baselines.voxel_mask import uniform
from agents.evaluation import Trials
from agents.offline import collection as module
from agents.offline import datasets
from agents.offline.behaviors import Lookahead


def _replayed(dataset, env) -> None:
    """Assert that recorded actions from recorded seeds give what was recorded, to the last bit."""
    for about, episode in zip(datasets.of_episodes(dataset), dataset, strict=True):
        observation, info = env.reset(seed=about["seed"], options=about["options"])
        seen, rewards = [observation], []
        for action in episode.actions:
            observation, reward, terminated, truncated, info = env.step(action)
            seen.append(observation)
            rewards.append(reward)
        np.testing.assert_array_equal(rewards, episode.rewards)
        assert (terminated, truncated) == (episode.terminations[-1], episode.truncations[-1])
        assert info["score"] == about["score"] and info["case_id"] == about["case"]
        _same(seen, episode.observations)


def _same(seen: list, recorded) -> None:
    if isinstance(recorded, dict):
        for name, values in recorded.items():
            np.testing.assert_array_equal([o[name] for o in seen], values)
    else:
        np.testing.assert_array_equal(seen, recorded)


@pytest.mark.parametrize("quality", ["random", "medium"])
def test_recorded_actions_from_recorded_seeds_give_the_recorded_rewards(root, quality):
    with datasets.datasets_in(root):
        dataset = minari.load_dataset(f"ptenv/tiny/{quality}-v0")
    assert dataset.total_episodes == 2 * 2  # cases × budgets
    _replayed(dataset, dataset.recover_environment())


def test_arcs_are_replayed_too(arc_environment, tmp_path):
    made = module.Collection(
        arc_environment(), "random", RandomLayers(), {"train": ["nasopharynx-00000"]},
        Trials(None, 1), "ptenv/arc/random-v0",
    )  # fmt: skip
    made.collect(tmp_path)
    dataset = datasets.load("ptenv/arc/random-v0", tmp_path)
    assert {about["options"]["limit"] for about in datasets.of_episodes(dataset)} == {1.1, 1.5}
    _replayed(dataset, dataset.recover_environment())


def test_requests_are_replayed_too(shaping_environment, tmp_path):
    made = module.Collection(
        shaping_environment, "expert", Lookahead(), {"train": ["head-and-neck-00000"]},
        Trials((0, 1), 1), "ptenv/shaping/expert-v0",
    )  # fmt: skip
    made.collect(tmp_path)
    dataset = datasets.load("ptenv/shaping/expert-v0", tmp_path)
    assert dataset.total_episodes == 2
    _replayed(dataset, dataset.recover_environment())


def test_the_environment_to_be_judged_in_plays_validation_patients(root):
    env = datasets.load("ptenv/tiny/medium-v0", root).recover_environment(eval_env=True)
    _, info = env.reset(seed=0)
    assert info["case_id"].startswith("head-and-neck-100")


def test_no_patient_is_in_two_splits(root):
    patients = [
        {about["case"] for about in datasets.of_episodes(datasets.load(name, root))}
        for name in ("ptenv/tiny/medium-v0", "ptenv/tiny/medium-validation-v0",
                     "ptenv/tiny/medium-test-v0")
    ]  # fmt: skip
    assert all(patients)
    assert len(set.union(*patients)) == sum(map(len, patients)) == 4


def test_a_patient_of_two_splits_is_refused(collection):
    with pytest.raises(ValueError, match="one patient"):
        collection(cases={"train": ["head-and-neck-00000"], "test": ["head-and-neck-00000"]})


def test_metadata_say_the_quality_and_its_score_which_is_that_of_the_episodes(root):
    scores = {}
    for quality in ("random", "medium"):
        dataset = datasets.load(f"ptenv/tiny/{quality}-v0", root)
        told = datasets.about(dataset)
        played = [about["score"] for about in datasets.of_episodes(dataset)]
        assert told["score"]["mean"] == pytest.approx(np.mean(played))
        assert (told["quality"], told["score"]["n_cases"]) == (quality, 2)
        scores[quality] = told["score"]["mean"]
    assert scores["random"] < scores["medium"]


def test_a_stopped_collection_goes_on_and_ends_as_one_without_a_stop(
    collection, root, tmp_path, monkeypatch
):
    played = []

    def killed_at_the_third(*args, **kwargs):
        if len(played) == 2:
            raise KeyboardInterrupt
        played.append(recorded(*args, **kwargs))
        return played[-1]

    recorded = module.recorded
    monkeypatch.setattr(module, "recorded", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        collection().collect(tmp_path)
    kept = sorted((tmp_path / ".collecting").rglob("*.npz"))
    assert len(kept) == 2 and not datasets.is_there(tmp_path, "ptenv/tiny/medium-v0")

    again = []
    monkeypatch.setattr(module, "recorded", lambda *a, **k: again.append(recorded(*a, **k)) or
                        again[-1])  # fmt: skip
    collection().collect(tmp_path)
    assert len(again) == collection().n_episodes - 2
    assert not (tmp_path / ".collecting").exists()
    for name in collection().names.values():
        one, other = datasets.load(name, tmp_path), datasets.load(name, root)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.observations, b.observations)
            np.testing.assert_array_equal(a.rewards, b.rewards)


def test_processes_side_by_side_record_the_same(collection, root, tmp_path):
    done = []
    collection("random").collect(tmp_path, workers=2, progress=done.append)
    assert done[-1] == 8
    name = "ptenv/tiny/random-v0"
    for a, b in zip(datasets.load(name, tmp_path), datasets.load(name, root), strict=True):
        np.testing.assert_array_equal(a.rewards, b.rewards)


def test_a_collection_that_is_written_is_not_recorded_again(collection, root, monkeypatch):
    monkeypatch.setattr(module, "recorded", None)
    collection().collect(root)
    assert collection().scores(root)["train"]["n_cases"] == 2


def test_other_settings_under_the_same_name_are_refused(collection, root, tmp_path):
    with pytest.raises(ValueError, match="minari delete ptenv/tiny/medium-v0"):
        replace(collection(), settings={"made": "otherwise"}).collect(root)
    journal = tmp_path / ".collecting" / "ptenv/tiny/medium-v0"
    journal.mkdir(parents=True)
    (journal / "settings.json").write_text(json.dumps({"quality": "other"}))
    with pytest.raises(ValueError, match="remove the folder"):
        collection().collect(tmp_path)


def test_behavior_in_other_actions_than_learners_have_is_refused(collection):
    with pytest.raises(ValueError, match="mask"):
        collection(behavior=uniform())


def test_no_patient_at_all_is_refused(collection):
    with pytest.raises(ValueError, match="n_cases"):
        collection(cases={"train": []})
    with pytest.raises(ValueError, match="splits are"):
        collection(cases={"training": ["head-and-neck-00000"]})
