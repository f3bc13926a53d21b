"""Episodes that a person shaped by hand, played in the environment: examples for agents."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from engine.optimization.shaping_requests import from_plain
from ptenv.envs.dose_shaping import State
from ptenv.envs.dose_shaping_actions import LARGEST_CHANGE, place_of


class Demonstrated(NamedTuple):
    """One request: what was seen before it, the "point" action nearest to it, what it gave."""

    observation: object
    action: np.ndarray
    reward: float
    info: dict


def recorded_environment(record: Mapping | Path | str, **settings) -> tuple[gym.Env, list[dict]]:
    """The environment that a record was made in, reset to its start, and the requests."""
    plain = json.loads(Path(record).read_text("utf-8")) if isinstance(record, (str, Path)) else (
        dict(record)
    )  # fmt: skip
    missing = [k for k in ("environment", "requests") if k not in plain]
    if missing:
        raise ValueError(
            f"record lacks {missing}; give the file that `ptenv shape` wrote, or its content."
        )
    env = gym.make(plain["environment"]["id"], **{**plain["environment"]["settings"], **settings})
    env.reset()
    key = env.unwrapped.state.case.key
    if plain.get("case_key", key) != key:
        raise ValueError(
            f"the record was made on a case with key {plain['case_key']}, which has {key} now: the "
            "patient, the machine or the version of ptenv changed."
        )
    return env, plain["requests"]


def demonstration(env: gym.Env, requests: list[dict]) -> list[Demonstrated]:
    """Play recorded requests on an environment that was just reset.

    Every request is carried out as it was asked, so that the plans are those of the page; its
    action is the "point" action that comes nearest: the first voxel that changed, and the change
    wished there. What was undone is not demonstrated.
    """
    player, examples = env.unwrapped, []
    if player.state is None or player.state.n_requests:
        raise ValueError("reset the environment before playing a demonstration in it.")
    for plain in _kept(requests):
        before: State = player.state
        observation = player._observe(before)
        wish = from_plain(plain).wish(before.case.scene, before.dose_gy)
        after = player.task.transition(before, wish)
        player.state = after
        info = player._info(before, after)
        if not after.last.modified:
            raise ValueError(
                f"request {len(examples)} ({plain.get('kind')}) changes nothing here; play the "
                "record in the environment that it was made in."
            )
        row = after.last.modified[0]
        wished = float(wish.dose[list(wish.rows).index(row)] - before.plan.dose[row])
        change = wished * before.case.quantity.scale
        top = LARGEST_CHANGE * before.case.prescription_gy[before.case.targets[0]]
        action = np.append(place_of(before.case, row), [np.clip(change / top, -1.0, 1.0), -1.0])
        reward = player.reward.weigh(info["reward_terms"])
        examples.append(Demonstrated(observation, action.astype(np.float32), reward, info))
    return examples


def _kept(requests: list[dict]) -> list[dict]:
    """The requests that were not undone, in their order."""
    done: list[dict] = []
    undone: list[dict] = []
    for plain in requests:
        kind = plain.get("kind")
        if kind in ("undo", "redo"):
            source, goal = (done, undone) if kind == "undo" else (undone, done)
            if not source:
                raise ValueError(f"the record has {kind!r} with nothing to {kind}; it is damaged.")
            goal.append(source.pop())
        else:
            done.append(plain)
            undone.clear()
    return done
