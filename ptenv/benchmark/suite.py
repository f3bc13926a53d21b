"""Suites: versioned lists of environments, cases, budgets and seeds, and what may be trained on.

A suite is defined by a short TOML file and frozen by ``ptenv benchmark freeze``, which writes a
JSON file beside it: the key, the digest and the anchors of every case. Scores are between those
anchors, whoever computes them, and a case that has another key is another case.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import gymnasium as gym
import numpy as np

import ptenv
from ptenv.benchmark.families import Family, family_of
from ptenv.benchmark.records import Episode
from ptenv.benchmark.season import refuse_false_season
from ptenv.cases.library import AnyCase, load_case
from ptenv.cases.patients import PROCEDURAL

gym.register_envs(ptenv)

SUITES = Path(__file__).with_name("suites")
SPLITS = ("validation", "test")
RANGE = re.compile(r"(.*?)(\d+)\.\.(\d+)")


@dataclass(frozen=True, eq=False)
class FrozenCase:
    """What a case must be: its key, the digest of what it holds where it was frozen, its anchors,
    and the budgets at which these lie too close to tell agents apart."""

    key: str
    sha256: str
    anchors: Mapping
    unsound: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Task:
    """One environment of a suite with its cases.

    ``settings`` are arguments of ``make`` that hold for all agents. ``shift_of`` names the task
    from which this one differs in one ``axis`` alone: agents are not trained for it.
    """

    name: str
    env_id: str
    budgets: tuple[float, ...]
    cases: Mapping[str, tuple[str, ...]]  # by split
    settings: Mapping = field(default_factory=dict)
    shift_of: str | None = None
    axis: str | None = None
    frozen: Mapping[str, FrozenCase] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        return family_of(self.env_id)

    def make(self, case: str, budget: float, data: "Data", agent_settings: Mapping) -> gym.Env:
        """The environment for an agent's settings; refuses those that are not its to choose."""
        given = self.kwargs(case, budget, data)
        foreign = sorted(
            name for name, value in agent_settings.items()
            if name not in self.free and not (name in given and given[name] == value)
        )  # fmt: skip
        if foreign:
            raise ValueError(
                f"agent settings {foreign} of task {self.name} are the suite's, not the agent's; "
                f"an agent may choose {list(self.free)}."
            )
        return gym.make(self.env_id, **{**agent_settings, **given})

    @property
    def free(self) -> tuple[str, ...]:
        """Arguments of ``make`` that an agent chooses: the family's, but for what is set."""
        return tuple(name for name in self.family.free if name not in self.settings)

    def kwargs(self, case: str, budget: float, data: "Data") -> dict:
        """Arguments of ``make`` that the suite sets."""
        value = int(budget) if self.family.budget == "goals" else budget
        return {**self.settings, "case": data.located(case), self.family.budget: value}

    def load(self, case: str, data: "Data") -> AnyCase:
        """A case from the cache, or built now."""
        env = gym.make(self.env_id, **self.settings).unwrapped
        return load_case(env.case_recipe(data.located(case)))

    def score(self, case: str, budget: float, result: Mapping) -> float:
        """The score of a final objective and cost between a frozen case's anchors."""
        anchors = self.family.anchors(self.frozen[case].anchors)
        return self.family.score(anchors, budget, result)

    def sound(self, case: str) -> list[float]:
        """Budgets at which a frozen case tells agents apart."""
        return [b for b in self.budgets if b not in self.frozen[case].unsound]


@dataclass(frozen=True)
class Data:
    """Where patients lie that do not come with ptenv: a folder of the published OpenKBP set."""

    openkbp: str | None = None

    def located(self, case: str) -> str:
        """A case by a name that an environment can open."""
        if not case.startswith("openkbp:"):
            return case
        if self.openkbp is None:
            raise ValueError(
                f"case {case} wants the OpenKBP set; say where it lies: openkbp=FOLDER."
            )
        name = case.removeprefix("openkbp:")
        for folder in (Path(self.openkbp), *sorted(Path(self.openkbp).glob("*-pats"))):
            for found in (folder / f"{name}.zip", folder / name):
                if found.exists():
                    return f"openkbp:{found}"
        raise FileNotFoundError(f"openkbp={self.openkbp} holds no {name} (folder or zip).")


