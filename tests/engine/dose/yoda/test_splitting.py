import numpy as np
import pytest

from engine.dose.yoda.splitting import (
    TABLE,
    RingScheme,
    interleaved,
    mismatch,
    optimized_scheme,
    scheme,
)

ROUGH = np.array([[0.1, 0.0, 0.5], [0.08, 0.7, 0.55], [0.03, 1.2, 0.6], [0.02, 1.7, 0.7]])
COUNTS, TURNED = (1, 6, 5, 12), (0.0, 0.1, 0.3, 0.2)


def ring_scheme(**changes) -> RingScheme:
    good = dict(
        counts=(1, 6),
        offset_rad=(0.0, 0.0),
        weight=(0.4, 0.1),
        radius=(0.0, 1.1),
        spread=(0.7, 0.8),
    )
    return RingScheme(**good | changes)


def test_mismatch_matches_integration_on_a_grid():
    # Trapezoids on a smooth function that vanishes at the edge are exact to round-off.
    weight = ROUGH[:, 0] / np.dot(COUNTS, ROUGH[:, 0])
    rough = RingScheme(COUNTS, TURNED, tuple(weight), tuple(ROUGH[:, 1]), tuple(ROUGH[:, 2]))
    x, y = np.meshgrid(*2 * [np.linspace(-10, 10, 201)])
    parent = np.exp(-(x**2 + y**2) / 2)
    j = np.sum((rough.fluence(x, y) - parent) ** 2) / np.sum(parent**2)
    assert rough.mismatch == pytest.approx(j, rel=1e-9)


