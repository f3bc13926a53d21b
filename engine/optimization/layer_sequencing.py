"""Which energy layer at which angle: what sequences cost in time, and the best ones by value.

A sequence takes, angle by angle, the longer of gantry motion and switching plus beam-on. Angles
that no layer serves are passed over at their gantry time, and the layer stays set. Values add up
over angles, as spot counts do; then dynamic programming finds the best sequence within a time
exactly.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.optimization import _sequencing_kernels as kernels

SLACK_S = 1e-6  # rounding that a limit forgives


@dataclass(frozen=True, eq=False)
class LayerSequencing:
    """Times of choosing layers; G angles in order of delivery, E layers of rising energy.

    ``switch_s`` (E, E) from → to, ``beam_on_s`` (G, E) of a layer's spots before their weights
    are known, ``gantry_s`` (G,) to turn to each angle, ``valid`` (G, E) layers that reach the
    target. A choice is (G, m) layers with −1 for none, in the order in which they are delivered.
    """

    switch_s: np.ndarray
    beam_on_s: np.ndarray
    gantry_s: np.ndarray
    valid: np.ndarray
    layers_per_angle: int = 1

    def __post_init__(self):
        valid = np.asarray(self.valid)
        if valid.dtype != bool or valid.ndim != 2:
            raise ValueError(f"valid {valid.shape} {valid.dtype} must be a bool matrix (G, E).")
        n_angles, n_layers = valid.shape
        wanted = {"switch_s": (n_layers,) * 2, "beam_on_s": valid.shape, "gantry_s": (n_angles,)}
        for name, shape in wanted.items():
            times = np.asarray(getattr(self, name), np.float64)
            if times.shape != shape:
                raise ValueError(f"{name} has shape {times.shape}, wanted is {shape}.")
            if not np.all(np.isfinite(times)) or times.min(initial=0.0) < 0:
                raise ValueError(f"{name} must hold finite times of 0 or more seconds.")
            object.__setattr__(self, name, times)
        if not valid.any():
            raise ValueError("no layer reaches the target from any angle; valid is all False.")
        if self.layers_per_angle < 1:
            raise ValueError(f"layers_per_angle={self.layers_per_angle} must be at least 1.")

    def step_s(self, angle: int, before: int, layer: int) -> float:
        """Seconds of one layer at an angle, coming from ``before`` (−1: nothing is set)."""
        switch = self.switch_s[before, layer] if before >= 0 else 0.0
        return float(max(self.gantry_s[angle], switch + self.beam_on_s[angle, layer]))

    def time_s(self, choice: np.ndarray) -> float:
        """Delivery time of a choice; angles without a layer take their gantry time."""
        angle, layer, switch = self._walk(choice)
        busy = np.zeros(len(self.gantry_s))
        np.add.at(busy, angle, switch + self.beam_on_s[angle, layer])
        return float(np.maximum(self.gantry_s, busy).sum())

    def switching_s(self, choice: np.ndarray) -> float:
        """Seconds that switching alone takes."""
        return float(self._walk(choice)[2].sum())

    def transitions(self, choice: np.ndarray) -> tuple[int, int, int]:
        """Switches up, down, and from a layer to itself, from angle to angle and within."""
        step = np.sign(np.diff(self._walk(choice)[1].astype(np.int64)))
        return int((step > 0).sum()), int((step < 0).sum()), int((step == 0).sum())

    def _walk(self, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Angle, layer and switching time of every delivered layer, in order."""
        choice = np.asarray(choice)
        if choice.shape[:1] != (len(self.gantry_s),):
            n = len(self.gantry_s)
            raise ValueError(f"choice has shape {choice.shape}, the arc {n} angles.")
        by_angle = choice.reshape(len(choice), -1)
        angle, slot = np.nonzero(by_angle >= 0)
        layer = by_angle[angle, slot]
        switch = np.zeros(len(layer))
        switch[1:] = self.switch_s[layer[:-1], layer[1:]]
        return angle, layer, switch

    @cached_property
    def rest_s(self) -> np.ndarray:
        """Least seconds (G + 1, E) of the angles from each one on, coming from each layer."""
        n_angles, n_layers = self.valid.shape
        rest = np.zeros((n_angles + 1, n_layers))
        for g in range(n_angles - 1, -1, -1):
            layers = np.flatnonzero(self.valid[g])
            if not len(layers):
                rest[g] = self.gantry_s[g] + rest[g + 1]
                continue
            busy = self.switch_s[:, layers] + self.beam_on_s[g, layers]
            step = np.maximum(self.gantry_s[g], busy) + rest[g + 1, layers]
            rest[g] = step.min(axis=1)
        return rest

    @cached_property
    def served(self) -> np.ndarray:
        """Angles (n,) that a layer serves."""
        return np.flatnonzero(self.valid.any(axis=1))

    @cached_property
    def floor_s(self) -> float:
        """Least seconds of a whole arc with a layer at every angle that one serves."""
        g = self.served[0]
        layers = np.flatnonzero(self.valid[g])
        first = np.maximum(self.gantry_s[g], self.beam_on_s[g, layers])
        return float(self.gantry_s[:g].sum() + (first + self.rest_s[g + 1, layers]).min())


