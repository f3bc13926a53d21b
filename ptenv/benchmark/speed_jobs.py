"""What ``ptenv.benchmark.speed`` runs in processes of their own: steps, start-up, holding a case.

A job is a mapping: ``id`` and ``settings`` of the environment, and what the job needs beside them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from threading import Event

import gymnasium as gym
import numpy as np

import ptenv
from engine.parallel import threads
from ptenv.benchmark.families import family_of
from ptenv.cases.patients import SITES, SPLITS, procedural_id
from ptenv.cases.store import default_folder

gym.register_envs(ptenv)

MEGA = 1e6
MOST_SEEDS = 100  # of a split, among which a cached case is looked for


class CountsEngineCalls(gym.Wrapper):
    """Adds ``info["engine_calls"]``: those of the step, as ``Family.engine_calls`` counts them."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._family = family_of(env.spec.id)
        self._infos: list[dict] = []
        self._before = 0.0

    def reset(self, **arguments):
        self._infos, self._before = [], 0.0
        observation, info = self.env.reset(**arguments)
        return observation, info | {"engine_calls": 0.0}

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._infos.append(info)
        calls = self._family.engine_calls(self.unwrapped.state, self._infos)
        step_calls, self._before = calls - self._before, calls
        return observation, reward, terminated, truncated, info | {"engine_calls": step_calls}


def made(id: str, settings: Mapping) -> gym.Env:
    """An environment that counts its engine calls."""
    return CountsEngineCalls(gym.make(id, **settings))


def steps(job: Mapping) -> dict:
    """Steps and engine calls a second of random valid actions, ``repeats`` times.

    With ``processes`` 1 the environment runs in this process, else in those of Gymnasium's
    ``AsyncVectorEnv``. Resets are in the time and are no steps; a repeat ends at the first end of
    an episode after ``seconds`` (with several processes: when each has ended one).
    """
    n = job["processes"]
    make = partial(made, job["id"], job["settings"])
    runner = _Alone(make()) if n == 1 else _Vector(gym.vector.AsyncVectorEnv([make] * n))
    try:
        for case in job["cases"]:
            runner.reset(case)
        runner.roll(0.0)  # compiles, and fills what cases compute when first asked
        rolls = [runner.roll(job["seconds"]) for _ in range(job["repeats"])]
    finally:
        runner.close()
    return {
        "steps_per_s": [r["steps"] / r["wall_s"] for r in rolls],
        "engine_calls_per_s": [r["engine_calls"] / r["wall_s"] for r in rolls],
        "steps": sum(r["steps"] for r in rolls), "episodes": sum(r["episodes"] for r in rolls),
        "engine_threads": threads() if n == 1 else 1,
    }  # fmt: skip


class _Alone:
    """One environment in this process."""

    def __init__(self, env: gym.Env):
        self.env = env
        env.action_space.seed(0)

    def reset(self, case: str) -> None:
        self.env.reset(seed=0, options={"case": case})

    def roll(self, seconds: float) -> dict:
        n_steps, n_episodes, calls, began = 0, 0, 0.0, time.perf_counter()
        _, info = self.env.reset()
        while True:
            _, _, terminated, truncated, info = self.env.step(_valid(self.env.action_space, info))
            n_steps += 1
            calls += info["engine_calls"]
            if terminated or truncated:
                n_episodes += 1
                if time.perf_counter() - began >= seconds:
                    return _rolled(n_steps, n_episodes, calls, began)
                _, info = self.env.reset()

    def close(self) -> None:
        self.env.close()


class _Vector:
    """Several environments, each in a process of its own, stepped together."""

    def __init__(self, envs: gym.vector.VectorEnv):
        self.envs = envs
        envs.single_action_space.seed(0)

    def reset(self, case: str) -> None:
        self.envs.reset(seed=0, options={"case": case})

    def roll(self, seconds: float) -> dict:
        n, space = self.envs.num_envs, self.envs.single_action_space
        n_steps, calls, began = 0, 0.0, time.perf_counter()
        ended, episodes = np.zeros(n, bool), np.zeros(n, int)
        _, infos = self.envs.reset()
        while episodes.min() == 0 or time.perf_counter() - began < seconds:
            masks = infos.get("action_mask", [None] * n)
            actions = np.stack([space.sample(mask) for mask in masks])
            _, _, terminated, truncated, infos = self.envs.step(actions)
            n_steps += int((~ended).sum())  # after its end an environment resets instead
            calls += float(infos["engine_calls"].sum())
            ended = terminated | truncated
            episodes += ended
        return _rolled(n_steps, int(episodes.sum()), calls, began)

    def close(self) -> None:
        self.envs.close()


def _rolled(n_steps: int, n_episodes: int, calls: float, began: float) -> dict:
    wall = time.perf_counter() - began
    return {"steps": n_steps, "episodes": n_episodes, "engine_calls": calls, "wall_s": wall}


def _valid(space: gym.Space, info: Mapping):
    """A random action, of those that mean something where there is a mask."""
    return space.sample(info.get("action_mask"))


def prepare(job: Mapping) -> dict:
    """Draw ``n_patients`` different patients and build what the case cache lacks of them."""
    env, cases, seed = made(job["id"], job["settings"]), [], 0
    n = 1 if job["settings"].get("case") else job["settings"]["n_patients"]
    while len(cases) < n:
        _, info = env.reset(seed=seed)
        name = job["settings"].get("case") or info["case_id"]
        cases, seed = cases + [name] * (name not in cases), seed + 1
    return {"cases": cases}


def hold(job: Mapping, answer: Callable[[dict], None]) -> None:
    """Step through an episode on ``cases[0]``, answer, and hold the case until the process ends."""
    env = made(job["id"], job["settings"])
    env.action_space.seed(0)
    _, info = env.reset(seed=0, options={"case": job["cases"][0]})
    done = False
    while not done:
        _, _, terminated, truncated, info = env.step(_valid(env.action_space, info))
        done = terminated or truncated
    case = env.unwrapped.state.case
    folder = default_folder() / case.key
    answer({"case": case.case_id, "case_mb": _size(folder) / MEGA})
    Event().wait()


def _size(folder) -> int:
    return sum(f.stat().st_size for f in folder.iterdir())


def cached_case(id: str, settings: Mapping) -> str | None:
    """A case of an id that lies in the disk cache: the one of the settings, or a procedural one."""
    env, folder = gym.make(id, **settings).unwrapped, default_folder()
    drawable = (
        procedural_id(seed, site) for seed in _first_seeds() for site in SITES
    )
    among = [settings["case"]] if settings.get("case") else drawable
    return next((c for c in among if (folder / env.case_recipe(c).key()).is_dir()), None)


def _first_seeds() -> Iterator[int]:
    for seeds in SPLITS.values():
        yield from seeds[:MOST_SEEDS]
