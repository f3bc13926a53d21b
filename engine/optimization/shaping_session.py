"""One person's work on one plan: requests one after another, with undo, redo and a record."""

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from engine.optimization.shaping import Outcome, ShapedPlan, Shaper
from engine.optimization.shaping_requests import Request, RequestRefused, Scene, as_plain

KEPT = 100  # plans that undo goes back


@dataclass(frozen=True)
class Answer:
    """What became of a request, in words, with the seconds it took."""

    text: str
    is_met: bool
    n_recovered: int
    seconds: float


@dataclass
class ShapingSession:
    """Requests on a plan; a refused one raises and changes nothing.

    ``record`` holds all that was done, as plain values: replaying it on the same start gives the
    same plan.
    """

    shaper: Shaper
    scene: Scene
    start: np.ndarray  # weights (n_amplitudes,)
    record: list[dict] = field(default_factory=list)

    def __post_init__(self):
        self._plans = [self.shaper.plan(self.start)]
        self._at = 0

    @property
    def plan(self) -> ShapedPlan:
        return self._plans[self._at]

    @property
    def dose_gy(self) -> np.ndarray:
        """Gy (RBE) of the course, (n_rows,) float32."""
        return self.scene.quantity.value(self.plan.dose)

    @property
    def can_undo(self) -> bool:
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        return self._at + 1 < len(self._plans)

    def request(self, request: Request) -> Answer:
        """Carry out a request; ``RequestRefused`` says why not."""
        began = perf_counter()
        wish = request.wish(self.scene, self.dose_gy)
        outcome = self.shaper.apply(self.plan, wish)
        if not outcome.modified:
            raise RequestRefused("nothing to change: the dose there is as wished already.")
        if np.array_equal(outcome.plan.weights, self.plan.weights):
            raise RequestRefused(
                "nothing changed: "
                + ("there is no fluence left to take away there."
                   if wish.lower else "no beam reaches that place.")
            )  # fmt: skip
        self._plans = [*self._plans[: self._at + 1], outcome.plan][-(KEPT + 1) :]
        self._at = len(self._plans) - 1
        self.record.append(as_plain(request))
        return Answer(
            self._told(request, wish.lower, outcome), outcome.is_met, len(outcome.recovered),
            perf_counter() - began,
        )  # fmt: skip

    def undo(self) -> None:
        """Back to the plan before the last request."""
        if not self.can_undo:
            raise RequestRefused("there is nothing to undo.")
        self._at -= 1
        self.record.append({"kind": "undo"})

    def redo(self) -> None:
        """Forth to the plan that was undone last."""
        if not self.can_redo:
            raise RequestRefused("there is nothing to redo.")
        self._at += 1
        self.record.append({"kind": "redo"})

    def _told(self, request: Request, lower: bool, outcome: Outcome) -> str:
        missing = self.scene.quantity.scale * outcome.missing_gy
        done = f"{request.kind}: recovered {len(outcome.recovered)} places"
        if outcome.is_met:
            return f"{done}; the request is met."
        side = "above" if lower else "below"
        return (
            f"{done}; {missing:.2f} Gy {side} the request remain: more would cost the rest of the "
            "plan, or no fluence of 0 or more gives it. Ask again to insist."
        )
