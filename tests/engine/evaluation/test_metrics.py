import numpy as np
import pytest

from engine.evaluation.dvh import Dvh
from engine.evaluation.metrics import (
    KNOWN_NAMES,
    conformation_number,
    equivalent_uniform_dose,
    homogeneity_index,
    parse_metric,
)
from engine.patient.grid import Grid

RAMP_56_TO_64 = 56 + (np.arange(4000) + 0.5) * 8 / 4000  # Dx = 64 − 0.08 x
EVEN = np.full(4000, 1 / 4000)


def of(name, dose, volume, prescription_gy=60.0, body=None):
    return parse_metric(name).of(Dvh(np.array(dose), np.array(volume)), prescription_gy, body)


def test_homogeneity_of_a_linear_ramp_is_the_closed_form():
    # D2 − D98 = 7.68 Gy, D5 − D95 = 7.2 Gy, D50 = 60 Gy
    assert homogeneity_index(RAMP_56_TO_64, EVEN, 60.0) == pytest.approx(12.8, abs=1e-3)
    assert homogeneity_index(RAMP_56_TO_64, EVEN, 60.0, "trip") == pytest.approx(12.0, abs=1e-3)
    assert homogeneity_index(RAMP_56_TO_64, EVEN, kind="icru83") == pytest.approx(0.128, abs=1e-3)
    assert of("HI[%]", RAMP_56_TO_64, EVEN) == pytest.approx(12.8, abs=1e-3)
    assert of("HI_TRiP[%]", RAMP_56_TO_64, EVEN) == pytest.approx(12.0, abs=1e-3)
    assert of("HI_ICRU83", RAMP_56_TO_64, EVEN) == pytest.approx(0.128, abs=1e-3)


def test_homogeneity_uses_one_unit_for_dose_and_prescription():
    # Yang 2025, table 1: D2 = 1.86 and D98 = 1.72 Gy per fraction of 1.8 Gy give 7.8 %
    dose = np.concatenate([np.full(50, 1.86), np.full(50, 1.72)])
    assert homogeneity_index(dose, np.ones(100), 1.8) == pytest.approx(7.78, abs=0.01)


@pytest.mark.parametrize("kind", ["wu", "trip", "icru83"])
def test_uniform_dose_is_perfectly_homogeneous(kind):
    assert homogeneity_index(np.full(9, 60.0), np.ones(9), 60.0, kind) == 0.0


def test_conformation_number_of_concentric_slabs_is_the_closed_form():
    # target of 8 slabs, treated volume of 10 about it: CN = (8/8)·(8/10)
    body = np.zeros(100)
    body[40:50] = 60.0
    cn = conformation_number(body[41:49], np.ones(8), body, np.ones(100), 60.0)
    assert cn == pytest.approx(0.8)
    # shifted: 6 of the 8 treated, CN = (6/8)·(6/10)
    cn = conformation_number(body[44:52], np.ones(8), body, np.ones(100), 60.0)
    assert cn == pytest.approx(0.45)


def test_conformation_number_of_concentric_spheres_is_the_closed_form():
    # target radius 20, 95 % isodose radius 24 mm: CN = (20/24)³
    grid = Grid.centered((120, 120, 120), (0.5, 0.5, 0.5))
    radius = np.linalg.norm(grid.points_mm(), axis=1)
    dose = 60.0 * (1.05 - 0.1 * (radius / 24.0))
    target = radius <= 20
    cn = conformation_number(dose[target], np.ones(target.sum()), dose, np.ones(dose.size), 60.0)
    assert cn == pytest.approx((20 / 24) ** 3, abs=1e-3)


def test_conformation_number_lies_between_zero_and_one():
    rng = np.random.default_rng(2)
    for _ in range(20):
        dose = rng.uniform(40, 80, 300)
        cn = conformation_number(dose[:80], np.ones(80), dose, np.ones(300), 60.0)
        assert 0 <= cn <= 1
    assert conformation_number(np.zeros(3), np.ones(3), np.zeros(9), np.ones(9), 60.0) == 0.0


