"""Statistics of scores: interquartile mean, intervals, paired differences, profiles.

What is resampled. Patients are the clusters: a patient is drawn with all its budgets, for scores of
one patient resemble each other. Runs of a rule are samplings, independent from patient to
patient, and are drawn anew for every drawn patient (the stratified bootstrap of Agarwal et al.,
NeurIPS 2021). Runs of a learner are training seeds: each one plays all patients, a seed that went
wrong is wrong everywhere, and so seeds and patients are drawn crosswise (Owen, Ann. Appl. Stat. 1
(2007) 386). Drawing seeds anew for every patient would average their differences away.

Intervals are percentiles of the resamples, at levels widened for few patients or seeds (Hesterberg,
Am. Stat. 69 (2015) 371, with Satterthwaite's degrees of freedom where both are drawn). Plain
percentiles are too narrow with five seeds or six patients, and BCa corrects skewness, not this.
With normal effects of 6 to 100 patients and 5 seeds 89 to 96 % of the intervals held the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

N_BOOTSTRAP = 5000
LEVEL = 0.95
MOST_EXACT = 13  # patients up to which all 2^n signs are tried
N_SIGNS = 20_000  # drawn for more patients
CHUNK = 4_000_000  # numbers that a step of the resampling may hold


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one agent (runs, cases, budgets), NaN where a budget of a case is not judged.

    ``seeds`` tells that runs are training seeds, which play all cases, instead of samplings.
    """

    values: np.ndarray
    seeds: bool = False

    def __post_init__(self):
        values = np.asarray(self.values, np.float64)
        if values.ndim != 3 or not values.size:
            raise ValueError(f"values has shape {values.shape}; give (runs, cases, budgets).")
        known = np.isfinite(values)
        if np.any(known != known[:1]):
            raise ValueError("values lacks runs of some cases; give all runs of a case or none.")
        if not known.any():
            raise ValueError("values holds no finite score.")
        judged = known[0].any(axis=1)
        object.__setattr__(self, "values", np.where(known, values, np.nan)[:, judged])
        object.__setattr__(self, "judged", judged)

    @property
    def n_runs(self) -> int:
        return self.values.shape[0]

    @property
    def n_cases(self) -> int:
        """Cases with at least one judged budget; the others are left out."""
        return self.values.shape[1]

    def of_budget(self, index: int) -> "Scores":
        """The scores at one budget alone."""
        return Scores(self.values[:, :, index : index + 1], self.seeds)

    def case_means(self) -> np.ndarray:
        """Mean over budgets, (runs, cases)."""
        return np.nanmean(self.values, axis=2)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and over what it goes: patients, training seeds, or both."""

    low: float
    high: float
    over: str


@dataclass(frozen=True)
class Difference:
    """Mean over ``n`` patients of a − b; ``p_value`` from flipping the signs of patients.

    The p value is for these runs: whether other training seeds would differ alike, only the
    interval tells.
    """

    n: int
    mean: float
    interval: Interval | None
    p_value: float | None


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; None for one patient, and where all patients are alike."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, eq=False)
class Profile:
    """Share of the episodes that score more than each threshold, with pointwise intervals (n,)."""

    thresholds: np.ndarray
    share: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def interquartile_mean(scores: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half: a quarter, rounded down, is dropped at each end, NaN before."""
    ordered = np.sort(np.asarray(scores, np.float64).ravel())
    ordered = ordered[np.isfinite(ordered)]
    if not len(ordered):
        raise ValueError("scores holds no finite number; give at least one.")
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def iqm_estimate(scores: Scores, rng: np.random.Generator, n: int = N_BOOTSTRAP) -> Estimate:
    """Interquartile mean over all episodes with its interval."""

    def resample(k):
        return _resampled_iqm(scores, *_draw(scores, k, rng))

    drawn = _chunked(n, scores.values.size, resample)
    return Estimate(interquartile_mean(scores.values), _interval(drawn, _effects(scores)))


def mean_estimate(scores: Scores, rng: np.random.Generator, n: int = N_BOOTSTRAP) -> Estimate:
    """Mean over patients of each one's mean, with its interval."""
    means = scores.case_means()

    def resample(k):
        patients, runs = _draw(scores, k, rng)
        return means[runs, patients[:, :, None]].mean(axis=(1, 2))

    drawn = _chunked(n, means.size, resample)
    return Estimate(float(means.mean()), _interval(drawn, _effects(scores)))


