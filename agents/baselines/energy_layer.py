"""Energy-layer baselines behind stable-baselines3's ``predict()``.

A baseline is bound to an environment and reads its state. When an episode begins it chooses the
layers of the whole arc by its rule, then hands them out angle by angle; the random one draws from
the mask at every step. ``planning_s`` is what choosing took.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import gymnasium as gym
import numpy as np

from agents.baselines.arc_view import ArcView
from agents.baselines.places import places_of
from ptenv.envs.energy_layer import State

Rule = Callable[[ArcView, float, np.random.Generator], np.ndarray]


@dataclass
class LayerBaseline:
    """Plays the sequence that ``rule(view, limit_s, rng)`` gives for the episode's arc."""

    rule: Rule
    planning_s: float = field(default=0.0, init=False)
    _places: list["_Place"] = field(default_factory=list, init=False, repr=False)

    @property
    def learned(self) -> dict | None:
        """What its rule learned from; None for a rule that did not learn."""
        return getattr(self.rule, "learned", None)

    def settings(self, limit: float | None) -> dict:
        """Arguments of the environment that this baseline plays."""
        return {}

    def bind(self, env, seed: int = 0) -> "LayerBaseline":
        """Play ``env``, one environment or a DummyVecEnv; chance comes from ``seed``."""
        self._places = [_Place.of(*place) for place in places_of(env, seed)]
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        """Layer () int64 for one observation, (n_envs,) for a batch; and None."""
        if not self._places:
            raise RuntimeError("a baseline reads its environment: call bind(env) before predict.")
        layers = np.array([self._layer(place) for place in self._places])
        return (layers if self._places[0].is_batch(observation) else layers[0]), None

    def _layer(self, place: "_Place") -> int:
        seen = place.env.unwrapped.state
        if seen.is_over:
            return 0
        if place.choice is None or place.episode != _episode(seen) or _begins(seen):
            began = perf_counter()
            view = ArcView.of(seen.case)
            sequence = self.rule(view, seen.limit_s, place.rng)
            place.choice, place.episode = view.as_choice(sequence), _episode(seen)
            self.planning_s = perf_counter() - began
        wanted = int(place.choice[seen.angle, seen.slot])
        return wanted if wanted >= 0 else max(seen.before, 0)  # −1: nothing more at this angle


@dataclass
class RandomLayers:
    """Every allowed layer with the same chance."""

    _places: list["_Place"] = field(default_factory=list, init=False, repr=False)

    def settings(self, limit: float | None) -> dict:
        return {}

    def bind(self, env, seed: int = 0) -> "RandomLayers":
        self._places = [_Place.of(*place) for place in places_of(env, seed)]
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        if not self._places:
            raise RuntimeError("a baseline reads its environment: call bind(env) before predict.")
        layers = np.array(
            [p.rng.choice(np.flatnonzero(p.env.unwrapped.state.mask)) for p in self._places]
        )
        return (layers if self._places[0].is_batch(observation) else layers[0]), None


@dataclass(eq=False)
class _Place:
    """One environment, the generator that plays it, and the choice of its present episode."""

    env: gym.Env
    rng: np.random.Generator
    choice: np.ndarray | None = None
    episode: tuple | None = None

    @classmethod
    def of(cls, env, rng: np.random.Generator) -> "_Place":
        if not isinstance(env, gym.Env) or not hasattr(env.unwrapped, "state"):
            raise TypeError(f"env={env!r} is no energy-layer environment of this process.")
        return cls(env, rng)

    def is_batch(self, observation) -> bool:
        """Whether the observation has an axis more than the environment's own."""
        clock = self.env.observation_space["clock"]
        return np.ndim(observation["clock"]) > len(clock.shape)


def _episode(state: State) -> tuple:
    """What tells one episode from another while it runs."""
    return state.case.key, state.limit


def _begins(state: State) -> bool:
    """Whether no layer is chosen yet."""
    return state.before < 0
