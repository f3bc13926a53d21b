import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from engine.io.dicom_contours import coverage, outlines
from engine.patient.grid import Grid

GRID = Grid((1, 30, 40), (3.0, 2.0, 1.25), (0.0, -29.0, -24.375))  # centered: ±30, ±25 mm
PIXEL_MM2 = 2.0 * 1.25
quick = settings(max_examples=150, deadline=None, derandomize=True)


def shares(polygons, grid=GRID) -> np.ndarray:
    """Coverage of the whole plane (ny, nx)."""
    found = coverage(polygons, grid)
    plane = np.zeros(grid.shape[1:])
    plane[found.window] = found.share
    return plane


def area_mm2(polygon) -> float:
    """By the shoelace formula."""
    x, y = np.asarray(polygon).T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


@st.composite
def star(draw) -> tuple[np.ndarray, np.ndarray]:
    """A point and a simple polygon (n, 2) around it, all of which the point sees."""
    n = draw(st.integers(5, 25))
    gaps = np.array(draw(st.lists(st.floats(0.3, 1.0), min_size=n, max_size=n)))  # none of half
    angles = np.cumsum(gaps) / gaps.sum() * 2 * np.pi
    radii = np.array(draw(st.lists(st.floats(0.02, 1.0), min_size=n, max_size=n)))
    center = np.array(draw(st.tuples(st.floats(-6.0, 6.0), st.floats(-6.0, 6.0))))
    rays = np.column_stack([np.cos(angles), np.sin(angles)])
    return center, center + 18.0 * radii[:, None] * rays


@quick
@given(star().map(lambda drawn: drawn[1]))
@example(np.array([(-5.0, -4.0), (5.0, -4.0), (5.0, 4.0), (-5.0, 4.0)]))
@example(np.array([(-5.0, 0.1), (5.0, 0.1), (0.0, 0.2)]))  # thinner than a sub-line
def test_the_area_covered_is_the_polygons(polygon):
    found = shares([polygon])
    assert found.min() >= -1e-12
    assert found.max() <= 1.0 + 1e-12
    assert found.sum() * PIXEL_MM2 == pytest.approx(area_mm2(polygon), rel=1e-9, abs=1e-9)


@quick
@given(star(), st.lists(st.floats(0.1, 0.9), min_size=1, max_size=4))
def test_of_nested_polygons_every_other_ring_is_covered(drawn, factors):
    center, polygon = drawn
    nested = [center + f * (polygon - center) for f in np.cumprod([1.0, *factors])]
    expected = sum((-1) ** i * area_mm2(p) for i, p in enumerate(nested))
    for polygons in (nested, nested[::-1], [p[::-1] for p in nested]):
        assert shares(polygons).sum() * PIXEL_MM2 == pytest.approx(expected, rel=1e-9, abs=1e-9)


def convex(corners) -> np.ndarray:
    """Corners of a rotated rectangle: center x, y, half sizes, angle."""
    x, y, a, b, angle = corners
    c, s = np.cos(angle), np.sin(angle)
    local = np.array([(-a, -b), (a, -b), (a, b), (-a, b)])
    return local @ np.array([[c, s], [-s, c]]) + [x, y]


def intersection_mm2(one, other) -> float:
    """Area common to two convex polygons, both counterclockwise: Sutherland and Hodgman's way."""
    kept = list(one)
    for p, q in zip(other, np.roll(other, -1, axis=0)):
        normal = np.array([p[1] - q[1], q[0] - p[0]])
        inside = [float((c - p) @ normal) for c in kept]
        clipped = []
        for i, corner in enumerate(kept):
            before, d, d_before = kept[i - 1], inside[i], inside[i - 1]
            if (d >= 0) != (d_before >= 0):
                clipped.append(before + (corner - before) * d_before / (d_before - d))
            if d >= 0:
                clipped.append(corner)
        kept = clipped
    return area_mm2(kept) if len(kept) > 2 else 0.0


rectangle = st.tuples(
    st.floats(-6, 6), st.floats(-6, 6), st.floats(2, 10), st.floats(2, 10), st.floats(0, np.pi)
).map(convex)


