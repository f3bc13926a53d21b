"""What holds for one dose engine holds for all: found by themselves under engine/dose.

A new engine needs a case here: how it is built, and a small patient and plan that it can treat.
"""

import importlib
import inspect
import pickle
import pkgutil
from dataclasses import replace

import numpy as np
import pytest

import engine.dose
from engine import parallel
from engine.dose.influence import InfluenceMatrix
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Beam
from engine.geometry.scenarios import Scenario
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.patient.phantoms import water_tank


def proton_case():
    """A small tank, two fields of random weights, and a dose grid coarser than the CT."""
    patient = water_tank((80.0, 80.0, 80.0), 4.0, 24.0)
    settings = SpotSettings(8.0, layer_spacing_mm=8.0)
    plan = place_spots(patient, load_machine("generic_proton"), [Beam(0.0), Beam(60.0)], settings)
    plan = plan.with_weights(np.random.default_rng(0).uniform(1e6, 1e8, plan.n_spots))
    return patient, plan, patient.grid.resampled(5.0)


def photon_case():
    """The same tank under two open photon fields."""
    patient = water_tank((80.0, 80.0, 80.0), 4.0, 24.0)
    plan = place_bixels(patient, load_machine("generic_photon"), [Beam(0.0), Beam(60.0)])
    plan = plan.with_weights(np.random.default_rng(0).uniform(1.0, 10.0, plan.n_spots))
    return patient, plan, patient.grid.resampled(5.0)


CASES = {  # engine: its arguments, what it treats, the noise of two doses (rms, of the maximum)
    "MonteCarloEngine": (
        lambda: dict(n_histories=200_000, histories_per_spot=1000), proton_case, 0.04
    ),
    "PencilBeamEngine": (dict, proton_case, 0.0),
    "PhotonSvdEngine": (dict, photon_case, 0.0),
    # a matrix gathers its smallest entries
    "YodaEngine": (lambda: dict(influence_scheme="1+6+6+12+12+24"), proton_case, 0.005),
}  # fmt: skip


