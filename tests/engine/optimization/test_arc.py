"""Arc plans: influence on the fly or kept, robust weights, layers chosen by their weight."""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.pencil_beam.traced import TracedRows, trace_rows
from engine.dose.quantities import RbeDose
from engine.geometry.arc import Arc, ArcSettings, arc_geometry
from engine.geometry.scenarios import setup_and_range
from engine.machine.library import load_machine
from engine.optimization.arc import (
    ArcPlanner,
    KeptLayers,
    RememberedLayers,
    TracedLayers,
    layers_in_order,
    thinned_layers,
)  # fmt: skip
from engine.optimization.head_and_neck import head_and_neck_fractions, head_and_neck_objectives
from engine.optimization.regions import regions_on
from engine.patient.phantom_nasopharynx import nasopharynx
from engine.patient.structures import on_grid

MACHINE = load_machine("generic_proton")
SETTINGS = ArcSettings(n_layers=14, layer_spacing_mm=8.0, spot_spacing_mm=9.0, n_points=100)


@pytest.fixture(scope="module")
def planner():
    patient = nasopharynx(2, spacing_mm=5.0)
    geometry = arc_geometry(patient, MACHINE, Arc(8), SETTINGS)
    grid = patient.grid.cropped(patient.target_union(), 15.0)[0].resampled(7.0)
    fraction, distance = head_and_neck_fractions(patient, on_grid(patient, grid), 10.0)
    objectives = head_and_neck_objectives(patient)
    inside = np.logical_or.reduce([fraction[o.structure] > 1e-3 for o in objectives])
    voxels = np.flatnonzero(inside).astype(np.uint32)
    engine = PencilBeamEngine(lateral_cutoff=0.05)
    traced = trace_rows(engine, patient, MACHINE, geometry.beams, grid, voxels)
    regions = regions_on(voxels, {n: f for n, f in fraction.items() if f.any()}, distance)
    source = TracedLayers(geometry, traced, setup_and_range())
    kept = tuple(o for o in objectives if o.structure in regions)
    return ArcPlanner(source, regions, kept, RbeDose(patient.n_fractions), evaluations=20)


def busiest(planner):
    """The layer of most spots at every angle, (G, E) bool."""
    counts = planner.source.geometry.counts()
    return np.eye(counts.shape[1], dtype=bool)[counts.argmax(axis=1)] & (counts > 0)


def test_only_the_chosen_layers_have_columns(planner):
    chosen = busiest(planner)
    matrix = planner.source.influences(chosen)
    assert matrix.n_spots == planner.source.geometry.n_spots[chosen].sum()
    assert matrix.n_rows == 9 * planner.source.n_rows
    starts = planner.source.layer_starts(chosen)
    angle, layer = layers_in_order(chosen)
    np.testing.assert_array_equal(np.diff(starts), planner.source.geometry.n_spots[angle, layer])