def dynamic_programming(
    sequencing: LayerSequencing, value: np.ndarray, limit_s: float, n_bins: int = 1024
) -> np.ndarray:
    """The choice (G, 1) int16 with the largest Σ value[g, layer] that takes ``limit_s`` at most.

    ``value`` is (G, E). Of two sequences that end in one layer at nearly one time (a bin of
    ``limit_s / n_bins``) the better is kept, with its own time: exact but for what the lost one
    might have saved.
    """
    value = _checked_value(sequencing, value)
    if not np.isfinite(limit_s) or limit_s < sequencing.floor_s - SLACK_S:
        raise ValueError(
            f"limit_s={limit_s} is less than the {sequencing.floor_s:.1f} s that a layer at every "
            "angle takes at least; allow more."
        )
    s, angles = sequencing, sequencing.served
    passed = s.gantry_s * ~s.valid.any(axis=1)
    before = np.diff(np.concatenate([[0.0], np.cumsum(passed)[angles]]))
    limit = limit_s + SLACK_S - passed[angles[-1] :].sum()
    back, bins = np.zeros((2, len(angles), s.valid.shape[1], n_bins), np.int16)
    after = s.rest_s[angles + 1] - passed[angles[-1] :].sum()
    for rest in (np.zeros_like(after), after):  # near the least time the lost label is the only one
        layer, at = kernels.best_within_limit(
            angles, s.valid, value, s.switch_s, s.beam_on_s, s.gantry_s, before, rest, limit,
            back, bins,
        )  # fmt: skip
        if layer >= 0:
            break
    choice = np.full((len(s.gantry_s), 1), -1, np.int16)
    for i in range(len(angles) - 1, -1, -1):
        choice[angles[i], 0] = layer
        layer, at = back[i, layer, at], bins[i, layer, at]
    return choice


def weighted_dynamic_programming(
    sequencing: LayerSequencing, value: np.ndarray, seconds_weight: float
) -> np.ndarray:
    """The choice (G, 1) int16 with the largest Σ value − ``seconds_weight`` · time: no limit."""
    value = _checked_value(sequencing, value)
    if not (np.isfinite(seconds_weight) and seconds_weight >= 0):
        raise ValueError(f"seconds_weight={seconds_weight} must be 0 or more.")
    s, angles = sequencing, sequencing.served
    gain = np.where(s.valid, value, -np.inf)
    best = gain[angles[0]] - seconds_weight * np.maximum(
        s.gantry_s[angles[0]], s.beam_on_s[angles[0]]
    )
    came_from = []
    for g in angles[1:]:
        step = np.maximum(s.gantry_s[g], s.switch_s + s.beam_on_s[g])
        total = best[:, None] - seconds_weight * step
        came_from.append(total.argmax(axis=0))
        best = total.max(axis=0) + gain[g]
    choice = np.full((len(s.gantry_s), 1), -1, np.int16)
    layer = int(best.argmax())
    for g, back in zip(angles[:0:-1], came_from[::-1]):
        choice[g, 0] = layer
        layer = int(back[layer])
    choice[angles[0], 0] = layer
    return choice


def _checked_value(sequencing: LayerSequencing, value: np.ndarray) -> np.ndarray:
    value = np.ascontiguousarray(value, np.float64)
    if value.shape != sequencing.valid.shape:
        raise ValueError(f"value has shape {value.shape}, the arc {sequencing.valid.shape}.")
    if not np.all(np.isfinite(value[sequencing.valid])):
        raise ValueError("value must be finite for every valid layer.")
    return value
