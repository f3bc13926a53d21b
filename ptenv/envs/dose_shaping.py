"""Where to change the dose, and by how much: the dose-shaping task, and its environment."""

from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter

import gymnasium as gym
import numpy as np

from engine.optimization.shaping import Outcome, Recovery, ShapedPlan, Wish
from engine.optimization.shaping_requests import Request
from ptenv.cases.dose_shaping_case import DoseShapingCase
from ptenv.cases.dose_shaping_recipe import DoseShapingRecipe
from ptenv.cases.library import load_case
from ptenv.cases.patients import SITES, checked_case, procedural_id, split_seeds
from ptenv.cases.shaping_goals import KINDS, WeightedGoals, Worst
from ptenv.envs.arguments import (
    checked_choice,
    checked_options,
    checked_recipe,
    constraint_costs,
)  # fmt: skip
from ptenv.envs.dose_shaping_actions import (
    ACTIONS,
    Spot,
    action_space,
    asked,
    checked_action,
    critical_spots,
    masks,
)  # fmt: skip
from ptenv.envs.dose_shaping_observations import KINDS_OF_OBSERVATION, ShapingObserver
from ptenv.rewards import ScoreReward

MOST_REQUESTS = 30
PRESETS = {
    "full": dict(),
    "mini": dict(
        ct_spacing_mm=4.0, target_volume_cm3=(8.0, 20.0), dose_grid_mm=5.0, ring_mm=8.0,
        bixel_mm=6.0, margin_mm=4.0, reach_mm=30.0, layer_spacing_mm=8.0, lateral_cutoff=0.03,
        n_goals=4, start_evaluations=30, converged_evaluations=200, direct_evaluations=60,
        quality_evaluations=30,
    ),
}  # fmt: skip
VOLUME_SIZE = {"full": (24, 32, 32), "mini": (8, 12, 12)}


@dataclass(frozen=True, eq=False)
class State:
    """Where an episode stands. ``products`` are the dose products that its requests took."""

    case: DoseShapingCase
    goals: int  # which weighting
    plan: ShapedPlan
    objective: float
    start_objective: float
    n_requests: int = 0
    most_requests: int = MOST_REQUESTS
    products: float = 0.0
    stopped: bool = False
    last: Outcome | None = None
    invalid_action: bool = False

    @property
    def weighted(self) -> WeightedGoals:
        return self.case.goals(self.goals)

    @cached_property
    def dose_gy(self) -> np.ndarray:
        """Gy (RBE) of the course, (n_rows,) float32."""
        return self.case.quantity.value(self.plan.dose)

    @cached_property
    def worst(self) -> list[Worst | None]:
        """The worst violation of every kind."""
        return [self.weighted.worst(kind, self.dose_gy) for kind in range(len(KINDS))]

    @cached_property
    def shares(self) -> np.ndarray:
        """Every kind's part of the objective, (n_kinds,)."""
        return self.weighted.shares(self.dose_gy)

    @cached_property
    def spots(self) -> list[Spot]:
        return critical_spots(self.case, self.weighted, self.dose_gy)

    @property
    def score(self) -> float:
        return self.case.anchors.score(self.objective, self.goals, self.products)

    @property
    def raw_score(self) -> float:
        return self.case.anchors.raw_score(self.objective, self.goals, self.products)


@dataclass
class DoseShapingTask:
    """The planning behind the environment: pure but for the clock in ``optimization_s``."""

    recovery: Recovery
    most_requests: int = MOST_REQUESTS
    optimization_s: float = 0.0  # wall time of the last request; never scored

    def start(self, case: DoseShapingCase, goals: int) -> State:
        plan = case.shaper(goals, self.recovery).plan(case.start_weights[goals])
        objective = case.goals(goals).value(case.quantity.value(plan.dose))
        return State(case, goals, plan, objective, objective, most_requests=self.most_requests)

    def stop(self, state: State, replaced: bool = False) -> State:
        self.optimization_s = 0.0
        return replace(state, stopped=True, invalid_action=replaced)

    def transition(self, state: State, wish: Wish, replaced: bool = False) -> State:
        """The state after a wish."""
        case, began = state.case, perf_counter()
        outcome = case.shaper(state.goals, self.recovery).apply(state.plan, wish)
        self.optimization_s = perf_counter() - began
        return replace(
            state, plan=outcome.plan, n_requests=state.n_requests + 1, last=outcome,
            objective=case.goals(state.goals).value(case.quantity.value(outcome.plan.dose)),
            products=state.products + outcome.touched / case.model.n_entries,
            invalid_action=replaced,
        )  # fmt: skip

    def requested(self, state: State, request: Request) -> State:
        """The state after a request of the page: demonstrations are played so."""
        return self.transition(state, request.wish(state.case.scene, state.dose_gy))

    def info(self, state: State, mask: np.ndarray) -> dict:
        """What the step and the reset report; the same keys always."""
        case = state.case
        metrics = case.metrics(state.dose_gy)
        score = state.score
        return {
            "case_id": case.case_id,
            "metrics": metrics,
            "score": float(score),
            "raw_score": float(state.raw_score),
            "Q": float(case.quality(metrics)),
            "objective": float(state.objective),
            "direct_objective": float(case.anchors.direct_after(state.goals, state.products)),
            "cost": float(state.products),
            "dose_products": float(state.products),
            "n_requests": int(state.n_requests),
            "n_recovered": 0 if state.last is None else len(state.last.recovered),
            "request_met": bool(state.last is None or state.last.is_met),
            "goals": int(state.goals),
            "target_voxels_per_cm3": float(case.target_voxels_per_cm3),
            "action_mask": mask.astype(np.int8),
            "invalid_action": bool(state.invalid_action),
            "is_success": bool(score >= 1.0),
            **constraint_costs(metrics, case.targets[0]),
        }  # fmt: skip