@quick
@given(rectangle, rectangle)
def test_where_polygons_cross_what_lies_in_one_alone_is_covered(one, other):
    """Each of up to eight crossings is off by less than a tenth of a pixel's area."""
    expected = area_mm2(one) + area_mm2(other) - 2 * intersection_mm2(one, other)
    found = shares([one, other]).sum() * PIXEL_MM2
    assert found == pytest.approx(expected, abs=8 * 0.1 * PIXEL_MM2)


def test_every_pixel_has_its_share():
    """Against the share of 80 × 80 points of a pixel that lie inside, within 1.5 %."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 15.0 + 4.0 * np.sin(5 * angle)
    polygon = np.column_stack([1.3 + radius * np.cos(angle), radius * np.sin(angle) - 2.1])
    n = 80
    fine = GRID.resampled((3.0, 2.0 / n, 1.25 / n))
    expected = (shares([polygon], fine) >= 0.5).reshape(30, n, 40, n).mean(axis=(1, 3))
    assert np.abs(shares([polygon]) - expected).max() < 0.015


def test_what_lies_off_the_grid_is_cut_off():
    polygon = np.array([(-60.0, -50.0), (70.0, -45.0), (3.0, 90.0)])
    wide = Grid((1, 90, 120), (3.0, 2.0, 1.25), (0.0, -29.0 - 60.0, -24.375 - 50.0))
    np.testing.assert_allclose(shares([polygon]), shares([polygon], wide)[30:60, 40:80], atol=1e-12)
    assert coverage([polygon + 500.0], GRID).share.size == 0


def test_a_channel_of_no_width_joins_a_hole():
    outer = [(-10, -10), (10, -10), (10, 10), (-10, 10)]
    hole = [(-5, 2), (-5, 6), (5, 6), (5, 2)]
    keyhole = np.array([(-10, 2), *hole, (-5, 2), (-10, 2), *outer[:3], outer[3]], float)
    parts = [np.array(outer, float), np.array(hole, float)]
    np.testing.assert_allclose(shares([keyhole]), shares(parts), atol=1e-12)
    assert shares([keyhole]).sum() * PIXEL_MM2 == pytest.approx(400 - 40)


def test_polygons_without_area_cover_nothing():
    line = np.array([(0.0, 0.0), (5.0, 5.0)])
    flat = np.array([(0.0, 1.0), (5.0, 1.0), (2.0, 1.0)])
    assert shares([line]).sum() == pytest.approx(0.0, abs=1e-12)
    assert coverage([flat], GRID).share.size == 0
    assert coverage([], GRID).share.size == 0


masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(masks)
@example(np.eye(5, dtype=bool))  # pixels that touch at corners
@example(~np.eye(5, dtype=bool))
@example(np.indices((7, 7)).sum(axis=0) % 2 == 0)
@example(np.pad(np.pad(np.ones((1, 1), bool), 1), 1, constant_values=True))  # a ring round a pixel
@example(np.pad(np.array([[0, 1, 0, 1, 0]], bool), 1, constant_values=True))  # holes in a row
@example(np.ones((6, 6), bool))
def test_outlines_filled_again_are_the_mask(mask):
    grid = Grid((1, *mask.shape), (3.0, 2.0, 1.25), (0.0, 4.1, -7.3))
    polygons = outlines(mask, grid)
    np.testing.assert_allclose(shares(polygons, grid), mask, atol=1e-9)
    assert sum(map(area_mm2, polygons)) == pytest.approx(mask.sum() * PIXEL_MM2)  # with keyholes
    assert len(polygons) == ndimage.label(mask)[1]  # one for pixels that share edges


def test_outlines_run_along_pixel_edges_without_needless_points():
    mask = np.zeros((30, 40), bool)
    mask[10:12, 20:23] = True
    (polygon,) = outlines(mask, GRID)
    assert len(polygon) == 4
    corners = {(0.0, -10.0), (3.75, -10.0), (3.75, -6.0), (0.0, -6.0)}
    assert {tuple(p) for p in polygon.tolist()} == corners
    assert outlines(np.zeros((30, 40), bool), GRID) == []


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="boolean plane"):
        outlines(np.zeros((30, 41), bool), GRID)
