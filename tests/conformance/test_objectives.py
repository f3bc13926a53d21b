"""What holds for one objective holds for all: found by themselves under engine/optimization.

A new objective needs a case here; one class may bring several.
"""

import importlib
import inspect
import pickle
import pkgutil

import numpy as np
import pytest

import engine.optimization
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

CASES = {  # none of them met by the doses below
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


def objectives():
    """Every class under engine/optimization with ``value`` and ``gradient``, but the interfaces."""
    found = set()
    for module in pkgutil.walk_packages(engine.optimization.__path__, "engine.optimization."):
        for thing in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(thing) and hasattr(thing, "value") and hasattr(thing, "gradient"):
                found.add(thing)
    return found - {Objective, SeparableObjective}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def objective(request):
    return request.param


@pytest.fixture
def voxels():
    """Doses in Gy, relative volumes of sum 1, distances in mm, each (60,)."""
    rng = np.random.default_rng(3)
    volume = rng.uniform(0.1, 1.0, 60)
    return rng.uniform(5.0, 70.0, 60), volume / volume.sum(), rng.uniform(0.0, 40.0, 60)


@pytest.mark.parametrize("kind", sorted(objectives(), key=lambda c: c.__name__))
def test_every_objective_brings_a_case(kind):
    named = {type(o) for o in CASES.values()}
    assert kind in named, f"objective {kind.__name__} has no case; add one to CASES in {__file__}."


def test_it_is_an_objective(objective):
    assert isinstance(objective, Objective)
    assert not objective.asks_for_dose or objective.level_gy > 0


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


def test_doubling_dose_and_level_changes_nothing(objective, voxels):
    dose_gy, volume, distance_mm = voxels
    levels = [n for n in ("level_gy", "high_gy", "low_gy") if hasattr(objective, n)]
    doubled = {n: 2.0 * getattr(objective, n) for n in levels}
    twice = type(objective)(**{**vars(objective), **doubled})
    assert twice.value(2.0 * dose_gy, volume, distance_mm) == pytest.approx(
        objective.value(dose_gy, volume, distance_mm), rel=1e-9
    )


def test_splitting_voxels_changes_nothing(objective, voxels):
    """The value is divided by volume: a finer grid or a larger copy of a structure costs alike."""
    dose_gy, volume, distance_mm = voxels
    halves = objective.value(np.tile(dose_gy, 2), np.tile(volume, 2) / 2, np.tile(distance_mm, 2))
    assert halves == pytest.approx(objective.value(dose_gy, volume, distance_mm), rel=1e-9)


def test_the_value_leaves_out_the_weight(objective, voxels):
    heavy = type(objective)(**{**vars(objective), "weight": 7.0})
    assert heavy.value(*voxels) == objective.value(*voxels)


def test_separable_terms_add_up_to_the_value(objective, voxels):
    if not isinstance(objective, SeparableObjective):
        assert not hasattr(objective, "terms")
        return
    dose_gy, volume, distance_mm = voxels
    total = 0.0
    for level_gy, weight, side in objective.terms(volume, distance_mm):
        total += np.sum(weight * np.maximum(0.0, side * (dose_gy - level_gy)) ** 2)
    assert total == pytest.approx(objective.value(dose_gy, volume, distance_mm), rel=1e-12)


def test_those_that_ask_for_dose_cost_most_without_any(objective, voxels):
    dose_gy, volume, distance_mm = voxels
    nothing = objective.value(np.zeros_like(dose_gy), volume, distance_mm)
    assert (nothing > 0.5) == objective.asks_for_dose


def test_inputs_stay_as_they_were(objective, voxels):
    before = [v.copy() for v in voxels]
    objective.value(*voxels)
    objective.gradient(*voxels)
    for array, copy in zip(voxels, before):
        np.testing.assert_array_equal(array, copy)


def test_it_survives_pickling(objective):
    assert pickle.loads(pickle.dumps(objective)) == objective