class DoseShapingEnv(gym.Env):
    """Improve a plan by asking for dose changes at single places, as a planner does by hand.

    ### Description
    Every request changes the dose of one voxel; the planner answers with dose modification and
    recovery (Ziegenhein et al., Phys. Med. Biol. 61 (2016) 2427): patches of fluence on all beams
    give the voxel its dose, then up to ``n_recovery`` more patches give back what targets and
    organs lost. Photons (fluence of bixels) or protons (spot weights). How much each goal weighs
    is drawn per episode from the case's weightings, and observed.

    ### Action space
    ``action="goal"``: Discrete(28), kind × strength, then stop. Kinds: too little in the highest
    target, in the others; too much in the highest target, in the others, in serial organs, optic
    organs, glands, other organs, the ring around the targets. The location is the kind's worst
    violation; strengths 0.1, 0.3, 1.0 are the share of it that shall go.
    ``"candidates"``: Discrete(37), 12 critical spots × strength, then stop; the spots are observed.
    ``"point"``: Box(−1, 1, (5,)): x, y, z in the scored box, dose change (1 is 20 % of the
    prescription), stop above 0.9.
    Discrete actions are masked (``action_masks()``); one that means nothing now runs as the
    nearest that does, marked in ``info["invalid_action"]``, and costs as that one.

    ### Observation space
    "full": Dict of "figures" Box(−1, 1, (91,)), "spots" Box(−1, 1, (12, 8)), "volume"
    Box(0, 1, (4, nz, ny, nx)). "dvh": the figures alone, a partially observed problem.
    | key | content |
    |---|---|
    | figures | requests left, log of products, log of the objective over the start's; goal weights (log10 by 3); by kind: worst excess (by 20 % of the prescription), share of the objective; by group: volume above 20, 40, 60, 80, 90, 95, 100, 105, 110 % |
    | spots | place (3), dose and wanted dose (by 120 % of the prescription), difference (by 20 %), share of the objective, 1 where listed |
    | volume | dose (by 120 % of the prescription), targets, organs, root of the relative penalty |

    ### Rewards
    "score": increments of the score; "potential": of the score before clipping. With ρ = F − F*,
    F the weighted objective on all scored voxels, the score is log(ρ₀/ρ)/log(ρ₀/ρ_direct): 0 is
    nothing done, 1 the solver started from the same plan with as many dose products as the
    requests used (five evaluations at least); clipped to −1 … 1.5. Useless requests
    never raise it.

    ### Starting state
    "other_goals": the plan for another weighting; "open_fields": fluence that fills the target;
    "yesterday": the plan for these goals on yesterday's anatomy, shifted and heavier. Without
    ``case`` a patient of the split is drawn at reset; ``options`` may name "case" and "goals".

    ### Episode end
    Terminated by stop; truncated after 30 requests.

    ### Arguments
    ``case``: "head-and-neck-NUMBER", "nasopharynx-NUMBER", "openkbp:PATH" or "dicom:FOLDER"; None
    samples.
    ``site``, ``split``, ``n_patients``: of sampled patients. ``modality``: photon or proton.
    ``start``: other_goals, open_fields or yesterday. ``action``, ``observation``, ``reward``: as
    above. ``goals``: one of the weightings, or None. ``n_recovery``: recovery patches a request;
    ``guarded``: those that would spoil more than they mend are shortened. ``volume_size``: (nz, ny, nx). ``preset``: full or mini. ``recipe``: overrides of
    ``ptenv.cases.dose_shaping_recipe.DoseShapingRecipe``. ``cache``: use the disk cache.

    ### Version history
    v0: first release.
    """  # noqa: E501  (a table's row is one line)

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(
        self,
        case: str | None = None,
        site: str = SITES[0],
        split: str = "train",
        n_patients: int | None = 64,
        modality: str | None = None,
        start: str | None = None,
        action: str = "goal",
        observation: str = "full",
        reward: str = "score",
        goals: int | None = None,
        n_recovery: int = 8,
        guarded: bool = True,
        volume_size: tuple[int, int, int] | None = None,
        preset: str = "full",
        recipe: dict | None = None,
        cache: bool = True,
        render_mode: str | None = None,
    ):
        self.render_mode = (
            None if render_mode is None
            else checked_choice("render_mode", render_mode, self.metadata["render_modes"])
        )  # fmt: skip
        named = {"modality": modality, "start": start}
        self._recipe = checked_recipe(
            DoseShapingRecipe, PRESETS, preset, recipe, procedural_id(0, SITES[0])
        )
        self._recipe = replace(self._recipe, **{k: v for k, v in named.items() if v is not None})
        self._site = checked_choice("site", site, SITES)
        self._pool, self.cache = split_seeds(split, n_patients), cache
        self._fixed = None if case is None else checked_case(case)
        self._goals = None if goals is None else self._checked_goals(goals)
        self.kind = checked_choice("action", action, ACTIONS)
        checked_choice("observation", observation, KINDS_OF_OBSERVATION)
        self.reward = ScoreReward(reward)
        self.task = DoseShapingTask(Recovery(n_steps=n_recovery, guarded=bool(guarded)))
        self._observe = ShapingObserver(observation, volume_size or VOLUME_SIZE[preset])
        self.action_space = action_space(self.kind)
        self.observation_space = self._observe.space
        self.state: State | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        options = checked_options(options, ("case", "goals"))
        case = load_case(self.case_recipe(options.get("case") or self._drawn()), self.cache)
        goals = options.get("goals", self._goals)
        if goals is None:
            goals = int(self.np_random.integers(case.n_goals))
        self.state = self.task.start(case, self._checked_goals(goals))
        return self._observe(self.state), self._info(self.state, self.state)

    def step(self, action):
        if self.state is None or self.state.stopped:
            raise gym.error.ResetNeeded("call reset() before step().")
        before = self.state
        meant = asked(
            self.kind, checked_action(self.kind, action), before.case, before.dose_gy,
            before.worst, before.spots,
        )  # fmt: skip
        if meant.wish is None:
            self.state = self.task.stop(before, meant.replaced)
        else:
            self.state = self.task.transition(before, meant.wish, meant.replaced)
        info = self._info(before, self.state)
        reward = self.reward.weigh(info["reward_terms"])
        return self._observe(self.state), reward, self.state.stopped, False, info

    def action_masks(self) -> np.ndarray:
        """Discrete actions (n,) bool that mean something now."""
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() before action_masks().")
        return self._mask(self.state)

    def render(self):
        """rgb_array: dose wash and histograms beside the start's; ansi: one line."""
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() before render().")
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing without render_mode; give it to make().")
            return None
        from ptenv.envs.dose_shaping_render import ansi, picture

        return ansi(self.state) if self.render_mode == "ansi" else picture(self.state)

    @property
    def weightings(self) -> tuple[int, ...]:
        """Weightings of the goals that its cases have anchors for."""
        return tuple(range(self._recipe.n_goals))

    def case_recipe(self, case: str) -> DoseShapingRecipe:
        """The recipe by which this environment builds a case."""
        return replace(self._recipe, patient=checked_case(case))

    def _drawn(self) -> str:
        """The fixed case, or one of the pool."""
        if self._fixed is not None:
            return self._fixed
        seed = self._pool[int(self.np_random.integers(len(self._pool)))]
        return procedural_id(seed, self._site)

    def _checked_goals(self, goals) -> int:
        n = self._recipe.n_goals
        if isinstance(goals, bool) or not isinstance(goals, (int, np.integer)) or not (
            0 <= goals < n
        ):  # fmt: skip
            raise ValueError(f"goals={goals!r} must be a whole number in 0 … {n - 1}.")
        return int(goals)

    def _mask(self, state: State) -> np.ndarray:
        if self.kind == "point":
            return np.ones(1, bool)
        return masks(self.kind, state.worst, state.spots)

    def _info(self, before: State, after: State) -> dict:
        terms = self.reward.terms(before, after)
        named = {f"reward_{name}": float(value) for name, value in terms.items()}
        info = self.task.info(after, self._mask(after))
        return info | {"reward_terms": dict(terms)} | named
