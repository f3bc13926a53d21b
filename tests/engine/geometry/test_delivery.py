"""Delivery times: tables, parts of the total, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from engine.geometry.delivery import DeliveryModel, SwitchingTable
from engine.geometry.plan import Beam, Plan
from engine.machine.library import load_machine

MACHINE = load_machine("generic_proton")
ENERGIES = [100.0, 110.0, 125.0]


def plan_of(layers, weight=1e7):
    """One spot line of three spots, 5 mm apart, per (beam, energy index)."""
    beams = tuple(Beam(5.0 * i, (0, 0, 0)) for i in range(1 + max(b for b, _ in layers)))
    n = len(layers)
    return Plan(
        MACHINE, beams, np.repeat([b for b, _ in layers], 3).astype(np.uint16),
        np.repeat([e for _, e in layers], 3).astype(np.uint16),
        np.tile([0.0, 5.0, 10.0], n).astype(np.float32), np.zeros(3 * n, np.float32),
        np.full(3 * n, weight),
    )  # fmt: skip


def test_up_is_slow_down_is_faster_unchanged_is_free():
    table = SwitchingTable.flat(ENERGIES)
    assert table.between(100.0, 110.0) == 5.5
    assert table.between(125.0, 100.0) == 0.6
    assert table.between(110.0, 110.0) == 0.0


def test_a_linear_term_grows_with_the_distance():
    table = SwitchingTable.linear(ENERGIES, 5.0, 0.5, 0.1)
    assert table.between(100.0, 125.0) == pytest.approx(7.5)
    assert table.between(125.0, 110.0) == pytest.approx(2.0)


def test_a_synchrotron_is_as_fast_both_ways():
    table = SwitchingTable.synchrotron(ENERGIES)
    np.testing.assert_array_equal(table.seconds, table.seconds.T)
    assert table.between(100.0, 125.0) == 1.91


def test_the_machine_s_own_times_are_the_default():
    table = SwitchingTable.of_machine(MACHINE, [3, 7])
    assert table.seconds[0, 1] == MACHINE.switch_up_s
    assert table.seconds[1, 0] == MACHINE.switch_down_s


@pytest.mark.parametrize("seconds, match", [
    (np.zeros((2, 3)), "shape"), (np.zeros((2, 2)), "3 energies"),
    (np.where(np.eye(3) > 0, 0.0, -1.0), "0 or more"), (np.ones((3, 3)), "diagonal"),
    (np.where(np.eye(3) > 0, 0.0, np.nan), "finite"),
])  # fmt: skip
def test_tables_that_cannot_be_are_refused(seconds, match):
    with pytest.raises(ValueError, match=match):
        SwitchingTable(np.array(ENERGIES), seconds)


def test_energies_that_the_table_lacks_are_named():
    with pytest.raises(ValueError, match=r"117\.0 MeV is not in"):
        SwitchingTable.flat(ENERGIES).between(117.0, 100.0)


def test_rotation_takes_the_short_way():
    model = DeliveryModel(gantry_deg_per_s=5.0)
    np.testing.assert_allclose(model.gantry_s([350.0, 0.0, 5.0, 355.0]), [0, 2, 1, 2])


def test_a_dynamic_arc_takes_the_longer_of_motion_and_beam():
    """Three angles: a layer that is set, one above it, one below."""
    plan = plan_of([(0, 10), (1, 20), (2, 15)])
    model = DeliveryModel()
    time = model.time(plan)
    assert (time.n_up, time.n_down, time.n_unchanged) == (1, 1, 0)
    np.testing.assert_allclose(time.switching_s, [0.0, 5.5, 0.6])
    dwell, travel = 3 * 1e7 / model.particles_per_s, 3 * model.settling_s
    np.testing.assert_allclose(time.beam_on_s, dwell + travel)
    busy = time.switching_s + time.beam_on_s
    assert time.total_s == pytest.approx(np.maximum(busy, [0.0, 5 / 6, 5 / 6]).sum())
    static = replace(model, delivery="static").time(plan)
    assert static.total_s == pytest.approx(busy.sum() + 2 * 5 / 6)


def test_unchanged_energies_cost_nothing():
    time = DeliveryModel().time(plan_of([(0, 10), (1, 10), (2, 10)]))
    assert (time.n_up, time.n_down, time.n_unchanged) == (0, 0, 2)
    assert time.switching_s.sum() == 0.0


def test_layers_without_weight_are_not_delivered():
    plan = plan_of([(0, 20), (0, 10), (1, 20)])
    weights = plan.weights.copy()
    weights[3:6] = 0.0
    assert DeliveryModel().time(plan.with_weights(weights)).n_unchanged == 1


def test_light_spots_take_the_least_dwell():
    time = DeliveryModel().time(plan_of([(0, 10)], weight=1.0))
    assert time.dwell_s.sum() == pytest.approx(3 * 250e-6)


def test_distant_spots_take_the_scanner_s_time():
    plan = plan_of([(0, 10)])
    far = replace(plan, u_mm=np.array([0.0, 80.0, 160.0], np.float32))
    assert DeliveryModel().time(far).travel_s.sum() == pytest.approx(0.003 + 2 * 0.01)


def test_unknown_weights_are_taken_as_nominal():
    model = DeliveryModel()
    time = model.time(plan_of([(0, 10)], weight=model.spot_weight))
    assert model.beam_on_s(np.array([3]))[0] == pytest.approx(time.beam_on_s.sum())


@pytest.mark.parametrize("settings", [
    {"gantry_deg_per_s": 0.0}, {"scan_mm_per_s": -1.0}, {"settling_s": -1.0},
    {"delivery": "sliding"}, {"particles_per_s": np.inf},
])  # fmt: skip
def test_models_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DeliveryModel(**settings)


def test_carbon_ions_come_slower_than_protons():
    from engine.machine.library import load_machine

    protons = DeliveryModel.of_machine(load_machine("generic_proton"))
    assert protons == DeliveryModel()
    carbon = DeliveryModel.of_machine(load_machine("generic_carbon"), gantry_deg_per_s=3.0)
    assert carbon.particles_per_s < 0.01 * protons.particles_per_s
    assert carbon.gantry_deg_per_s == 3.0
    assert carbon.beam_on_s(np.array([100])) > protons.beam_on_s(np.array([100]))
