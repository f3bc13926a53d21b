"""Arcs: angles, layers that stop in the target, what they cross, and the spots of a choice."""

import numpy as np
import pytest

from engine.geometry.arc import Arc, ArcSettings, arc_geometry, energy_ladder
from engine.geometry.coordinates import beam_frame
from engine.geometry.rays import radiological_depth
from engine.machine.library import load_machine
from engine.patient.ct import SchneiderCalibration, rsp_volume
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.phantoms import head_and_neck

MACHINE = load_machine("generic_proton")


def cylinder(organ_at=(0.0, -40.0)):
    """A water cylinder of 80 mm radius along z, a target of 20 mm in its middle, an organ."""
    grid = Grid.centered((20, 90, 90), (4.0, 2.0, 2.0))
    z, y, x = np.meshgrid(*grid.axes_mm(), indexing="ij")
    radius = np.hypot(x, y)
    masks = {
        "External": (radius <= 80.0, "external"),
        "CTV": ((radius <= 20.0) & (np.abs(z) <= 20.0), "target"),
        "Organ": (np.hypot(x - organ_at[0], y - organ_at[1]) <= 10.0, "organ"),
    }
    structures = {
        n: Structure(n, m, role, "water" if n == "External" else None)
        for n, (m, role) in masks.items()
    }
    hu = np.where(radius <= 80.0, 0.0, -1000.0).astype(np.float32)
    return Patient("cylinder", grid, hu, structures, {"CTV": 60.0}, 30)


@pytest.fixture(scope="module")
def arc():
    return arc_geometry(cylinder(), MACHINE, Arc(36))


def test_a_full_circle_does_not_repeat_its_first_angle():
    angles = Arc(8, start_deg=10.0).angles_deg
    np.testing.assert_allclose(angles, 10.0 + 45.0 * np.arange(8))


def test_a_partial_arc_ends_at_its_end():
    angles = Arc(5, start_deg=300.0, span_deg=120.0).angles_deg
    np.testing.assert_allclose(angles, [300, 330, 0, 30, 60])
    assert Arc.stepped(30.0, start_deg=300.0, span_deg=120.0) == Arc(5, 300.0, 120.0)


def test_the_other_direction_runs_backwards():
    one, other = Arc(12), Arc(12, direction="counterclockwise")
    np.testing.assert_allclose(other.angles_deg, (-one.angles_deg) % 360.0)


@pytest.mark.parametrize("settings", [
    {"n_angles": 0}, {"n_angles": 2.5}, {"span_deg": 0.0}, {"span_deg": 400.0},
    {"start_deg": np.nan}, {"direction": "up"},
])  # fmt: skip
def test_arcs_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Arc(**settings)


def test_a_step_must_divide_the_span():
    assert Arc.stepped(2.0).n_angles == 180
    with pytest.raises(ValueError, match="step_deg=7"):
        Arc.stepped(7.0)