def test_conformity_and_gradient_indices_count_body_volumes():
    body = Dvh(np.array([60.0] * 10 + [30.0] * 15 + [0.0] * 75), np.ones(100))
    target = [60.0] * 8, [1.0] * 8
    assert of("CI", *target, body=body) == pytest.approx(10 / 8)
    assert of("GI", *target, body=body) == pytest.approx(25 / 10)
    assert of("CN[%]", *target, body=body) == pytest.approx(80.0)


def test_metric_names_read_their_metric():
    dose, volume = RAMP_56_TO_64, 2.0 * EVEN  # 2 cm³
    assert of("D95%[Gy]", dose, volume) == pytest.approx(56.4)
    assert of("D95%[%]", dose, volume) == pytest.approx(94.0)
    assert of("D0.1cc[Gy]", dose, volume) == pytest.approx(63.6)
    assert of("D1%[Gy]", dose, volume) == pytest.approx(63.92)
    assert of("V60Gy[%]", dose, volume) == pytest.approx(50.0)
    assert of("V60Gy[cc]", dose, volume) == pytest.approx(1.0)
    assert of("V95%[%]", dose, volume) == pytest.approx(87.5)
    assert of("V20%[%]", dose, volume) == pytest.approx(100.0)
    assert of("Mean[Gy]", dose, volume) == pytest.approx(60.0)
    assert of("Max[%]", dose, volume) == pytest.approx(100 * dose.max() / 60)


def test_every_advertised_name_parses():
    for name in KNOWN_NAMES.split():
        assert parse_metric(name).name == name


@pytest.mark.parametrize(
    "name",
    ["D95", "D95%", "D95%[cc]", "Dmean", "V20[Gy]", "mean[Gy]", "HI", "CN[Gy]", "", "D95%[Gy"],
)
def test_unknown_metrics_are_refused_with_examples(name):
    with pytest.raises(ValueError, match="metric"):
        parse_metric(name)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="more than 100 %"):
        parse_metric("D101%[Gy]")
    with pytest.raises(ValueError, match="argument 0"):
        parse_metric("EUD0[Gy]")
    with pytest.raises(TypeError, match="name such as"):
        parse_metric(95)


@pytest.mark.parametrize("prescription_gy", [0.0, -1.0, np.nan, None])
def test_relative_metrics_refuse_a_prescription_of_zero(prescription_gy):
    for name in ("D95%[%]", "HI[%]", "V20%[%]"):
        with pytest.raises(ValueError, match="prescription"):
            of(name, [60.0], [1.0], prescription_gy)


def test_conformation_without_a_body_is_refused():
    with pytest.raises(ValueError, match="whole body"):
        of("CN", [60.0], [1.0])


def test_unknown_kind_of_homogeneity_is_refused():
    with pytest.raises(ValueError, match="choose from"):
        homogeneity_index(np.ones(3), np.ones(3), 1.0, "best")


def test_eud_of_two_halves_is_the_closed_form():
    dose, volume = np.array([60.0, 30.0]), np.array([0.5, 0.5])
    assert equivalent_uniform_dose(dose, volume, 1.0) == pytest.approx(45.0)
    assert equivalent_uniform_dose(dose, volume, 2.0) == pytest.approx(np.sqrt(2250.0))
    assert equivalent_uniform_dose(dose, volume, -1.0) == pytest.approx(40.0)
    assert equivalent_uniform_dose(np.array([0.0, 60.0]), volume, -10.0) == 0.0


@pytest.mark.parametrize("a", [-20.0, -1.0, 1.0, 8.0])
def test_eud_lies_between_the_extremes_and_keeps_a_uniform_dose(a):
    rng = np.random.default_rng(0)
    dose, volume = rng.uniform(1, 70, 50), rng.uniform(0.1, 1, 50)
    assert dose.min() <= equivalent_uniform_dose(dose, volume, a) <= dose.max()
    assert equivalent_uniform_dose(np.full(5, 50.0), np.ones(5), a) == pytest.approx(50.0)


def test_eud_rises_with_its_exponent_to_the_maximum():
    dose, volume = np.array([10.0, 50.0]), np.ones(2)
    values = [equivalent_uniform_dose(dose, volume, a) for a in (-50, -2, 1, 4, 200)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(50.0, rel=0.01)


def test_eud_refuses_exponent_zero():
    with pytest.raises(ValueError, match="a=0"):
        equivalent_uniform_dose(np.ones(2), np.ones(2), 0)
