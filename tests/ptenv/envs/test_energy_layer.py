"""The arc as a task: times, masks, scores and rewards; and its case, stored and read."""

import pickle

import gymnasium as gym
import numpy as np
import pytest

import ptenv  # noqa: F401  registers the ids
from engine.optimization.layer_sequencing import dynamic_programming
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.library import forget_cases, load_case
from ptenv.envs.energy_layer import EnergyLayerEnv, EnergyLayerTask, nearest_allowed

SMALL = {
    "ct_spacing_mm": 5.0, "dose_grid_mm": 7.0, "n_angles": 10, "n_layers": 14,
    "layer_spacing_mm": 8.0, "spot_spacing_mm": 9.0, "ring_mm": 8.0, "n_points": 150,
    "lateral_cutoff": 0.05, "evaluations": 10, "sketch_evaluations": 8, "bound_evaluations": 20,
    "sketch_rows": 300, "sketch_spacing_mm": 12.0, "limits": (1.1, 1.5),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTENV_CACHE", str(tmp_path_factory.mktemp("arcs")))
        forget_cases()
        yield
        forget_cases()


def make(**settings):
    recipe = {**SMALL, **settings.pop("recipe", {})}
    return gym.make("ptenv/EnergyLayer-v0", case="nasopharynx-00001", recipe=recipe, **settings)


def case_of(**recipe):
    return load_case(EnergyLayerRecipe("nasopharynx-00001", **{**SMALL, **recipe}))


def play(env, choose, seed=0):
    observation, info = env.reset(seed=seed)
    rewards, over = [], False
    while not over:
        mask = env.unwrapped.action_masks()
        observation, reward, over, _, info = env.step(int(choose(env.unwrapped.state, mask)))
        rewards.append(reward)
    return rewards, info


def lowest(state, mask):
    return np.flatnonzero(mask)[0]


def test_the_time_used_is_the_sequence_s_own():
    env = make(limit=1.5)
    _, info = play(env, lambda s, m: np.random.default_rng(s.angle).choice(np.flatnonzero(m)))
    state, times = env.unwrapped.state, env.unwrapped.state.case.sequencing
    assert info["delivery_s"] == pytest.approx(times.time_s(state.choice))
    assert info["switching_s"] == pytest.approx(times.switching_s(state.choice))
    up, down, unchanged = times.transitions(state.choice)
    assert (info["n_up"], info["n_down"], info["n_unchanged"]) == (up, down, unchanged)


@pytest.mark.parametrize("layers", [1, 3])
def test_coverage_is_that_of_the_points(layers):
    env = make(recipe={"layers_per_angle": layers}, terminal="proxy", limit=1.5)
    _, info = play(env, lambda s, m: np.flatnonzero(m)[-1])
    state = env.unwrapped.state
    assert info["coverage"] == pytest.approx(state.case.coverage.value(state.choice))


def test_dynamic_programming_scores_zero():
    case = case_of()
    limit = 1.5
    choice = dynamic_programming(
        case.sequencing, case.counts["target"], limit * case.sequencing.floor_s
    )
    for terminal in ("plan", "sketch"):
        env = make(limit=limit, terminal=terminal)
        rewards, info = play(env, lambda s, m: choice[s.angle, 0])
        assert info["score"] == pytest.approx(0.0, abs=1e-6)
        assert sum(rewards) == pytest.approx(info["score"])
        assert info["invalid_action"] is False


def test_all_layers_score_one_and_are_better_than_any_single():
    case = case_of()
    for fidelity in ("plan", "sketch"):
        bound = case.anchors.bound[fidelity]
        assert case.anchors.score(bound, 1.5, fidelity) == pytest.approx(1.0)
        assert all(bound < f for f in case.anchors.dynamic[fidelity].values())


def test_scores_fall_with_the_worst_case():
    anchors = case_of().anchors
    values = np.geomspace(0.3, 3.0, 9) * anchors.dynamic["plan"][1.5]
    scores = [anchors.raw_score(v, 1.5, "plan") for v in values]
    assert np.all(np.diff(scores) < 0)
    assert anchors.score(1e9, 1.5, "plan") == -1.0
    assert anchors.score(1e-9, 1.5, "plan") == 1.5


def test_shaping_changes_no_return_but_by_where_it_began():
    plain, _ = play(make(limit=1.5), lowest)
    shaped, info = play(make(limit=1.5, reward="shaped"), lowest)
    assert sum(plain) == pytest.approx(info["score"])
    assert sum(shaped) == pytest.approx(info["score"])
    assert any(r != 0 for r in shaped[:-1])
    proxy, info = play(make(limit=1.5, terminal="proxy"), lowest)
    assert sum(proxy) == pytest.approx(info["coverage"])


def test_a_tight_limit_leaves_no_room_for_switches_up():
    env = make(limit=1.1, terminal="proxy")
    _, info = play(env, lambda s, m: np.flatnonzero(m)[-1])
    assert info["delivery_s"] <= info["limit_s"] + 1e-6
    roomy = make(limit=1.5, terminal="proxy")
    _, more = play(roomy, lambda s, m: np.flatnonzero(m)[-1])
    assert more["n_up"] >= info["n_up"]


def test_the_layer_that_is_set_adds_none():
    env = make(recipe={"layers_per_angle": 2}, terminal="proxy", limit=1.5)
    play(env, lambda s, m: s.before if s.slot else np.flatnonzero(m)[0])
    choice = env.unwrapped.state.choice
    assert np.all(choice[:, 1] == -1)


def test_more_layers_an_angle_never_hurt_the_worst_case():
    """The layers of one an angle, and others beside them, with more work on more spots."""
    case = case_of()
    one = np.zeros(case.sequencing.valid.shape, bool)
    served = case.sequencing.served
    one[served, case.counts["target"][served].argmax(axis=1)] = True
    two = one | (case.sequencing.valid & np.roll(one, 2, axis=1))
    assert case.optimize(two, evaluations=40).worst < case.optimize(one, evaluations=40).worst


def test_the_nearest_allowed_layer_runs():
    mask = np.array([False, True, False, False, True])
    assert nearest_allowed(mask, 1) == (1, False)
    assert nearest_allowed(mask, 0) == (1, True)
    assert nearest_allowed(mask, 3) == (4, True)


def test_start_and_direction_turn_the_arc():
    a, b = case_of(), case_of(start_deg=90.0, direction="counterclockwise")
    assert a.angles_deg[0] == 0.0
    assert b.angles_deg[0] == 90.0
    assert (b.angles_deg[1] - b.angles_deg[0]) % 360 == pytest.approx(324.0)


def test_a_stored_case_plans_as_the_built_one(tmp_path, monkeypatch):
    built = load_case(EnergyLayerRecipe("nasopharynx-00001", **SMALL), cache=False)
    monkeypatch.setenv("PTENV_CACHE", str(tmp_path))
    forget_cases()
    recipe = EnergyLayerRecipe("nasopharynx-00001", **SMALL)
    load_case(recipe)
    forget_cases()
    stored = load_case(recipe)
    assert stored is not built
    assert stored.anchors == built.anchors
    choice = stored.counts["target"].argmax(axis=1)[:, None]
    for fidelity in ("plan", "sketch"):
        assert stored.optimize(choice, fidelity).worst == built.optimize(choice, fidelity).worst
    forget_cases()


def test_kept_influence_plans_as_traced_rows_do():
    kept, traced = case_of(keep_influence=True), case_of()
    choice = kept.counts["target"].argmax(axis=1)[:, None]
    for fidelity in ("plan", "sketch"):
        a, b = kept.optimize(choice, fidelity), traced.optimize(choice, fidelity)
        assert a.worst == pytest.approx(b.worst, rel=1e-3)


def test_a_pickled_case_is_its_recipe():
    case = case_of()
    text = pickle.dumps(case)
    assert len(text) < 2000
    assert pickle.loads(text) is case


def test_the_sketch_plans_on_valid_layers_of_its_own():
    case = case_of()
    choice = np.array([np.flatnonzero(v)[-1] for v in case.sequencing.valid])[:, None]
    moved = case.chosen_for(choice, "sketch")
    assert np.all(moved.sum(axis=1) == 1)
    assert np.all(case.sketch_geometry.valid[moved])


def test_counts_without_an_organ_are_never_larger():
    counts = case_of().counts
    assert set(counts) == {
        "target", "target-Brainstem", "target-SpinalCord", "target-Parotid", "target-organs"
    }  # fmt: skip
    for matrix in counts.values():
        assert np.all(matrix <= counts["target"])
    assert np.all(counts["target-organs"] <= counts["target-Brainstem"])


@pytest.mark.parametrize("settings, match", [
    ({"terminal": "dose"}, "terminal='dose'"), ({"reward": "fun"}, "reward='fun'"),
    ({"limit": 1.2}, r"limit=1\.2"), ({"preset": "tiny"}, "preset='tiny'"),
    ({"site": "lung"}, "site='lung'"), ({"render_mode": "human"}, "render_mode='human'"),
    ({"recipe": {"n_angles": 0}}, "n_angles"), ({"recipe": {"limits": []}}, "limits"),
    ({"recipe": {"limits": [0.5]}}, "limits"), ({"recipe": {"side": "top"}}, "side='top'"),
    ({"recipe": {"switch_up_s": -1}}, "switch_up_s"), ({"recipe": {"colour": 1}}, "colour"),
    ({"recipe": {"direction": "up"}}, "direction='up'"), ({"recipe": 3}, "recipe=3"),
])  # fmt: skip
def test_arguments_that_cannot_be_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        EnergyLayerEnv(**settings)


def test_limits_without_anchors_are_refused_at_reset():
    env = make()
    with pytest.raises(ValueError, match="limit=3 has no anchors"):
        env.reset(options={"limit": 3})
    with pytest.raises(ValueError, match="budget"):
        env.reset(options={"budget": 0.1})


def test_nothing_goes_before_reset_and_after_the_end():
    env = EnergyLayerEnv(case="nasopharynx-00001", recipe=SMALL, terminal="proxy", limit=1.5)
    for call in (lambda: env.step(0), env.action_masks, env.render):
        with pytest.raises(gym.error.ResetNeeded):
            call()
    task = EnergyLayerTask("proxy")
    env.reset(seed=0)
    while not env.state.is_over:
        env.step(0)
    with pytest.raises(gym.error.ResetNeeded, match="complete"):
        task.transition(env.state, 0)


def test_the_clock_tells_of_a_steps_own_plan():
    env = make()
    for _ in range(2):  # an environment that plays again has no time of the plan before
        env.reset(seed=0)
        clocks, over = [], False
        while not over:
            layer = int(np.flatnonzero(env.unwrapped.action_masks())[0])
            _, _, over, _, _ = env.step(layer)
            clocks.append(env.unwrapped.task.optimization_s)
        assert clocks[-1] > 0.0
        assert not any(clocks[:-1])
