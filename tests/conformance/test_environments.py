"""What holds for every registered environment; ids are found in the registry.

The mini ids run as they are registered, on two patients. The full-size ids would take minutes a
case: they run the same code on a small recipe. A new id needs a line in SMALL.
"""

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, registry
from gymnasium.utils.env_checker import check_env

import ptenv  # noqa: F401  registers the ids
from ptenv.cases.library import forget_cases
from ptenv.cases.recipe import VoxelMaskRecipe

COARSE = {
    "ct_spacing_mm": 5.0, "target_volume_cm3": [6.0, 10.0], "dose_grid_mm": 4.5,
    "gantry_deg": [60.0, 300.0], "spot_spacing_mm": 6.0, "layer_spacing_mm": 6.0,
    "lateral_margin_mm": 4.0, "ring_mm": 8.0, "lateral_cutoff": 0.02, "n_anchor_masks": 2,
    "converged_evaluations": 50, "quality_evaluations": 10,
}  # fmt: skip
FEW_ANGLES = {
    "ct_spacing_mm": 5.0, "dose_grid_mm": 7.0, "n_angles": 10, "n_layers": 12,
    "layer_spacing_mm": 8.0, "spot_spacing_mm": 9.0, "lateral_margin_mm": 5.0, "ring_mm": 8.0,
    "n_points": 100, "lateral_cutoff": 0.05, "evaluations": 6, "sketch_evaluations": 6,
    "bound_evaluations": 8, "sketch_rows": 200, "sketch_spacing_mm": 12.0, "limits": [1.2, 1.6],
}  # fmt: skip
FEW_BEAMS = {
    "ct_spacing_mm": 5.0, "target_volume_cm3": [6.0, 10.0], "dose_grid_mm": 6.0, "ring_mm": 8.0,
    "gantry_deg": [0.0, 120.0, 240.0], "bixel_mm": 8.0, "reach_mm": 25.0, "layer_spacing_mm": 10.0,
    "n_goals": 2, "start_evaluations": 10, "converged_evaluations": 30, "direct_evaluations": 20,
    "quality_evaluations": 10,
}  # fmt: skip
TWO = {"n_patients": 2}
SMALL = {
    "ptenv/VoxelMask-v0": {**TWO, "recipe": COARSE},
    "ptenv/VoxelMask-oneshot-v0": {**TWO, "recipe": COARSE},
    "ptenv/VoxelMask-mini-v0": TWO,
    "ptenv/VoxelMask-oneshot-mini-v0": TWO,
    "ptenv/VoxelMask-oneshot-carbon-v0": {**TWO, "recipe": {**COARSE, "budgets": [0.1, 0.2]}},
    "ptenv/VoxelMask-oneshot-carbon-mini-v0": {**TWO, "recipe": {"budgets": [0.1, 0.2]}},
    "ptenv/EnergyLayer-v0": {**TWO, "recipe": FEW_ANGLES},
    "ptenv/EnergyLayer-2deg-v0": {**TWO, "recipe": {**FEW_ANGLES, "n_angles": 12}},
    "ptenv/EnergyLayer-mini-v0": {**TWO, "recipe": {"n_angles": 12}},
    "ptenv/DoseShaping-v0": {**TWO, "recipe": FEW_BEAMS, "volume_size": (4, 6, 6)},
    "ptenv/DoseShaping-dvh-v0": {**TWO, "recipe": {**FEW_BEAMS, "modality": "proton"}},
    "ptenv/DoseShaping-mini-v0": TWO,
}
FOUND = sorted(name for name in registry if name.startswith("ptenv/"))
IDS = [name for name in FOUND if name in SMALL]
VOXEL_MASK = [name for name in IDS if "VoxelMask" in name]
ENERGY_LAYER = [name for name in IDS if "EnergyLayer" in name]
KINDS = [  # every kind of action and of observation, on a small case
    {"action": "shells"}, {"action": "field"}, {"action": "mask", "max_rows": 9000},
    {"observation": "volume", "volume_size": [8, 16, 12]}, {"reward": "potential"},
]  # fmt: skip
EXPECTED_WARNINGS = (  # they want extractors of their own, which ship
    "observation volume has an unconventional shape",
    "observation spots has an unconventional shape",
)


