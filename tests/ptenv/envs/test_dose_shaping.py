"""Dose shaping as a task: scores, masks, spots, starts; its case; demonstrations."""

import pickle
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

import ptenv  # noqa: F401  registers the ids
from engine.optimization.shaping_requests import DvhPoint, VoxelRequest
from engine.optimization.shaping_session import ShapingSession
from ptenv.cases.dose_shaping_case import ShapingAnchors, goal_multipliers
from ptenv.cases.dose_shaping_recipe import DoseShapingRecipe
from ptenv.cases.library import forget_cases, load_case
from ptenv.cases.shaping_goals import KINDS
from ptenv.envs.dose_shaping import DoseShapingEnv, DoseShapingTask
from ptenv.envs.dose_shaping_actions import (
    APART_MM,
    N_GOAL_ACTIONS,
    N_SPOTS,
    STRENGTHS,
    nearest_row,
    place_of,
)  # fmt: skip
from ptenv.envs.dose_shaping_demonstrations import demonstration, recorded_environment

SMALL = {
    "ct_spacing_mm": 5.0, "target_volume_cm3": (6.0, 10.0), "dose_grid_mm": 5.0, "ring_mm": 8.0,
    "gantry_deg": (0.0, 80.0, 160.0, 240.0, 320.0), "bixel_mm": 7.0, "reach_mm": 25.0,
    "layer_spacing_mm": 10.0, "n_goals": 3, "start_evaluations": 15, "converged_evaluations": 60,
    "direct_evaluations": 30, "quality_evaluations": 15, "level": "L3",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTENV_CACHE", str(tmp_path_factory.mktemp("shaping")))
        forget_cases()
        yield
        forget_cases()


def make(**settings):
    recipe = {**SMALL, **settings.pop("recipe", {})}
    settings = {"goals": 0, "volume_size": (3, 5, 5), **settings}
    return gym.make("ptenv/DoseShaping-v0", case="head-and-neck-00001", recipe=recipe, **settings)


def case_of(**recipe):
    return load_case(DoseShapingRecipe("head-and-neck-00001", **{**SMALL, **recipe}))


# ---------------------------------------------------------------------------------------- score


def test_doing_nothing_scores_0_and_the_direct_solver_1():
    anchors = case_of().anchors
    for goals in anchors.budgets:
        start, direct = anchors.direct[goals][0], anchors.direct[goals]
        assert anchors.score(start, goals, 0.0) == pytest.approx(0.0, abs=1e-9)
        for evaluations in (5, 10, 20):
            value = anchors.score(direct[evaluations], goals, 2.0 * evaluations)
            if anchors.gap(goals, 2.0 * evaluations) > 0.11:
                assert value == pytest.approx(1.0, abs=1e-6)


def test_few_products_are_not_compared_with_nothing():
    """After one evaluation the solver has not moved: the gap is that of five at least."""
    anchors = ShapingAnchors((1.0,), ((2.0, 2.0, 1.9, 1.8, 1.7, 1.5, 1.4),), {}, {})
    assert anchors.direct_after(0, 0.5) == 1.5
    assert anchors.direct_after(0, 12.0) == 1.4
    assert anchors.direct_after(0, 1e6) == 1.4
    assert anchors.score(1.5, 0, 1.0) == pytest.approx(1.0)
    assert anchors.score(3.0, 0, 1.0) == -1.0
    assert anchors.score(1.0, 0, 1.0) == 1.5


def test_useless_requests_do_not_mend_the_score_of_a_plan_that_got_worse():
    anchors = case_of().anchors
    worse = anchors.direct[0][0] + 0.02 * (anchors.direct[0][0] - anchors.f_star[0])
    scores = [anchors.score(worse, 0, products) for products in (1.0, 10.0, 60.0)]
    assert scores[0] < 0
    assert scores[0] == scores[1] == scores[2]


def test_more_products_for_the_same_plan_score_less():
    anchors = case_of().anchors
    better = anchors.f_star[0] + 0.5 * (anchors.direct[0][0] - anchors.f_star[0])
    scores = [anchors.score(better, 0, products) for products in (10.0, 20.0, 40.0)]
    assert scores[0] >= scores[1] >= scores[2]


def test_the_objective_is_that_of_the_weighted_goals():
    case = case_of()
    goals, dose = case.goals(1), case.quantity.value(case.influence.dose(case.start_weights[1]))
    assert goals.shares(dose).sum() == pytest.approx(goals.value(dose), rel=1e-4)
    assert goals.penalty(dose).sum(dtype=float) == pytest.approx(goals.value(dose), rel=1e-4)
    plain = case.problem.terms_of_dose(case.influence.dose(case.start_weights[1]))
    weighted = goals.problem.terms_of_dose(case.influence.dose(case.start_weights[1]))
    assert np.all((plain == 0) == (weighted == 0))
    assert not np.allclose(plain, weighted)


def test_the_worst_violation_is_the_row_that_costs_the_most():
    case = case_of()
    goals, dose = case.goals(0), case.quantity.value(case.influence.dose(case.start_weights[0]))
    for kind, terms in enumerate(goals.terms):
        worst = goals.worst(kind, dose)
        if worst is None:
            assert all(np.all(t.excess(dose) == 0) for t in terms)
            continue
        assert worst.excess_gy == pytest.approx(abs(dose[worst.row] - worst.level_gy), rel=1e-5)
        cold = KINDS[kind][1] == "cold"
        assert (dose[worst.row] < worst.level_gy) == cold


def test_every_patient_has_weightings_of_its_own():
    recipe = DoseShapingRecipe("head-and-neck-00001", **SMALL)
    other = replace(recipe, patient="head-and-neck-00002")
    assert not np.allclose(goal_multipliers(recipe), goal_multipliers(other))
    np.testing.assert_array_equal(goal_multipliers(recipe), case_of().multipliers)


# --------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize("modality", ["photon", "proton"])
@pytest.mark.parametrize("start", ["other_goals", "open_fields", "yesterday"])
def test_every_start_leaves_something_to_do(modality, start):
    anchors = case_of(modality=modality, start=start).anchors
    assert all(d[0] > f for d, f in zip(anchors.direct, anchors.f_star))
    assert any(anchors.is_sound(g) for g in anchors.budgets)
    for values in anchors.direct:
        assert np.all(np.diff(values) <= 0)


def test_open_fields_are_equal_everywhere():
    case = case_of(start="open_fields")
    assert np.ptp(case.start_weights[0]) == 0


def test_photons_have_no_rbe():
    assert case_of(modality="photon").quantity.rbe == 1.0
    assert case_of(modality="proton").quantity.rbe == 1.1


# -------------------------------------------------------------------------------------- actions


def test_a_goal_action_asks_for_its_share_of_the_worst_violation():
    env = make(n_recovery=0)
    _, info = env.reset(seed=0)
    state = env.unwrapped.state
    kind = int(state.shares.argmax())
    worst, before = state.worst[kind], state.dose_gy.copy()
    action = kind * len(STRENGTHS) + 1
    assert info["action_mask"][action] == 1
    *_, info = env.step(action)
    wanted = before[worst.row] + 0.3 * (worst.level_gy - before[worst.row])
    reached = env.unwrapped.state.dose_gy[worst.row]
    assert abs(reached - wanted) <= max(0.02 * 70.0, 0.1 * abs(wanted - before[worst.row]))
    assert info["n_requests"] == 1
    assert info["dose_products"] > 1.0
    assert not info["invalid_action"]


def test_actions_that_mean_nothing_become_the_nearest_that_does():
    env = make()
    _, info = env.reset(seed=0)
    mask = info["action_mask"].astype(bool)
    np.testing.assert_array_equal(mask, env.unwrapped.action_masks())
    assert mask[-1]
    masked = np.flatnonzero(~mask)
    assert len(masked)  # no case has every organ
    *_, info = env.step(int(masked[0]))
    assert info["invalid_action"]
    assert info["n_requests"] == 1
    assert info["dose_products"] > 0


def test_stop_ends_the_episode_and_keeps_the_score():
    env = make()
    env.reset(seed=0)
    *_, before = env.step(0)
    _, reward, terminated, truncated, info = env.step(N_GOAL_ACTIONS - 1)
    assert terminated
    assert not truncated
    assert reward == 0.0
    assert info["score"] == before["score"]
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.step(0)


def test_thirty_requests_are_the_most():
    env = make(n_recovery=0, action="candidates")
    env.reset(seed=0)
    for step in range(30):
        *_, terminated, truncated, info = env.step(0)
        assert not terminated
        assert truncated == (step == 29)
    assert info["n_requests"] == 30


def test_critical_spots_lie_apart_and_fall_in_weight():
    env = make(action="candidates")
    observation, _ = env.reset(seed=0)
    spots = env.unwrapped.state.spots
    points = env.unwrapped.state.case.scene.points_mm[[s.row for s in spots]]
    off = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e3 * np.eye(len(points))
    assert off.min() >= APART_MM
    assert np.all(np.diff([s.penalty for s in spots]) <= 0)
    assert observation["spots"][:, -1].sum() == min(len(spots), N_SPOTS)


def test_a_point_action_changes_the_dose_where_it_says():
    env = make(action="point", n_recovery=0)
    env.reset(seed=0)
    state = env.unwrapped.state
    row = int(np.flatnonzero(state.case.group == 0)[3])
    action = np.append(place_of(state.case, row), [0.25, -1.0]).astype(np.float32)
    assert nearest_row(state.case, action[:3]) == row
    before = state.dose_gy[row]
    env.step(action)
    highest = state.case.prescription_gy[state.case.targets[0]]
    gain = env.unwrapped.state.dose_gy[row] - before
    assert gain == pytest.approx(0.25 * 0.2 * highest, rel=0.02)
    *_, terminated, _, info = env.step(np.array([0, 0, 0, 0, 0.95], np.float32))
    assert terminated


def test_rewards_sum_to_the_score():
    env = make()
    env.reset(seed=0)
    env.action_space.seed(0)
    total = sum(env.step(env.action_space.sample() % (N_GOAL_ACTIONS - 1))[1] for _ in range(5))
    assert total == pytest.approx(env.unwrapped.state.score, abs=1e-9)


@pytest.mark.parametrize("action, kind", [
    (99, "goal"), (-1, "goal"), ("stop", "goal"), (0.5, "goal"),
    (np.full(5, np.nan), "point"), (np.zeros(4), "point"),
])  # fmt: skip
def test_actions_outside_the_space_are_refused(action, kind):
    env = make(action=kind).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)
    assert env.state.n_requests == 0


