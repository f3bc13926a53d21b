"""The dose update of interactive planning against whole computations."""

import numpy as np
import pytest

from engine import parallel
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.dose.photon_svd.update import FluenceMaps
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Beam
from engine.machine.library import load_machine
from engine.optimization.fluence_shaping import CONTROL, FluenceDose
from engine.optimization.shaping import Shaper, Wish
from engine.patient.phantoms import horseshoe


@pytest.fixture(scope="module")
def planned():
    """Maps of 1 mm amplitudes on a small horseshoe, and the dose of open fields."""
    patient = horseshoe((4.0, 4.0, 4.0), diameter_mm=70.0, organ_diameter_mm=24.0)
    machine, engine = load_machine("generic_photon"), PhotonSvdEngine(bixel_mm=1.0, reach_mm=60.0)
    plan = place_bixels(patient, machine, [Beam(60.0 * k) for k in range(6)], 1.0, 8.0)
    target, organ = (patient.mask(n).ravel() for n in ("PTV", "Core"))
    voxels = np.flatnonzero(target | organ)
    maps = FluenceMaps.of(engine, patient, plan, patient.grid, voxels)
    shares = (target[voxels].astype(np.float32), organ[voxels].astype(np.float32))
    return patient, engine, plan, maps, FluenceDose(maps, *shares), voxels


def test_whole_maps_agree_with_the_engine(planned):
    patient, engine, plan, maps, _, voxels = planned
    weights = np.random.default_rng(0).uniform(0.5, 1.5, plan.n_spots)
    expected = engine.dose(patient, plan.with_weights(weights), patient.grid)["dose"].ravel()
    dose = maps.dose(weights)
    np.testing.assert_allclose(dose, expected[voxels], atol=0.01 * expected.max())


@pytest.mark.parametrize("where", ["rim", "target", "far end"])
def test_a_patch_changes_the_dose_as_a_whole_computation_does(planned, where):
    """The stated bound: 2e-3 of the largest change."""
    *_, plan, maps, model, _ = planned
    rows = {"rim": 0, "target": model.n_rows // 2, "far end": model.n_rows - 1}
    seen = model.projection(rows[where])
    order = np.argsort(seen.amplitudes)
    amplitudes, change = seen.amplitudes[order], (0.1 * seen.lateral[order]).astype(np.float32)
    weights = np.ones(plan.n_spots, np.float32)
    dose = maps.dose(weights)
    updated = dose.copy()
    maps.add(updated, amplitudes, change)
    weights[amplitudes] += change
    whole = maps.dose(weights)
    np.testing.assert_allclose(updated, whole, rtol=0, atol=2e-3 * np.abs(whole - dose).max())


def test_a_projection_tells_the_voxel_s_dose_per_amplitude(planned):
    *_, plan, maps, model, _ = planned
    row = model.n_rows // 3
    seen = model.projection(row)
    weights = np.zeros(plan.n_spots, np.float32)
    weights[seen.amplitudes] = seen.lateral
    assert maps.dose(weights)[row] == pytest.approx(float(seen.gy @ seen.lateral), rel=1e-2)
    assert len(np.unique(model.beam_of[seen.amplitudes])) == maps.n_beams
    assert seen.lateral.max() > 0.9


def test_travelling_paths_are_those_of_control_points(planned):
    """Equation 1: one value for 5 × 5 amplitudes, longer where the ray meets more of the target."""
    *_, plan, maps, model, _ = planned
    path = model.path(organs=False)
    part = plan.beam_slice(0)
    u, v = maps.amplitude_u[part], maps.amplitude_v[part]
    cell = (u - u.min()) // CONTROL * 1000 + (v - v.min()) // CONTROL
    for c in np.unique(cell)[::7]:
        assert np.ptp(path[part][cell == c]) == 0
    through_core = model.path(organs=True)[part]
    near_axis = (np.abs(u) < 5) & (np.abs(v) < 5)
    assert through_core[near_axis].min() > 0
    assert through_core[np.abs(u) > 25].max() == 0


def test_bits_do_not_depend_on_threads(planned):
    *_, maps, model, _ = planned
    seen = model.projection(10)
    order = np.argsort(seen.amplitudes)
    before, doses = parallel.threads(), []
    try:
        for n in (1, 2):
            parallel.set_threads(n)
            dose = maps.dose(np.ones(model.n_amplitudes))
            maps.add(dose, seen.amplitudes[order], seen.lateral[order].astype(np.float32))
            doses.append(dose)
    finally:
        parallel.set_threads(before)
    np.testing.assert_array_equal(doses[0], doses[1])


def test_shaping_runs_on_maps_as_on_a_matrix(planned):
    *_, maps, model, _ = planned
    target = model.target_share > 0
    weights = np.ones(model.n_amplitudes, np.float32)
    weights *= 2.0 / maps.dose(weights)[target].mean()
    points = np.zeros((model.n_rows, 3), np.float32)
    points[:, 0] = np.arange(model.n_rows)
    floor, ceiling = np.where(target, 1.94, -np.inf), np.where(target, 2.14, 0.0)
    shaper = Shaper(model, points, floor, ceiling, 2.0)
    row = int(np.flatnonzero(~target)[0])
    start = shaper.plan(weights)
    outcome = shaper.apply(start, Wish([row], [0.7 * start.dose[row]], True))
    assert outcome.plan.dose[row] < 0.8 * start.dose[row]
    assert outcome.plan.weights.min() >= 0
    assert len(outcome.recovered) > 0


def test_amplitudes_off_the_raster_are_refused(planned):
    patient, _, plan, *_, voxels = planned
    for wrong in (3.0, 2.0):  # too wide for maps, and not the plan's width
        with pytest.raises(ValueError, match="bixel_mm"):
            FluenceMaps.of(PhotonSvdEngine(bixel_mm=wrong), patient, plan, patient.grid, voxels)
    with pytest.raises(ValueError, match="weights"):
        planned[3].dose(np.ones(3))
