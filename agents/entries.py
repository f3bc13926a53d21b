"""Agents for a benchmark: rules, trained folders, and a person's own file."""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from inspect import signature
from pathlib import Path

from agents.trained import described_agent, folder_of, learned_by, trained_agent
from agents.voxel_sampling.agent import PNetSampler
from ptenv.benchmark.entry import digest_of_files
from ptenv.benchmark.families import family_name
from ptenv.benchmark.suite import Task


@dataclass(frozen=True, eq=False)
class RuleSource:
    """A baseline: per family of environments what makes it and what it is made of, as text."""

    name: str
    made: Mapping[str, Callable]  # by family's name; called without arguments
    settings: Mapping[str, str]
    kind: str = "rule"

    @property
    def described(self) -> str:
        return self.name

    def agent(self, task: Task, run: int):
        return self.made[family_name(task.env_id)]()

    def plays(self, task: Task) -> bool:
        return family_name(task.env_id) in self.made

    def learned(self) -> list[dict] | None:
        """What networks among the baselines that ship learned from."""
        found = [learned_by(agent) for agent in (make() for make in self.made.values())]
        known = [f for f in found if f is not None]
        return known or None

    def digest(self) -> str:
        text = "\n".join(f"{k}: {v}" for k, v in sorted(self.settings.items()))
        return sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TrainedSource:
    """Folders that ``ptenv train`` wrote, one a training seed."""

    paths: tuple[str, ...]
    kind: str = "trained"

    @property
    def described(self) -> str:
        return described_agent(self.paths[0])

    def agent(self, task: Task, run: int):
        """A sampler of voxels takes the evaluations that a suite has fixed."""
        agent, fixed = trained_agent(self.paths[run]), task.settings.get("mask_evaluations")
        if fixed is not None and isinstance(agent, PNetSampler):
            return replace(agent, evaluations=fixed)
        return agent

    def plays(self, task: Task) -> bool:
        wanted = {learned["env_id"] for learned in self.learned() if learned.get("env_id")}
        return not wanted or task.env_id in wanted

    def learned(self) -> list[dict]:
        return [learned_by(trained_agent(path)) or {} for path in self.paths]

    def digest(self) -> str:
        return sha256("".join(map(_digest_of_agent, self.paths)).encode()).hexdigest()


@dataclass(frozen=True)
class FileSource:
    """A person's own agent: what ``name`` in a Python file makes when it is called.

    Attributes that it may have: ``files``, what it is made of beside the file (weights, modules);
    ``env_ids``; ``learned``, a list with what every training seed learned from. A maker with an
    argument ``run`` is told which of these to open.
    """

    path: str
    name: str
    kind: str = "file"

    @property
    def described(self) -> str:
        return f"{Path(self.path).name}:{self.name}"

    def agent(self, task: Task, run: int):
        maker = self._maker()
        knows_runs = "run" in signature(maker).parameters
        agent = maker(run=run) if knows_runs else maker()
        if not callable(getattr(agent, "predict", None)):
            raise ValueError(
                f"agent {self.described} makes a {type(agent).__name__}, which has no "
                "predict(observation)."
            )
        return agent

    def plays(self, task: Task) -> bool:
        """Those of its ``env_ids``, or all."""
        ids = getattr(self._maker(), "env_ids", None)
        return ids is None or task.env_id in ids

    def learned(self) -> list[dict] | None:
        return getattr(self._maker(), "learned", None)

    def digest(self) -> str:
        """Of the file, the name in it, and of what its attribute ``files`` lists beside it."""
        digest, folder = sha256(f"{self.name}\0".encode()), Path(self.path).parent
        for file in (Path(self.path), *(folder / f for f in getattr(self._maker(), "files", ()))):
            if not file.is_file():
                raise FileNotFoundError(f"agent {self.described} lists {file}: no such file.")
            digest.update(sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def _maker(self):
        module = _module(self.path)
        if not hasattr(module, self.name):
            raise ValueError(f"agent={self.path}:{self.name}: the file has no {self.name}.")
        return getattr(module, self.name)


def _module(path: str):
    """The module of a file; once a process."""
    file = Path(path).resolve()
    name = f"ptenv_agent_{sha256(str(file).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        if not file.is_file():
            raise FileNotFoundError(f"agent={path}: no such file.")
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ValueError(f"agent={path} cannot be imported ({error!r}).") from error
    return sys.modules[name]


def _digest_of_agent(path: str) -> str:
    """Of an agent's own folder: not of its run's log, pictures and checkpoints."""
    return digest_of_files(folder_of(path))
