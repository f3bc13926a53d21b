"""Playing a record again in a fresh environment, and what then must agree."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from ptenv.benchmark.agreement import (
    Apart,
    Tolerance,
    apart,
    faults_elsewhere,
    faults_here,
)  # fmt: skip
from ptenv.benchmark.packing import unpacked
from ptenv.benchmark.platforms import is_like, is_like_here
from ptenv.benchmark.play import Answers, EpisodeDiffers, Played, play, result_of
from ptenv.benchmark.records import Episode
from ptenv.benchmark.suite import Data, Suite

MISSING = "not set"
FIXED = ("entry_point", "max_episode_steps", "additional_wrappers", "vector_entry_point",
         "reward_threshold", "nondeterministic", "order_enforce")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Replayed:
    """A record's episode as it went again; ``exact`` says how it was compared."""

    played: Played | None
    exact: bool
    differences: tuple[str, ...]
    result: Mapping | None = None  # as a record would keep it
    apart: Apart | None = None


def claims_of(record: Mapping, suite: Suite) -> list[str]:
    """What a record claims to be and is not, as far as can be told without playing."""
    episode = Episode.of(record)
    task = suite.task(episode.task)
    if episode.case not in task.frozen:
        return [f"{episode.case} is no case of task {task.name}"]
    frozen, wrong = task.frozen[episode.case], []
    if record["case"]["key"] != frozen.key:
        wrong.append(f"case key {record['case']['key']} is not the suite's {frozen.key}")
    if is_like(record, suite.notes) and record["case"]["sha256"] != frozen.sha256:
        wrong.append("case hash is not the suite's: the case was another one")
    if record["episode"]["seed"] != suite.seed_of(episode):
        wrong.append(f"seed {record['episode']['seed']} is not the suite's")
    wrong += _wrong_environment(record, task)
    scored = task.score(episode.case, episode.budget, record["result"])
    if scored != record["result"]["score"]:
        wrong.append(
            f"score {record['result']['score']:.6f} is not what its objective gives between the "
            f"suite's anchors, {scored:.6f}"
        )
    if len(record["rewards"]) != record["result"]["n_steps"]:
        wrong.append(f"{len(record['rewards'])} rewards for {record['result']['n_steps']} steps")
    return wrong


def _wrong_environment(record: Mapping, task) -> list[str]:
    """How the recorded environment is not the suite's."""
    spec, episode = record["env"]["spec"], record["episode"]
    if record["env"]["id"] != task.env_id or spec["id"] != task.env_id:
        return [f"environment {spec['id']} is not the suite's {task.env_id}"]
    registered = json.loads(gym.spec(task.env_id).to_json())
    wrong = [f"environment's {name} is {spec.get(name)!r}, registered is {registered[name]!r}"
             for name in FIXED if spec.get(name) != registered[name]]  # fmt: skip
    wanted = registered["kwargs"] | json.loads(
        json.dumps(task.kwargs(episode["case"], episode["budget"], _Named()))
    )
    given = {k: v for k, v in spec["kwargs"].items() if k not in task.free}
    wanted = {k: v for k, v in wanted.items() if k not in task.free}
    for name in sorted(set(given) | set(wanted)):
        if given.get(name, MISSING) != wanted.get(name, MISSING):
            wrong.append(
                f"environment's argument {name} is {given.get(name, MISSING)!r}, the suite's "
                f"is {wanted.get(name, MISSING)!r}"
            )
    return wrong


class _Named(Data):
    """Cases by their names alone."""

    def located(self, case: str) -> str:
        return case


def replay(record: Mapping, suite: Suite, data: Data, tolerance: Tolerance) -> Replayed:
    """Play a record's actions in a fresh environment and compare all that it claims.

    Exactly where processor and versions are those of the record, else within ``tolerance``.
    """
    exact = is_like_here(record)
    try:
        actions = list(unpacked(record["actions"]))
        env = _environment(record, data)
    except (ValueError, TypeError, OSError, gym.error.Error) as error:
        return Replayed(None, exact, (str(error),))
    answers = Answers(actions)
    try:
        played = play(answers, env, record["episode"]["seed"])
    except (EpisodeDiffers, ValueError) as error:
        return Replayed(None, exact, (str(error),))
    finally:
        env.close()
    if answers.n_given < len(actions):
        over = f"the episode ends after {answers.n_given} of {len(actions)} actions"
        return Replayed(None, exact, (over,))
    task, episode = suite.task(record["task"]), Episode.of(record)
    family, key = task.family, played.state.case.key
    if key != task.frozen[episode.case].key:
        return Replayed(None, exact, (f"the case that was built here has key {key}",))
    score = partial(task.score, episode.case, episode.budget)
    result = result_of(played, family.weights(played.state), score)
    if exact:
        differences = faults_here(record, played, result)
    else:
        differences = (
            [] if family.parts else faults_elsewhere(record, played, result, tolerance)
        )
    calls = family.engine_calls(played.state, played.infos)
    if exact and calls != record["spent"]["engine_calls"]:
        differences.append(f"engine calls are {record['spent']['engine_calls']}, replay: {calls}")
    return Replayed(played, exact, tuple(differences), result, apart(record, played, result))


def _environment(record: Mapping, data: Data) -> gym.Env:
    plain = dict(record["env"]["spec"])
    plain["kwargs"] = {**plain["kwargs"], "case": data.located(record["episode"]["case"])}
    spec = EnvSpec.from_json(json.dumps(plain))
    return spec.make()
