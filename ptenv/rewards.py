"""Rewards of planning environments: increments of the score, named term by term."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["score", "potential"]


@dataclass(frozen=True)
class ScoreReward:
    """Increments of the clipped score ("score"), or of the score before clipping ("potential").

    Both sum to a final score minus the start's; the second still tells bad plans apart from worse.
    """

    kind: Kind = "score"

    def __post_init__(self):
        if self.kind not in ("score", "potential"):
            raise ValueError(f"reward={self.kind!r} is unknown; choose 'score' or 'potential'.")

    def terms(self, before, after) -> dict[str, float]:
        """Named terms from two states with ``score`` and ``raw_score``."""
        if self.kind == "score":
            return {"score": float(after.score - before.score)}
        return {"potential": float(after.raw_score - before.raw_score)}

    @staticmethod
    def weigh(terms: dict[str, float]) -> float:
        return float(sum(terms.values()))
