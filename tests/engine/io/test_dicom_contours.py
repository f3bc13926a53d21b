import time

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from engine.io.dicom_contours import CROSSING_EVEN_ODD, EVEN_ODD, coverage, nesting, outlines
from engine.patient.grid import Grid

GRID = Grid((1, 30, 40), (3.0, 2.0, 1.25), (0.0, -29.0, -24.375))  # centered: ±30, ±25 mm
PIXEL_MM2 = 2.0 * 1.25
quick = settings(max_examples=150, deadline=None, derandomize=True)


def shares(polygons, grid=GRID, counted=EVEN_ODD) -> np.ndarray:
    """Coverage of the whole plane (ny, nx)."""
    found = coverage(polygons, grid, counted)
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
    expected = area_mm2(one) + area_mm2(other) - 2 * intersection_mm2(one, other)
    found = shares([one, other], counted=CROSSING_EVEN_ODD).sum() * PIXEL_MM2
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


# Nesting: holes, and polygons that are united


def united(polygons, grid=GRID) -> np.ndarray:
    return shares(polygons, grid, nesting(polygons))


def united_mm2(*polygons) -> float:
    return united(list(polygons)).sum() * PIXEL_MM2


def box(left, low, right, high) -> np.ndarray:
    return np.array([(left, low), (right, low), (right, high), (left, high)], float)


def circle(x, y, radius, n=24) -> np.ndarray:
    angle = np.linspace(0.0, 2 * np.pi, n, endpoint=False)
    return np.array([x, y]) + radius * np.column_stack([np.cos(angle), np.sin(angle)])


round_ = st.tuples(st.floats(-6, 6), st.floats(-6, 6), st.floats(2, 10)).map(lambda c: circle(*c))


@settings(quick, max_examples=60)
@given(st.one_of(rectangle, round_), st.one_of(rectangle, round_))
@example(box(-5, -5, 5, 5), box(0, -5, 10, 5))  # the overlap is bounded by common edges
@example(box(-10, -1, 10, 1), box(-1, -10, 1, 10))
def test_polygons_that_cross_cover_what_lies_in_either(one, other):
    common = intersection_mm2(one, other)
    share = common / min(area_mm2(one), area_mm2(other))
    assume(0.02 < share < 0.98)
    expected = area_mm2(one) + area_mm2(other) - common
    assert united_mm2(one, other) == pytest.approx(expected, rel=1e-9)
    assert united_mm2(other[::-1], one) == pytest.approx(expected, rel=1e-9)


def test_a_pixel_that_both_cover_in_part_has_the_share_of_their_union():
    fine = Grid((1, 300, 400), (3.0, 0.2, 0.125), (0.0, -29.9, -24.9375))
    pair = [circle(-3.0, 1.0, 8.0), circle(4.0, -2.0, 7.0)]
    expected = (united(pair, fine) >= 0.5).reshape(30, 10, 40, 10).mean(axis=(1, 3))
    assert np.abs(united(pair) - expected).max() < 0.03


sides = st.tuples(st.integers(0, 9), st.integers(1, 6))
boxes = st.lists(st.tuples(sides, sides), min_size=1, max_size=6, unique=True)


