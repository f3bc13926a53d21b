"""Where index and millimeter meet."""

import numpy as np
import pytest

from engine.patient.grid import Grid

GRID = Grid((4, 5, 6), (3.0, 2.0, 1.0), (-10.0, 20.0, 30.0))  # z, y, x


def test_points_run_x_y_z_and_the_origin_is_a_center():
    np.testing.assert_array_equal(GRID.points_mm([0]), [[30.0, 20.0, -10.0]])
    voxel = np.ravel_multi_index((1, 2, 3), GRID.shape)
    np.testing.assert_array_equal(GRID.points_mm([voxel]), [[33.0, 24.0, -7.0]])


def test_indices_of_points_are_the_voxels_they_came_from():
    expected = np.stack(np.unravel_index(np.arange(GRID.size), GRID.shape), axis=1)
    np.testing.assert_allclose(GRID.index_of(GRID.points_mm()), expected, atol=1e-12)


def test_faces_lie_half_a_voxel_beyond_the_outer_centers():
    np.testing.assert_array_equal(GRID.lower_mm, [29.5, 19.0, -11.5])
    np.testing.assert_array_equal(GRID.upper_mm, [35.5, 29.0, 0.5])
    assert GRID.voxel_volume_cm3 == pytest.approx(0.006)


def test_a_centered_grid_has_its_middle_at_zero():
    np.testing.assert_allclose(Grid.centered((3, 4, 5), (2.0, 2.0, 3.0)).center_mm, 0.0, atol=1e-12)


@pytest.mark.parametrize("spacing_mm", [1.5, 4.0, (3.0, 2.5, 0.7)])
def test_a_resampled_grid_covers_the_same_box(spacing_mm):
    other = GRID.resampled(spacing_mm)
    np.testing.assert_allclose(other.lower_mm, GRID.lower_mm)
    beyond = other.upper_mm - GRID.upper_mm
    assert np.all(beyond >= -1e-6)
    assert np.all(beyond < np.array(other.spacing_mm[::-1]))


def test_a_cropped_grid_keeps_the_places_of_its_voxels():
    mask = np.zeros(GRID.shape, bool)
    mask[2, 3, 4] = True
    part, cut = GRID.cropped(mask, margin_mm=1.0)
    assert part.shape == (3, 3, 3) == mask[cut].shape
    whole = GRID.points_mm(np.flatnonzero(mask))
    np.testing.assert_allclose(part.points_mm(np.flatnonzero(mask[cut])), whole)
    with pytest.raises(ValueError, match="mask is empty"):
        GRID.cropped(np.zeros(GRID.shape, bool))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((0, 5, 5), (1.0, 1.0, 1.0)), "empty axis"),
        (((5, 5), (1.0, 1.0, 1.0)), "shape"),
        (((5, 5, 5), (1.0, -1.0, 1.0)), "must be positive"),
        (((5, 5, 5), (1.0, np.nan, 1.0)), "spacing_mm"),
        (((5, 5, 5), (1.0, 1.0, 1.0), (0.0, np.inf, 0.0)), "origin_mm"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)
