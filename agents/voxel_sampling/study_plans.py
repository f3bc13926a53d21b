"""One case of a sampling study: its reference plans, and the plans of every sampler.

Evaluated as in section 2.5.4 of Quarz 2024. Differences are reference − sampler, as there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from zlib import crc32

import numpy as np
from scipy.ndimage import distance_transform_edt

from agents.voxel_sampling.samplers import AtEqualWork, Sampler
from agents.voxel_sampling.study_problem import (
    RING_GROUP,
    plannable,
    row_penalty,
    sampled_problem,
    voxels,
)
from engine.evaluation.gamma import gamma_3d
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.geometry.scenarios import Scenario
from engine.optimization.solvers import LBFGSB
from engine.patient.structures import RING
from ptenv.cases.case import BODY, Case
from ptenv.cases.scenario_doses import isotropic_setup, scenario_doses

REFERENCE, REDUCED = "Reference", "Reference, eq. (1)"  # every voxel, before and after equation (1)
TARGET_METRICS = {"d95_percent": "D95%[%]", "hi_percent": "HI_TRiP[%]", "cn_percent": "CN[%]"}
NEAR_MAX, MEAN, V20 = ("D1%[Gy]", "D0.1cc[Gy]"), "Mean[Gy]", "V20%[%]"
WITH_V20 = ("SpinalCord", "Brainstem")
MIB = 2.0**20
WARM_UP = 2  # evaluations before anything is timed
Tell = Callable[[int], None]


@dataclass(frozen=True)
class Trials:
    """How often samplers draw and how their plans are judged; defaults are Quarz 2024's.

    ``scenarios`` of the robustness analysis, the nominal one among them; none leaves it out.
    ``reference_repeats`` is how often the reference is solved for the median of its time.
    """

    n_samplings: int = 10
    evaluations: int = 100
    seed: int = 0
    scenarios: Sequence[Scenario] = field(default_factory=isotropic_setup)
    gamma_percent: float = 3.0
    gamma_mm: float = 2.0
    gamma_cutoff_percent: float = 10.0
    reference_repeats: int = 1

    def __post_init__(self):
        object.__setattr__(self, "scenarios", tuple(self.scenarios or ()))
        for name in ("n_samplings", "evaluations", "reference_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def generator(self, case: Case, sampling: int) -> np.random.Generator:
        """The same for every sampler; it does not depend on which other cases are studied."""
        return np.random.default_rng([self.seed, crc32(case.case_id.encode()), sampling])


@dataclass(frozen=True, eq=False)
class SampledPlan:
    """A plan on some rows: what was chosen and delivered, and what it cost.

    Selected voxels, nonzeros and bytes are means over the rounds; ``rows`` those of the last.
    """

    name: str
    sampling: int
    rows: np.ndarray  # (n_rows,) bool
    weights: np.ndarray  # (n_spots,)
    dose_gy: np.ndarray  # (n_rows,) Gy (RBE) of the course
    n_selected: float
    n_selected_target: float
    nonzeros: float
    n_bytes: float
    n_evaluations: int  # ordered
    n_made: int  # fewer where nothing improved any more
    sampling_s: float  # choosing: a network's inference, a probing plan
    masking_s: float
    solving_s: float
    extra_work: int = 0  # nonzeros touched while choosing

    @property
    def optimization_s(self) -> float:
        return self.masking_s + self.solving_s


@dataclass(frozen=True, eq=False)
class CaseStudy:
    """All plans of a case, and one row of figures a plan in the same order."""

    case: Case
    plans: list[SampledPlan]
    rows: list[dict]

    def first(self, name: str) -> SampledPlan:
        """The first sampling of one sampler."""
        return next(p for p in self.plans if p.name == name)


def study_case(
    case: Case, samplers: Mapping[str, Sampler], trials: Trials, tell: Tell = lambda n: None
) -> CaseStudy:
    """Plan and judge every sampling on one case; ``tell`` gets the steps done (``n_steps``)."""
    check_samplers(samplers)
    problem = sampled_problem(case)
    _solve(case, problem, plannable(case), case.start_weights, WARM_UP, None)
    plans = [_reference(case, REFERENCE, plannable(case), trials),
             _reference(case, REDUCED, voxels(case), trials)]  # fmt: skip
    tell(len(plans))
    for name, sampler in _in_order(samplers):
        for sampling in range(trials.n_samplings):
            plans.append(_sampled(case, name, sampler, sampling, trials, plans))
            tell(len(plans))
    plans = [p for name in (REFERENCE, REDUCED, *samplers) for p in plans if p.name == name]
    plans = [replace(p, sampling_s=_longest_s(plans, p.name)) for p in plans]
    judge, uncertainty = Judge(case, plans[0], trials), _uncertainties(case, plans, trials, tell)
    figures = zip(map(judge.figures, plans), uncertainty, strict=True)
    return CaseStudy(case, plans, [{**of, **spread} for of, spread in figures])


def n_plans(samplers: Mapping[str, Sampler], trials: Trials) -> int:
    """Plans of one case."""
    return 2 + len(samplers) * trials.n_samplings


def n_steps(samplers: Mapping[str, Sampler], trials: Trials) -> int:
    """Plans and scenarios of one case: what takes the time."""
    return n_plans(samplers, trials) + len(trials.scenarios)


# ------------------------------------------------------------------ planning


def check_samplers(samplers: Mapping[str, Sampler]) -> None:
    """Refuse names that a study has itself, and work that is taken from nobody or in a circle."""
    for name, sampler in samplers.items():
        if name in (REFERENCE, REDUCED):
            raise ValueError(f"sampler {name!r} is named like a plan that every study has; rename.")
        if isinstance(sampler, AtEqualWork):
            sampler.named(samplers)
    list(_in_order(samplers))


def _in_order(samplers: Mapping[str, Sampler]) -> Iterator[tuple[str, Sampler]]:
    """Samplers that others take their work from come first."""
    waiting = dict(samplers)
    while waiting:
        ready = [n for n, s in waiting.items() if getattr(s, "of", None) not in waiting]
        if not ready:
            raise ValueError(f"samplers {list(waiting)} take their work from one another.")
        for name in ready:
            yield name, waiting.pop(name)


def _reference(case: Case, name: str, rows: np.ndarray, trials: Trials) -> SampledPlan:
    """The plan on a full mask; its times are medians over the repeats."""
    runs = [
        _planned(case, name, 0, lambda weights: rows, 1, trials, None)
        for _ in range(trials.reference_repeats)
    ]
    return sorted(runs, key=lambda run: run.optimization_s)[len(runs) // 2]


def _sampled(
    case: Case, name: str, sampler: Sampler, sampling: int, trials: Trials, plans: list[SampledPlan]
) -> SampledPlan:  # fmt: skip
    rng, n_rounds = trials.generator(case, sampling), getattr(sampler, "n_rounds", 1)
    work = sampler.extra_work(case) if hasattr(sampler, "extra_work") else 0
    choose = sampler.rows
    if isinstance(sampler, AtEqualWork) and isinstance(sampler.of, str):
        other = next(p for p in plans if p.name == sampler.of and p.sampling == sampling)

        def choose(case, rng, *weights):
            return sampler.within(int(other.nonzeros), case, rng, *weights)

    def rows(weights):
        again = () if weights is None else (weights,)
        return _checked_rows(name, choose(case, rng, *again), case)

    return _planned(case, name, sampling, rows, n_rounds, trials, rng, work)


def _planned(
    case, name, sampling, choose, n_rounds: int, trials: Trials, rng, extra_work: int = 0
) -> SampledPlan:
    """The evaluations in equal rounds, each on rows that are chosen after the round before."""
    problem, weights, solved = sampled_problem(case), np.asarray(case.start_weights), []
    shares = np.diff(np.linspace(0, trials.evaluations, n_rounds + 1).astype(int))
    choosing_s = 0.0
    for number, n in enumerate(shares):
        began = perf_counter()
        rows = choose(weights if number else None)
        choosing_s += perf_counter() - began
        solved.append(_solve(case, problem, rows, weights, int(n), rng))
        weights = solved[-1]["weights"]
    kept = [s["rows"] for s in solved]
    return SampledPlan(
        name, sampling, kept[-1], weights, case.dose_gy(weights),
        n_selected=float(np.mean([k.sum() for k in kept])),
        n_selected_target=float(np.mean([(k & case.target_rows).sum() for k in kept])),
        nonzeros=float(np.mean([s["nonzeros"] for s in solved])),
        n_bytes=float(np.mean([s["n_bytes"] for s in solved])),
        n_evaluations=trials.evaluations, n_made=sum(s["n_made"] for s in solved),
        sampling_s=choosing_s,
        masking_s=sum(s["masking_s"] for s in solved),
        solving_s=sum(s["solving_s"] for s in solved), extra_work=extra_work,
    )  # fmt: skip


def _solve(case, problem, rows, start, evaluations: int, rng) -> dict:
    began = perf_counter()
    masked = problem.masked(rows, rng=rng, sampled_from=case.sampled_from)
    between = perf_counter()
    solution = LBFGSB(max_evaluations=evaluations, tolerance=0.0).solve(masked, start)
    ended = perf_counter()
    kept = np.zeros(len(rows), bool)
    kept[np.searchsorted(case.influence.voxels, masked.influence.voxels)] = True
    return {
        "rows": kept, "weights": solution.weights, "n_made": solution.n_evaluations,
        "nonzeros": masked.n_nonzeros,
        "n_bytes": masked.influence.nbytes, "masking_s": between - began,
        "solving_s": ended - between,
    }  # fmt: skip


def _checked_rows(name: str, rows: np.ndarray, case: Case) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.dtype != bool or rows.shape != case.group.shape:
        raise ValueError(
            f"sampler {name!r} chose rows ({rows.dtype}, {rows.shape}); give bool "
            f"{case.group.shape}."
        )
    if np.any(rows & (case.group == RING_GROUP)):
        raise ValueError(f"sampler {name!r} chose rows of the ring; choose among study's voxels.")
    return rows


def _longest_s(plans: Sequence[SampledPlan], name: str) -> float:
    """What choosing takes: a sampler that remembers a case would seem to choose in no time."""
    return max(p.sampling_s for p in plans if p.name == name)


# ------------------------------------------------------------------ judging


@dataclass(frozen=True, eq=False)
class Judge:
    """Figures of the plans of one case against its reference plan."""

    case: Case
    reference: SampledPlan
    trials: Trials

    def figures(self, plan: SampledPlan) -> dict:
        """One plan's row, but for its uncertainty."""
        case, metrics = self.case, self.case.metrics(plan.dose_gy)
        return {
            "sampler": plan.name, "case": case.case_id, "sampling": plan.sampling,
            "target_cm3": case.volumes_cm3[case.targets[0]],
            **self._of_targets(metrics), **self._of_selection(plan),
            "gamma_percent": self._gamma_percent(plan.dose_gy),
            **_organ_changes(case, metrics, self._known), **self._of_cost(plan),
            **_scored(case, plan), "case_key": case.key,
            "organs": {o: _organ(metrics, o) for o in _organs(case)},
        }  # fmt: skip

    @cached_property
    def _known(self) -> dict[str, dict[str, float]]:
        return self.case.metrics(self.reference.dose_gy)

    def _of_targets(self, metrics: Mapping) -> dict:
        known, target = self._known, self.case.targets[0]
        lost = [known[t]["D95%[%]"] - metrics[t]["D95%[%]"] for t in self.case.targets]
        return {
            **{key: metrics[target][name] for key, name in TARGET_METRICS.items()},
            **{f"delta_{key}": known[target][name] - metrics[target][name]
               for key, name in TARGET_METRICS.items()},
            "delta_d95_worst_target_percent": max(lost),
        }  # fmt: skip

    def _of_selection(self, plan: SampledPlan) -> dict:
        case, among = self.case, voxels(self.case)
        n, n_target = int(among.sum()), int((among & case.target_rows).sum())
        return {
            "selected": plan.n_selected,
            "sv_target_percent": 100.0 * plan.n_selected_target / n_target,
            "sv_percent": 100.0 * plan.n_selected / n,
            "n_voxels": n, "n_voxels_before": int(plannable(case).sum()),
            "voxels_per_cm3": case.target_voxels_per_cm3, "n_spots": case.influence.n_spots,
            "rows_per_spot": plan.n_selected / case.influence.n_spots,
        }  # fmt: skip

    def _of_cost(self, plan: SampledPlan) -> dict:
        known = self.reference
        return {
            "nonzeros": plan.nonzeros, "memory_mib": plan.n_bytes / MIB,
            "sampling_s": plan.sampling_s, "masking_s": plan.masking_s,
            "solving_s": plan.solving_s, "optimization_s": plan.optimization_s,
            "evaluations": plan.n_made,
            "time_ratio": plan.optimization_s / known.optimization_s,
            "sampling_work": plan.extra_work / (known.nonzeros * self.trials.evaluations),
        }  # fmt: skip

    def _gamma_percent(self, dose_gy: np.ndarray) -> float:
        """Share of the scored rows above the cut-off that pass; global, by the reference's maximum.

        Beyond the scored rows no dose is known: there the nearest row's goes on. A drop to zero
        would hold, within a voxel, every dose that is looked for.
        """
        volume, trials = self.case.influence.volume, self.trials
        evaluated = volume(dose_gy)[self._nearest]
        return gamma_3d(
            volume(self.reference.dose_gy), evaluated, self.case.grid, trials.gamma_percent,
            trials.gamma_mm, cutoff_percent=trials.gamma_cutoff_percent, mask=self._is_scored,
        ).pass_rate_percent  # fmt: skip

    @cached_property
    def _is_scored(self) -> np.ndarray:
        """Voxels (nz, ny, nx) bool that have a row."""
        return self.case.influence.volume(np.ones(len(self.case.group), np.float32)) > 0

    @cached_property
    def _nearest(self) -> tuple[np.ndarray, ...]:
        """Indices of every voxel's nearest row, three arrays (nz, ny, nx)."""
        return tuple(
            distance_transform_edt(
                ~self._is_scored, self.case.grid.spacing_mm, return_distances=False,
                return_indices=True,
            )
        )  # fmt: skip


