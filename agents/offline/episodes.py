"""One recorded episode: played, and kept as a file until its dataset is written."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np

from agents.offline.behaviors import Behavior, carried_out

Arrays = np.ndarray | dict[str, np.ndarray]
MASK = "action_mask"  # of the infos: which actions were allowed, one row a step


@dataclass(frozen=True, eq=False)
class Episode:
    """``n`` steps: observations and infos (n + 1, …), the rest (n, …).

    ``seed`` and ``options`` reset the environment to where it began; ``about`` says the case, the
    budget, the split and what the last plan scores.
    """

    seed: int
    options: dict
    observations: Arrays
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: dict[str, np.ndarray]
    about: dict

    def __len__(self) -> int:
        return len(self.rewards)

    def write(self, path: Path) -> None:
        """One file, under another name first: a kill leaves a whole episode or none."""
        arrays = {
            **_flat("observations", self.observations), **_flat("infos", self.infos),
            "actions": self.actions, "rewards": self.rewards, "terminations": self.terminations,
            "truncations": self.truncations,
            "plain": np.array(json.dumps([self.seed, self.options, self.about])),
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{os.getpid()}-{path.name}")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(unfinished, path)

    @classmethod
    def read(cls, path: Path) -> "Episode":
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        seed, options, about = json.loads(str(arrays.pop("plain")))
        return cls(
            seed, options, _nested("observations", arrays), arrays["actions"], arrays["rewards"],
            arrays["terminations"], arrays["truncations"], _nested("infos", arrays), about,
        )  # fmt: skip


class Recorder:
    """Takes an episode down, from its reset on."""

    def __init__(self, env: gym.Env, seed: int, options: Mapping):
        self.env, self.seed, self.options = env, int(seed), dict(options)
        self.observation, info = env.reset(seed=self.seed, options=self.options)
        self.seen, self.told = [self.observation], [info]
        self.actions, self.rewards, self.ends = [], [], []

    @property
    def is_over(self) -> bool:
        return bool(self.ends) and any(self.ends[-1])

    def step(self, action) -> None:
        """Carry out an action, and write down which that was."""
        action = carried_out(self.env, action)
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        self.seen.append(self.observation)
        self.told.append(info)
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.ends.append((bool(terminated), bool(truncated)))

    def episode(self, **about) -> Episode:
        """What was taken down; ``about`` is told beside the scores."""
        last, case = self.told[-1], self.env.unwrapped.state.case
        ends = np.array(self.ends, bool)
        return Episode(
            seed=self.seed, options=self.options, observations=_stacked(self.seen),
            actions=np.array(self.actions, self.env.action_space.dtype),
            rewards=np.array(self.rewards), terminations=ends[:, 0], truncations=ends[:, 1],
            infos=_figures(self.told),
            about={
                "case": last["case_id"], "case_key": case.key, "score": last["score"],
                "raw_score": last["raw_score"], "Q": last["Q"],
                "return": float(np.sum(self.rewards)), **about,
            },
        )  # fmt: skip


def recorded(behavior: Behavior, env: gym.Env, seed: int, options: Mapping, **about) -> Episode:
    """One episode of a behavior, whose chance is its own, not the environment's."""
    behavior.bind(env, int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]))
    recorder = Recorder(env, seed, options)
    while not recorder.is_over:
        recorder.step(behavior.predict(recorder.observation, deterministic=True)[0])
    return recorder.episode(**about)


def _figures(infos: list[dict]) -> dict[str, np.ndarray]:
    """Numbers that every info has, and the masks, one row each."""
    names = [
        name for name, value in infos[0].items()
        if name == MASK or isinstance(value, (bool, int, float))
    ]  # fmt: skip
    return {name: np.array([info[name] for info in infos]) for name in names}


def _stacked(observations: list) -> Arrays:
    if isinstance(observations[0], dict):
        return {k: np.stack([o[k] for o in observations]) for k in observations[0]}
    return np.stack(observations)


def _flat(name: str, value: Arrays) -> dict[str, np.ndarray]:
    if isinstance(value, dict):
        return {f"{name}/{key}": part for key, part in value.items()}
    return {name: value}


def _nested(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    if name in arrays:
        return arrays[name]
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
