"""Behavior cloning: it comes to do what is recorded, goes on after a stop, and plays."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sb3_contrib import MaskablePPO

from agents.baselines.energy_layer import LayerBaseline
from agents.baselines.layer_rules import Sawtooth
from agents.baselines.voxel_mask import RandomActions
from agents.evaluation import Trials, play
from agents.offline import datasets
from agents.offline.collection import Collection
from agents.offline.demonstrations import Demonstrations
from agents.offline.learner import CloningLearner
from agents.offline.module import LEAST_DEVIATION, Cloning
from agents.offline.policies import new_model
from agents.offline.steps import steps_of
from agents.rl.trained import load_model
from agents.trained import trained_agent

NAME = "ptenv/tiny/medium-v0"
QUICK = dict(max_epochs=6, patience=6, batch_size=2, learning_rate=5e-3, net_arch=(16,))


@pytest.fixture(scope="module")
def learner(root):
    return CloningLearner(NAME, root=str(root), **QUICK)


@pytest.fixture(scope="module")
def trained(learner, environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bc")
    learner.learn(learner.examples(environment), folder, 3)
    return folder


def _weights(folder):
    return [p.detach().numpy() for p in load_model(folder).policy.parameters()]


def test_the_loss_falls_and_the_weights_kept_are_those_of_the_lowest(trained, learner):
    (_, losses), (_, held_out) = learner.curves(trained).values()
    assert losses[-1] < 0.7 * losses[0]
    assert f"{min(held_out):.4f} on held-out patients" in learner.summary(trained)


def test_what_was_seen_before_an_action_is_learned_with_it(learner, environment, root):
    dataset = datasets.load(NAME, root)
    learned = learner.examples(environment).learned
    n = len(dataset[0].actions)
    np.testing.assert_array_equal(learned.observations[:n], dataset[0].observations[:-1])
    np.testing.assert_array_equal(learned.actions[n], dataset[1].actions[0])
    assert len(learned) == dataset.total_steps


def test_the_same_seed_gives_the_same_weights(trained, learner, environment, tmp_path):
    learner.learn(learner.examples(environment), tmp_path, 3)
    for one, other in zip(_weights(trained), _weights(tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stopped_training_goes_on_to_the_same_weights(trained, learner, environment, tmp_path):
    def stopped(run, done, total, loss):
        if done == 4:
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        learner.learn(learner.examples(environment), tmp_path, 3, stopped)
    assert not (tmp_path / "agent").exists()
    seen = []
    learner.learn(
        learner.examples(environment), tmp_path, 3, lambda run, done, total, loss: seen.append(done)
    )
    assert seen == [4, 5, 6]  # the epoch that was not kept, and the rest
    for one, other in zip(_weights(trained), _weights(tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_training_is_left_as_it_is(trained, learner, environment):
    before = (trained / "agent" / "agent.zip").stat().st_mtime_ns
    learner.learn(learner.examples(environment), trained, 3)
    assert (trained / "agent" / "agent.zip").stat().st_mtime_ns == before


def test_training_stops_when_held_out_patients_get_no_better(learner, environment, tmp_path):
    short = replace(learner, max_epochs=400, patience=2, learning_rate=0.1)
    examples = short.examples(environment)
    short.learn(examples, tmp_path, 0)
    (epochs, _), (_, losses) = short.curves(tmp_path).values()
    assert len(epochs) < 400 and int(np.argmin(losses)) == len(losses) - 3
    held_out = examples.held_out
    kept = Cloning(load_model(tmp_path).policy, None)
    loss = kept.losses(held_out.batch(np.arange(len(held_out)))).mean().item()
    assert loss == pytest.approx(min(losses), rel=1e-4)  # not those of the last epoch
    assert loss < 0.99 * losses[-1]


def test_the_agent_of_the_folder_plays(trained, environment):
    agent = trained_agent(str(trained))
    env = environment.make_to_play("head-and-neck-10000", 0.2, agent)
    row = play(agent, env, 1, environment.judge)
    assert -1.0 <= row["score"] <= 1.5
    assert env.action_space.shape == (23,)


def test_its_card_says_what_it_learned_from(trained):
    learned = json.loads((trained / "agent" / "agent.json").read_text())["learned"]
    assert learned["cases"] == ["head-and-neck-00000", "head-and-neck-00001"]
    assert learned["chosen_on"] == ["head-and-neck-10000"]
    assert (learned["dataset"], learned["seed"]) == (NAME, 3)
    assert (learned["env_id"], learned["quality"]) == ("ptenv/VoxelMask-mini-v0", "medium")


def test_the_policy_of_numbers_keeps_the_deviation_of_what_was_recorded(trained):
    deviation = load_model(trained).policy.log_std.exp().detach().numpy()
    assert (deviation >= LEAST_DEVIATION - 1e-6).all()
    assert deviation.mean() == pytest.approx(0.1, abs=0.08)  # the noise of "medium" here


@pytest.fixture(scope="module")
def arcs(arc_environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("arcs")
    cases = {"train": ["nasopharynx-00000", "nasopharynx-00001"],
             "validation": ["nasopharynx-10000"]}  # fmt: skip
    environment = arc_environment()
    Collection(
        environment, "expert", LayerBaseline(Sawtooth()), cases, Trials(None, 1),
        "ptenv/arc/expert-v0",
    ).collect(folder)  # fmt: skip
    return environment, CloningLearner("ptenv/arc/expert-v0", root=str(folder), max_epochs=40,
                                       patience=40, batch_size=16)  # fmt: skip


def test_choices_are_cloned_among_those_allowed(arcs, tmp_path):
    environment, learner = arcs
    examples = learner.examples(environment)
    assert examples.learned.masks[np.arange(len(examples.learned)), examples.learned.actions].all()
    learner.learn(examples, tmp_path, 0)
    (_, losses), _ = learner.curves(tmp_path).values()
    blind = np.log(examples.learned.masks.sum(axis=1)).mean()  # any allowed one alike
    assert losses[-1] < 0.6 * blind
    env = environment.make_to_play("nasopharynx-10000", 1.5, trained_agent(str(tmp_path)))
    row = play(trained_agent(str(tmp_path)), env, 0, environment.judge)
    assert not env.unwrapped.state.invalid_action and row["score"] > -1.0


def test_forbidden_choices_have_no_part_in_the_loss(arcs):
    environment, learner = arcs
    learned = learner.examples(environment).learned
    policy = new_model(environment.make_for_training(), 0, ()).policy
    for weights in policy.action_net.parameters():
        weights.data.zero_()  # every choice alike
    losses = Cloning(policy, None).losses(learned.batch(np.arange(20))).detach().numpy()
    np.testing.assert_allclose(losses, np.log(learned.masks[:20].sum(axis=1)), rtol=1e-5)


def test_shaping_by_hand_is_cloned_with_a_patient_held_out(shaping_environment, shaped, tmp_path):
    for i in range(2):
        shaped(tmp_path / f"{i}" / "episode.json", f"head-and-neck-0000{i}")
    point = replace(shaping_environment, action="point")
    Demonstrations(point, tmp_path, "ptenv/shaping/human-v0").collect(tmp_path / "datasets")
    learner = CloningLearner(
        "ptenv/shaping/human-v0", root=str(tmp_path / "datasets"), **{**QUICK, "max_epochs": 2}
    )
    examples = learner.examples(point)
    assert (len(examples.learned), len(examples.held_out)) == (3, 3)
    learner.learn(examples, tmp_path / "bc", 0)
    agent = trained_agent(str(tmp_path / "bc"))
    env = point.make_to_play("head-and-neck-00000", 0, agent)
    assert play(agent, env, 0, point.judge)["n_requests"] >= 0
    with pytest.raises(ValueError, match="env.action"):
        learner.examples(shaping_environment)


def test_volumes_are_cloned_too(environment, tmp_path):
    volumes = replace(environment, observation="volume")
    Collection(
        volumes, "random", RandomActions(), {"train": volumes.training_cases()},
        Trials((0.1,), 1), "ptenv/volumes/random-v0",
    ).collect(tmp_path)  # fmt: skip
    learner = CloningLearner("ptenv/volumes/random-v0", root=str(tmp_path),
                             **{**QUICK, "max_epochs": 1})  # fmt: skip
    examples = learner.examples(volumes)
    learner.learn(examples, tmp_path / "bc", 0)
    agent = trained_agent(str(tmp_path / "bc"))
    env = volumes.make_to_play("head-and-neck-00000", 0.1, agent)
    assert np.isfinite(play(agent, env, 0, volumes.judge)["score"])


def test_the_best_share_leaves_out_what_scores_less(collection, environment, tmp_path):
    made = collection("random", {"train": ["head-and-neck-00000"]}, Trials((0.1,), 4))
    made.collect(tmp_path)
    dataset = datasets.load(made.name, tmp_path)
    kept = steps_of(dataset, best=0.5)
    order = np.argsort([-a["score"] for a in datasets.of_episodes(dataset)])[:2]
    expected = np.concatenate([dataset[i].actions for i in sorted(order)])
    np.testing.assert_array_equal(kept.actions, expected)


def test_a_dataset_of_another_environment_is_refused(learner, environment, arc_environment):
    with pytest.raises(ValueError, match="was recorded in ptenv/VoxelMask-mini-v0"):
        learner.examples(arc_environment())
    with pytest.raises(ValueError, match="action 'field', env has 'shells'"):
        learner.examples(replace(environment, action="shells"))
    with pytest.raises(ValueError, match="recipe"):
        learner.examples(replace(environment, recipe=None))


def test_a_dataset_that_is_missing_or_not_named_is_refused(learner, environment):
    with pytest.raises(ValueError, match=r"agent\.dataset is missing"):
        replace(learner, dataset=None).examples(environment)
    with pytest.raises(ValueError, match="ptenv/tiny/good-v0"):
        replace(learner, dataset="ptenv/tiny/good-v0").examples(environment)


def test_validation_on_patients_that_are_learned_from_is_refused(learner, environment):
    with pytest.raises(ValueError, match="has patients of"):
        replace(learner, validation="ptenv/tiny/random-v0").examples(environment)


def test_a_dataset_of_one_patient_needs_another_to_stop_by(collection, environment, tmp_path):
    made = collection("random", {"train": ["head-and-neck-00000"]})
    made.collect(tmp_path)
    with pytest.raises(ValueError, match="nobody can be held out"):
        CloningLearner(made.name, root=str(tmp_path)).examples(environment)


@pytest.mark.parametrize("wrong", [{"max_epochs": 0}, {"best": 0.0}, {"learning_rate": -1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CloningLearner(NAME, **wrong)


def test_single_requests_are_cloned_into_a_masked_policy(shaping_environment):
    model = new_model(shaping_environment.make_for_training(), 0, (8,))
    assert isinstance(model, MaskablePPO)
