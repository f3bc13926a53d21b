"""Plans on sampled voxels, made by processes of their own; one that dies is replaced.

Nothing here needs torch: a worker starts in a second and holds what a plan takes.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from agents.environments import AnyEnvironment
from agents.voxel_sampling.study import case_named
from agents.voxel_sampling.study_problem import row_penalty, sampled_problem
from engine.optimization.solvers import LBFGSB
from ptenv.processes import new_pool


class PlanWarning(UserWarning):
    """A plan was lost and is made again."""


@dataclass(frozen=True, eq=False)
class PlanOrder:
    """Which voxels of which case; ``packed`` holds the bits of ``mask``.

    ``with_ring`` plans with the objectives on normal tissue; Quarz 2024 has none.
    """

    case: str
    packed: np.ndarray
    n_rows: int
    seed: int
    evaluations: int = 100
    with_ring: bool = False

    @classmethod
    def of(cls, case: str, mask: np.ndarray, seed: int, **settings) -> "PlanOrder":
        return cls(case, np.packbits(mask), len(mask), seed, **settings)

    @property
    def mask(self) -> np.ndarray:
        """Rows (n_rows,) bool."""
        return np.unpackbits(self.packed, count=self.n_rows).astype(bool)


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """What became of a choice of voxels, on all rows of the case (n_rows,)."""

    dose_gy: np.ndarray  # float32, Gy (RBE) of the course
    row_penalty: np.ndarray  # float32, each row's share of the objective
    objective: float  # on all rows
    d95_percent: dict[str, float]  # of the targets, highest prescription first
    seconds: float  # masking, solving and looking at all rows


def make_plan(environment: AnyEnvironment, order: PlanOrder) -> SamplingPlan:
    """Optimize on the order's rows from equal particles, look at all of them."""
    case, began = case_named(environment, order.case), perf_counter()
    if order.n_rows != case.influence.n_rows:
        raise ValueError(
            f"{order.case} has {case.influence.n_rows} rows, the mask {order.n_rows}; the case "
            "was built with other settings meanwhile: begin the run anew."
        )
    problem = case.problem if order.with_ring else sampled_problem(case)
    masked = problem.masked(
        order.mask, rng=np.random.default_rng(order.seed), sampled_from=case.sampled_from
    )
    solver = LBFGSB(max_evaluations=order.evaluations, tolerance=0.0)
    dose = case.dose_gy(solver.solve(masked, case.start_weights).weights)
    penalty, _ = row_penalty(problem, dose)
    metrics = case.metrics(dose)
    return SamplingPlan(
        dose.astype(np.float32), penalty.astype(np.float32), float(penalty.sum()),
        {t: float(metrics[t]["D95%[%]"]) for t in case.targets}, perf_counter() - began,
    )  # fmt: skip


@dataclass
class Planner:
    """Makes plans in ``workers`` processes of one thread each; 0: in this one, when asked for.

    A process that is killed (by the system when memory is short, mostly) breaks its pool: a new
    one makes the plans that are due again, ``attempts`` times at most.
    """

    environment: AnyEnvironment
    workers: int = 1
    attempts: int = 3
    make: Callable[[AnyEnvironment, PlanOrder], SamplingPlan] = make_plan
    _pool: ProcessPoolExecutor | None = field(default=None, init=False, repr=False)
    _due: dict[int, tuple[PlanOrder, Future | None]] = field(default_factory=dict, init=False)
    _ordered: int = field(default=0, init=False)

    def __post_init__(self):
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must be 0 or more.")
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} must be at least 1.")

    def order(self, order: PlanOrder) -> int:
        """Have a plan made; the number by which it is asked for."""
        self._ordered += 1
        self._due[self._ordered] = (order, self._begun(order))
        return self._ordered

    def plan(self, number: int) -> SamplingPlan:
        """The plan of that number, once: it is forgotten then."""
        for attempt in range(1, self.attempts + 1):
            order, future = self._due[number]
            try:
                found = self.make(self.environment, order) if not self.workers else future.result()
            except BrokenProcessPool:
                self._tell_of_loss(order, attempt)
                self._begin_again()
            else:
                del self._due[number]
                return found
        order, _ = self._due[number]
        raise RuntimeError(
            f"the plan of {order.case} ended its process {self.attempts} times, for want of memory "
            "perhaps: give fewer workers or a coarser dose grid. The run goes on from its last "
            "checkpoint when it is called again."
        )

    def close(self) -> None:
        """End the processes; what is due is dropped."""
        self._due.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "Planner":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _begun(self, order: PlanOrder) -> Future | None:
        if not self.workers:
            return None
        try:
            return self._workers().submit(self.make, self.environment, order)
        except BrokenProcessPool:  # noticed before anyone asked for a plan
            self._tell_of_loss(order, 1)
            self._begin_again()
            return self._workers().submit(self.make, self.environment, order)

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = new_pool(self.workers)
        return self._pool

    def _begin_again(self) -> None:
        """A new pool, and in it all that is due but not done."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        for number, (order, future) in list(self._due.items()):
            if not (future.done() and not future.cancelled() and future.exception() is None):
                self._due[number] = (order, self._begun(order))

    def _tell_of_loss(self, order: PlanOrder, attempt: int) -> None:
        warnings.warn(
            f"a planning process was killed while the plan of {order.case} was due; it is made "
            f"again (attempt {attempt} of {self.attempts}).",
            PlanWarning,
            stacklevel=4,
        )
