"""Which voxels enter the optimization: the reductions of Quarz et al. 2024 and simple rivals.

Everything works on rows of an influence matrix. Sampling goes in two steps, keep-rates (n_rows,)
and a draw with a ``Generator`` that was passed in; a mask is boolean (n_rows,).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from engine.optimization.regions import Region


def equation_1_mask(
    largest_gy: np.ndarray,
    targets: Sequence[Region],
    organs: Sequence[tuple[Region, float]],
    q: float = 0.3,
) -> np.ndarray:
    """Rows that may get relevant dose, (n_rows,) bool: equation (1) of Quarz et al. 2024.

    ``largest_gy`` (n_rows,) is the largest entry of every row; ``organs`` come with their dose
    constraint relative to the prescription (DC). An organ voxel k goes when

        max_j d_kj < q · DC · max_ij d_ij        (i over target voxels)

    The paper prints the inequality with DC · q on the left, which would remove practically every
    organ voxel and all the more the stricter its constraint; read this way it removes about a
    tenth, as the paper reports. A voxel of several organs stays when one of them keeps it;
    targets and rows of no organ always stay.
    """
    largest_gy = np.asarray(largest_gy)
    if largest_gy.ndim != 1:
        raise ValueError(f"largest_gy has shape {largest_gy.shape}; give one number per row.")
    if not (np.isfinite(q) and q >= 0):
        raise ValueError(f"q={q} must be 0 or more.")
    if not len(targets):
        raise ValueError("targets is empty; equation 1 compares with the target's largest entry.")
    top = max(float(largest_gy[t.rows].max()) for t in targets)
    in_organ, kept = np.zeros((2, len(largest_gy)), bool)
    for region, constraint in organs:
        if not (np.isfinite(constraint) and constraint >= 0):
            raise ValueError(f"dose constraint {constraint} must be 0 or more.")
        in_organ[region.rows] = True
        kept[region.rows] |= largest_gy[region.rows] >= q * constraint * top
    for target in targets:
        kept[target.rows] = True
    return kept | ~in_organ


def uniform_rates(n_rows: int, rate: float) -> np.ndarray:
    """The same keep-rate for every row, (n_rows,)."""
    return np.full(n_rows, _checked_rate("rate", rate))


def shell_rates(
    n_rows: int,
    depths: Sequence[tuple[Region | np.ndarray, np.ndarray]],
    boundary_rate: float = 1.0,
    interior_rate: float = 1 / 8,
    width_mm: float = 2.0,
) -> np.ndarray:
    """Dense in the shells of structures, sparse in their interiors, (n_rows,): Quarz 2024.

    ``depths`` pairs each structure (its region or rows) with the distance in mm (n,) from its
    voxels to its surface, as a distance transform gives it; signs do not matter. Rows of several
    structures take the highest rate, rows of none the interior's.
    """
    boundary_rate = _checked_rate("boundary_rate", boundary_rate)
    interior_rate = _checked_rate("interior_rate", interior_rate)
    if not width_mm >= 0:
        raise ValueError(f"width_mm={width_mm} must be 0 or more.")
    rates, inside = np.full(n_rows, interior_rate), np.zeros(n_rows, bool)
    for place, distance_mm in depths:
        rows = place.rows if isinstance(place, Region) else np.asarray(place)
        distance_mm = np.abs(np.asarray(distance_mm))
        if distance_mm.shape != rows.shape:
            raise ValueError(f"distance {distance_mm.shape} and rows {rows.shape} must agree.")
        rate = np.where(distance_mm <= width_mm, boundary_rate, interior_rate)
        rates[rows] = np.where(inside[rows], np.maximum(rates[rows], rate), rate)
        inside[rows] = True
    return rates


def violation_rates(
    violation: np.ndarray, rate: float, exploration: float = 0.2, sharpness: float = 0.5
) -> np.ndarray:
    """Keep-rates (n_rows,) that follow the last plan's violations and average to ``rate``.

    ``violation`` (n_rows,) as ``PlanningProblem.penalty_by_row`` gives it; rates go with its
    power ``sharpness``, of which a share ``exploration`` is spread evenly.
    """
    rate = _checked_rate("rate", rate)
    exploration = _checked_rate("exploration", exploration)
    violation = np.asarray(violation, np.float64)
    if not np.all(np.isfinite(violation)) or np.any(violation < 0):
        raise ValueError("violation must be finite and not negative.")
    pull = violation**sharpness
    mean = pull.mean()
    even = np.full(len(violation), exploration if mean > 0 else 1.0)
    return _filled(even + ((1 - exploration) / mean * pull if mean > 0 else 0.0), rate)


# fractions that the third generalized golden ratio gives, the root of x⁴ = x + 1: multiples of them
# fill the unit interval evenly along every axis (Roberts 2018, the R_d sequence)
GOLDEN = 1.2207440846057596
EVEN_STEPS = np.array([GOLDEN**-1, GOLDEN**-2, GOLDEN**-3])


def even_thresholds(place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thresholds (n,) in 0 … 1 for voxels at grid indices ``place`` (n, 3) z, y, x.

    Rows whose rate exceeds their threshold are kept with just that chance over all seeds, and lie
    evenly: neighbours have thresholds far apart, so that a tenth of a volume has no holes as
    independent draws leave them. Axes and signs are permuted and the start is drawn.
    """
    place = np.asarray(place)
    if place.ndim != 2 or place.shape[1] != 3:
        raise ValueError(f"place has shape {place.shape}; give grid indices (n, 3).")
    steps = rng.permutation(EVEN_STEPS) * rng.choice([-1.0, 1.0], 3)
    return np.mod(place @ steps + rng.random(), 1.0)


