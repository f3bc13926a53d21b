"""``ptenv collect``: datasets from the command line, and a policy that clones one."""

import json

import pytest

pytest.importorskip("minari")

from agents.offline import datasets  # noqa: E402
from scripts import cli  # noqa: E402

FEW = ("n_cases=2", "n_validation_cases=1", "n_test_cases=1", "trials.budgets=[0.1]",
       "trials.n_samplings=1")  # fmt: skip
NAME = "ptenv/voxel-mask-mini/medium-v0"


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_cases):
    folder = tmp_path_factory.mktemp("datasets")
    assert cli.main(["collect", *tiny_cases, *FEW, "quality=medium", f"output={folder}"]) == 0
    return folder


def test_a_dataset_of_every_split_is_written_beside_its_record(root):
    for name, n in ((NAME, 2), ("ptenv/voxel-mask-mini/medium-validation-v0", 1),
                    ("ptenv/voxel-mask-mini/medium-test-v0", 1)):  # fmt: skip
        dataset = datasets.load(name, root)
        assert dataset.total_episodes == n
        assert (root / name / "config.yaml").exists() and (root / name / "record.json").exists()
    behavior = datasets.about(datasets.load(NAME, root))["collection"]["behavior"]
    assert behavior["noise"] == 0.2 and behavior["base"]["action"] == "field"


def test_it_says_the_scores_and_the_sizes(root, tiny_cases, capsys):
    assert cli.main(["collect", *tiny_cases, *FEW, "quality=medium", f"output={root}"]) == 0
    said = capsys.readouterr().out
    mean = datasets.about(datasets.load(NAME, root))["score"]["mean"]
    assert f"{NAME}: score {mean:.3f}" in said and "on 2 patients, 2 episodes" in said


@pytest.mark.parametrize("env", ["energy_layer_mini", "dose_shaping_mini"])
def test_all_qualities_of_a_family_are_made_for_the_actions_of_its_learners(env):
    """Each of them composes into a collection, which refuses other actions."""
    from hydra.utils import instantiate

    from agents.evaluation import Trials
    from agents.offline.collection import Collection
    from scripts.configuration import composed

    cfg = composed("collect", [f"env={env}"])
    environment = instantiate(cfg.env, _convert_="all")
    for quality in ("random", "medium", "expert"):
        behavior = instantiate(cfg.behaviors[quality], _convert_="all")
        made = Collection(environment, quality, behavior, {"train": ["head-and-neck-00000"]},
                          Trials(None, 1), f"ptenv/x/{quality}-v0")  # fmt: skip
        assert made.n_episodes == len(environment.budgets)


def test_named_patients_go_to_the_split_they_are_named_for(tmp_path, tiny_cases):
    cases = "cases={train: [head-and-neck-00005], test: [head-and-neck-00006]}"
    call = ["collect", *tiny_cases, *FEW, cases, "quality=random", "dataset=own/name-v3"]
    assert cli.main([*call, f"output={tmp_path}"]) == 0
    (about,) = datasets.of_episodes(datasets.load("own/name-test-v3", tmp_path))
    assert (about["case"], about["split"]) == ("head-and-neck-00006", "test")


def test_an_agent_clones_it_and_its_folder_plays(root, tmp_path, tiny_cases):
    run = ["train", "agent=bc", f"agent.dataset={NAME}", f"agent.root={root}",
           "agent.max_epochs=3", "n_cases=1", "trials.budgets=[0.1]", "trials.n_samplings=1"]
    assert cli.main([*run, *tiny_cases, f"output={tmp_path / 'bc'}"]) == 0
    card = json.loads((tmp_path / "bc" / "agent" / "agent.json").read_text())
    assert card["learned"]["dataset"] == NAME
    assert (tmp_path / "bc" / "learning_curve.png").exists()
    play = ["evaluate", f"agents=[{tmp_path / 'bc'}]", "n_cases=1", "trials.budgets=[0.1]",
            "trials.n_samplings=1", *tiny_cases, f"output={tmp_path / 'play'}"]  # fmt: skip
    assert cli.main(play) == 0
    assert "\nbc " in (tmp_path / "play" / "scores.txt").read_text()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("quality=good", "quality=good is unknown; choose from ['random', 'medium', 'expert']"),
        ("demonstrations=nowhere", "holds no episode.json"),
        ("cases=[head-and-neck-00000]", "must be {train"),
        ("n_cases=0", "no patient in any split"),
    ],
)
def test_wrong_calls_say_what_to_do(wrong, said, tmp_path, tiny_cases, capsys):
    few = () if wrong.startswith("n_cases") else ("n_cases=1",)
    call = ["collect", *few, "n_validation_cases=0", "n_test_cases=0", wrong]
    if wrong.startswith("demo"):
        call.append("env=dose_shaping_mini")
    else:
        call.extend(tiny_cases)
    assert cli.main([*call, f"output={tmp_path}"]) == 2
    assert said in capsys.readouterr().err


def test_cloning_a_missing_dataset_says_how_to_record_one(root, tmp_path, tiny_cases, capsys):
    run = ["train", "agent=bc", "agent.dataset=ptenv/voxel-mask-mini/none-v0",
           f"agent.root={root}", "n_cases=1", *tiny_cases]  # fmt: skip
    assert cli.main([*run, f"output={tmp_path}"]) == 2
    assert "record it with `ptenv collect`" in capsys.readouterr().err
