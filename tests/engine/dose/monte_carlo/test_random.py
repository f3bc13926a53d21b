"""Random numbers: streams of their own, distributions as they should be."""

import numpy as np
import pytest
from numba import njit
from scipy import stats

from engine.dose.monte_carlo._random import (
    normal_quantiles,
    start_stream,
    three_normals,
    two_normals,
    two_uniforms,
    uniform,
)


@njit
def uniforms(seed, history, n):
    stream, out = np.zeros(1, np.uint64), np.empty(n)
    start_stream(stream, np.uint64(seed), np.uint64(history))
    for i in range(n):
        out[i] = uniform(stream)
    return out, stream[0]


@njit
def pairs(n):
    stream, out = np.zeros(1, np.uint64), np.empty((n, 2))
    start_stream(stream, np.uint64(5), np.uint64(0))
    for i in range(n):
        out[i] = two_uniforms(stream)
    return out


@njit
def normals(n, quantiles):
    stream, three, two = np.zeros(1, np.uint64), np.empty((n, 3)), np.empty((n, 2))
    start_stream(stream, np.uint64(5), np.uint64(0))
    for i in range(n):
        three[i] = three_normals(stream, quantiles)
        two[i] = two_normals(stream)
    return three, two


N = 400_000
KOLMOGOROV = 1.95 / np.sqrt(N)  # exceeded once in a thousand


def kolmogorov(values, distribution):
    """Largest distance between the distributions of values (n,) and of theory."""
    expected = distribution.cdf(np.sort(values))
    return np.abs(expected - (np.arange(len(values)) + 0.5) / len(values)).max()


@pytest.fixture(scope="module")
def drawn():
    return normals(N, normal_quantiles())


def test_streams_of_histories_and_seeds_share_no_number():
    streams = [uniforms(seed, history, 500)[0] for seed in (0, 1, 2**62) for history in range(100)]
    assert np.unique(streams).size == 3 * 100 * 500


def test_a_stream_has_room_for_65536_draws_before_the_next_one_begins():
    _, end_of_7 = uniforms(3, 7, 2**16)
    _, start_of_8 = uniforms(3, 8, 0)
    assert end_of_7 == start_of_8


def test_a_stream_does_not_depend_on_what_was_drawn_before():
    alone = uniforms(3, 9, 50)[0]
    for other in (8, 10, 0):
        uniforms(3, other, 123)
    np.testing.assert_array_equal(uniforms(3, 9, 50)[0], alone)


def test_uniforms_are_uniform_open_and_independent():
    many = uniforms(1, 0, N)[0]
    assert 0.0 < many.min() and many.max() < 1.0
    assert kolmogorov(many, stats.uniform) < KOLMOGOROV
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1]) < 4.0 / np.sqrt(N)
    first, second = pairs(N).T
    for half in (first, second):
        assert 0.0 < half.min() and half.max() < 1.0
        assert kolmogorov(half, stats.uniform) < KOLMOGOROV
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.0 / np.sqrt(N)


def test_three_normals_have_a_normals_moments_and_no_far_tail(drawn):
    three, _ = drawn
    # standard errors of mean, variance and kurtosis: √(1/n), √(2/n), √(24/n)
    assert np.abs(three.mean(axis=0)).max() < 4.0 / np.sqrt(N)
    np.testing.assert_allclose(three.var(axis=0), 1.0, atol=4.0 * np.sqrt(2.0 / N))
    kurtosis = stats.kurtosis(three, axis=0, fisher=False)
    np.testing.assert_allclose(kurtosis, 3.0, atol=0.03 + 4.0 * np.sqrt(24.0 / N))
    assert np.abs(three).max() < 4.0
    assert np.abs(np.corrcoef(three.T) - np.eye(3)).max() < 4.0 / np.sqrt(N)


def test_three_normals_follow_the_normal_distribution(drawn):
    three, _ = drawn
    # 21 bits and straight lines between 1024 quantiles: 1/1024 at most, in the outermost bins
    for column in three.T:
        assert kolmogorov(column, stats.norm) < 1.0 / 1024 + KOLMOGOROV


def test_two_normals_have_their_tails(drawn):
    _, two = drawn
    for column in two.T:
        assert kolmogorov(column, stats.norm) < KOLMOGOROV
    beyond = np.mean(np.abs(two) > 3.5)
    assert beyond == pytest.approx(2.0 * stats.norm.sf(3.5), rel=0.25)
    assert abs(np.corrcoef(two.T)[0, 1]) < 4.0 / np.sqrt(N)


@pytest.mark.parametrize("n", [1, 7, 100, 3000, 16_384, 20_000])
def test_after_any_number_of_histories_every_spot_has_its_share(box, spots, proton_machine, n):
    # Pencils without scattering or straggling: each spot's column holds its protons' energy.
    weights = np.array([5.0, 1.0, 0.0, 3.0, 0.5, 0.5, 8.0, 2.0])
    weights /= weights.sum()
    tank = box((20.0, 30.0, 80.0), (20.0, 30.0, 10.0))
    plan = spots(proton_machine(50.0), np.arange(8) * 10.0 - 35.0, weights=weights)
    dose = tank.dose(plan, n, "slowing down", scores="dose to medium")
    protons = tank.energy_mev(dose)[0, 0] / 50.0 * n
    np.testing.assert_allclose(protons, np.rint(protons), atol=1e-3 * n**0.5)
    # discrepancy of van der Corput's sequence: 1 + ½ log₂ n at most, twice for an interval
    assert np.abs(protons - n * weights).max() <= 2.0 + np.log2(n)
    assert protons.sum() == pytest.approx(n, rel=1e-5)
    assert protons[2] == 0.0
