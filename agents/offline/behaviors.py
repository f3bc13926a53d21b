"""Behaviors worth recording beside the baselines: with noise, by a plain rule, by looking ahead.

All play like a baseline, in the action space of agents that learn, so that the datasets of a
family have one space whatever their quality.
"""

from dataclasses import dataclass, field
from typing import Protocol

import gymnasium as gym
import numpy as np

from agents.baselines.search import Search
from agents.rl.first_policy import FirstPolicy
from agents.rl.shaping_imitation import LookaheadImitation
from ptenv.envs.dose_shaping import DoseShapingEnv
from ptenv.envs.energy_layer import nearest_allowed


class Behavior(Protocol):
    """Whoever acts, as the baselines do."""

    def settings(self, budget: float) -> dict: ...

    def bind(self, env: gym.Env, seed: int = 0): ...

    def predict(self, observation, state=None, episode_start=None, deterministic=True): ...


@dataclass
class Noisy:
    """What ``base`` does, with chance in it.

    Of discrete actions ``noise`` is the share that is replaced by any allowed one; to continuous
    ones a normal deviate of this standard deviation is added.
    """

    base: Behavior
    noise: float
    _env: gym.Env | None = field(default=None, init=False, repr=False)
    _rng: np.random.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        if not 0.0 <= self.noise <= 1.0:
            raise ValueError(f"noise={self.noise} must lie in 0 … 1.")

    def settings(self, budget: float) -> dict:
        return self.base.settings(budget)

    def bind(self, env: gym.Env, seed: int = 0) -> "Noisy":
        self.base.bind(env, seed)
        self._env, self._rng = env, np.random.default_rng([seed, 1])
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        action, _ = self.base.predict(observation, deterministic=deterministic)
        if not isinstance(self._env.action_space, gym.spaces.Discrete):
            deviate = self._rng.standard_normal(np.shape(action))
            return np.asarray(action + self.noise * deviate, np.float32), None
        if self._rng.random() < self.noise:
            action = self._rng.choice(np.flatnonzero(allowed(self._env)))
        return int(action), None


@dataclass
class PlainRule:
    """The same round again and again, which ``rule`` says: keep-rates, evaluations, work.

    ``action`` is the kind, field or shells.
    """

    rule: FirstPolicy
    action: str = "field"
    _size: int = field(default=0, init=False, repr=False)

    def settings(self, budget: float) -> dict:
        return {"action": self.action}

    def bind(self, env: gym.Env, seed: int = 0) -> "PlainRule":
        self._size = env.action_space.shape[0]
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.clip(self.rule.action(self.action, self._size), -1.0, 1.0), None


@dataclass
class SearchedRound:
    """The best round that ``search`` finds for the case and the budget; then the plan is kept.

    The search tries plans with the true score as goal, which no agent may: it is an expert to
    learn from. Its draws are its own, those of the episode others. ``search`` must look for one
    kind, ``action``. What it found for a case is remembered.
    """

    search: Search
    action: str = "field"
    _env: gym.Env | None = field(default=None, init=False, repr=False)
    _found: dict[tuple[str, float], np.ndarray] = field(
        default_factory=dict, init=False, repr=False
    )

    def settings(self, budget: float) -> dict:
        return {"action": self.action}

    def bind(self, env: gym.Env, seed: int = 0) -> "SearchedRound":
        self._env = env
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        state = self._env.unwrapped.state
        asked = (state.case.recipe["patient"], state.budget)
        if asked not in self._found:
            found = self.search.search(_Maker(self._env.spec), *asked)
            if found.kind != self.action:
                raise ValueError(
                    f"the search looked for {found.kind!r} actions, the episode has "
                    f"{self.action!r}; give search.kinds=[{self.action}]."
                )
            self._found[asked] = found.action
        best = self._found[asked]
        return (best if state.round == 0 else _kept_plan(best)), None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_env": None}


@dataclass
class Lookahead:
    """Of all requests the one whose answer scores best, until none gains ``least_gain``.

    It tries every request before it makes one, which no agent may.
    """

    least_gain: float = 0.005
    action: str = "goal"
    _env: gym.Env | None = field(default=None, init=False, repr=False)

    def settings(self, budget: float) -> dict:
        return {"action": self.action}

    def bind(self, env: gym.Env, seed: int = 0) -> "Lookahead":
        self._env = env
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return LookaheadImitation(least_gain=self.least_gain).best(self._env.unwrapped), None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_env": None}


@dataclass(frozen=True)
class _Maker:
    """What a search asks of a family of environments: to make one, here from a spec."""

    spec: gym.envs.registration.EnvSpec

    def make(self, **settings) -> gym.Env:
        return gym.make(self.spec, **settings)


def allowed(env: gym.Env) -> np.ndarray:
    """Discrete actions (n,) bool that mean something now; all where nothing is masked."""
    masks = getattr(env.unwrapped, "action_masks", None)
    return np.ones(env.action_space.n, bool) if masks is None else masks()


def carried_out(env: gym.Env, action):
    """The action as the environment will take it: inside its space, and allowed.

    Environments take the nearest allowed action for one that is not; datasets hold what was done.
    """
    space = env.action_space
    if isinstance(space, gym.spaces.Box):
        return np.clip(np.asarray(action, space.dtype), space.low, space.high)
    mask, number = allowed(env), int(action)
    if isinstance(env.unwrapped, DoseShapingEnv) and not mask[number]:
        mask = np.append(mask[:-1], not mask[:-1].any())  # another request comes before stopping
    return nearest_allowed(mask, number)[0]


def _kept_plan(action: np.ndarray) -> np.ndarray:
    """The action with one evaluation, which changes nothing, on all the work that is left."""
    kept = action.copy()
    kept[-2:] = -1.0, 1.0
    return kept
