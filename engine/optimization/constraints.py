"""What a plan must not violate: an objective with a limit that a solver has to keep."""

from dataclasses import dataclass

from engine.optimization.objectives import Objective


@dataclass(frozen=True)
class Constraint:
    """``objective``'s value must not exceed ``limit`` (0: its wish is met exactly).

    Each constraint costs a gradient of its own per iteration (Janson 2024), and contradicting
    constraints have no solution; objectives trade off instead.
    """

    objective: Objective
    limit: float = 0.0
