import json
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from engine.optimization.solvers import LBFGSB
from engine.parallel import set_threads, threads
from ptenv.cases import anchors
from ptenv.cases.anchors import (
    EVALUATIONS,
    FLOOR,
    SMALLEST_GAP,
    Anchors,
    _reweighted,
    _uniform_weights,
)
from ptenv.cases.build import build_case


def test_uniform_sampling_scores_zero_and_keep_all_one(case):
    anchors, uniform = case.anchors, case.anchors.rho_uniform[0.1]
    assert anchors.is_sound(0.1)
    assert anchors.score(anchors.f_star + uniform, 0.1) == pytest.approx(0.0, abs=1e-6)
    assert anchors.score(anchors.f_star + anchors.rho_all, 0.1) == pytest.approx(1.0, abs=1e-6)


def test_keep_all_replayed_scores_one(case):
    solution = LBFGSB(max_evaluations=EVALUATIONS, tolerance=0.0).solve(
        case.problem, case.start_weights
    )
    value = case.problem.value_of_dose(case.influence.dose(solution.weights))
    assert case.anchors.score(value, 0.1) == pytest.approx(1.0, abs=1e-4)


def test_the_zero_is_the_geometric_mean_over_the_frozen_masks(case):
    plans = [
        _uniform_weights(case.problem, case.start_weights, case.candidates, None, 0.1, index)
        for index in range(case.recipe["n_anchor_masks"])
    ]
    values = [case.problem.value_of_dose(case.problem.fraction_dose(w)) for w in plans]
    log_rho = np.log(np.array(values) - case.anchors.f_star)
    assert log_rho.std() > 0
    assert case.anchors.rho_uniform[0.1] == pytest.approx(exp(log_rho.mean()), rel=1e-9)
    assert case.anchors.noise[0.1] == pytest.approx(log_rho.std(ddof=1), rel=1e-9)


def test_scores_are_clipped_and_shaping_is_not(case):
    anchors = case.anchors
    assert anchors.score(1e9, 0.1) == -1.0
    assert anchors.raw_score(1e9, 0.1) < -1.0
    assert anchors.score(anchors.f_star - 1.0, 0.1) <= 1.5  # rounding may pass below F*
    floor = replace(anchors, rho_uniform={0.1: 2.0 * anchors.rho_all})
    assert floor.score(anchors.f_star, 0.1) == 1.5
    assert floor.raw_score(anchors.f_star, 0.1) == pytest.approx(log(2.0 / FLOOR) / log(2.0))


def test_lower_objectives_score_higher(case):
    values = [case.anchors.f_star + case.anchors.rho_all * 2.0**k for k in range(6)]
    scores = [case.anchors.raw_score(value, 0.1) for value in values]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 6


def test_f_star_lies_below_everything_that_was_met(case):
    anchors = case.anchors
    assert anchors.f_star < anchors.f_start
    assert anchors.rho_all > 0
    assert all(rho > 0 for rho in anchors.rho_uniform.values())
    assert anchors.work_all == EVALUATIONS * case.influence.n_nonzeros


@pytest.mark.parametrize("gap, sound", [(0.5 * SMALLEST_GAP, False), (2.0 * SMALLEST_GAP, True)])
def test_anchors_closer_than_a_tenth_make_no_benchmark(case, gap, sound):
    close = replace(case.anchors, rho_uniform={0.1: case.anchors.rho_all * exp(gap)})
    assert close.is_sound(0.1) is sound
    assert close.gap(0.1) == pytest.approx(max(gap, SMALLEST_GAP))


def test_anchors_survive_json_bit_by_bit(case):
    plain = json.loads(json.dumps(case.anchors.as_dict()))
    assert Anchors.from_dict(plain) == case.anchors


def test_anchors_do_not_depend_on_threads(case, recipe):
    before = threads()
    try:
        for n in (1, 2):
            set_threads(n)
            assert build_case(recipe).anchors == case.anchors
    finally:
        set_threads(before)


def test_priorities_change_the_weights_of_all_but_the_targets(case):
    targets = (*case.targets, *(f"{t}-Higher" for t in case.targets))
    for before, after in zip(case.problem.objectives, _reweighted(case.problem, 10.0).objectives):
        factor = 1.0 if before.structure in targets else 10.0
        assert after.weight == factor * before.weight


def test_q_is_anchored_by_plans_of_both_priorities(case, monkeypatch):
    asked = []
    monkeypatch.setattr(anchors, "_reweighted", lambda problem, by: asked.append(by) or problem)
    goals = case.quality.scorecard.goals
    anchors.quality_anchors(case.problem, case.start_weights, case.evaluation, goals, 2)
    assert sorted(asked) == [1.0 / anchors.PRIORITY, anchors.PRIORITY]


def test_quality_lies_between_the_anchor_plans(case):
    """Every goal's worst anchor is worse than its best, at least 1 Gy or 2 % apart."""
    for goal in case.quality.scorecard.goals:
        anchor = case.quality.scorecard.anchors[goal.key]
        assert goal.sign * (anchor.ideal - anchor.worst) >= (1.0 if goal.unit == "Gy" else 2.0)
