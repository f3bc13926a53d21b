"""Final plans scored again: anchors, the fast engine's errors, the cache, refusals.

Cases are small and grids coarse; yoda computes where the engine matters, else the pencil beam.
"""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from engine.dose.influence import InfluenceMatrix
from engine.dose.yoda.engine import YodaEngine
from engine.optimization.solvers import LBFGSB
from engine.parallel import set_threads, threads
from ptenv.benchmark import reference as references
from ptenv.benchmark import reference_voxel_mask
from ptenv.benchmark.reference import (
    ReferenceSettings,
    default_reference,
    forget_references,
    reference_of,
)  # fmt: skip
from ptenv.cases.anchors import anchor_plans
from ptenv.cases.case import Case
from ptenv.cases.dose_shaping_build import direct_plans
from ptenv.cases.dose_shaping_recipe import DoseShapingRecipe
from ptenv.cases.energy_layer_build import bound_layers, bound_plan, dynamic_choice
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.library import load_case
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.cases.scenario_doses import patient_of, plan_of
from ptenv.cases.store import CacheWarning

COARSE = {"scheme": "1", "depth_step_mm": 2.5, "fokker_planck_step_mm": 4.0}
MASK = ReferenceSettings("yoda", 4.0, converged_evaluations=100, **COARSE)
ARC = ReferenceSettings("pencil_beam", 5.0, cutoff=0.01)
PHOTONS = ReferenceSettings("photon_svd", 5.0, reach_mm=40.0, converged_evaluations=100)
SMALL_ARC = {
    "ct_spacing_mm": 6.0, "dose_grid_mm": 7.0, "target_volume_cm3": (6.0, 10.0), "n_angles": 6,
    "n_layers": 8, "layer_spacing_mm": 12.0, "spot_spacing_mm": 8.0, "ring_mm": 8.0,
    "n_points": 100, "lateral_cutoff": 0.05, "evaluations": 12, "sketch_evaluations": 8,
    "bound_evaluations": 20, "sketch_rows": 100, "sketch_spacing_mm": 10.0, "limits": (1.1, 1.5),
    "keep_influence": True,
}  # fmt: skip
SMALL_SHAPING = {
    "ct_spacing_mm": 5.0, "target_volume_cm3": (6.0, 10.0), "dose_grid_mm": 5.0, "ring_mm": 8.0,
    "gantry_deg": (0.0, 120.0, 240.0), "bixel_mm": 7.0, "reach_mm": 25.0, "n_goals": 2,
    "start_evaluations": 15, "converged_evaluations": 60, "direct_evaluations": 30,
    "quality_evaluations": 15,
}  # fmt: skip


@pytest.fixture
def fresh(own_cache):
    """An empty disk cache, and a process that remembers no reference."""
    forget_references()
    yield own_cache
    forget_references()


@pytest.fixture(scope="module")
def mask_reference(case):
    return reference_of(case, MASK)


@pytest.fixture(scope="module")
def arc_case():
    return load_case(EnergyLayerRecipe("head-and-neck-00001", **SMALL_ARC))


@pytest.fixture(scope="module")
def arc_reference(arc_case):
    return reference_of(arc_case, ARC)


@pytest.fixture(scope="module")
def shaping_case():
    return load_case(DoseShapingRecipe("head-and-neck-00001", **SMALL_SHAPING))


@pytest.fixture(scope="module")
def shaping_reference(shaping_case):
    return reference_of(shaping_case, PHOTONS)


def mask_end(case, weights, budget=0.1):
    """As far as a reference reads it: the last state of a voxel-mask episode."""
    return SimpleNamespace(case=case, weights=weights, budget=budget)


def arc_end(case, plan, limit=1.5):
    return SimpleNamespace(case=case, plan=plan, limit=limit, terminal="plan")


def shaping_end(case, weights, goals=0, products=0.0):
    plan = SimpleNamespace(weights=weights)
    return SimpleNamespace(case=case, plan=plan, goals=goals, products=products)


def plans_of(case: Case):
    recipe = VoxelMaskRecipe(**case.recipe)
    return anchor_plans(
        case.problem, case.start_weights, case.candidates, recipe.budgets, recipe.n_anchor_masks,
        recipe.converged_evaluations, sampled_from=case.sampled_from,
    )  # fmt: skip


