import numpy as np
import pytest

from engine.evaluation.gamma import gamma_3d
from engine.patient.grid import Grid

GRID = Grid.centered((14, 16, 18), (3.0, 2.5, 2.0))
Z, Y, X = np.meshgrid(*GRID.axes_mm(), indexing="ij")
INNER = np.zeros(GRID.shape, dtype=bool)
INNER[4:-4, 4:-4, 5:-5] = True  # the search stays inside the grid


def brute_force(reference, evaluated, grid, voxel, tolerance_gy, distance_mm, per_voxel):
    """Smallest gamma over the evaluated field sampled at fractions of a voxel."""
    fine = [np.linspace(0, n - 1, (n - 1) * per_voxel + 1) for n in grid.shape]
    field = evaluated.astype(float)
    for axis in range(3):
        low = np.minimum(fine[axis].astype(int), grid.shape[axis] - 2)
        share = (fine[axis] - low).reshape([-1 if a == axis else 1 for a in range(3)])
        field = field.take(low, axis) * (1 - share) + field.take(low + 1, axis) * share
    r2 = np.zeros(field.shape)
    for axis, s in enumerate(grid.spacing_mm):
        shape = [1, 1, 1]
        shape[axis] = -1
        r2 = r2 + ((fine[axis] - voxel[axis]) * s / distance_mm).reshape(shape) ** 2
    return np.sqrt((r2 + ((field - reference[voxel]) / tolerance_gy) ** 2).min())


def test_equal_doses_have_gamma_zero():
    dose = np.exp(-(X**2 + Y**2 + Z**2) / 500)
    result = gamma_3d(dose, dose, GRID)
    assert result.pass_rate_percent == 100.0
    assert result.mean == 0.0
    assert np.isnan(result.map[dose < 0.1 * dose.max()]).all()
    assert result.n_evaluated == np.sum(dose >= 0.1 * dose.max())


def test_uniform_dose_difference_is_the_ratio_to_the_tolerance():
    # flat field: no distance helps, gamma = ΔD/δ = 1.2/(3 % of 60)
    result = gamma_3d(np.full(GRID.shape, 60.0), np.full(GRID.shape, 61.2), GRID)
    np.testing.assert_allclose(result.map, 1.2 / 1.8, atol=1e-5)


@pytest.mark.parametrize("gradient", [(0.0, 0.0, 0.9), (0.3, -0.5, 0.7), (2.0, 0.0, 0.0)])
@pytest.mark.parametrize("offset_gy", [0.5, -1.5, 2.4])
def test_offset_on_a_linear_field_is_the_closed_form(gradient, offset_gy):
    # min of r²/DTA² + (ΔD + g·r)²/δ² is ΔD² / (δ² + DTA²|g|²)
    reference = 60 + gradient[0] * Z + gradient[1] * Y + gradient[2] * X
    result = gamma_3d(
        reference, reference + offset_gy, GRID, normalization_gy=60.0, mask=INNER, cutoff_percent=0
    )
    expected = abs(offset_gy) / np.sqrt(1.8**2 + 4 * np.dot(gradient, gradient))
    np.testing.assert_allclose(result.map[INNER], expected, atol=1e-3)


def test_shift_of_a_steep_plane_is_the_ratio_to_the_distance():
    # 10 Gy/mm against δ = 1.8 Gy: a shift of 1.5 mm gives 15/sqrt(1.8² + 20²) = 0.747
    reference, shifted = 300 + 10.0 * X, 300 + 10.0 * (X - 1.5)
    result = gamma_3d(reference, shifted, GRID, normalization_gy=60.0, mask=INNER)
    np.testing.assert_allclose(result.map[INNER], 15 / np.hypot(1.8, 20), atol=1e-3)


