"""How much there is to learn: random, best heuristic, privileged search, bound, sampling noise."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass

import numpy as np

from agents.baselines.search import Found, Search
from agents.environments import AnyEnvironment
from ptenv.cases.library import AnyCase
from ptenv.processes import worker_pool

Job = tuple[str, float]  # name of the case, budget
NEEDED = 3.0  # times the sampling noise, by which privileged search must beat the best heuristic


@dataclass(frozen=True)
class Headroom:
    """The verdict over all cases and budgets: mean scores, and what they say."""

    random: float
    heuristic: str
    best_heuristic: float
    privileged: float
    best_plan: float
    bound: float  # what scores 1: keep-all at 100 evaluations, or all layers
    converged: float  # the most that a score may be: of F* for voxel masks
    noise: float
    n_plans: int

    @property
    def gain(self) -> float:
        return self.privileged - self.best_heuristic

    @property
    def is_enough(self) -> bool:
        return self.gain > 0.0 and self.gain >= NEEDED * self.noise

    def as_dict(self) -> dict:
        """The figures and the verdict, for the suite that is frozen after it."""
        return {**asdict(self), "is_enough": self.is_enough}

    def __str__(self) -> str:
        verdict = "headroom" if self.is_enough else "NOT ENOUGH headroom"
        beats = f"{verdict}: privileged search beats {self.heuristic!r} by {self.gain:.3f}, "
        if self.noise == 0.0:
            return f"{beats}whose samplings are all alike, so that any gain above 0 counts."
        times = self.gain / self.noise
        return (
            f"{beats}{times:.1f} times the sampling noise of {self.noise:.3f} (wanted: {NEEDED:g})."
        )


def search_all(
    search: Search, environment: AnyEnvironment, jobs: Sequence[Job], workers: int,
    done: Callable[[Job, Found], None] = lambda job, found: None,
) -> dict[Job, Found]:  # fmt: skip
    """Privileged search on every case and budget; ``done`` is told of each as soon as it ends."""
    found: dict[Job, Found] = {}

    def take(job: Job, result: Found) -> None:
        found[job] = result
        done(job, result)

    if workers <= 1:
        for job in jobs:
            take(job, search.search(environment, *job))
        return found
    with worker_pool(workers) as pool:
        futures = {pool.submit(search.search, environment, *job): job for job in jobs}
        for future in as_completed(futures):
            take(futures[future], future.result())
    return found


def headroom_rows(
    played: Iterable[Mapping], found: Mapping[Job, Found],
    cases: Mapping[str, AnyCase], random: str, heuristics: Sequence[str],
    title: Callable[[float], str],
) -> list[dict]:  # fmt: skip
    """One row a case and budget, the budget by its ``title``; the best heuristic is the best over
    all of them."""
    scores: dict[Job, dict[str, list[float]]] = {}
    for row in played:
        place = scores.setdefault((row["case"], row["budget"]), {})
        place.setdefault(row["agent"], []).append(row["score"])
    best = max(heuristics, key=lambda name: np.mean([np.mean(s[name]) for s in scores.values()]))
    rows = []
    for (name, budget), of in scores.items():
        anchors, result = cases[name].anchors, found[name, budget]
        rows.append({
            "case": cases[name].case_id, "budget": title(budget),
            "random": float(np.mean(of[random])), "heuristic": best,
            "best heuristic": float(np.mean(of[best])),
            "privileged": float(result.scores.mean()), "best plan": float(result.best_plan),
            "bound": 1.0, "highest": anchors.highest(budget),
            "noise": float(np.std(of[best], ddof=1)) if len(of[best]) > 1 else float("nan"),
            "kind": result.kind, "plans": result.n_plans,
        })  # fmt: skip
    return rows


def headroom(rows: Sequence[Mapping]) -> Headroom:
    """Means over cases and budgets; the noise is that of one episode."""

    def mean(name: str) -> float:
        return float(np.mean([row[name] for row in rows]))

    return Headroom(
        random=mean("random"), heuristic=rows[0]["heuristic"],
        best_heuristic=mean("best heuristic"), privileged=mean("privileged"),
        best_plan=mean("best plan"), bound=mean("bound"), converged=mean("highest"),
        noise=float(np.sqrt(np.mean([row["noise"] ** 2 for row in rows]))),
        n_plans=int(sum(row["plans"] for row in rows)),
    )  # fmt: skip