def matrix_bits(matrix: InfluenceMatrix) -> list[bytes]:
    return [matrix.values.tobytes(), matrix.columns.tobytes(), matrix.scale.tobytes()]


# ----------------------------------------------------------------------------------------- scores


def test_uniform_masks_score_0_and_keep_all_1_by_the_reference(case, mask_reference):
    plans = plans_of(case)
    keep_all = mask_reference.judge(mask_end(case, plans.keep_all.weights))
    assert keep_all.raw_score == pytest.approx(1.0, abs=1e-9)
    assert keep_all.why_not is None
    scores = [mask_reference.judge(mask_end(case, w)).raw_score for w in plans.uniform[0.1]]
    assert np.mean(scores) == pytest.approx(0.0, abs=1e-9)
    assert max(scores) < 1.0


def test_no_plan_of_the_fast_engine_lies_below_the_reference_s_own_optimum(case, mask_reference):
    anchors = mask_reference.anchors
    converged = mask_reference.objective(plans_of(case).converged.weights)
    assert anchors.f_star < converged
    assert mask_reference.mismatch == pytest.approx(converged - anchors.f_star)
    assert anchors.f_star != pytest.approx(case.anchors.f_star, rel=1e-3)  # another engine


def test_a_judged_dose_is_the_engine_s_own_of_the_plan_on_the_fine_grid(case, mask_reference):
    weights = plans_of(case).keep_all.weights
    engine = YodaEngine(
        scheme="1", depth_step_mm=MASK.depth_step_mm,
        fokker_planck_step_mm=MASK.fokker_planck_step_mm,
    )  # fmt: skip
    matrix = mask_reference.problem.influence
    assert matrix.grid.spacing_mm == (4.0, 4.0, 4.0)
    plan = plan_of(case).with_weights(weights)
    direct = engine.dose(patient_of(case), plan, matrix.grid)["dose"].ravel()[matrix.voxels]
    np.testing.assert_allclose(matrix.dose(weights), direct, atol=0.01 * direct.max())


def test_doses_are_linear_in_the_weights(case, mask_reference):
    weights = np.asarray(case.start_weights, np.float32)
    rest = np.random.default_rng(0).uniform(0, 1e6, len(weights)).astype(np.float32)
    dose = mask_reference.problem.fraction_dose
    np.testing.assert_allclose(
        dose(2 * weights + rest), 2 * dose(weights) + dose(rest), rtol=1e-4, atol=1e-5
    )


def test_the_case_s_own_objectives_are_asked_on_more_voxels(case, mask_reference):
    fine, coarse = mask_reference.problem, case.problem
    assert fine.objectives == coarse.objectives
    assert fine.influence.n_rows > 1.5 * coarse.influence.n_rows
    assert fine.influence.n_spots == coarse.influence.n_spots
    judged = mask_reference.judge(mask_end(case, case.start_weights))
    assert judged.metrics.keys() == case.metrics(case.dose_gy(case.start_weights)).keys()


def test_a_plan_that_lives_on_the_fast_engine_s_errors_ranks_lower_by_the_reference(
    case, mask_reference
):
    """The fast matrix is made blind for what half of the spots do outside the target."""
    dense = case.influence.to_dense().copy()
    blind = ~case.target_rows[:, None] & (np.arange(dense.shape[1]) % 2 == 0)
    dense[np.broadcast_to(blind, dense.shape)] = 0.0
    wrong = replace(case.problem, influence=InfluenceMatrix.from_dense(
        case.grid, case.influence.voxels, dense, case.influence.beam_starts
    ))  # fmt: skip
    honest = LBFGSB(max_evaluations=60).solve(case.problem, case.start_weights).weights
    exploit = LBFGSB(max_evaluations=200).solve(wrong, case.start_weights).weights

    best = LBFGSB(max_evaluations=400).solve(wrong, exploit).value
    anchors = replace(case.anchors, f_star=best)  # of the fast engine with that error

    def fast(weights) -> float:
        return anchors.score(wrong.value_of_dose(wrong.fraction_dose(weights)), 0.1)

    def judged(weights) -> float:
        return mask_reference.judge(mask_end(case, weights)).score

    assert fast(exploit) > fast(honest) + 0.1
    assert judged(exploit) < judged(honest) - 0.1