@dataclass(frozen=True, eq=False)
class Suite:
    """A benchmark: tasks, how often each is played, and which cases may be learned from."""

    name: str
    version: int
    description: str
    n_runs: int
    seed: int
    train: Mapping[str, tuple[int, int]]
    tasks: tuple[Task, ...]
    curve_prefix: str = ""
    curve_sizes: tuple[int, ...] = ()
    pledged: tuple[tuple[str, str], ...] | None = None  # of a season: agents' names and hashes
    notes: Mapping = field(default_factory=dict)  # of the freezing: versions, headroom
    digest: str = ""  # of definition and frozen cases

    def task(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        known = [task.name for task in self.tasks]
        raise ValueError(f"task={name!r} is not in suite {self.name}; choose from {known}.")

    def narrowed(self, names: Sequence[str]) -> "Suite":
        """The same suite with some of its tasks, in its own order."""
        if not names:
            raise ValueError(f"tasks=[] names none of {[task.name for task in self.tasks]}.")
        wanted = {self.task(name).name for name in names}
        return replace(self, tasks=tuple(t for t in self.tasks if t.name in wanted))

    def episodes(self, task: Task, split: str = "test", n_runs: int | None = None) -> Iterator:
        """Every episode of a task, case by case."""
        for case in task.cases[split]:
            if case in task.frozen:
                for budget in task.sound(case):
                    for run in range(n_runs or self.n_runs):
                        yield Episode(task.name, case, budget, run)

    def seed_of(self, episode: Episode) -> int:
        """Seed of an episode: the same for all agents."""
        entropy = [self.seed, crc32(f"{episode.task} {episode.case}".encode()),
                   int(round(1e6 * episode.budget)), episode.run]  # fmt: skip
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def may_be_learned_from(self, case: str) -> bool:
        """Whether an agent may have been trained on a case."""
        for prefix, (low, high) in self.train.items():
            number = case.removeprefix(prefix)
            is_number = number.isascii() and number.isdecimal()
            if case.startswith(prefix) and is_number and low <= int(number) <= high:
                return True
        return False

    def pool(self, size: int) -> list[str]:
        """The training patients of one point of the data curve."""
        if size not in self.curve_sizes:
            raise ValueError(f"size={size} is no point of the curve {list(self.curve_sizes)}.")
        return [f"{self.curve_prefix}{i:05d}" for i in range(size)]


def suites() -> list[str]:
    """Names of the suites that come with ptenv."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str | Path, frozen: bool = True) -> Suite:
    """A suite by its name or its TOML file; with ``frozen`` it must have been frozen."""
    definition = definition_of(name)
    text = definition.read_text(encoding="utf-8")
    suite = _defined(tomllib.loads(text), definition)
    kept = definition.with_suffix(".json")
    if not kept.exists():
        if frozen:
            raise FileNotFoundError(
                f"suite {suite.name} is not frozen; run `ptenv benchmark freeze suite={name}`."
            )
        return suite
    plain = json.loads(kept.read_text(encoding="utf-8"))
    if frozen and plain["definition_sha256"] != sha256(text.encode()).hexdigest():
        raise ValueError(
            f"suite {suite.name} was changed after it was frozen; give it a new version and run "
            f"`ptenv benchmark freeze suite={name}`."
        )
    return with_frozen(suite, plain)


def with_frozen(suite: Suite, plain: Mapping) -> Suite:
    """A suite with what freezing found."""
    tasks = []
    for task in suite.tasks:
        cases = plain["tasks"].get(task.name, {}).get("cases", {})
        frozen = {
            name: FrozenCase(c["key"], c["sha256"], c["anchors"], tuple(c["unsound"]))
            for name, c in cases.items()
        }
        tasks.append(replace(task, frozen=frozen))
    content = {name: value for name, value in plain.items() if name != "notes"}
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return replace(
        suite, tasks=tuple(tasks), notes=plain.get("notes", {}), digest=digest,
    )  # fmt: skip


def definition_of(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise FileNotFoundError(f"suite={name}: no such file.")
        return path
    if str(name) not in suites():
        raise ValueError(f"suite={name!r} is unknown; choose from {suites()}, or give FILE.toml.")
    return SUITES / f"{name}.toml"


def _defined(plain: Mapping, path: Path) -> Suite:
    try:
        tasks = tuple(_task(t) for t in plain["tasks"])
        curve = plain.get("curve", {"prefix": "", "sizes": []})
        suite = Suite(
            plain["name"], int(plain["version"]), plain["description"], int(plain["n_runs"]),
            int(plain["seed"]), {k: (int(a), int(b)) for k, (a, b) in plain["train"].items()},
            tasks, curve["prefix"], tuple(curve["sizes"]), _pledged(plain, tasks),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"suite {path}: {error} is missing or of another kind.") from None
    _refuse_training_on_judged(suite)
    return suite


def _pledged(plain: Mapping, tasks: tuple[Task, ...]) -> tuple[tuple[str, str], ...] | None:
    """Names and hashes of the agents of a season, once it is sure that it was sealed."""
    if "season" not in plain:
        return None
    refuse_false_season(plain["season"], [set(t.cases["test"]) for t in tasks])
    return tuple((name, agent) for name, agent in plain["season"]["pledged"])


def _task(plain: Mapping) -> Task:
    cases = {split: tuple(_expanded(plain.get(split, []))) for split in SPLITS}
    task = Task(
        plain["name"], plain["env_id"], tuple(float(b) for b in plain["budgets"]), cases,
        plain.get("settings", {}), plain.get("shift_of"), plain.get("axis"),
    )  # fmt: skip
    family_of(task.env_id)
    return task


def _expanded(names) -> Iterator[str]:
    """Cases by name, PREFIX LOW..HIGH standing for all between."""
    for name in names:
        span = RANGE.fullmatch(name)
        if not span:
            yield name
            continue
        prefix, low, high = span[1], int(span[2]), int(span[3])
        width = len(span[2]) if PROCEDURAL.fullmatch(f"{prefix}{low}") else 0
        yield from (f"{prefix}{i:0{width}d}" for i in range(low, high + 1))


def _refuse_training_on_judged(suite: Suite) -> None:
    judged = {c for task in suite.tasks for split in SPLITS for c in task.cases[split]}
    both = sorted(c for c in judged if suite.may_be_learned_from(c))
    if both:
        raise ValueError(f"suite {suite.name} judges on {both[:3]} and allows to train on them.")
