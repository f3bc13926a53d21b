"""From the CT to a matrix that is ready for the solver: RSP, tracing, count, fill.

The best open Python planner took 3.2 s for 12.5 M nonzeros at 5 mm and 7.4 s for 57.7 M at 3 mm
on two cores, with a single Gaussian; here every spot has a halo and loses at most 0.5 %.
"""

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam
from engine.geometry.rays import radiological_depth
from engine.geometry.spots import place_spots
from engine.io.openkbp import read_patient
from engine.machine.library import load_machine
from engine.patient.ct import rsp_volume

DEFAULT_CUT, WIDE_CUT = 0.005, 0.10
NO_CUT = 1e-5


def lost_dose(patient, plan, grid, cut):
    """Mean and largest share of a spot's integral dose that a cut-off loses, of 300 spots."""
    few = np.sort(np.random.default_rng(0).choice(plan.n_spots, min(300, plan.n_spots), False))
    kept, whole = (
        _spot_integrals(PencilBeamEngine(lateral_cutoff=c).influence(patient, plan, grid))[few]
        for c in (cut, NO_CUT)
    )
    return np.mean(1 - kept / whole), np.max(1 - kept / whole)


def _spot_integrals(influence):
    return influence.adjoint(np.ones(influence.n_rows)).astype(float)


def measure(benchmark, report, patient, plan, grid, cut, rounds):
    engine = PencilBeamEngine(lateral_cutoff=cut)
    influence = benchmark.pedantic(
        engine.influence, (patient, plan, grid), rounds=rounds, warmup_rounds=1
    )
    mean, largest = lost_dose(patient, plan, grid, cut)
    millions = influence.n_nonzeros / 1e6
    report(
        voxels=grid.size, rows=influence.n_rows, spots=plan.n_spots, Mnnz=millions,
        Mnnz_per_s=millions / benchmark.stats.stats.min, cut_off=cut,
        lost_mean_percent=100 * mean, lost_max_percent=100 * largest,
        bytes_per_nnz=influence.nbytes / influence.n_nonzeros,
    )  # fmt: skip


@pytest.mark.parametrize("cut", [DEFAULT_CUT, WIDE_CUT])
@pytest.mark.parametrize("gantry_deg", [(90, 270), (45, 315)])
@pytest.mark.parametrize("spacing_mm", [5.0, 3.0])
def test_c_shape(benchmark, report, c_shape, spacing_mm, gantry_deg, cut):
    patient, plan = c_shape(spacing_mm, gantry_deg)
    measure(benchmark, report, patient, plan, patient.grid, cut, 7 if spacing_mm == 5.0 else 5)


def test_c_shape_with_a_ct_of_3_mm_and_a_dose_grid_of_5_mm(benchmark, report, c_shape):
    patient, plan = c_shape(3.0, (90, 270))
    measure(benchmark, report, patient, plan, patient.grid.resampled(5.0), DEFAULT_CUT, 7)


def test_openkbp_pt_1_on_4_mm(benchmark, report, openkbp_pt_1):
    patient = read_patient(openkbp_pt_1)
    beams = [Beam(g) for g in (60.0, 180.0, 300.0)]
    plan = place_spots(patient, load_machine("generic_proton"), beams)
    measure(benchmark, report, patient, plan, patient.grid.resampled(4.0), DEFAULT_CUT, 5)


@pytest.mark.parametrize("gantry_deg", [90.0, 45.0])
@pytest.mark.parametrize("spacing_mm", [5.0, 3.0])
def test_radiological_depth_of_every_voxel(benchmark, report, c_shape, spacing_mm, gantry_deg):
    # 0.09 to 0.44 s elsewhere
    patient, _ = c_shape(spacing_mm, (90, 270))
    machine, grid = load_machine("generic_proton"), patient.grid
    frame = beam_frame(Beam(gantry_deg, (0.0, 0.0, 0.0)), machine.virtual_source_mm)
    rsp, voxels = rsp_volume(patient), np.arange(grid.size, dtype=np.uint32)
    benchmark.pedantic(radiological_depth, (rsp, grid, frame, voxels), rounds=9, warmup_rounds=1)
    report(voxels=grid.size, gantry_deg=gantry_deg)