def test_dynamic_programming_scores_0_and_all_layers_1_by_the_reference(arc_case, arc_reference):
    dynamic = arc_case.optimize(dynamic_choice(arc_case, 1.5), "plan")
    judged = arc_reference.judge(arc_end(arc_case, dynamic))
    assert judged.score == pytest.approx(0.0, abs=1e-9)
    assert judged.objective == arc_reference.worst(dynamic)
    bound = bound_plan(arc_case, bound_layers(arc_case))
    judged = arc_reference.judge(arc_end(arc_case, bound))
    assert judged.score == pytest.approx(1.0, abs=1e-9)
    assert judged.metrics == arc_reference.anchors.reference_metrics


def test_an_arc_is_judged_in_its_worst_scenario(arc_case, arc_reference):
    plan = arc_case.optimize(dynamic_choice(arc_case, 1.1), "plan")
    doses = arc_reference.doses(plan)
    values = [arc_reference.rows.problem.value_of_dose(dose) for dose in doses]
    assert len(values) == 9
    assert arc_reference.worst(plan) == max(values) > values[0]


def test_layers_are_worth_more_than_a_plan_of_them_that_another_engine_made(
    arc_case, arc_reference
):
    layers = bound_layers(arc_case)
    plan = bound_plan(arc_case, layers)
    assert arc_reference.worst_of_layers(layers, 40) < arc_reference.worst(plan)
    few = arc_case.geometry.chosen(dynamic_choice(arc_case, 1.1))
    assert arc_reference.worst_of_layers(few) > arc_reference.worst_of_layers(layers)
    with pytest.raises(ValueError, match="keep_matrix=True"):
        replace(arc_reference, matrices=()).worst_of_layers(layers)


def test_matrices_that_are_kept_and_doses_plan_by_plan_agree(arc_case, arc_reference):
    bare = replace(arc_reference, matrices=())
    plan = arc_case.optimize(dynamic_choice(arc_case, 1.5), "plan")
    kept, computed = arc_reference.doses(plan), bare.doses(plan)
    np.testing.assert_allclose(kept, computed, atol=3e-3 * kept.max())
    assert bare.worst(plan) == pytest.approx(arc_reference.worst(plan), rel=1e-3)


def test_doing_nothing_scores_0_and_direct_optimization_1_by_the_reference(
    shaping_case, shaping_reference
):
    for goals in range(2):
        start = shaping_case.start_weights[goals]
        assert shaping_reference.judge(shaping_end(shaping_case, start, goals)).score == 0.0
        passed = direct_plans(shaping_case.goals(goals).problem, start, 30)
        values = shaping_reference.anchors.direct[goals]
        last = int(np.argmin(values))  # a plan that the reference takes for the best so far
        weights = passed.weights[passed.best_after[last]]
        judged = shaping_reference.judge(shaping_end(shaping_case, weights, goals, 2 * last))
        assert judged.objective == pytest.approx(values[last])
        assert judged.raw_score == pytest.approx(1.0, abs=1e-9)
        assert list(values) == sorted(values, reverse=True)


def test_direct_optimization_is_as_good_as_the_best_that_the_reference_has_seen(shaping_case):
    """More dose products never lower the bar, where the fine grid finds later plans worse."""
    fine = reference_of(shaping_case, replace(PHOTONS, dose_grid_mm=4.0))
    passed = direct_plans(shaping_case.goals(1).problem, shaping_case.start_weights[1], 30)
    end = shaping_end(shaping_case, passed.weights[passed.best_after[10]], 1)
    values = fine.anchors.direct[1]
    assert fine.judge(end).objective > values[0]  # the fast engine's progress is lost
    assert list(values) == sorted(values, reverse=True)


# ----------------------------------------------------------------------------------- no scores


