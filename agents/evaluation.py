"""Agents side by side: every agent on every case and budget, several times, with equal work.

An agent has ``settings(budget)`` (arguments of its environment), ``bind(env, seed)`` and
``predict(observation)``: the baselines, and ``agents.rl.trained.TrainedAgent``.
"""

import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from zlib import compress

import numpy as np

from agents.environments import Environment, worker_pool
from engine.evaluation.plan_evaluation import delta_d95
from ptenv.cases.anchors import SMALLEST_GAP
from ptenv.cases.case import Case
from ptenv.cases.library import load_case
from ptenv.envs.voxel_mask import State

Drawer = Callable[[str, State], None]  # (agent's name, its final state)
KEEP_ALL_100 = "keep-all @ 100"

COLUMNS = {
    "agent": "agent", "score": "score", "score_se": "± se", "Q": "Q",
    "work_percent": "work %", "selected_percent": "voxels %",
    "dD95_high": "ΔD95 high", "dD95_worst": "ΔD95 worst", "cord_gy": "cord D0.1cc",
    "brainstem_gy": "stem D0.1cc", "parotid_gy": "parotid mean", "HI": "HI %", "CN": "CN %",
    "optimization_s": "opt. s",
}  # fmt: skip
DECIMALS = {
    "score": 3, "± se": 3, "Q": 3, "work %": 1, "voxels %": 1, "ΔD95 high": 2, "ΔD95 worst": 2,
    "cord D0.1cc": 1, "stem D0.1cc": 1, "parotid mean": 1, "HI %": 1, "CN %": 1, "opt. s": 3,
}  # fmt: skip
EXPLAINED = (
    "score: 0 uniform sampling, 1 keep-all at 100 evaluations, at equal work; se over cases. "
    "work: share of keep-all at 100 evaluations.\n"
    "voxels: rows kept in a round. ΔD95: percentage points lost to keep-all at 100 evaluations, "
    "highest and worst target.\n"
    "Doses in Gy (RBE). HI: (D2 − D98)/prescription; HI and CN of the highest target. "
    "opt. s: masking and solving, one thread."
)


@dataclass(frozen=True)
class Trials:
    """How often and on what budgets agents play: all of them the same episodes."""

    budgets: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)
    n_samplings: int = 3
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "budgets", tuple(self.budgets))
        if not self.budgets:
            raise ValueError("budgets is empty; give at least one share of keep-all's work.")
        if self.n_samplings < 1:
            raise ValueError(f"n_samplings={self.n_samplings} must be at least 1.")

    def seeds(self, case_index: int, budget: float) -> list[int]:
        """One seed for every episode of a case on a budget."""
        entropy = [self.seed, case_index, int(1e6 * budget)]
        return np.random.SeedSequence(entropy).generate_state(self.n_samplings).tolist()

    @property
    def drawn_budget(self) -> float:
        """The budget of the pictures: the middle one."""
        return sorted(self.budgets)[len(self.budgets) // 2]


def evaluate(
    environment: Environment,
    agents: Mapping[str, object],
    cases: Sequence[str],
    trials: Trials,
    workers: int = 1,
    progress: Callable[[int], None] = lambda n: None,
    draw: Drawer | None = None,
) -> list[dict]:
    """One row an episode, in the order cases, agents, budgets, samplings.

    ``progress`` is called with the number of finished episodes. ``draw`` (picklable with several
    workers) gets the state of every agent after the first sampling of the middle budget.
    """
    jobs = [(environment, dict(agents), case, i, trials, draw) for i, case in enumerate(cases)]
    per_case = len(agents) * len(trials.budgets) * trials.n_samplings
    found: dict[int, list[dict]] = {}
    for done, (index, rows) in enumerate(_results(jobs, workers), start=1):
        found[index] = rows
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
    environment: Environment,
    agents: Mapping[str, object],
    case: str,
    case_index: int,
    trials: Trials,
    draw: Drawer | None = None,
) -> list[dict]:
    """All episodes of all agents on one case, on those budgets whose anchors lie far apart."""
    rows, budgets = [], _sound_budgets(environment, case, trials.budgets)
    for name, agent in agents.items():
        for budget in budgets:
            env = environment.make(case=case, budget=budget, **agent.settings(budget))
            for sampling, seed in enumerate(trials.seeds(case_index, budget)):
                row = play(agent, env, seed)
                rows.append({"agent": name, "env_id": environment.id, "case": case, **row})
                if draw is not None and sampling == 0 and budget == trials.drawn_budget:
                    draw(name, env.unwrapped.state)
            env.close()
    return rows


