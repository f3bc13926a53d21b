"""Histories per second of the Monte Carlo engine, all reactions and the uncertainty's scoring on.

The best open code, MCsquare (Souris, Lee and Sterpin, Med. Phys. 43 (2016) 1700), was measured at
64 000 to 104 000 histories per second by build, at 100 MeV in a tank of 1 mm voxels on two cores.
Times are of whole doses: materials, tables, histories, flush.
"""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.geometry.plan import Beam, Plan
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.geometry.spots import place_spots
from engine.io.openkbp import read_patient
from engine.machine.library import load_machine
from engine.machine.single_spots import SpotKind
from engine.patient.phantoms import water_tank
from engine.physics.stopping_power import csda_range_mm

HISTORIES = 600_000
ENGINE = MonteCarloEngine(n_histories=HISTORIES)


def measure(benchmark, report, engine, patient, plan, grid):
    found = benchmark.pedantic(engine.simulate, (patient, plan, grid), rounds=5, warmup_rounds=1)
    report(
        voxels=grid.size, spots=plan.n_spots, histories_per_s=found.n_histories
        / benchmark.stats.stats.min, uncertainty_percent=found.uncertainty_percent,
    )  # fmt: skip


def pencil_in_tank(energy_mev: float):
    """A pencil of σ 3 mm in a tank of 1 mm voxels, 100 mm wide and as deep as the range needs."""
    depth_mm = float(np.ceil(1.15 * csda_range_mm(energy_mev) + 5.0))
    patient = water_tank((100.0, depth_mm, 100.0), 1.0, 20.0)
    entrance = (0.0, float(patient.grid.lower_mm[1]), 0.0)
    kind = SpotKind(energy_mev, 0.006 * energy_mev, 3.0, 0.003)
    return patient, plan_of([SingleSpot(kind, entrance, (0.0, 1.0, 0.0), 1.0)])


@pytest.mark.parametrize("energy_mev", [70.0, 100.0, 150.0, 230.0])
def test_pencil_in_a_tank_of_1_mm(benchmark, report, energy_mev):
    patient, plan = pencil_in_tank(energy_mev)
    measure(benchmark, report, ENGINE, patient, plan, patient.grid)


@pytest.mark.parametrize("without", ["nuclear reactions", "scattering"])
def test_pencil_of_100_mev_without(benchmark, report, without):
    off = {
        "nuclear reactions": dict(non_elastic=False, nuclear_elastic=False, proton_proton=False),
        "scattering": dict(scattering=False),
    }[without]
    patient, plan = pencil_in_tank(100.0)
    measure(benchmark, report, replace(ENGINE, **off), patient, plan, patient.grid)


def test_pencil_of_100_mev_on_one_thread(benchmark, report, with_threads):
    with_threads(1)
    patient, plan = pencil_in_tank(100.0)
    measure(benchmark, report, ENGINE, patient, plan, patient.grid)


def three_fields(path) -> tuple:
    """An OpenKBP patient, and three fields whose spots all have the same weight."""
    patient = read_patient(path)
    beams = [Beam(g) for g in (60.0, 180.0, 300.0)]
    plan = place_spots(patient, load_machine("generic_proton"), beams)
    return patient, plan.with_weights(np.full(plan.n_spots, 1e6))


@pytest.mark.parametrize("spacing_mm", [4.0, 2.0])
def test_three_fields_on_openkbp_pt_1(benchmark, report, openkbp_pt_1, spacing_mm):
    patient, plan = three_fields(openkbp_pt_1)
    measure(benchmark, report, ENGINE, patient, plan, patient.grid.resampled(spacing_mm))


def test_influence_matrix_of_one_field_on_openkbp_pt_1(benchmark, report, openkbp_pt_1):
    patient, plan = three_fields(openkbp_pt_1)
    field = _every_tenth(plan.part(0, 1))
    engine = MonteCarloEngine(histories_per_spot=1000)
    grid = patient.grid.resampled(4.0)
    matrix = benchmark.pedantic(engine.influence, (patient, field, grid), rounds=2)
    report(
        spots=field.n_spots, Mnnz=matrix.n_nonzeros / 1e6,
        histories_per_s=1000 * field.n_spots / benchmark.stats.stats.min,
    )  # fmt: skip


def _every_tenth(plan: Plan) -> Plan:
    few = slice(None, None, 10)
    return Plan(
        plan.machine, plan.beams, plan.spot_beam[few], plan.spot_energy[few], plan.u_mm[few],
        plan.v_mm[few], plan.weights[few],
    )  # fmt: skip