def test_anchors_that_come_too_close_give_no_score_and_say_so(
    case, mask_reference, arc_case, arc_reference, shaping_case, shaping_reference
):
    a = mask_reference.anchors
    near = replace(a, rho_uniform=dict.fromkeys(a.rho_uniform, 1.05 * a.rho_all))
    masks = replace(mask_reference, anchors=near).judge(mask_end(case, case.start_weights))
    assert (masks.score, masks.raw_score) == (None, None)
    assert "budget 0.1 come within 0.1" in masks.why_not
    assert masks.objective == mask_reference.objective(case.start_weights)

    b = arc_reference.anchors
    near = replace(b, dynamic={"plan": dict.fromkeys(b.dynamic["plan"], 0.9 * b.bound["plan"])})
    plan = arc_case.optimize(dynamic_choice(arc_case, 1.5), "plan")
    arcs = replace(arc_reference, anchors=near).judge(arc_end(arc_case, plan))
    assert arcs.score is None
    assert "limit 1.5 do not lie 0.1 apart" in arcs.why_not

    c = shaping_reference.anchors
    near = replace(c, direct=tuple((v[0],) * len(v) for v in c.direct))
    end = shaping_end(shaping_case, shaping_case.start_weights[1], 1)
    shaped = replace(shaping_reference, anchors=near).judge(end)
    assert shaped.score is None
    assert "weighting 1 comes no further than 0.1" in shaped.why_not


def test_an_arc_without_a_plan_has_no_score(arc_case, arc_reference):
    end = SimpleNamespace(case=arc_case, plan=None, limit=1.5, terminal="proxy")
    judged = arc_reference.judge(end)
    assert judged.score is None
    assert "without a plan" in judged.why_not
    assert judged.objective > arc_reference.anchors.bound["plan"]


def test_a_sketch_is_no_plan(arc_case, arc_reference):
    plan = arc_case.optimize(dynamic_choice(arc_case, 1.5), "sketch")
    end = SimpleNamespace(case=arc_case, plan=plan, limit=1.5, terminal="sketch")
    assert "terminal='sketch'" in arc_reference.judge(end).why_not


# ------------------------------------------------------------------------------------- the cache


def test_a_reference_comes_back_from_disk_bit_by_bit(case, fresh, monkeypatch):
    built = reference_of(case, MASK)
    forget_references()

    def computes(*_, **__):
        raise AssertionError("the engine was asked again")

    monkeypatch.setattr(reference_voxel_mask, "reference_engine", computes)
    monkeypatch.setattr(reference_voxel_mask, "anchor_plans", computes)
    read = reference_of(case, MASK)
    assert read is not built
    assert read.key == built.key == MASK.key(case.key)
    assert read.anchors_dict() == built.anchors_dict()
    assert matrix_bits(read.problem.influence) == matrix_bits(built.problem.influence)
    end = mask_end(case, case.start_weights)
    assert read.judge(end) == built.judge(end)
    with pytest.raises(ValueError, match="read-only"):
        read.problem.influence.values[0] = 1


@pytest.mark.parametrize("file", ["-0/values.npy", "/entry.json", "-0/start.npy"])
def test_a_damaged_entry_is_built_again(case, fresh, file):
    built = reference_of(case, MASK)
    bits = matrix_bits(built.problem.influence)  # now: the damage is to a file that is mapped
    path = fresh / f"{built.key}{file}"
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
    forget_references()
    with pytest.warns(CacheWarning, match="damaged"):
        again = reference_of(case, MASK)
    assert matrix_bits(again.problem.influence) == bits
    assert again.anchors_dict() == built.anchors_dict()


