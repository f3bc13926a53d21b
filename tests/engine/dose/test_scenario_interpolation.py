"""Interpolated scenario doses against those that the engine computes, in water."""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.influence import RowPenalty
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.scenario_interpolation import (
    InterpolatedScenarios,
    MappedInfluence,
    interpolated_scenarios,
    with_auxiliary_spots,
)
from engine.errors import PhysicsWarning
from engine.geometry.plan import Aperture, Beam, Plan
from engine.geometry.scenarios import NOMINAL, Scenario, setup_and_range
from engine.geometry.spots import SpotSettings, place_spots
from engine.patient.phantoms import water_tank

SCENARIOS = setup_and_range()
ENGINE = PencilBeamEngine()


@pytest.fixture(scope="module")
def tank():
    return water_tank(160.0, spacing_mm=4.0, target_size_mm=28.0)


@pytest.fixture(scope="module")
def plan(tank, machine):
    """Two oblique fields over the target, deterministic weights that differ from spot to spot."""
    beams = [Beam(20.0), Beam(290.0, couch_deg=15.0, range_shifter="rs40")]
    placed = place_spots(tank, machine, beams, SpotSettings(layer_spacing_mm=5.0))
    smooth = 1.5 + np.sin(0.2 * placed.u_mm) * np.cos(0.15 * placed.v_mm)
    return placed.with_weights(1e7 * smooth)


@pytest.fixture(scope="module")
def accurate(tank, plan):
    """Doses (S, n_rows) that the engine computes in every scenario."""
    return np.stack([
        ENGINE.influence(tank, plan, tank.grid, scenario) @ plan.weights for scenario in SCENARIOS
    ])  # fmt: skip


@pytest.fixture(scope="module")
def approximate(tank, plan):
    return interpolated_scenarios(ENGINE, tank, plan, tank.grid, SCENARIOS, spot_gap_mm=3.0)


def errors(found, wanted):
    """Root mean square and largest difference over the largest nominal dose, (S,) each."""
    difference = (found - wanted) / wanted[0].max()
    high = wanted[0] > 0.5 * wanted[0].max()
    return np.sqrt((difference[:, high] ** 2).mean(axis=1)), abs(difference).max(axis=1)


def test_scenario_doses_in_water_are_those_of_the_engine_within_a_percent(
    plan, accurate, approximate
):
    mean, largest = errors(approximate.dose(plan.weights), accurate)
    assert np.all(mean < 0.01) and np.all(largest < 0.03)
    # while the errors themselves matter
    moved, _ = errors(np.broadcast_to(accurate[0], accurate.shape), accurate)
    assert np.all(mean[1:] < 0.2 * moved[1:])


def test_the_nominal_scenario_is_exact(plan, accurate, approximate):
    nominal = approximate.dose(plan.weights)[0]
    # but for entries beyond the lateral cutoff: chunks of eight spots are kept as a whole
    np.testing.assert_allclose(nominal, accurate[0], rtol=0, atol=2e-3 * accurate[0].max())
    assert np.sqrt(np.mean((nominal - accurate[0]) ** 2)) < 2e-4 * accurate[0].max()
    assert approximate.maps[0].nnz == plan.n_spots
    np.testing.assert_array_equal(approximate.maps[0].data, 1.0)


def test_a_finer_raster_is_closer(tank, plan, accurate, approximate):
    coarse = interpolated_scenarios(ENGINE, tank, plan, tank.grid, SCENARIOS)
    assert coarse.extended.n_spots < approximate.extended.n_spots
    far, _ = errors(coarse.dose(plan.weights), accurate)
    near, _ = errors(approximate.dose(plan.weights), accurate)
    assert np.all(near[3:] < 0.6 * far[3:]) and np.all(far < 0.03)


def test_density_errors_want_the_neighbours_to_deposit_as_much(plan, accurate, approximate):
    found = approximate.dose(plan.weights).sum(axis=1)
    np.testing.assert_allclose(found[1:3], accurate[1:3].sum(axis=1), rtol=3e-3)
    # R ∝ E^1.77: c times the density leaves c^(0.565 − 1) of the dose, in front of a shifter too
    for s in (1, 2):
        shares = approximate.maps[s].sum(axis=0)[: plan.beam_slice(0).stop]
        wanted = SCENARIOS[s].density_scale ** (1 / 1.77 - 1)
        np.testing.assert_allclose(shares, wanted, rtol=3e-3)


