"""Rows traced once: the same matrix as the engine's, in every scenario."""

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.pencil_beam.traced import trace_rows
from engine.geometry.plan import Beam
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.patient.grid import Grid
from engine.patient.phantoms import water_tank

MACHINE = load_machine("generic_proton")
ENGINE = PencilBeamEngine(lateral_cutoff=0.01)


@pytest.fixture(scope="module")
def setting():
    patient = water_tank(spacing_mm=4.0)
    beams = [Beam(0.0), Beam(70.0)]
    plan = place_spots(patient, MACHINE, beams, SpotSettings(spot_spacing_mm=12.0))
    grid = patient.grid.cropped(patient.target_union(), 20.0)[0]
    voxels = np.arange(0, grid.size, 3, dtype=np.uint32)
    return patient, plan, grid, voxels, trace_rows(
        ENGINE, patient, MACHINE, plan.beams, grid, voxels
    )  # fmt: skip


def dose_of(setting, scenario):
    patient, plan, grid, voxels, traced = setting
    weights = np.random.default_rng(0).uniform(1e6, 2e6, plan.n_spots)
    exact = ENGINE.influence(patient, plan, grid, scenario, voxels=voxels).dose(weights)
    return exact, traced.influence(plan, scenario).dose(weights)


@pytest.mark.parametrize("scale", [1.0, 1.035, 0.965])
def test_range_errors_are_the_engine_s(setting, scale):
    exact, traced = dose_of(setting, Scenario(density_scale=scale))
    assert exact.max() > 0
    np.testing.assert_allclose(traced, exact, atol=2e-4 * exact.max())


@pytest.mark.parametrize("shift", [(3.0, 0, 0), (0, -3.0, 0), (0, 0, 3.0)])
def test_shifts_in_water_are_the_engine_s(setting, shift):
    """A ray turned by 3 mm in 2 m: a tenth of a millimeter sideways at most."""
    exact, traced = dose_of(setting, Scenario(shift))
    np.testing.assert_allclose(traced, exact, atol=0.01 * exact.max())
    assert np.abs(exact - dose_of(setting, NOMINAL)[0]).max() > 0.05 * exact.max()


def test_scenarios_stack_in_their_order(setting):
    *_, plan, _, voxels, traced = setting
    scenarios = [NOMINAL, Scenario((0, 3.0, 0)), Scenario(density_scale=0.965)]
    weights = np.ones(plan.n_spots)
    stacked = traced.stacked(plan, scenarios)
    apart = [traced.influence(plan, s).dose(weights) for s in scenarios]
    assert stacked.n_rows == 3 * len(voxels)
    np.testing.assert_array_equal(stacked.dose(weights), np.concatenate(apart))


def test_some_rows_give_some_rows(setting):
    *_, plan, _, _, traced = setting
    chosen = np.arange(1, traced.n_rows, 5)
    weights = np.ones(plan.n_spots)
    few = traced.rows(chosen).influence(plan).dose(weights)
    np.testing.assert_array_equal(few, traced.influence(plan).dose(weights)[chosen])


def test_what_was_not_traced_is_refused(setting):
    patient, plan, _, _, traced = setting
    other = place_spots(patient, MACHINE, [Beam(10.0)], SpotSettings(spot_spacing_mm=20.0))
    with pytest.raises(ValueError, match="were not traced"):
        traced.influence(other)
    with pytest.raises(ValueError, match="beyond 10 mm"):
        traced.influence(plan, Scenario((12.0, 0, 0)))
    with pytest.raises(ValueError, match="image"):
        traced.influence(plan, Scenario(image="CBCT"))
    with pytest.raises(ValueError, match="scenarios is empty"):
        traced.stacked(plan, [])


def test_nothing_to_trace_is_refused(setting):
    patient, plan, _, voxels, _ = setting
    with pytest.raises(ValueError, match="beams"):
        trace_rows(ENGINE, patient, MACHINE, [], Grid.centered((3, 3, 3), (5, 5, 5)), voxels[:3])
