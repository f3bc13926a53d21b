"""A voxel-mask case: the planning problem, where its rows lie, and what its scores mean."""

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np

from engine.dose import quantities as quantity_kinds
from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import Quantity
from engine.evaluation.plan_evaluation import PlanEvaluation, StructureRows
from engine.evaluation.scorecard import ClinicalQuality, metrics_of
from engine.optimization import objectives as objective_kinds
from engine.optimization.problem import PlanningProblem
from engine.optimization.regions import Region
from engine.optimization.voxel_sampling import even_thresholds
from engine.patient.grid import Grid
from ptenv.cases.anchors import Anchors

GROUPS = ("target_high", "target_low", "serial", "optic", "gland", "other", "ring")
BODY = "Body"  # every scored row: targets, organs and ring

_INFLUENCE = tuple(f.name for f in fields(InfluenceMatrix) if f.name != "grid")
_FEATURES = ("group", "depth_mm", "organ_distance_mm", "candidates", "start_weights", "hu")


@dataclass(frozen=True, eq=False)
class Case:
    """Everything a voxel-mask episode needs; nothing in it changes, workers share it.

    Copies are the case itself, and a pickle is its recipe: it is read from the cache or built
    again where it is opened.

    Rows are the voxels of targets, organs and the normal-tissue ring on the dose grid.
    ``group`` (n_rows,) uint8 indexes GROUPS: the first that fills half of the voxel, else the ring
    where it reaches, else the group that fills most of it; ``depth_mm`` (n_rows,) is the depth
    below the group's surface, in the ring the distance from the targets; ``organ_distance_mm``
    (n_rows,) to the nearest serial or optic organ, 100 where there is none nearer;
    ``candidates`` (n_rows,) bool are the rows that equation (1) of Quarz 2024 leaves.
    """

    case_id: str
    key: str
    recipe: dict
    problem: PlanningProblem
    evaluation: PlanEvaluation
    prescription_gy: dict[str, float]
    volumes_cm3: dict[str, float]
    group: np.ndarray
    depth_mm: np.ndarray
    organ_distance_mm: np.ndarray
    candidates: np.ndarray
    start_weights: np.ndarray
    hu: np.ndarray  # (nz, ny, nx) int16 on the dose grid, for pictures
    plan: dict  # beams, and spots as arrays: enough to score the plan with another engine
    anchors: Anchors | None = None

    @property
    def influence(self) -> InfluenceMatrix:
        return self.problem.influence

    @property
    def nbytes(self) -> int:
        return self.influence.nbytes

    @property
    def grid(self) -> Grid:
        return self.influence.grid

    @property
    def quantity(self) -> Quantity:
        return self.problem.quantity

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, highest prescription first."""
        return tuple(sorted(self.prescription_gy, key=lambda t: -self.prescription_gy[t]))

    @cached_property
    def quality(self) -> ClinicalQuality:
        return ClinicalQuality.from_dict(self.anchors.quality)

    @cached_property
    def row_nonzeros(self) -> np.ndarray:
        return self.influence.row_nonzeros()

    @cached_property
    def row_reach(self) -> np.ndarray:
        """Sum of every row's entries, (n_rows,) float32: Gy at one particle in every spot."""
        return self.influence.dose(self._ones)

    def reach_at(self, weights: np.ndarray) -> np.ndarray:
        """Change of every row's dose of one fraction with one more particle in every spot,
        (n_rows,) float32: the sum of its entries, where dose is a linear product."""
        if self.quantity.photons is None:
            return self.row_reach
        unit = np.full(self.influence.n_rows, 1.0 / self.quantity.scale, np.float32)
        slopes = self.quantity.slopes(self.influence.products(weights), unit)
        return (slopes * self._products_of_ones).sum(axis=0)

    @cached_property
    def _products_of_ones(self) -> np.ndarray:
        return self.influence.products(self._ones)

    @property
    def _ones(self) -> np.ndarray:
        return np.ones(self.influence.n_spots, np.float32)

    @property
    def sampled_from(self) -> np.ndarray | None:
        """Rows (n_rows,) bool that a mask is a sample of; None: all."""
        return self.candidates if self.recipe["weight_after_equation_1"] else None

    def thresholds(self, rng: np.random.Generator, even: bool = False) -> np.ndarray:
        """What a row's keep-rate must exceed for it to be kept, (n_rows,) in 0 … 1: independent
        draws, or ``even_thresholds``."""
        if not even:
            return rng.random(self.influence.n_rows)
        at = np.unravel_index(self.influence.voxels, self.grid.shape)
        return even_thresholds(np.stack(at, axis=1), rng)

    @cached_property
    def target_rows(self) -> np.ndarray:
        """Rows (n_rows,) bool that lie in any target."""
        return self.group < 2

    @property
    def target_voxels_per_cm3(self) -> float:
        return 1.0 / self.grid.voxel_volume_cm3

    def dose_gy(self, weights: np.ndarray) -> np.ndarray:
        """Gy (RBE) of the course on every row, (n_rows,) float32."""
        return self.quantity.value(self.problem.fraction_dose(weights))

    def metrics(self, dose_gy: np.ndarray) -> dict[str, dict[str, float]]:
        return self.evaluation.evaluate(dose_gy)

    def with_anchors(self, anchors: Anchors) -> "Case":
        """The finished case: anchors in, and the goals' metrics among those that are read."""
        goals = ClinicalQuality.from_dict(anchors.quality).scorecard.goals
        evaluation = replace(self.evaluation, metrics=metrics_of(goals))
        return replace(self, anchors=anchors, evaluation=evaluation)

    def __copy__(self) -> "Case":
        return self

    def __deepcopy__(self, memo: dict) -> "Case":
        return self

    def __reduce__(self):
        return _recalled, (self.recipe, self.key)

    # ------------------------------------------------------------------ to and from the store

    def as_entry(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Plain description and arrays, for the store."""
        return scored_entry(self, _FEATURES)

    @classmethod
    def from_entry(cls, description: dict, arrays: dict[str, np.ndarray]) -> "Case":
        """A case whose arrays are the store's own, mapped read-only."""
        case = cls(**scored_fields(description, arrays, _FEATURES))
        return case.with_anchors(Anchors.from_dict(description["anchors"]))


def problem_entry(problem: PlanningProblem) -> tuple[dict, dict[str, np.ndarray]]:
    """A planning problem as plain description and arrays, for the store."""
    m = problem.influence
    arrays = {f"influence.{name}": getattr(m, name) for name in _INFLUENCE}
    for i, region in enumerate(problem.structures.values()):
        arrays[f"region{i}.rows"], arrays[f"region{i}.volume"] = region.rows, region.volume
        if region.distance_mm is not None:
            arrays[f"region{i}.distance_mm"] = region.distance_mm
    description = {
        "grid": asdict(m.grid), "quantity": quantity_entry(problem.quantity),
        "minimum_weight": problem.minimum_weight, "regions": list(problem.structures),
        "objectives": [[type(o).__name__, asdict(o)] for o in problem.objectives],
    }  # fmt: skip
    return description, arrays


def problem_from_entry(description: dict, arrays: dict[str, np.ndarray]) -> PlanningProblem:
    """The problem that ``problem_entry`` wrote; arrays stay the store's own."""
    influence = InfluenceMatrix(
        Grid(**description["grid"]), **{name: arrays[f"influence.{name}"] for name in _INFLUENCE}
    )
    regions = {
        name: stored_region(
            arrays[f"region{i}.rows"], arrays[f"region{i}.volume"],
            arrays.get(f"region{i}.distance_mm"),
        )
        for i, name in enumerate(description["regions"])
    }  # fmt: skip
    objectives = [getattr(objective_kinds, k)(**v) for k, v in description["objectives"]]
    return PlanningProblem(
        influence, regions, objectives, quantity_from_entry(description["quantity"]),
        description["minimum_weight"],
    )  # fmt: skip


def quantity_entry(quantity: Quantity) -> list:
    """Kind and settings of a quantity, for the store."""
    return [type(quantity).__name__, asdict(quantity)]


def quantity_from_entry(entry: list) -> Quantity:
    kind, settings = entry
    return getattr(quantity_kinds, kind)(**settings)


def scored_entry(case, features: tuple[str, ...]) -> tuple[dict, dict[str, np.ndarray]]:
    """A case of a problem and a plan as plain description and arrays, ``features`` among them."""
    problem, arrays = problem_entry(case.problem)
    arrays |= {name: getattr(case, name) for name in features}
    arrays |= {f"plan.{k}": v for k, v in case.plan.items() if isinstance(v, np.ndarray)}
    description = {
        "case_id": case.case_id, "key": case.key, "recipe": case.recipe, **problem,
        "judged": list(case.evaluation.structures),
        "prescription_gy": case.prescription_gy, "volumes_cm3": case.volumes_cm3,
        "plan": {k: v for k, v in case.plan.items() if not isinstance(v, np.ndarray)},
        "anchors": case.anchors.as_dict(),
    }  # fmt: skip
    return description, arrays


def scored_fields(
    description: dict, arrays: dict[str, np.ndarray], features: tuple[str, ...]
) -> dict:
    """All fields but the anchors of what ``scored_entry`` wrote; arrays stay the store's own."""
    problem = problem_from_entry(description, arrays)
    evaluation = judged_rows(
        problem.structures, description["judged"], problem.influence.n_rows,
        description["volumes_cm3"], description["prescription_gy"],
    )  # fmt: skip
    spots = {k[5:]: a for k, a in arrays.items() if k.startswith("plan.")}
    same = ("case_id", "key", "recipe", "prescription_gy", "volumes_cm3")
    return {
        **{name: description[name] for name in same}, "problem": problem,
        "evaluation": evaluation, "plan": {**description["plan"], **spots},
        **{name: arrays[name] for name in features},
    }  # fmt: skip


def judged_rows(
    regions: dict[str, Region], names, n_rows: int, volumes_cm3: dict[str, float],
    prescription_gy: dict[str, float],
) -> PlanEvaluation:  # fmt: skip
    """Metrics on a case's structures; the body is what the case scores."""
    judged = {n: StructureRows(regions[n].rows, regions[n].volume, volumes_cm3[n]) for n in names}
    return PlanEvaluation(judged, prescription_gy, n_rows, judged[BODY])


def stored_region(rows, volume, distance_mm) -> Region:
    """A region that was checked when it was made: scaling it once more would change its bits."""
    region = object.__new__(Region)
    for name, value in (("rows", rows), ("volume", volume), ("distance_mm", distance_mm)):
        object.__setattr__(region, name, value)
    return region


def _recalled(recipe: dict, key: str) -> Case:
    from ptenv.cases.library import recalled_case  # it imports this module

    return recalled_case(recipe, key)
