"""Arc plans: the spot weights of chosen energy layers, and layers chosen by their weight.

The influence of the chosen layers alone is computed when it is asked for, in every scenario. The
layers themselves come from outside, one an angle (Yang et al. 2025), or from the optimizer, as in
RayStation (Janson 2024, "Proton arc planning"): it starts from many and drops the lowest-weighted
in cycles until a set number is left.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.pencil_beam.traced import TracedRows
from engine.dose.quantities import Quantity
from engine.geometry.arc import ArcGeometry
from engine.geometry.scenarios import Scenario
from engine.optimization.objectives import Objective
from engine.optimization.regions import Region
from engine.optimization.robust import AccurateScenarios, RobustProblem, solve_worst_case
from engine.optimization.solvers import LBFGSB

SHARPNESS = (8.0, 32.0)  # of the smoothed worst case, from solve to solve


class LayerSource(Protocol):
    """Where the influence of chosen layers comes from."""

    n_rows: int  # of one scenario

    def influences(self, chosen: np.ndarray) -> InfluenceMatrix:
        """All scenarios stacked, nominal first; columns are the spots of ``chosen`` (G, E) bool in
        the order of ``ArcGeometry.plan``."""

    def layer_starts(self, chosen: np.ndarray) -> np.ndarray:
        """First spot of every chosen layer, and their number at the end, (n_layers + 1,)."""


@dataclass(frozen=True, eq=False)
class TracedLayers:
    """Influence computed on the fly from depths that were traced once."""

    geometry: ArcGeometry
    traced: TracedRows
    scenarios: tuple[Scenario, ...]

    @property
    def n_rows(self) -> int:
        return self.traced.n_rows

    def influences(self, chosen: np.ndarray) -> InfluenceMatrix:
        return self.traced.stacked(self.geometry.plan(chosen), self.scenarios)

    def layer_starts(self, chosen: np.ndarray) -> np.ndarray:
        return _starts_of(self.geometry.n_spots, chosen)


@dataclass(frozen=True, eq=False)
class RememberedLayers:
    """Influence angle by angle, for choices that one after another differ in few layers.

    Products are those of ``source``'s matrices, bit by bit. ``most_bytes`` bounds what is
    remembered; what was not asked for the longest goes first.
    """

    source: TracedLayers
    most_bytes: int = 2 * 10**9
    remembered: OrderedDict = field(default_factory=OrderedDict, repr=False)

    @property
    def n_rows(self) -> int:
        return self.source.n_rows

    def influences(self, chosen: np.ndarray) -> InfluenceMatrix:
        angles = np.flatnonzero(chosen.any(axis=1))
        if not len(angles):
            return self.source.influences(chosen)  # refuses it
        parts = [self._of_angle(int(angle), chosen[angle]) for angle in angles]
        while sum(part.nbytes for part in self.remembered.values()) > self.most_bytes:
            self.remembered.popitem(last=False)
        return InfluenceMatrix.joined(parts)

    def layer_starts(self, chosen: np.ndarray) -> np.ndarray:
        return self.source.layer_starts(chosen)

    def _of_angle(self, angle: int, layers: np.ndarray) -> InfluenceMatrix:
        key = angle, layers.tobytes()
        part = self.remembered.pop(key, None)
        if part is None:
            only = np.zeros(self.source.geometry.valid.shape, bool)
            only[angle] = layers
            plan = self.source.geometry.plan(only)
            beams = (plan.beams[plan.spot_beam[0]],)
            plan = replace(plan, beams=beams, spot_beam=np.zeros_like(plan.spot_beam))
            part = self.source.traced.stacked(plan, self.source.scenarios)
        self.remembered[key] = part
        return part


@dataclass(frozen=True, eq=False)
class KeptLayers:
    """Influence of every valid layer of a small arc, kept; a choice copies its columns.

    ``matrix`` stacks the scenarios; its "beams" are the valid layers angle by angle, energies
    falling, and ``block`` (G, E) int32 numbers them, −1 for none.
    """

    matrix: InfluenceMatrix
    block: np.ndarray
    n_spots: np.ndarray  # (G, E)
    n_rows: int

    def influences(self, chosen: np.ndarray) -> InfluenceMatrix:
        blocks = self.block[chosen]
        if np.any(blocks < 0):
            raise ValueError("chosen holds layers that do not reach the target.")
        return self.matrix.beams_only(np.sort(blocks))

    def layer_starts(self, chosen: np.ndarray) -> np.ndarray:
        return _starts_of(self.n_spots, chosen)

    @classmethod
    def of(cls, source: TracedLayers) -> "KeptLayers":
        """Compute the influence of all valid layers of an arc."""
        geometry = source.geometry
        angle, layer = np.nonzero(geometry.valid)
        order = np.lexsort((-layer, angle))
        block = np.full(geometry.valid.shape, -1, np.int32)
        block[angle[order], layer[order]] = np.arange(len(order))
        matrix = source.traced.stacked(_one_beam_a_layer(geometry), source.scenarios)
        return cls(matrix, block, geometry.n_spots, source.n_rows)


@dataclass(frozen=True, eq=False)
class ArcPlan:
    """Weights of a choice's spots, and what they do in every scenario (nominal first)."""

    chosen: np.ndarray  # (G, E) bool
    weights: np.ndarray  # (n_spots,) particles per fraction, spots as ArcGeometry.plan has them
    values: np.ndarray  # (S,) the objective
    dose_gy: np.ndarray  # (S, n_rows) of one fraction, as the quantity counts it
    n_nonzeros: int
    n_evaluations: int

    @property
    def worst(self) -> float:
        """F_w, the objective in the worst scenario."""
        return float(self.values.max())