def test_shares_of_a_moved_spot_are_linear_interpolation(plan):
    extended, maps = with_auxiliary_spots(plan, SCENARIOS)
    for scenario, spread in zip(SCENARIOS[3:], maps[3:]):
        np.testing.assert_allclose(spread.sum(axis=0), 1.0, rtol=1e-5)
        assert spread.data.min() > 0.0 and np.diff(spread.tocsc().indptr).max() <= 4
        # the mean position of the neighbours is where the spot lies in the patient
        at = plan.beam_slice(0)
        u, v = (a @ spread for a in (extended.u_mm, extended.v_mm))
        g = np.deg2rad(20.0)
        du = scenario.shift_mm @ np.array([np.cos(g), np.sin(g), 0.0])
        np.testing.assert_allclose(u[at], plan.u_mm[at] + du, atol=0.02)
        np.testing.assert_allclose(v[at], plan.v_mm[at] + scenario.shift_mm[2], atol=0.02)


def test_auxiliary_spots_extend_the_plan_and_weigh_nothing(plan):
    extended, maps = with_auxiliary_spots(plan, SCENARIOS)
    assert extended.n_spots > plan.n_spots and not extended.weights.any()
    column = maps[0].tocsc().indices
    for name in ("spot_beam", "spot_energy", "u_mm", "v_mm"):
        np.testing.assert_array_equal(getattr(extended, name)[column], getattr(plan, name))
    assert set(extended.spot_energy) > set(plan.spot_energy)


def test_nominal_layers_are_neighbours_when_near_enough(plan):
    by_ladder, _ = with_auxiliary_spots(plan, SCENARIOS)
    by_layers, _ = with_auxiliary_spots(plan, SCENARIOS, layer_gap_mm=6.0)
    for beam in (0, 1):
        own = plan.spot_energy[plan.beam_slice(beam)]
        ladder, layers = (
            {e for e in p.spot_energy[p.beam_slice(beam)] if own.min() < e < own.max()}
            for p in (by_ladder, by_layers)
        )
        assert layers < ladder and layers <= set(own)


def test_errors_of_set_up_and_density_combine(tank, plan):
    both = Scenario((2.0, -1.0, 1.5), 0.97)
    doses = interpolated_scenarios(ENGINE, tank, plan, tank.grid, [NOMINAL, both], spot_gap_mm=3.0)
    wanted = ENGINE.influence(tank, plan, tank.grid, both) @ plan.weights
    found = doses.dose(plan.weights)[1]
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.01 * wanted.max()
    assert abs(found - wanted).max() < 0.03 * wanted.max()


def test_products_and_penalties_are_transposed_and_agree(plan, approximate):
    random = np.random.default_rng(0)
    slope = random.standard_normal((len(SCENARIOS), approximate.n_rows)).astype(np.float32)
    dose, back = approximate.dose(plan.weights), approximate.adjoint(slope)
    forth = float((dose.astype(np.float64) * slope).sum())
    assert back @ plan.weights == pytest.approx(forth, rel=1e-3)
    rows = a_penalty(approximate.n_rows, dose.max())
    values, gradients = approximate.penalties(plan.weights, rows)
    for s, scenario in enumerate(approximate.scenarios):
        value, gradient = scenario.penalty(plan.weights, rows)
        assert values[s] == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(gradients[s], gradient, rtol=1e-4, atol=1e-5 * gradient.max())


def a_penalty(n_rows, top):
    return RowPenalty(
        np.arange(n_rows + 1), np.full(n_rows, 0.5 * top), np.ones(n_rows),
        np.where(np.arange(n_rows) % 2, 1.0, -1.0),
    )  # fmt: skip


def test_a_mapped_matrix_answers_like_an_influence_matrix(plan, accurate, approximate):
    nominal = approximate.nominal
    assert (nominal.n_spots, nominal.n_beams) == (plan.n_spots, 2)
    some = np.flatnonzero(accurate[0] > 0.5 * accurate[0].max())
    np.testing.assert_array_equal(nominal.rows(some) @ plan.weights, (nominal @ plan.weights)[some])
    beams = [nominal.dose(plan.weights, beam=b) for b in (0, 1)]
    np.testing.assert_allclose(sum(beams), nominal @ plan.weights, rtol=1e-4, atol=1e-8)
    first = nominal.adjoint(np.ones(nominal.n_rows), beam=0)
    assert not first[plan.beam_slice(1)].any() and first[plan.beam_slice(0)].all()


