"""Layers and spots cover the target, with a range shifter where it lies too shallow."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engine.geometry.bixels import place_bixels
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam
from engine.geometry.rays import project_voxels, radiological_depth
from engine.geometry.spots import SpotSettings, place_spots
from engine.io.openkbp import read_patient
from engine.machine.depth_kernels import layer_kernel
from engine.machine.library import load_machine
from engine.patient.ct import rsp_volume
from engine.patient.patient import Structure
from engine.patient.phantoms import tg119_c_shape, water_tank


@pytest.fixture(scope="module")
def machine():
    return load_machine("generic_proton")


@pytest.fixture(scope="module")
def tank():
    return water_tank(200.0, 4.0, 48.0)  # its target from 76 to 124 mm of water


def covered(plan, patient, beam, spacing_mm=5.0, target=None):
    """Target voxels (n,) that one field reaches.

    A voxel is covered when its water-equivalent depth lies within half a layer spacing of a
    layer's range (R80 behind the range shifter) and a spot of that layer within a spot spacing,
    both seen in the isocenter plane.
    """
    setup, machine = plan.beams[beam], plan.machine
    mask = patient.target_union() if target is None else patient.mask(target)
    voxels = np.flatnonzero(mask).astype(np.uint32)
    frame = beam_frame(setup, machine.virtual_source_mm)
    depth = radiological_depth(rsp_volume(patient), patient.grid, frame, voxels)
    u, v, _ = project_voxels(patient.grid, voxels, frame)
    shifter = machine.range_shifter(setup.range_shifter).wet_mm if setup.range_shifter else 0.0
    spots = plan.beam_slice(beam)
    energies = np.unique(plan.spot_energy[spots])
    ranges = machine.range_mm[energies] - shifter
    half = 0.5 * np.diff(ranges)
    below, above = np.concatenate([half[:1], half]), np.concatenate([half, half[-1:]])
    hit = np.zeros(len(voxels), bool)
    for energy, range_mm, low, high in zip(energies, ranges, below, above):
        mine = plan.spot_energy[spots] == energy
        tree = cKDTree(np.column_stack([plan.u_mm[spots][mine], plan.v_mm[spots][mine]]))
        near = tree.query(np.column_stack([u, v]))[0] <= spacing_mm
        hit |= (depth >= range_mm - low - 1e-3) & (depth <= range_mm + high + 1e-3) & near
    return hit


def neighbour_distance(plan):
    """Distance to the nearest spot of the same layer, (n_spots,)."""
    starts = plan.layer_starts()
    parts = []
    for a, b in zip(starts, starts[1:]):
        points = np.column_stack([plan.u_mm[a:b], plan.v_mm[a:b]])
        if b - a > 1:
            parts.append(cKDTree(points).query(points, k=2)[0][:, 1])
    return np.concatenate(parts)


def test_three_oblique_fields_cover_a_real_target(openkbp_pt_1, machine):
    # 29 to 48 % of the target voxels of these patients lie shallower than 70 MeV reach.
    patient = read_patient(openkbp_pt_1)
    plan = place_spots(patient, machine, [Beam(g) for g in (60.0, 180.0, 300.0)])
    share = [np.mean(covered(plan, patient, b)) for b in range(3)]
    assert min(share) >= 0.99
    together = np.logical_or.reduce([covered(plan, patient, b) for b in range(3)])
    assert together.mean() >= 0.999
    assert any(beam.range_shifter for beam in plan.beams)


@pytest.mark.parametrize("gantry_deg, couch_deg", [(0, 0), (90, 0), (45, 0), (310, 25)])
@pytest.mark.parametrize("pattern", ["square", "hexagonal"])
def test_spots_cover_the_target_from_any_side(tank, machine, gantry_deg, couch_deg, pattern):
    settings = SpotSettings(5.0, pattern=pattern)
    plan = place_spots(tank, machine, [Beam(gantry_deg, couch_deg=couch_deg)], settings)
    assert covered(plan, tank, 0).mean() > 0.999


def test_a_concave_target_is_covered_and_its_core_spared(machine):
    patient = tg119_c_shape(4.0)
    plan = place_spots(patient, machine, [Beam(0.0)])
    assert covered(plan, patient, 0).mean() > 0.99
    ranges = machine.range_mm[plan.spot_energy]
    center = (np.abs(plan.u_mm) < 3) & (np.abs(plan.v_mm) < 30)
    # in the middle the ring lies 15 to 37 mm from the axis, before the core: 63 to 85 mm of water
    assert ranges[center].max() < 95.0


def test_every_spot_lies_within_the_margin_of_its_layers_target(tank, machine):
    margin = 7.0
    plan = place_spots(tank, machine, [Beam(0.0)], SpotSettings(5.0, lateral_margin_mm=margin))
    half = 24.0 * 2047.0 / (2047.0 - 24.0)  # the upstream face, seen in the isoplane
    assert np.max(np.abs(plan.u_mm)) <= half + margin + 2.0
    assert np.max(np.abs(plan.v_mm)) <= half + margin + 2.0
    assert np.max(np.abs(plan.u_mm)) > half + margin - 5.0


def test_spots_are_sorted_and_weightless(tank, machine):
    plan = place_spots(tank, machine, [Beam(0.0), Beam(90.0)])
    order = np.lexsort((plan.u_mm, plan.v_mm, -plan.spot_energy.astype(int), plan.spot_beam))
    np.testing.assert_array_equal(order, np.arange(plan.n_spots))
    assert not plan.weights.any()


def test_layers_span_the_target_with_its_margins(tank, machine):
    plan = place_spots(tank, machine, [Beam(0.0)], SpotSettings(5.0, layer_spacing_mm=4.0))
    ranges = machine.range_mm[np.unique(plan.spot_energy)]
    assert 124.0 - 2.6 <= ranges[-1] < 124.0 + 4.0  # to half a spacing of 5 mm
    assert 76.0 - 4.0 < ranges[0] <= 76.0 + 2.7
    assert np.all(np.abs(np.diff(ranges) - 4.0) <= 2.0)  # the machine's energies are 2.5 mm apart
    wide = SpotSettings(5.0, layer_spacing_mm=4.0, proximal_margin_mm=10.0, distal_margin_mm=8.0)
    ranges = machine.range_mm[np.unique(place_spots(tank, machine, [Beam(0.0)], wide).spot_energy)]
    assert 132.0 - 2.6 <= ranges[-1] < 132.0 + 4.0
    assert 66.0 - 4.0 < ranges[0] <= 66.0 + 2.7


def test_layer_spacing_follows_the_width_of_the_bragg_peak(tank, machine):
    few, many = (
        place_spots(tank, machine, [Beam(0.0)], SpotSettings(5.0, layer_factor=k)) for k in (2, 1)
    )
    assert len(np.unique(few.spot_energy)) < len(np.unique(many.spot_energy))


@pytest.mark.parametrize("pattern", ["square", "hexagonal"])
@pytest.mark.parametrize("spacing_mm", [3.0, 5.0, 8.0])
def test_neighbouring_spots_are_a_spacing_apart(tank, machine, pattern, spacing_mm):
    plan = place_spots(tank, machine, [Beam(0.0)], SpotSettings(spacing_mm, pattern=pattern))
    np.testing.assert_allclose(neighbour_distance(plan), spacing_mm, rtol=1e-4)


def test_a_hexagonal_raster_needs_fewer_spots_at_the_same_spacing_of_lines(tank, machine):
    square, hexagonal = (
        place_spots(tank, machine, [Beam(0.0)], SpotSettings(5.0, pattern=p))
        for p in ("square", "hexagonal")
    )  # a hexagonal cell has sqrt(3)/2 of the area
    assert hexagonal.n_spots / square.n_spots == pytest.approx(1 / np.sqrt(0.75), rel=0.1)


def test_automatic_spacing_follows_the_spot_size_at_the_peaks(tank, machine):
    plan = place_spots(tank, machine, [Beam(0.0)], SpotSettings(None))
    sigmas = []
    for energy in np.unique(plan.spot_energy):
        kernel = layer_kernel(machine, int(energy))
        peak = np.argmax(kernel.depth_dose_mev_cm2_g)
        sigmas.append(np.sqrt(kernel.air_variance_mm2(0.0) + kernel.scatter_variance_mm2[peak]))
    expected = 1.06 * np.mean(sigmas)  # 1.06 σ: 2.5 σ FWHM / 2.355
    assert np.median(neighbour_distance(plan)) == pytest.approx(expected, rel=1e-3)
    wider = place_spots(tank, machine, [Beam(0.0)], SpotSettings(None, spacing_factor=1.5))
    assert np.median(neighbour_distance(wider)) == pytest.approx(1.5 * expected, rel=1e-3)


def shallow(depth_mm):
    """A tank whose target begins ``depth_mm`` below the surface that gantry 0 meets."""
    tank = water_tank(200.0, 4.0, 48.0)
    z, y, x = tank.grid.axes_mm()
    box = (np.abs(z)[:, None, None] < 20) & (np.abs(x) < 20)
    mask = box & ((y > -100 + depth_mm) & (y < -40 + depth_mm))[:, None]
    return tank.with_structures(Structure("PTV", mask, "target"))


@pytest.mark.parametrize(
    "depth_mm, margin_mm, expected_wet_mm",
    [(44.0, 0.0, None), (12.0, 0.0, 40.0), (0.0, 0.0, 40.0), (0.0, 3.0, 75.0)],
)
def test_the_thinnest_range_shifter_that_suffices_is_taken(
    machine, depth_mm, margin_mm, expected_wet_mm
):
    # 70 MeV reach 40.8 mm of water (PSTAR), which 40 mm shorten to the first millimeter
    settings = SpotSettings(proximal_margin_mm=margin_mm)
    plan = place_spots(shallow(depth_mm), machine, [Beam(0.0)], settings)
    name = plan.beams[0].range_shifter
    assert (None if name is None else machine.range_shifter(name).wet_mm) == expected_wet_mm
    assert covered(plan, shallow(depth_mm), 0).mean() > 0.99


def test_no_spot_is_given_an_energy_that_the_range_shifter_stops(machine):
    settings = SpotSettings(proximal_margin_mm=3.0)
    plan = place_spots(shallow(0.0), machine, [Beam(0.0)], settings)
    wet_mm = machine.range_shifter(plan.beams[0].range_shifter).wet_mm
    assert machine.range_mm[plan.spot_energy].min() > wet_mm


def test_the_range_shifter_stands_an_air_gap_before_the_skin(machine):
    beam = Beam(0.0, isocenter_mm=(0.0, 0.0, 0.0), air_gap_mm=70.0)
    placed = place_spots(shallow(12.0), machine, [beam]).beams[0]
    assert placed.shifter_exit_mm == pytest.approx(-100.0 - 70.0, abs=5.0)  # within a 4 mm voxel


def test_a_beams_own_range_shifter_is_kept(tank, machine):
    name = machine.range_shifters[0].name
    plan = place_spots(tank, machine, [Beam(0.0, range_shifter=name)])
    assert plan.beams[0].range_shifter == name
    assert covered(plan, tank, 0).mean() > 0.999


def test_without_range_shifters_a_shallow_target_is_left_uncovered(machine):
    plan = place_spots(shallow(0.0), machine, [Beam(0.0)], SpotSettings(range_shifter=None))
    assert plan.beams[0].range_shifter is None
    assert covered(plan, shallow(0.0), 0).mean() < 0.6


@pytest.mark.parametrize("place", [place_spots, place_bixels])
def test_an_isocenter_far_from_the_target_is_refused(tank, place):
    """A plan of another patient; a raster seen from near the source would fill the memory."""
    name = "generic_proton" if place is place_spots else "generic_photon"
    beam = Beam(0.0, isocenter_mm=(0.0, 1000.0, 0.0))
    with pytest.raises(ValueError, match="mm from the target"):
        place(tank, load_machine(name), [beam])


def test_the_isocenter_is_the_targets_centroid_or_what_the_beam_says(tank, machine):
    free, fixed = place_spots(
        tank, machine, [Beam(0.0), Beam(0.0, isocenter_mm=(5.0, 0.0, -5.0))]
    ).beams
    np.testing.assert_allclose(free.isocenter_mm, tank.grid.center_mm, atol=2.0)
    assert fixed.isocenter_mm == (5.0, 0.0, -5.0)


def test_one_target_can_be_chosen(tank, machine):
    half = tank.mask("PTV").copy()
    half[: half.shape[0] // 2] = False
    patient = tank.with_structures(Structure("Half", half, "organ"))
    plan = place_spots(patient, machine, [Beam(0.0)], target="Half")
    assert covered(plan, patient, 0, target="Half").mean() > 0.99
    assert plan.n_spots < 0.75 * place_spots(patient, machine, [Beam(0.0)]).n_spots


def test_spots_are_the_same_every_time_and_the_patient_is_unchanged(tank, machine):
    before = tank.hu.copy(), tank.mask("PTV").copy()
    first, second = (place_spots(tank, machine, [Beam(45.0)]) for _ in range(2))
    for name in ("spot_energy", "u_mm", "v_mm"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(tank.hu, before[0])
    np.testing.assert_array_equal(tank.mask("PTV"), before[1])


def test_no_beams_are_refused(tank, machine):
    with pytest.raises(ValueError, match="beams is empty"):
        place_spots(tank, machine, [])


def test_a_target_beyond_reach_is_refused(machine):
    with pytest.raises(ValueError, match="mm of water from gantry 0.*choose another angle"):
        place_spots(water_tank(800.0, 10.0, 60.0), machine, [Beam(0.0)])


def test_an_unknown_range_shifter_is_refused(tank, machine):
    with pytest.raises(ValueError, match="range_shifter='lead'"):
        place_spots(tank, machine, [Beam(0.0, range_shifter="lead")])


def test_an_unknown_target_is_refused(tank, machine):
    with pytest.raises(KeyError, match="'GTV' is unknown"):
        place_spots(tank, machine, [Beam(0.0)], target="GTV")


def test_an_empty_target_is_refused(tank, machine):
    empty = Structure("PTV", np.zeros(tank.grid.shape, bool), "target")
    with pytest.raises(ValueError, match="no voxels"):
        place_spots(tank.with_structures(empty), machine, [Beam(0.0)])


@pytest.mark.parametrize(
    "settings",
    [
        {"spot_spacing_mm": 0.0}, {"spot_spacing_mm": np.nan}, {"layer_spacing_mm": -1.0},
        {"lateral_margin_mm": -1.0}, {"distal_margin_mm": np.inf}, {"pattern": "spiral"},
        {"layer_factor": 0.0},
    ],
)  # fmt: skip
def test_senseless_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SpotSettings(**settings)