@pytest.fixture(scope="module", autouse=True)
def case_cache(tmp_path_factory):
    """Cases are built once for this module; the user's cache is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTENV_CACHE", str(tmp_path_factory.mktemp("cases")))
        yield
        forget_cases()


def make(name, **settings):
    return gym.make(name, **{**SMALL[name], **settings})


def plain(tree):
    """Observations and infos as text, every bit of their numbers in it."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray):
        return [str(tree.dtype), tree.shape, hashlib.sha256(tree.tobytes()).hexdigest()]
    return repr(tree)


def rollout(env, n_steps, seed=0, actions=None):
    """All that an environment says in some steps, with resets as they come."""
    said = [plain(env.reset(seed=seed))]
    env.action_space.seed(seed)
    for step in range(n_steps):
        action = env.action_space.sample() if actions is None else actions[step]
        answer = env.step(action)
        said.append([plain(part) for part in answer])
        if answer[2] or answer[3]:
            said.append(plain(env.reset()))
    return said


def arrays_of(tree):
    if isinstance(tree, dict):
        return [a for value in tree.values() for a in arrays_of(value)]
    return [tree] if isinstance(tree, np.ndarray) else []


def keys_of(tree, path=""):
    if not isinstance(tree, dict):
        return {path}
    return {k for key, value in tree.items() for k in keys_of(value, f"{path}/{key}")}


def test_every_id_has_a_small_case():
    assert FOUND == sorted(SMALL), "give every registered id a line in SMALL"


def test_the_default_recipe_samples_at_least_200_voxels_per_cm3():
    """What the full-size ids leave to the small recipe here: the paper has 235 per cm³."""
    assert 1000.0 / VoxelMaskRecipe("head-and-neck-00000").dose_grid_mm ** 3 >= 200.0


# ---------------------------------------------------------------- the libraries' own checks


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_finds_nothing_to_complain_of(name):
    env = make(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert [str(w.message) for w in caught] == []


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["ptenv/VoxelMask-v0", "ptenv/VoxelMask-oneshot-v0"])
def test_stable_baselines_finds_nothing_to_complain_of(name, settings):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checker.check_env(make(name, **settings).unwrapped)
    messages = [str(w.message) for w in caught]
    assert [m for m in messages if not any(e in m for e in EXPECTED_WARNINGS)] == []


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["ptenv/VoxelMask-v0", "ptenv/VoxelMask-oneshot-v0"])
def test_every_kind_passes_gymnasium_s_check(name, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(name, **settings).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("observation", ["full", "dvh"])
@pytest.mark.parametrize("action", ["goal", "candidates", "point"])
def test_every_kind_of_dose_shaping_passes_both_checks(action, observation):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for check in (check_env, checker.check_env):
            check(make("ptenv/DoseShaping-v0", action=action, observation=observation).unwrapped)
    messages = [str(w.message) for w in caught]
    assert [m for m in messages if not any(e in m for e in EXPECTED_WARNINGS)] == []


@pytest.mark.parametrize("name", IDS)
def test_a_spec_survives_json(name):
    text = make(name).spec.to_json()
    again = EnvSpec.from_json(text).make()
    assert rollout(again, 3) == rollout(make(name), 3)
    assert json.loads(registry[name].to_json())["id"] == name


@pytest.mark.parametrize("name", IDS)
def test_specs_promise_what_the_task_says(name):
    spec = registry[name]
    assert spec.nondeterministic is False
    assert 1.0 <= spec.reward_threshold <= 1.5
    ends_by_itself = "oneshot" in name or name in ENERGY_LAYER
    most = 30 if "DoseShaping" in name else 8
    assert spec.max_episode_steps == (None if ends_by_itself else most)


# ---------------------------------------------------------------- determinism


@pytest.mark.parametrize("name", IDS)
def test_fifty_steps_of_two_environments_are_equal(name):
    assert rollout(make(name), 50) == rollout(make(name), 50)


@pytest.mark.parametrize("name", IDS)
def test_interleaved_environments_do_not_disturb_each_other(name):
    alone = [rollout(make(name), 6, seed) for seed in (1, 2)]
    both = [make(name), make(name)]
    together = [[plain(env.reset(seed=seed))] for env, seed in zip(both, (1, 2))]
    for env, seed in zip(both, (1, 2)):
        env.action_space.seed(seed)
    for _ in range(6):
        for env, said in zip(both, together):
            answer = env.step(env.action_space.sample())
            said.append([plain(part) for part in answer])
            if answer[2] or answer[3]:
                said.append(plain(env.reset()))
    assert together == alone


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))],
                         ids=["deepcopy", "pickle"])  # fmt: skip
