"""Samplers side by side on many cases, as Quarz 2024 compares them."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np

from agents.environments import AnyEnvironment
from agents.voxel_sampling.samplers import Sampler
from agents.voxel_sampling.study_plans import CaseStudy, Trials, n_steps, study_case
from ptenv.cases.case import Case
from ptenv.cases.library import load_case
from ptenv.processes import worker_pool

PLANS = "plans"  # folder of what pictures are drawn from
Progress = Callable[[int, str], None]  # (steps done so far, of which case)


def study(
    environment: AnyEnvironment,
    samplers: Mapping[str, Sampler],
    cases: Sequence[str],
    trials: Trials,
    workers: int = 1,
    progress: Progress = lambda n, what: None,
    keep: Callable[[list[dict]], None] = lambda rows: None,
    plans: Path | None = None,
) -> list[dict]:
    """One row a plan, in the order of the cases, then Reference and samplers, then samplings.

    ``environment`` says how the cases are built. ``keep`` gets the rows of every case as it is
    done; ``plans`` is a folder for the first plan of every sampler, for pictures.
    """
    jobs = [(environment, dict(samplers), case, trials, plans) for case in cases]
    found: dict[str, list[dict]] = {}
    for case, rows in _results(jobs, workers, progress):
        found[case] = rows
        keep(rows)
    return [row for case in cases for row in found[case]]


def case_named(environment: AnyEnvironment, name: str) -> Case:
    return load_case(environment.make().unwrapped.case_recipe(name))


def _results(jobs: list[tuple], workers: int, progress: Progress) -> Iterator[tuple[str, list]]:
    per_case = n_steps(jobs[0][1], jobs[0][3]) if jobs else 0
    if workers <= 1 or len(jobs) <= 1:
        for done, job in enumerate(jobs):
            yield job[2], _study_job(*job, partial(_told, progress, done * per_case, job[2]))
        return
    with worker_pool(workers) as pool:
        futures = {pool.submit(_study_job, *job): job[2] for job in jobs}
        for done, future in enumerate(as_completed(futures), start=1):
            yield futures[future], future.result()
            progress(done * per_case, futures[future])


def _told(progress: Progress, before: int, case: str, n: int) -> None:
    progress(before + n, case)


def _study_job(
    environment, samplers, name: str, trials: Trials, plans: Path | None, tell=lambda n: None
) -> list[dict]:
    studied = study_case(case_named(environment, name), samplers, trials, tell)
    if plans is not None:
        KeptPlans.of(studied).write(plans, name)
    return [{**row, "case": name} for row in studied.rows]


@dataclass(frozen=True, eq=False)
class KeptPlans:
    """The first plan of every sampler on one case: what is drawn."""

    names: list[str]
    dose_gy: np.ndarray  # (n_plans, n_rows) float32
    rows: np.ndarray  # (n_plans, n_rows) bool

    @classmethod
    def of(cls, studied: CaseStudy) -> "KeptPlans":
        names = list(dict.fromkeys(plan.name for plan in studied.plans))
        firsts = [studied.first(name) for name in names]
        doses, rows = ([getattr(f, a) for f in firsts] for a in ("dose_gy", "rows"))
        return cls(names, np.stack(doses).astype(np.float32), np.stack(rows))

    def write(self, folder: Path, case: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            _file(folder, case), names=np.array(self.names), dose_gy=self.dose_gy, rows=self.rows
        )

    @classmethod
    def read(cls, folder: Path, case: str) -> "KeptPlans":
        with np.load(_file(folder, case)) as kept:
            return cls([str(n) for n in kept["names"]], kept["dose_gy"], kept["rows"])


def _file(folder: Path, case: str) -> Path:
    return folder / f"{case.replace(':', '-').replace('/', '-')}.npz"


def read_rows(path: Path, per_case: int) -> list[dict]:
    """Rows of the cases that a stopped run had finished; none where there is no file.

    Cases with fewer than ``per_case`` rows, whose writing was cut off, are left out.
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
            rows.append({k: float("nan") if v is None else v for k, v in row.items()})
    written = Counter(row["case"] for row in rows)
    return [row for row in rows if written[row["case"]] == per_case]


def as_line(row: Mapping) -> str:
    """A row as one line of JSON, null for what is no number."""
    plain = {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}
    return json.dumps(plain, allow_nan=False)
