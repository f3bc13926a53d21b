"""What an agent sees of an arc: planes of angle × layer, and a clock."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from engine.geometry.arc import energy_ladder
from engine.machine.library import load_machine
from ptenv.cases.energy_layer_recipe import EnergyLayerRecipe

if TYPE_CHECKING:
    from ptenv.envs.energy_layer import State

COUNTS = ("target", "target-Brainstem", "target-SpinalCord", "target-Parotid")
N_PLANES, N_CLOCK = 9, 5
WINDOW, CHOSEN, HERE, SECONDS, MASK = 4, 5, 6, 7, 8  # planes behind the counts
FULL_SECONDS = 10.0


@dataclass(frozen=True)
class PlaneObserver:
    """Observations of arcs of one size."""

    n_angles: int
    n_layers: int

    @classmethod
    def of(cls, recipe: EnergyLayerRecipe) -> "PlaneObserver":
        machine = load_machine(recipe.machine)
        ladder = energy_ladder(machine, recipe.n_layers, recipe.layer_spacing_mm)
        return cls(recipe.n_angles, len(ladder))

    @property
    def space(self) -> spaces.Dict:
        plane = spaces.Box(0.0, 1.0, (N_PLANES, self.n_angles, self.n_layers), np.float32)
        return spaces.Dict({"clock": spaces.Box(-1.0, 1.0, (N_CLOCK,), np.float32), "plane": plane})

    def __call__(self, state: "State") -> dict[str, np.ndarray]:
        return {"clock": self._clock(state), "plane": self._plane(state)}

    def _plane(self, state: "State") -> np.ndarray:
        plane = np.zeros((N_PLANES, self.n_angles, self.n_layers), np.float32)
        plane[: WINDOW + 1] = fixed_planes(state.case)
        angle, slot = np.nonzero(state.choice >= 0)
        plane[CHOSEN, angle, state.choice[angle, slot]] = 1.0
        if not state.is_over:
            plane[HERE, state.angle] = 1.0
            plane[SECONDS, state.angle] = np.clip(state.step_s() / FULL_SECONDS, 0.0, 1.0)
            plane[MASK, state.angle] = state.mask
        return plane

    def _clock(self, state: "State") -> np.ndarray:
        times = state.case.sequencing
        rest = 0.0 if state.is_over else float(times.rest_s[state.angle].min())
        clock = (
            state.angle / self.n_angles, state.delivery_s / state.limit_s, state.limit / 4.0,
            rest / state.limit_s, state.slot / state.choice.shape[1],
        )  # fmt: skip
        return np.clip(np.array(clock, np.float32), -1.0, 1.0)


def fixed_planes(case) -> np.ndarray:
    """What does not change in an episode, (5, G, E) float32."""
    planes = _PLANES.get(case.key)
    if planes is None:
        top = max(float(case.counts["target"].max()), 1.0)
        counts = [case.counts[name] / top for name in COUNTS]
        low, high = case.wed_mm[:, :1], case.wed_mm[:, 1:]
        window = (case.range_mm >= low) & (case.range_mm <= high)
        planes = np.stack([*counts, window]).astype(np.float32)
        while len(_PLANES) >= MANY:
            _PLANES.pop(next(iter(_PLANES)))
        _PLANES[case.key] = planes
    return planes


MANY = 96  # cases of which the planes are kept
_PLANES: dict[str, np.ndarray] = {}
