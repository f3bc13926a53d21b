import inspect

import numpy as np
import pytest

from engine.optimization import objectives
from engine.optimization.objectives import (
    EUD,
    DoseFallOff,
    MaxDose,
    MaxDVH,
    MeanDose,
    MinDose,
    MinDVH,
    Objective,
    SeparableObjective,
    UniformDose,
)

CASES = {
    "min": MinDose("s", 50.0),
    "max": MaxDose("s", 40.0),
    "uniform": UniformDose("s", 45.0),
    "min dvh": MinDVH("s", 50.0, 0.7),
    "max dvh": MaxDVH("s", 30.0, 0.3),
    "mean": MeanDose("s", 26.0),
    "fall-off": DoseFallOff("s", 60.0, 10.0, 25.0),
    "eud max": EUD("s", 30.0, a=8.0, side="max"),
    "eud min": EUD("s", 60.0, a=-10.0, side="min"),
    "eud target": EUD("s", 35.0, a=1.0, side="target"),
}
every_objective = pytest.mark.parametrize("objective", CASES.values(), ids=CASES.keys())


@pytest.fixture
def voxels():
    rng = np.random.default_rng(3)
    dose_gy = rng.uniform(5.0, 70.0, 60)
    volume = rng.uniform(0.1, 1.0, 60)
    return dose_gy, volume / volume.sum(), rng.uniform(0.0, 40.0, 60)


def scaled(objective, factor):
    """The objective with its dose levels times a factor."""
    levels = [n for n in ("level_gy", "high_gy", "low_gy") if hasattr(objective, n)]
    changed = {n: factor * getattr(objective, n) for n in levels}
    return type(objective)(**{**objective.__dict__, **changed})


@every_objective
def test_gradient_matches_finite_difference(objective, voxels):
    dose_gy, volume, distance_mm = voxels
    gradient = objective.gradient(dose_gy, volume, distance_mm)
    assert objective.value(dose_gy, volume, distance_mm) > 0
    for i in range(len(dose_gy)):
        step = np.zeros_like(dose_gy)
        step[i] = 1e-5
        higher = objective.value(dose_gy + step, volume, distance_mm)
        lower = objective.value(dose_gy - step, volume, distance_mm)
        difference = (higher - lower) / 2e-5
        assert gradient[i] == pytest.approx(difference, rel=1e-4, abs=1e-9)


@every_objective
def test_doubling_dose_and_level_changes_nothing(objective, voxels):
    dose_gy, volume, distance_mm = voxels
    twice = scaled(objective, 2.0).value(2.0 * dose_gy, volume, distance_mm)
    assert twice == pytest.approx(objective.value(dose_gy, volume, distance_mm), rel=1e-9)


@every_objective
def test_splitting_voxels_changes_nothing(objective, voxels):
    """The value is divided by volume: a finer grid or a larger copy of a structure costs alike."""
    dose_gy, volume, distance_mm = voxels
    halves = objective.value(np.tile(dose_gy, 2), np.tile(volume, 2) / 2, np.tile(distance_mm, 2))
    assert halves == pytest.approx(objective.value(dose_gy, volume, distance_mm), rel=1e-9)


def test_every_objective_has_a_case():
    declared = {Objective, SeparableObjective}
    classes = {
        c for _, c in inspect.getmembers(objectives, inspect.isclass) if hasattr(c, "gradient")
    }
    assert classes - declared == {type(o) for o in CASES.values()}


def test_every_case_is_an_objective_and_four_are_separable():
    separable = [n for n, o in CASES.items() if isinstance(o, SeparableObjective)]
    assert all(isinstance(o, Objective) for o in CASES.values())
    assert separable == ["min", "max", "uniform", "fall-off"]


@pytest.mark.parametrize("name", ["min", "max", "uniform", "fall-off"])
def test_separable_terms_add_up_to_the_value(name, voxels):
    objective, (dose_gy, volume, distance_mm) = CASES[name], voxels
    total = 0.0
    for level_gy, weight, side in objective.terms(volume, distance_mm):
        total += np.sum(weight * np.maximum(0.0, side * (dose_gy - level_gy)) ** 2)
    assert total == pytest.approx(objective.value(dose_gy, volume, distance_mm), rel=1e-12)


@every_objective
def test_inputs_stay_as_they_were(objective, voxels):
    before = [v.copy() for v in voxels]
    objective.value(*voxels)
    objective.gradient(*voxels)
    for array, copy in zip(voxels, before):
        np.testing.assert_array_equal(array, copy)


def test_five_gray_over_fifty_cost_as_much_as_one_over_ten():
    """Janson et al. 2024, Optimization functions."""
    volume = np.ones(1)
    high = MaxDose("s", 50.0).value(np.array([55.0]), volume)
    assert high == pytest.approx(MaxDose("s", 10.0).value(np.array([11.0]), volume))


def test_wishes_that_are_met_cost_nothing():
    volume = np.full(4, 0.25)
    dose_gy = np.array([20.0, 20.0, 20.0, 40.0])
    assert MaxDose("s", 41.0).value(dose_gy, volume) == 0
    assert MinDose("s", 19.0).value(dose_gy, volume) == 0
    assert MaxDVH("s", 30.0, 0.25).value(dose_gy, volume) == 0
    assert MaxDVH("s", 30.0, 0.20).value(dose_gy, volume) > 0
    assert MinDVH("s", 40.0, 0.25).value(dose_gy, volume) == 0
    assert MinDVH("s", 40.0, 0.30).value(dose_gy, volume) > 0
    assert MeanDose("s", 25.0).value(dose_gy, volume) == 0


def test_eud_runs_from_minimum_through_mean_to_maximum():
    volume, dose_gy = np.full(3, 1 / 3), np.array([10.0, 20.0, 60.0])
    euds = [EUD("s", 1.0, a=a)._eud(dose_gy, volume)[0] for a in (-300.0, 1.0, 300.0)]
    assert euds == pytest.approx([10.0, 30.0, 60.0], rel=5e-3)


def test_eud_of_zero_dose_stays_finite():
    objective = EUD("s", 50.0, a=-20.0, side="min")
    dose_gy, volume = np.zeros(3), np.full(3, 1 / 3)
    assert objective.value(dose_gy, volume) == pytest.approx(1.0, rel=1e-3)
    assert np.all(np.isfinite(objective.gradient(dose_gy, volume)))


def test_fall_off_level_drops_linearly_with_distance():
    objective = DoseFallOff("s", 60.0, 10.0, 25.0)
    assert objective.level_at(np.array([0.0, 12.5, 25.0, 99.0])) == pytest.approx([60, 35, 10, 10])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MaxDose("s", 0.0), "level_gy=0.0"),
        (lambda: MinDose("s", np.nan), "level_gy=nan"),
        (lambda: UniformDose("s", 60.0, weight=-1.0), "weight=-1.0"),
        (lambda: MinDVH("s", 60.0, 1.0), "volume_fraction=1.0"),
        (lambda: EUD("s", 60.0, a=0.0), "a=0.0"),
        (lambda: EUD("s", 60.0, a=2.0, side="top"), "side='top'"),
        (lambda: DoseFallOff("s", 60.0, 70.0, 20.0), "low_gy=70.0"),
        (lambda: DoseFallOff("s", 60.0, 20.0, 0.0), "distance_mm=0.0"),
        (lambda: DoseFallOff("s", 60.0, 20.0, 9.0).value(np.ones(2), np.ones(2)), "distance_mm"),
    ],
)
def test_bad_levels_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
