"""Which energy layer at each gantry angle of a proton arc: the task, and its environment."""

from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter

import gymnasium as gym
import numpy as np

from engine.evaluation.robustness import rvh_area_gy, worst_metric
from engine.optimization.arc import ArcPlan
from ptenv.cases.anchors import LOWEST_SCORE
from ptenv.cases.energy_layer_case import EnergyLayerCase
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe
from ptenv.cases.library import load_case
from ptenv.cases.patients import SITES, checked_case, procedural_id, split_seeds
from ptenv.envs.arguments import (
    checked_choice,
    checked_options,
    checked_recipe,
    constraint_costs,
)  # fmt: skip
from ptenv.envs.energy_layer_observations import PlaneObserver

TERMINALS = ("plan", "sketch", "proxy")
REWARDS = ("score", "shaped")
SLACK_S = 1e-6  # rounding that a limit forgives
ROBUST = ("D95_worst", "D98_worst", "rvh_area_target_gy", "rvh_area_organ_gy")
PRESETS = {
    "full": dict(),
    "2-degree": dict(n_angles=180),
    "mini": dict(
        ct_spacing_mm=4.0, target_volume_cm3=(8.0, 20.0), dose_grid_mm=5.0, ring_mm=8.0,
        n_angles=24, n_layers=20, layer_spacing_mm=6.0, n_points=200, lateral_cutoff=0.03,
        evaluations=30, sketch_evaluations=25, sketch_rows=500, sketch_spacing_mm=6.0,
        bound_evaluations=60, limits=(1.05, 1.15, 1.3, 1.6), keep_influence=True,
    ),
}  # fmt: skip
SITE_OF = {"full": "nasopharynx", "2-degree": "nasopharynx", "mini": "head-and-neck"}


