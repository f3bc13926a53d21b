"""Recording a behavior on patients of all splits: resumable, side by side, into datasets.

Every episode is a file of its own as soon as it ends; when all are there the datasets are written
and the files go. A run that is stopped loses the episodes under way, one in every process.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np

from agents.environments import AnyEnvironment
from agents.evaluation import Trials
from agents.offline import datasets
from agents.offline.behaviors import Behavior
from agents.offline.episodes import Episode, recorded
from ptenv.cases.library import load_case
from ptenv.cases.patients import nameless_case, patient_content
from ptenv.processes import worker_pool

SETTINGS = "settings.json"
Progress = Callable[[int], None]  # episodes done


@dataclass(frozen=True)
class Collection:
    """What is recorded: a behavior of some ``quality`` on ``cases`` of every split.

    ``trials`` are the budgets and how often each is played. ``settings`` is what the behavior was
    made from, plain; it goes into the metadata, and a collection goes on only with the same.
    """

    environment: AnyEnvironment
    quality: str
    behavior: Behavior
    cases: Mapping[str, Sequence[str]]
    trials: Trials
    name: str
    settings: Mapping = field(default_factory=dict)
    author: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "trials", self.trials.of(self.environment))
        unknown = sorted(set(self.cases) - set(datasets.SPLITS))
        if unknown:
            raise ValueError(f"cases of {unknown}: splits are {list(datasets.SPLITS)}.")
        if not any(self.cases.values()):
            raise ValueError("n_cases: no patient in any split; ask for one or more.")
        refuse_shared_patients(self.cases)
        self._refuse_other_actions()

    @property
    def n_episodes(self) -> int:
        n_cases = sum(map(len, self.cases.values()))
        return n_cases * len(self.trials.budgets) * self.trials.n_samplings

    @property
    def names(self) -> dict[str, str]:
        """Ids of the datasets by split."""
        return {split: datasets.of_split(self.name, split) for split in self.splits}

    @property
    def splits(self) -> list[str]:
        return [split for split in datasets.SPLITS if self.cases.get(split)]

    def env(self, split: str) -> gym.Env:
        """The environment of a split's patients, as learners have it."""
        return split_env(self.environment, split, len(self.cases.get(split, ())))

    @property
    def plain(self) -> dict:
        """All that must agree when a collection goes on."""
        spec = self.env("train").spec
        return json.loads(json.dumps({
            "env_id": spec.id, "env_settings": comparable(spec.kwargs), "quality": self.quality,
            "behavior": dict(self.settings), "budgets": self.trials.budgets,
            "n_samplings": self.trials.n_samplings, "seed": self.trials.seed,
        }))  # fmt: skip

    def collect(self, root: Path, workers: int = 1, progress: Progress = lambda n: None) -> None:
        """Record what is missing, then write one dataset a split."""
        if self._is_written(root):
            return
        journal = root / datasets.UNFINISHED / self.name
        self._begin(journal)
        self._record(journal, workers, progress)
        for split in self.splits:
            self._write(root, journal, split)
        shutil.rmtree(journal)
        datasets.remove_empty(root / datasets.UNFINISHED)

    def scores(self, root: Path) -> dict[str, dict]:
        """Of every split the mean score over its cases, its standard error, and n_cases."""
        return {
            split: datasets.about(datasets.load(name, root))["score"]
            for split, name in self.names.items()
        }

    def _refuse_other_actions(self) -> None:
        learner = self.environment.learner_settings()
        wanted = self.behavior.settings(self.trials.budgets[0])
        other = {k: v for k, v in wanted.items() if learner.get(k) != v}
        if other:
            raise ValueError(
                f"quality={self.quality} plays with {other}, agents that learn with {learner}; a "
                "dataset holds the actions of learners: change env or the behavior."
            )

    def _is_written(self, root: Path) -> bool:
        """Whether all datasets are there; refuses those that were recorded otherwise."""
        there = {split: datasets.is_there(root, name) for split, name in self.names.items()}
        for split in (s for s, found in there.items() if found):
            name = self.names[split]
            found = datasets.about(datasets.load(name, root))
            if found["collection"] != self.plain or found["cases"] != self._case_ids(split):
                raise ValueError(
                    f"dataset {name!r} in {root} was recorded with other settings or on other "
                    f"cases; give another number=… or dataset=…, or remove it: minari delete {name}"
                )
        return all(there.values())

    def _begin(self, journal: Path) -> None:
        """Note the settings of a new journal; one that goes on must have the same."""
        path = journal / SETTINGS
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != self.plain:
            raise ValueError(
                f"{journal} holds episodes that were recorded with other settings; finish that "
                "collection with its own, or remove the folder."
            )
        journal.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.plain, indent=2) + "\n", encoding="utf-8")

    def _record(self, journal: Path, workers: int, progress: Progress) -> None:
        jobs = [
            (self, split, case, i, journal)
            for split in self.splits for i, case in enumerate(self.cases[split])
        ]  # fmt: skip
        done = 0
        if workers <= 1:
            for job in jobs:
                for _ in _episodes_of(*job):
                    done += 1
                    progress(done)
            return
        with worker_pool(workers) as pool:
            for future in as_completed([pool.submit(_record_case, *job) for job in jobs]):
                done += future.result()
                progress(done)

    def _write(self, root: Path, journal: Path, split: str) -> None:
        name = self.names[split]
        if datasets.is_there(root, name):  # of a run that was stopped between two datasets
            return
        paths = [path for i, case in enumerate(self.cases[split])
                 for path, *_ in self.jobs(split, case, i, journal)]  # fmt: skip
        abouts = [Episode.read(path).about for path in paths if path.exists()]
        if not abouts:
            raise ValueError(f"no budget of {list(self.trials.budgets)} has sound anchors there.")
        env, eval_env = self.env(split), self.env("validation")
        datasets.write_dataset(
            root, name, env, eval_env, map(Episode.read, filter(Path.exists, paths)),
            {"quality": self.quality, "split": split, "cases": self._case_ids(split),
             "score": score_of(abouts), "collection": self.plain},
            f"{self.quality} behavior in {self.environment.id}, {split} patients", self.author,
        )  # fmt: skip

    def _case_ids(self, split: str) -> list[str]:
        return [nameless_case(case) for case in self.cases[split]]

    def jobs(self, split: str, case: str, index: int, journal: Path) -> list[tuple]:
        """(file, seed, budget) of every episode of a case."""
        return [
            (journal / f"{split}-{index:05d}-{budget:g}-{i}.npz", seed, budget)
            for budget in self.trials.budgets
            for i, seed in enumerate(self.trials.seeds(index, budget))
        ]


