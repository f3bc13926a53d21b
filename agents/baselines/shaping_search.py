"""Privileged search: requests tried out before they are made, with the true objective as goal.

No agent may do this; it tells how much there is to gain.
"""

from dataclasses import dataclass

import numpy as np

from agents.baselines.search import Found
from agents.environments import AnyEnvironment
from ptenv.envs.dose_shaping import DoseShapingTask, State
from ptenv.envs.dose_shaping_actions import Asked, asked, masks


@dataclass(frozen=True)
class ShapingSearch:
    """In every state the request whose answer scores best, of all goals and strengths (and of the
    critical spots too, with ``spots``), as long as there is one that gains; after ``patience``
    requests without a gain it stops. The best state on the way is what it found, by actions
    (n, 2): 0 for a goal or 1 for a spot, and the action of that kind."""

    spots: bool = True
    patience: int = 3
    n_final: int = 1

    def search(self, environment: AnyEnvironment, case: str, budget: float) -> Found:
        env = environment.make(case=case, goals=int(budget))
        env.reset(seed=0)
        task, state = env.unwrapped.task, env.unwrapped.state
        best, actions, done, waited, n_plans = state.score, [], [], 0, 0
        while state.n_requests < state.most_requests and waited < self.patience:
            tried = [(self._tried(task, state, a), a) for a in self._actions(state)]
            n_plans += len(tried)
            if not tried:
                break
            state, action = max(tried, key=lambda t: t[0].score)
            actions.append(action)
            waited = 0 if state.score > best else waited + 1
            if state.score > best:
                best, done = state.score, list(actions)
        scores = np.full(self.n_final, best)
        pairs = np.array([(kind == "candidates", n) for kind, n in done], int).reshape(-1, 2)
        return Found("lookahead", pairs, scores, best, n_plans)

    def _actions(self, state: State) -> list[tuple[str, int]]:
        kinds = ("goal", "candidates") if self.spots else ("goal",)
        return [
            (kind, int(number))
            for kind in kinds
            for number in np.flatnonzero(masks(kind, state.worst, state.spots)[:-1])
        ]

    @staticmethod
    def _tried(task: DoseShapingTask, state: State, action: tuple[str, int]) -> State:
        kind, number = action
        meant: Asked = asked(
            kind, number, state.case, state.dose_gy, state.worst, state.spots
        )
        return task.transition(state, meant.wish)
