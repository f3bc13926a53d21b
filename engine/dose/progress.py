"""How far a dose is, for engines that take long."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What is done and expected in all, in units of the engine's work; uncertainty so far (NaN:
    unknown, or none)."""

    done: int
    expected: int
    unit: str = "histories"
    uncertainty_percent: float = float("nan")