def test_copies_in_mid_episode_go_on_identically(name, duplicate):
    env = make(name)
    env.reset(seed=5)
    env.action_space.seed(5)
    if "oneshot" not in name:
        env.step(env.action_space.sample())
    other = duplicate(env)
    for _ in range(4):
        action = env.action_space.sample()
        one, two = env.step(action), other.step(action)
        assert [plain(part) for part in one] == [plain(part) for part in two]
        if one[2] or one[3]:
            assert plain(env.reset()) == plain(other.reset())


def digests(small):
    """Hash of a rollout of every id; cases are built anew, in pieces small enough for threads."""
    import engine.dose.influence as influence

    influence.CHUNKS_PER_BLOCK = 20_000
    return {
        name: hashlib.sha256(
            repr(rollout(gym.make(name, **{**settings, "cache": False}), 6)).encode()
        ).hexdigest()
        for name, settings in small.items()
    }


def test_other_processes_and_thread_counts_give_the_same_bits():
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import test_environments as t;"
        "print(json.dumps(t.digests(json.loads(sys.argv[2]))))"
    )
    small = {name: {**SMALL[name], "n_patients": 1} for name in IDS}
    folder = os.path.dirname(os.path.abspath(__file__))
    found = []
    for threads in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code, folder, json.dumps(small)], capture_output=True,
            text=True, timeout=300, check=False, env={**os.environ, "PTENV_THREADS": threads},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", IDS)
def test_vectors_follow_the_single_environment(name):
    n_steps, seeds = 5, [3, 4]
    vectors = [
        gym.make_vec(name, num_envs=2, vectorization_mode=mode, **SMALL[name])
        for mode in ("sync", "async")
    ]
    space = vectors[0].action_space
    space.seed(0)
    actions = [space.sample() for _ in range(n_steps)]
    single = [_autoreset(make(name), seed, [a[i] for a in actions]) for i, seed in enumerate(seeds)]
    for vector in vectors:
        seen = [vector.reset(seed=seeds)[0]]
        rewards = []
        for action in actions:
            observation, reward, *_ = vector.step(action)
            seen.append(observation)
            rewards.append(reward)
        vector.close()
        for i in range(2):
            np.testing.assert_equal([of_one(o, i) for o in seen], single[i][0])
            np.testing.assert_array_equal([r[i] for r in rewards], single[i][1])


def of_one(observation, i):
    """The observation of one environment of a vector."""
    if isinstance(observation, dict):
        return {key: value[i] for key, value in observation.items()}
    return observation[i]


