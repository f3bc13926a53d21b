"""Radiological depth against a slow exact sum over every voxel that a ray crosses."""

import numpy as np
import pytest

from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam
from engine.geometry.rays import (
    along_range_mm,
    project_voxels,
    radiological_depth,
    trace_field,
)
from engine.patient.ct import rsp_volume
from engine.patient.grid import Grid
from engine.patient.phantoms import half_slab_tank, water_tank

SOURCE_MM = 2000.0
ANGLES = [(0, 0), (45, 0), (90, 0), (0, 30), (45, -20), (112, 65)]


def exact_depth(rsp, grid, start, end):
    """∫ RSP ds from one point to another: cut at every voxel face, one sample a piece (Siddon)."""
    way = end - start
    cuts = [np.array([0.0, 1.0])]
    for axis, n in enumerate(grid.shape[::-1]):
        faces = grid.lower_mm[axis] + grid.spacing_mm[::-1][axis] * np.arange(n + 1)
        if way[axis] != 0:
            cuts.append((faces - start[axis]) / way[axis])
    cuts = np.unique(np.clip(np.concatenate(cuts), 0.0, 1.0))
    middles = start + 0.5 * (cuts[1:] + cuts[:-1])[:, None] * way
    cells = np.floor(grid.index_of(middles) + 0.5).astype(int)
    inside = np.all((cells >= 0) & (cells < grid.shape), axis=1)
    lengths = np.diff(cuts)[inside] * np.linalg.norm(way)
    return float(np.sum(rsp[tuple(cells[inside].T)] * lengths))


def view(grid, gantry_deg, couch_deg, offset=(3.3, -4.7, 2.1)):
    isocenter = tuple(grid.center_mm + offset)
    return beam_frame(Beam(gantry_deg, isocenter, couch_deg), SOURCE_MM)


def exact_at(rsp, grid, frame, points):
    source = frame.isocenter_mm - SOURCE_MM * frame.direction
    return np.array([exact_depth(rsp, grid, source, p) for p in points])


def noise(shape=(20, 22, 24)):
    grid = Grid(shape, (2.5, 2.0, 3.0), (-20.0, 10.0, 5.0))
    return np.random.default_rng(3).uniform(0.0, 2.0, shape).astype(np.float32), grid


@pytest.mark.parametrize("gantry_deg, couch_deg", ANGLES)
def test_depth_on_the_traced_rays_is_exact_in_any_medium(gantry_deg, couch_deg):
    rsp, grid = noise()
    frame = view(grid, gantry_deg, couch_deg)
    traced = trace_field(rsp, grid, frame, (-25.0, 20.0), (-15.0, 25.0), pitch_mm=7.0)
    n_v, n_u, n_t = traced.wet_mm.shape
    random = np.random.default_rng(0)
    j, i, k = (random.integers(n, size=150) for n in (n_v, n_u, n_t))
    points = frame.to_patient(
        traced.u0_mm + i * traced.pitch_mm,
        traced.v0_mm + j * traced.pitch_mm,
        traced.t0_mm + k * traced.step_mm,
    )
    expected = exact_at(rsp, grid, frame, points)
    np.testing.assert_allclose(traced.wet_mm[j, i, k], expected, atol=1e-3)


@pytest.mark.parametrize("gantry_deg, couch_deg", ANGLES)
def test_depth_in_a_water_cube_is_exact_but_beside_its_edges(gantry_deg, couch_deg):
    # Between rays the map is interpolated: exact below a face, off by up to a raster step sideways
    # of an edge, where the exact depth jumps.
    patient = water_tank(80.0, 2.0, 20.0)
    rsp, grid = rsp_volume(patient), patient.grid
    frame = view(grid, gantry_deg, couch_deg)
    voxels = np.random.default_rng(1).choice(grid.size, 400, replace=False).astype(np.uint32)
    error = radiological_depth(rsp, grid, frame, np.sort(voxels)) - exact_at(
        rsp, grid, frame, grid.points_mm(np.sort(voxels))
    )
    assert np.median(np.abs(error)) < 0.001
    assert np.quantile(np.abs(error), 0.8) < 0.02
    assert np.mean(np.abs(error)) < 0.3


def test_depth_in_a_cube_along_its_axis_is_exact_everywhere():
    patient = water_tank(80.0, 2.0, 20.0)
    grid = patient.grid
    frame = view(grid, 0, 0, offset=(0.0, 0.0, 0.0))
    voxels = np.arange(grid.size, dtype=np.uint32)
    u, v, t = project_voxels(grid, voxels, frame)
    depth = radiological_depth(rsp_volume(patient), grid, frame, voxels)
    slant = np.hypot(SOURCE_MM, np.hypot(u, v)) / SOURCE_MM
    below_front = np.tile(np.repeat(grid.axes_mm()[1] - grid.lower_mm[1], grid.shape[2]), 40)
    enters_at_front = (np.abs(u) < 38.0) & (np.abs(v) < 38.0)
    expected = (below_front * slant)[enters_at_front]
    np.testing.assert_allclose(depth[enters_at_front], expected, atol=0.02)


