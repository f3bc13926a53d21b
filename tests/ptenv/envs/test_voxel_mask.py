from dataclasses import replace
from itertools import combinations

import gymnasium as gym
import numpy as np
import pytest

import ptenv  # noqa: F401  registers the ids
from engine.optimization.solvers import LBFGSB
from ptenv.cases.anchors import EVALUATIONS
from ptenv.envs.arguments import constraint_costs
from ptenv.envs.voxel_mask import (
    LEAST_SHARE,
    SPENT,
    RoundChoice,
    VoxelMaskEnv,
    VoxelMaskTask,
)


@pytest.fixture
def make(small):
    """Environments on small cases; arguments as the constructor's."""

    def made(**settings):
        recipe = {**small, "level": "L3", **settings.pop("recipe", {})}
        settings = {"case": "head-and-neck-00001", "budget": 0.1} | settings
        return VoxelMaskEnv(recipe=recipe, **settings)

    return made


@pytest.fixture
def task():
    return VoxelMaskTask(oneshot=False)


def choice(mask, n=10, share=1.0):
    return RoundChoice(np.asarray(mask, bool), n, share, False)


def some(case, share, seed=0):
    return np.random.default_rng(seed).random(case.influence.n_rows) < share


# ---------------------------------------------------------------- work and budget


def test_a_round_costs_nonzeros_times_evaluations(case, task):
    start = task.start(case, 1.0)
    mask = some(case, 0.3)
    after = task.transition(start, choice(mask, 12), np.random.default_rng(1))
    touched = int(case.row_nonzeros[after.mask].sum())
    assert start.work_left - after.work_left == 12 * touched
    assert after.n_evaluations == 12
    np.testing.assert_array_equal(after.mask & mask, mask)  # it fits: nothing is thinned


def test_what_exceeds_the_share_of_work_is_thinned(case, task):
    start = task.start(case, 0.1)
    after = task.transition(start, choice(some(case, 0.9), 20, 0.25), np.random.default_rng(1))
    spent = start.work_left - after.work_left
    one_each = len(case.problem.structures) * int(case.row_nonzeros.max()) * 20
    assert spent <= 0.25 * start.work_left + one_each
    assert spent > 0.2 * start.work_left


def test_no_round_spends_more_than_is_left(case, task):
    rng, state = np.random.default_rng(5), task.start(case, 0.1)
    for _ in range(60):
        before = state.work_left
        ask = choice(some(case, rng.random()), int(rng.integers(1, 101)), float(rng.random()))
        state = task.transition(state, ask, rng)
        assert 0 <= state.work_left < before or before == 0
    assert task.is_complete(state)


def test_a_round_takes_at_least_a_fiftieth_of_what_is_left(case, task):
    start = task.start(case, 1.0)
    after = task.transition(start, choice(np.ones_like(case.target_rows), 1, 0.0),
                            np.random.default_rng(0))  # fmt: skip
    assert after.mask.any()
    assert start.work_left - after.work_left >= 0.5 * LEAST_SHARE * start.work_left


def test_a_round_that_cannot_pay_for_one_evaluation_ends_the_episode(case, task):
    poor = replace(task.start(case, 0.1), work_left=3)
    after = task.transition(poor, choice(some(case, 0.5)), np.random.default_rng(0))
    assert (after.work_left, after.n_evaluations) == (0, 0)
    assert task.is_complete(after)
    np.testing.assert_array_equal(after.weights, poor.weights)


def test_evaluations_that_the_solver_leaves_are_paid_all_the_same(case, task):
    """At the minimum of one voxel nothing improves; what was ordered is spent."""
    start = task.start(case, 1.0)
    nothing = np.zeros_like(case.target_rows)
    first = task.transition(start, choice(nothing, 100), np.random.default_rng(0))
    problem = case.problem.masked(first.mask)
    used = LBFGSB(max_evaluations=100, tolerance=0.0).solve(problem, first.weights)
    assert used.n_evaluations < 100
    again = task.transition(first, choice(first.mask, 100), np.random.default_rng(0))
    assert first.work_left - again.work_left == 100 * problem.n_nonzeros


def test_one_evaluation_keeps_the_plan(case, task):
    start = task.start(case, 0.1)
    first = task.transition(start, choice(some(case, 0.3), 10, 0.5), np.random.default_rng(0))
    kept = task.transition(first, choice(some(case, 0.3), 1, 0.5), np.random.default_rng(0))
    np.testing.assert_array_equal(kept.weights, first.weights)
    assert kept.objective == first.objective