def _autoreset(env, seed, actions):
    """Observations and rewards as a vector gives them: a reset takes a step of its own."""
    observations, rewards, over = [env.reset(seed=seed)[0]], [], False
    for action in actions:
        if over:
            observation, reward, over = env.reset()[0], 0.0, False
        else:
            observation, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        observations.append(observation)
        rewards.append(reward)
    return observations, rewards


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("name", IDS)
def test_render_modes_give_what_they_declare(name):
    assert set(gym.make(name, **SMALL[name]).metadata["render_modes"]) == {"rgb_array", "ansi"}
    env = make(name, render_mode="ansi")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert isinstance(env.render(), str)
    pytest.importorskip("matplotlib")
    env = make(name, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("name", ["ptenv/VoxelMask-v0", "ptenv/VoxelMask-oneshot-v0"])
def test_random_actions_never_raise_and_observations_stay_in_their_space(name, settings):
    env = make(name, **settings)
    env.action_space.seed(1)
    env.observation_space.seed(1)
    for episode in range(4):
        observation, info = env.reset(seed=episode)
        over = False
        while not over:
            assert observation in env.observation_space
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            over = terminated or truncated
            assert type(reward) is float
            assert np.isfinite(reward)
            assert {type(terminated), type(truncated)} == {bool}
        assert observation in env.observation_space
        assert -1.0 <= info["score"] <= 1.5


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_call_gives_objects_of_its_own(settings):
    env = make("ptenv/VoxelMask-v0", **settings)
    env.action_space.seed(0)
    given = [env.reset(seed=0)]
    given += [env.step(env.action_space.sample())[::4] for _ in range(2)] + [env.reset()]
    arrays = [[*arrays_of(observation), *arrays_of(info)] if isinstance(observation, dict)
              else [observation, *arrays_of(info)] for observation, info in given]  # fmt: skip
    state = env.unwrapped.state
    held = [a for a in vars(state).values() if isinstance(a, np.ndarray)]
    for i, some in enumerate(arrays):
        for a in some:
            assert not any(np.shares_memory(a, b) for other in arrays[:i] for b in other)
            assert not any(np.shares_memory(a, b) for b in held)
    assert len({id(info) for _, info in given}) == len(given)
    assert len({id(info["metrics"]) for _, info in given}) == len(given)


@pytest.mark.parametrize("name", IDS)
def test_info_has_the_same_keys_on_every_call(name):
    env = make(name, case="head-and-neck-00000")
    env.action_space.seed(0)
    infos = [env.reset(seed=0)[1]]
    over = False
    while not over:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        over = terminated or truncated
        infos.append(info)
    infos.append(env.reset()[1])
    assert {frozenset(keys_of(info)) for info in infos} == {frozenset(keys_of(infos[0]))}
    wanted = {"metrics", "score", "Q", "cost", "case_id", "is_success", "invalid_action",
              "cost_cord", "cost_brainstem", "cost_hot_spot", "reward_score"}  # fmt: skip
    taken = {"episode", "TimeLimit.truncated", "terminal_observation", "final_obs", "final_info"}
    assert wanted <= set(infos[0])
    assert not taken & set(infos[0])
    assert not any(key.startswith("_") for key in infos[0])


# ---------------------------------------------------------------- what goes in


@pytest.mark.parametrize("name", VOXEL_MASK)
def test_actions_out_of_bounds_are_clipped_marked_and_save_nothing(name):
    results = []
    for factor in (1.0, 3.0):
        env = make(name)
        env.reset(seed=2)
        signs = np.where(np.arange(env.action_space.shape[0]) % 2, 1.0, -1.0).astype(np.float32)
        results.append(env.step(factor * signs))
    (inside, outside) = results
    np.testing.assert_array_equal(inside[0], outside[0])
    assert inside[1] == outside[1]
    assert inside[4]["cost"] == outside[4]["cost"] > 0
    assert [r[4]["invalid_action"] for r in results] == [False, True]


@pytest.mark.parametrize("name", VOXEL_MASK)
def test_actions_that_mean_nothing_are_refused(name):
    env = make(name).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="NaN or infinite values; give −1 … 1"):
        env.step(np.full(env.action_space.shape, np.nan, np.float32))
    with pytest.raises(ValueError, match=r"action has shape \(3,\)"):
        env.step(np.zeros(3, np.float32))


@pytest.mark.parametrize("name", VOXEL_MASK)
def test_no_episode_spends_more_than_its_budget(name):
    env = make(name)
    env.action_space.seed(7)
    for episode in range(5):
        _, info = env.reset(seed=episode)
        assert info["cost"] == 0.0
        allowed = info["budget"] * env.unwrapped.state.case.anchors.work_all
        over, spent = False, 0.0
        while not over:
            *_, terminated, truncated, info = env.step(env.action_space.sample())
            over = terminated or truncated
            assert spent <= info["cost"] <= allowed
            assert 0.0 <= info["work_used"] <= 1.0
            spent = info["cost"]


@pytest.mark.parametrize("name", VOXEL_MASK)
@pytest.mark.parametrize("budget", [0.0, 0.07, -0.1])
def test_budgets_without_anchors_are_refused(name, budget):
    with pytest.raises(ValueError, match=f"budget={budget} is not among"):
        make(name, budget=budget)
    with pytest.raises(ValueError, match=f"budget={budget} has no anchors .* choose from"):
        make(name).reset(seed=0, options={"budget": budget})


# ---------------------------------------------------------------- what learns


@pytest.fixture
def sb3(tmp_path, monkeypatch):
    """stable-baselines3, whose log goes where pytest cleans up."""
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path))
    return pytest.importorskip("stable_baselines3", reason="learning needs the extra 'agents'")


@pytest.mark.parametrize("name", VOXEL_MASK)
@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_a_hundred_steps_of_learning_run(name, algorithm, sb3):
    settings = {
        "PPO": dict(n_steps=50, batch_size=25, n_epochs=2),
        "SAC": dict(learning_starts=30, buffer_size=200, batch_size=16),
    }[algorithm]
    env = make(name)
    agent = getattr(sb3, algorithm)("MlpPolicy", env, seed=0, device="cpu", **settings)
    agent.learn(100)
    action, _ = agent.predict(env.reset(seed=0)[0], deterministic=True)
    assert action in env.action_space