@pytest.mark.parametrize("settings", [
    {"n_layers": 0}, {"n_layers": 103}, {"spot_spacing_mm": 0.0}, {"layer_spacing_mm": -1.0},
    {"lateral_margin_mm": -1.0}, {"n_points": 0},
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ArcSettings(**settings)


def test_depths_are_those_of_the_cylinder_from_every_angle(arc):
    """The target lies from 60 to 100 mm of water in the middle; rays off the axis meet less."""
    assert np.all(np.abs(arc.wed_mm[:, 1] - 100.0) < 3.0)
    assert np.all((arc.wed_mm[:, 0] > 54.0) & (arc.wed_mm[:, 0] < 62.0))


def test_layers_that_stop_in_the_target_are_those_between_its_depths(arc):
    for angle in range(arc.n_angles):
        low, high = arc.wed_mm[angle]
        inside = (arc.range_mm > low + 3) & (arc.range_mm < high - 3)
        outside = (arc.range_mm < low - 3) | (arc.range_mm > high + 3)
        assert arc.valid[angle][inside].all()
        assert not arc.valid[angle][outside].any()


def test_the_middle_layer_has_most_spots(arc):
    """Half-way through, the cylinder is 40 mm wide and 40 mm long: about 9 × 9 spots at 5 mm."""
    counts = arc.counts()
    best = counts.argmax(axis=1)
    assert np.all(np.abs(arc.range_mm[best] - 80.0) < 12.0)
    assert np.all((counts.max(axis=1) >= 56) & (counts.max(axis=1) <= 90))


def test_margin_spots_are_placed_but_not_counted(arc):
    valid = arc.valid
    assert np.all(arc.n_spots[valid] > arc.counts()[valid])
    assert np.all(arc.n_spots[~valid] == 0)
    bare = arc_geometry(cylinder(), MACHINE, Arc(4), ArcSettings(lateral_margin_mm=0.0))
    np.testing.assert_array_equal(bare.n_spots, bare.counts())


def test_only_rays_through_the_organ_miss_it_in_the_difference(arc):
    """The organ lies at the patient's front: gantry 0 crosses it, gantry 180 does not reach it."""
    target, spared = arc.counts(), arc.counts(without=["Organ"])
    lost = (target - spared).sum(axis=1) / target.sum(axis=1)
    front, back = 0, 18
    assert lost[front] > 0.3
    assert lost[back] == 0.0
    np.testing.assert_array_equal(
        target - spared, arc.counts(structures=["Organ"]), "M_T − M_(T−O) is M_(T and O)"
    )


def test_unknown_structures_are_named(arc):
    with pytest.raises(KeyError, match="Liver"):
        arc.counts(without=["Liver"])


def test_point_depths_are_those_of_exact_rays():
    patient = head_and_neck(3, spacing_mm=4.0)
    arc = arc_geometry(patient, MACHINE, Arc(5), ArcSettings(n_points=200))
    voxels = np.flatnonzero(patient.target_union())
    sampled = voxels[:: -(-len(voxels) // 200)].astype(np.uint32)
    rsp = rsp_volume(patient, SchneiderCalibration())
    for g in (0, 2):
        frame = beam_frame(arc.beams[g], MACHINE.virtual_source_mm)
        depth = radiological_depth(rsp, patient.grid, frame, sampled)
        assert np.median(np.abs(arc.coverage.depth_mm[g] - depth)) < 1.0
        assert np.mean(np.abs(arc.coverage.depth_mm[g] - depth) < 4.0) > 0.9


def test_a_point_is_reached_by_the_layer_of_its_depth(arc):
    cover = arc.coverage
    point = 17
    for g in (0, 9):
        layer = int(np.abs(cover.range_mm - cover.depth_mm[g, point]).argmin())
        assert cover.reached(g, layer)[point]
        assert not cover.reached(g, layer + 20)[point]


def test_coverage_grows_with_every_layer_and_ends_at_one(arc):
    choice = np.full((arc.n_angles, 1), -1, np.int16)
    assert arc.coverage.value(choice) == 0.0
    values = []
    for g in range(arc.n_angles):
        choice[g, 0] = arc.counts()[g].argmax() + 8 * (g % 3 - 1)
        values.append(arc.coverage.value(choice))
    assert np.all(np.diff(values) >= 0)
    assert 0.5 < values[-1] <= 1.0
    assert arc.coverage.value(choice, scale=2.0) == 0.0


def test_a_plan_holds_the_spots_of_the_chosen_layers(arc):
    choice = np.full((arc.n_angles, 2), -1, np.int16)
    choice[0], choice[7, 0] = (20, 25), 22
    plan = arc.plan(choice)
    assert plan.n_spots == arc.n_spots[0, 20] + arc.n_spots[0, 25] + arc.n_spots[7, 22]
    assert set(plan.spot_beam) == {0, 7}
    first = plan.spot_energy[plan.spot_beam == 0]
    assert np.all(np.diff(first.astype(int)) <= 0), "energies fall within a beam"
    starts = plan.layer_starts()
    for a, b in zip(starts, starts[1:]):
        assert np.all(np.lexsort((plan.u_mm[a:b], plan.v_mm[a:b])) == np.arange(b - a))
    chosen = arc.chosen(choice)
    np.testing.assert_array_equal(arc.plan(chosen).u_mm, plan.u_mm)


@pytest.mark.parametrize("choice", [
    np.full(36, 102), np.full(35, 20), np.full((36, 102), True)[:, :50], np.full(36, -2),
])  # fmt: skip
def test_choices_that_do_not_fit_are_refused(arc, choice):
    with pytest.raises(ValueError, match="choice"):
        arc.plan(choice)


def test_a_choice_without_a_spot_is_refused(arc):
    with pytest.raises(ValueError, match="no layer that reaches"):
        arc.plan(np.full(36, 101))


def test_an_empty_target_is_refused():
    patient = cylinder()
    empty = Structure("CTV", np.zeros(patient.grid.shape, bool), "target")
    with pytest.raises(ValueError, match="no voxels"):
        arc_geometry(patient.with_structures(empty), MACHINE, Arc(4))


def test_an_arc_that_no_layer_serves_is_refused():
    with pytest.raises(ValueError, match="stops in the target from any"):
        arc_geometry(cylinder(), MACHINE, Arc(4), ArcSettings(n_layers=3))


def test_a_range_shifter_brings_shallow_targets_within_reach():
    bare = arc_geometry(cylinder(), MACHINE, Arc(4), ArcSettings(n_layers=60))
    shifted = arc_geometry(
        cylinder(), MACHINE, Arc(4), ArcSettings(n_layers=60, range_shifter="rs40")
    )
    np.testing.assert_allclose(shifted.range_mm, bare.range_mm - 40.0)
    skin = [b.shifter_exit_mm + shifted.settings.air_gap_mm for b in shifted.beams]
    np.testing.assert_allclose(skin, -80.0, atol=4.0)


def test_ladders_are_spaced_as_asked():
    assert len(energy_ladder(MACHINE)) == 102
    ranges = MACHINE.range_mm[energy_ladder(MACHINE, spacing_mm=5.0)]
    assert np.all(np.abs(np.diff(ranges) - 5.0) < 2.6)


def test_one_pass_gives_the_same_on_any_number_of_threads(monkeypatch):
    import engine.parallel as parallel

    found = []
    for n in (1, 2):
        monkeypatch.setattr(parallel, "_threads", n)
        found.append(arc_geometry(cylinder(), MACHINE, Arc(12)))
    np.testing.assert_array_equal(found[0].meets, found[1].meets)
    np.testing.assert_array_equal(found[0].coverage.depth_mm, found[1].coverage.depth_mm)
