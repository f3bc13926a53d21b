import pickle
import time

import numpy as np
import pytest

from engine.evaluation.dvh import Dvh
from engine.evaluation.plan_evaluation import (
    ORGAN_METRICS,
    TARGET_METRICS,
    PlanEvaluation,
    StructureRows,
    delta_d95,
    evaluate,
)

N_ROWS = 400
RNG = np.random.default_rng(0)
DOSE = RNG.uniform(0, 75, N_ROWS).astype(np.float32)
TARGET = StructureRows(np.arange(50, 150), np.full(100, 0.01), 2.7)
CORD = StructureRows(np.arange(140, 180), np.linspace(1, 3, 40) / 80, 0.5)
BODY = StructureRows(np.arange(N_ROWS), np.full(N_ROWS, 1 / N_ROWS), 10.8)
STRUCTURES = {"PTV70": TARGET, "SpinalCord": CORD}


def judge(**change):
    arguments = {
        "structures": STRUCTURES, "prescription_gy": {"PTV70": 70.0}, "n_rows": N_ROWS, "body": BODY
    }  # fmt: skip
    return PlanEvaluation(**{**arguments, **change})


def test_metrics_agree_with_the_histogram_of_each_structure():
    metrics = judge().evaluate(DOSE)
    cord = Dvh(DOSE[CORD.rows], CORD.relative_volume * 0.5)
    assert metrics["SpinalCord"]["D0.1cc[Gy]"] == pytest.approx(float(cord.dose_at_cc(0.1)))
    assert metrics["SpinalCord"]["Mean[Gy]"] == pytest.approx(cord.mean_gy)
    target = Dvh(DOSE[TARGET.rows], TARGET.relative_volume)
    assert metrics["PTV70"]["D95%[%]"] == pytest.approx(float(target.dose_at_percent(95)) / 0.70)


def test_organs_refer_to_the_highest_prescription_and_targets_to_their_own():
    two = {**STRUCTURES, "PTV56": StructureRows(np.arange(200, 250), np.full(50, 0.02), 1.0)}
    evaluation = judge(structures=two, prescription_gy={"PTV56": 56.0, "PTV70": 70.0})
    metrics = evaluation.evaluate(np.full(N_ROWS, 56.0))
    assert metrics["PTV56"]["D95%[%]"] == pytest.approx(100.0)
    assert metrics["PTV70"]["D95%[%]"] == pytest.approx(80.0)
    assert evaluation.prescription_of("SpinalCord") == 70.0


def test_conformation_number_needs_the_body_and_counts_cubic_centimeters():
    dose = np.zeros(N_ROWS)
    dose[40:160] = 70.0  # 120 rows of 0.027 cm³ about the target's 100
    assert judge().evaluate(dose)["PTV70"]["CN[%]"] == pytest.approx(100 * 100 / 120)
    assert "CN[%]" not in judge(body=None).evaluate(dose)["PTV70"]
    with pytest.raises(ValueError, match="needs body"):
        judge(body=None, metrics={"PTV70": ["CN"]})


def test_default_and_extra_metrics_are_all_there():
    metrics = judge(metrics={"SpinalCord": ["V20Gy[%]", "Mean[Gy]"]}).evaluate(DOSE)
    assert set(metrics["PTV70"]) == {*TARGET_METRICS, "CN[%]"}
    assert set(metrics["SpinalCord"]) == {*ORGAN_METRICS, "V20Gy[%]"}
    only = judge(metrics={"PTV70": ["Max[Gy]"]}, defaults=False).evaluate(DOSE)
    assert only == {"PTV70": {"Max[Gy]": DOSE[50:150].max()}, "SpinalCord": {}}


def test_the_function_and_the_object_agree():
    once = evaluate(DOSE, STRUCTURES, {"PTV70": 70.0}, BODY)
    assert dict(once) == judge().evaluate(DOSE)


def test_a_pickled_evaluation_gives_the_same_bits():
    evaluation = judge()
    assert pickle.loads(pickle.dumps(evaluation)).evaluate(DOSE) == evaluation.evaluate(DOSE)


def test_inputs_are_left_unchanged():
    rows, volume, dose = TARGET.rows.copy(), TARGET.relative_volume.copy(), DOSE.copy()
    judge().evaluate(DOSE)
    np.testing.assert_array_equal(rows, TARGET.rows)
    np.testing.assert_array_equal(volume, TARGET.relative_volume)
    np.testing.assert_array_equal(dose, DOSE)


def test_delta_d95_is_reference_minus_plan():
    # sign as in Quarz et al. 2024, table 2: positive where the plan lost coverage
    reference, plan = {"PTV70": {"D95%[%]": 98.0}}, {"PTV70": {"D95%[%]": 97.1}}
    assert delta_d95(reference, plan, ["PTV70"])["PTV70"] == pytest.approx(0.9)
    with pytest.raises(ValueError, match="PTV56"):
        delta_d95(reference, plan, ["PTV56"])


def test_ten_structures_of_a_thousand_voxels_take_few_milliseconds():
    size = 10_000
    structures = {
        f"S{i}": StructureRows(np.arange(i * 1000, i * 1000 + 1000), np.full(1000, 1e-3), 27.0)
        for i in range(10)
    }
    evaluation = judge(structures=structures, prescription_gy={"S0": 70.0}, n_rows=size, body=None)
    dose = RNG.uniform(0, 70, size).astype(np.float32)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        evaluation.evaluate(dose)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01  # 0.7 ms alone on one core; wide, for a busy machine


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prescription_gy": {"PTV70": 0.0}}, "positive dose"),
        ({"prescription_gy": {"PTV63": 63.0}}, "PTV63"),
        ({"prescription_gy": {}}, "is empty"),
        ({"metrics": {"Heart": ["Mean[Gy]"]}}, "Heart"),
        ({"metrics": {"PTV70": ["D95"]}}, "unknown"),
        ({"n_rows": 100}, "beyond the 100 rows"),
    ],
)
def test_evaluations_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        judge(**change)


@pytest.mark.parametrize(
    "rows, volume, total, message",
    [
        (np.arange(3), np.ones(2), 1.0, "shape"),
        (np.arange(0), np.ones(0), 1.0, "empty"),
        (np.arange(3), np.zeros(3), 1.0, "empty"),
        (np.arange(3), np.array([1.0, np.nan, 1.0]), 1.0, "finite"),
        (np.ones(3, dtype=bool), np.ones(3), 1.0, "integer row indices"),
        (np.arange(3), np.ones(3), 0.0, "volume_cm3"),
        (np.array([-1, 2]), np.ones(2), 1.0, "rows of"),
    ],
)
def test_structures_that_make_no_sense_are_refused(rows, volume, total, message):
    with pytest.raises(ValueError, match=message):
        judge(structures={**STRUCTURES, "Eye_L": StructureRows(rows, volume, total)})


def test_doses_that_cannot_be_judged_are_refused():
    with pytest.raises(ValueError, match="1 NaN"):
        judge().evaluate(np.where(np.arange(N_ROWS) == 3, np.nan, DOSE))
    with pytest.raises(ValueError, match=r"\(400,\) rows"):
        judge().evaluate(DOSE[:-1])
