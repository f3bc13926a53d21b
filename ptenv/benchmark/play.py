"""One episode, played or played again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter

import gymnasium as gym
import numpy as np

MOST_STEPS = 100_000  # of an episode: beyond it an environment that never ends is given up


@dataclass(frozen=True, eq=False)
class Played:
    """What an episode was: actions, rewards, ``info`` of every step, the last state, seconds."""

    actions: list
    rewards: list[float]
    infos: list[dict]
    state: object
    wall_s: float
    inference_s: float
    optimization_s: float


class Answers:
    """Actions that are known beforehand, as an agent."""

    def __init__(self, actions: Sequence):
        self.actions, self.n_given = actions, 0

    def predict(self, observation, deterministic: bool = True):
        if self.n_given >= len(self.actions):
            raise EpisodeDiffers(f"the episode goes on after its {len(self.actions)} actions")
        self.n_given += 1
        return self.actions[self.n_given - 1], None


class EpisodeDiffers(Exception):
    """An episode does not go as its record says."""


def play(agent, env: gym.Env, seed: int) -> Played:
    """Play one episode; ``agent`` has ``predict`` and, if it reads its environment, ``bind``."""
    if hasattr(agent, "bind"):
        agent.bind(env, seed)
    began = perf_counter()
    observation, _ = env.reset(seed=seed)
    actions, rewards, infos, optimizing, thinking, done = [], [], [], 0.0, 0.0, False
    while not done:
        if len(actions) >= MOST_STEPS:
            raise EpisodeDiffers(f"the episode did not end within {MOST_STEPS} steps")
        asked = perf_counter()
        action = _action_of(agent.predict(observation, deterministic=True))
        thinking += perf_counter() - asked
        observation, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        actions.append(action)
        rewards.append(float(reward))
        infos.append(info)
        optimizing += env.unwrapped.task.optimization_s
    return Played(
        actions, rewards, infos, env.unwrapped.state, perf_counter() - began, thinking, optimizing
    )


def _action_of(predicted):
    """The action of stable-baselines3's (action, state), or what was given alone."""
    return predicted[0] if isinstance(predicted, tuple) else predicted


def result_of(played: Played, weights: np.ndarray | None, score: Callable) -> dict:
    """The figures of a finished episode that a record keeps; exact in JSON.

    ``score`` scores an objective and a cost between the suite's anchors: those of a case that was
    built here may be rounded otherwise.
    """
    info = played.infos[-1]
    figures = {name: float(info[name]) for name in ("raw_score", "Q", "objective", "cost")}
    return {
        "score": score(figures), **figures,
        "constraints": {k: float(v) for k, v in info.items() if k.startswith("cost_")},
        "metrics": plain_metrics(info["metrics"]),
        "n_steps": len(played.actions),
        "n_invalid": sum(bool(i["invalid_action"]) for i in played.infos),
        "plan_sha256": "" if weights is None else digest_of(weights),
    }  # fmt: skip


def plain_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Metrics by structure; those that a plan does not have (no number) are left out."""
    return {
        name: {m: float(v) for m, v in of.items() if np.isfinite(v)} for name, of in metrics.items()
    }


def digest_of(weights: np.ndarray) -> str:
    """SHA-256 of a plan's spot weights."""
    return sha256(np.ascontiguousarray(weights, "<f4").tobytes()).hexdigest()
