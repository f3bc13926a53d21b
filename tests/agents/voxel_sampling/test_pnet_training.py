"""Training with plans in the loop: the schedule, seeds, stops in mid-epoch, killed processes."""

import csv
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.rl.loggers import csv_logger
from agents.trained import trained_agent
from agents.voxel_sampling import training as training_module
from agents.voxel_sampling.agent import PNetSampler, is_pnet, pnet_folder
from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.labels import EveryOrganVoxel
from agents.voxel_sampling.learner import SamplingLearner
from agents.voxel_sampling.losses import PseudoLabels
from agents.voxel_sampling.module import LearningRate
from agents.voxel_sampling.plans import Planner, PlanWarning
from agents.voxel_sampling.policy_gradient import LocalCredit
from agents.voxel_sampling.study import case_named
from agents.voxel_sampling.training import SamplingTraining, load_pnet, read_csv
from agents.voxel_sampling.visits import Turns

NAMES = ("head-and-neck-00000", "head-and-neck-00001")
TURNS = Turns(n_epochs=2, per_patient=3, evaluations=10)  # 12 plans
QUICK = SamplingTraining(turns=TURNS, channels=4, workers=0, threads=1, checkpoint_every=5)


class Stop(Exception):
    pass


def stopping(at):
    def progress(done, total, loss):
        if done == at:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def volumes(environment):
    return [CaseVolume.of(case_named(environment, n), n) for n in NAMES]


def same(net, other):
    for a, b in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def lines(folder):
    with (folder / "plans.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "plan_s"} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "epoch, rate",
    [(0, 1e-3), (4.9, 1e-3), (5, 1e-4), (9.9, 1e-4), (10, 5e-5), (15, 2.5e-5), (24, 1.25e-5),
     (25, 1e-5), (49, 1e-5)],
)  # fmt: skip
def test_the_learning_rate_is_the_paper_s(epoch, rate):
    assert LearningRate()(epoch) == pytest.approx(rate)
    assert LearningRate(scale=0.2)(epoch / 5) == pytest.approx(rate)


def test_training_lowers_the_loss(environment, volumes, tmp_path):
    loss = PseudoLabels(organs=EveryOrganVoxel(), rest="organs")
    long = replace(QUICK, loss=loss, turns=replace(TURNS, n_epochs=8),
                   learning_rate=LearningRate(high=5e-3, n_high=8))  # fmt: skip
    long.train(environment, volumes, [], tmp_path, 0)
    rest = [row["rest"] for row in read_csv(tmp_path / "plans.csv")]
    assert len(rest) == 48
    assert np.mean(rest[-6:]) < 0.9 * np.mean(rest[:6])


@pytest.mark.parametrize("loss", [PseudoLabels(), LocalCredit(), LocalCredit(baseline="pair")],
                         ids=["labels", "mean", "pair"])  # fmt: skip
def test_a_run_stopped_in_mid_epoch_ends_as_an_unbroken_one(environment, volumes, tmp_path, loss):
    training = replace(QUICK, loss=loss)
    whole = training.train(environment, volumes, volumes[:1], tmp_path / "whole", 0)
    with pytest.raises(Stop):  # after a checkpoint at 5 of 12
        training.train(environment, volumes, volumes[:1], tmp_path / "parts", 0, stopping(8))
    assert len(lines(tmp_path / "parts")) == 8
    parts = training.train(environment, volumes, volumes[:1], tmp_path / "parts", 0)
    same(whole, parts)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    curves = [read_csv(tmp_path / part / "curve.csv") for part in ("whole", "parts")]
    for a, b in zip(*curves, strict=True):
        assert all(a[k] == b[k] for k in a if not k.endswith("plan_s"))


def test_a_finished_run_is_left_as_it_is(environment, volumes, tmp_path):
    first = QUICK.train(environment, volumes, [], tmp_path, 0)
    told = []
    again = QUICK.train(environment, volumes, [], tmp_path, 0, lambda *said: told.append(said))
    assert not told
    same(first, again)


def test_a_run_goes_on_when_a_process_is_killed(environment, volumes, tmp_path, monkeypatch):
    planners = []

    def remembered(*args):
        planners.append(Planner(*args))
        return planners[-1]

    def killing(done, total, loss):
        if done == 4:
            for pid in list(planners[-1]._pool._processes):
                os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(training_module, "Planner", remembered)
    whole = QUICK.train(environment, volumes, [], tmp_path / "whole", 0)
    with pytest.warns(PlanWarning, match="made again"):
        killed = replace(QUICK, workers=1).train(
            environment, volumes, [], tmp_path / "killed", 0, killing
        )
    same(whole, killed)