def test_a_structure_that_the_mask_empties_keeps_one_voxel_drawn_by_seed(case, task):
    start = task.start(case, 1.0)
    without_targets = ~case.target_rows
    kept = [
        task.transition(start, choice(without_targets, 2), np.random.default_rng(s)).mask
        for s in (1, 1, 2)
    ]
    assert kept[0][case.target_rows].sum() >= 1
    np.testing.assert_array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])


def test_the_episode_is_over_when_less_than_a_hundredth_is_left(case, task):
    start = task.start(case, 0.1)
    assert not task.is_complete(start)
    assert not task.is_complete(replace(start, work_left=int(1.01 * SPENT * start.work_budget)))
    assert task.is_complete(replace(start, work_left=int(0.99 * SPENT * start.work_budget)))


# ---------------------------------------------------------------- score


def test_keeping_all_rows_for_all_evaluations_scores_one(make):
    env = make(action="mask", budget=1.0, oneshot=True)
    env.reset(seed=0)
    action = np.ones(env.action_space.shape, np.int8)
    _, _, terminated, _, info = env.step(action)
    anchors = env.state.case.anchors
    assert terminated
    assert (info["selected_percent"], info["n_evaluations"]) == (100.0, EVALUATIONS)
    assert info["work_used"] == 1.0
    assert anchors.score(info["objective"], 0.1) == pytest.approx(1.0, abs=0.02)


def test_uniform_sampling_scores_about_zero_on_average(make):
    env = make(oneshot=True, recipe={"n_anchor_masks": 10})
    keep_all_rates = np.ones(env.action_space.shape, np.float32)  # thinned to the budget
    scores = []
    for seed in range(10):
        env.reset(seed=seed)
        scores.append(env.step(keep_all_rates)[-1]["raw_score"])
    noise = env.state.case.anchors.noise[0.1] / env.state.case.anchors.gap(0.1)
    assert np.mean(scores) == pytest.approx(0.0, abs=4.0 * noise / np.sqrt(10))


def test_rewards_sum_to_the_final_score_less_the_first(make):
    env = make(reward="score")
    _, first = env.reset(seed=3)
    env.action_space.seed(0)
    total, done = 0.0, False
    while not done:
        _, reward, done, _, info = env.step(env.action_space.sample())
        total += reward
        assert reward == pytest.approx(info["reward_score"])
        assert info["reward_terms"] == {"score": info["reward_score"]}
    assert total == pytest.approx(info["score"] - first["score"], abs=1e-9)


def test_the_reward_does_not_change_what_is_scored(make):
    finals = []
    for reward in ("score", "potential"):
        env = make(reward=reward)
        env.reset(seed=3)
        finals.append(env.step(np.zeros(env.action_space.shape, np.float32))[-1])
    assert finals[0]["score"] == finals[1]["score"]
    assert finals[0]["objective"] == finals[1]["objective"]


def test_the_objective_of_a_state_is_the_problem_s_own_on_all_rows(case, task):
    state = task.transition(
        task.start(case, 1.0), choice(some(case, 0.5)), np.random.default_rng(0)
    )
    assert state.objective == case.problem.value_of_dose(case.influence.dose(state.weights))
    np.testing.assert_array_equal(state.dose_gy, case.dose_gy(state.weights))


def test_violation_is_the_root_of_a_row_s_share_relative_to_the_worst(case, task):
    state = task.start(case, 0.1)
    share = state.row_penalty / state.row_penalty.max()
    assert 0 < share[share < 1].max()
    np.testing.assert_allclose(state.violation**2, share, rtol=1e-5)
    assert not replace(state, row_penalty=np.zeros_like(share)).violation.any()


def test_metrics_of_unsampled_voxels_count(case, task):
    """Info judges the plan on all rows, whatever entered the optimization."""
    state = task.transition(
        task.start(case, 0.1), choice(some(case, 0.02)), np.random.default_rng(0)
    )
    assert task.info(state)["metrics"] == case.metrics(case.dose_gy(state.weights))


@pytest.mark.parametrize(
    "hot, cord, stem, costs",
    [(110.0, 47.0, 55.0, (3.0, 2.0, 1.0)), (107.0, 45.0, 54.0, (0.0, 0.0, 0.0)),
     (90.0, None, None, (0.0, 0.0, 0.0))],
)  # fmt: skip
def test_constraint_signals_are_what_lies_above_the_limit(hot, cord, stem, costs):
    organs = {"SpinalCord": cord, "Brainstem": stem}
    metrics = {name: {"D0.1cc[Gy]": gy} for name, gy in organs.items() if gy is not None}
    metrics["PTV_7000"] = {"D2%[%]": hot}
    found = constraint_costs(metrics, "PTV_7000")
    assert found == dict(zip(("cost_hot_spot", "cost_cord", "cost_brainstem"), costs))


