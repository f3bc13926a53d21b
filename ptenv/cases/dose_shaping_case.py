"""A dose-shaping case: the problem, weightings of its goals, plans to start from, and anchors."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import log
from zlib import crc32

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import RbeDose
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.evaluation.scorecard import ClinicalQuality, metrics_of
from engine.optimization.problem import PlanningProblem
from engine.optimization.shaping import Recovery, Shaper
from engine.optimization.shaping_model import MatrixDose
from engine.optimization.shaping_requests import Scene
from engine.patient.grid import Grid
from ptenv.cases.anchors import HIGHEST_SCORE, LOWEST_SCORE, SMALLEST_GAP
from ptenv.cases.case import GROUPS, scored_entry, scored_fields
from ptenv.cases.dose_shaping_recipe import DoseShapingRecipe
from ptenv.cases.shaping_goals import WeightedGoals, drawn_multipliers

FLOOR = 1e-3  # of the start's excess: below it F − F* is not told from rounding
FEWEST_EVALUATIONS = 5  # of the direct solver: a score compares with no less
_ARRAYS = ("group", "multipliers", "start_weights", "hu")


@dataclass(frozen=True)
class ShapingAnchors:
    """Per weighting of the goals: F* (n_goals,), and F of direct optimization from the episode's
    start (n_goals, n + 1): the best after 0, 1, … n evaluations of value and gradient, two dose
    products each."""

    f_star: tuple[float, ...]
    direct: tuple[tuple[float, ...], ...]
    reference_metrics: dict  # of direct optimization under the first weighting
    quality: dict  # ClinicalQuality.as_dict()

    @property
    def budgets(self) -> tuple[int, ...]:
        """The weightings that there are anchors for."""
        return tuple(range(len(self.f_star)))

    def highest(self, goals: int) -> float:
        """The most that a score may be."""
        return HIGHEST_SCORE

    def excess(self, objective: float, goals: int) -> float:
        """ρ = F − F*, not below the floor that rounding sets."""
        return max(objective - self.f_star[goals], FLOOR * self._start_excess(goals))

    def score(self, objective: float, goals: int, products: float) -> float:
        """0: nothing done; 1: direct optimization with as many dose products; −1 … 1.5."""
        return min(max(self.raw_score(objective, goals, products), LOWEST_SCORE), HIGHEST_SCORE)

    def raw_score(self, objective: float, goals: int, products: float) -> float:
        """log(ρ₀/ρ) / log(ρ₀/ρ_direct), not clipped; the gap is that of five evaluations at
        least, so that a few products cannot be judged against nothing.

        A plan that is worse than the start is divided by that least gap whatever it took: else
        useless requests, which widen the gap, would mend its score.
        """
        done = log(self._start_excess(goals) / self.excess(objective, goals))
        return done / self.gap(goals, products if done > 0 else 0.0)

    def gap(self, goals: int, products: float) -> float:
        return max(self._log_gap(goals, products), SMALLEST_GAP)

    def is_sound(self, goals: int) -> bool:
        """Whether direct optimization gets far enough from the start to compare agents."""
        return self._log_gap(goals, 0.0) >= SMALLEST_GAP

    def direct_after(self, goals: int, products: float) -> float:
        """F of direct optimization after dose products, never fewer than ten."""
        values = self.direct[goals]
        return values[min(max(int(products // 2), FEWEST_EVALUATIONS), len(values) - 1)]

    def _start_excess(self, goals: int) -> float:
        return max(self.direct[goals][0] - self.f_star[goals], 1e-12)

    def _log_gap(self, goals: int, products: float) -> float:
        direct = self.excess(self.direct_after(goals, products), goals)
        return log(self._start_excess(goals) / direct)

    def as_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict) -> "ShapingAnchors":
        direct = tuple(tuple(values) for values in plain["direct"])
        return cls(**{**plain, "f_star": tuple(plain["f_star"]), "direct": direct})


@dataclass(frozen=True, eq=False)
class DoseShapingCase:
    """Everything a dose-shaping episode needs; nothing in it changes, workers share it.

    Copies are the case itself, a pickle is its recipe. ``group`` (n_rows,) uint8 indexes GROUPS;
    ``multipliers`` (n_goals, n_groups) are the weightings, ``start_weights`` (n_goals, n_spots)
    float32 the plans that episodes start from.
    """

    case_id: str
    key: str
    recipe: dict
    problem: PlanningProblem
    evaluation: PlanEvaluation
    prescription_gy: dict[str, float]
    volumes_cm3: dict[str, float]
    group: np.ndarray
    multipliers: np.ndarray
    start_weights: np.ndarray
    hu: np.ndarray  # (nz, ny, nx) int16 on the dose grid
    plan: dict  # beams, and spots as arrays: enough to score the plan with another engine
    anchors: ShapingAnchors | None = None

    @property
    def settings(self) -> DoseShapingRecipe:
        return DoseShapingRecipe(**self.recipe)

    @property
    def influence(self) -> InfluenceMatrix:
        return self.problem.influence

    @property
    def grid(self) -> Grid:
        return self.influence.grid

    @property
    def quantity(self) -> RbeDose:
        return self.problem.quantity

    @property
    def nbytes(self) -> int:
        return self.influence.nbytes

    @property
    def n_goals(self) -> int:
        return len(self.multipliers)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, highest prescription first."""
        return tuple(sorted(self.prescription_gy, key=lambda t: -self.prescription_gy[t]))

    @property
    def target_voxels_per_cm3(self) -> float:
        return 1.0 / self.grid.voxel_volume_cm3

    @cached_property
    def _goals(self) -> dict[int, WeightedGoals]:
        return {}

    def goals(self, index: int) -> WeightedGoals:
        """One weighting of the goals."""
        if index not in self._goals:
            self._goals[index] = WeightedGoals.of(
                self.problem, self.multipliers[index], self.targets[0]
            )
        return self._goals[index]

    @cached_property
    def model(self) -> MatrixDose:
        """The matrix as dose shaping reads it; its column-wise copy is made when first asked."""
        organ = (self.group >= 2) & (self.group < len(GROUPS) - 1)
        return MatrixDose(
            self.influence, (self.group < 2).astype(np.float32), organ.astype(np.float32)
        )

    def shaper(self, goals: int, recovery: Recovery) -> Shaper:
        """Who carries out requests, and keeps what one weighting of the goals asks for."""
        return Shaper(
            self.model, self.scene.points_mm, *self.goals(goals).bands,
            self.prescription_gy[self.targets[0]] / self.quantity.scale, recovery,
        )  # fmt: skip

    @cached_property
    def scene(self) -> Scene:
        regions = {n: self.problem.structures[n] for n in self.evaluation.structures}
        return Scene(self.grid, self.influence.voxels, regions, self.quantity)

    def metrics(self, dose_gy: np.ndarray) -> dict[str, dict[str, float]]:
        """Of a dose (n_rows,) in Gy (RBE) over the course."""
        return self.evaluation.evaluate(dose_gy)

    @cached_property
    def quality(self) -> ClinicalQuality:
        return ClinicalQuality.from_dict(self.anchors.quality)

    def with_anchors(self, anchors: ShapingAnchors) -> "DoseShapingCase":
        """The finished case: anchors in, and the goals' metrics among those that are read."""
        goals = ClinicalQuality.from_dict(anchors.quality).scorecard.goals
        evaluation = replace(self.evaluation, metrics=metrics_of(goals))
        return replace(self, anchors=anchors, evaluation=evaluation)

    def __copy__(self) -> "DoseShapingCase":
        return self

    def __deepcopy__(self, memo: dict) -> "DoseShapingCase":
        return self

    def __reduce__(self):
        return _recalled, (self.recipe, self.key)

    # ------------------------------------------------------------------ to and from the store

    def as_entry(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Plain description and arrays, for the store."""
        return scored_entry(self, _ARRAYS)

    @classmethod
    def from_entry(cls, description: dict, arrays: dict[str, np.ndarray]) -> "DoseShapingCase":
        """A case whose arrays are the store's own, mapped read-only."""
        case = cls(**scored_fields(description, arrays, _ARRAYS))
        return case.with_anchors(ShapingAnchors.from_dict(description["anchors"]))


def goal_multipliers(recipe: DoseShapingRecipe) -> np.ndarray:
    """Weightings of a case's goals, (n_goals, n_groups): every patient has its own."""
    seed = (crc32(recipe.case_id.encode()), 5)
    return drawn_multipliers(seed, recipe.n_goals, recipe.goal_decades)


def _recalled(recipe: dict, key: str) -> DoseShapingCase:
    from ptenv.cases.library import recalled_case  # it imports this module

    return recalled_case(recipe, key, DoseShapingRecipe.__name__)
