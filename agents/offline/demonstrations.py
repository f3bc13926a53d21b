"""Doses that a person shaped by hand, as episodes of the environment and as datasets.

A request of the page may say more than an action can: its nearest "point" action is played in the
environment, so that observations and rewards are those of the action. What the person reached with
the requests themselves is told beside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import gymnasium as gym
import numpy as np

from agents.environments import AnyEnvironment
from agents.offline import datasets
from agents.offline.collection import Progress, comparable, refuse_shared_patients, score_of
from agents.offline.episodes import Episode, Recorder
from ptenv.cases.patients import PROCEDURAL, SPLITS, nameless_case
from ptenv.envs.dose_shaping_demonstrations import demonstration, recorded_environment

HUMAN = "human"  # the quality of their datasets
EPISODE = "episode.json"  # what `ptenv shape` writes
STOP = np.array([0.0, 0.0, 0.0, 0.0, 1.0], np.float32)


@dataclass(frozen=True)
class Demonstrations:
    """The episodes below a folder that were shaped in an environment.

    Patients of the validation and test splits go into datasets of their own, all others into that
    of training patients. Records without a request that was not undone are left out.
    """

    environment: AnyEnvironment
    folder: Path
    name: str
    author: str | None = None
    _paths: list[Path] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self):
        found = [self.folder] if self.folder.is_file() else sorted(self.folder.rglob(EPISODE))
        if not found:
            raise ValueError(
                f"demonstrations={self.folder} holds no {EPISODE}; give a folder that "
                "`ptenv shape` wrote, or one above several."
            )
        self._paths.extend(found)
        if not self.records:
            raise ValueError(
                f"demonstrations={self.folder}: {len(found)} episodes, none with a request; shape "
                "a dose first."
            )
        refuse_shared_patients(self.cases)

    @cached_property
    def records(self) -> dict[Path, dict]:
        """What the page wrote, by file."""
        read = {path: _read(path) for path in self._paths}
        for path, record in read.items():
            self._refuse_another_environment(path, record)
        return {path: record for path, record in read.items() if record["requests"]}

    @property
    def cases(self) -> dict[str, list[str]]:
        """Cases by split."""
        found: dict[str, list[str]] = {}
        for record in self.records.values():
            case = record["environment"]["settings"]["case"]
            found.setdefault(split_of(case), []).append(case)
        return {split: sorted(set(found[split])) for split in datasets.SPLITS if split in found}

    def collect(self, root: Path, progress: Progress = lambda n: None) -> dict[str, dict]:
        """Write one dataset a split; returns their scores."""
        for name in (datasets.of_split(self.name, split) for split in self.cases):
            if datasets.is_there(root, name):
                raise ValueError(
                    f"dataset {name!r} is in {root} already; give another number=… or dataset=…, "
                    f"or remove it: minari delete {name}"
                )
        episodes: dict[str, list[Episode]] = {}
        for done, (path, record) in enumerate(self.records.items(), start=1):
            episode = self.episode(path, record)
            episodes.setdefault(episode.about["split"], []).append(episode)
            progress(done)
        return {s: self._write(root, s, episodes[s]) for s in datasets.SPLITS if s in episodes}

    def episode(self, path: Path, record: Mapping) -> Episode:
        """A record played with "point" actions, and ended as the person ended."""
        settings = record["environment"]["settings"]
        case, goals = settings["case"], int(settings["goals"])
        played, requests = recorded_environment(record, observation=self.environment.observation)
        shown = demonstration(played, requests)
        if not shown:
            raise ValueError(f"{path} records no request that was not undone; leave it out.")
        recorder = Recorder(self.env(split_of(case)), 0, {"case": case, "goals": goals})
        for action in (*(example.action for example in shown), STOP):
            if not recorder.is_over:
                recorder.step(action)
        person = float(shown[-1].info["score"])
        return recorder.episode(split=split_of(case), budget=goals, score_of_requests=person)

    def env(self, split: str) -> gym.Env:
        """The environment in which all of them are played."""
        settings = next(iter(self.records.values()))["environment"]["settings"]
        return self.environment.make(**{
            **comparable(settings), "split": split, "n_patients": None, "goals": None,
            "action": "point", "observation": self.environment.observation,
            "reward": self.environment.reward,
        })  # fmt: skip

    def _write(self, root: Path, split: str, episodes: list[Episode]) -> dict:
        abouts, env = [e.about for e in episodes], self.env(split)
        about = {
            "quality": HUMAN, "split": split, "cases": [*map(nameless_case, self.cases[split])],
            "score": score_of(abouts),
            "score_of_requests": float(np.mean([a["score_of_requests"] for a in abouts])),
            "collection": {"env_id": self.environment.id,
                           "env_settings": comparable(env.spec.kwargs)},
        }  # fmt: skip
        datasets.write_dataset(
            root, datasets.of_split(self.name, split), env, self.env("validation"), episodes,
            json.loads(json.dumps(about)), f"doses shaped by hand in {self.environment.id}",
            self.author,
        )  # fmt: skip
        return about["score"]

    def _refuse_another_environment(self, path: Path, record: Mapping) -> None:
        made = record["environment"]
        if made["id"] != self.environment.id:
            raise ValueError(
                f"{path} was shaped in {made['id']}, env has {self.environment.id}; choose the env "
                "it was shaped in."
            )
        first = _read(self._paths[0])["environment"]["settings"]
        names = comparable({**first, **made["settings"]})
        other = [k for k in names if k != "goals" and first.get(k) != made["settings"].get(k)]
        if other:
            raise ValueError(
                f"{path} differs from {self._paths[0]} in {other}; collect them apart."
            )


def split_of(case: str) -> str:
    """The split that a procedural patient belongs to; all other patients are to learn from."""
    procedural = PROCEDURAL.fullmatch(case)
    seed = int(procedural[2]) if procedural else -1
    return next((split for split, seeds in SPLITS.items() if seed in seeds), "train")


def _read(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read ({error}); give what `ptenv shape` wrote."
        raise ValueError(message) from None
    if not isinstance(record, dict) or not {"environment", "requests"} <= set(record):
        raise ValueError(f"{path} lacks environment or requests; give a file of `ptenv shape`.")
    return record