def paired_difference(
    a: Scores, b: Scores, rng: np.random.Generator, n: int = N_BOOTSTRAP
) -> Difference:
    """a − b on the same patients and budgets, mean over patients.

    Patients are drawn for both at once, runs for each by itself.
    """
    a, b = _on_common(a, b)
    of_a, of_b = a.case_means(), b.case_means()
    difference = of_a.mean(axis=0) - of_b.mean(axis=0)

    def resample(k):
        patients, runs = _draw(a, k, rng)
        others = _draw_runs(b, k, rng)
        drawn = of_a[runs, patients[:, :, None]].mean(axis=2)
        return (drawn - of_b[others, patients[:, :, None]].mean(axis=2)).mean(axis=1)

    drawn = _chunked(n, of_a.size + of_b.size, resample)
    effects = _Effects([difference], [*_effects(a).seeds, *_effects(b).seeds])
    return Difference(
        a.n_cases, float(difference.mean()), _interval(drawn, effects),
        sign_flip_p(difference, rng),
    )  # fmt: skip


def sign_flip_p(difference: np.ndarray, rng: np.random.Generator) -> float | None:
    """Two-sided p of a mean difference over patients (n,): signs are flipped patient by patient.

    All 2^n signs up to 13 patients, drawn ones beyond; None for fewer than two patients. With n
    patients no p lies below 2^(1 − n).
    """
    n = len(difference)
    if n < 2:
        return None
    if n <= MOST_EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = rng.choice([-1.0, 1.0], (N_SIGNS, n))
    reached = np.abs(signs @ difference) >= abs(difference.sum()) - 1e-12 * np.abs(difference).sum()
    if n <= MOST_EXACT:
        return float(reached.mean())
    return float((reached.sum() + 1) / (N_SIGNS + 1))


def probability_of_improvement(
    a: Scores, b: Scores, rng: np.random.Generator, n: int = N_BOOTSTRAP
) -> Estimate:
    """Probability that a run of a beats one of b on the same patient at the same budget.

    Mann–Whitney's U over the pairs of runs, ties counting half, mean over budgets, then patients.
    """
    a, b = _on_common(a, b)
    sign = np.sign(a.values[:, None] - b.values[None])
    wins = np.nanmean((1.0 + sign) / 2.0, axis=3)  # (runs of a, runs of b, cases)

    def resample(k):
        patients, of_a = _draw(a, k, rng)
        of_b = _draw_runs(b, k, rng)
        drawn = wins[of_a[..., :, None], of_b[..., None, :], patients[:, :, None, None]]
        return drawn.mean(axis=(1, 2, 3))

    seeds = [wins.mean(axis=axes) for s, axes in ((a, (1, 2)), (b, (0, 2))) if _draws_seeds(s)]
    effects = _Effects([wins.mean(axis=(0, 1))], seeds)
    return Estimate(float(wins.mean()), _interval(_chunked(n, wins.size, resample), effects))


def performance_profile(
    scores: Scores, thresholds: np.ndarray, rng: np.random.Generator, n: int = 1000
) -> Profile:
    """Share of the episodes that score more than each threshold."""
    thresholds = np.asarray(thresholds, np.float64)
    above = (scores.values[..., None] > thresholds).sum(axis=2)  # (runs, cases, thresholds)
    known = np.isfinite(scores.values).sum(axis=2)

    def resample(k):
        weights = _multiplicities(scores, *_draw(scores, k, rng)).reshape(k, -1)
        return (weights @ above.reshape(-1, len(thresholds))) / (weights @ known.ravel())[:, None]

    drawn = _chunked(n, scores.values.size + len(thresholds), resample)
    share = above.sum(axis=(0, 1)) / known.sum()
    levels = _levels(_effects(scores))
    if levels is None:
        return Profile(thresholds, share, None, None)
    low, high = np.quantile(drawn, levels, axis=0)
    return Profile(thresholds, share, low, high)


def shift_difference(
    shifted: Scores, home: Scores, rng: np.random.Generator, n: int = N_BOOTSTRAP
) -> Estimate:
    """Interquartile mean on ``shifted`` patients less that on others; the agent is the same one.

    Patients of both are drawn by themselves; a learner's seeds are the same in both.
    """
    if (shifted.n_runs, shifted.seeds) != (home.n_runs, home.seeds):
        raise ValueError(
            f"shifted has {shifted.n_runs} runs, home {home.n_runs}; give both of the same agent."
        )
    seeds = []
    if _draws_seeds(shifted) and _draws_seeds(home):
        seeds = [shifted.case_means().mean(axis=1) - home.case_means().mean(axis=1)]

    def resample(k):
        patients, runs = _draw(shifted, k, rng)
        others, other_runs = _draw(home, k, rng)
        if seeds:
            other_runs = np.broadcast_to(runs[:, :1], (k, home.n_cases, home.n_runs))
        return _resampled_iqm(shifted, patients, runs) - _resampled_iqm(home, others, other_runs)

    drawn = _chunked(n, shifted.values.size + home.values.size, resample)
    value = interquartile_mean(shifted.values) - interquartile_mean(home.values)
    effects = _Effects([shifted.case_means().mean(axis=0), home.case_means().mean(axis=0)], seeds)
    return Estimate(value, _interval(drawn, effects))


