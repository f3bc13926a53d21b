"""Agents side by side: every agent on every case and budget, several times, with equal work.

An agent has ``settings(budget)`` (arguments of its environment), ``bind(env, seed)`` and
``predict(observation)``: the baselines, and ``agents.rl.trained.TrainedAgent``.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace

import numpy as np

from agents.environments import AnyEnvironment
from ptenv.benchmark.packing import packed
from ptenv.benchmark.play import play as play_episode
from ptenv.benchmark.statistics import interquartile_mean
from ptenv.cases.anchors import SMALLEST_GAP
from ptenv.cases.library import load_case
from ptenv.cases.patients import nameless_case
from ptenv.processes import worker_pool

Drawer = Callable[[str, object], None]  # (agent's name, its final state)
@dataclass(frozen=True)
class Trials:
    """How often and on what budgets agents play: all of them the same episodes.

    ``budgets`` are what the environment limits: shares of keep-all's work, or multiples of the
    least delivery time; None takes the environment's own.
    """

    budgets: tuple[float, ...] | None = (0.025, 0.05, 0.1, 0.2)
    n_samplings: int = 3
    seed: int = 0

    def __post_init__(self):
        if self.budgets is not None:
            object.__setattr__(self, "budgets", tuple(self.budgets))
            if not self.budgets:
                raise ValueError("budgets is empty; give at least one, or null for the usual ones.")
        if self.n_samplings < 1:
            raise ValueError(f"n_samplings={self.n_samplings} must be at least 1.")

    def of(self, environment: AnyEnvironment) -> "Trials":
        """These trials with the environment's own budgets where none are named."""
        return replace(self, budgets=environment.budgets) if self.budgets is None else self

    def seeds(self, case_index: int, budget: float) -> list[int]:
        """One seed for every episode of a case on a budget."""
        entropy = [self.seed, case_index, int(1e6 * budget)]
        return np.random.SeedSequence(entropy).generate_state(self.n_samplings).tolist()

    @property
    def drawn_budget(self) -> float:
        """The budget of the pictures: the middle one."""
        return sorted(self.budgets)[len(self.budgets) // 2]


def evaluate(
    environment: AnyEnvironment,
    agents: Mapping[str, object],
    cases: Sequence[str],
    trials: Trials,
    workers: int = 1,
    progress: Callable[[int], None] = lambda n: None,
    draw: Drawer | None = None,
    keep: Callable[[list[dict]], None] = lambda rows: None,
) -> list[dict]:
    """One row an episode, in the order cases, agents, budgets, samplings.

    ``progress`` is called with the number of finished episodes, ``keep`` with the rows of every
    case as it is done, so that a run that is stopped loses no more than one. ``draw`` (picklable
    with several workers) gets the state of every agent after the first sampling of the middle
    budget.
    """
    trials = trials.of(environment)
    jobs = [(environment, dict(agents), case, i, trials, draw) for i, case in enumerate(cases)]
    per_case = len(agents) * len(trials.budgets) * trials.n_samplings
    found: dict[int, list[dict]] = {}
    for done, (index, rows) in enumerate(_results(jobs, workers), start=1):
        found[index] = rows
        keep(rows)
        progress(done * per_case)
    return [row for index in range(len(cases)) for row in found[index]]


def _results(jobs: list[tuple], workers: int) -> Iterator[tuple[int, list[dict]]]:
    if workers <= 1 or len(jobs) <= 1:
        yield from ((job[3], evaluate_case(*job)) for job in jobs)
        return
    with worker_pool(workers) as pool:
        futures = {pool.submit(evaluate_case, *job): job[3] for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def evaluate_case(
    environment: AnyEnvironment,
    agents: Mapping[str, object],
    case: str,
    case_index: int,
    trials: Trials,
    draw: Drawer | None = None,
) -> list[dict]:
    """All episodes of all agents on one case, on those budgets whose anchors lie far apart."""
    rows, kept = [], nameless_case(case)
    budgets = _sound_budgets(environment, case, trials.budgets)
    for name, agent in agents.items():
        for budget in budgets:
            env = environment.make_to_play(case, budget, agent)
            for sampling, seed in enumerate(trials.seeds(case_index, budget)):
                row = play(agent, env, seed, environment.judge)
                rows.append({"agent": name, "env_id": environment.id, "case": kept, **row})
                if draw is not None and sampling == 0 and budget == trials.drawn_budget:
                    draw(name, env.unwrapped.state)
            env.close()
    return rows


def _sound_budgets(environment: AnyEnvironment, case: str, budgets: Sequence[float]) -> list[float]:
    """Budgets without those whose anchors lie too close to tell agents apart, with a warning."""
    anchors = load_case(environment.make().unwrapped.case_recipe(case)).anchors
    close = [b for b in budgets if b in anchors.budgets and not anchors.is_sound(b)]
    if close:
        warnings.warn(
            f"{nameless_case(case)}: budgets {close} are left out, the anchors of scores 0 "
            f"and 1 come within {SMALLEST_GAP} of each other in log.",
            stacklevel=2,
        )
    return [b for b in budgets if b not in close]


def play(agent, env, seed: int, judge) -> dict:
    """One episode: its figures, and what is needed to play it again."""
    played = play_episode(agent, env, seed)
    info, state = played.infos[-1], played.state
    return {
        "score": info["score"], "raw_score": info["raw_score"], "Q": info["Q"],
        **judge.episode(state, played.infos), "optimization_s": played.optimization_s,
        "inference_s": played.inference_s,
        "seed": seed, "voxels_per_cm3": info["target_voxels_per_cm3"],
        "case_key": state.case.key, "settings": _settings(env.spec.kwargs),
        "actions": packed(played.actions), "metrics": info["metrics"],
    }  # fmt: skip


def _settings(kwargs: Mapping) -> dict:
    """Arguments of an environment without the path of a DICOM folder."""
    case = kwargs.get("case")
    return {**kwargs, "case": nameless_case(case)} if isinstance(case, str) else dict(kwargs)


def summary(rows: Iterable[Mapping], names: Sequence[str]) -> list[dict]:
    """Per agent the mean over cases of each case's mean of the figures ``names``; se over cases."""
    by_agent: dict[str, list[Mapping]] = {}
    for row in rows:
        by_agent.setdefault(row["agent"], []).append(row)
    return [{"agent": name, **_means(of, names)} for name, of in by_agent.items()]


def by_budget(rows: Iterable[Mapping], title: Callable[[float], str]) -> list[dict]:
    """Per agent the mean score at each budget, under its title."""
    table: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        table.setdefault(row["agent"], {}).setdefault(row["budget"], []).append(row["score"])
    return [
        {"agent": name, **{title(b): _mean(v) for b, v in sorted(of.items())}}
        for name, of in table.items()
    ]


def mean_score(rows: Iterable[Mapping], agent: str) -> float:
    """Mean over cases of an agent's score."""
    return next(row["score"] for row in summary(rows, ["score"]) if row["agent"] == agent)


def _means(rows: Sequence[Mapping], names: Sequence[str]) -> dict[str, float]:
    names = [n for n in names if n not in ("agent", "score_se")]
    by_case: dict[str, list[Mapping]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    means = {n: [_mean(r.get(n) for r in of) for of in by_case.values()] for n in names}
    scores, n_cases = means["score"], len(by_case)
    error = float(np.std(scores, ddof=1) / n_cases**0.5) if n_cases > 1 else float("nan")
    iqm = interquartile_mean([row["score"] for row in rows])
    return {n: _mean(v) for n, v in means.items()} | {"score_se": error, "score_iqm": iqm}


def _mean(values: Iterable[float | None]) -> float:
    known = [v for v in values if v is not None and not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")