def test_success_is_a_score_of_keep_all(case, task):
    start = task.start(case, 0.1)
    anchors = case.anchors
    for rho, success in ((0.99 * anchors.rho_all, True), (1.01 * anchors.rho_all, False)):
        info = task.info(replace(start, objective=anchors.f_star + rho))
        assert info["is_success"] is success


# ---------------------------------------------------------------- the shell


def test_a_case_is_drawn_from_the_split_unless_it_is_fixed(make):
    env = make(case=None, n_patients=3, budget=None)
    seen = {env.reset(seed=s)[1]["case_id"] for s in range(12)}
    assert seen == {f"head-and-neck-{k:05d}" for k in range(3)}
    env = make(case=None, split="validation", n_patients=1)
    assert env.reset(seed=0)[1]["case_id"] == "head-and-neck-10000"


@pytest.mark.parametrize("rate, budget", [(0.6, 1.0), (1.0, 0.1)], ids=["drawn", "thinned"])
def test_which_rows_are_kept_comes_from_the_seed(make, rate, budget):
    env = make(budget=budget)
    action = np.full(env.action_space.shape, rate, np.float32)
    action[-2:] = 0.0
    masks = []
    for seed in (1, 1, 2):
        env.reset(seed=seed)
        for _ in range(2):
            env.step(action)
            masks.append(env.state.mask)
    np.testing.assert_array_equal(masks[:2], masks[2:4])
    for one, other in combinations(masks[2:], 2):  # two seeds, two rounds each
        assert np.count_nonzero(one & other) < 0.8 * np.count_nonzero(one)


def test_the_budget_is_drawn_and_observed(make):
    env = make(budget=None)
    drawn = {}
    for seed in range(10):
        observation, info = env.reset(seed=seed)
        drawn[info["budget"]] = observation[-5]
    assert drawn == pytest.approx({0.1: 0.0, 1.0: 1.0})


def test_reset_takes_a_case_and_a_budget(make):
    env = make(budget=None)
    _, info = env.reset(options={"case": "head-and-neck-2", "budget": 0.1})
    assert (info["case_id"], info["budget"]) == ("head-and-neck-00002", 0.1)


def test_a_real_patient_is_planned(make, openkbp_pt_1):
    coarse = {"dose_grid_mm": 10.0, "spot_spacing_mm": 15.0, "layer_spacing_mm": 15.0}
    coarse |= {"n_anchor_masks": 1, "converged_evaluations": 30, "quality_evaluations": 5}
    env = make(case=f"openkbp:{openkbp_pt_1}", recipe=coarse, budget=1.0)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert info["case_id"] == "openkbp:pt_1"
    case = env.state.case
    assert case.targets == ("PTV_7000", "PTV_6300", "PTV_5600")
    assert case.anchors.reference_metrics["PTV_7000"]["D50%[%]"] == pytest.approx(100.0, abs=10.0)
    _, reward, _, _, after = env.step(np.ones(env.action_space.shape, np.float32))
    assert after["metrics"]["PTV_7000"]["D95%[%]"] > info["metrics"]["PTV_7000"]["D95%[%]"]
    assert reward > 0


def test_masks_are_padded_and_padding_changes_nothing(make):
    n_rows = make(action="mask").action_space.n
    padded = make(action="mask", max_rows=n_rows + 50)
    plain = make(action="mask")
    action = np.zeros(n_rows + 50, np.int8)
    action[:n_rows:3] = 1
    marked = action.copy()
    marked[-7:] = 1
    infos = []
    for env, bits in ((plain, action[:n_rows]), (padded, action), (padded, marked)):
        env.reset(seed=4)
        infos.append(env.step(bits)[-1])
    assert [i["invalid_action"] for i in infos] == [False, False, True]
    assert {i["objective"] for i in infos} == {infos[0]["objective"]}
    assert {i["cost"] for i in infos} == {infos[0]["cost"]}


def test_an_empty_mask_is_marked_and_still_plans(make):
    env = make(action="mask")
    env.reset(seed=0)
    info = env.step(np.zeros(env.action_space.shape, np.int8))[-1]
    assert info["invalid_action"]
    assert info["cost"] > 0