@dataclass(frozen=True, eq=False)
class ArcPlanner:
    """Optimizes the weights of chosen layers for the worst scenario.

    ``structures`` are regions on the rows of one scenario. All objectives are robust unless
    ``robust`` (n_objectives,) bool says otherwise. ``evaluations`` bounds the work of one plan.
    """

    source: LayerSource
    structures: Mapping[str, Region]
    objectives: tuple[Objective, ...]
    quantity: Quantity
    evaluations: int = 60
    robust: Sequence[bool] | None = None
    minimum_weight: float | None = None

    def optimize(
        self, chosen: np.ndarray, start: np.ndarray | None = None, evaluations: int | None = None
    ) -> ArcPlan:
        """The plan of a choice (G, E) bool, from equal particles in every spot or ``start``."""
        influence = self.source.influences(chosen)
        problem = self.problem(influence)
        start = problem.initial_weights() if start is None else start
        solver = LBFGSB(max_evaluations=evaluations or self.evaluations, tolerance=0.0)
        solution = solve_worst_case(problem, solver, start, SHARPNESS)
        dose = problem.doses.fraction_dose(solution.weights, self.quantity)
        return ArcPlan(
            chosen, solution.weights, problem.values(solution.weights), dose,
            influence.n_nonzeros, solution.n_evaluations,
        )  # fmt: skip

    def problem(self, influence: InfluenceMatrix) -> RobustProblem:
        """The robust problem on a stacked matrix."""
        doses = AccurateScenarios(influence, influence.n_rows // self.source.n_rows)
        return RobustProblem(
            doses, self.structures, self.objectives, self.quantity, robust=self.robust,
            minimum_weight=self.minimum_weight,
        )  # fmt: skip

    def select_layers(
        self, initial: np.ndarray, n_final: int, cycles: int = 4, evaluations: int = 15,
        tell: Callable[[str], None] = lambda text: None,
    ) -> np.ndarray:  # fmt: skip
        """Layers (G, E) bool that the optimizer keeps of ``initial``, ``n_final`` in all.

        Each cycle optimizes for ``evaluations`` and drops the layers of the lowest weight, by
        about the same factor from cycle to cycle; what stays keeps its weights.
        """
        chosen = np.asarray(initial, bool).copy()
        _check_numbers(int(chosen.sum()), n_final, cycles)
        shrink = (n_final / chosen.sum()) ** (1.0 / cycles)
        weights, n_layers = None, chosen.sum()
        for cycle in range(cycles):
            tell(f"{chosen.sum()} layers, of which {n_final} will stay")
            plan = self.optimize(chosen, weights, evaluations)
            n_layers = n_final if cycle == cycles - 1 else max(n_final, int(n_layers * shrink))
            chosen, weights = self._heaviest(plan, n_layers)
        return chosen

    def _heaviest(self, plan: ArcPlan, n_layers: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``n_layers`` heaviest layers of a plan and the weights of their spots."""
        starts = self.source.layer_starts(plan.chosen)
        total = np.add.reduceat(plan.weights.astype(np.float64), starts[:-1])
        kept = np.zeros(len(total), bool)
        kept[np.argsort(-total, kind="stable")[:n_layers]] = True
        angle, layer = layers_in_order(plan.chosen)
        chosen = np.zeros_like(plan.chosen)
        chosen[angle[kept], layer[kept]] = True
        return chosen, plan.weights[np.repeat(kept, np.diff(starts))]


def layers_in_order(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angle and layer of every chosen layer as plans have them: by angle, energy falling."""
    angle, layer = np.nonzero(chosen)
    order = np.lexsort((-layer, angle))
    return angle[order], layer[order]


def thinned_layers(valid: np.ndarray, range_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Every valid layer (G, E) of a ladder of energies about ``spacing_mm`` of water apart."""
    wanted = np.arange(range_mm[0], range_mm[-1] + spacing_mm, spacing_mm)
    ladder = np.unique(np.abs(range_mm[None, :] - wanted[:, None]).argmin(axis=1))
    kept = np.zeros(len(range_mm), bool)
    kept[ladder] = True
    return valid & kept


def _starts_of(n_spots: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(n_spots[layers_in_order(chosen)])]).astype(np.int64)


def _one_beam_a_layer(geometry: ArcGeometry):
    """A plan of all valid layers in which every layer is a beam of its own."""
    plan = geometry.plan(geometry.valid)
    starts = plan.layer_starts()
    number = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).astype(np.uint16)
    beams = tuple(plan.beams[b] for b in plan.spot_beam[starts[:-1]])
    return replace(plan, beams=beams, spot_beam=number)


def _check_numbers(n_initial: int, n_final: int, cycles: int) -> None:
    if not 1 <= n_final <= n_initial:
        raise ValueError(f"n_final={n_final} must lie in 1 … {n_initial}, the initial layers.")
    if cycles < 1:
        raise ValueError(f"cycles={cycles} must be at least 1.")