def test_kept_layers_are_the_traced_ones(planner):
    kept = KeptLayers.of(planner.source)
    chosen = busiest(planner)
    chosen[0, np.flatnonzero(planner.source.geometry.valid[0])[0]] = True
    a, b = planner.source.influences(chosen), kept.influences(chosen)
    weights = np.random.default_rng(0).uniform(1e6, 2e6, a.n_spots)
    np.testing.assert_allclose(b.dose(weights), a.dose(weights), rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(kept.layer_starts(chosen), planner.source.layer_starts(chosen))
    with pytest.raises(ValueError, match="do not reach"):
        kept.influences(~planner.source.geometry.valid)


def test_remembered_layers_are_the_traced_ones(planner):
    """Bit by bit, whether an angle's layers are new, remembered, or were forgotten."""
    valid = planner.source.geometry.valid
    rng = np.random.default_rng(3)
    for most_bytes in (2 * 10**9, 1):
        source = RememberedLayers(planner.source, most_bytes)
        for _ in range(3):
            chosen = valid & (rng.random(valid.shape) < 0.3)
            chosen[0] = False  # an angle without a layer
            found, wanted = source.influences(chosen), planner.source.influences(chosen)
            weights = rng.random(wanted.n_spots).astype(np.float32)
            np.testing.assert_array_equal(found @ weights, wanted @ weights)
            np.testing.assert_array_equal(
                source.layer_starts(chosen), planner.source.layer_starts(chosen)
            )
        kept = sum(part.nbytes for part in source.remembered.values())
        assert kept <= most_bytes and bool(kept) == (most_bytes > 1)
    with pytest.raises(ValueError, match="no layer"):
        source.influences(np.zeros_like(valid))


def test_what_is_remembered_is_not_computed_again(planner, monkeypatch):
    valid = planner.source.geometry.valid
    chosen = np.zeros_like(valid)
    chosen[np.arange(len(valid)), valid.argmax(axis=1)] = True
    chosen &= valid
    source = RememberedLayers(planner.source)
    source.influences(chosen)
    computed = []
    stacked = TracedRows.stacked
    monkeypatch.setattr(
        TracedRows, "stacked", lambda self, *of: computed.append(of) or stacked(self, *of)
    )
    source.influences(chosen)
    assert not computed
    angle = int(np.flatnonzero(chosen.any(axis=1))[0])
    chosen[angle] = False
    chosen[angle, np.flatnonzero(valid[angle])[-1]] = True
    source.influences(chosen)
    assert len(computed) == 1


def test_the_plan_s_worst_is_the_worst_of_its_scenarios(planner):
    plan = planner.optimize(busiest(planner))
    assert plan.values.shape == (9,)
    assert plan.dose_gy.shape == (9, planner.source.n_rows)
    assert plan.worst == plan.values.max() > 0
    assert np.all(plan.weights >= 0)
    assert plan.n_evaluations <= 20


def test_work_improves_the_worst_case(planner):
    chosen = busiest(planner)
    few, many = (planner.optimize(chosen, evaluations=n).worst for n in (4, 40))
    assert many < few


def test_layers_are_dropped_down_to_the_number_asked(planner):
    initial = thinned_layers(
        planner.source.geometry.valid, planner.source.geometry.range_mm, 8.0
    )
    nominal = replace(planner, source=replace(planner.source, scenarios=setup_and_range()[:1]))
    n_final = int(initial.any(axis=1).sum()) * 2
    told = []
    chosen = nominal.select_layers(initial, n_final, cycles=3, evaluations=6, tell=told.append)
    assert chosen.sum() == n_final
    assert np.all(initial[chosen])
    assert len(told) == 3


def test_chosen_layers_beat_as_many_at_random(planner):
    valid = planner.source.geometry.valid
    nominal = replace(planner, source=replace(planner.source, scenarios=setup_and_range()[:1]))
    chosen = nominal.select_layers(valid, 12, cycles=3, evaluations=10)
    rng, worst = np.random.default_rng(1), []
    for _ in range(3):
        drawn = np.zeros(valid.shape, bool)
        drawn.ravel()[rng.choice(np.flatnonzero(valid), 12, replace=False)] = True
        worst.append(planner.optimize(drawn).worst)
    assert planner.optimize(chosen).worst < np.mean(worst)


def test_the_plan_of_an_arc_is_one_of_ordinary_beams(planner):
    """A static arc can be handed to any dose engine as beams with layers."""
    chosen = busiest(planner)
    plan = planner.source.geometry.plan(chosen).with_weights(planner.optimize(chosen).weights)
    assert len(plan.beams) == 8
    starts = plan.layer_starts()
    assert len(starts) - 1 == chosen.sum()


def test_numbers_that_cannot_be_are_refused(planner):
    valid = planner.source.geometry.valid
    with pytest.raises(ValueError, match="n_final=0"):
        planner.select_layers(valid, 0)
    with pytest.raises(ValueError, match="n_final"):
        planner.select_layers(valid, int(valid.sum()) + 1)
    with pytest.raises(ValueError, match="cycles=0"):
        planner.select_layers(valid, 5, cycles=0)
    with pytest.raises(ValueError, match="no layer"):
        planner.optimize(np.zeros(valid.shape, bool))
