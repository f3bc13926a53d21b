"""What every dose engine refuses, whatever it models."""

from collections.abc import Sequence

from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario


def check_asked(
    plan: Plan, scenario: Scenario, quantities: Sequence[str], known: Sequence[str], engine: str
) -> None:
    """Quantities other than the ``known``, images that a patient does not have, empty plans."""
    unknown = [q for q in quantities if q not in known]
    if unknown:
        raise ValueError(
            f"quantities={unknown} are unknown here; {engine} scores {', '.join(known)}."
        )
    if scenario.image != NOMINAL.image:
        raise ValueError(
            f"image={scenario.image!r} is unknown; a patient has one image, {NOMINAL.image!r}."
        )
    if plan.n_spots == 0:
        raise ValueError("the plan has no spots; place_spots puts them over the target.")
