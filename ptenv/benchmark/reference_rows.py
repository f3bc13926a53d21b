"""The scored rows of a case on a finer grid, and what of a reference lies in the disk cache.

A reference is several entries: rows, objectives and anchors in one, every influence matrix in one
of its own, so that an interrupted build goes on where it was.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.evaluation.scorecard import ClinicalQuality, metrics_of
from engine.optimization.objectives import Objective
from engine.optimization.problem import PlanningProblem
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from ptenv.cases.case import judged_rows, problem_entry, problem_from_entry
from ptenv.cases.planned import planned
from ptenv.cases.store import CacheWarning, CaseStore, Entry

_MATRIX = tuple(f.name for f in fields(InfluenceMatrix) if f.name != "grid")


class Shelf:
    """Where a reference's entries are kept while it is opened; ``store`` None: nowhere else."""

    def __init__(self, store: CaseStore | None):
        self.store = store
        self._open: dict[str, Entry] = {}

    def entry(self, key: str, make: Callable[[], Entry]) -> Entry:
        """An entry with its arrays mapped read-only, made now where there is none that is whole."""
        if key not in self._open:
            self._open[key] = make() if self.store is None else self._stored(key, make)
        return self._open[key]

    def matrix(self, key: str, make: Callable[[], InfluenceMatrix]) -> InfluenceMatrix:
        description, arrays = self.entry(key, lambda: _matrix_entry(make()))
        grid = Grid(**description["grid"])
        return InfluenceMatrix(grid, **{name: arrays[name] for name in _MATRIX})

    def _stored(self, key: str, make: Callable[[], Entry]) -> Entry:
        found = self.store.read(key)
        if found is not None:
            return found
        self.store.require_writable()  # before minutes are spent
        made = make()
        try:
            self.store.write(key, *made)
        except OSError as error:
            message = f"a reference was not written to the cache {self.store.folder} ({error})."
            warnings.warn(message, CacheWarning, stacklevel=2)
        return self.store.read(key) or made  # None: a full disk, or evicted at once


@dataclass(frozen=True, eq=False)
class FineRows:
    """A case's structures and own objectives on the rows of a finer grid.

    ``problem`` has a matrix without entries: it answers for doses, ``with_matrix`` for weights.
    """

    problem: PlanningProblem
    judged: tuple[str, ...]  # structures that metrics are of
    volumes_cm3: dict[str, float]
    prescription_gy: dict[str, float]

    @property
    def grid(self) -> Grid:
        return self.problem.influence.grid

    @property
    def voxels(self) -> np.ndarray:
        return self.problem.influence.voxels

    def with_matrix(self, influence: InfluenceMatrix) -> PlanningProblem:
        return replace(self.problem, influence=influence)

    @cached_property
    def _evaluation(self) -> PlanEvaluation:
        return judged_rows(
            self.problem.structures, self.judged, len(self.voxels), self.volumes_cm3,
            self.prescription_gy,
        )  # fmt: skip

    def evaluation(self, quality: ClinicalQuality) -> PlanEvaluation:
        """Metrics of the goals that a case reads."""
        return replace(self._evaluation, metrics=metrics_of(quality.scorecard.goals))

    def as_entry(self) -> Entry:
        description, arrays = problem_entry(self.problem)
        description |= {
            "judged": list(self.judged), "volumes_cm3": self.volumes_cm3,
            "prescription_gy": self.prescription_gy,
        }  # fmt: skip
        return description, arrays

    @classmethod
    def from_entry(cls, description: dict, arrays: dict[str, np.ndarray]) -> "FineRows":
        return cls(
            problem_from_entry(description, arrays), tuple(description["judged"]),
            description["volumes_cm3"], description["prescription_gy"],
        )  # fmt: skip


def fine_rows(
    patient: Patient, dose_grid_mm: float, ring_mm: float, objectives: Sequence[Objective], quantity
) -> FineRows:
    """``objectives`` of a case where a finer grid has their structures, in part or whole."""
    made = planned(patient, dose_grid_mm, ring_mm, _without_entries, quantity, 0.0)
    asked = [o for o in objectives if o.structure in made.problem.structures]
    problem = replace(made.problem, objectives=asked)
    return FineRows(problem, tuple(made.names), made.volumes_cm3, made.prescription_gy)


def _without_entries(grid: Grid, voxels: np.ndarray) -> InfluenceMatrix:
    return InfluenceMatrix.from_dense(grid, voxels, np.zeros((len(voxels), 1), np.float32))


def _matrix_entry(matrix: InfluenceMatrix) -> Entry:
    arrays = {name: getattr(matrix, name) for name in _MATRIX}
    return {"grid": asdict(matrix.grid)}, arrays