def _sound_budgets(environment: Environment, case: str, budgets: Sequence[float]) -> list[float]:
    """Budgets without those whose anchors lie too close to tell agents apart, with a warning."""
    anchors = load_case(environment.make().unwrapped.case_recipe(case)).anchors
    close = [b for b in budgets if b in anchors.rho_uniform and not anchors.is_sound(b)]
    if close:
        warnings.warn(
            f"{case}: budgets {close} are left out, uniform sampling comes within "
            f"{SMALLEST_GAP} in log ρ of keep-all.",
            stacklevel=2,
        )
    return [b for b in budgets if b not in close]


def play(agent, env, seed: int) -> dict:
    """One episode: its figures, and what is needed to play it again."""
    agent.bind(env, seed)
    observation, info = env.reset(seed=seed)
    actions, kept, seconds, done = [], [], 0.0, False
    while not done:
        action, _ = agent.predict(observation, deterministic=True)
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        actions.append(packed(action))
        kept.append((info["n_evaluations"], info["selected_percent"]))
        seconds += env.unwrapped.task.optimization_s
    state = env.unwrapped.state
    return {
        **figures(state.case, info["metrics"]),
        "score": info["score"], "raw_score": info["raw_score"], "Q": info["Q"],
        "budget": info["budget"], "work_percent": 100.0 * info["work_used"] * info["budget"],
        "selected_percent": _mean_kept(kept), "rounds": len(actions),
        "optimization_s": seconds, "seed": seed,
        "voxels_per_cm3": info["target_voxels_per_cm3"], "case_key": state.case.key,
        "settings": dict(env.spec.kwargs), "actions": actions, "metrics": info["metrics"],
    }  # fmt: skip


def figures(case: Case, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plan's figures that the table shows; NaN where a structure is missing."""
    reference = case.anchors.reference_metrics
    lost = delta_d95(reference, metrics, case.targets)
    high = case.targets[0]
    parotids = [m["Mean[Gy]"] for name, m in metrics.items() if name.startswith("Parotid")]
    return {
        "dD95_high": lost[high], "dD95_worst": max(lost.values()),
        "cord_gy": _metric(metrics, "SpinalCord", "D0.1cc[Gy]"),
        "brainstem_gy": _metric(metrics, "Brainstem", "D0.1cc[Gy]"),
        "parotid_gy": float(np.mean(parotids)) if parotids else float("nan"),
        "HI": metrics[high]["HI[%]"], "CN": metrics[high]["CN[%]"],
    }  # fmt: skip


def keep_all_row(case: Case) -> dict:
    """Keep-all at 100 evaluations: what scores 1, at as many times the work as budgets say."""
    metrics = case.anchors.reference_metrics
    return {
        "agent": KEEP_ALL_100, "case": case.case_id, "score": 1.0, "Q": case.quality(metrics),
        "work_percent": 100.0, "selected_percent": 100.0, **figures(case, metrics),
    }  # fmt: skip


def summary(rows: Iterable[Mapping]) -> list[dict]:
    """Per agent the mean over cases of each case's mean; se over cases."""
    by_agent: dict[str, list[Mapping]] = {}
    for row in rows:
        by_agent.setdefault(row["agent"], []).append(row)
    return [{"agent": name, **_means(of)} for name, of in by_agent.items()]


def by_budget(rows: Iterable[Mapping]) -> list[dict]:
    """Per agent the mean score at each budget."""
    table: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        table.setdefault(row["agent"], {}).setdefault(row["budget"], []).append(row["score"])
    return [
        {"agent": name, **{f"{100 * b:g} %": float(np.mean(v)) for b, v in sorted(of.items())}}
        for name, of in table.items()
    ]


def mean_score(rows: Iterable[Mapping], agent: str) -> float:
    """Mean over cases of an agent's score."""
    return next(row["score"] for row in summary(rows) if row["agent"] == agent)


def interquartile_mean(scores: Sequence[float]) -> float:
    """Mean of the middle half (Agarwal et al., NeurIPS 2021)."""
    ordered = np.sort(np.asarray(scores, float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def packed(action: np.ndarray) -> str:
    """An action as text: bits of a mask, or float32 numbers; compressed, base64."""
    action = np.asarray(action)
    raw = np.packbits(action) if action.dtype == np.int8 else action.astype("<f4")
    return b64encode(compress(raw.tobytes())).decode()


def _means(rows: Sequence[Mapping]) -> dict[str, float]:
    names = [n for n in COLUMNS if n not in ("agent", "score_se")]
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


def _mean_kept(kept: Sequence[tuple[int, float]]) -> float:
    """Selected voxels over the rounds that optimized, by their evaluations."""
    n = sum(evaluations for evaluations, _ in kept)
    return sum(e * percent for e, percent in kept) / n if n else 0.0


def _metric(metrics, structure: str, name: str) -> float:
    return float(metrics.get(structure, {}).get(name, float("nan")))
