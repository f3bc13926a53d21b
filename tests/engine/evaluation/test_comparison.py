import numpy as np
import pytest

from engine.evaluation.comparison import (
    axis_profile,
    core_sigma_mm,
    difference,
    noise,
    sampled,
)
from engine.patient.grid import Grid

GRID = Grid.centered((40, 60, 40), (2.0, 1.0, 2.0))


def along_y(profile) -> np.ndarray:
    """A volume that depends on y alone, by a function of depth in mm."""
    depth = GRID.axes_mm()[1] - GRID.lower_mm[1]
    return np.broadcast_to(profile(depth)[None, :, None], GRID.shape).copy()


def test_distal_depth_and_peak_of_a_triangle_are_its_corners():
    dose = along_y(lambda z: np.where(z < 40.0, z / 40.0, np.maximum(0.0, 1.0 - (z - 40.0) / 10.0)))
    found = axis_profile(dose, GRID, (0.0, -60.0, 0.0), (0.0, 1.0, 0.0))
    assert found.peak_mm == pytest.approx(40.0, abs=0.6)  # the corner lies between two voxels
    top = found.dose.max()
    assert found.distal_mm(0.5) == pytest.approx(40.0 + 10.0 * (1.0 - 0.5 * top), abs=0.01)


def test_a_peak_below_the_entrance_is_still_the_peak():
    dose = along_y(lambda z: np.exp(-z / 15.0) + 0.4 * np.exp(-0.5 * ((z - 45.0) / 2.0) ** 2))
    found = axis_profile(dose, GRID, (0.0, -60.0, 0.0), (0.0, 1.0, 0.0))
    assert found.peak_mm == pytest.approx(45.0, abs=0.5)


def test_dose_that_leaves_the_grid_has_no_range():
    dose = along_y(lambda z: 1.0 + z)
    found = axis_profile(dose, GRID, (0.0, -60.0, 0.0), (0.0, 1.0, 0.0))
    assert np.isnan(found.distal_mm())


@pytest.mark.parametrize("direction", [(0.0, 1.0, 0.0), (0.6, 0.8, 0.0), (0.48, 0.64, 0.6)])
@pytest.mark.parametrize("guess", [3.0, 6.0])
def test_width_of_a_gaussian_is_found_at_any_angle(direction, guess):
    grid = Grid.centered((60, 60, 60), (1.0, 1.0, 1.0))
    points = grid.points_mm()
    axis = np.array(direction)
    r2 = (points**2).sum(axis=1) - (points @ axis) ** 2
    dose = np.exp(-0.5 * r2 / 16.0).reshape(grid.shape)
    found = core_sigma_mm(dose, grid, (0.3, -0.2, 0.1), direction, guess)
    assert found == pytest.approx(4.0, rel=0.03)  # linear interpolation widens by 0.1 mm²


def test_width_is_found_from_a_guess_that_is_far_too_large():
    grid = Grid.centered((60, 20, 60), (1.0, 1.0, 1.0))
    points = grid.points_mm()
    dose = np.exp(-0.5 * (points[:, 0] ** 2 + points[:, 2] ** 2) / 9.0).reshape(grid.shape)
    found = [core_sigma_mm(dose, grid, (0, 0, 0), (0, 1, 0), guess, 6.0) for guess in (3.0, 9.0)]
    assert found[0] == pytest.approx(3.0, rel=0.03)
    assert found[1] == pytest.approx(found[0], rel=0.01)