@pytest.mark.parametrize("settings", [KINDS[2], KINDS[3]], ids=["mask", "volume"])
def test_masks_and_volumes_can_be_learned_on(settings, sb3):
    env = make("ptenv/VoxelMask-v0", **settings)
    policy = "MultiInputPolicy" if "observation" in settings else "MlpPolicy"
    agent = sb3.PPO(policy, env, seed=0, device="cpu", n_steps=10, batch_size=10, n_epochs=1)
    agent.learn(20)
    assert agent.predict(env.reset(seed=0)[0])[0] in env.action_space


# ---------------------------------------------------------------- energy layers


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
@pytest.mark.parametrize("name", ENERGY_LAYER)
def test_a_hundred_steps_of_learning_on_layers_run(name, algorithm, sb3):
    settings = {
        "PPO": dict(n_steps=50, batch_size=25, n_epochs=2),
        "DQN": dict(learning_starts=30, buffer_size=100, batch_size=16),
    }[algorithm]
    env = make(name, terminal="proxy")
    agent = getattr(sb3, algorithm)("MultiInputPolicy", env, seed=0, device="cpu", **settings)
    agent.learn(100)
    action, _ = agent.predict(env.reset(seed=0)[0], deterministic=True)
    assert int(action) in env.action_space


@pytest.mark.parametrize("name", ENERGY_LAYER)
def test_masked_learning_runs(name, sb3):
    contrib = pytest.importorskip("sb3_contrib")
    env = make(name, terminal="proxy")
    agent = contrib.MaskablePPO(
        "MultiInputPolicy", env, seed=0, device="cpu", n_steps=50, batch_size=25, n_epochs=2
    )
    agent.learn(100)
    observation, _ = env.reset(seed=0)
    mask = env.unwrapped.action_masks()
    action, _ = agent.predict(observation, deterministic=True, action_masks=mask)
    assert mask[int(action)]


@pytest.mark.parametrize("name", ENERGY_LAYER)
def test_stable_baselines_finds_nothing_to_complain_of_in_arcs(name):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checker.check_env(make(name).unwrapped)
    assert [str(w.message) for w in caught if not is_about_images(w)] == []


def is_about_images(warning) -> bool:
    """Planes are float32 and small: they are no pictures for a network of pictures."""
    return "image" in str(warning.message)


@pytest.mark.parametrize("terminal", ["plan", "sketch", "proxy"])
@pytest.mark.parametrize("settings", [{}, {"layers_per_angle": 3}], ids=["one", "three"])
def test_masks_hold_a_layer_and_masked_actions_run_as_the_nearest(terminal, settings):
    recipe = {**FEW_ANGLES, **settings}
    env = make("ptenv/EnergyLayer-v0", terminal=terminal, reward="shaped", recipe=recipe)
    env.action_space.seed(3)
    for episode in range(3):
        observation, info = env.reset(seed=episode)
        over = False
        while not over:
            mask = env.unwrapped.action_masks()
            assert mask.dtype == bool
            assert mask.any()
            np.testing.assert_array_equal(info["action_mask"], mask)
            assert observation in env.observation_space
            action = int(env.action_space.sample())
            observation, reward, over, truncated, info = env.step(action)
            assert info["invalid_action"] is not bool(mask[action])
            assert np.isfinite(reward)
            assert not truncated
            assert info["delivery_s"] <= info["limit_s"] + 1e-3
        assert np.isfinite(info["score"])
        assert (info["metrics"]["CTV_5400"]["D50%[%]"] == 0.0) == (terminal == "proxy")


@pytest.mark.parametrize("name", ENERGY_LAYER)
def test_layers_that_are_none_are_refused(name):
    env = make(name).unwrapped
    env.reset(seed=0)
    for action in (-1, env.action_space.n, 1.5, [1, 2], None):
        with pytest.raises(ValueError, match="action="):
            env.step(action)


def test_every_call_on_an_arc_gives_objects_of_its_own():
    env = make("ptenv/EnergyLayer-v0")
    given = [env.reset(seed=0), env.step(3)[::4], env.step(4)[::4], env.reset()]
    arrays = [[*arrays_of(o), *arrays_of(i)] for o, i in given]
    held = [a for a in vars(env.unwrapped.state).values() if isinstance(a, np.ndarray)]
    for i, some in enumerate(arrays):
        for a in some:
            assert not any(np.shares_memory(a, b) for other in arrays[:i] for b in other)
            assert not any(np.shares_memory(a, b) for b in held)