def dose_engines():
    """Every class under engine/dose with ``scores`` and ``influence``, but the interface."""
    found = {}
    for module in pkgutil.walk_packages(engine.dose.__path__, "engine.dose."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            declared = inspect.isclass(thing) and thing.__module__.startswith("engine.dose")
            if declared and hasattr(thing, "scores") and hasattr(thing, "influence"):
                found[name] = thing
    return found


ENGINES = dose_engines()


def test_engines_are_found():
    assert "PencilBeamEngine" in ENGINES


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_brings_a_case(name):
    assert name in CASES, f"engine {name} has no case; add one to CASES in {__file__}."


@pytest.fixture(scope="module", params=[name for name in ENGINES if name in CASES])
def treated(request):
    """An engine, and the patient, plan and grid of its case, with the matrix computed once."""
    arguments, case, _ = CASES[request.param]
    built = ENGINES[request.param](**arguments())
    patient, plan, grid = case()
    return built, patient, plan, grid, built.influence(patient, plan, grid)


def assert_same_dose(built, dose, expected, atol):
    """To rounding, or, for an engine whose doses are random, within its noise and on average."""
    noise = CASES[type(built).__name__][2]
    if not noise:
        np.testing.assert_allclose(dose, expected, rtol=1e-4, atol=atol * expected.max())
        return
    dose = np.where(expected > 0, dose, 0)  # the matrix holds neither vacuum nor the rarest entries
    high = expected >= 0.5 * expected.max()
    assert np.sqrt(np.mean((dose - expected)[high] ** 2)) < noise * expected.max()
    assert dose[high].mean() == pytest.approx(expected[high].mean(), rel=0.2 * noise)
    assert dose.sum() == pytest.approx(expected.sum(), rel=0.2 * noise)


def test_it_states_what_it_scores(treated):
    assert treated[0].scores in ("dose to water", "dose to medium")


def test_its_arguments_are_those_of_the_interface(treated):
    built = treated[0]
    interface = importlib.import_module("engine.dose.engine").DoseEngine
    for method in ("dose", "influence", "like"):
        mine = inspect.signature(getattr(built, method)).parameters
        for name, parameter in inspect.signature(getattr(interface, method)).parameters.items():
            if name != "self":
                assert name in mine
                assert (mine[name].default is parameter.empty) == (
                    parameter.default is parameter.empty
                )


def test_the_matrix_has_a_column_for_every_spot_and_rows_in_the_body(treated):
    _, patient, plan, grid, influence = treated
    assert influence.n_spots == plan.n_spots
    assert influence.n_beams == len(plan.beams)
    assert influence.grid == grid
    assert np.all(np.diff(influence.voxels.astype(int)) > 0)
    assert influence.n_rows > 0.9 * patient.external.mask.sum() * (4.0 / 5.0) ** 3


def test_every_spot_and_the_target_get_dose(treated):
    _, _, plan, grid, influence = treated
    assert influence.adjoint(np.ones(influence.n_rows)).min() > 0
    assert (influence @ plan.weights).min() >= 0
    middle = influence.volume(influence @ plan.weights)[tuple(n // 2 for n in grid.shape)]
    assert middle > 0.3 * (influence @ plan.weights).max()


def test_dose_is_the_influence_times_the_weights(treated):
    built, patient, plan, grid, influence = treated
    dose = built.dose(patient, plan, grid)["dose"]
    assert dose.shape == grid.shape
    assert dose.dtype == np.float32
    expected = influence.volume(influence @ plan.weights)
    assert_same_dose(built, dose, expected, 1e-5)


def test_dose_of_one_beam_is_its_part_of_the_whole(treated):
    built, patient, plan, grid, influence = treated
    for beam in range(influence.n_beams):
        dose = built.dose(patient, plan, grid, beam=beam)["dose"]
        expected = influence.volume(influence.dose(plan.weights, beam=beam))
        assert_same_dose(built, dose, expected, 1e-5)
    with pytest.raises(ValueError, match="do not exist"):
        built.dose(patient, plan, grid, beam=influence.n_beams)


def test_beams_computed_one_by_one_join_to_the_whole(treated):
    built, patient, plan, grid, influence = treated
    parts = [
        built.influence(patient, plan.part(b, b + 1), grid, voxels=influence.voxels)
        for b in range(influence.n_beams)
    ]
    joined = InfluenceMatrix.joined(parts)
    np.testing.assert_array_equal(joined.to_dense(), influence.to_dense())
    np.testing.assert_array_equal(joined.beam_starts, influence.beam_starts)


def test_dose_is_linear_in_the_weights(treated):
    built, patient, plan, grid, _ = treated
    other = np.random.default_rng(1).uniform(0.0, 1e8, plan.n_spots)

    def dose(weights):
        return built.dose(patient, plan.with_weights(weights), grid)["dose"]

    together = dose(plan.weights + 2.0 * other)
    assert_same_dose(built, together, dose(plan.weights) + 2.0 * dose(other), 1e-6)


def test_some_voxels_are_rows_of_all_voxels(treated):
    built, patient, plan, grid, influence = treated
    rows = np.arange(0, influence.n_rows, 7)
    few = built.influence(patient, plan, grid, voxels=influence.voxels[rows])
    np.testing.assert_array_equal(few.to_dense(), influence.rows(rows).to_dense())


def test_the_bits_do_not_depend_on_threads_or_repetition(treated):
    built, patient, plan, grid, influence = treated
    before = parallel.threads()
    try:
        for n in (1, 2):
            parallel.set_threads(n)
            again = built.influence(patient, plan, grid)
            np.testing.assert_array_equal(again @ plan.weights, influence @ plan.weights)
    finally:
        parallel.set_threads(before)


def test_a_nominal_scenario_changes_nothing_and_others_do(treated):
    built, patient, plan, grid, influence = treated
    nominal = built.influence(patient, plan, grid, scenario=Scenario()) @ plan.weights
    np.testing.assert_array_equal(nominal, influence @ plan.weights)
    for scenario in (Scenario(shift_mm=(5.0, 0.0, 0.0)), Scenario(density_scale=1.05)):
        other = built.influence(patient, plan, grid, scenario=scenario) @ plan.weights
        # 5 % more matter before 4 cm of depth takes a percent of a photon beam
        assert np.abs(other - nominal).max() > 0.005 * nominal.max()


def test_a_shift_is_a_shift_of_the_isocenters(treated):
    built, patient, plan, grid, _ = treated
    shift = (4.0, -3.0, 2.0)
    beams = tuple(replace(b, isocenter_mm=tuple(np.add(b.isocenter_mm, shift))) for b in plan.beams)
    shifted = built.dose(patient, plan, grid, Scenario(shift_mm=shift))["dose"]
    moved = built.dose(patient, replace(plan, beams=beams), grid)["dose"]
    np.testing.assert_allclose(shifted, moved, rtol=1e-3, atol=1e-4 * moved.max())


def test_patient_and_plan_are_left_as_they_were(treated):
    built, patient, plan, grid, _ = treated
    given = [patient.hu, plan.u_mm, plan.v_mm, plan.spot_energy, plan.weights,
             *(s.mask for s in patient.structures.values())]  # fmt: skip
    before = [a.copy() for a in given]
    built.dose(patient, plan, grid, Scenario((1.0, 0.0, 0.0), 1.03))
    for a, b in zip(given, before):
        np.testing.assert_array_equal(a, b)


def test_it_survives_pickling(treated):
    built, patient, plan, grid, influence = treated
    copy = pickle.loads(pickle.dumps(built))
    again = copy.influence(patient, plan, grid)
    np.testing.assert_array_equal(again @ plan.weights, influence @ plan.weights)


def test_unknown_quantities_are_refused(treated):
    built, patient, plan, grid, _ = treated
    for call in (built.dose, built.influence):
        with pytest.raises(ValueError, match="biological_effect_of_neutrinos"):
            call(patient, plan, grid, quantities=("biological_effect_of_neutrinos",))


def test_unknown_images_are_refused(treated):
    built, patient, plan, grid, _ = treated
    for call in (built.dose, built.influence):
        with pytest.raises(ValueError, match="third_week"):
            call(patient, plan, grid, scenario=Scenario(image="third_week"))


def test_impossible_voxels_are_refused(treated):
    built, patient, plan, grid, _ = treated
    for voxels in ([-1, 0], [4, 4], [0, grid.size]):
        with pytest.raises(ValueError, match="voxels"):
            built.influence(patient, plan, grid, voxels=np.array(voxels))