def test_the_volume_observation_shows_target_and_dose_in_their_place(make):
    env = make(observation="volume", volume_size=(32, 40, 40))
    observation, _ = env.reset(seed=0)
    depth, target, organ, dose = observation["volume"]
    case = env.state.case
    assert target.sum() == case.target_rows.sum()
    hit = np.argwhere(target > 0)
    np.testing.assert_allclose((hit.min(0) + hit.max(0)) / 2, (16, 20, 20), atol=1.0)
    assert depth[target > 0].min() > 0
    assert not np.any((organ > 0) & (target > 0))
    assert dose[target > 0].mean() == pytest.approx(1 / 1.2, abs=0.2)


def test_targets_that_the_volume_cuts_are_warned_of(make):
    env = make(observation="volume", volume_size=(2, 2, 2))
    with pytest.warns(UserWarning, match=r"volume_size=\(2, 2, 2\) leaves \d+ target voxels"):
        env.reset(seed=0)


def test_observations_hold_neither_anchors_nor_the_bound(make):
    """Other anchors, the same episode: no component may change but those of the score in info."""
    env = make()
    plain, _ = env.reset(seed=0)
    case = env.state.case
    moved = replace(case.anchors, f_star=0.5 * case.anchors.f_star, rho_all=1.0,
                    rho_uniform={0.1: 9.0})  # fmt: skip
    other = replace(env.state, case=replace(case, anchors=moved))
    np.testing.assert_array_equal(env._observe(other.case, other), plain)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"budget": 0.0}, r"budget=0.0 is not among \(0.1, 1.0\)"),
        ({"budget": 0.3}, r"budget=0.3 is not among"),
        ({"case": "lung-1"}, "case='lung-1' is unknown"),
        ({"split": "exam"}, "split='exam' is unknown"),
        ({"n_patients": 0}, "n_patients=0"),
        ({"action": "paint"}, "action='paint' is unknown"),
        ({"observation": "pixels"}, "observation='pixels' is unknown"),
        ({"reward": "dose"}, "reward='dose' is unknown"),
        ({"preset": "huge"}, "preset='huge' is unknown"),
        ({"render_mode": "human"}, "render_mode='human' is unknown"),
        ({"n_patients": 2.5}, "n_patients=2.5 must be a whole number"),
        ({"recipe": {"dose_grid": 3}}, r"unknown settings \['dose_grid'\]; known are"),
        ({"recipe": {"patient": "head-and-neck-1"}}, "The patient is the argument case"),
        ({"recipe": {"dose_grid_mm": 0}}, "dose_grid_mm=0"),
        ({"recipe": {"gantry_deg": [400]}}, "gantry_deg=400.0 must lie in -360 … 360"),
        ({"observation": "volume", "volume_size": (3, 0, 3)}, "volume_size="),
        ({"observation": "volume", "volume_size": 3}, "volume_size=3 must be three whole"),
        ({"observation": "volume", "volume_size": (3.5, 3, 3)}, "must be three whole"),
        ({"action": "mask", "case": None}, "needs max_rows"),
        ({"action": "mask", "max_rows": 0}, "max_rows=0"),
        ({"action": "mask", "max_rows": "all"}, "max_rows='all' must be a whole number"),
        ({"action": "mask", "mask_evaluations": 2.5}, "mask_evaluations=2.5 must be a whole"),
        ({"action": "mask", "mask_evaluations": 101}, "mask_evaluations=101"),
    ],
)
def test_wrong_arguments_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_recipe_that_is_no_mapping_is_refused():
    with pytest.raises(ValueError, match="recipe='fine' must be a mapping"):
        VoxelMaskEnv(recipe="fine")


def test_a_case_with_more_rows_than_the_mask_is_refused(make):
    with pytest.raises(ValueError, match="max_rows=5 is less than the .* rows of head-and-neck"):
        make(action="mask", max_rows=5).reset(seed=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget": 0}, "budget=0 has no anchors"),
        ({"budget": 0.3}, "budget=0.3 has no anchors"),
        ({"budget": [0.1]}, r"budget=\[0.1\] has no anchors"),
        ({"case": "lung"}, "case='lung' is unknown"),
        ({"patient": 3}, "are unknown; known are 'case' and 'budget'"),
        ("budget", "options='budget' must be a mapping"),
    ],
)
def test_wrong_reset_options_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make().reset(seed=0, options=options)


def test_stepping_or_drawing_before_reset_says_so(make):
    env = make(render_mode="ansi")
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(env.action_space.sample())
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.render()


def test_the_environment_can_be_closed_twice(make):
    env = make()
    env.close()
    env.close()
