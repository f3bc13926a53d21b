import json

import numpy as np
import pytest

from engine.evaluation.scorecard import (
    Anchors,
    ClinicalQuality,
    Goal,
    Scorecard,
    limit_anchors,
    metrics_of,
    plan_anchors,
)

COVERAGE = Goal("PTV70", "D95%[%]", 95.0, "at least", "ICRU 83", "target")
HOT_SPOT = Goal("PTV70", "D2%[%]", 107.0, "at most", "ICRU 83", "target")
CORD = Goal("SpinalCord", "D0.1cc[Gy]", 45.0, "at most", "QUANTEC")
RING = Goal("zRing", "Mean[%]", 50.0, "at most", "convention", "normal tissue")
GOALS = (COVERAGE, HOT_SPOT, CORD, RING)


def metrics(coverage=97.0, hot=104.0, cord=30.0, ring=40.0):
    return {
        "PTV70": {"D95%[%]": coverage, "D2%[%]": hot},
        "SpinalCord": {"D0.1cc[Gy]": cord},
        "zRing": {"Mean[%]": ring},
    }


PLANS = (metrics(98, 105, 40, 44), metrics(96, 104, 30, 41), metrics(90, 108, 20, 36))


@pytest.mark.parametrize("anchors", [Anchors(98.0, 90.0), Anchors(20.0, 45.0), Anchors(-1.0, 3.0)])
def test_score_is_one_at_the_ideal_and_zero_at_the_worst(anchors):
    assert anchors.score(anchors.ideal) == 1.0
    assert anchors.score(anchors.worst) == 0.0
    assert anchors.score(0.5 * (anchors.ideal + anchors.worst)) == pytest.approx(0.5)


def test_score_rises_by_a_tenth_beyond_the_ideal_and_falls_on_below_the_worst():
    anchors = Anchors(20.0, 40.0)
    assert anchors.score(0.0) == pytest.approx(1.1)
    assert anchors.score(60.0) == pytest.approx(-1.0)


@pytest.mark.parametrize("ideal, worst", [(98.0, 90.0), (20.0, 45.0), (0.1, 0.08)])
def test_score_is_strictly_monotone_without_plateaus(ideal, worst):
    values = np.linspace(worst + 2 * (worst - ideal), ideal + 3 * (ideal - worst), 200)
    assert np.all(np.diff([Anchors(ideal, worst).score(v) for v in values]) > 0)


@pytest.mark.parametrize("goal", GOALS)
def test_limit_anchors_score_one_exactly_where_the_goal_is_just_met(goal):
    anchors = limit_anchors(goal)
    assert anchors.score(goal.limit) == 1.0
    assert goal.is_met(goal.limit)
    assert not goal.is_met(goal.limit - 0.01 * goal.sign)
    assert anchors.score(goal.limit - 0.01 * goal.sign) < 1.0


def test_plan_anchors_are_best_and_worst_of_the_plans():
    assert plan_anchors(COVERAGE, PLANS) == Anchors(98.0, 90.0)
    assert plan_anchors(CORD, PLANS) == Anchors(20.0, 40.0)


def test_plan_anchors_stand_at_least_a_gray_or_two_percent_apart():
    same = [metrics()] * 3
    assert plan_anchors(COVERAGE, same) == Anchors(97.0, 95.0)
    assert plan_anchors(CORD, same) == Anchors(30.0, 31.0)
    assert plan_anchors(RING, same) == Anchors(40.0, 42.0)


def test_quality_is_one_at_the_best_of_all_goals_and_zero_at_the_worst():
    quality = ClinicalQuality.from_plans(GOALS, PLANS)
    assert quality(metrics(98, 104, 20, 36)) == pytest.approx(1.0)
    assert quality(metrics(90, 108, 40, 44)) == pytest.approx(0.0)
    assert all(0 < quality(plan) < 1 for plan in PLANS)


def test_groups_weigh_half_a_third_and_the_rest():
    quality = ClinicalQuality.from_plans(GOALS, PLANS)
    np.testing.assert_allclose(quality.scorecard.weights(), [0.25, 0.25, 0.35, 0.15])
    # only the targets at their worst
    assert quality(metrics(90, 108, 20, 36)) == pytest.approx(0.5)


def test_a_missing_group_leaves_its_weight_to_the_others():
    np.testing.assert_allclose(Scorecard((COVERAGE, RING)).weights(), np.array([0.5, 0.15]) / 0.65)


@pytest.mark.parametrize("change", [{"coverage": 99}, {"hot": 103}, {"cord": 10}, {"ring": 30}])
def test_every_improvement_raises_quality_even_beyond_the_ideal(change):
    quality = ClinicalQuality.from_plans(GOALS, PLANS)
    best = {"coverage": 98, "hot": 104, "cord": 20, "ring": 36}
    assert quality(metrics(**{**best, **change})) > quality(metrics(**best))


def test_frozen_anchors_come_back_from_a_file():
    quality = ClinicalQuality.from_plans(GOALS, PLANS)
    again = ClinicalQuality.from_dict(json.loads(json.dumps(quality.as_dict())))
    assert again(metrics()) == quality(metrics())
    assert again.scorecard.goals == GOALS


def test_score_table_prints_values_limits_sources_and_the_rbe():
    table = Scorecard(GOALS).score(metrics(cord=50.0))
    text = str(table)
    assert table.n_met == 3
    for part in ("SpinalCord", "50.00", "≤ 45", "missed", "QUANTEC", "3 of 4", "RBE 1.1"):
        assert part in text
    assert "RBE 1.25." in str(Scorecard(GOALS).score(metrics(), rbe=1.25))


def test_metrics_of_goals_are_what_an_evaluation_takes():
    assert metrics_of(GOALS) == {
        "PTV70": ("D95%[%]", "D2%[%]"),
        "SpinalCord": ("D0.1cc[Gy]",),
        "zRing": ("Mean[%]",),
    }


def test_a_scorecard_without_normal_tissue_is_refused():
    with pytest.raises(ValueError, match="normal tissue"):
        Scorecard((COVERAGE, CORD))


def test_goals_and_anchors_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="unknown"):
        Goal("PTV70", "D95", 95.0, "at least", "")
    with pytest.raises(ValueError, match="sense"):
        Goal("PTV70", "D95%[%]", 95.0, ">=", "")
    with pytest.raises(ValueError, match="group"):
        Goal("PTV70", "D95%[%]", 95.0, "at least", "", "ptv")
    with pytest.raises(ValueError, match="limit"):
        Goal("PTV70", "D95%[%]", np.nan, "at least", "")
    with pytest.raises(ValueError, match="apart"):
        Anchors(1.0, 1.0)
    with pytest.raises(ValueError, match="twice"):
        Scorecard((RING, RING))
    with pytest.raises(ValueError, match="no goals"):
        Scorecard((RING,), {"Heart Mean[Gy]": Anchors(1.0, 2.0)})
    with pytest.raises(ValueError, match="against its sense"):
        Scorecard((RING,), {RING.key: Anchors(50.0, 40.0)})
    with pytest.raises(ValueError, match="at least one"):
        ClinicalQuality.from_plans(GOALS, ())


def test_metrics_that_were_not_evaluated_or_are_nan_are_refused():
    with pytest.raises(KeyError, match="was not evaluated"):
        Scorecard(GOALS).score({"PTV70": {}})
    with pytest.raises(ValueError, match="finite metric"):
        Scorecard(GOALS).score(metrics(cord=np.nan))