def test_plans_without_a_raster_are_interpolated_on_one_of_their_own(tank, plan, accurate):
    random = np.random.default_rng(0)
    first = plan.part(0, 1)
    shaken = replace(
        first, u_mm=(first.u_mm + random.uniform(-1.0, 1.0, first.n_spots)).astype(np.float32),
        v_mm=(first.v_mm + random.uniform(-1.0, 1.0, first.n_spots)).astype(np.float32),
    )  # fmt: skip
    order = np.lexsort((shaken.u_mm, shaken.v_mm, -shaken.spot_energy.astype(int)))
    shaken = replace(
        shaken, u_mm=shaken.u_mm[order], v_mm=shaken.v_mm[order], weights=shaken.weights[order]
    )
    doses = interpolated_scenarios(ENGINE, tank, shaken, tank.grid, SCENARIOS, spot_gap_mm=3.0)
    wanted = np.stack([
        ENGINE.influence(tank, shaken, tank.grid, s) @ shaken.weights for s in SCENARIOS
    ])  # fmt: skip
    mean, largest = errors(doses.dose(shaken.weights), wanted)
    assert mean[0] < 2e-4 and np.all(mean < 0.015) and np.all(largest < 0.04)


def test_one_spot_and_beams_without_spots_do(one_beam):
    plan = one_beam(60, 0.0, 0.0)
    empty = replace(plan, beams=(plan.beams[0], *plan.beams, plan.beams[0]),
                    spot_beam=np.ones(1, np.uint16))  # fmt: skip
    extended, maps = with_auxiliary_spots(empty, SCENARIOS)
    assert set(extended.spot_beam) == {1} and extended.n_spots > 1
    assert all(np.all(m.sum(axis=0) > 0.9) for m in maps)


def test_ranges_beyond_the_machine_are_its_last_energy_with_a_warning(one_beam, machine):
    plan = one_beam(len(machine.energy_mev) - 1, 0.0, 0.0)
    light = [NOMINAL, Scenario(density_scale=0.965)]
    with pytest.warns(PhysicsWarning, match="beyond the energies of generic_proton"):
        extended, _ = with_auxiliary_spots(plan, light)
    assert extended.spot_energy.max() == len(machine.energy_mev) - 1


def test_interpolation_leaves_the_plan_as_it_was(plan):
    before = [a.copy() for a in (plan.u_mm, plan.v_mm, plan.spot_energy, plan.weights)]
    with_auxiliary_spots(plan, SCENARIOS, 3.0, 3.0)
    for kept, now in zip(before, (plan.u_mm, plan.v_mm, plan.spot_energy, plan.weights)):
        np.testing.assert_array_equal(kept, now)


def test_what_cannot_be_interpolated_is_refused(plan, one_beam, approximate):
    with pytest.raises(ValueError, match="begin with the nominal"):
        with_auxiliary_spots(plan, SCENARIOS[1:])
    with pytest.raises(ValueError, match="images"):
        with_auxiliary_spots(plan, [NOMINAL, Scenario(image="second CT")])
    opening = ((-20.0, -20.0), (20.0, -20.0), (0.0, 20.0))
    blocked = one_beam(60, 0.0, 0.0, aperture=Aperture(opening, exit_mm=-100.0))
    with pytest.raises(ValueError, match="aperture"):
        with_auxiliary_spots(blocked, SCENARIOS)
    none = np.zeros(0)
    with pytest.raises(ValueError, match="no spots"):
        with_auxiliary_spots(Plan(plan.machine, plan.beams, none, none, none, none), SCENARIOS)
    for gaps in ({"spot_gap_mm": 0.1}, {"layer_gap_mm": np.nan}):
        with pytest.raises(ValueError, match="must be 0.5 mm or more"):
            with_auxiliary_spots(plan, SCENARIOS, **gaps)
    with pytest.raises(ValueError, match="spread has shape"):
        MappedInfluence(approximate.extended, approximate.maps[0][:, 1:], approximate.beam_starts)
    with pytest.raises(ValueError, match="maps is empty"):
        InterpolatedScenarios(approximate.extended, (), approximate.beam_starts)
    with pytest.raises(ValueError, match="weights have shape"):
        approximate.dose(plan.weights[1:])