def test_local_tolerance_is_a_share_of_the_reference_dose():
    reference = np.broadcast_to(np.linspace(20, 60, 14)[:, None, None], GRID.shape)
    level = gamma_3d(np.full(GRID.shape, 20.0), np.full(GRID.shape, 20.9), GRID, local=True)
    np.testing.assert_allclose(level.map, 0.9 / 0.6, atol=1e-5)
    glob = gamma_3d(reference, 1.02 * reference, GRID, 3, 2)
    local = gamma_3d(reference, 1.02 * reference, GRID, 3, 2, local=True)
    assert np.all(local.map >= glob.map - 1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_rough_fields_agree_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    grid = Grid((6, 7, 6), (2.5, 2.0, 3.0))
    reference = rng.uniform(40, 60, grid.shape).astype(np.float32)
    evaluated = (reference + rng.normal(0, 4, grid.shape)).astype(np.float32)
    result = gamma_3d(reference, evaluated, grid, 3, 2, normalization_gy=60.0)
    for voxel in [(2, 3, 3), (3, 3, 2), (0, 0, 0), (5, 6, 5)]:
        sampled = brute_force(reference, evaluated, grid, voxel, 1.8, 2.0, per_voxel=25)
        # sampling at a 25th of a voxel can only miss the minimum, by at most about half a step
        assert result.map[voxel] <= sampled + 2e-3
        assert result.map[voxel] >= sampled - 0.06


def test_a_grid_of_one_slice_is_searched_in_its_plane():
    grid = Grid((1, 16, 18), (2.0, 2.5, 2.0))
    reference = np.broadcast_to(60 + 0.9 * grid.axes_mm()[2], grid.shape) + 0.0
    result = gamma_3d(reference, reference + 1.0, grid, normalization_gy=60.0)
    inner = result.map[0, 4:-4, 5:-5]
    np.testing.assert_allclose(inner, 1.0 / np.sqrt(1.8**2 + 4 * 0.81), atol=1e-3)


def test_tighter_criteria_pass_fewer_points():
    rng = np.random.default_rng(4)
    dose = 60 * np.exp(-(X**2 + Y**2 + Z**2) / 800)
    other = dose * (1 + 0.02 * rng.normal(size=GRID.shape))
    criteria = ((3, 2), (2, 2), (1, 1))
    rates = [gamma_3d(dose, other, GRID, p, d).pass_rate_percent for p, d in criteria]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_gamma_of_one_passes():
    result = gamma_3d(np.full(GRID.shape, 50.0), np.full(GRID.shape, 51.5), GRID)
    assert result.pass_rate_percent == 100.0
    np.testing.assert_allclose(result.map, 1.0, atol=1e-5)


def test_number_of_threads_changes_no_bit():
    from engine.parallel import set_threads, threads

    rng = np.random.default_rng(5)
    dose = 60 * np.exp(-(X**2 + Y**2 + Z**2) / 800)
    other, before = dose + rng.normal(size=GRID.shape), threads()
    try:
        set_threads(1)
        one = gamma_3d(dose, other, GRID).map
        set_threads(2)
        two = gamma_3d(dose, other, GRID).map
    finally:
        set_threads(before)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dose_percent": 0.0}, "dose_percent"),
        ({"distance_mm": -1.0}, "distance_mm"),
        ({"search_radius_mm": 0.5}, "search_radius_mm"),
        ({"normalization_gy": 0.0}, "normalization_gy"),
        ({"cutoff_percent": 200.0}, "lower the cut-off"),
        ({"mask": np.zeros(3, dtype=bool)}, "mask has shape"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    dose = np.ones(GRID.shape)
    with pytest.raises(ValueError, match=message):
        gamma_3d(dose, dose, GRID, **change)


def test_doses_that_are_not_on_the_grid_are_refused():
    dose = np.ones(GRID.shape)
    with pytest.raises(ValueError, match="evaluated_gy has shape"):
        gamma_3d(dose, dose[1:], GRID)
    with pytest.raises(ValueError, match="evaluated_gy holds NaN"):
        gamma_3d(dose, np.where(INNER, np.nan, dose), GRID)
    with pytest.raises(ValueError, match="no dose"):
        gamma_3d(0 * dose, dose, GRID)
