"""Losses against hand calculations, marginals against every sequence, training that resumes."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.baselines.arc_view import ArcView
from agents.energy_layers.agent import UnetRule, decoded, is_unet, weights_folder
from agents.energy_layers.examples import ArcExample, collated
from agents.energy_layers.learner import UnetLearner
from agents.energy_layers.losses import (
    RobustObjective,
    TriObjective,
    chain_marginals,
    coldness,
    expected_switching_s,
    lent_dose,
    unevenness,
)  # fmt: skip
from agents.energy_layers.training import (
    UnetTraining,
    folds_of,
    load_unet,
    read_curve,
)  # fmt: skip
from agents.trained import trained_agent

SMALL = dict(n_epochs=3, batch_size=2, levels=(4, 8), threads=1)


@pytest.fixture(scope="module")
def examples(arc_case):
    names = ["nasopharynx-00000", "nasopharynx-00001", "nasopharynx-00002"]
    return [ArcExample.of_case(arc_case(name)) for name in names]


@pytest.fixture
def batch(examples):
    return collated(examples)


def uniform(batch):
    valid = batch["valid"]
    return torch.where(valid, 0.0, -torch.inf).log_softmax(dim=2)


def tiny(n_angles=3, n_layers=3):
    """A batch of one arc small enough to enumerate."""
    rng = np.random.default_rng(0)
    valid = np.ones((n_angles, n_layers), bool)
    valid[1, 0] = False
    arrays = {
        "target": rng.random((n_angles, n_layers)), "spared": rng.random((n_angles, n_layers)),
        "wed": rng.random(n_angles), "valid": valid,
        "switch_s": np.array([[0, 5.5, 5.5], [0.6, 0, 5.5], [0.6, 0.6, 0]]),
        "beam_on_s": rng.uniform(0.1, 1, (n_angles, n_layers)), "gantry_s": np.array([0, 0.8, 0.8]),
        "depth_mm": rng.uniform(10, 60, (n_angles, 7)), "range_mm": np.array([15.0, 35.0, 55.0]),
        "half_width_mm": np.full(n_layers, 3.0), "depth_dose": rng.random((n_layers, 350)),
    }  # fmt: skip
    return {
        k: torch.from_numpy(np.asarray(v, bool if k == "valid" else np.float32))[None]
        for k, v in arrays.items()
    }


def test_cross_entropies_are_those_of_the_largest_counts():
    batch = tiny()
    log_p = uniform(batch)
    _, terms = TriObjective()(log_p, batch)
    n_valid = batch["valid"].sum(dim=2)[0].float()
    label = batch["target"][0].argmax(dim=1)
    wanted = [
        np.log(float(n)) if bool(batch["valid"][0, g, e]) else 30.0
        for g, (n, e) in enumerate(zip(n_valid, label))
    ]
    assert float(terms["target"]) == pytest.approx(np.mean(wanted), rel=1e-5)


def test_the_total_has_the_paper_s_weights():
    batch = tiny()
    total, terms = TriObjective()(uniform(batch), batch)
    wanted = 0.5 * terms["target"] + 0.4 * terms["spared"] + 0.1 * terms["time"]
    assert float(total) == pytest.approx(float(wanted))


def test_sure_choices_cost_their_own_switching():
    batch = tiny()
    log_p = torch.full((1, 3, 3), -torch.inf)
    for g, e in enumerate((2, 1, 2)):
        log_p[0, g, e] = 0.0
    assert float(expected_switching_s(log_p, batch)) == pytest.approx((0.6 + 5.5) / 3)


@pytest.mark.parametrize("price", [0.0, 0.5, 3.0])
def test_marginals_are_those_of_every_sequence(price):
    batch, temperature = tiny(), 0.7
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, 3)).astype(np.float32))
    found = chain_marginals(scores, batch, torch.tensor([price]), temperature).exp()[0]
    chances = np.zeros((3, 3))
    for sequence in product(range(3), repeat=3):
        if not all(bool(batch["valid"][0, g, e]) for g, e in enumerate(sequence)):
            continue
        total = sum(float(scores[0, g, e]) for g, e in enumerate(sequence))
        for g in (1, 2):
            a, b = sequence[g - 1], sequence[g]
            busy = batch["switch_s"][0, a, b] + batch["beam_on_s"][0, g, b]
            total -= price * float(torch.maximum(batch["gantry_s"][0, g], busy))
        for g, e in enumerate(sequence):
            chances[g, e] += np.exp(total / temperature)
    np.testing.assert_allclose(found, chances / chances.sum(axis=1, keepdims=True), atol=1e-5)


def test_lent_doses_are_the_tables_at_the_points_depths():
    batch = tiny()
    p = torch.zeros(1, 3, 3)
    p[0, :, 2] = 1.0
    lent = lent_dose(p, batch, 1.035)[0]
    at = batch["depth_mm"][0] * 1.035
    for g in range(3):
        wanted = np.interp(at[g], np.arange(350), batch["depth_dose"][0, 2])
        np.testing.assert_allclose(lent[g], wanted, rtol=1e-4)


def test_cold_points_count_more_than_hot_ones_make_up_for():
    even = torch.full((1, 8, 10), 0.3)
    uneven = even.clone()
    uneven[:, :, :5] *= 0.5
    uneven[:, :, 5:] *= 1.5
    assert float(coldness(uneven, 0.5)) > float(coldness(even, 0.5))


def test_unevenness_is_that_of_drawn_sequences():
    batch, rng = tiny(n_angles=40, n_layers=3), np.random.default_rng(2)
    batch["range_mm"] = torch.tensor([[15.0, 35.0, 55.0]])
    batch["half_width_mm"] = torch.full((1, 3), 3.0)
    batch["depth_mm"] = torch.from_numpy(rng.uniform(10, 60, (1, 40, 50)).astype(np.float32))
    p = torch.from_numpy(rng.dirichlet(np.ones(3), (1, 40)).astype(np.float32))
    off = batch["depth_mm"][0][:, None] - batch["range_mm"][0][None, :, None]
    around = torch.exp(-0.5 * (off / 9.0) ** 4).numpy()  # (G, E, P)
    spread = []
    for _ in range(400):
        drawn = [rng.choice(3, p=q / q.sum()) for q in p[0].numpy().astype(float)]
        count = around[np.arange(40), drawn].sum(axis=0)
        spread.append((count.var(), count.mean()))
    variance, mean = np.mean(spread, axis=0)
    assert float(unevenness(p, batch, 1.0)) == pytest.approx(variance**0.5 / mean, rel=0.15)


@pytest.mark.parametrize("loss", [TriObjective(), RobustObjective()], ids=["tri", "robust"])
def test_training_lowers_the_loss(examples, tmp_path, loss):
    training = UnetTraining(
        loss, n_epochs=25, batch_size=3, levels=(8, 16), learning_rate=5e-3, threads=1
    )
    training.train(examples, examples, tmp_path, 0)
    curve = [row["train/loss"] for row in read_curve(tmp_path)]
    assert len(curve) == 25
    assert np.mean(curve[-5:]) < 0.97 * np.mean(curve[:3])


def test_the_same_seed_gives_the_same_weights(examples, tmp_path):
    nets = [
        UnetTraining(**SMALL).train(examples[:2], examples[2:], tmp_path / str(i), 4)
        for i in range(2)
    ]
    for a, b in zip(*(net.parameters() for net in nets)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_stopped_run_goes_on(examples, tmp_path):
    short, whole = UnetTraining(**SMALL), UnetTraining(**{**SMALL, "n_epochs": 6})
    short.train(examples[:2], examples[2:], tmp_path, 0)
    told = []
    whole.train(examples[:2], examples[2:], tmp_path, 0, lambda *said: told.append(said[0]))
    assert told == [4, 5, 6]
    assert [int(row["epoch"]) for row in read_curve(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_folds_hold_out_every_arc_once():
    folds = folds_of(13, 5, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(13))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    with pytest.raises(ValueError, match="n_folds=9"):
        folds_of(4, 9, 0)


def test_cross_validation_holds_out_what_it_says(examples, tmp_path):
    found = UnetTraining(**SMALL).cross_validate(examples, tmp_path, 0, n_folds=3)
    assert sorted(int(i) for _, held in found for i in held) == [0, 1, 2]
    assert len(list(tmp_path.glob("fold_*/unet.pt"))) == 3


@pytest.mark.parametrize("loss", [TriObjective(), RobustObjective()], ids=["tri", "robust"])
def test_the_learner_leaves_an_agent_that_plays(arc_environment, arc_case, tmp_path, loss):
    learner = UnetLearner(UnetTraining(loss, **SMALL), n_folds=2)
    found = learner.examples(arc_environment())
    assert len(found) == 2
    learner.learn(found, tmp_path, 0)
    assert "held-out" in learner.summary(tmp_path)
    assert set(learner.curves(tmp_path)) == {
        "held-out fold 0", "held-out fold 1", "all arcs, training"
    }  # fmt: skip
    assert is_unet(str(tmp_path))
    env = arc_environment().make(limit=1.5, terminal="proxy")
    agent = trained_agent(str(tmp_path)).bind(env, 0)
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        action, _ = agent.predict(observation)
        observation, _, over, _, info = env.step(int(action))
        assert not info["invalid_action"]
    assert info["delivery_s"] <= info["limit_s"] + 1e-3


def test_decoding_without_a_limit_takes_the_likeliest(arc_case):
    times = ArcView.of(arc_case()).sequencing
    n_angles, n_layers = times.valid.shape
    log_p = np.log(np.random.default_rng(0).dirichlet(np.ones(n_layers), n_angles))
    free = decoded(log_p, times)
    np.testing.assert_array_equal(free, np.where(times.valid, log_p, -np.inf).argmax(axis=1))
    kept = decoded(log_p, times, 1.05 * times.floor_s)
    assert times.time_s(kept) <= 1.05 * times.floor_s + 1e-3


def test_arcs_of_several_sizes_train_together(examples, arc_case, tmp_path):
    other = ArcExample.of_case(arc_case(n_angles=9))
    UnetTraining(**SMALL).train([*examples, other], [], tmp_path, 0)
    assert read_curve(tmp_path)


def test_what_does_not_fit_is_refused(examples, arc_case, tmp_path):
    with pytest.raises(ValueError, match="learned is empty"):
        UnetTraining(**SMALL).train([], [], tmp_path, 0)
    with pytest.raises(ValueError, match="n_epochs=0"):
        UnetTraining(n_epochs=0)
    with pytest.raises(ValueError, match="spared='Heart'"):
        ArcExample.of_case(arc_case(), "Heart")
    with pytest.raises(ValueError, match="a batch holds one size"):
        collated([examples[0], ArcExample.of_case(arc_case(n_angles=9))])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        weights_folder(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"unet\.json"):
        load_unet(Path(tmp_path))
    with pytest.raises(FileNotFoundError):
        UnetRule(str(tmp_path / "nowhere"))(ArcView.of(arc_case()), 100.0, None)