@quick
@given(boxes)
@example([((0, 6), (0, 6)), ((4, 6), (0, 6)), ((4, 2), (2, 2))])  # a hole in both of two that cross
@example([((0, 6), (0, 6)), ((1, 4), (1, 4)), ((3, 6), (2, 2))])  # one that crosses ring and hole
@example([((0, 6), (0, 6)), ((1, 3), (1, 3)), ((2, 3), (2, 3)), ((2, 1), (2, 1))])  # holes cross
def test_boxes_of_pixels_count_as_sets_of_pixels_do(drawn):
    """A box within another is its hole, or an island in its hole, as deep as the longest chain of
    boxes around it; what remains of all that are no holes is united."""
    grid = Grid((1, 16, 16), (1.0, 1.0, 1.0), (0.0, 0.5, 0.5))
    y, x = np.indices((16, 16))
    sets = [(x >= a) & (x < a + b) & (y >= c) & (y < c + d) for (a, b), (c, d) in drawn]

    def is_within(i, j):
        return i != j and not np.any(sets[i] & ~sets[j])

    def depth(i):
        return max((1 + depth(j) for j in range(len(sets)) if is_within(i, j)), default=0)

    expected = np.zeros((16, 16), bool)
    for i, outer in enumerate(sets):
        if depth(i) % 2 == 0:
            holes = [s for j, s in enumerate(sets) if is_within(j, i) and depth(j) % 2 == 1]
            expected |= outer & ~np.logical_or.reduce([np.zeros_like(outer), *holes])
    polygons = [box(a, c, a + b, c + d) for (a, b), (c, d) in drawn]
    np.testing.assert_allclose(united(polygons, grid), expected, atol=1e-12)


def test_ordinary_contours_count_even_odd():
    """Pieces apart or side by side, holes, islands; not all to the last digit."""
    outer, hole = box(-10, -10, 10, 10), box(-5, -5, 5, 5)
    for polygons in (
        [outer], [outer, hole], [outer, hole, circle(0, 0, 3)], [hole, box(6, -5, 12, 5)],
        [hole, box(5, -5, 12, 5)], [hole, box(4.99, -5, 12, 5)], [outer, box(-10, 0, 5, 10)],
        [outer, box(-10.01, 0, 5, 10)],
    ):  # fmt: skip
        assert nesting(polygons) is EVEN_ODD, polygons
    assert united_mm2(outer, box(-10.01, 0, 5, 10)) == pytest.approx(400 - 150 + 0.1)


def test_a_contour_drawn_again_by_another_rounding_is_one():
    once, again = circle(0.0, 0.0, 8.0), circle(0.003, -0.002, 8.0)
    assert united_mm2(once, again) == pytest.approx(area_mm2(once), rel=1e-3)


def test_many_contours_are_united():
    """Ten chains of 40 circles, each crossing the next."""
    x, y = np.meshgrid(np.arange(40) * 3.0, np.arange(10) * 5.0)
    chains = [circle(a, b, 2.0) for a, b in zip(x.ravel() - 58.5, y.ravel() - 22.5)]
    grid = Grid((1, 50, 125), (3.0, 1.0, 1.0), (0.0, -24.5, -62.0))
    one, step = area_mm2(chains[0]), intersection_mm2(chains[0], chains[1])
    expected = 10 * (40 * one - 39 * step)
    assert united(chains, grid).sum() == pytest.approx(expected, rel=1e-3)


def test_a_scribble_of_33000_points_takes_seconds():
    """Half of the plane lies in it, within 1 %."""
    points = np.random.default_rng(0).uniform(-100.0, 100.0, (33_000, 2))
    grid = Grid((1, 300, 300), (3.0, 1.0, 1.0), (0.0, -149.5, -149.5))
    coverage([points[:9]], grid)  # compiles
    began = time.process_time()
    found = shares([points], grid)
    assert time.process_time() - began < 5.0
    assert found[60:-60, 60:-60].mean() == pytest.approx(0.5, abs=0.01)


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


def test_a_thin_rind_is_a_rind_however_large():
    """A body of 200 mm with a skin of 1 mm: 99 % of the outer circle lies within the inner."""
    turn = np.linspace(0.0, 2 * np.pi, 400, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    rind = [200.0 * circle, 199.0 * circle]
    assert not nesting(rind).are_crossing
    united = nesting([*rind, 5.0 * circle + [203.0, 0.0]])  # a third crosses the rind
    assert united.is_hole.tolist() == [False, True, False]
    twice = nesting([200.0 * circle, 199.95 * circle])
    assert not twice.is_hole.any()