def test_noise_hardly_moves_the_width_and_the_range_of_the_integral():
    grid = Grid.centered((40, 60, 40), (2.0, 1.0, 2.0))
    z, y, x = np.meshgrid(*grid.axes_mm(), indexing="ij")
    edge = 1.0 / (1.0 + np.exp((y - 10.0) / 0.8))
    dose = edge * (1.0 + np.exp(-0.5 * ((y - 7.0) / 2.0) ** 2)) * np.exp(-(x**2 + z**2) / 32.0)
    axis, direction = (0.0, -30.0, 0.0), (0.0, 1.0, 0.0)
    exact = axis_profile(dose, grid, axis, direction, 12.0)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=dose.shape)
        noisy = dose + 0.02 * np.sqrt(dose) * noise
        found = axis_profile(noisy, grid, axis, direction, 12.0)
        assert found.distal_mm(0.8, exact.distal_edge_mm) == pytest.approx(
            exact.distal_mm(), abs=0.03
        )
        sigmas = [core_sigma_mm(d, grid, (0, 0, 0), direction, 5.0, 6.0) for d in (dose, noisy)]
        assert sigmas[1] == pytest.approx(sigmas[0], rel=0.01)


def test_the_integral_across_is_the_mean_over_a_disc():
    grid = Grid.centered((60, 20, 60), (1.0, 1.0, 1.0))
    points = grid.points_mm()
    dose = np.exp(-0.5 * (points[:, 0] ** 2 + points[:, 2] ** 2) / 16.0).reshape(grid.shape)
    found = axis_profile(dose, grid, (0, -10, 0), (0, 1, 0), 12.0).dose
    # ∫ exp(−r²/2σ²) dA out to R = 3σ, over πR²: 2 (σ/R)² (1 − exp(−R²/2σ²))
    assert found == pytest.approx(2.0 / 9.0 * (1.0 - np.exp(-4.5)), rel=0.02)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_range_is_that_of_the_deepest_peak_whatever_lies_before_it(share):
    def peak(z, at):
        return np.where(z < at, 0.3 + 0.7 * np.exp(-((at - z) / 2.0)), np.exp(-((z - at) ** 2)))

    dose = along_y(lambda z: (1.0 - share) * peak(z, 35.0) + share * peak(z, 45.0))
    alone = axis_profile(along_y(lambda z: peak(z, 45.0)), GRID, (0, -60, 0), (0, 1, 0))
    found = axis_profile(dose, GRID, (0.0, -60.0, 0.0), (0.0, 1.0, 0.0))
    assert found.distal_mm() == pytest.approx(alone.distal_mm(), abs=0.05)


def test_width_of_nothing_is_no_number():
    assert np.isnan(core_sigma_mm(np.zeros(GRID.shape), GRID, (0, 0, 0), (0, 1, 0), 3.0))


def test_samples_between_centers_are_linear_and_zero_off_the_grid():
    dose = along_y(lambda z: z)
    points = np.array([[0.0, -30.0 + 7.25, 0.0], [0.0, 31.0, 0.0], [0.0, -30.0 + 0.1, 0.0]])
    assert sampled(dose, GRID, points) == pytest.approx([7.25, 0.0, 0.5])


def test_differences_are_of_the_reference_maximum_and_signed():
    reference = along_y(lambda z: np.where(z < 30.0, 2.0, 0.0))
    evaluated = 1.01 * reference
    evaluated[3, 5, 7] = 1.6
    found = difference(reference, evaluated, GRID)
    assert found.integral_percent == pytest.approx(1.0, abs=0.01)
    assert found.largest_percent == pytest.approx(-20.0)
    z, y, x = (a[i] for a, i in zip(GRID.axes_mm(), (3, 5, 7)))
    assert found.largest_at_mm == pytest.approx((x, y, z))
    assert found.mean_high_percent == pytest.approx(1.0, abs=0.01)


def test_noise_of_the_stated_size_has_a_reduced_chi2_of_one():
    truth = along_y(lambda z: 1.0 + 0.0 * z)
    sem = np.full(GRID.shape, 0.02)
    noisy = truth + np.random.default_rng(1).normal(0.0, 0.02, GRID.shape)
    found = noise(noisy, sem, truth)
    assert found.mean_percent == pytest.approx(2.0, rel=0.02)
    assert found.reduced_chi2 == pytest.approx(1.0, abs=0.03)
    assert found.within_two_percent == pytest.approx(95.45, abs=0.3)
