"""Which voxels enter the plan optimization: the task, and its Gymnasium environment."""

import warnings
from dataclasses import dataclass, replace
from numbers import Integral
from time import perf_counter

import gymnasium as gym
import numpy as np

from engine.optimization.solvers import LBFGSB
from engine.optimization.voxel_sampling import thin_to_budget
from ptenv.cases.case import Case
from ptenv.cases.library import load_case
from ptenv.cases.patients import checked_case, procedural_id, split_seeds
from ptenv.cases.recipe import VoxelMaskRecipe
from ptenv.envs.arguments import checked_options, checked_recipe, constraint_costs
from ptenv.envs.voxel_mask_actions import FEWEST, MOST, ActionDecoder, RoundChoice, RowSignals
from ptenv.envs.voxel_mask_observations import CompactObserver, VolumeObserver
from ptenv.rewards import ScoreReward

MAX_ROUNDS = 8
SPENT = 0.01  # of the episode's work: less than this left is a spent budget
LEAST_SHARE = 0.02  # of the work left that a round may take at least

CARBON = dict(  # plans as Quarz et al. 2024 make them: 60 Gy (RBE) in fractions of 3
    machine="generic_carbon", biology="lem1", fraction_gy=3.0, n_fractions=20,
    single_target=True, ring_objectives=False, weight_after_equation_1=True,
    spot_pattern="square", gantry_deg=(60.0, 300.0),
)  # fmt: skip
PRESETS = {
    "full": dict(),
    "carbon": dict(
        **CARBON, spot_spacing_mm=3.0, ring_mm=8.0, lateral_cutoff=0.01, n_anchor_masks=3,
        converged_evaluations=200, quality_evaluations=30,
    ),
    "carbon-mini": dict(
        **CARBON, ct_spacing_mm=4.0, target_volume_cm3=(8.0, 20.0), dose_grid_mm=3.5,
        spot_spacing_mm=5.0, ring_mm=8.0, lateral_cutoff=0.01,
        n_anchor_masks=5, converged_evaluations=300, quality_evaluations=60,
    ),
    "mini": dict(
        ct_spacing_mm=4.0, target_volume_cm3=(8.0, 20.0), dose_grid_mm=3.5,
        gantry_deg=(60.0, 300.0), spot_spacing_mm=5.0, layer_spacing_mm=5.0,
        lateral_margin_mm=5.0, ring_mm=8.0, lateral_cutoff=0.01,
        converged_evaluations=400, quality_evaluations=100,
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class State:
    """Where an episode stands; arrays over rows are (n_rows,)."""

    case: Case
    budget: float  # of the episode, as a share of keep-all's work at 100 evaluations
    work_left: int  # nonzeros × evaluations
    round: int
    weights: np.ndarray  # (n_spots,) particles per fraction
    dose_gy: np.ndarray  # Gy (RBE), on all rows
    row_penalty: np.ndarray  # each row's share of the objective
    row_slope: np.ndarray  # and its derivative by the row's dose of one fraction
    objective: float  # F on all rows
    mask: np.ndarray  # bool, rows of the last round
    n_evaluations: int  # of the last round
    invalid_action: bool

    @property
    def work_budget(self) -> int:
        return int(self.budget * self.case.anchors.work_all)

    @property
    def raw_score(self) -> float:
        return self.case.anchors.raw_score(self.objective, self.budget)

    @property
    def score(self) -> float:
        return self.case.anchors.score(self.objective, self.budget)

    @property
    def violation(self) -> np.ndarray:
        """Root of each row's penalty relative to the worst, 0 … 1."""
        top = float(self.row_penalty.max(initial=0.0))
        return np.sqrt(self.row_penalty / top) if top > 0 else np.zeros(len(self.row_penalty))

    @property
    def pull(self) -> np.ndarray:
        """How much each row pulls on the weights, |∂F/∂d_i| · Σ_j ∂d_i/∂w_j, by the candidates'
        mean."""
        pull = np.abs(self.row_slope) * self.case.reach_at(self.weights)
        mean = float(pull[self.case.candidates].mean()) if self.case.candidates.any() else 0.0
        return pull / mean if mean > 0 else np.ones(len(pull))

    @property
    def signals(self) -> RowSignals:
        return RowSignals(self.violation, self.pull)


@dataclass
class VoxelMaskTask:
    """The planning behind the environment: pure but for the clock in ``optimization_s``."""

    oneshot: bool
    optimization_s: float = 0.0  # wall time of the last round's masking and solving; never scored

    def start(self, case: Case, budget: float) -> State:
        """The episode's first state: equal particles in every spot."""
        known = list(case.anchors.rho_uniform)
        if budget not in known:
            raise ValueError(f"budget={budget} has no anchors in this case; choose from {known}.")
        work = int(budget * case.anchors.work_all)
        nothing = np.zeros(case.influence.n_rows, bool)
        weights = np.asarray(case.start_weights)
        return self._seen(case, budget, work, 0, weights, nothing, 0, False)

    def transition(self, state: State, choice: RoundChoice, rng: np.random.Generator) -> State:
        """One round: thin the rows to the work allowed, optimize, look at all voxels.

        What was ordered is paid, also where the solver ends earlier because nothing improves. A
        round that cannot pay for one evaluation takes what is left and changes nothing.
        """
        began, case = perf_counter(), state.case
        allowed = max(choice.work_share, LEAST_SHARE) * state.work_left
        room = int(allowed / choice.n_evaluations)
        mask = thin_to_budget(choice.mask, case.row_nonzeros, room, rng)
        problem = case.problem.masked(mask, rng=rng, sampled_from=case.sampled_from)
        rows = np.searchsorted(case.influence.voxels, problem.influence.voxels)
        per_evaluation = max(problem.n_nonzeros, 1)
        n = min(choice.n_evaluations, state.work_left // per_evaluation)
        weights, spent = state.weights, state.work_left
        if n >= 1:
            solution = LBFGSB(max_evaluations=n, tolerance=0.0).solve(problem, weights)
            weights, spent = solution.weights, n * per_evaluation
        self.optimization_s = perf_counter() - began
        kept = np.zeros(case.influence.n_rows, bool)
        kept[rows] = True
        return self._seen(
            case, state.budget, state.work_left - spent, state.round + 1, weights, kept, n,
            choice.invalid,
        )  # fmt: skip

    def is_complete(self, state: State) -> bool:
        """Whether the budget is spent (one-shot: the one round is over)."""
        if self.oneshot:
            return state.round >= 1
        return state.work_left < SPENT * state.work_budget

    def info(self, state: State) -> dict:
        """What the step and the reset report; the same keys always."""
        case = state.case
        metrics = case.metrics(state.dose_gy)
        targets = case.target_rows
        return {
            "case_id": case.case_id,
            "metrics": metrics,
            "score": float(state.score),
            "raw_score": float(state.raw_score),
            "Q": float(case.quality(metrics)),
            "objective": float(state.objective),
            "cost": float(state.work_budget - state.work_left),
            "budget": float(state.budget),
            "work_used": float(1.0 - state.work_left / max(state.work_budget, 1)),
            "selected_percent": float(100.0 * state.mask.mean()),
            "selected_target_percent": float(100.0 * state.mask[targets].mean()),
            "n_evaluations": int(state.n_evaluations),
            "target_voxels_per_cm3": float(case.target_voxels_per_cm3),
            "invalid_action": bool(state.invalid_action),
            "is_success": bool(state.score >= 1.0),
            **constraint_costs(metrics, case.targets[0]),
        }

    def _seen(self, case, budget, work_left, round_, weights, mask, n, invalid) -> State:
        dose = case.problem.fraction_dose(weights)
        penalty, slope = case.problem.penalty_by_row(dose)
        value = case.problem.value_of_dose(dose)  # summed as the anchors were
        return State(
            case=case, budget=budget, work_left=int(work_left), round=round_, weights=weights,
            dose_gy=case.quantity.value(dose), row_penalty=penalty, row_slope=slope,
            objective=value, mask=mask, n_evaluations=int(n), invalid_action=invalid,
        )  # fmt: skip


class VoxelMaskEnv(gym.Env):
    """Choose the voxels of a plan's optimization, round by round, within a work budget.

    ### Description
    A planner optimizes spot weights on the voxels that the agent chooses and is judged on all of
    them. Work is nonzeros touched × evaluations; the budget is 2.5, 5, 10 or 20 % of what all
    voxels cost at 100 evaluations, drawn per episode and observed. Each round chooses rows and a
    share of the work, optimizes from where the last ended, and sees dose and violations on all
    voxels (that look is free). What a choice exceeds is thinned by seed. A structure that a mask
    empties keeps one seeded voxel. After Quarz et al., Phys. Med. Biol. 69 (2024) 155014.
    Plans are of protons with three fields; the carbon presets treat the target of the highest
    dose with two fields of carbon ions, 20 fractions of 3 Gy (RBE) after LEM I, as the paper
    does: organs and target are optimized, the ring is judged alone.

    ### Action space
    | action | space | meaning |
    |---|---|---|
    | "shells" | Box(−1, 1, (23,)) | log keep-rate of 7 groups × 3 shells, then the round |
    | "field" | Box(−1, 1, (23,)) | 7 coefficients for target, organ and ring, then the round |
    | "mask" | MultiBinary(max_rows) | the rows themselves, with all the work left |

    Keep-rates run from 1/1000 (−1) to 1 (+1); shells reach to 2 mm, to 6 mm and deeper. The round
    is two numbers: evaluations (1 … 100 on a log scale; one changes nothing, and keeps a plan)
    and share of the work left (2 … 100 %). One-shot ids leave them out: 100 evaluations, all work.

    ### Observation space
    | observation | space | content |
    |---|---|---|
    | "compact" | Box(−1, 1, (89,)) | 4 features of every group and shell, 5 of the budget |
    | "volume" | Dict(volume, budget) | Box(0, 1, (4, nz, ny, nx)) and Box(−1, 1, (5,)) |

    Of a group and shell, 0 … 1: its share of rows, of nonzeros and of the violation, and how many
    of its rows the last round kept. Of the budget: its logarithm (0 is 10 %, −0.6 is 2.5 %), work
    left (0 … 1), rounds done (1 is 8), log of the objective by the start's (−1 is 5 decades), log
    of the voxel density (1 is 1000 per cm³). Volumes: depth below the surface (1 is 30 mm),
    target, organs after equation (1) of the paper, dose (1 is 1.2 × the prescription).

    ### Rewards
    Increments of the score: log(ρ_uniform/ρ)/log(ρ_uniform/ρ_all) with ρ = F − F*, F the planning
    objective on all voxels; 0 is uniform sampling at equal work, 1 keep-all at 100 evaluations,
    clipped to −1 … 1.5. ``reward="potential"`` leaves out the clipping. Clinical quality Q,
    metrics, cost and constraint signals are in ``info``.

    ### Starting state
    Equal particles in every spot, scaled to the prescription. Without ``case`` a patient of the
    split is drawn at reset; ``options`` may name "case" and "budget".

    ### Episode end
    Terminated when less than 1 % of the budget is left (one-shot: after the round); truncated
    after 8 rounds.

    ### Arguments
    ``case``: "head-and-neck-NUMBER", "openkbp:PATH" or "dicom:FOLDER"; None samples. ``split``:
    train, validation, test. ``n_patients``: size of the pool. ``action``, ``observation``,
    ``reward``: as above.
    ``budget``: one of the case's shares, or None. ``preset``: full, mini, carbon or carbon-mini
    (``recipe`` takes ``machine``, ``biology``, ``tissue``, … with any). ``recipe``: overrides
    of ``ptenv.cases.recipe.VoxelMaskRecipe``. ``volume_size``: (nz, ny, nx). ``max_rows``: length
    of "mask" actions. ``mask_evaluations``: of a round with a "mask" action. ``cache``: use the
    disk cache.

    ### Version history
    v0: first release.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 2}

    def __init__(
        self,
        case: str | None = None,
        split: str = "train",
        n_patients: int | None = 64,
        action: str = "shells",
        observation: str = "compact",
        reward: str = "score",
        budget: float | None = None,
        oneshot: bool = False,
        preset: str = "full",
        recipe: dict | None = None,
        volume_size: tuple[int, int, int] = (72, 104, 114),
        max_rows: int | None = None,
        mask_evaluations: int | None = None,
        cache: bool = True,
        render_mode: str | None = None,
    ):
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            modes = self.metadata["render_modes"]
            raise ValueError(f"render_mode={render_mode!r} is unknown; choose from {modes}.")
        self.render_mode, self.cache = render_mode, cache
        self._recipe = checked_recipe(VoxelMaskRecipe, PRESETS, preset, recipe, procedural_id(0))
        self._pool = split_seeds(split, n_patients)
        self._fixed = None if case is None else checked_case(case)
        if budget is not None and budget not in self._recipe.budgets:
            raise ValueError(f"budget={budget} is not among {self._recipe.budgets}.")
        self._budget = budget
        self.task, self.reward = VoxelMaskTask(oneshot), ScoreReward(reward)
        self._decoder = ActionDecoder(
            action, oneshot, self._max_rows(action, max_rows),
            _checked_evaluations(mask_evaluations, oneshot),
        )  # fmt: skip
        self._observe = _observer(observation, volume_size)
        self.action_space, self.observation_space = self._decoder.space, self._observe.space
        self.state: State | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        options = checked_options(options, ("case", "budget"))
        case = self._case(options.get("case"))
        budget = options.get("budget", self._budget)
        if budget is None:
            budgets = list(case.anchors.rho_uniform)
            budget = budgets[int(self.np_random.integers(len(budgets)))]
        self.state = self.task.start(case, budget)
        terms = self.reward.terms(self.state, self.state)
        return self._observe(case, self.state), self._info(terms)

    def step(self, action):
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() before step().")
        before = self.state
        choice = self._decoder.decode(action, before.case, before.signals, self.np_random)
        self.state = self.task.transition(before, choice, self.np_random)
        terms = self.reward.terms(before, self.state)
        observation = self._observe(self.state.case, self.state)
        done = self.task.is_complete(self.state)
        return observation, self.reward.weigh(terms), bool(done), False, self._info(terms)

    def render(self):
        """rgb_array: dose wash, chosen voxels and DVH; ansi: one line of figures."""
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() before render().")
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing without render_mode; give it to make().")
            return None
        from ptenv.envs.voxel_mask_render import ansi, picture

        return ansi(self.state, self.task) if self.render_mode == "ansi" else picture(self.state)

    @property
    def budgets(self) -> tuple[float, ...]:
        """Shares of keep-all's work that its cases have anchors for."""
        return self._recipe.budgets

    def case_recipe(self, case: str) -> VoxelMaskRecipe:
        """The recipe by which this environment builds a case."""
        return replace(self._recipe, patient=checked_case(case))

    def _info(self, terms: dict[str, float]) -> dict:
        named = {f"reward_{name}": value for name, value in terms.items()}
        return self.task.info(self.state) | {"reward_terms": dict(terms)} | named

    def _case(self, name: str | None) -> Case:
        """The case that was asked for, or one of the pool."""
        name = name or self._fixed
        if name is None:
            name = procedural_id(self._pool[int(self.np_random.integers(len(self._pool)))])
        case = load_case(self.case_recipe(name), self.cache)
        self._decoder.check(case)
        if isinstance(self._observe, VolumeObserver):
            self._warn_of_cut_targets(case)
        return case

    def _warn_of_cut_targets(self, case: Case) -> None:
        lost = self._observe.target_rows_outside(case)
        if lost:
            warnings.warn(
                f"volume_size={self._observe.size} leaves {lost} target voxels of {case.case_id} "
                "out of the observation; give a larger one.",
                stacklevel=4,
            )

    def _max_rows(self, action: str, max_rows: int | None) -> int:
        """Length of a "mask" action: asked for, or the fixed case's own."""
        if action != "mask":
            return 1
        if max_rows is not None:
            if not isinstance(max_rows, Integral) or max_rows < 1:
                raise ValueError(f"max_rows={max_rows!r} must be a whole number, 1 or more.")
            return int(max_rows)
        if self._fixed is None:
            raise ValueError(
                "action='mask' without a fixed case needs max_rows, the length to which masks are "
                "padded; give max_rows or case."
            )
        return load_case(self.case_recipe(self._fixed), self.cache).influence.n_rows


def _checked_evaluations(n: int | None, oneshot: bool) -> int:
    """Evaluations of a round with a "mask" action."""
    if n is None:
        return MOST if oneshot else MOST // MAX_ROUNDS
    if not isinstance(n, Integral) or not FEWEST <= n <= MOST:
        raise ValueError(f"mask_evaluations={n!r} must be a whole number in {FEWEST} … {MOST}.")
    return int(n)


def _observer(kind: str, size):
    if kind == "compact":
        return CompactObserver()
    if kind == "volume":
        return VolumeObserver(size)
    raise ValueError(f"observation={kind!r} is unknown; choose 'compact' or 'volume'.")
