import itertools

import numpy as np
import pytest

from engine.io.dicom_dataset import DicomError
from engine.io.dicom_image import axial_stack, axial_volume
from engine.patient.grid import Grid

GRID = Grid((5, 4, 6), (2.5, 1.0, 0.75), (-30.0, 12.0, -7.0))
VOLUME = np.arange(GRID.size).reshape(GRID.shape).astype(np.int16)
# Directions of growing column and row index: every sign and order with a normal along ±z.
ORIENTATIONS = [
    (np.eye(3)[a] * sign_a, np.eye(3)[1 - a] * sign_b)
    for a, sign_a, sign_b in itertools.product((0, 1), (1, -1), (1, -1))
]
IDENTITY = (1, 0, 0, 0, 1, 0)


def scanned(along_columns, along_rows, order=range(5)):
    """The volume as frames of an orientation, point by point, with what their headers say."""
    nz, ny, nx = GRID.shape
    counts, steps = np.array([nx, ny, nz]), np.array(GRID.spacing_mm[::-1])
    n_columns, n_rows = (int(abs(d) @ counts) for d in (along_columns, along_rows))
    column_mm, row_mm = (float(abs(d) @ steps) for d in (along_columns, along_rows))
    low = np.array(GRID.origin_mm[::-1])
    high = low + (counts - 1) * steps
    frames, positions = [], []
    for k in order:
        corner = np.where((along_columns + along_rows) < 0, high, low)
        corner[2] = GRID.axes_mm()[0][k]
        frame = np.empty((n_rows, n_columns), VOLUME.dtype)
        for row, column in np.ndindex(frame.shape):
            point = corner + column * column_mm * along_columns + row * row_mm * along_rows
            z, y, x = np.rint(GRID.index_of(point)).astype(int)
            frame[row, column] = VOLUME[z, y, x]
        frames.append(frame)
        positions.append(corner)
    orientation = np.concatenate([along_columns, along_rows])
    return np.array(frames), np.array(positions), orientation, np.array([row_mm, column_mm])


@pytest.mark.parametrize("order", [range(5), [3, 0, 4, 1, 2]], ids=["sorted", "shuffled"])
@pytest.mark.parametrize(
    "along_columns, along_rows", ORIENTATIONS,
    ids=[f"{a.astype(int)}{b.astype(int)}" for a, b in ORIENTATIONS],
)  # fmt: skip
def test_the_same_volume_comes_out_of_every_axial_orientation(along_columns, along_rows, order):
    grid, volume = axial_volume(*scanned(along_columns, along_rows, order))
    assert np.array_equal(volume, VOLUME)
    assert grid.shape == GRID.shape
    np.testing.assert_allclose(grid.spacing_mm, GRID.spacing_mm, rtol=1e-12)
    np.testing.assert_allclose(grid.origin_mm, GRID.origin_mm, rtol=1e-12)


def stacked(z_mm, **other):
    positions = np.zeros((len(z_mm), 3))
    positions[:, 2] = z_mm
    given = dict(orientation=IDENTITY, pixel_spacing_mm=(1.0, 1.0)) | other
    return axial_stack((4, 6), positions, **given)


@pytest.mark.parametrize(
    "z_mm, named",
    [
        ([0, 3, 9, 12], "3.00 mm apart, but 6.00 mm between z = 3 and 9 mm: 1 of them missing"),
        ([0, 3, 6, 18, 21], "12.00 mm between z = 6 and 18 mm: 3 of them missing"),
        ([0, 3, 6, 11, 16, 21], "unevenly spaced: mostly 5.00 mm, but 3.00 mm between z = 0 and 3"),
        ([0, 3, 6.5, 9, 12], "unevenly spaced: mostly 3.00 mm"),
        ([0, 3, 3, 6], "one slice lies where another is, at z = 3 mm"),
        ([0, 0, 3, 3, 6, 6], "3 slices lie where others are, first at z = 0 mm"),
        ([0, np.nan, 3], "finite"),
        ([0, 3, 1e9], "within 100 m"),
        ([0.0], "one slice alone"),
    ],
)
def test_uneven_missing_and_double_slices_are_refused_with_what_was_found(z_mm, named):
    with pytest.raises(DicomError, match=named.replace("(", r"\(")):
        stacked(z_mm)


def test_positions_rounded_to_tenths_are_even():
    z_mm = np.round(np.arange(40) * 1.25, 1)
    assert stacked(z_mm).grid.spacing_mm[0] == pytest.approx(1.25, abs=0.003)


def test_a_single_slice_reaches_as_far_as_it_is_thick():
    assert stacked([5.0], thickness_mm=2.5).grid == Grid((1, 4, 6), (2.5, 1, 1), (5.0, 0, 0))


def turned(axis, angle_deg):
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    matrix = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}
    return (np.array(matrix[axis]) @ np.array(IDENTITY).reshape(2, 3).T).T.ravel()


@pytest.mark.parametrize(
    "orientation, named",
    [
        (turned("x", 12.5), "tilted by 12.50° from the axial plane"),
        (turned("x", 0.06), "tilted by 0.06°"),
        (turned("z", 3.0), "its rows are turned by 3.00°"),
        ((1, 0, 0, 0, 0, -1), "tilted by 90.00°"),  # coronal
        ((0, 1, 0, 0, 0, -1), "tilted by 90.00°"),  # sagittal
        ((1, 0, 0, 1, 0, 0), "not axial"),
        ((1, 0, 0, 0, 2, 0), "length 1 and 2"),
        ((0, 0, 0, 0, 1, 0), "length 0 and 1"),
        ((1, 0, 0, 0, np.nan, 0), "six direction cosines"),
    ],
)
def test_oblique_and_impossible_orientations_are_refused_with_their_angle(orientation, named):
    with pytest.raises(DicomError, match=named):
        stacked([0, 3, 6], orientation=orientation)


def test_orientations_within_rounding_are_axial():
    assert stacked([0, 3, 6], orientation=turned("x", 0.04)).grid.shape == (3, 4, 6)


def test_a_sheared_stack_is_refused():
    positions = [[0, 0.1 * k, 3 * k] for k in range(10)]  # as of a gantry tilted by 2°
    with pytest.raises(DicomError, match="shift by 0.90 mm"):
        axial_stack((4, 6), positions, IDENTITY, (1.0, 1.0))


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (-1.0, 1.0), (1.0, np.nan), (1.0, 1e4), (1.0,)])
def test_impossible_pixel_spacing_is_refused(spacing):
    with pytest.raises(DicomError, match="two lengths"):
        stacked([0, 3], pixel_spacing_mm=spacing)


def test_frames_of_another_shape_are_refused():
    with pytest.raises(DicomError, match="differ in shape"):
        stacked([0, 3]).volume([np.zeros((4, 6)), np.zeros((4, 5))])