@pytest.mark.parametrize("settings, named", [
    (dict(action="isodose"), "action"), (dict(observation="image"), "observation"),
    (dict(reward="dose"), "reward"), (dict(goals=9), "goals"), (dict(goals=True), "goals"),
    (dict(n_recovery=-1), "n_steps"), (dict(volume_size=(0, 1, 1)), "volume_size"),
    (dict(modality="electron"), "modality"), (dict(start="tomorrow"), "start"),
    (dict(recipe={"bixel": 5.0}), "unknown settings"), (dict(recipe={"n_goals": 1}), "n_goals"),
])  # fmt: skip
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        make(**settings)


# ------------------------------------------------------------------------------------- the case


def test_a_stored_case_is_the_case_that_was_built():
    case = case_of()
    forget_cases()
    read = case_of()
    assert read is not case
    np.testing.assert_array_equal(read.start_weights, case.start_weights)
    assert read.anchors == case.anchors
    dose = read.influence.dose(read.start_weights[0])
    np.testing.assert_array_equal(dose, case.influence.dose(case.start_weights[0]))
    assert pickle.loads(pickle.dumps(read)).key == case.key


def test_what_changes_numbers_changes_the_key():
    recipe = DoseShapingRecipe("head-and-neck-00001", **SMALL)
    keys = {replace(recipe, **change).key() for change in (
        {}, {"modality": "proton"}, {"start": "yesterday"}, {"reach_mm": 30.0}, {"n_goals": 4},
    )}  # fmt: skip
    assert len(keys) == 5


