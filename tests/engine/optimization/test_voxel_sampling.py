import numpy as np
import pytest

from engine.optimization.regions import Region
from engine.optimization.voxel_sampling import (
    draw,
    equation_1_mask,
    even_thresholds,
    relative_constraints,
    shell_mask,
    shell_rates,
    thin_to_budget,
    uniform_mask,
    violation_rates,
)


def a_region(rows):
    return Region(np.asarray(rows), np.ones(len(rows)))


def test_equation_1_removes_organ_voxels_outside_the_beams():
    largest = np.array([10.0, 9.0, 8.0, 1.0, 0.1, 0.0, 0.0])
    targets, organ = [a_region([0, 1])], a_region([2, 3, 4, 5])
    mask = equation_1_mask(largest, targets, [(organ, 0.5)], q=0.3)  # threshold 0.3·0.5·10 = 1.5
    np.testing.assert_array_equal(mask, [True, True, True, False, False, False, True])


def test_equation_1_keeps_more_of_an_organ_with_a_stricter_constraint():
    largest = np.concatenate([[1.0], np.linspace(0, 1, 100)])
    organ = a_region(np.arange(1, 101))
    kept = [
        equation_1_mask(largest, [a_region([0])], [(organ, dc)]).sum() for dc in (0.2, 0.5, 1.0)
    ]
    assert kept[0] > kept[1] > kept[2]
    assert kept[2] == 1 + 70  # q = 0.3: entries from 0.3 on stay


def test_equation_1_never_removes_target_voxels():
    largest = np.array([1.0, 0.0, 0.0])
    mask = equation_1_mask(largest, [a_region([0, 1])], [(a_region([1, 2]), 1.0)])
    np.testing.assert_array_equal(mask, [True, True, False])


def test_equation_1_removes_a_small_part_of_what_the_beams_cross(problem):
    """The paper reports 11 % of its voxels; as printed the inequality would remove nearly all."""
    regions = problem.structures
    largest = problem.influence.largest_entries().max(axis=1)
    organs = [(regions["organ"], 0.5), (regions["ring"], 0.5)]
    mask = equation_1_mask(largest, [regions["target"]], organs)
    assert 0.02 < 1 - mask.mean() < 0.6


def test_shells_are_kept_and_interiors_thinned():
    depth_mm = np.concatenate([np.full(500, 1.0), np.full(8000, 5.0)])
    mask = shell_mask(8500, [(np.arange(8500), -depth_mm)], np.random.default_rng(0))
    assert mask[:500].all()
    assert mask[500:].mean() == pytest.approx(1 / 8, abs=0.012)  # 3 σ of 8000 draws


def test_rows_of_several_structures_take_the_highest_rate():
    deep, shallow = (a_region([0, 1]), [9.0, 9.0]), (a_region([1, 2]), [0.5, 9.0])
    np.testing.assert_array_equal(shell_rates(4, [deep, shallow]), [1 / 8, 1.0, 1 / 8, 1 / 8])


def test_uniform_mask_keeps_the_asked_share():
    assert uniform_mask(40_000, 0.15, np.random.default_rng(0)).mean() == pytest.approx(
        0.15, abs=0.006
    )


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 0.9, 1.0])
def test_violation_rates_average_to_the_rate_and_rise_with_violation(rate):
    violation = np.random.default_rng(0).exponential(size=500) ** 3
    violation[:50] = 0.0
    rates = violation_rates(violation, rate)
    assert rates.mean() == pytest.approx(rate, abs=1e-9)
    assert rates.min() >= 0
    assert rates.max() <= 1
    assert np.all(np.diff(rates[np.argsort(violation)]) >= 0)


def test_violation_rates_without_violation_are_uniform():
    np.testing.assert_allclose(violation_rates(np.zeros(9), 0.25), 0.25)


def test_violation_rates_fill_up_when_few_rows_are_violated():
    violation = np.zeros(100)
    violation[:10] = 1.0
    rates = violation_rates(violation, 0.4, exploration=0.0)
    np.testing.assert_allclose(rates[:10], 1.0)
    np.testing.assert_allclose(rates[10:], 30 / 90)


