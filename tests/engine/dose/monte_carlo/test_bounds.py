"""Every array index of the kernels is within its array: one small run with numba's checks on."""

import os
import subprocess
import sys

import pytest

RUN = """
import numpy as np
from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.geometry.plan import Aperture, Beam
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.patient.phantoms import water_tank

patient = water_tank((70.0, 80.0, 90.0), 5.0, 30.0)
machine = load_machine("generic_proton")
hole = Aperture(((-20.0, -20.0), (20.0, -20.0), (0.0, 25.0)), -220.0)
beams = [Beam(0.0), Beam(53.0, couch_deg=20.0, aperture=hole), Beam(270.0, range_shifter="rs40")]
plan = place_spots(patient, machine, beams, SpotSettings(12.0, layer_spacing_mm=12.0))
plan = plan.with_weights(np.ones(plan.n_spots))
for settings in (dict(), dict(scores="dose to medium", scored_particles="primaries"),
                 dict(scattering=False, straggling=False)):
    engine = MonteCarloEngine(n_histories=3000, histories_per_spot=20, **settings)
    found = engine.simulate(patient, plan, patient.grid, quantities=("dose", "dose_error", "letd"))
    assert found.quantities["dose"].max() > 0.0
    assert engine.influence(patient, plan, patient.grid).n_nonzeros > 0
print("within bounds")
"""


@pytest.mark.skipif(
    "PTENV_BOUNDSCHECK" not in os.environ,
    reason="compiles everything anew, a minute or two; PTENV_BOUNDSCHECK=1 runs it",
)
def test_kernels_stay_within_their_arrays(tmp_path):
    checked = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=checked, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "within bounds" in done.stdout
