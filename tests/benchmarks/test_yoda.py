"""The deterministic engine: one spot in the paper's tank and in a head, matrix, adjoint.

Burlacu et al. 2024: 2 s for a spot of 61 beamlets on a server, one head or tank alike. Times of a
spot are whole calls of ``dose``, then without the CT's conversion, which a plan needs once.
"""

import numpy as np
import pytest

from engine.dose.yoda.adjoint import dose_adjoint, mean_dose_weights
from engine.dose.yoda.engine import YodaEngine
from engine.geometry.plan import Beam
from engine.geometry.scenarios import NOMINAL
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.geometry.spots import SpotSettings, place_spots
from engine.io.openkbp import read_patient
from engine.machine.library import load_machine
from engine.machine.single_spots import SpotKind
from engine.patient.phantoms import half_slab_tank

N_SPOTS = 300  # of a plan's, evenly taken


def tank():
    patient = half_slab_tank(1000.0)
    start = (0.0, float(patient.grid.lower_mm[1]), 0.0)
    return patient, one_spot(SpotKind(100.0, 1.0, 3.0, 1e-8), start)


def head(path):
    """One spot of 125 MeV through the middle of the CT, from the front."""
    patient = read_patient(path)
    x, _, z = patient.grid.center_mm
    start = (float(x), float(patient.grid.lower_mm[1]), float(z))
    return patient, one_spot(SpotKind(125.0, 1.0, 3.0, 1e-8), start)


def one_spot(kind, start):
    return plan_of([SingleSpot(kind, start, (0.0, 1.0, 0.0), 1.0)], nuclear=False)


def plan_of_head(path):
    patient = read_patient(path)
    settings = SpotSettings(8.0, layer_spacing_mm=8.0)
    plan = place_spots(patient, load_machine("generic_proton"), [Beam(60.0), Beam(300.0)], settings)
    chosen = np.linspace(0, plan.n_spots - 1, N_SPOTS).astype(int)
    return patient, type(plan)(
        plan.machine, plan.beams, plan.spot_beam[chosen], plan.spot_energy[chosen],
        plan.u_mm[chosen], plan.v_mm[chosen], np.full(N_SPOTS, 1e6),
    )  # fmt: skip


def measure_spot(benchmark, report, patient, plan, engine, whole):
    setup = engine.setup(patient, plan, patient.grid, NOMINAL, engine.scheme)
    if whole:
        benchmark.pedantic(engine.dose, (patient, plan, patient.grid), rounds=20, warmup_rounds=1)
    else:
        benchmark.pedantic(setup.dose, (["dose"],), rounds=40, warmup_rounds=1)
    counts = engine.counted(patient, plan, patient.grid)[1]
    report(
        voxels=patient.grid.size, beamlets=counts.n_beamlets, solves=counts.n_solved,
        reused=counts.n_reused,
    )  # fmt: skip


@pytest.mark.parametrize("whole", (True, False), ids=("with the CT", "spot alone"))
@pytest.mark.parametrize("nuclear", (False, True), ids=("electromagnetic", "nuclear"))
def test_spot_in_the_half_slab_tank(benchmark, report, nuclear, whole):
    measure_spot(benchmark, report, *tank(), YodaEngine(nuclear=nuclear), whole)


@pytest.mark.parametrize("whole", (True, False), ids=("with the CT", "spot alone"))
@pytest.mark.parametrize("nuclear", (False, True), ids=("electromagnetic", "nuclear"))
def test_spot_in_a_head(benchmark, report, openkbp_pt_1, nuclear, whole):
    measure_spot(benchmark, report, *head(openkbp_pt_1), YodaEngine(nuclear=nuclear), whole)


def test_matrix_of_a_head_at_4_mm(benchmark, report, openkbp_pt_1):
    patient, plan = plan_of_head(openkbp_pt_1)
    grid, engine = patient.grid.resampled(4.0), YodaEngine()
    engine.influence(patient, plan, grid)
    found = benchmark.pedantic(engine.influence, (patient, plan, grid), rounds=3)
    report(
        spots=plan.n_spots, nonzeros=found.n_nonzeros,
        spots_per_s=plan.n_spots / benchmark.stats.stats.min,
    )  # fmt: skip


@pytest.mark.parametrize("part", ("adjoint", "one more CT"))
def test_adjoint_of_a_head(benchmark, report, openkbp_pt_1, part):
    patient, plan = plan_of_head(openkbp_pt_1)
    engine = YodaEngine(scheme="1+6+6+12", adaptive=False)
    target = next(s.mask for s in patient.structures.values() if s.role == "target")
    arguments = engine, patient, plan, patient.grid, mean_dose_weights(target)
    adjoint = dose_adjoint(*arguments)
    if part == "adjoint":
        benchmark.pedantic(dose_adjoint, arguments, rounds=1)
    else:
        adjoint.change(patient)
        benchmark.pedantic(adjoint.change, (patient,), rounds=20)
    report(spots=plan.n_spots, voxels=len(adjoint.voxels))
