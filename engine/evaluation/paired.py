"""Two treatments of the same patients: mean difference, its interval, and a rank test."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

N_BOOTSTRAP = 10_000


@dataclass(frozen=True)
class PairedComparison:
    """Mean of a − b over ``n`` patients, its 95 % bootstrap interval, and Wilcoxon's p (1: equal).

    ``n_lower`` counts patients with a < b.
    """

    n: int
    mean: float
    low: float
    high: float
    p_value: float
    n_lower: int


def paired_comparison(a, b, rng: np.random.Generator) -> PairedComparison:
    """Compare values (n,) of the same patients; pairs with a NaN are left out."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a has shape {a.shape}, b {b.shape}; give one value per patient in both.")
    difference = (a - b)[np.isfinite(a) & np.isfinite(b)]
    if len(difference) < 2:
        raise ValueError(f"{len(difference)} patients have both values; compare two or more.")
    drawn = rng.choice(difference, (N_BOOTSTRAP, len(difference))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    p = 1.0 if np.all(difference == 0) else float(wilcoxon(difference).pvalue)
    return PairedComparison(
        len(difference), float(difference.mean()), float(low), float(high), p,
        int((difference < 0).sum()),
    )  # fmt: skip