def test_other_patients_are_refused_in_a_used_folder(environment, volumes, tmp_path):
    QUICK.train(environment, volumes[:1], [], tmp_path, 0)
    with pytest.raises(ValueError, match="begun with other patients"):
        QUICK.train(environment, volumes, [], tmp_path, 0)


def test_a_patient_that_is_too_large_is_refused_before_any_plan(environment, volumes, tmp_path):
    with pytest.raises(ValueError, match="head-and-neck-00000 has .*max_voxels=100;"):
        replace(QUICK, max_voxels=100).train(environment, volumes, [], tmp_path, 0)
    with pytest.raises(ValueError, match="learned is empty"):
        QUICK.train(environment, [], [], tmp_path, 0)


def test_held_out_patients_are_compared_with_all_of_their_voxels(environment, volumes, tmp_path):
    QUICK.train(environment, volumes[:1], volumes[1:], tmp_path, 0, logger=csv_logger)
    curve = read_csv(tmp_path / "curve.csv")
    assert [row["epoch"] for row in curve] == [1, 2]
    for row in curve:
        assert row["validation/objective_ratio"] > 0.5
        assert 0 < row["validation/selected_percent"] < 100
        assert "validation/dD95_high" in row
    assert sorted(p.name for p in (tmp_path / "epochs").iterdir()) == [
        "pnet_001.pt", "pnet_002.pt"
    ]  # fmt: skip
    logged = read_csv(tmp_path / "log" / "progress_0000000.csv")
    assert len(logged) >= 6
    assert any("validation/dD95_high" in row for row in logged)


def test_the_card_says_what_it_learned_from_and_what_for(environment, volumes, tmp_path):
    QUICK.train(environment, volumes, [], tmp_path, 5)
    net, card = load_pnet(tmp_path)
    assert net.channels == card["channels"] == 4
    assert card["learned_on"] == list(NAMES)
    assert card["loss"]["organs"]["kind"] == "OrganShells"
    assert card["seed"] == 5
    assert "no plan of it may treat a person" in card["use"]
    assert json.loads((tmp_path / "pnet.json").read_text()) == card


# ------------------------------------------------------------------ the learner and the agent


@pytest.fixture(scope="module")
def trained(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pnet")
    learner = SamplingLearner(QUICK, n_held_out=1)
    cohort = learner.examples(environment)
    assert "2 patients, 1 held out" in str(cohort)
    learner.learn(cohort, folder, 0)
    assert "% selected; held out" in learner.summary(folder)
    assert len(learner.curves(folder)["training"][0]) == 2
    return folder


@pytest.mark.parametrize("mode", ["budget", "probability"])
def test_the_agent_plays_without_invalid_actions(environment, trained, mode):
    assert is_pnet(str(trained))
    assert isinstance(trained_agent(str(trained)), PNetSampler)
    agent = PNetSampler(str(trained), mode=mode)
    env = environment.make(case="head-and-neck-00003", budget=0.1, **agent.settings(0.1))
    agent.bind(env, 0)
    observation, _ = env.reset(seed=0)
    action, _ = agent.predict(observation)
    assert env.action_space.contains(action)
    _, _, _, _, info = env.step(action)
    assert not info["invalid_action"]
    if mode == "budget":
        assert info["work_used"] > 0.8


def test_rows_are_drawn_with_the_network_s_chances(environment, trained):
    case, agent = case_named(environment, "head-and-neck-00003"), PNetSampler(str(trained))
    rates = agent.rates(case)
    volume = CaseVolume.of(case)
    assert np.all(rates[volume.rows] > 0)
    assert np.count_nonzero(rates) == len(volume.rows)
    drawn = np.mean([agent.rows(case, np.random.default_rng(i)) for i in range(400)], axis=0)
    np.testing.assert_allclose(drawn, rates, atol=0.13)
    np.testing.assert_array_equal(
        agent.rows(case, np.random.default_rng(1)), agent.rows(case, np.random.default_rng(1))
    )


def test_patients_to_learn_on_and_held_out_are_kept_apart(environment):
    learner = SamplingLearner(QUICK, held_out=["head-and-neck-0"])
    with pytest.raises(ValueError, match="head-and-neck-00000.*held out"):
        learner.examples(environment)


def test_what_means_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        pnet_folder(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"pnet\.json"):
        load_pnet(tmp_path)
    for wrong in ({"mode": "all"}, {"evaluations": 1000}, {"ring_rate": 2.0}):
        with pytest.raises(ValueError):
            PNetSampler("pnet", **wrong)
    with pytest.raises(ValueError, match="checkpoint_every=0"):
        replace(QUICK, checkpoint_every=0)
    with pytest.raises(RuntimeError, match="call bind"):
        PNetSampler("pnet").predict(None)