def test_an_interrupted_build_goes_on_with_the_matrix_it_has(case, fresh, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(reference_voxel_mask, "anchor_plans", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reference_of(case, MASK)
    monkeypatch.setattr(reference_voxel_mask, "anchor_plans", anchor_plans)
    monkeypatch.setattr(reference_voxel_mask, "reference_engine", interrupted)
    assert reference_of(case, MASK).judge(mask_end(case, case.start_weights)).score is not None


def test_without_the_cache_nothing_is_written_and_the_matrix_is_computed_once(
    case, fresh, monkeypatch
):
    made = []

    def counting(*args, **kwargs):
        made.append(args)
        return YodaEngine(influence_scheme="1")

    monkeypatch.setattr(reference_voxel_mask, "reference_engine", counting)
    reference_of(case, MASK, cache=False)
    assert len(made) == 1
    assert not list(fresh.glob("*/entry.json"))


def test_a_build_tells_how_far_it_is(case, fresh):
    told = []
    reference_of(case, MASK, tell=told.append)
    assert any(f"of {case.influence.n_spots} spots" in line for line in told)
    assert any("F* of the reference" in line for line in told)


def test_the_number_of_threads_changes_no_bit(arc_case, fresh):
    settings = ReferenceSettings("yoda", 7.0, **COARSE)
    few = replace(arc_case, recipe={**arc_case.recipe, "shift_mm": 0.0}, key="few")  # 3 scenarios
    before, found = threads(), []
    try:
        for n in (1, 2):
            set_threads(n)
            forget_references()
            found.append(reference_of(few, settings, cache=False))
    finally:
        set_threads(before)
    one, two = found
    assert len(one.matrices) == 3
    assert [matrix_bits(m) for m in one.matrices] == [matrix_bits(m) for m in two.matrices]
    assert one.anchors_dict() == two.anchors_dict()


# --------------------------------------------------------------------------- settings, refusals


def test_defaults_take_yoda_for_protons_and_the_case_s_own_engine_elsewhere(
    case, arc_case, shaping_case
):
    masks, arcs = default_reference(case), default_reference(arc_case)
    assert (masks.engine, masks.dose_grid_mm) == ("yoda", 3.0)
    assert (arcs.engine, arcs.dose_grid_mm, arcs.keep_matrix) == ("yoda", 4.9, True)
    photons = default_reference(shaping_case)
    assert (photons.engine, photons.dose_grid_mm, photons.reach_mm) == ("photon_svd", 3.0, 50.0)
    assert not default_reference(replace(arc_case, kept=None)).keep_matrix
    carbon = replace(case, plan={**case.plan, "machine": "generic_carbon"})
    assert default_reference(carbon).engine == "pencil_beam"


def test_no_reference_is_coarser_than_its_case():
    assert references._fine_mm(5.0) == 3.0
    assert references._fine_mm(2.0) == 1.7
    assert references._fine_mm(1.2) == 1.2


def test_settings_survive_json_and_every_one_of_them_is_in_the_key():
    assert ReferenceSettings(**json.loads(json.dumps(asdict(MASK)))) == MASK
    others = {
        "engine": "pencil_beam", "dose_grid_mm": 3.0, "cutoff": 0.002, "scheme": "1+6",
        "depth_step_mm": 1.0, "fokker_planck_step_mm": 2.0, "reach_mm": 60.0,
        "converged_evaluations": 99, "keep_matrix": False,
    }  # fmt: skip
    assert others.keys() == asdict(MASK).keys()
    keys = {replace(MASK, **{name: value}).key("case") for name, value in others.items()}
    assert len(keys | {MASK.key("case"), MASK.key("other")}) == len(others) + 2


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine='topas' is no reference engine; choose from"):
        ReferenceSettings("topas", 2.0)


@pytest.mark.parametrize("wrong", [
    {"dose_grid_mm": 0.0}, {"dose_grid_mm": float("nan")}, {"cutoff": 1.0}, {"reach_mm": "far"},
    {"converged_evaluations": 0}, {"depth_step_mm": True},
])  # fmt: skip
def test_numbers_out_of_range_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"{name}=.* of a reference must lie in"):
        ReferenceSettings("yoda", **{"dose_grid_mm": 2.0, **wrong})


def test_an_engine_of_other_particles_is_refused(case, shaping_case):
    with pytest.raises(ValueError, match="'photon_svd' cannot compute the dose of generic_proton"):
        reference_of(case, ReferenceSettings("photon_svd", 3.0))
    with pytest.raises(ValueError, match="takes 'photon_svd'"):
        reference_of(shaping_case, ReferenceSettings("yoda", 3.0))
    carbon = replace(case, plan={**case.plan, "machine": "generic_carbon"})
    with pytest.raises(ValueError, match="takes 'pencil_beam'"):
        reference_of(carbon, ReferenceSettings("yoda", 3.0))


def test_a_state_of_another_case_is_refused(case, mask_reference):
    other = replace(case, key="another")
    with pytest.raises(ValueError, match="ask for the reference of the state's own case"):
        mask_reference.judge(mask_end(other, case.start_weights))


def test_what_is_no_case_is_refused():
    with pytest.raises(ValueError, match="of no family that a reference is known for"):
        default_reference("head-and-neck-20000")
