"""Bands, deviations and worst cases of doses made by hand."""

import numpy as np
import pytest

from engine.evaluation.paired import paired_comparison
from engine.evaluation.plan_evaluation import PlanEvaluation, StructureRows
from engine.evaluation.robustness import (
    deviation_gy,
    dvh_band,
    metric_values,
    rvh,
    rvh_area_gy,
    voxelwise_worst,
    worst_metric,
)  # fmt: skip

TARGET = StructureRows(np.arange(4), np.array([0.4, 0.2, 0.2, 0.2]), 10.0)
ORGAN = StructureRows(np.array([4, 5]), np.array([0.5, 0.5]), 4.0)
DOSE = np.array([
    [60, 60, 60, 60, 10, 20.0],
    [60, 60, 60, 54, 10, 30.0],
    [66, 60, 60, 60, 10, 20.0],
])  # fmt: skip
PLAN = PlanEvaluation({"CTV": TARGET, "Cord": ORGAN}, {"CTV": 60.0}, 6)


def test_deviations_are_root_mean_squares_about_the_nominal_dose():
    np.testing.assert_allclose(
        deviation_gy(DOSE, TARGET), [6 / np.sqrt(3), 0, 0, 6 / np.sqrt(3)]
    )


def test_the_area_under_the_rvh_is_the_mean_deviation():
    area = rvh_area_gy(DOSE, TARGET)
    assert area == pytest.approx((0.4 + 0.2) * 6 / np.sqrt(3))
    levels, volume = rvh(DOSE, TARGET, n=4001)
    assert volume[0] == pytest.approx(100.0)
    assert np.trapezoid(volume / 100.0, levels) == pytest.approx(area, rel=0.2)


def test_a_plan_s_structures_hold_volumes_in_cm3_and_give_the_same():
    assert rvh_area_gy(DOSE, PLAN.structures["CTV"]) == pytest.approx(rvh_area_gy(DOSE, TARGET))
    values = metric_values(PLAN, DOSE, "Cord", "D0.1cc[Gy]")
    wanted = [PLAN.evaluate(d)["Cord"]["D0.1cc[Gy]"] for d in DOSE]
    np.testing.assert_allclose(values, wanted)


def test_one_scenario_does_not_deviate():
    assert rvh_area_gy(DOSE[:1], TARGET) == 0.0


def test_the_band_holds_every_scenario():
    band = dvh_band(DOSE, TARGET, n=133)
    for dose in DOSE:
        from engine.evaluation.dvh import Dvh

        curve = Dvh(dose[:4], TARGET.relative_volume * 10.0).curve(band.dose_gy)
        assert np.all((curve >= band.low_percent - 1e-9) & (curve <= band.high_percent + 1e-9))
    assert band.width_gy["D98"] == pytest.approx(6.0, abs=0.7)
    assert band.width_gy["D50"] == pytest.approx(0.0, abs=0.7)


def test_worst_is_lowest_for_a_target_s_coverage_and_highest_for_the_rest():
    values = metric_values(PLAN, DOSE, "CTV", "D98%[%]")
    assert worst_metric(PLAN, DOSE, "CTV", "D98%[%]") == values.min() < 100.0
    assert worst_metric(PLAN, DOSE, "CTV", "D2%[%]") == pytest.approx(110.0)
    assert worst_metric(PLAN, DOSE, "Cord", "Mean[Gy]") == pytest.approx(20.0)


def test_voxels_are_worst_low_in_targets_and_high_elsewhere():
    np.testing.assert_array_equal(voxelwise_worst(DOSE, np.arange(4)), [60, 60, 60, 54, 10, 30])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="scenarios, rows"):
        rvh_area_gy(DOSE[0], TARGET)
    with pytest.raises(ValueError, match="finite"):
        rvh_area_gy(np.full((2, 6), np.nan), TARGET)
    with pytest.raises(KeyError, match="Heart"):
        worst_metric(PLAN, DOSE, "Heart", "Mean[Gy]")
    with pytest.raises(ValueError, match="compares with the body"):
        metric_values(PLAN, DOSE, "CTV", "CN[%]")


def test_a_clear_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(0)
    base = rng.normal(50.0, 5.0, 20)
    found = paired_comparison(base - 2.0 + rng.normal(0, 0.5, 20), base, rng)
    assert found.p_value < 0.001
    assert found.low < -2.0 < found.high < 0.0
    assert found.n_lower == 20
    same = paired_comparison(base, base, rng)
    assert (same.mean, same.p_value) == (0.0, 1.0)


def test_pairs_with_a_missing_value_are_left_out():
    rng = np.random.default_rng(1)
    found = paired_comparison([1.0, 2.0, np.nan, 4.0], [2.0, 3.0, 4.0, 5.0], rng)
    assert (found.n, found.mean) == (3, -1.0)
    with pytest.raises(ValueError, match="two or more"):
        paired_comparison([1.0, np.nan], [2.0, 3.0], rng)
    with pytest.raises(ValueError, match="shape"):
        paired_comparison([1.0], [2.0, 3.0], rng)