@pytest.mark.parametrize("gantry_deg, couch_deg", ANGLES)
def test_depth_behind_a_slab_is_that_of_the_slab_and_the_water(gantry_deg, couch_deg):
    patient = half_slab_tank(1000.0, spacing_mm=2.0)
    rsp, grid = rsp_volume(patient), patient.grid
    assert rsp.max() > 1.4  # Schneider 2000: 1000 HU is bone of 1.61 g/cm³
    frame = view(grid, gantry_deg, couch_deg)
    voxels = np.sort(np.random.default_rng(2).choice(grid.size, 400, replace=False))
    depth = radiological_depth(rsp, grid, frame, voxels.astype(np.uint32))
    error = depth - exact_at(rsp, grid, frame, grid.points_mm(voxels))
    assert np.median(np.abs(error)) < 0.001
    assert np.quantile(np.abs(error), 0.8) < 0.05
    assert np.mean(np.abs(error)) < 0.4  # beside the edges of the slab and of the tank


def test_a_finer_raster_brings_the_depth_closer_to_exact():
    rsp, grid = noise()
    frame = view(grid, 45, 20)
    voxels = np.arange(0, grid.size, 53, dtype=np.uint32)
    u, v, t = project_voxels(grid, voxels, frame)
    expected = exact_at(rsp, grid, frame, grid.points_mm(voxels))
    field = (float(u.min()), float(u.max())), (float(v.min()), float(v.max()))

    def error(pitch):
        return np.mean(np.abs(trace_field(rsp, grid, frame, *field, pitch).at(u, v, t) - expected))

    errors = [error(pitch) for pitch in (4.0, 2.0, 1.0, 0.5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * errors[0]


def test_depth_scales_with_density_and_vanishes_without_it():
    rsp, grid = noise()
    frame = view(grid, 200, 10)
    voxels = np.arange(grid.size, dtype=np.uint32)
    once, twice = (radiological_depth(k * rsp, grid, frame, voxels) for k in (1.0, 2.0))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    assert not radiological_depth(0 * rsp, grid, frame, voxels).any()


def test_projected_voxels_are_those_of_the_frame():
    _, grid = noise()
    frame = view(grid, 67, -40)
    voxels = np.arange(0, grid.size, 7, dtype=np.uint32)
    for found, expected in zip(
        project_voxels(grid, voxels, frame), frame.to_beam(grid.points_mm(voxels))
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_larger_field_has_the_same_rays_and_more():
    rsp, grid = noise()
    frame = view(grid, 30, 10)
    small = trace_field(rsp, grid, frame, (-3.1, 8.2), (0.5, 9.0), pitch_mm=2.0)
    large = trace_field(rsp, grid, frame, (-22.0, 17.0), (-30.0, 21.0), pitch_mm=2.0)
    i = round((small.u0_mm - large.u0_mm) / 2.0)
    j = round((small.v0_mm - large.v0_mm) / 2.0)
    n_v, n_u, _ = small.wet_mm.shape
    np.testing.assert_array_equal(small.wet_mm, large.wet_mm[j : j + n_v, i : i + n_u])
    random = np.random.default_rng(0)
    u, v, t = (random.uniform(0.6, 8.0, 100).astype(np.float32) for _ in range(3))
    np.testing.assert_allclose(small.at(u, v, t), large.at(u, v, t), rtol=1e-6)


def test_points_off_the_map_are_nan_and_no_points_give_none():
    rsp, grid = noise()
    frame = view(grid, 0, 0)
    traced = trace_field(rsp, grid, frame, (-5.0, 5.0), (-5.0, 5.0))
    far = np.array([50.0], np.float32)
    near = np.zeros(1, np.float32)
    assert np.isnan(traced.at(far, near, near)).all()
    assert not np.isnan(traced.at(near, near, near)).any()
    assert radiological_depth(rsp, grid, frame, np.empty(0, np.uint32)).shape == (0,)


def test_the_first_matter_of_a_ray_is_the_tanks_surface():
    patient = water_tank(80.0, 2.0, 20.0)
    frame = view(patient.grid, 0, 0, offset=(0.0, 0.0, 0.0))
    traced = trace_field(rsp_volume(patient), patient.grid, frame, (-60.0, 60.0), (-60.0, 60.0))
    surface = traced.entrance_mm(np.array([0.0, 59.0]), np.array([10.0, 0.0]))
    assert surface[0] == pytest.approx(-40.0, abs=traced.step_mm)
    assert surface[1] == np.inf


def test_a_volume_behind_the_source_is_refused():
    _, grid = noise()
    with pytest.raises(ValueError, match="behind the beam's source"):
        along_range_mm(grid, view(grid, 0, 0, offset=(0.0, SOURCE_MM, 0.0)))


def test_an_rsp_volume_is_left_as_it_was():
    rsp, grid = noise()
    before = rsp.copy()
    radiological_depth(rsp, grid, view(grid, 45, 0), np.arange(50, dtype=np.uint32))
    np.testing.assert_array_equal(rsp, before)