def draw(rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask (n_rows,) whose rows are kept independently with their rates."""
    rates = np.asarray(rates)
    if np.any(np.isnan(rates)):
        raise ValueError("rates hold NaN; give keep-rates from 0 to 1.")
    return rng.random(len(rates)) < rates


def uniform_mask(n_rows: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Every row with the same chance, (n_rows,) bool."""
    return draw(uniform_rates(n_rows, rate), rng)


def shell_mask(
    n_rows: int,
    depths: Sequence[tuple[Region | np.ndarray, np.ndarray]],
    rng: np.random.Generator,
    boundary_rate: float = 1.0,
    interior_rate: float = 1 / 8,
    width_mm: float = 2.0,
) -> np.ndarray:
    """A draw from ``shell_rates``, (n_rows,) bool."""
    return draw(shell_rates(n_rows, depths, boundary_rate, interior_rate, width_mm), rng)


def thin_to_budget(
    mask: np.ndarray, row_nonzeros: np.ndarray, budget: int, rng: np.random.Generator
) -> np.ndarray:
    """The mask with random rows dropped until its nonzeros fit the budget, (n_rows,) bool.

    Rows stay in the order of one random permutation up to the first that does not fit, so with
    the same seed a smaller budget keeps a subset. A mask that fits stays as it is.
    """
    mask, row_nonzeros = np.asarray(mask), np.asarray(row_nonzeros)
    if mask.dtype != bool or mask.shape != row_nonzeros.shape:
        raise ValueError(
            f"mask ({mask.dtype}, {mask.shape}) must be boolean and match row_nonzeros "
            f"{row_nonzeros.shape}."
        )
    if not budget >= 0:
        raise ValueError(f"budget={budget} nonzeros must be 0 or more.")
    chosen = rng.permutation(np.flatnonzero(mask))
    fits = np.cumsum(row_nonzeros[chosen], dtype=np.int64) <= budget
    thinned = np.zeros(mask.shape, bool)
    thinned[chosen[fits]] = True
    return thinned


def relative_constraints(
    organs: Mapping[str, Region], limit_gy: Mapping[str, float], prescription_gy: float
) -> list[tuple[Region, float]]:
    """Organs with their dose constraint relative to the prescription, for ``equation_1_mask``."""
    return [(organs[name], limit_gy[name] / prescription_gy) for name in organs if name in limit_gy]


def _filled(shape: np.ndarray, rate: float) -> np.ndarray:
    """``shape`` scaled and cut at 1 so that its mean is ``rate``: what is cut goes to the rest.

    With the k largest cut, the factor is (rate · n − k) / Σ rest; the first k whose next entry
    stays below 1 is the solution.
    """
    n = len(shape)
    wanted = rate * n
    if wanted >= n:
        return np.ones(n)
    shape = shape + 1e-12 * shape.max()  # rows without a claim share what is left
    descending = np.sort(shape)[::-1]
    rest = np.cumsum(descending[::-1])[::-1]
    factor = np.maximum(wanted - np.arange(n), 0.0) / rest
    first = int(np.argmax(factor * descending <= 1.0))
    return np.minimum(1.0, factor[first] * shape)


def _checked_rate(name: str, rate: float) -> float:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"{name}={rate} must lie in 0 … 1.")
    return float(rate)