def split_env(environment: AnyEnvironment, split: str, n_cases: int, **settings) -> gym.Env:
    """The learner's environment on patients of a split, drawn when no case is named."""
    return environment.make(**{
        **environment.learner_settings(), "reward": environment.reward, "split": split,
        "n_patients": n_cases or None, **settings,
    })  # fmt: skip


def comparable(settings: Mapping) -> dict:
    """Settings of an environment without those that say on which patients it plays."""
    left_out = ("split", "n_patients", "case", "render_mode")
    return {k: v for k, v in settings.items() if k not in left_out}


def refuse_shared_patients(cases: Mapping[str, Sequence[str]]) -> None:
    """No patient in two splits, by whatever names."""
    seen: dict[str, tuple[str, str]] = {}
    for split, names in cases.items():
        for name in names:
            other = seen.setdefault(patient_content(name), (split, name))
            if other[0] != split:
                raise ValueError(
                    f"cases: {other[1]} of {other[0]} and {name} of {split} are one patient; "
                    "leave it in one split."
                )


def score_of(abouts: Sequence[Mapping]) -> dict[str, float]:
    """Mean over cases of each case's mean score, its standard error, and the number of cases."""
    by_case: dict[str, list[float]] = {}
    for episode in abouts:
        by_case.setdefault(episode["case"], []).append(episode["score"])
    means = [float(np.mean(scores)) for scores in by_case.values()]
    error = float(np.std(means, ddof=1) / len(means) ** 0.5) if len(means) > 1 else None
    return {"mean": float(np.mean(means)), "se": error, "n_cases": len(means)}


def _record_case(collection: Collection, split: str, case: str, index: int, journal: Path) -> int:
    return sum(1 for _ in _episodes_of(collection, split, case, index, journal))


def _episodes_of(collection: Collection, split: str, case: str, index: int, journal: Path):
    """Record the episodes of a case that are not there yet; yields after each."""
    env, name = collection.env(split), collection.environment.judge.budget
    anchors = load_case(env.unwrapped.case_recipe(case)).anchors
    for path, seed, budget in collection.jobs(split, case, index, journal):
        if not _holds(path, case, seed) and anchors.is_sound(budget):
            given = int(budget) if name == "goals" else float(budget)
            options = {"case": case, name: given}
            episode = recorded(
                collection.behavior, env, seed, options, split=split, budget=given
            )
            episode.write(path)
        yield path
    env.close()


def _holds(path: Path, case: str, seed: int) -> bool:
    """Whether the episode is there already, of this case and seed."""
    if not path.exists():
        return False
    found = Episode.read(path)
    return (found.options["case"], found.seed) == (case, seed)
