"""What rounding explains in many replayed episodes, and what it does not."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from ptenv.benchmark.agreement import ENOUGH, FEWEST, Apart, Tolerance, apart, faults_of_task

NEAR = Apart(score=0.001, reward=0.001, quality=0.01, relative=0.001, metric=0.01)
FAR = Apart(score=0.2, reward=0.5, quality=2.0, relative=0.5, metric=1.0)


def faults(differences: list[Apart], shift: float = 0.0, tolerance: Tolerance | None = None):
    recorded = np.linspace(-0.5, 0.5, len(differences))
    scores = [(s, s + shift) for s in recorded]
    return faults_of_task(differences, scores, tolerance or Tolerance())


def test_episodes_that_part_are_forgiven_where_most_agree():
    assert faults([NEAR] * 11 + [FAR] * 9) == []


def test_most_episodes_apart_are_refused_by_the_name_of_what_differs():
    told = faults([NEAR] * 9 + [FAR] * 11)
    assert [t.split(" in ")[1] for t in told] == list(Apart._fields)


@pytest.mark.parametrize("name", Apart._fields)
def test_each_difference_has_its_own_bound(name):
    assert name in faults([NEAR._replace(**{name: getattr(FAR, name)})] * ENOUGH)[0]


def test_a_mean_that_moved_is_refused_though_no_episode_is_far():
    assert "the mean score is 0.000, replay gives 0.120" in faults([NEAR] * ENOUGH, 0.12)[0]
    assert faults([NEAR] * ENOUGH, 0.08) == []


def test_few_episodes_are_held_to_twice_as_much_and_the_fewest_to_nothing():
    assert faults([NEAR] * (ENOUGH - 1), 0.12) == []
    assert faults([NEAR] * (ENOUGH - 1), 0.22)
    assert len(faults([FAR] * FEWEST)) == len(Apart._fields)
    assert faults([FAR] * (FEWEST - 1), 0.5) == []


def test_no_number_is_no_agreement_of_its_episode_alone():
    none = NEAR._replace(quality=float("nan"))
    assert faults([NEAR] * (ENOUGH - 1) + [none]) == []
    assert "20 of 20 episodes differ by more than 0.3 in quality" in faults([none] * ENOUGH)[0]


@pytest.mark.parametrize("given, claimed", [(math.nan, 50.0), (50.0, math.nan)])
def test_no_number_among_metrics_costs_or_rewards_is_not_lost(given, claimed):
    def result(value):
        return {"score": 0.5, "Q": 0.1, "objective": 1.0, "cost": value,
                "metrics": {"PTV": {"D2%[%]": 105.0, "D98%[%]": value}}}  # fmt: skip

    record = {"result": result(claimed), "rewards": [0.1, claimed]}
    found = apart(record, SimpleNamespace(rewards=[0.1, given]), result(given))
    assert math.isnan(found.relative) and math.isnan(found.metric) and math.isnan(found.reward)