def test_gradient_matches_finite_difference():
    _, gradient = mismatch(COUNTS, TURNED, ROUGH)
    for index in np.ndindex(ROUGH.shape):
        step = np.zeros_like(ROUGH)
        step[index] = 1e-5
        ahead, behind = (mismatch(COUNTS, TURNED, ROUGH + sign * step)[0] for sign in (1, -1))
        assert gradient[index] == pytest.approx((ahead - behind) / 2e-5, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", TABLE)
def test_known_schemes_conserve_particles_and_stay_within_the_paper_s_bounds(name):
    weight, x, y, sigma = scheme(name).beamlets()
    assert weight.sum() == pytest.approx(1, abs=1e-12)
    assert np.dot(weight, x) == pytest.approx(0, abs=1e-12)
    assert np.dot(weight, y) == pytest.approx(0, abs=1e-12)
    assert weight.shape == sigma.shape == (scheme(name).n_beamlets,)
    assert np.hypot(x, y).max() <= 2 + 1e-12
    assert sigma.dtype == weight.dtype == np.float64
    assert np.all(np.diff(sigma) >= 0)


@pytest.mark.parametrize(
    "name, largest_mismatch, moment_error, deviation",
    [
        ("1", 1e-15, 1e-12, 1e-12),
        ("1+6", 2.5e-5, 1.2e-2, 6e-3),  # all that seven beamlets allow
        ("1+6+12", 1e-7, 1e-3, 2e-4),
        ("1+6+6+12", 1e-7, 1e-3, 2e-4),  # physics.md, section 9, row 13
        ("1+6+6+12+12+24", 2e-8, 1e-3, 2e-4),  # the same
        ("1+6+12+18+24+30+36", 2e-8, 1e-3, 2e-4),
    ],
)
def test_known_schemes_are_close_to_a_gaussian(name, largest_mismatch, moment_error, deviation):
    known = scheme(name)
    assert known.mismatch <= largest_mismatch
    assert known.second_moment == pytest.approx(1, abs=moment_error)
    assert known.deviation <= deviation


def test_second_moment_is_that_of_the_beamlets():
    weight, x, y, sigma = scheme("1+6+6+12").beamlets()
    for moment in (np.dot(weight, sigma**2 + x**2), np.dot(weight, sigma**2 + y**2)):
        assert moment == pytest.approx(scheme("1+6+6+12").second_moment, rel=1e-12)
    assert np.dot(weight, x * y) == pytest.approx(0, abs=1e-12)


def test_more_beamlets_are_narrower():
    spreads = [scheme(name).mean_spread for name in TABLE]
    assert spreads == sorted(spreads, reverse=True)


def test_solving_gives_the_table_again():
    known, solved = scheme("1+6+6+12"), optimized_scheme((1, 6, 6, 12))
    assert solved.mismatch <= 1.05 * known.mismatch
    assert solved.mean_spread == pytest.approx(known.mean_spread, rel=0.02)  # a flat minimum


def test_the_reference_solution_is_as_close_as_its_digits_allow():
    # physics.md, section 2.7: J = 2.5e-8; the printed weights sum to 1.0006.
    counts = (1, 6, 6, 12)
    weight = np.array([0.1450, 0.0977, 0.0177, 0.0136])
    radius, spread = [0, 0.7663, 1.0726, 1.5399], [0.7222, 0.7540, 0.7630, 0.7937]
    rings = np.column_stack([weight / np.dot(counts, weight), radius, spread])
    assert mismatch(counts, interleaved(counts), rings)[0] == pytest.approx(2.5e-8, abs=2.5e-8)


def test_unknown_counts_are_solved_once():
    solved = scheme("1+5")
    assert solved is scheme((1, 5))
    assert solved.mismatch < 1e-4


def test_a_larger_target_buys_narrower_beamlets():
    closest, loose = (optimized_scheme((1, 7), target_mismatch=j) for j in (1e-8, 1e-4))
    assert loose.mean_spread < closest.mean_spread
    assert closest.mismatch < loose.mismatch < 1.02e-4


def test_beamlets_sit_where_equation_13_puts_them():
    known = scheme("1+6+6+12")
    _, x, y, sigma = known.beamlets()
    place = 0
    for n, alpha, r, s in zip(known.counts, known.offset_rad, known.radius, known.spread):
        for k in range(1, n + 1):
            assert x[place] == pytest.approx(r * np.cos(2 * np.pi * k / n + alpha), abs=1e-12)
            assert y[place] == pytest.approx(r * np.sin(2 * np.pi * k / n + alpha), abs=1e-12)
            assert sigma[place] == s
            place += 1


def test_rings_of_equal_number_are_interleaved():
    sixth, twelfth = np.pi / 6, np.pi / 12
    assert interleaved((1, 6, 6, 12)) == (0, 0, sixth, 0)
    assert interleaved((1, 6, 6, 12, 12, 24)) == (0, 0, sixth, 0, twelfth, 0)
    assert interleaved((1, 6, 6, 6)) == (0, 0, sixth, 0)


def test_a_scheme_that_loses_particles_is_refused():
    with pytest.raises(ValueError, match=r"conserve particles: Σ n w = 0\.94 "):
        ring_scheme(weight=(0.4, 0.09))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(weight=(-0.2, 0.2)), "weights lie"),
        (dict(weight=(np.nan, 0.1)), "weights lie"),
        (dict(radius=(0.1, 1.1)), "first radius"),
        (dict(radius=(0.0, 2.1)), "radii ascend"),
        (dict(spread=(0.8, 0.7)), "spreads ascend"),
        (dict(spread=(0.2, 0.7)), "spreads ascend"),
        (dict(counts=(2, 6)), "first ring"),
        (dict(offset_rad=(0.0,)), "every ring needs"),
    ],
)
def test_schemes_outside_the_paper_s_bounds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ring_scheme(**changes)


def test_a_single_beamlet_is_its_parent():
    with pytest.raises(ValueError, match="spreads ascend within 1"):
        RingScheme((1,), (0.0,), (1.0,), (0.0,), (0.8,))


@pytest.mark.parametrize("name", ["6+1", "1+0", "abc", "", "1++6", "1+6.5", (6, 1), (1, -6), ()])
def test_names_that_are_no_scheme_are_refused_with_those_known(name):
    with pytest.raises(ValueError, match=r"1\+6\+6\+12"):
        scheme(name)


def test_too_few_beamlets_are_refused():
    with pytest.raises(ValueError, match=r"no closer to a Gaussian than J = 3\.4e-02"):
        optimized_scheme((1, 2))


def test_offsets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one angle per ring"):
        optimized_scheme((1, 6), offset_rad=(0.0,))
