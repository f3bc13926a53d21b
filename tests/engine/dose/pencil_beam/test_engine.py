"""The pencil beam against its own formula in plain numpy, the machine's data, and itself."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from engine import parallel
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.voxels import body_voxels
from engine.errors import PhysicsWarning
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Aperture, Beam, Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.depth_kernels import layer_kernel
from engine.machine.ion import SecondGaussian
from engine.machine.single_spots import SpotKind
from engine.patient.ct import rsp_volume
from engine.patient.grid import Grid
from engine.patient.patient import Structure
from engine.patient.phantoms import half_slab_tank, tg119_c_shape, water_tank

GY_MM2 = 1.602176634e-8  # 1 MeV cm²/g at one particle per mm², in Gy (exact: e = 1.602…e-19 C)
EVERYTHING = 1e-5  # lateral cut-off that keeps all that matters


@pytest.fixture(scope="module")
def tank():
    return water_tank((120.0, 120.0, 120.0), 3.0, 30.0)


@pytest.fixture(scope="module")
def tank_plan(tank, machine):
    plan = place_spots(tank, machine, [Beam(0.0), Beam(70.0, couch_deg=15.0)], SpotSettings(6.0))
    return plan.with_weights(np.random.default_rng(0).uniform(1e6, 1e8, plan.n_spots))


def energy_of(machine, range_mm):
    return int(np.argmin(np.abs(machine.range_mm - range_mm)))


def formula(engine, patient, plan, grid, voxels, cutoff=None):
    """Gy per particle (n_voxels, n_spots) in float64: depth dose × double Gaussian.

    Depth dose averaged over the voxel's mean chord, Gaussians widened by its width. With ``cutoff``
    entries are zero where less than this share of the dose lies farther out.
    """
    dense = np.zeros((len(voxels), plan.n_spots))
    size = np.array(grid.spacing_mm[::-1])
    for b, beam in enumerate(plan.beams):
        frame = beam_frame(beam, plan.machine.virtual_source_mm)
        lateral = np.concatenate([frame.u_axis, frame.v_axis])
        widening = np.sum(lateral**2 * np.tile(size, 2) ** 2) / 24.0
        # depths are the engine's own: they have tests elsewhere, and differ by the raster of rays
        seen = engine._trace(patient, plan, grid, NOMINAL, rsp_volume(patient), voxels, b)
        u, v, t = frame.to_beam(grid.points_mm(voxels))
        z0, z1 = seen.z_in.astype(float), seen.z_out.astype(float)
        columns = plan.beam_slice(b)
        shifter = beam.range_shifter and plan.machine.range_shifter(beam.range_shifter)
        for spot in range(columns.start, columns.stop):
            k = layer_kernel(
                plan.machine, int(plan.spot_energy[spot]), shifter, beam.shifter_exit_mm or 0.0,
                beam.air_gap_mm,
            )  # fmt: skip
            depth = k.depth_step_mm * np.arange(len(k.depth_dose_mev_cm2_g))
            d = k.depth_dose_mev_cm2_g.astype(float)
            running = np.concatenate([[0.0], np.cumsum(0.5 * (d[1:] + d[:-1]))]) * k.depth_step_mm
            thick = np.maximum(z1 - z0, 1e-9)
            mean = (np.interp(z1, depth, running) - np.interp(z0, depth, running)) / thick
            thin = z1 - z0 < 0.2  # mm of water: a point
            middle = 0.5 * (z0 + z1)
            mean = np.where(thin, np.interp(middle, depth, d, right=0.0), mean)
            in_air = k.air_variance_mm2(t) + widening
            s2 = np.interp(middle, depth, k.scatter_variance_mm2) + in_air
            h2 = np.interp(middle, depth, k.halo_variance_mm2) + in_air
            w = np.interp(middle, depth, k.halo_weight)
            grow = (frame.source_mm + t) / frame.source_mm
            r2 = ((u - plan.u_mm[spot]) ** 2 + (v - plan.v_mm[spot]) ** 2) * grow**2
            core, halo = (1 - w) / s2 * np.exp(-r2 / 2 / s2), w / h2 * np.exp(-r2 / 2 / h2)
            dense[:, spot] = GY_MM2 / 2 / np.pi * mean * (core + halo)
            if cutoff is not None:
                beyond = (1 - w) * np.exp(-r2 / 2 / s2) + w * np.exp(-r2 / 2 / h2)
                dense[beyond < cutoff, spot] = 0.0
    return np.nan_to_num(dense)  # off the traced field there is no dose


def check_against_formula(patient, plan, grid, n_voxels=400, engine=None):
    engine = engine or PencilBeamEngine()
    body = body_voxels(patient, grid)
    picked = np.random.default_rng(5).choice(len(body), min(n_voxels, len(body)), replace=False)
    voxels = body[np.sort(picked)]
    found = engine.influence(patient, plan, grid, voxels=voxels).to_dense().astype(float)
    expected = formula(engine, patient, plan, grid, voxels)
    certain = formula(engine, patient, plan, grid, voxels, engine.lateral_cutoff * 1.02)
    top = expected.max(axis=0)
    # stored as 16-bit roots: 0.2 % at 1e-4 of a spot's maximum, absolute below
    tolerance = 2e-3 * expected + 1e-6 * top.max()
    kept = found > 0
    assert np.all(np.abs(found - expected)[kept] <= tolerance[kept])
    ends = 2e-3 * top.max()  # behind 0.1 % of the depth dose's maximum nothing is written
    missing = (certain > 0) & ~kept & (certain > np.maximum(ends, 2e-9 * top))
    assert not missing.any()
    return found, expected


# ---------------------------------------------------------------- the formula, entry by entry


def test_entries_are_the_formula_in_water(tank, tank_plan):
    found, _ = check_against_formula(tank, tank_plan, tank.grid)
    assert np.count_nonzero(found) > 10_000


def test_entries_are_the_formula_in_an_inhomogeneous_tank_on_a_grid_of_its_own(machine):
    patient = half_slab_tank(1000.0, spacing_mm=2.0)
    plan = place_spots(patient, machine, [Beam(30.0, couch_deg=-10.0)], SpotSettings(7.0))
    found, _ = check_against_formula(patient, plan, patient.grid.resampled((3.0, 2.5, 4.0)))
    assert np.count_nonzero(found) > 1_000


def test_entries_are_the_formula_behind_a_range_shifter(tank, machine):
    settings = SpotSettings(8.0, range_shifter=machine.range_shifters[0].name)
    plan = place_spots(tank, machine, [Beam(0.0)], settings)
    assert plan.beams[0].range_shifter is not None
    check_against_formula(tank, plan, tank.grid)


def test_entries_are_the_formula_far_from_the_isocenter(machine):
    # The beam is narrower upstream and wider downstream than at the isocenter.
    patient = water_tank((60.0, 400.0, 60.0), (3.0, 5.0, 3.0), 30.0)
    for isocenter_y_mm in (-400.0, 400.0):
        beam = Beam(0.0, isocenter_mm=(0.0, isocenter_y_mm, 0.0))
        plan = place_spots(patient, machine, [beam], SpotSettings(8.0, layer_spacing_mm=15.0))
        check_against_formula(patient, plan, patient.grid)


def test_entries_are_the_formula_for_spots_without_a_raster(tank, machine, one_beam):
    random = np.random.default_rng(3)
    energy = random.choice([energy_of(machine, r) for r in (50, 60, 80)], 60)
    plan = one_beam(energy, random.uniform(-20, 20, 60), random.uniform(-20, 20, 60))
    check_against_formula(tank, plan, tank.grid)


def test_entries_are_the_formula_for_a_single_spot_and_a_single_line(tank, machine, one_beam):
    for u in ([0.0], [-3.0, 1.0, 5.0]):
        check_against_formula(tank, one_beam(energy_of(machine, 70), u, 2.0), tank.grid)


def test_raster_lines_take_whole_chunks_of_places(tank, tank_plan):
    influence = PencilBeamEngine().influence(tank, tank_plan, tank.grid)
    for b in range(influence.n_beams):
        part = tank_plan.beam_slice(b)
        place = influence.place[part].astype(int)
        assert np.all(np.diff(place) > 0)
        new_line = (np.diff(tank_plan.v_mm[part]) != 0) | (
            np.diff(tank_plan.spot_energy[part].astype(int)) != 0
        )
        assert not np.any(place[1:][new_line] % 8)


def test_more_short_lines_than_places_make_the_same_dose(tank, machine, one_beam):
    # 9000 lines of one spot would take 72 000 places of eight, more than 16 bits tell apart
    random = np.random.default_rng(4)
    energy = energy_of(machine, 60)
    u, v = random.uniform(-20, 20, 9000), np.sort(random.uniform(-20, 20, 9000))
    voxels = body_voxels(tank, tank.grid)[::97]
    engine = PencilBeamEngine()
    whole = engine.influence(tank, one_beam(energy, u, v), tank.grid, voxels=voxels)
    assert int(whole.place[-1]) == 8999
    halves = [
        engine.influence(tank, one_beam(energy, u[part], v[part]), tank.grid, voxels=voxels)
        for part in (slice(0, 4500), slice(4500, 9000))
    ]
    assert int(halves[0].place[-1]) == 8 * 4499
    dose = [half @ np.ones(4500) for half in halves]
    np.testing.assert_allclose(whole @ np.ones(9000), sum(dose), rtol=1e-3)
    gradient = np.concatenate([half.adjoint(np.ones(len(voxels))) for half in halves])
    np.testing.assert_allclose(whole.adjoint(np.ones(len(voxels))), gradient, rtol=2e-3)


def gappy(machine, one_beam):
    """A raster of 5 mm from which two thirds of the spots are taken away at random."""
    u, v = np.meshgrid(np.arange(-30, 31, 5.0), np.arange(-30, 31, 5.0))
    keep = np.random.default_rng(2).random(u.shape) < 1 / 3
    energies = [energy_of(machine, r) for r in (60, 75)]
    e, uu = np.meshgrid(energies, u[keep], indexing="ij")
    return one_beam(e, uu, np.broadcast_to(v[keep], uu.shape))


def test_entries_are_the_formula_for_raster_lines_with_gaps(tank, machine, one_beam):
    check_against_formula(tank, gappy(machine, one_beam), tank.grid)


def test_a_spot_is_the_same_alone_and_among_others(tank, machine, one_beam):
    plan = gappy(machine, one_beam)
    engine = PencilBeamEngine()
    among = engine.influence(tank, plan, tank.grid)
    for spot in (0, plan.n_spots // 2, plan.n_spots - 1):
        alone = one_beam(plan.spot_energy[spot], plan.u_mm[spot], plan.v_mm[spot])
        alone = engine.influence(tank, alone, tank.grid).to_dense()[:, 0]
        mine = among.dose(np.eye(plan.n_spots)[spot])
        both = (alone > 0) & (mine > 0)
        assert both.sum() > 1000
        # the fans of rays differ, and with them the last bits
        np.testing.assert_allclose(alone[both], mine[both], rtol=3e-3)
        # among others it keeps at least what it keeps alone: spare lanes go to real spots
        assert mine[alone > 0].min() > 0


# ------------------------------------------------------------------------ the two ways to a dose


def test_dose_is_the_influence_times_the_weights(tank, tank_plan):
    engine = PencilBeamEngine()
    grid = tank.grid.resampled(4.0)
    influence = engine.influence(tank, tank_plan, grid)
    expected = influence.volume(influence @ tank_plan.weights)
    np.testing.assert_array_equal(engine.dose(tank, tank_plan, grid)["dose"], expected)
    assert expected.dtype == np.float32
    assert expected.max() > 0


def test_dose_is_linear_in_the_weights(tank, tank_plan):
    engine = PencilBeamEngine()
    once = engine.dose(tank, tank_plan, tank.grid)["dose"]
    thrice = engine.dose(tank, tank_plan.with_weights(3 * tank_plan.weights), tank.grid)["dose"]
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)


def test_dose_does_not_depend_on_the_batches(tank, tank_plan, monkeypatch):
    whole = PencilBeamEngine().dose(tank, tank_plan, tank.grid)["dose"]
    monkeypatch.setattr("engine.dose.pencil_beam.engine.ROWS_PER_BATCH", 1013)
    np.testing.assert_array_equal(
        PencilBeamEngine().dose(tank, tank_plan, tank.grid)["dose"], whole
    )


def test_some_voxels_are_rows_of_all_voxels(tank, tank_plan):
    engine = PencilBeamEngine()
    whole = engine.influence(tank, tank_plan, tank.grid)
    rows = np.sort(np.random.default_rng(1).choice(whole.n_rows, 700, replace=False))
    few = engine.influence(tank, tank_plan, tank.grid, voxels=whole.voxels[rows])
    expected = whole.rows(rows)
    for name in ("voxels", "start", "columns", "values", "scale"):
        np.testing.assert_array_equal(getattr(few, name), getattr(expected, name))
    empty = engine.influence(tank, tank_plan, tank.grid, voxels=np.empty(0, int))
    assert (empty @ tank_plan.weights).shape == (0,)


def test_the_bits_do_not_depend_on_the_number_of_threads(tank, tank_plan):
    before = parallel.threads()
    matrices = []
    for n in (1, 2, 3):
        parallel.set_threads(n)
        matrices.append(PencilBeamEngine().influence(tank, tank_plan, tank.grid))
    parallel.set_threads(before)
    for other in matrices[1:]:
        for name in ("start", "columns", "values", "scale"):
            np.testing.assert_array_equal(getattr(other, name), getattr(matrices[0], name))


def test_beams_sum_to_the_plan(tank, tank_plan):
    engine = PencilBeamEngine()
    influence = engine.influence(tank, tank_plan, tank.grid)
    for b in range(influence.n_beams):
        alone = tank_plan.part(b, b + 1)
        single = engine.influence(tank, alone, tank.grid)
        np.testing.assert_array_equal(
            influence.dose(tank_plan.weights, beam=b), single @ alone.weights
        )


def test_a_beam_without_spots_leaves_the_others_as_they_are(tank, tank_plan):
    second = tank_plan.part(1, 2)
    beams = (Beam(200.0, (0.0, 0.0, 0.0)), *second.beams, Beam(300.0, (0.0, 0.0, 0.0)))
    plan = replace(second, beams=beams, spot_beam=second.spot_beam + np.uint16(1))
    found = PencilBeamEngine().influence(tank, plan, tank.grid)
    expected = PencilBeamEngine().influence(tank, second, tank.grid)
    assert found.n_beams == 3
    np.testing.assert_array_equal(found @ plan.weights, expected @ plan.weights)
    assert not found.dose(plan.weights, beam=0).any()


def test_spots_of_different_energy_spreads_add_up(tank):
    # the lower energy, with the larger spread, reaches deeper than the higher one
    start, down = (0.0, -60.0, 0.0), (0.0, 1.0, 0.0)
    kinds = (SpotKind(100.0, 0.0, 3.0, 0.0), SpotKind(99.0, 9.0, 3.0, 0.0))
    spots = [SingleSpot(kind, start, down, 1e6) for kind in kinds]
    one, other, both = (
        PencilBeamEngine().dose(tank, plan_of(chosen), tank.grid)["dose"]
        for chosen in (spots[:1], spots[1:], spots)
    )
    np.testing.assert_allclose(both, one + other, rtol=1e-3, atol=1e-4 * both.max())


def test_a_layer_that_the_range_shifter_stops_gives_no_dose(tank, machine, one_beam):
    setup = {"range_shifter": "rs75", "shifter_exit_mm": -110.0}
    plan = one_beam([60, 0], 0.0, 0.0, **setup)  # energy 0 reaches 41 mm of water
    dense = PencilBeamEngine().influence(tank, plan, tank.grid).to_dense()
    assert dense[:, 0].any()
    assert not dense[:, 1].any()


def test_an_entry_takes_at_most_six_bytes(machine):
    # lines of a C-shaped target are short, and short lines fill their chunks of eight badly
    patient = tg119_c_shape(5.0)
    plan = place_spots(patient, machine, [Beam(45.0), Beam(315.0)])
    influence = PencilBeamEngine().influence(patient, plan, patient.grid)
    assert influence.nbytes / influence.n_nonzeros <= 6.0


# --------------------------------------------------------------------------------- invariances


def shifted(patient, by_mm):
    """The patient moved by (x, y, z) in mm."""
    origin = tuple(np.array(patient.grid.origin_mm) + np.array(by_mm)[::-1])
    grid = Grid(patient.grid.shape, patient.grid.spacing_mm, origin)
    return replace(patient, grid=grid)


def moved(plan, by_mm):
    beams = tuple(replace(b, isocenter_mm=tuple(np.add(b.isocenter_mm, by_mm))) for b in plan.beams)
    return replace(plan, beams=beams)


@pytest.mark.parametrize("by_mm", [(16.0, 0.0, 0.0), (-8.0, 32.0, 4.0), (11.3, -7.7, 101.9)])
def test_moving_patient_and_beams_together_changes_nothing(tank, tank_plan, by_mm):
    there = shifted(tank, by_mm)
    here = PencilBeamEngine().dose(tank, tank_plan, tank.grid)["dose"]
    dose = PencilBeamEngine().dose(there, moved(tank_plan, by_mm), there.grid)["dose"]
    np.testing.assert_allclose(dose, here, atol=3e-4 * here.max())
    np.testing.assert_allclose(dose.sum(), here.sum(), rtol=1e-5)


def test_moving_by_whole_spot_spacings_moves_the_columns(tank, machine, one_beam):
    energy = energy_of(machine, 70)
    u, v = np.meshgrid(np.arange(-12, 13, 6.0), np.arange(-12, 13, 6.0))
    before = PencilBeamEngine().influence(tank, one_beam(energy, u, v), tank.grid)
    beam = {"isocenter_mm": (-6.0, 0.0, 0.0)}
    after = PencilBeamEngine().influence(tank, one_beam(energy, u + 6.0, v, **beam), tank.grid)
    # the fan of rays is another, so edges of the tank differ; on the axis' slice it is the same
    weights = np.ones(25)
    difference = before @ weights - after @ weights
    assert np.abs(difference).max() < 0.01 * (before @ weights).max()


def test_a_scenario_shift_is_a_shift_of_the_isocenter(tank, tank_plan):
    shift = (3.0, -2.0, 5.0)
    scenario = PencilBeamEngine().dose(tank, tank_plan, tank.grid, Scenario(shift_mm=shift))["dose"]
    shifted_beams = PencilBeamEngine().dose(tank, moved(tank_plan, shift), tank.grid)["dose"]
    np.testing.assert_allclose(scenario, shifted_beams, rtol=1e-5, atol=1e-7 * scenario.max())
    nominal = PencilBeamEngine().dose(tank, tank_plan, tank.grid)["dose"]
    assert np.abs(scenario - nominal).max() > 0.05 * nominal.max()


def test_nothing_that_was_given_is_changed(tank, tank_plan):
    given = [tank.hu, *(s.mask for s in tank.structures.values()),
             tank_plan.u_mm, tank_plan.v_mm, tank_plan.spot_energy, tank_plan.weights]  # fmt: skip
    before = [a.copy() for a in given]
    PencilBeamEngine().dose(tank, tank_plan, tank.grid, Scenario((1.0, 0.0, 0.0), 1.03))
    for a, b in zip(given, before):
        np.testing.assert_array_equal(a, b)


def test_vacuum_beyond_the_body_gets_no_dose(tank, tank_plan):
    body = tank.external.mask.copy()
    body[:10] = False
    patient = tank.with_structures(Structure("External", body, "external", "water"))
    dose = PencilBeamEngine().dose(patient, tank_plan, tank.grid)["dose"]
    assert not dose[:10].any()
    assert dose[10:].any()


# ----------------------------------------------------------------------------------- bad input


def test_an_unsorted_plan_is_refused(tank, tank_plan):
    backwards = replace(tank_plan, u_mm=tank_plan.u_mm[::-1].copy())
    with pytest.raises(ValueError, match="not sorted by falling energy, rising v, rising u"):
        PencilBeamEngine().influence(tank, backwards, tank.grid)


def test_two_spots_in_one_place_are_refused(tank, machine, one_beam):
    with pytest.raises(ValueError, match="not sorted"):
        PencilBeamEngine().dose(tank, one_beam([50, 50], 0.0, 0.0), tank.grid)


def test_an_unknown_quantity_is_refused(tank, tank_plan):
    for call in (PencilBeamEngine().dose, PencilBeamEngine().influence):
        with pytest.raises(ValueError, match=r"quantities=\['letd'\]"):
            call(tank, tank_plan, tank.grid, quantities=("dose", "letd"))


def test_a_plan_without_spots_is_refused(tank, machine):
    none = np.empty(0, np.uint16)
    plan = Plan(machine, (Beam(0.0, (0.0, 0.0, 0.0)),), none, none, none, none)
    with pytest.raises(ValueError, match="no spots"):
        PencilBeamEngine().dose(tank, plan, tank.grid)


@pytest.mark.parametrize("voxels", [[-1, 4], [5, 5], [9, 3], [0, 10**9], [[1, 2]]])
def test_impossible_voxels_are_refused(tank, tank_plan, voxels):
    with pytest.raises(ValueError, match="voxels must"):
        PencilBeamEngine().influence(tank, tank_plan, tank.grid, voxels=np.array(voxels))


@pytest.mark.parametrize("cutoff", [0.0, -0.1, 0.5, np.nan])
def test_a_senseless_cut_off_is_refused(cutoff):
    with pytest.raises(ValueError, match="lateral_cutoff"):
        PencilBeamEngine(lateral_cutoff=cutoff)


def test_a_range_shifter_without_a_place_is_refused(tank, machine, one_beam):
    plan = one_beam(50, 0.0, 0.0, range_shifter=machine.range_shifters[0].name)
    with pytest.raises(ValueError, match="shifter_exit_mm"):
        PencilBeamEngine().dose(tank, plan, tank.grid)


def test_too_many_spots_in_a_beam_are_refused(tank, machine, one_beam):
    u, v = np.meshgrid(np.arange(300.0), np.arange(300.0))
    with pytest.raises(ValueError, match="90000 spots, more than 65527"):
        PencilBeamEngine().influence(tank, one_beam(50, u, v), tank.grid)


def test_a_second_gaussian_is_left_out_with_a_warning(tank, tank_plan, machine):
    nothing = np.zeros(len(machine.energy_mev))
    second = SecondGaussian(nothing + 0.05, nothing + 400.0, nothing, nothing + 1e-5)
    grid, engine = tank.grid.resampled(6.0), PencilBeamEngine()
    plain = engine.dose(tank, tank_plan, grid)["dose"]
    wide = replace(tank_plan, machine=replace(machine, second_gaussian=second))
    with pytest.warns(PhysicsWarning, match="second_gaussian of generic_proton is left out"):
        assert np.array_equal(engine.dose(tank, wide, grid)["dose"], plain)
    without = replace(second, weight=nothing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.dose(tank, replace(wide, machine=replace(machine, second_gaussian=without)), grid)


def test_two_virtual_sources_are_taken_as_one_with_a_warning(tank, tank_plan, machine):
    mean = machine.virtual_source_mm
    two = replace(machine, virtual_sources_mm=(mean + 100.0, mean - 100.0))
    with pytest.warns(PhysicsWarning, match=f"one source at {mean:g} mm"):
        PencilBeamEngine().dose(tank, replace(tank_plan, machine=two), tank.grid.resampled(6.0))


def test_an_aperture_is_refused(tank, tank_plan):
    block = Aperture(((-20.0, -20.0), (20.0, -20.0), (0.0, 20.0)), exit_mm=-100.0)
    beams = (replace(tank_plan.beams[0], aperture=block), tank_plan.beams[1])
    with pytest.raises(ValueError, match="cannot treat an aperture"):
        PencilBeamEngine().dose(tank, replace(tank_plan, beams=beams), tank.grid.resampled(6.0))
