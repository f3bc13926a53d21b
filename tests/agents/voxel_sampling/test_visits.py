"""Turns: whose it is, what is drawn, and that nothing piles up."""

import tracemalloc

import numpy as np
import pytest

from agents.voxel_sampling.plans import Planner
from agents.voxel_sampling.visits import Turns, Visits, drawn_before


def even(volume):
    return np.full(len(volume.rows), 0.5, np.float32)


@pytest.fixture
def planner(toy_plan):
    return Planner(None, workers=0, make=lambda environment, order: toy_plan(penalty=order.mask))


@pytest.fixture
def volumes(toy_volume):
    return [toy_volume(name=name) for name in "abc"]


def test_a_patient_comes_several_times_in_a_row_and_epochs_differ():
    turns = Turns(n_epochs=4, per_patient=5)
    whose = [turns.patient(step, 6, seed=0) for step in range(turns.per_epoch(6) * 4)]
    epochs = np.array(whose).reshape(4, 6, 5)
    assert np.all(epochs == epochs[:, :, :1])
    assert all(sorted(e[:, 0]) == list(range(6)) for e in epochs)
    assert len({tuple(e[:, 0]) for e in epochs}) > 1


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_plans_are_of_the_voxels_drawn(volumes, planner, ahead):
    visits = Visits(volumes, even, planner, Turns(n_epochs=2, per_patient=2, ahead=ahead), 0)
    assert len(visits) == 12
    seen = list(visits)
    assert [v.step for v in seen] == list(range(12))
    for v in seen:
        chosen = np.flatnonzero(v.plans[0].row_penalty)
        np.testing.assert_array_equal(chosen, v.volume.rows[v.selected[0]])
    assert len(visits) == 0 and not visits.waiting and not planner._due


@pytest.mark.parametrize("ahead, drawn_with", [(0, [0, 1, 2, 3]), (1, [0, 0, 1, 2]),
                                               (2, [0, 0, 0, 1])])  # fmt: skip
def test_masks_are_as_old_as_asked_for(volumes, planner, ahead, drawn_with):
    updates = [0]
    visits = Visits(
        volumes, lambda v: np.full(len(v.rows), updates[0] / 100, np.float32), planner,
        Turns(n_epochs=1, ahead=ahead), 0,
    )  # fmt: skip
    ages = []
    for visit in visits:
        ages.append(round(100 * float(visit.chances[0])))
        updates[0] += 1
    assert ages[:4] == drawn_with


@pytest.mark.parametrize("second, masks", [(None, 1), ("sample", 2), ("mode", 2)])
def test_a_second_mask_is_another_sample_or_the_mode(volumes, planner, second, masks):
    visits = Visits(volumes, lambda v: np.linspace(0, 1, 6), planner, Turns(), 0, second)
    visit = next(iter(visits))
    assert len(visit.selected) == len(visit.plans) == masks
    if second == "mode":
        np.testing.assert_array_equal(visit.selected[1], [0, 0, 0, 1, 1, 1])


def test_turns_go_on_where_they_stopped(volumes, planner):
    turns = Turns(n_epochs=2, per_patient=2, ahead=2)
    whole = list(Visits(volumes, even, planner, turns, 3))
    first = Visits(volumes, even, planner, turns, 3)
    begun = iter(first)
    seen = [next(begun) for _ in range(5)]
    state = first.state()
    rest = Visits(volumes, even, planner, turns, 3, step=5, waiting=drawn_before(state))
    seen += list(rest)
    assert len(seen) == len(whole)
    for a, b in zip(seen, whole):
        assert (a.step, a.volume.name) == (b.step, b.volume.name)
        np.testing.assert_array_equal(a.selected[0], b.selected[0])
        assert a.rng().random() == b.rng().random()


def test_memory_does_not_grow_with_the_number_of_plans(toy_volume, toy_plan):
    n_rows = 20_000
    volume = toy_volume((1,) * 10_000 + (0,) * 9_000, n_rows)
    planner = Planner(None, workers=0, make=lambda e, order: toy_plan(order.mask, order.mask,
                                                                      n_rows))  # fmt: skip
    visits = iter(Visits([volume], even, planner, Turns(n_epochs=1000, ahead=2), 0))
    tracemalloc.start()
    held = []
    for _ in range(2):
        for _ in range(150):
            next(visits)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 8 * n_rows  # what one plan holds; 150 were made


@pytest.mark.parametrize(
    "wrong", [{"n_epochs": 0}, {"per_patient": 0}, {"ahead": -1}, {"evaluations": 0},
              {"ring_rate": 1.5}]
)  # fmt: skip
def test_what_means_nothing_is_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Turns(**wrong)
