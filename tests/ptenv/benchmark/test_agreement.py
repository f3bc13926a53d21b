"""What rounding explains in many replayed episodes, and what it does not."""

import numpy as np
import pytest

from ptenv.benchmark.agreement import ENOUGH, Apart, Tolerance, faults_of_task

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
    assert [t.split(" in ")[1].split(",")[0] for t in told] == list(Apart._fields)


@pytest.mark.parametrize("name", Apart._fields)
def test_each_difference_has_its_own_bound(name):
    assert name in faults([NEAR._replace(**{name: getattr(FAR, name)})] * ENOUGH)[0]


def test_a_mean_that_moved_is_refused_though_no_episode_is_far():
    assert "the mean score is 0.000, replay gives 0.120" in faults([NEAR] * ENOUGH, 0.12)[0]
    assert faults([NEAR] * ENOUGH, 0.08) == []


def test_few_episodes_tell_nothing():
    assert faults([FAR] * (ENOUGH - 1), 0.5) == []


def test_no_number_is_no_agreement():
    assert faults([NEAR._replace(quality=float("nan"))] * ENOUGH)
