"""Which environment agents learn in and are judged in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import gymnasium as gym

import ptenv
from agents.dose_shaping_judge import DoseShapingJudge
from agents.energy_layer_judge import EnergyLayerJudge
from agents.voxel_mask_judge import VoxelMaskJudge
from ptenv.cases.library import load_case
from ptenv.cases.patients import SITES, checked_case, name_without_path, procedural_id, split_seeds
from ptenv.processes import worker_pool

gym.register_envs(ptenv)


class AnyEnvironment(Protocol):
    """What training and evaluation ask of a family of environments."""

    id: str
    action: str  # kind of the learner's actions
    judge: object  # columns and figures of its episodes
    budgets: tuple[float, ...]  # what its cases have anchors for

    def make(self, **settings) -> gym.Env:
        """The environment as anyone plays it; settings override the id's."""

    def make_to_play(self, case: str, budget: float, agent) -> gym.Env:
        """An environment for one agent on a case and a budget."""

    def make_for_training(self) -> gym.Env:
        """The learner's environment on the training split."""

    def learner_settings(self) -> dict:
        """What an agent must find as it was in training."""

    def policy_settings(self) -> dict:
        """Arguments of a plain learner's algorithm that go with the observations; raises where
        such a learner cannot play."""

    def prepare(self, case: str) -> str:
        """Build a case into the cache, unless it is there already; returns its name."""

    def training_cases(self) -> list[str]: ...

    def chosen_cases(self, cases: list[str] | None, split: str, n_cases: int | None) -> list[str]:
        """Named cases in their canonical form, or the first ``n_cases`` of a split."""


@dataclass(frozen=True)
class Environment:
    """A voxel-mask id with the settings that all agents share, and those of the agents that learn.

    ``action``, ``observation``, ``reward`` and ``n_patients`` of the training split are the
    learner's; baselines bring their own action kind. ``recipe`` overrides settings of the cases.
    """

    id: str = "ptenv/VoxelMask-mini-v0"
    action: str = "field"
    observation: str = "compact"
    reward: str = "potential"
    n_patients: int | None = 64
    recipe: dict | None = None
    judge: ClassVar = VoxelMaskJudge

    def make(self, **settings) -> gym.Env:
        """The environment as anyone plays it; settings override the id's."""
        if self.recipe:
            settings = {"recipe": dict(self.recipe), **settings}
        return gym.make(self.id, **settings)

    @property
    def budgets(self) -> tuple[float, ...]:
        return self.make().unwrapped.budgets

    def make_to_play(self, case: str, budget: float, agent) -> gym.Env:
        return self.make(case=case, budget=budget, **agent.settings(budget))

    def make_for_training(self) -> gym.Env:
        """The learner's environment on the training split."""
        return self.make(
            **self.learner_settings(), reward=self.reward, split="train", n_patients=self.n_patients
        )

    def learner_settings(self) -> dict[str, str]:
        """What an agent must find as it was in training."""
        return {"action": self.action, "observation": self.observation}

    def policy_settings(self) -> dict:
        return {}

    def prepare(self, case: str) -> str:
        """Build a case into the cache, unless it is there already; returns its name."""
        load_case(self.make().unwrapped.case_recipe(case))
        return case

    def training_cases(self) -> list[str]:
        return self.chosen_cases(None, "train", self.n_patients)

    def chosen_cases(self, cases: list[str] | None, split: str, n_cases: int | None) -> list[str]:
        return chosen_cases(cases, split, n_cases)


@dataclass(frozen=True)
class EnergyLayerEnvironment:
    """An energy-layer id with the settings that all agents share, and those of who learns.

    ``terminal`` is what every plan is judged by, ``learn_on`` what training episodes end with
    (plan, sketch or proxy). ``limit``, ``reward`` and ``n_patients`` of the training split are the
    learner's. ``recipe`` overrides settings of the cases.
    """

    id: str = "ptenv/EnergyLayer-mini-v0"
    site: str = "head-and-neck"  # of sampled patients
    terminal: str = "plan"
    learn_on: str = "plan"
    limit: float | None = None
    reward: str = "shaped"
    n_patients: int | None = 64
    recipe: dict | None = None
    judge: ClassVar = EnergyLayerJudge
    action: ClassVar[str] = "layer"

    def make(self, **settings) -> gym.Env:
        if self.recipe:
            settings = {"recipe": dict(self.recipe), **settings}
        return gym.make(self.id, **{"site": self.site, "terminal": self.terminal, **settings})

    @property
    def budgets(self) -> tuple[float, ...]:
        return self.make().unwrapped.limits

    def make_to_play(self, case: str, budget: float, agent) -> gym.Env:
        return self.make(case=case, limit=budget, **agent.settings(budget))

    def make_for_training(self) -> gym.Env:
        return self.make(
            reward=self.reward, split="train", n_patients=self.n_patients, limit=self.limit,
            terminal=self.learn_on,
        )  # fmt: skip

    def learner_settings(self) -> dict[str, str]:
        return {}

    def policy_settings(self) -> dict:
        raise ValueError(
            f"{self.id} masks its layers, which this agent does not see: choose agent=maskable_ppo."
        )

    def prepare(self, case: str) -> str:
        load_case(self.make().unwrapped.case_recipe(case))
        return case

    def training_cases(self) -> list[str]:
        return self.chosen_cases(None, "train", self.n_patients)

    def chosen_cases(self, cases: list[str] | None, split: str, n_cases: int | None) -> list[str]:
        return chosen_cases(cases, split, n_cases, self.site)