def test_thinning_fits_the_budget_and_wastes_little_of_it():
    rng = np.random.default_rng(0)
    nonzeros = rng.integers(0, 200, 5000).astype(np.uint32)
    mask = rng.random(5000) < 0.5
    budget = int(0.4 * nonzeros[mask].sum())
    thinned = thin_to_budget(mask, nonzeros, budget, np.random.default_rng(1))
    assert budget - 200 < nonzeros[thinned].sum() <= budget
    assert not np.any(thinned & ~mask)


def test_smaller_budgets_keep_subsets():
    nonzeros = np.full(300, 10, np.uint32)
    mask = np.ones(300, bool)
    large, small = (
        thin_to_budget(mask, nonzeros, b, np.random.default_rng(1)) for b in (2000, 500)
    )
    assert small.sum() == 50
    assert not np.any(small & ~large)


def test_a_mask_that_fits_stays_as_it_is():
    mask = np.array([True, False, True])
    kept = thin_to_budget(mask, np.array([5, 5, 5], np.uint32), 10, np.random.default_rng(0))
    np.testing.assert_array_equal(kept, mask)
    assert thin_to_budget(mask, np.full(3, 5, np.uint32), 4, np.random.default_rng(0)).sum() == 0


def test_same_seed_draws_the_same_mask():
    rates = np.linspace(0, 1, 100)
    first, again = (draw(rates, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, draw(rates, np.random.default_rng(8)))


def cube(n=20):
    return np.stack(np.unravel_index(np.arange(n**3), (n, n, n)), axis=1)


def test_even_draws_keep_every_voxel_with_its_chance():
    place, rates = cube(8), np.linspace(0.02, 0.9, 8**3)
    kept = [even_thresholds(place, np.random.default_rng(s)) < rates for s in range(4000)]
    # four standard deviations of a binomial of 4000 draws
    np.testing.assert_allclose(np.mean(kept, axis=0), rates, atol=4 * np.sqrt(0.25 / 4000))


def test_even_draws_leave_smaller_holes_than_independent_ones():
    from scipy.spatial import cKDTree

    place = cube()
    inner = np.all((place > 3) & (place < 16), axis=1)

    def largest_hole(mask):
        return cKDTree(place[mask]).query(place[inner])[0].max()

    even = [largest_hole(even_thresholds(place, np.random.default_rng(s)) < 0.1) for s in range(8)]
    masks = [uniform_mask(len(place), 0.1, np.random.default_rng(s)) for s in range(8)]
    alone = [largest_hole(mask) for mask in masks]
    assert max(even) < 0.75 * np.mean(alone)


def test_even_draws_follow_their_seed():
    first, same, other = (even_thresholds(cube(5), np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="grid indices"):
        even_thresholds(np.zeros((3, 2)), np.random.default_rng(0))


def test_constraints_are_relative_to_the_prescription():
    organs = {"SpinalCord": a_region([0]), "Eye_L": a_region([1])}
    ((region, constraint),) = relative_constraints(organs, {"SpinalCord": 45.0}, 70.0)
    assert region is organs["SpinalCord"]
    assert constraint == pytest.approx(45 / 70)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda r: uniform_mask(5, 1.2, r), "rate=1.2"),
        (lambda r: shell_rates(5, [], width_mm=-1.0), "width_mm=-1.0"),
        (lambda r: shell_rates(5, [(np.arange(3), np.ones(2))]), "must agree"),
        (lambda r: draw(np.array([0.5, np.nan]), r), "NaN"),
        (lambda r: thin_to_budget(np.ones(3), np.ones(3), 2, r), "boolean"),
        (lambda r: thin_to_budget(np.ones(3, bool), np.ones(3), -1, r), "budget=-1"),
        (lambda r: violation_rates(np.array([-1.0, 1.0]), 0.5), "not negative"),
        (lambda r: equation_1_mask(np.ones(3), [], []), "targets is empty"),
        (lambda r: equation_1_mask(np.ones(3), [a_region([0])], [], q=np.nan), "q=nan"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
