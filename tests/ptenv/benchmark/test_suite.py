import json

import pytest

from ptenv.benchmark.records import Episode
from ptenv.benchmark.suite import SPLITS, Data, load_suite, suites


@pytest.mark.parametrize("name", suites())
def test_every_suite_that_ships_is_defined_soundly(name):
    suite = load_suite(name, frozen=False)
    assert suite.n_runs >= 5
    for task in suite.tasks:
        assert task.cases["test"]
        for split in SPLITS:
            assert not any(suite.may_be_learned_from(c) for c in task.cases[split])
        if task.shift_of is not None:
            assert suite.task(task.shift_of).axis is None
            assert task.axis


def test_ranges_stand_for_all_between(tiny_suite_file):
    task = load_suite(tiny_suite_file).task("voxel-mask")
    assert task.cases["test"] == ("head-and-neck-20000", "head-and-neck-20001")


def test_every_agent_meets_the_same_seeds_and_no_two_episodes_share_one(tiny_suite_file):
    suite = load_suite(tiny_suite_file)
    episodes = [e for t in suite.tasks for e in suite.episodes(t)]
    assert len(episodes) == 2 * 2 * 2 + 1 * 1 * 2
    seeds = [suite.seed_of(e) for e in episodes]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [load_suite(tiny_suite_file).seed_of(e) for e in episodes]


def test_training_cases_are_allowed_and_judged_ones_are_not(tiny_suite_file):
    suite = load_suite(tiny_suite_file)
    assert suite.may_be_learned_from("head-and-neck-00042")
    for case in ("head-and-neck-20000", "head-and-neck-10000", "nasopharynx-00001", "other"):
        assert not suite.may_be_learned_from(case)


def test_a_budget_whose_anchors_are_too_close_has_no_episodes(tiny_suite_file, tmp_path):
    plain = json.loads(tiny_suite_file.with_suffix(".json").read_text())
    plain["tasks"]["voxel-mask"]["cases"]["head-and-neck-20000"]["unsound"] = [0.1]
    copy = tmp_path / "tiny.toml"
    copy.write_text(tiny_suite_file.read_text())
    copy.with_suffix(".json").write_text(json.dumps(plain))
    suite = load_suite(copy)
    found = set(suite.episodes(suite.task("voxel-mask")))
    assert Episode("voxel-mask", "head-and-neck-20000", 0.1, 0) not in found
    assert Episode("voxel-mask", "head-and-neck-20001", 0.1, 0) in found


def test_a_suite_that_changed_after_freezing_is_refused(tiny_suite_file, tmp_path):
    copy = tmp_path / "tiny.toml"
    copy.write_text(tiny_suite_file.read_text().replace("seed = 1", "seed = 2"))
    copy.with_suffix(".json").write_text(tiny_suite_file.with_suffix(".json").read_text())
    with pytest.raises(ValueError, match="changed after it was frozen"):
        load_suite(copy)


def test_a_suite_that_is_not_frozen_is_refused(tiny_suite_file, tmp_path):
    copy = tmp_path / "tiny.toml"
    copy.write_text(tiny_suite_file.read_text())
    with pytest.raises(FileNotFoundError, match="benchmark freeze"):
        load_suite(copy)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda text: text.replace("n_runs = 2\n", ""), "n_runs"),
        (lambda text: text.replace("ptenv/VoxelMask-mini-v0", "CartPole-v1"), "family"),
        (lambda text: text.replace("20000..20001", "00000..00001"), "allows to train on them"),
    ],
)
def test_a_wrong_definition_is_refused(tiny_suite_file, tmp_path, wrong, said):
    path = tmp_path / "wrong.toml"
    path.write_text(wrong(tiny_suite_file.read_text()))
    with pytest.raises(ValueError, match=said):
        load_suite(path, frozen=False)


def test_unknown_names_are_refused_with_the_choices(tiny_suite_file):
    with pytest.raises(ValueError, match="mini"):
        load_suite("maxi")
    with pytest.raises(FileNotFoundError):
        load_suite("nowhere/maxi.toml")
    with pytest.raises(ValueError, match="dose-shaping"):
        load_suite(tiny_suite_file).task("voxel")


def test_openkbp_patients_are_found_in_zips_folders_and_splits(tmp_path):
    (tmp_path / "train-pats" / "pt_1").mkdir(parents=True)
    (tmp_path / "test-pats").mkdir()
    (tmp_path / "test-pats" / "pt_241.zip").write_bytes(b"")
    data = Data(str(tmp_path))
    assert data.located("openkbp:pt_1").endswith("train-pats/pt_1")
    assert data.located("openkbp:pt_241").endswith("pt_241.zip")
    assert data.located("head-and-neck-00001") == "head-and-neck-00001"
    with pytest.raises(FileNotFoundError, match="pt_242"):
        data.located("openkbp:pt_242")
    with pytest.raises(ValueError, match="openkbp=FOLDER"):
        Data().located("openkbp:pt_1")
