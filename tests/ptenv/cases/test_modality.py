"""With which ions a case is treated, and what their dose counts for."""

import numpy as np
import pytest

from engine.dose.quantities import BiologicalDose, RbeDose
from ptenv.cases.build import build_case
from ptenv.cases.case import Case
from ptenv.cases.energy_layer_build import build_energy_layer_case
from ptenv.cases.energy_layer_case import EnergyLayerCase
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.modality import biology_of, quantity_of
from ptenv.cases.recipe import VoxelMaskRecipe

COARSE = dict(
    ct_spacing_mm=5.0, target_volume_cm3=(6.0, 10.0), dose_grid_mm=4.5, gantry_deg=(60.0, 300.0),
    spot_spacing_mm=6.0, ring_mm=8.0, lateral_cutoff=0.02, n_anchor_masks=1, budgets=(0.2,),
    converged_evaluations=60, quality_evaluations=5, fraction_gy=3.0, n_fractions=20,
    single_target=True, ring_objectives=False, weight_after_equation_1=True,
)  # fmt: skip
PATIENT = "head-and-neck-00001"


def carbon(**settings):
    return VoxelMaskRecipe(PATIENT, machine="generic_carbon", **{**COARSE, **settings})


@pytest.fixture(scope="module")
def case():
    return build_case(carbon(biology="lem1"))


def test_a_carbon_case_is_planned_in_rbe_weighted_dose(case):
    quantity = case.problem.quantity
    assert quantity == BiologicalDose(20, 0.1, 0.05, 30.0)  # LEM I, chordoma
    assert case.prescription_gy == {case.targets[0]: 60.0}
    dose = case.dose_gy(case.start_weights)[case.target_rows]
    assert 0.9 * 60.0 < dose.mean() < 1.1 * 60.0
    physical = 20 * case.influence.dose(case.start_weights)[case.target_rows]
    assert 2.0 < np.median(dose / physical) < 5.0  # RBE at 3 Gy (RBE) a fraction


def test_a_stored_carbon_case_answers_as_the_built_one(case):
    again = Case.from_entry(*case.as_entry())
    assert again.quantity == case.quantity
    weights = np.random.default_rng(0).uniform(0.0, 2.0, case.influence.n_spots)
    weights = weights * case.start_weights
    np.testing.assert_array_equal(again.dose_gy(weights), case.dose_gy(weights))
    value, gradient = case.problem.evaluate(weights)
    assert again.problem.evaluate(weights)[0] == value
    np.testing.assert_array_equal(again.problem.evaluate(weights)[1], gradient)


def test_the_case_gradient_matches_finite_differences(case):
    weights = case.start_weights.astype(np.float64)
    _, gradient = case.problem.evaluate(weights)
    direction = np.random.default_rng(1).normal(size=len(weights)) * weights
    change = []
    for sign in (1.0, -1.0):
        dose = case.problem.fraction_dose(weights + sign * 1e-3 * direction)
        change.append(case.problem.value_of_dose(dose))
    expected = (change[0] - change[1]) / 2e-3
    assert gradient.astype(np.float64) @ direction == pytest.approx(expected, rel=2e-3)


def test_reach_at_is_the_change_with_one_more_ion_in_every_spot(case):
    weights = case.start_weights.astype(np.float64)
    step = 1e-3 * weights.mean()
    before, after = (case.problem.fraction_dose(weights + s * step) for s in (-1.0, 1.0))
    rows = case.target_rows
    expected = (after - before)[rows] / (2 * step)
    np.testing.assert_allclose(case.reach_at(weights)[rows], expected, rtol=0.02)


def test_a_constant_rbe_is_the_same_by_model_and_by_factor():
    model = carbon(biology="constant", rbe=3.0)
    quantity = quantity_of(model, 20)
    alpha, root_beta = 3.0 * quantity.alpha_x_per_gy, 3.0 * np.sqrt(quantity.beta_x_per_gy2)
    physical = np.array([0.2, 1.0, 2.0], np.float32)
    products = np.stack([physical, alpha * physical, root_beta * physical]).astype(np.float32)
    by_factor = quantity_of(carbon(biology=None, rbe=3.0), 20)
    assert by_factor == RbeDose(20, 3.0)
    np.testing.assert_allclose(
        quantity.value(quantity.of_products(products)), by_factor.value(physical), rtol=1e-5
    )
    assert biology_of(model).alpha_per_gy(6, np.array([100.0]))[0] == pytest.approx(0.3)


@pytest.mark.parametrize("kind", [VoxelMaskRecipe, EnergyLayerRecipe])
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"machine": "generic_iron"}, "machine='generic_iron' is unknown"),
        ({"machine": "generic_photon"}, "machine='generic_photon' is unknown"),
        ({"machine": "generic_carbon", "biology": "lem4"}, "biology='lem4' is unknown"),
        ({"biology": "lem1"}, "generic_proton has no spectra"),
        ({"machine": "generic_carbon", "biology": "lem1", "tissue": "bone"}, "tissue name='bone'"),
        ({"machine": "generic_carbon"}, "rbe=1.1 is that of protons"),
        ({"machine": "generic_carbon", "biology": "lem1", "tissue": (0.1, 0.05)}, "tissue="),
        ({"machine": "generic_carbon", "biology": "mkm", "tissue": "bone"}, "biology='mkm'"),
        ({"fraction_gy": 0.0}, "fraction_gy=0.0 must lie in"),
        ({"n_fractions": 0}, "n_fractions=0 must lie in"),
        ({"rbe": float("nan")}, "rbe"),
    ],
)
def test_senseless_modalities_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(PATIENT, **settings)


def test_every_field_wants_its_couch_angle():
    with pytest.raises(ValueError, match="couch_deg"):
        VoxelMaskRecipe(PATIENT, gantry_deg=(60.0, 300.0), couch_deg=(0.0,))


def test_an_arc_of_carbon_ions_is_planned_in_rbe_weighted_dose():
    recipe = EnergyLayerRecipe(
        PATIENT, machine="generic_carbon", biology="lem1", fraction_gy=3.0, n_fractions=20,
        ct_spacing_mm=5.0, target_volume_cm3=(6.0, 10.0), dose_grid_mm=7.0, n_angles=6,
        n_layers=40, layer_spacing_mm=8.0, spot_spacing_mm=9.0, ring_mm=8.0, n_points=100,
        lateral_cutoff=0.05, evaluations=6, sketch_evaluations=6, bound_evaluations=8,
        sketch_rows=200, sketch_spacing_mm=12.0, limits=(1.2,),
    )  # fmt: skip
    case = build_energy_layer_case(recipe)
    again = EnergyLayerCase.from_entry(*case.as_entry())
    assert again.quantity == case.quantity == BiologicalDose(20, 0.1, 0.05, 30.0)
    chosen = case.sequencing.valid
    plan, same = case.optimize(chosen, "plan"), again.optimize(chosen, "plan")
    np.testing.assert_array_equal(same.dose_gy, plan.dose_gy)
    target = case.regions[case.target].rows
    dose = case.quantity.value(plan.dose_gy[0])[target]
    assert 0.9 * 60.0 < dose.mean() < 1.1 * 60.0
    assert plan.worst == pytest.approx(plan.values.max())