@dataclass(frozen=True)
class DoseShapingEnvironment:
    """A dose-shaping id with the settings that all agents share, and those of who learns.

    ``action`` (goal, candidates or point), ``observation`` (full or dvh), ``reward``, ``goals``
    (one weighting, or None: drawn per episode) and ``n_patients`` of the training split are the
    learner's; baselines bring their own action kind. ``recipe`` overrides settings of the cases.
    """

    id: str = "ptenv/DoseShaping-mini-v0"
    site: str = "head-and-neck"  # of sampled patients
    modality: str = "photon"
    start: str = "other_goals"
    action: str = "goal"
    observation: str = "full"
    reward: str = "score"
    goals: int | None = None
    n_patients: int | None = 64
    recipe: dict | None = None
    judge: ClassVar = DoseShapingJudge

    def make(self, **settings) -> gym.Env:
        if self.recipe:
            settings = {"recipe": dict(self.recipe), **settings}
        shared = {"site": self.site, "modality": self.modality, "start": self.start}
        return gym.make(self.id, **{**shared, **settings})

    @property
    def budgets(self) -> tuple[float, ...]:
        return self.make().unwrapped.weightings

    def make_to_play(self, case: str, budget: float, agent) -> gym.Env:
        return self.make(case=case, goals=int(budget), **agent.settings(budget))

    def make_for_training(self) -> gym.Env:
        return self.make(
            **self.learner_settings(), reward=self.reward, split="train",
            n_patients=self.n_patients, goals=self.goals,
        )  # fmt: skip

    def learner_settings(self) -> dict[str, str]:
        return {"action": self.action, "observation": self.observation}

    def policy_settings(self) -> dict:
        if self.observation == "dvh":
            return {"policy": "MlpPolicy"}
        from agents.nets.shaping_features import ShapingExtractor  # torch, for learners alone

        return {
            "policy": "MultiInputPolicy",
            "policy_kwargs": {"features_extractor_class": ShapingExtractor},
        }

    def prepare(self, case: str) -> str:
        load_case(self.make().unwrapped.case_recipe(case))
        return case

    def training_cases(self) -> list[str]:
        return self.chosen_cases(None, "train", self.n_patients)

    def chosen_cases(self, cases: list[str] | None, split: str, n_cases: int | None) -> list[str]:
        return chosen_cases(cases, split, n_cases, self.site)


def learned_from(environment: AnyEnvironment, seed: int) -> dict:
    """What a benchmark must know of an agent that learned in an environment: on which cases."""
    return {
        "env_id": environment.id, "settings": environment.make().spec.kwargs, "seed": seed,
        "cases": [name_without_path(case) for case in environment.training_cases()],
    }  # fmt: skip


def prepare_cases(
    environment: AnyEnvironment, cases: Sequence[str], workers: int = 1,
    progress: Callable[[int], None] = lambda n: None,
) -> None:  # fmt: skip
    """Build what the cache lacks, in several processes; ``progress`` gets the number done."""
    if workers <= 1 or len(cases) <= 1:
        for done, case in enumerate(cases, start=1):
            environment.prepare(case)
            progress(done)
        return
    with worker_pool(workers) as pool:
        for done, _ in enumerate(pool.map(environment.prepare, cases), start=1):
            progress(done)


def chosen_cases(
    cases: list[str] | None, split: str, n_cases: int | None, site: str = SITES[0]
) -> list[str]:
    """Named cases in their canonical form, or the first ``n_cases`` of a split."""
    if cases:
        return [checked_case(c) for c in cases]
    return [procedural_id(seed, site) for seed in split_seeds(split, n_cases)]
