"""Privileged search: the best layers of an arc that annealing finds with the true score as goal.

No agent may do this; it tells how much there is to gain.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from agents.baselines.annealing import Annealing, changed
from agents.baselines.arc_view import ArcView
from agents.baselines.layer_rules import DynamicProgramming, Sawtooth
from agents.baselines.search import Found
from agents.environments import AnyEnvironment
from engine.optimization.arc import ArcPlanner, RememberedLayers, TracedLayers

COLDEST = 0.1  # of the hottest temperature
TELL_EVERY_S = 60.0


@dataclass(frozen=True)
class LayerSearch:
    """Tries ``steps`` changes of the sequence that was kept last, and plans those within the limit:
    at a tight one a third or less of them.

    It begins with the best of sawtooth, dynamic programming and ``annealings`` runs of annealing on
    cold spots; ``hottest`` is the first temperature, in log F_w.
    """

    steps: int = 400
    hottest: float = 0.03
    annealings: int = 1
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or not self.hottest > 0 or self.annealings < 0:
            raise ValueError(
                f"steps={self.steps} must be at least 1, hottest={self.hottest} positive, "
                f"annealings={self.annealings} not negative."
            )

    def search(self, environment: AnyEnvironment, case: str, budget: float) -> Found:
        env = environment.make(case=case, limit=budget)
        env.reset(seed=self.seed)
        state, rng = env.unwrapped.state, np.random.default_rng(self.seed)
        view, terminal = ArcView.of(state.case), env.unwrapped.task.terminal

        planner = _remembering(state.case.planners[terminal])
        anchors, tell = state.case.anchors, _teller(state.case.case_id, budget)

        def planned(sequence: np.ndarray) -> float:
            chosen = state.case.chosen_for(view.as_choice(sequence), terminal)
            return float(np.log(planner.optimize(chosen).worst))

        def scored(value: float) -> float:
            return anchors.score(float(np.exp(value)), budget, terminal)

        rules = (Sawtooth(), DynamicProgramming(), *[Annealing()] * self.annealings)
        starts = [rule(view, state.limit_s, rng) for rule in rules]
        values = [planned(sequence) for sequence in starts]
        sequence, value = starts[int(np.argmin(values))], min(values)
        best, lowest, n_plans = sequence, value, len(starts)
        for step in range(self.steps):
            heat = self.hottest * COLDEST ** (step / self.steps)
            tried = changed(view, sequence, rng)
            if view.sequencing.time_s(tried) > view.safe(state.limit_s):
                continue
            new, n_plans = planned(tried), n_plans + 1
            if new <= value or rng.random() < np.exp((value - new) / heat):
                sequence, value = tried, new
                if value < lowest:
                    best, lowest = sequence, value
            tell(f"{step + 1} of {self.steps} changes, best score {scored(lowest):.3f}")
        score = scored(lowest)
        return Found("annealing", best, np.array([score]), score, n_plans)


def _remembering(planner: ArcPlanner) -> ArcPlanner:
    """A change leaves most of the influence: 30 % of the time of a small target's plan, 13 % of a
    large one's."""
    if not isinstance(planner.source, TracedLayers):
        return planner
    return replace(planner, source=RememberedLayers(planner.source))


def _teller(case: str, budget: float) -> Callable[[str], None]:
    """Takes lines about a search of an hour, and prints one a minute on standard error."""
    began = told = perf_counter()

    def tell(text: str) -> None:
        nonlocal told
        if perf_counter() - told > TELL_EVERY_S:
            told = perf_counter()
            minutes = (told - began) / 60.0
            print(f"search on {case} at {budget:g}, {minutes:.0f} min: {text}", file=sys.stderr)

    return tell
