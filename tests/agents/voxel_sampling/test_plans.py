"""Plans by processes: the same as here, and made again when a process is killed."""

import os
import signal

import numpy as np
import pytest

from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.plans import Planner, PlanOrder, PlanWarning, make_plan
from agents.voxel_sampling.study import case_named
from agents.voxel_sampling.study_problem import sampled_problem

NAME = "head-and-neck-00001"


@pytest.fixture(scope="module")
def case(environment):
    return case_named(environment, NAME)


@pytest.fixture(scope="module")
def volume(case):
    return CaseVolume.of(case, NAME)


def order(volume, seed=0, **settings):
    selected = np.random.default_rng(seed).random(len(volume.rows)) < 0.5
    mask = volume.mask(selected, None, np.random.default_rng(seed))
    return PlanOrder.of(NAME, mask, seed, **{"evaluations": 10, **settings})


def kill_workers(planner):
    for pid in list(planner._pool._processes):
        os.kill(pid, signal.SIGKILL)


def test_a_mask_survives_its_packing(volume):
    packed = order(volume)
    assert packed.packed.nbytes <= volume.n_rows // 8 + 1
    selected = np.random.default_rng(0).random(len(volume.rows)) < 0.5
    np.testing.assert_array_equal(np.flatnonzero(packed.mask), volume.rows[selected])


def test_a_plan_is_that_of_the_masked_problem(environment, case, volume):
    everything = volume.mask(np.ones(len(volume.rows), bool), None, np.random.default_rng(0))
    plan = make_plan(environment, PlanOrder.of(NAME, everything, 0, evaluations=60))
    few = make_plan(environment, order(volume, evaluations=2))
    assert plan.objective < few.objective
    assert plan.objective == pytest.approx(plan.row_penalty.sum(dtype=float), rel=1e-5)
    assert plan.dose_gy.shape == (case.influence.n_rows,)
    assert list(plan.d95_percent) == list(case.targets)
    named = {o.structure for o in sampled_problem(case).objectives}
    assert not any("ring" in name.lower() for name in named)


def test_plans_with_the_ring_have_its_penalties(environment, volume):
    without = make_plan(environment, order(volume))
    with_ring = make_plan(environment, order(volume, with_ring=True))
    assert with_ring.row_penalty[volume.ring].sum() > without.row_penalty[volume.ring].sum()


def test_a_process_makes_the_same_plan(environment, volume):
    with Planner(environment, workers=1) as away, Planner(environment, workers=0) as here:
        numbers = [(away.order(o), here.order(o)) for o in (order(volume, 0), order(volume, 1))]
        for there, at_home in numbers:
            a, b = away.plan(there), here.plan(at_home)
            np.testing.assert_array_equal(a.dose_gy, b.dose_gy)
        assert not away._due and not here._due


def test_a_killed_process_loses_nothing(environment, volume):
    orders = [order(volume, seed) for seed in range(3)]
    with Planner(environment, workers=2) as planner:
        numbers = [planner.order(o) for o in orders]
        first = planner.plan(numbers[0])
        kill_workers(planner)
        numbers.append(planner.order(order(volume, 7, evaluations=100)))
        with pytest.warns(PlanWarning, match="killed while the plan of head-and-neck-00001"):
            rest = [planner.plan(number) for number in numbers[1:]]
    for plan, of in zip([first, *rest[:2]], orders):
        np.testing.assert_array_equal(plan.dose_gy, make_plan(environment, of).dose_gy)


def test_a_plan_that_kills_every_process_ends_the_run(environment, volume, monkeypatch):
    with Planner(environment, workers=1, attempts=2) as planner:
        begin = planner._begun

        def begun_and_killed(of):
            future = begin(of)
            kill_workers(planner)
            return future

        monkeypatch.setattr(planner, "_begun", begun_and_killed)
        number = planner.order(order(volume))
        with pytest.warns(PlanWarning), pytest.raises(RuntimeError, match="process 2 times"):
            planner.plan(number)


def test_errors_of_a_plan_are_its_own(environment, volume):
    wrong = PlanOrder.of(NAME, np.ones(5, bool), 0)
    with Planner(environment, workers=0) as planner:
        number = planner.order(wrong)
        with pytest.raises(ValueError, match="built with other settings"):
            planner.plan(number)


def test_what_means_nothing_is_refused(environment):
    with pytest.raises(ValueError, match="workers=-1"):
        Planner(environment, workers=-1)
    with pytest.raises(ValueError, match="attempts=0"):
        Planner(environment, attempts=0)
