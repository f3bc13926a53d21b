"""Times of sequences, and dynamic programming against every sequence there is."""

from itertools import product

import numpy as np
import pytest

from engine.geometry.delivery import SwitchingTable
from engine.optimization.layer_sequencing import (
    LayerSequencing,
    dynamic_programming,
    weighted_dynamic_programming,
)  # fmt: skip


def sequencing(n_angles=5, n_layers=4, seed=0, share=0.8, passed=()):
    rng = np.random.default_rng(seed)
    valid = rng.random((n_angles, n_layers)) < share
    valid[:, 1] = True
    valid[list(passed)] = False
    table = SwitchingTable.linear(100.0 + 10.0 * np.arange(n_layers), 5.5, 0.6, 0.01)
    return LayerSequencing(
        table.seconds, rng.uniform(0.1, 1.0, valid.shape), np.r_[0, np.full(n_angles - 1, 0.8)],
        valid,
    )  # fmt: skip


def every_sequence(s):
    options = [np.flatnonzero(v) if v.any() else [-1] for v in s.valid]
    return [np.array(c)[:, None] for c in product(*options)]


def value_of(value, choice):
    return sum(value[g, e] for g, e in enumerate(choice[:, 0]) if e >= 0)


def test_time_is_the_longer_of_motion_and_beam_at_every_angle():
    s = LayerSequencing(
        np.array([[0, 5.0], [1.0, 0]]), np.array([[0.5, 0.2]] * 3), np.array([0, 0.8, 0.8]),
        np.ones((3, 2), bool),
    )  # fmt: skip
    assert s.time_s([[0], [0], [0]]) == pytest.approx(0.5 + 0.8 + 0.8)
    assert s.time_s([[0], [1], [0]]) == pytest.approx(0.5 + 5.2 + 1.5)
    assert s.switching_s([[0], [1], [0]]) == pytest.approx(6.0)
    assert s.transitions([[0], [1], [0]]) == (1, 1, 0)
    assert s.time_s([[0], [-1], [0]]) == pytest.approx(0.5 + 0.8 + 0.8), "passed over"


def test_several_layers_at_one_angle_add_up():
    s = LayerSequencing(
        np.array([[0, 5.0], [1.0, 0]]), np.array([[0.5, 0.2]] * 2), np.array([0, 2.0]),
        np.ones((2, 2), bool), 2,
    )  # fmt: skip
    assert s.time_s([[1, 0], [0, -1]]) == pytest.approx(0.2 + 1.0 + 0.5 + 2.0)
    assert s.transitions([[1, 0], [0, -1]]) == (0, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_the_least_rest_is_the_least_of_all_sequences(seed):
    s = sequencing(seed=seed, passed=[3] if seed % 2 else [])
    times = [s.time_s(c) for c in every_sequence(s)]
    assert s.floor_s == pytest.approx(min(times))


@pytest.mark.parametrize("seed", range(8))
def test_dynamic_programming_finds_the_best_of_all_sequences(seed):
    s = sequencing(seed=seed, passed=[0] if seed == 1 else [2, 4] if seed == 2 else [])
    value = np.random.default_rng(seed + 100).uniform(0, 10, s.valid.shape)
    for factor in (1.0, 1.3, 2.0):
        limit = factor * s.floor_s
        found = dynamic_programming(s, value, limit)
        best = max(value_of(value, c) for c in every_sequence(s) if s.time_s(c) <= limit + 1e-9)
        assert s.time_s(found) <= limit + 1e-5
        assert value_of(value, found) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_the_weighted_form_finds_the_best_of_all_sequences(seed):
    s = sequencing(seed=seed, passed=[1] if seed == 1 else [])
    value = np.random.default_rng(seed).uniform(0, 10, s.valid.shape)
    for weight in (0.0, 1.0, 10.0):
        found = weighted_dynamic_programming(s, value, weight)
        totals = [value_of(value, c) - weight * s.time_s(c) for c in every_sequence(s)]
        assert value_of(value, found) - weight * s.time_s(found) == pytest.approx(max(totals))


def test_no_random_sequence_of_a_long_arc_is_better():
    s = sequencing(72, 30, seed=3)
    value = np.random.default_rng(4).uniform(0, 10, s.valid.shape)
    rng = np.random.default_rng(5)
    found = dynamic_programming(s, value, 3.0 * s.floor_s)
    assert s.time_s(found) <= 3.0 * s.floor_s + 1e-5
    for _ in range(200):
        choice = np.array([[rng.choice(np.flatnonzero(v))] for v in s.valid])
        if s.time_s(choice) <= 3.0 * s.floor_s:
            assert value_of(value, choice) <= value_of(value, found)


def test_the_least_time_is_kept_on_a_long_arc():
    """Few bins lose the one sequence that keeps it, unless labels know what must be left."""
    s = sequencing(60, 12, seed=8)
    value = np.random.default_rng(9).uniform(0, 10, s.valid.shape)
    found = dynamic_programming(s, value, s.floor_s, n_bins=8)
    assert s.time_s(found) == pytest.approx(s.floor_s)
    assert np.all(s.valid[np.arange(60), found[:, 0]])


def test_more_time_is_never_worse():
    s = sequencing(30, 12, seed=6)
    value = np.random.default_rng(7).uniform(0, 10, s.valid.shape)
    totals = [
        value_of(value, dynamic_programming(s, value, f * s.floor_s)) for f in (1, 1.2, 1.5, 2, 3)
    ]
    assert np.all(np.diff(totals) >= -0.02 * totals[-1])


def test_a_limit_that_nothing_keeps_is_refused():
    s = sequencing()
    with pytest.raises(ValueError, match="allow more"):
        dynamic_programming(s, np.ones(s.valid.shape), 0.5 * s.floor_s)


def test_what_does_not_fit_is_refused():
    s = sequencing()
    good = dict(
        switch_s=s.switch_s, beam_on_s=s.beam_on_s, gantry_s=s.gantry_s, valid=s.valid
    )  # fmt: skip
    with pytest.raises(ValueError, match="switch_s has shape"):
        LayerSequencing(**{**good, "switch_s": np.zeros((3, 3))})
    with pytest.raises(ValueError, match="0 or more"):
        LayerSequencing(**{**good, "switch_s": s.switch_s - 1.0})
    with pytest.raises(ValueError, match="finite"):
        LayerSequencing(**{**good, "beam_on_s": np.full(s.valid.shape, np.nan)})
    with pytest.raises(ValueError, match="no layer reaches"):
        LayerSequencing(**{**good, "valid": np.zeros(s.valid.shape, bool)})
    with pytest.raises(ValueError, match="value has shape"):
        dynamic_programming(s, np.ones((2, 2)), 100.0)
    with pytest.raises(ValueError, match="finite for every valid"):
        dynamic_programming(s, np.full(s.valid.shape, np.nan), 100.0)
    with pytest.raises(ValueError, match="5 angles"):
        s.time_s([[0]])
