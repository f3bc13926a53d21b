"""Speed of photons and dose shaping beside table 1 of Ziegenhein 2016. Prints, gates nothing.

OpenKBP patients are looked for in the folder PTENV_OPENKBP names, else a procedural one runs.
"""

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import ptenv  # noqa: F401  registers the ids
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Beam
from engine.machine.library import load_machine
from engine.optimization.fluence_shaping import FluenceDose
from engine.patient.phantoms import tg119_c_shape
from scripts.validate_shaping import PRESCRIPTION_GY, paper_phantom, rim_rows, shaped


def openkbp_case() -> str:
    folder = os.environ.get("PTENV_OPENKBP")
    found = sorted(Path(folder).rglob("pt_1.zip")) if folder else []
    return f"openkbp:{found[0]}" if found else "head-and-neck-00001"


@pytest.fixture(scope="module")
def phantom():
    return paper_phantom()


@pytest.fixture(scope="module")
def row(phantom):
    return rim_rows(phantom, [0.0])[0]


@pytest.fixture(scope="module")
def patch(phantom, row):
    seen = phantom.shaper.model.projection(row)
    order = np.argsort(seen.amplitudes)
    return seen.amplitudes[order], (0.01 * seen.lateral[order]).astype(np.float32)


def test_whole_request_with_25_recovery_steps(benchmark, phantom, row, report):
    """The paper: 5 s with drawing."""
    outcome = benchmark(shaped, phantom, row)
    dose = outcome.plan.dose[phantom.is_target] / PRESCRIPTION_GY
    report(voxels=len(phantom.voxels), steps=len(outcome.recovered), least_target=dose.min())


def test_create_patch(benchmark, phantom, row):
    """The paper: below 1 ms."""
    shaper = phantom.shaper
    benchmark(lambda: shaper.weights_of(shaper.model.projection(row), True))


def test_convolution_at_control_points_and_update_of_the_dose(benchmark, phantom, patch, report):
    """The paper: 10 ms and 60 ms, its cube of all voxels."""
    dose = phantom.start.dose.copy()
    benchmark(phantom.maps.add, dose, *patch)
    report(amplitudes=len(patch[0]), voxels=len(dose))


def test_dose_of_whole_maps(benchmark, phantom):
    benchmark(phantom.maps.dose, phantom.start.weights)


def test_travelling_path_information(benchmark, phantom):
    """The paper: 45 ms."""
    model = phantom.shaper.model

    def paths():
        fresh = FluenceDose(phantom.maps, model.target_share, model.organ_share)
        return fresh.path(organs=False), fresh.path(organs=True)

    benchmark(paths)


def test_influence_matrix_of_nine_photon_fields(benchmark, report):
    patient, engine = tg119_c_shape(4.0), PhotonSvdEngine()
    beams = [Beam(40.0 * k) for k in range(9)]
    plan = place_bixels(patient, load_machine("generic_photon"), beams)
    matrix = benchmark.pedantic(
        engine.influence, (patient, plan, patient.grid), rounds=3, warmup_rounds=1
    )
    seconds = benchmark.stats.stats.min
    report(bixels=plan.n_spots, voxels=matrix.n_rows, nonzeros=matrix.n_nonzeros,
           bixels_a_second=plan.n_spots / seconds)  # fmt: skip


@pytest.mark.parametrize("modality", ["photon", "proton"])
@pytest.mark.parametrize("name", ["ptenv/DoseShaping-mini-v0", "ptenv/DoseShaping-v0"])
def test_step(benchmark, name, modality, report):
    case = openkbp_case() if name.endswith("Shaping-v0") else "head-and-neck-00001"
    env = gym.make(name, case=case, modality=modality, goals=0)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step():
        state = env.unwrapped.state
        if state.n_requests >= 29:
            env.reset()
        env.step(int(rng.choice(np.flatnonzero(env.unwrapped.action_masks()[:-1]))))

    step()
    benchmark.pedantic(step, rounds=60)
    matrix = env.unwrapped.state.case.influence
    report(case=case, voxels=matrix.n_rows, spots=matrix.n_spots, nonzeros=matrix.n_nonzeros,
           steps_a_second=1.0 / benchmark.stats.stats.mean)  # fmt: skip