@dataclass(frozen=True, eq=False)
class _Effects:
    """What a mean varies with: values per patient (n,), and per training seed where these count."""

    patients: list[np.ndarray]
    seeds: list[np.ndarray]


def _effects(scores: Scores) -> _Effects:
    means = scores.case_means()
    return _Effects([means.mean(axis=0)], [means.mean(axis=1)] if _draws_seeds(scores) else [])


def _draws_seeds(scores: Scores) -> bool:
    return scores.seeds and scores.n_runs > 1


def _on_common(a: Scores, b: Scores) -> tuple[Scores, Scores]:
    """Both on the cases and budgets that both were judged on."""
    if len(a.judged) != len(b.judged) or a.values.shape[2] != b.values.shape[2]:
        raise ValueError(
            f"a has {len(a.judged)} cases and {a.values.shape[2]} budgets, b {len(b.judged)} and "
            f"{b.values.shape[2]}; give scores of the same episodes."
        )
    both = np.isfinite(_whole(a)[0]) & np.isfinite(_whole(b)[0])
    return (Scores(np.where(both, _whole(a), np.nan), a.seeds),
            Scores(np.where(both, _whole(b), np.nan), b.seeds))  # fmt: skip


def _whole(scores: Scores) -> np.ndarray:
    """The values with the cases that were left out."""
    shape = (scores.n_runs, len(scores.judged), scores.values.shape[2])
    whole = np.full(shape, np.nan)
    whole[:, scores.judged] = scores.values
    return whole


def _draw(scores: Scores, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """k resamples: patients (k, cases), and for each of them runs (k, cases, runs)."""
    patients = rng.integers(scores.n_cases, size=(k, scores.n_cases))
    return patients, _draw_runs(scores, k, rng)


def _draw_runs(scores: Scores, k: int, rng: np.random.Generator) -> np.ndarray:
    shape = (k, scores.n_cases, scores.n_runs)
    if not scores.seeds:
        return rng.integers(scores.n_runs, size=shape)
    return np.broadcast_to(rng.integers(scores.n_runs, size=(k, 1, scores.n_runs)), shape)


def _multiplicities(scores: Scores, patients: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """How often every run of every patient was drawn, (k, runs, cases)."""
    k, n_cases, n_runs = runs.shape
    place = (np.arange(k)[:, None, None] * n_runs + runs) * n_cases + patients[:, :, None]
    counts = np.bincount(place.ravel(), minlength=k * n_runs * n_cases)
    return counts.reshape(k, n_runs, n_cases)


def _resampled_iqm(scores: Scores, patients: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Interquartile means of k resamples, from one sort: what was drawn often counts often."""
    values = scores.values.ravel()
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN are sorted to the end
    weights = _multiplicities(scores, patients, runs)
    weights = np.repeat(weights, scores.values.shape[2], axis=2)  # budgets come along
    weights = weights.reshape(len(runs), -1)[:, order]
    reached = np.cumsum(weights, axis=1)
    total = reached[:, -1:]
    cut = total // 4
    reached = np.clip(reached, cut, total - cut)
    kept = np.diff(reached, axis=1, prepend=cut)
    return kept @ values[order] / (total - 2 * cut)[:, 0]


def _chunked(n: int, size: int, resample) -> np.ndarray:
    """n resamples of ``size`` numbers each, no more at a time than memory likes."""
    step = max(1, min(n, CHUNK // max(size, 1)))
    return np.concatenate([resample(min(step, n - done)) for done in range(0, n, step)])


def _interval(drawn: np.ndarray, effects: _Effects) -> Interval | None:
    levels = _levels(effects)
    if levels is None:
        return None
    low, high = np.quantile(drawn, levels)
    over = "patients and training seeds" if effects.seeds else "patients"
    return Interval(float(low), float(high), over)


def _levels(effects: _Effects) -> tuple[float, float] | None:
    """Percentiles that hold 95 % for so many patients and seeds.

    None for one patient, and where nothing varies: an interval of no width would feign certainty.
    """
    if min(map(len, effects.patients)) < 2:
        return None
    if not any(np.ptp(e) > 0 for e in (*effects.patients, *effects.seeds)):
        return None
    freedom = _freedom([*effects.patients, *effects.seeds])
    wide = np.sqrt((freedom + 1.0) / freedom) * t.ppf((1.0 + LEVEL) / 2.0, freedom)
    return float(norm.cdf(-wide)), float(norm.cdf(wide))


def _freedom(effects: Sequence[np.ndarray]) -> float:
    """Satterthwaite's degrees of freedom of the variance of a sum of means."""
    variance = np.array([np.var(e, ddof=1) / len(e) for e in effects])
    freedom = np.array([len(e) - 1.0 for e in effects])
    return float(variance.sum() ** 2 / (variance**2 / freedom).sum())
