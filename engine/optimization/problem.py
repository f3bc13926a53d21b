"""The planning problem: objectives on an influence matrix, as a function of the spot weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from engine.dose.influence import InfluenceMatrix, RowPenalty
from engine.dose.quantities import Quantity
from engine.optimization import _kernels as kernels
from engine.optimization.objectives import Objective, SeparableObjective
from engine.optimization.regions import MaskedRegions, Region, region_of

SCALE_FLOOR = 1e-2  # of the largest curvature: spots that miss the target are not scaled further


@dataclass(frozen=True, eq=False)
class PlanningProblem:
    """Σ weight · objective, of weights in particles per fraction (n_spots,).

    ``structures`` gives each structure's rows and relative volumes (a ``Region``, or a tuple of
    its fields). When all objectives are sums over voxels of one-sided squares of the total dose,
    value and gradient come from one pass over the matrix; otherwise from a product each way and
    beam. ``minimum_weight`` (particles per spot) is what the machine can deliver; it binds in
    ``solve_deliverable``.
    """

    influence: InfluenceMatrix
    structures: Mapping[str, Region]
    objectives: Sequence[Objective]
    quantity: Quantity
    minimum_weight: float | None = None

    def __post_init__(self):
        regions = {name: region_of(entry) for name, entry in self.structures.items()}
        object.__setattr__(self, "structures", regions)
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if not self.objectives:
            raise ValueError("objectives is empty; give at least one.")
        for name, region in regions.items():
            if region.rows[-1] >= self.influence.n_rows:
                raise ValueError(
                    f"structure {name!r} has row {region.rows[-1]}, the influence matrix "
                    f"{self.influence.n_rows} rows."
                )
        for objective in self.objectives:
            self._check(objective)
        if self.minimum_weight is not None and not self.minimum_weight >= 0:
            raise ValueError(f"minimum_weight={self.minimum_weight} must be 0 or more particles.")

    def _check(self, objective: Objective) -> None:
        if objective.structure not in self.structures:
            raise KeyError(
                f"objective names structure {objective.structure!r}; this problem has "
                f"{list(self.structures)}."
            )
        if objective.quantity != self.quantity.name:
            raise ValueError(
                f"objective on {objective.structure!r} names quantity {objective.quantity!r}; "
                f"this problem computes {self.quantity.name!r}."
            )
        n_beams = len(self.influence.beam_starts) - 1
        if objective.beam is not None and not 0 <= objective.beam < n_beams:
            raise ValueError(
                f"objective on {objective.structure!r} names beam {objective.beam}; the influence "
                f"matrix has beams 0 … {n_beams - 1}."
            )

    # ------------------------------------------------------------------ what a solver asks

    @property
    def n_spots(self) -> int:
        return self.influence.n_spots

    @cached_property
    def n_nonzeros(self) -> int:
        """Entries that one evaluation touches: the unit of work. Rows without an objective are
        passed over where one pass answers."""
        if not self.fused:
            return self.influence.n_nonzeros
        if self.has_objective.all():
            return self.influence.n_nonzeros
        return int(self.influence.row_nonzeros()[self.has_objective].sum(dtype=np.int64))

    @cached_property
    def has_objective(self) -> np.ndarray:
        """Rows (n_rows,) bool that lie in a structure with an objective."""
        asked = np.zeros(self.influence.n_rows, bool)
        for name in self._used:
            region = self.structures[name]
            asked[region.rows[region.volume > 0]] = True
        return asked

    @cached_property
    def fused(self) -> bool:
        """Whether one pass over the matrix answers value and gradient."""
        return all(isinstance(o, SeparableObjective) and o.beam is None for o in self.objectives)

    def evaluate(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient by the weights, (n_spots,) float32 per particle."""
        if self.fused:
            return self.influence.penalty(weights, self._terms.penalty, self.quantity.photons)
        return self._evaluate_by_products(weights)

    @cached_property
    def spot_scale(self) -> np.ndarray:
        """Particles (n_spots,) float32 that make every spot count alike: a solver's unit.

        1/√h with h = 2 Dᵀ(W ∘ D1), the separable bound on the curvature of the squares that drive
        the dose. It depends on no weights; masked problems inherit it. Where dose is no linear
        product, D is its derivative at the initial weights.
        """
        row_weight = self._row_curvature().astype(np.float32)
        bound = self._curvature_bound(row_weight).astype(np.float64)
        top = bound.max(initial=0.0)
        if not top > 0:
            raise ValueError("no spot reaches a voxel with an objective; nothing can be optimized.")
        return (1.0 / np.sqrt(bound + SCALE_FLOOR * top)).astype(np.float32)

    # ------------------------------------------------------------------ looking at a plan

    def fraction_dose(self, weights: np.ndarray, beam: int | None = None) -> np.ndarray:
        """Dose of one fraction (n_rows,) float32 in Gy as the quantity counts it: physical, or
        the photon dose of equal effect."""
        return self.quantity.of_fraction(self.influence, weights, beam)

    def value_of_dose(self, dose_gy: np.ndarray) -> float:
        """The objective of a dose of one fraction (n_rows,) in Gy, as ``fraction_dose``."""
        return float(self.terms_of_dose(dose_gy).sum())

    def terms_of_dose(self, dose_gy: np.ndarray) -> np.ndarray:
        """Each objective's share (weight · value) of a dose of one fraction, (n_objectives,)."""
        dose_gy = self._checked_dose(dose_gy)
        if self.fused:
            return self._terms.by_objective(dose_gy, len(self.objectives))
        if any(o.beam is not None for o in self.objectives):
            raise ValueError("objectives on single beams need weights: call terms_by_objective.")
        return np.array([self._share(o, dose_gy) for o in self.objectives])

    def terms_by_objective(self, weights: np.ndarray) -> np.ndarray:
        """Each objective's share (weight · value), in their order, (n_objectives,) float64."""
        if self.fused:
            return self.terms_of_dose(self.fraction_dose(weights))
        dose = {beam: self.fraction_dose(weights, beam) for beam in self._beams()}
        return np.array([self._share(o, dose[o.beam]) for o in self.objectives])

    def penalty_by_row(self, dose_gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each row's share of the objective and its derivative by the row's dose of one fraction,
        both (n_rows,).

        Local credit of a dose, for separable problems.
        """
        if not self.fused:
            raise ValueError("penalty_by_row wants objectives that are sums over voxels.")
        return self._terms.by_row(self._checked_dose(dose_gy))

    @property
    def row_penalty(self) -> RowPenalty:
        """All objectives as one-sided squares by row, of separable problems."""
        if not self.fused:
            raise ValueError("row_penalty wants objectives that are sums over voxels.")
        return self._terms.penalty

    # ------------------------------------------------------------------ fewer rows

    def masked(
        self,
        rows: np.ndarray,
        keep_total_weight: bool = True,
        rng: np.random.Generator | None = None,
        sampled_from: np.ndarray | None = None,
    ) -> "PlanningProblem":
        """The problem on some rows: bool (n_rows,) or ascending row indices.

        Every structure keeps its total weight, its remaining voxels counting for the lost ones;
        ``keep_total_weight=False`` is the shrinking sum of Quarz et al., Phys. Med. Biol. 2024.
        A structure that the mask empties keeps one voxel, drawn with ``rng`` (``default_rng(0)``
        when None).

        ``sampled_from``, rows too, are those that the mask is a sample of: where equation (1) left
        out voxels that get no dose, what remains must not count for them. Structures then keep the
        weight that they have there, and those without a row there are dropped.
        """
        rows = self._checked_rows(rows)
        kept, weight = self._kept_volume(rows), np.ones(len(self._used))
        if sampled_from is not None:
            pool = np.union1d(self._checked_rows(sampled_from), rows).astype(np.uint32)
            weight = self._kept_volume(pool)
        empty = (kept == 0.0) & (weight > 0.0)
        if np.any(empty):
            rows = self._with_one_voxel_each(rows, np.flatnonzero(empty), rng, sampled_from)
            kept = self._kept_volume(rows)
        regions = MaskedRegions(
            self.structures, rows, self.influence.n_rows, keep_total_weight,
            dict(zip(self._used, weight)),
        )  # fmt: skip
        problem = object.__new__(PlanningProblem)  # everything was checked when self was made
        for name, value in (
            ("influence", self.influence.rows(rows)), ("structures", regions),
            ("objectives", self._with_weight(weight)), ("quantity", self.quantity),
            ("minimum_weight", self.minimum_weight), ("fused", self.fused),
            ("spot_scale", self.spot_scale), ("_used", self._used),
            ("n_nonzeros", int(self.influence.row_nonzeros()[rows].sum(dtype=np.int64))),
        ):  # fmt: skip
            object.__setattr__(problem, name, value)
        if self.fused:
            there = np.maximum(kept, np.finfo(float).tiny)  # what has no row has no weight
            factor = weight / there if keep_total_weight else np.ones(len(kept))
            terms = self._terms.sliced(rows, factor[self._structure_of_objective])
            object.__setattr__(problem, "_terms", terms)
        return problem

    # ------------------------------------------------------------------ inside

    @cached_property
    def _used(self) -> tuple[str, ...]:
        """Structures with an objective, each once, in the objectives' order."""
        return tuple(dict.fromkeys(o.structure for o in self.objectives))

    @cached_property
    def _structure_of_objective(self) -> np.ndarray:
        return np.array([self._used.index(o.structure) for o in self.objectives])

    @cached_property
    def _terms(self) -> "_Terms":
        parts, scale = [], self.quantity.scale
        for index, objective in enumerate(self.objectives):
            region = self.structures[objective.structure]
            for term in objective.terms(region.volume, region.distance_mm):
                weight = objective.weight * term.weight * scale**2
                parts.append((region.rows, term.level_gy / scale, weight, term.side, index))
        return _Terms.collected(parts, self.influence.n_rows)

    @cached_property
    def _membership(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row → (structure, volume) in CSR: start, structure, volume."""
        regions = [self.structures[name] for name in self._used]
        rows = np.concatenate([r.rows for r in regions])
        order = np.argsort(rows, kind="stable")
        structure = np.repeat(np.arange(len(regions)), [len(r.rows) for r in regions])
        volume = np.concatenate([r.volume for r in regions])
        return (
            _starts(rows, self.influence.n_rows),
            structure[order].astype(np.uint16),
            volume[order],
        )

    def _with_weight(self, weight: np.ndarray) -> tuple[Objective, ...]:
        """The objectives that a mask leaves: those on structures that have a row. Where one pass
        answers, the others have no terms, and the numbering stays."""
        if self.fused:
            return self.objectives
        kept = {name for name, w in zip(self._used, weight) if w > 0.0}
        return tuple(o for o in self.objectives if o.structure in kept)

    def _kept_volume(self, rows: np.ndarray) -> np.ndarray:
        total = np.zeros(len(self._used))
        kernels.kept_volume(rows, *self._membership, total)
        return total

    def _with_one_voxel_each(self, rows, emptied, rng, sampled_from=None) -> np.ndarray:
        rng = np.random.default_rng(0) if rng is None else rng
        allowed = np.ones(self.influence.n_rows, bool)
        if sampled_from is not None:
            allowed[:] = False
            allowed[self._checked_rows(sampled_from)] = True
        picked = []
        for index in emptied:
            region = self.structures[self._used[index]]
            picked.append(rng.choice(region.rows[(region.volume > 0) & allowed[region.rows]]))
        return np.union1d(rows, np.array(picked, np.uint32)).astype(np.uint32)

    def _checked_rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        n_rows = self.influence.n_rows
        if rows.dtype == bool:
            if rows.shape != (n_rows,):
                raise ValueError(f"mask has shape {rows.shape}, the problem {n_rows} rows.")
            return np.flatnonzero(rows).astype(np.uint32)
        if rows.ndim != 1 or rows.dtype.kind not in "ui":
            raise ValueError(f"rows ({rows.dtype}, {rows.shape}) must be a bool mask or indices.")
        if len(rows) and (rows[0] < 0 or rows[-1] >= n_rows or np.any(rows[1:] <= rows[:-1])):
            raise ValueError(f"rows must ascend without repeats within 0 … {n_rows - 1}.")
        return rows.astype(np.uint32)

    def _checked_dose(self, dose_gy: np.ndarray) -> np.ndarray:
        dose_gy = np.ascontiguousarray(dose_gy, np.float32)
        if dose_gy.shape != (self.influence.n_rows,):
            raise ValueError(
                f"dose_gy has shape {dose_gy.shape}, the problem {self.influence.n_rows} rows."
            )
        return dose_gy

    def _beams(self) -> list[int | None]:
        return list(dict.fromkeys(o.beam for o in self.objectives))

    def _share(self, objective: Objective, fraction_gy: np.ndarray) -> float:
        region = self.structures[objective.structure]
        dose = self.quantity.value(fraction_gy)[region.rows]
        return objective.weight * objective.value(dose, region.volume, region.distance_mm)

    def _evaluate_by_products(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = 0.0, np.zeros(self.n_spots)
        for beam in self._beams():
            dose = self.quantity.value(self.fraction_dose(weights, beam))
            row_gradient = np.zeros(len(dose))
            for objective in (o for o in self.objectives if o.beam == beam):
                region = self.structures[objective.structure]
                where = (dose[region.rows], region.volume, region.distance_mm)
                value += objective.weight * objective.value(*where)
                row_gradient[region.rows] += objective.weight * objective.gradient(*where)
            gradient += self.quantity.pulled_back(self.influence, weights, row_gradient, beam)
        return value, gradient.astype(np.float32)

    def _driving(self) -> list[Objective]:
        return [o for o in self.objectives if o.asks_for_dose and o.weight > 0]

    def _row_curvature(self) -> np.ndarray:
        """Half the second derivative by the fraction's dose of the squares that drive the dose."""
        curvature, scale = np.zeros(self.influence.n_rows), self.quantity.scale
        for objective in self._driving() or self.objectives:
            region = self.structures[objective.structure]
            level = getattr(objective, "level_gy", None) or objective.high_gy
            curvature[region.rows] += 2.0 * objective.weight * region.volume * (scale / level) ** 2
        return curvature

    def _curvature_bound(self, row_weight: np.ndarray) -> np.ndarray:
        """Dᵀ(W ∘ D1), (n_spots,)."""
        ones = np.ones(self.n_spots, np.float32)
        if self.quantity.photons is None:
            return self.influence.adjoint(row_weight * self.influence.dose(ones))
        start = initial_weights(self)
        unit = np.full(self.influence.n_rows, 1.0 / self.quantity.scale, np.float32)
        slopes = self.quantity.slopes(self.influence.products(start), unit)
        through = (slopes * self.influence.products(ones)).sum(axis=0)
        return self.influence.products_adjoint(slopes * (row_weight * through))


def initial_weights(problem: PlanningProblem) -> np.ndarray:
    """Equal particles in every spot, such that the mean dose is the level that is asked for.

    (n_spots,) float32. With several targets the mean runs over all of them, by their objectives'
    weights. Costs one product.
    """
    driving = problem._driving()
    if not driving:
        raise ValueError("no objective asks for dose; give a MinDose or UniformDose on a target.")
    wanted = sum((o.weight * o.level_gy for o in driving), 0.0)
    ones = np.ones(problem.n_spots, np.float32)
    if problem.quantity.photons is None:
        given = _driven(problem, driving, problem.fraction_dose(ones))
    else:
        products = problem.influence.products(ones)
        given = wanted / _factor_of_effect(problem, driving, products, wanted)
    if not given > 0:
        raise ValueError("no spot reaches a target; place spots over it before optimizing.")
    return np.full(problem.n_spots, wanted / given, np.float32)


def _driven(problem: PlanningProblem, driving: list[Objective], fraction_gy: np.ndarray) -> float:
    """Σ weight · mean dose of what asks for dose."""
    dose, given = problem.quantity.value(fraction_gy), 0.0
    for objective in driving:
        region = problem.structures[objective.structure]
        share = region.volume * dose[region.rows]  # not np.dot: BLAS sums by its number of threads
        given += objective.weight * float(share.sum(dtype=np.float64))
    return given


def _factor_of_effect(problem, driving, products: np.ndarray, wanted: float) -> float:
    """Particles in every spot at which the mean photon dose of equal effect is ``wanted``: it grows
    with them, so a bracket and halving find it."""

    def missing(log_factor: float) -> float:
        dose = problem.quantity.of_products(products * np.float32(np.exp(log_factor)))
        return _driven(problem, driving, dose) - wanted

    mean_dose = _driven(problem, driving, products[0])
    if not mean_dose > 0:
        return np.inf  # no spot reaches a target
    at = np.log(wanted / mean_dose)
    return float(np.exp(brentq(missing, at - 10.0, at + 10.0, xtol=1e-6)))


@dataclass(frozen=True, eq=False)
class _Terms:
    """All one-sided squares by row, and which objective each belongs to."""

    penalty: RowPenalty
    objective: np.ndarray  # (n_terms,) uint16

    @classmethod
    def collected(cls, parts: list[tuple], n_rows: int) -> "_Terms":
        rows = np.concatenate([p[0] for p in parts])
        order = np.argsort(rows, kind="stable")

        def stacked(k, kind):
            values = [np.broadcast_to(np.asarray(p[k], kind), p[0].shape) for p in parts]
            return np.concatenate(values)[order]

        arrays = [stacked(k, np.float32) for k in (1, 2, 3)]
        return cls(RowPenalty(_starts(rows, n_rows), *arrays), stacked(4, np.uint16))

    def sliced(self, rows: np.ndarray, factor: np.ndarray) -> "_Terms":
        """The terms of some rows, weights scaled by a factor per objective."""
        *arrays, objective = kernels.slice_terms(rows, *self._arrays, self.objective, factor)
        return _Terms(RowPenalty(*arrays), objective)

    def by_objective(self, dose_gy: np.ndarray, n_objectives: int) -> np.ndarray:
        total = np.zeros(n_objectives)
        kernels.penalty_by_objective(dose_gy, *self._arrays, self.objective, total)
        return total

    def by_row(self, dose_gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = np.empty_like(dose_gy), np.empty_like(dose_gy)
        kernels.penalty_by_row(dose_gy, *self._arrays, value, gradient)
        return value, gradient

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        p = self.penalty
        return p.start, p.level, p.weight, p.side


def _starts(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """First entry of every row in a list sorted by row, (n_rows + 1,) uint32."""
    counts = np.bincount(rows, minlength=n_rows)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
