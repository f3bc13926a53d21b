"""Our gamma against pymedphys's on random smooth fields.

pymedphys looks at shells of points a fraction of the distance to agreement apart, ours for the
smallest value between the voxel centers: theirs can only lie above, by what a step of theirs costs.
"""

import numpy as np
import pymedphys
import pytest
from scipy.ndimage import gaussian_filter

from engine.evaluation.gamma import gamma_3d
from engine.patient.grid import Grid

GRID = Grid.centered((14, 16, 15), (2.0, 2.0, 2.5))
FRACTION = 20  # of the distance to agreement: pymedphys's step
MOST = 2.0  # where both searches end, in distances to agreement


def smooth(rng, scale: float) -> np.ndarray:
    """A field (nz, ny, nx) of 0 … 1 that varies over some voxels."""
    field = gaussian_filter(rng.normal(size=GRID.shape), scale)
    return (field - field.min()) / np.ptp(field)


def fields(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and evaluated dose (nz, ny, nx) of up to 60 Gy, some percent apart."""
    rng = np.random.default_rng(seed)
    shape = smooth(rng, 2.0)
    return 60.0 * shape, np.maximum(60.6 * shape + 4.0 * (smooth(rng, 2.0) - 0.5), 0.0)


def both(seed, percent, distance_mm, local, fraction=FRACTION) -> tuple[np.ndarray, np.ndarray]:
    """Ours and theirs (n,) at the voxels that are judged."""
    axes, (reference, evaluated) = GRID.axes_mm(), fields(seed)
    theirs = pymedphys.gamma(
        axes, reference, axes, evaluated, percent, distance_mm, lower_percent_dose_cutoff=10,
        interp_fraction=fraction, max_gamma=MOST, local_gamma=local,
    )  # fmt: skip
    ours = gamma_3d(
        reference, evaluated, GRID, percent, distance_mm, local=local,
        search_radius_mm=MOST * distance_mm,
    ).map  # fmt: skip
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    judged = ~np.isnan(theirs)
    return ours[judged].astype(float), theirs[judged]


def theirs_less_ours(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (theirs - ours)[(ours < MOST) & (theirs < MOST)]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("percent, distance_mm, seed", [(1, 1, 0), (2, 2, 1), (3, 2, 2), (3, 3, 3)])
def test_gamma_is_that_of_pymedphys(percent, distance_mm, seed, local):
    ours, theirs = both(seed, percent, distance_mm, local)
    rates = [100.0 * np.mean(gamma <= 1.0) for gamma in (ours, theirs)]
    assert rates[0] == pytest.approx(rates[1], abs=0.5)
    apart = theirs_less_ours(ours, theirs)
    assert apart.min() > -2e-3  # ours never misses what a coarser search finds
    # A step of 1/20 of the distance crosses up to 8 Gy/mm; tolerances begin at 0.06 Gy (local).
    assert apart.mean() < 0.04
    assert np.quantile(apart, 0.99) < 0.15


def test_pymedphys_comes_to_ours_as_its_steps_shrink():
    means = [theirs_less_ours(*both(0, 2, 2, False, n)).mean() for n in (10, 20, 40)]
    assert means[1] < 0.6 * means[0]
    assert means[2] < 0.6 * means[1]
    assert means[2] < 0.005