def _organs(case: Case) -> list[str]:
    return [n for n in case.evaluation.structures
            if n not in case.prescription_gy and n not in (RING, BODY)]  # fmt: skip


def _organ(metrics: Mapping, organ: str) -> dict[str, float]:
    names = [MEAN, *NEAR_MAX, *([V20] if organ in WITH_V20 else [])]
    return {name: metrics[organ][name] for name in names}


def _organ_changes(case: Case, metrics: Mapping, known: Mapping) -> dict:
    """The largest change of a near-maximum and of a mean, reference − plan with its sign, in Gy."""
    organs, figures = _organs(case), {}
    for key, names in (("organ", NEAR_MAX), ("organ_mean", (MEAN,))):
        changes = [(known[o][n] - metrics[o][n], f"{o} {n}") for o in organs for n in names]
        most = max(changes, key=lambda change: abs(change[0]), default=(float("nan"), ""))
        figures[f"delta_{key}_gy"], figures[f"{key}_changed"] = most
    return figures


def _scored(case: Case, plan: SampledPlan) -> dict:
    """F on all rows, the ring's among them, and the environment's score on the budget it fits.

    Budgets whose anchors lie too close to tell plans apart give no score.
    """
    penalty, _ = row_penalty(case.problem, plan.dose_gy)
    figures = {"objective": float(penalty.sum()), "budget": float("nan"), "score": float("nan")}
    if case.anchors is None:
        return figures
    share = plan.nonzeros * plan.n_evaluations / case.anchors.work_all
    sound = filter(case.anchors.is_sound, sorted(case.anchors.budgets))
    fitting = [b for b in sound if b >= share]
    if fitting:
        score = case.anchors.score(figures["objective"], fitting[0])
        figures |= {"budget": fitting[0], "score": score}
    return figures


def _uncertainties(
    case: Case, plans: Sequence[SampledPlan], trials: Trials, tell: Tell
) -> list[dict]:
    """Standard deviations over all scenarios (they are all there are) of the target's figures."""
    if not trials.scenarios:
        return [{f"{key}_std": float("nan") for key in TARGET_METRICS} for _ in plans]
    target = case.targets[0]
    judge = PlanEvaluation(
        {target: case.evaluation.structures[target]}, {target: case.prescription_gy[target]},
        case.influence.n_rows, case.evaluation.body, {target: tuple(TARGET_METRICS.values())},
        defaults=False,
    )  # fmt: skip
    weights = np.stack([p.weights for p in plans])
    met = []
    for number, doses in enumerate(scenario_doses(case, weights, trials.scenarios), start=1):
        of_plans = [judge.evaluate(dose)[target] for dose in doses]
        met.append([[of[name] for name in TARGET_METRICS.values()] for of in of_plans])
        tell(len(plans) + number)
    spread = np.std(met, axis=0)  # (n_plans, n_metrics)
    return [{f"{key}_std": float(s) for key, s in zip(TARGET_METRICS, of)} for of in spread]
