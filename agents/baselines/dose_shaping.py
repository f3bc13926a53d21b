"""Dose-shaping planners by fixed rules, behind stable-baselines3's ``predict()``.

A baseline is bound to an environment and reads its state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np

from agents.baselines.places import places_of
from ptenv.envs.dose_shaping import State
from ptenv.envs.dose_shaping_actions import (
    N_CANDIDATE_ACTIONS,
    N_GOAL_ACTIONS,
    STRENGTHS,
)  # fmt: skip

Rule = Callable[["ShapingRule", State, np.random.Generator], int]


@dataclass
class ShapingRule:
    """Says ``rule(self, state, rng)``, an action of kind ``action``, in every state.

    ``strength`` is the share of a violation that shall go, one of the environment's; after
    ``n_requests`` (None: as many as there are) it stops.
    """

    rule: Rule
    action: str
    strength: float = 1.0
    n_requests: int | None = None
    _places: list[tuple] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self):
        if self.strength not in STRENGTHS:
            raise ValueError(f"strength={self.strength} must be one of {STRENGTHS}.")
        if self.n_requests is not None and self.n_requests < 0:
            raise ValueError(f"n_requests={self.n_requests} must be 0 or more, or None.")

    def settings(self, goals: float | None) -> dict:
        """Arguments of the environment that this baseline plays."""
        return {"action": self.action}

    def bind(self, env, seed: int = 0) -> "ShapingRule":
        """Play ``env``, one environment or a DummyVecEnv; chance comes from ``seed``."""
        self._places = [(_checked(e), rng) for e, rng in places_of(env, seed)]
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        """Action () int64 for one observation, (n_envs,) for a batch; and None."""
        if not self._places:
            raise RuntimeError("a baseline reads its environment: call bind(env) before predict.")
        actions = np.array([self._says(env.unwrapped.state, rng) for env, rng in self._places])
        batch = np.ndim(_leaf(observation)) > len(_leaf_shape(self._places[0][0]))
        return (actions if batch else actions[0]), None

    @property
    def stop(self) -> int:
        return (N_GOAL_ACTIONS if self.action == "goal" else N_CANDIDATE_ACTIONS) - 1

    def number(self, place: int) -> int:
        """The action on a kind or a spot at this strength."""
        return place * len(STRENGTHS) + STRENGTHS.index(self.strength)

    def _says(self, state: State | None, rng: np.random.Generator) -> int:
        if state is None:
            raise RuntimeError("call reset() of the environment before predict().")
        if self.n_requests is not None and state.n_requests >= self.n_requests:
            return self.stop
        return self.rule(self, state, rng)


def greedy(strength: float = 1.0, n_requests: int | None = None) -> ShapingRule:
    """The worst violation, whatever its kind: what a planner does who looks at the worst."""
    return ShapingRule(_worst_violation, "goal", strength, n_requests)


def heaviest_goal(strength: float = 1.0, n_requests: int | None = None) -> ShapingRule:
    """The worst violation of the goal with the largest part in the objective."""
    return ShapingRule(_heaviest_goal, "goal", strength, n_requests)


def critical_spot_eraser(strength: float = 1.0, n_requests: int | None = None) -> ShapingRule:
    """The critical spot that costs the most, after Süss et al., Phys. Med. Biol. 58 (2013) 1855."""
    return ShapingRule(_first_spot, "candidates", strength, n_requests)


def nothing() -> ShapingRule:
    """Stops at once: scores 0."""
    return ShapingRule(_stop, "goal", n_requests=0)


def random_requests() -> ShapingRule:
    """Any action that means something, stopping included."""
    return ShapingRule(_any, "goal")


def _worst_violation(rule: ShapingRule, state: State, rng) -> int:
    excess = [0.0 if w is None else w.excess_gy / w.level_gy for w in state.worst]
    return rule.number(int(np.argmax(excess))) if max(excess) > 0 else rule.stop


def _heaviest_goal(rule: ShapingRule, state: State, rng) -> int:
    return rule.number(int(state.shares.argmax())) if state.shares.max() > 0 else rule.stop


def _first_spot(rule: ShapingRule, state: State, rng) -> int:
    return rule.number(0) if state.spots else rule.stop


def _stop(rule: ShapingRule, state: State, rng) -> int:
    return rule.stop


def _any(rule: ShapingRule, state: State, rng: np.random.Generator) -> int:
    there = np.repeat([w is not None for w in state.worst], len(STRENGTHS))
    return int(rng.choice(np.append(np.flatnonzero(there), rule.stop)))


def _checked(env) -> gym.Env:
    if not isinstance(env, gym.Env) or not isinstance(
        getattr(env.unwrapped, "state", env), State | None
    ):
        raise TypeError(f"env={env!r} is no dose-shaping environment of this process.")
    return env


def _leaf(observation):
    return observation["figures"] if isinstance(observation, dict) else observation


def _leaf_shape(env: gym.Env) -> tuple[int, ...]:
    space = env.observation_space
    return (space["figures"] if isinstance(space, gym.spaces.Dict) else space).shape