# ------------------------------------------------------------------------------- demonstrations


def test_a_record_of_the_page_plays_to_the_same_plan():
    env = make(action="point", n_recovery=12, guarded=False)
    env.reset(seed=0)
    player: DoseShapingEnv = env.unwrapped
    state, task = player.state, player.task
    shaper = state.case.shaper(0, task.recovery)
    session = ShapingSession(shaper, state.case.scene, state.case.start_weights[0])
    at = tuple(float(c) for c in session.scene.points_mm[int(np.argmax(session.dose_gy))])
    session.request(VoxelRequest(at, 0.95 * float(session.dose_gy.max())))
    session.request(VoxelRequest(at, 10.0))
    session.undo()
    target = state.case.targets[0]
    session.request(DvhPoint(target, 0.9 * state.case.prescription_gy[target], 99.0))
    record = {
        "environment": {"id": env.spec.id, "settings": dict(env.spec.kwargs)},
        "requests": session.record,
    }
    again, requests = recorded_environment(record)
    examples = demonstration(again, requests)
    np.testing.assert_array_equal(again.unwrapped.state.plan.weights, session.plan.weights)
    assert len(examples) == 2
    for example in examples:
        assert again.observation_space.contains(example.observation)
        assert again.action_space.contains(example.action)
    assert sum(e.reward for e in examples) == pytest.approx(examples[-1].info["score"], abs=1e-9)
    with pytest.raises(ValueError, match="reset"):
        demonstration(again, requests)
    with pytest.raises(ValueError, match="environment"):
        recorded_environment({"requests": []})


def test_the_task_is_pure():
    env = make()
    env.reset(seed=0)
    task, state = env.unwrapped.task, env.unwrapped.state
    assert isinstance(task, DoseShapingTask)
    weights = state.plan.weights.copy()
    request = VoxelRequest(tuple(map(float, state.case.scene.points_mm[0])), 5.0)
    one, two = task.requested(state, request), task.requested(state, request)
    np.testing.assert_array_equal(state.plan.weights, weights)
    np.testing.assert_array_equal(one.plan.weights, two.plan.weights)


def test_pictures_and_lines_are_drawn():
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    env.step(1)
    assert env.render().dtype == np.uint8
    text = make(render_mode="ansi")
    text.reset(seed=0)
    assert "dose products" in text.render()
