"""Against known numbers and distributions; coverage of the intervals by simulation."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from ptenv.benchmark.statistics import (
    Scores,
    interquartile_mean,
    iqm_estimate,
    mean_estimate,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    shift_difference,
    sign_flip_p,
)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def normal(rng, n_runs=5, n_cases=20, n_budgets=2, mean=0.5, patients=0.2, seeds=0.0, noise=0.1):
    """Scores whose patients, training seeds and episodes differ by normal effects."""
    values = (
        mean
        + rng.normal(0, patients, (1, n_cases, 1))
        + rng.normal(0, seeds, (n_runs, 1, 1))
        + rng.normal(0, noise, (n_runs, n_cases, n_budgets))
    )
    return Scores(values, seeds > 0)


def coverage(estimate, truth, n_trials=150):
    rng, held = np.random.default_rng(1), 0
    for _ in range(n_trials):
        interval = estimate(rng)
        held += interval.low <= truth <= interval.high
    return held / n_trials


def test_the_interquartile_mean_drops_a_quarter_at_each_end():
    assert interquartile_mean([0.0, 1.0, 3.0, 100.0]) == 2.0
    assert interquartile_mean([7.0]) == 7.0
    assert interquartile_mean([1.0, np.nan, 3.0]) == 2.0
    with pytest.raises(ValueError, match="no finite number"):
        interquartile_mean([np.nan])


def test_the_interquartile_mean_is_scipys_trimmed_mean(rng):
    for n in range(1, 30):
        scores = rng.normal(size=n)
        assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25))


def test_the_interquartile_mean_of_an_exponential_is_the_integral_of_its_middle(rng):
    """∫ −ln(1 − u) du over (1/4, 3/4), twice."""
    expected = 2 * ((0.25 * np.log(0.25) - 0.25) - (0.75 * np.log(0.75) - 0.75))
    assert interquartile_mean(rng.exponential(size=400_000)) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("n_cases, seeds", [(6, 0.0), (30, 0.0), (6, 0.2), (30, 0.2)])
def test_intervals_hold_the_truth_in_about_95_of_100_trials(n_cases, seeds):
    def interval(rng):
        return iqm_estimate(normal(rng, n_cases=n_cases, seeds=seeds), rng, 400).interval

    assert 0.90 <= coverage(interval, 0.5) <= 1.0


def test_intervals_of_mean_and_difference_hold_the_truth():
    def mean(rng):
        return mean_estimate(normal(rng, n_cases=8, seeds=0.2), rng, 400).interval

    def difference(rng):
        a = normal(rng, n_cases=8, mean=0.7, seeds=0.1)
        return paired_difference(a, normal(rng, n_cases=8), rng, 400).interval

    assert coverage(mean, 0.5) >= 0.90
    assert coverage(difference, 0.2) >= 0.90


def test_seeds_drawn_anew_for_every_patient_would_be_far_too_sure():
    """Why a learner's runs are not drawn as a rule's are."""

    def wrong(rng):
        return iqm_estimate(Scores(normal(rng, seeds=0.3).values, seeds=False), rng, 300).interval

    assert coverage(wrong, 0.5) < 0.8


def test_intervals_narrow_with_the_root_of_the_number_of_patients(rng):
    few = iqm_estimate(normal(rng, n_cases=25), rng, 2000).interval
    many = iqm_estimate(normal(rng, n_cases=400), rng, 2000).interval
    assert 3.0 < (few.high - few.low) / (many.high - many.low) < 5.6


def test_budgets_of_a_patient_are_not_more_patients(rng):
    """The same scores at four budgets tell no more than at one."""
    one = normal(rng, n_budgets=1, noise=0.0)
    four = Scores(np.repeat(one.values, 4, axis=2))
    narrow = iqm_estimate(one, np.random.default_rng(0), 4000).interval
    wide = iqm_estimate(four, np.random.default_rng(0), 4000).interval
    assert wide.high - wide.low == pytest.approx(narrow.high - narrow.low, rel=0.1)


def test_intervals_say_over_what_they_go(rng):
    assert iqm_estimate(normal(rng), rng, 50).interval.over == "patients"
    both = iqm_estimate(normal(rng, seeds=0.1), rng, 50).interval
    assert both.over == "patients and training seeds"
    single = Scores(normal(rng, n_runs=1, seeds=0.1).values, seeds=True)
    assert iqm_estimate(single, rng, 50).interval.over == "patients"


def test_one_patient_has_no_interval(rng):
    one = Scores(rng.normal(size=(5, 1, 2)), seeds=True)
    assert iqm_estimate(one, rng, 50).interval is None
    assert mean_estimate(one, rng, 50).interval is None
    difference = paired_difference(one, one, rng, 50)
    assert (difference.n, difference.interval, difference.p_value) == (1, None, None)
    assert probability_of_improvement(one, one, rng, 50).interval is None
    assert performance_profile(one, [0.0], rng, 50).low is None
    assert shift_difference(one, normal(rng, seeds=0.1), rng, 50).interval is None


def test_the_same_generator_gives_the_same_interval_in_steps_of_any_size(rng, monkeypatch):
    scores = normal(rng, seeds=0.1)
    first = iqm_estimate(scores, np.random.default_rng(3), 500)
    assert iqm_estimate(scores, np.random.default_rng(3), 500) == first
    assert iqm_estimate(scores, np.random.default_rng(4), 500) != first
    monkeypatch.setattr("ptenv.benchmark.statistics.CHUNK", 1000)
    other = iqm_estimate(scores, np.random.default_rng(3), 500).interval
    assert other.low == pytest.approx(first.interval.low, abs=0.05)


def test_estimates_move_and_scale_with_the_scores(rng):
    scores = normal(rng)
    first = iqm_estimate(scores, np.random.default_rng(0), 300)
    moved = iqm_estimate(Scores(2 * scores.values + 1), np.random.default_rng(0), 300)
    assert moved.value == pytest.approx(2 * first.value + 1)
    assert moved.interval.low == pytest.approx(2 * first.interval.low + 1)
    assert moved.interval.high == pytest.approx(2 * first.interval.high + 1)


def test_resampled_means_are_interquartile_means_of_what_was_drawn(rng):
    """The weighted sum against drawing and sorting, resample by resample."""
    from ptenv.benchmark import statistics

    values = normal(rng, n_cases=7).values
    values[:, 2, 1] = np.nan
    scores = Scores(values)
    patients, runs = statistics._draw(scores, 40, rng)
    expected = [
        interquartile_mean(np.stack([scores.values[r, c] for c, r in zip(p, rs)]))
        for p, rs in zip(patients, runs)
    ]
    np.testing.assert_allclose(statistics._resampled_iqm(scores, patients, runs), expected)


def test_what_is_not_judged_does_not_count(rng):
    values = normal(rng).values
    values[:, 3] = np.nan
    values[:, 4, 1] = np.nan
    scores = Scores(values)
    assert scores.n_cases == 19
    assert iqm_estimate(scores, rng, 50).value == interquartile_mean(values[np.isfinite(values)])
    assert mean_estimate(scores, rng, 50).value == pytest.approx(
        np.mean([np.nanmean(values[:, c]) for c in range(20) if c != 3])
    )


def test_scores_that_lack_runs_or_everything_are_refused():
    with pytest.raises(ValueError, match="lacks runs"):
        Scores(np.array([[[1.0]], [[np.nan]]]))
    with pytest.raises(ValueError, match="no finite score"):
        Scores(np.full((2, 3, 1), np.nan))
    with pytest.raises(ValueError, match=r"\(runs, cases, budgets\)"):
        Scores(np.zeros((2, 3)))


def test_a_paired_difference_is_that_of_the_patients_both_have(rng):
    a, b = normal(rng, n_cases=6).values, normal(rng, n_cases=6, mean=0.4).values
    b[:, 5] = np.nan
    a[:, 0, 1] = np.nan
    found = paired_difference(Scores(a), Scores(b), rng, 400)
    per_patient = [a[:, 0, 0].mean() - b[:, 0, 0].mean(),
                   *(a[:, c].mean() - b[:, c].mean() for c in range(1, 5))]  # fmt: skip
    assert found.n == 5
    assert found.mean == pytest.approx(np.mean(per_patient))
    assert found.interval.low < found.mean < found.interval.high


def test_pairing_takes_out_what_patients_have_in_common(rng):
    a = normal(rng, patients=1.0, noise=0.05)
    b = Scores(a.values - 0.1)
    found = paired_difference(a, b, rng, 2000)
    assert found.mean == pytest.approx(0.1)
    assert found.interval.high - found.interval.low < 0.1
    assert found.p_value < 1e-4


def test_a_difference_turns_round_with_its_sides(rng):
    a, b = normal(rng), normal(rng)
    one, other = paired_difference(a, b, rng, 50), paired_difference(b, a, rng, 50)
    assert one.mean == -other.mean
    assert probability_of_improvement(a, b, rng, 50).value == pytest.approx(
        1 - probability_of_improvement(b, a, rng, 50).value
    )


def test_scores_of_other_cases_are_not_compared(rng):
    with pytest.raises(ValueError, match="the same episodes"):
        paired_difference(normal(rng), normal(rng, n_cases=9), rng)


def test_signs_of_few_patients_are_all_tried(rng):
    assert sign_flip_p(np.array([1.0, 2.0, 3.0]), rng) == 2 / 8
    assert sign_flip_p(np.array([1.0, 2.0, -3.0]), rng) == 1.0
    assert sign_flip_p(np.zeros(4), rng) == 1.0
    assert sign_flip_p(np.array([1.0]), rng) is None


def test_p_values_of_equal_agents_are_uniform(rng):
    for n in (8, 20):
        p = np.array([sign_flip_p(rng.normal(size=n), rng) for _ in range(300)])
        assert 0.01 <= (p <= 0.05).mean() <= 0.095
        assert 0.4 < p.mean() < 0.6


def test_drawn_signs_agree_with_all_of_them(rng, monkeypatch):
    difference = rng.normal(0.4, 1.0, size=12)
    exact = sign_flip_p(difference, rng)
    monkeypatch.setattr("ptenv.benchmark.statistics.MOST_EXACT", 3)
    assert sign_flip_p(difference, rng) == pytest.approx(exact, abs=0.015)


def test_probability_of_improvement_is_that_of_two_normals(rng):
    """P(X > Y) = Φ(d / √2) for unit normals that lie d apart."""
    a = Scores(rng.normal(1.0, 1.0, (40, 60, 2)))
    b = Scores(rng.normal(0.0, 1.0, (40, 60, 2)))
    found = probability_of_improvement(a, b, rng, 300)
    assert found.value == pytest.approx(0.7602, abs=0.012)
    assert found.interval.low < 0.7602 < found.interval.high
    assert found.interval.high - found.interval.low < 0.04


def test_ties_are_half_an_improvement(rng):
    a = Scores(np.ones((3, 4, 1)))
    assert probability_of_improvement(a, a, rng, 50).value == 0.5
    better = probability_of_improvement(Scores(np.full((3, 4, 1), 2.0)), a, rng, 50)
    assert better.value == 1.0


def test_where_nothing_varies_no_interval_feigns_certainty(rng):
    same = Scores(np.ones((5, 6, 2)))
    assert iqm_estimate(same, rng, 50).interval is None
    assert paired_difference(same, same, rng, 50).interval is None
    assert probability_of_improvement(same, same, rng, 50).interval is None
    assert performance_profile(same, [0.0, 1.0], rng, 50).low is None
    assert shift_difference(same, same, rng, 50).interval is None


def test_a_profile_is_the_share_above_each_threshold(rng):
    values = np.array([[[0.0, 1.0], [0.5, np.nan]], [[0.2, 0.9], [0.5, np.nan]]])
    found = performance_profile(Scores(values), [-1.0, 0.1, 0.5, 0.95, 2.0], rng, 100)
    np.testing.assert_allclose(found.share, [1.0, 5 / 6, 2 / 6, 1 / 6, 0.0])


def test_a_profile_falls_and_lies_in_its_band(rng):
    found = performance_profile(normal(rng, seeds=0.1), np.linspace(-1, 1.5, 26), rng, 500)
    assert np.all(np.diff(found.share) <= 0)
    assert np.all(found.low <= found.share + 1e-9)
    assert np.all(found.share <= found.high + 1e-9)
    assert np.max(found.high - found.low) > 0.1


def test_a_shift_is_the_difference_of_two_cohorts_of_one_agent(rng):
    home, away = normal(rng, n_cases=30, mean=0.6), normal(rng, n_cases=8, mean=0.3)
    found = shift_difference(away, home, rng, 500)
    assert found.value == pytest.approx(
        interquartile_mean(away.values) - interquartile_mean(home.values)
    )
    assert found.interval.low < -0.3 < found.interval.high
    with pytest.raises(ValueError, match="the same agent"):
        shift_difference(normal(rng, n_runs=3), home, rng)


def test_what_seeds_do_on_both_sides_of_a_shift_cancels(rng):
    effect = rng.normal(0, 0.5, (5, 1, 1))
    home = Scores(effect + rng.normal(0, 0.05, (5, 20, 2)), seeds=True)
    away = Scores(effect - 0.2 + rng.normal(0, 0.05, (5, 20, 2)), seeds=True)
    own = mean_estimate(home, rng, 500).interval
    both = shift_difference(away, home, rng, 500).interval
    assert both.high - both.low < 0.5 * (own.high - own.low)


def test_one_budget_can_be_looked_at_alone(rng):
    scores = normal(rng)
    np.testing.assert_array_equal(scores.of_budget(1).values[..., 0], scores.values[..., 1])
