"""A trained agent as it is kept on disk: stable-baselines3's zip, and what it was trained in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import stable_baselines3
from sb3_contrib import MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm

WEIGHTS, DESCRIPTION = "agent.zip", "agent.json"
ALGORITHMS = {
    a.__name__: a
    for a in (stable_baselines3.PPO, stable_baselines3.SAC, stable_baselines3.DQN, MaskablePPO)
}


@dataclass
class TrainedAgent:
    """An agent read from its folder when it first acts; plays like a baseline.

    ``path`` is the folder that ``save_agent`` wrote, or a run's output folder.
    """

    path: str
    learned: dict = field(default_factory=dict, init=False)  # cases, environment, seed
    _model: BaseAlgorithm | None = field(default=None, init=False, repr=False)
    _environment: dict | None = field(default=None, init=False, repr=False)
    _env: object = field(default=None, init=False, repr=False)  # that it was last bound to

    def __post_init__(self):
        card = _description(Path(self.path))
        self._environment, self.learned = card["environment"], card.get("learned", {})

    def settings(self, budget: float) -> dict:
        """Arguments of the environment that it was trained in."""
        return dict(self._environment)

    def bind(self, env, seed: int = 0) -> "TrainedAgent":
        if self._model is None:
            self._model = load_model(Path(self.path))
        learned, met = self._model, (env.action_space, env.observation_space)
        if met != (learned.action_space, learned.observation_space):
            raise ValueError(
                f"agent {self.path} was trained with actions {learned.action_space} and "
                f"observations {learned.observation_space}, this environment has {met[0]} and "
                f"{met[1]}; evaluate it on the id it learned on (one-shot ids take two numbers "
                "fewer, arcs differ in angles and layers)."
            )
        self._env = env
        return self

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        if isinstance(self._model, MaskablePPO):
            masks = self._env.unwrapped.action_masks()
            return self._model.predict(
                observation, state, episode_start, deterministic, action_masks=masks
            )
        return self._model.predict(observation, state, episode_start, deterministic)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_model": None, "_env": None}  # other processes read it from disk


def save_agent(
    model: BaseAlgorithm, folder: Path, environment: dict[str, str], learned: Mapping | None = None
) -> Path:
    """Write the weights, ``environment``, the arguments that an agent's environment needs, and
    what it ``learned`` from: ``agents.environments.learned_from``."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / WEIGHTS)
    description = {
        "algorithm": type(model).__name__,
        "environment": dict(environment),
        "learned": dict(learned or {}),
        "n_steps": int(model.num_timesteps),
        "stable_baselines3": stable_baselines3.__version__,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def load_model(folder: Path, env=None) -> BaseAlgorithm:
    """The model of a folder that ``save_agent`` wrote, on the CPU."""
    algorithm = algorithm_named(_description(folder)["algorithm"])
    return algorithm.load(inside(folder) / WEIGHTS, env=env, device="cpu")


def algorithm_named(name: str) -> type[BaseAlgorithm]:
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm={name!r} is unknown; choose from {list(ALGORITHMS)}.")
    return ALGORITHMS[name]


def algorithm_of(folder: Path) -> str:
    """Name of the algorithm that made a folder's agent."""
    return _description(folder)["algorithm"]


def _description(folder: Path) -> dict:
    path = inside(folder) / DESCRIPTION
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise FileNotFoundError(
            f"agent {folder}: no {DESCRIPTION} there; give the output folder of `ptenv train`."
        ) from None
    except ValueError as error:
        raise ValueError(f"agent {folder}: {DESCRIPTION} cannot be read ({error}).") from None


def inside(folder: Path) -> Path:
    """The folder itself, or the agent in a run's output folder."""
    return folder if (folder / DESCRIPTION).exists() else folder / "agent"


def is_finite(model: BaseAlgorithm) -> bool:
    """Whether all weights are numbers."""
    return all(np.isfinite(p.detach().numpy()).all() for p in model.policy.parameters())