@dataclass(frozen=True, eq=False)
class State:
    """Where an episode stands."""

    case: EnergyLayerCase
    limit: float  # delivery time allowed, as a multiple of the least
    terminal: str
    choice: np.ndarray  # (G, m) int16, −1 for none
    angle: int  # the next to choose for; G at the end
    slot: int  # which of its layers
    before: int  # layer that is set, −1 at the start
    used_s: float  # up to the angle before
    angle_s: float  # switching and beam-on at this angle so far
    reached: np.ndarray  # (P,) int16, chosen layers whose peak reaches each target point
    plan: ArcPlan | None = None
    invalid_action: bool = False

    @property
    def limit_s(self) -> float:
        return self.limit * self.case.sequencing.floor_s

    @property
    def is_over(self) -> bool:
        return self.angle >= len(self.choice)

    @property
    def coverage(self) -> float:
        """Mean over target points of min(n, k)/k, 0 … 1, with k a twelfth of the angles."""
        k = max(3, len(self.choice) // 12)
        return float(np.minimum(self.reached, k).mean() / k)

    @property
    def delivery_s(self) -> float:
        """Time of what is chosen so far, the present angle included."""
        if self.is_over or self.slot == 0:
            return self.used_s
        return self.used_s + max(float(self.case.sequencing.gantry_s[self.angle]), self.angle_s)

    def step_s(self) -> np.ndarray:
        """Seconds (E,) by which each layer would lengthen the arc now."""
        times, g = self.case.sequencing, self.angle
        switch = times.switch_s[self.before] if self.before >= 0 else 0.0
        after = self.angle_s + switch + times.beam_on_s[g]
        gantry = times.gantry_s[g]
        return np.maximum(gantry, after) - (max(gantry, self.angle_s) if self.slot else 0.0)

    @property
    def mask(self) -> np.ndarray:
        """Layers (E,) bool that may be chosen now; all once the arc is complete."""
        times, g = self.case.sequencing, self.angle
        if self.is_over:
            return np.ones(times.valid.shape[1], bool)
        left = self.limit_s + SLACK_S - self.delivery_s
        allowed = times.valid[g] & (self.step_s() + times.rest_s[g + 1] <= left)
        if self.slot:
            allowed[self.choice[g, : self.slot]] = False
            allowed[self.before] = True  # what is set already: no further layer
        return allowed

    @property
    def score(self) -> float:
        """Of the plan; the lowest where there is none."""
        if self.plan is None:
            return LOWEST_SCORE
        return self.case.anchors.score(self.plan.worst, self.limit, self.terminal)

    @property
    def raw_score(self) -> float:
        if self.plan is None:
            return LOWEST_SCORE
        return self.case.anchors.raw_score(self.plan.worst, self.limit, self.terminal)


@dataclass
class EnergyLayerTask:
    """The planning behind the environment: pure but for the clock in ``optimization_s``."""

    terminal: str = "plan"
    optimization_s: float = 0.0  # wall time of the last step's plan, 0 without one; never scored

    def start(self, case: EnergyLayerCase, limit: float) -> State:
        """The first angle that a layer serves."""
        if limit not in case.limits:
            raise ValueError(
                f"limit={limit} has no anchors in this case; choose from {list(case.limits)}."
            )
        n_angles, m = len(case.sequencing.gantry_s), case.sequencing.layers_per_angle
        state = State(
            case=case, limit=limit, terminal=self.terminal,
            choice=np.full((n_angles, m), -1, np.int16), angle=0, slot=0, before=-1, used_s=0.0,
            angle_s=0.0, reached=np.zeros(case.coverage.n_points, np.int16),
        )  # fmt: skip
        return _passed_over(state)

    def transition(self, state: State, layer: int) -> State:
        """Set a layer, or the nearest that may be; after the last angle the plan is made."""
        if state.is_over:
            raise gym.error.ResetNeeded("the arc is complete; call reset().")
        self.optimization_s = 0.0
        chosen, invalid = nearest_allowed(state.mask, layer)
        case, times, g = state.case, state.case.sequencing, state.angle
        choice, reached, angle_s = state.choice.copy(), state.reached, state.angle_s
        if not (state.slot and chosen == state.before):
            switch = times.switch_s[state.before, chosen] if state.before >= 0 else 0.0
            angle_s = angle_s + float(switch + times.beam_on_s[g, chosen])
            reached = reached + case.coverage.reached(g, chosen)
            choice[g, state.slot] = chosen
        state = replace(
            state, choice=choice, reached=reached, angle_s=angle_s, before=chosen,
            slot=state.slot + 1, invalid_action=invalid,
        )  # fmt: skip
        if state.slot == choice.shape[1]:
            used = state.used_s + max(float(times.gantry_s[g]), angle_s)
            state = replace(state, angle=g + 1, slot=0, angle_s=0.0, used_s=used)
            state = _passed_over(state)
        return self._planned(state) if state.is_over else state

    def _planned(self, state: State) -> State:
        if self.terminal == "proxy":
            return state
        began, case = perf_counter(), state.case
        plan = case.optimize(state.choice, self.terminal)
        self.optimization_s = perf_counter() - began
        return replace(state, plan=plan)

    def info(self, state: State) -> dict:
        """What the step and the reset report; the same keys always."""
        case, times = state.case, state.case.sequencing
        metrics, robust = _judged(state)
        up, down, unchanged = times.transitions(state.choice)
        score = state.score
        return {
            "case_id": case.case_id,
            "metrics": metrics,
            "robust": robust,
            "score": float(score),
            "raw_score": float(state.raw_score),
            "Q": float(case.quality(metrics)),
            "objective": case.objective_of_nothing if state.plan is None else state.plan.worst,
            "coverage": state.coverage,
            "cost": float(state.delivery_s),
            "delivery_s": float(state.delivery_s),
            "switching_s": float(times.switching_s(state.choice)),
            "limit": float(state.limit),
            "limit_s": float(state.limit_s),
            "n_up": int(up), "n_down": int(down), "n_unchanged": int(unchanged),
            "target_voxels_per_cm3": float(case.target_voxels_per_cm3),
            "action_mask": state.mask.astype(np.int8),
            "invalid_action": bool(state.invalid_action),
            "is_success": bool(score >= 1.0),
            **constraint_costs(metrics, case.target),
        }  # fmt: skip


class EnergyLayerEnv(gym.Env):
    """Choose the energy layer at each gantry angle of a proton arc within a delivery time.

    ### Description
    The gantry turns around the patient; at every angle the agent sets an energy layer, and the
    planner then optimizes the spot weights of the chosen layers for the worst of nine scenarios
    (nominal, ±3.5 % range, six set-up shifts of 3 mm). Time is the sum over angles of the larger
    of gantry motion and switching plus beam-on; the limit is drawn per episode as a multiple of
    the least time of a whole arc, and observed. Angles that no layer serves are passed over.
    After Yang et al. 2025 (arXiv 2506.18303).

    ### Action space
    Discrete(E): a layer of the ladder of energies, lowest first. Allowed are the layers that reach
    the target from this angle and leave time to complete the arc (``action_masks()``). Another one
    runs as the nearest that is allowed, and is marked in ``info["invalid_action"]``. With several
    layers per angle each is an action of its own; the layer that is set already adds none.

    ### Observation space
    Dict: "plane" Box(0, 1, (9, G, E)), "clock" Box(−1, 1, (5,)).
    | plane | content |
    |---|---|
    | 0 | spots that stop in the target, by the case's largest number |
    | 1, 2, 3 | those that do not cross brainstem, cord, parotids |
    | 4 | 1 where the layer stops between the target's least and largest depth |
    | 5 | 1 where chosen |
    | 6 | 1 along the present angle |
    | 7 | along the present angle: seconds that each layer costs, by 10 s |
    | 8 | along the present angle: the mask |

    clock: angles done (0 … 1), time used by the limit, limit by four times the least time, least
    time of the rest by the limit, layers set at this angle by all it may have.

    ### Rewards
    "score": the score at the end, 0 before. "shaped": beside it the increments of a potential, the
    mean over target points of min(n, k)/k with n the layers whose peak reaches the point and k a
    twelfth of the angles (3 at least), which ends at 0. ``terminal="proxy"`` makes no plan: the
    potential's increments alone.

    The score is log(F_DP/F)/log(F_DP/F_all), F the objective in the worst scenario: 0 is exact
    dynamic programming on spot counts at the same limit, 1 the plan that may use all layers;
    clipped to −1 … 1.5, and −1 where there is no plan. ``terminal="sketch"`` plans on sampled
    voxels with spots farther apart, and has anchors of its own.

    ### Starting state
    No layer is set: the first costs no switch. Without ``case`` a patient of the split is drawn at
    reset; ``options`` may name "case" and "limit".

    ### Episode end
    Terminated after the last angle.

    ### Arguments
    ``case``: "nasopharynx-NUMBER", "head-and-neck-NUMBER", "openkbp:PATH" or "dicom:FOLDER"; None
    samples.
    ``site``: of sampled patients. ``split``: train, validation, test. ``n_patients``: size of the
    pool. ``terminal``: plan, sketch or proxy. ``limit``: one of the case's multiples, or None.
    ``reward``: score or shaped. ``preset``: full (72 angles), 2-degree (180) or mini.
    ``recipe``: overrides of ``ptenv.cases.energy_layer_recipe.EnergyLayerRecipe``: n_angles,
    start_deg, direction, layers_per_angle, side, switch_up_s and others. ``cache``: use the disk
    cache.

    ### Version history
    v0: first release.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(
        self,
        case: str | None = None,
        site: str | None = None,
        split: str = "train",
        n_patients: int | None = 64,
        terminal: str = "plan",
        limit: float | None = None,
        reward: str = "score",
        preset: str = "full",
        recipe: dict | None = None,
        cache: bool = True,
        render_mode: str | None = None,
    ):
        self.render_mode = (
            None if render_mode is None
            else checked_choice("render_mode", render_mode, self.metadata["render_modes"])
        )  # fmt: skip
        self._recipe = checked_recipe(
            EnergyLayerRecipe, PRESETS, preset, recipe, procedural_id(0, SITES[0])
        )
        self._site = SITE_OF[preset] if site is None else checked_choice("site", site, SITES)
        self._pool, self.cache = split_seeds(split, n_patients), cache
        self._fixed = None if case is None else checked_case(case)
        self._limit = None if limit is None else float(
            checked_choice("limit", limit, self._recipe.limits)
        )  # fmt: skip
        self.task = EnergyLayerTask(checked_choice("terminal", terminal, TERMINALS))
        self._shaped = checked_choice("reward", reward, REWARDS) == "shaped"
        self._observe = PlaneObserver.of(self._recipe)
        self.action_space = gym.spaces.Discrete(self._observe.n_layers)
        self.observation_space = self._observe.space
        self.state: State | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        options = checked_options(options, ("case", "limit"))
        case = load_case(self.case_recipe(options.get("case") or self._drawn()), self.cache)
        limit = options.get("limit", self._limit)
        if limit is None:
            limit = case.limits[int(self.np_random.integers(len(case.limits)))]
        self.state = self.task.start(case, limit)
        return self._observe(self.state), self._info(self._terms(self.state, self.state))

    def step(self, action):
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() before step().")
        before = self.state
        self.state = self.task.transition(before, self._layer(action))
        terms = self._terms(before, self.state)
        reward = float(sum(terms.values()))
        return self._observe(self.state), reward, self.state.is_over, False, self._info(terms)

    def action_masks(self) -> np.ndarray:
        """Layers (E,) bool that may be chosen now."""
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() before action_masks().")
        return self.state.mask

    def render(self):
        """rgb_array: layers over gantry angle, and the plan once there is one; ansi: one line."""
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() before render().")
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing without render_mode; give it to make().")
            return None
        from ptenv.envs.energy_layer_render import ansi, picture

        return ansi(self.state, self.task) if self.render_mode == "ansi" else picture(self.state)

    @property
    def limits(self) -> tuple[float, ...]:
        """Multiples of the least delivery time that its cases have anchors for."""
        return self._recipe.limits

    def case_recipe(self, case: str) -> EnergyLayerRecipe:
        """The recipe by which this environment builds a case."""
        return replace(self._recipe, patient=checked_case(case))

    def _drawn(self) -> str:
        """The fixed case, or one of the pool."""
        if self._fixed is not None:
            return self._fixed
        seed = self._pool[int(self.np_random.integers(len(self._pool)))]
        return procedural_id(seed, self._site)

    def _layer(self, action) -> int:
        number = np.asarray(action)
        if number.shape not in ((), (1,)) or number.dtype.kind not in "iu":
            raise ValueError(f"action={action!r} must be one whole number, a layer.")
        layer = int(number.reshape(()))
        if not 0 <= layer < self.action_space.n:
            raise ValueError(f"action={layer} must lie in 0 … {self.action_space.n - 1}.")
        return layer

    def _terms(self, before: State, after: State) -> dict[str, float]:
        """Named reward terms: the score of a plan, and increments of the potential."""
        terms = {"score": 0.0 if after.plan is None or before is after else after.score}
        if self.task.terminal == "proxy":
            return {"score": 0.0, "potential": after.coverage - before.coverage}
        if self._shaped:
            reached = 0.0 if after.is_over else after.coverage  # a potential ends where it began
            terms["potential"] = reached - before.coverage if before is not after else 0.0
        return terms

    def _info(self, terms: dict[str, float]) -> dict:
        named = {f"reward_{name}": float(value) for name, value in terms.items()}
        return self.task.info(self.state) | {"reward_terms": dict(terms)} | named


def nearest_allowed(mask: np.ndarray, layer: int) -> tuple[int, bool]:
    """The layer itself or the nearest in the mask (the lower of two), and whether it was not it."""
    if mask[layer]:
        return int(layer), False
    allowed = np.flatnonzero(mask)
    return int(allowed[np.argmin(np.abs(allowed - layer))]), True


def _passed_over(state: State) -> State:
    """The state at the next angle that a layer serves; passing costs the gantry's time."""
    times = state.case.sequencing
    served = times.valid.any(axis=1)
    angle, used = state.angle, state.used_s
    while angle < len(served) and not served[angle]:
        used += float(times.gantry_s[angle])
        angle += 1
    return replace(state, angle=angle, used_s=used)


def _judged(state: State) -> tuple[dict, dict]:
    """Nominal metrics and robustness figures of the plan; of no dose while there is none."""
    case = state.case
    if state.plan is None:
        return deepcopy(case.metrics_of_nothing), dict.fromkeys(ROBUST, 0.0)
    evaluation = case.evaluation_of(state.terminal)
    dose = case.quantity.value(state.plan.dose_gy)
    target = evaluation.structures[case.target]
    organs = [o for o in ("Brainstem", "SpinalCord") if o in evaluation.structures]
    return evaluation.evaluate(dose[0]), {
        "D95_worst": worst_metric(evaluation, dose, case.target, "D95%[%]"),
        "D98_worst": worst_metric(evaluation, dose, case.target, "D98%[%]"),
        "rvh_area_target_gy": rvh_area_gy(dose, target),
        "rvh_area_organ_gy": (
            rvh_area_gy(dose, evaluation.structures[organs[0]]) if organs else 0.0
        ),
    }
