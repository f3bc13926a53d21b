"""SPArc with particle swarm: sectors of falling energy around the arc, their ends searched.

After Qian et al., Phys. Med. Biol. 69 (2023) 015004, as Yang et al. 2025 describe it: the arc is
cut into sectors where the water-equivalent depth of the target rises again, energies fall within a
sector and rise once between two, and a particle swarm searches the sectors' borders and the
energies at their ends. What the paper optimizes dose for is the coverage of target points here.
"""

from dataclasses import dataclass

import numpy as np

from agents.baselines.arc_view import ArcView

INERTIA, OWN, SHARED = 0.72, 1.49, 1.49  # Clerc and Kennedy 2002


@dataclass(frozen=True)
class ParticleSwarm:
    """``particles`` move for ``iterations``; fitness is the coverage, the worst over ±3.5 % range,
    less ``time_weight`` times the switching time over that of a switch up at every angle.

    ``keep_limit=False`` is the published method, which knows no limit: as many sectors as the
    depths suggest. With a limit sectors are joined until the arc keeps it.
    """

    particles: int = 40
    iterations: int = 80
    time_weight: float = 0.2
    least_sectors: int = 6
    most_sectors: int = 9
    keep_limit: bool = True

    def __post_init__(self):
        for name in ("particles", "iterations", "least_sectors"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def __call__(self, view: ArcView, limit_s: float, rng: np.random.Generator) -> np.ndarray:
        n = self.n_sectors(view)
        if not self.keep_limit:
            return self._searched(view, n, rng)
        while n >= 1:
            sequence = self._searched(view, n, rng)
            if view.sequencing.time_s(sequence) <= limit_s:
                return sequence
            n -= 1
        return view.within_limit(sequence, limit_s)

    def n_sectors(self, view: ArcView) -> int:
        """Local maxima of the target's far depth around the arc, within bounds."""
        depth = np.nan_to_num(view.wed_mm[:, 1])
        smooth = np.mean([np.roll(depth, s) for s in (-1, 0, 1)], axis=0)
        peaks = (smooth > np.roll(smooth, 1)) & (smooth >= np.roll(smooth, -1))
        return int(np.clip(peaks.sum(), self.least_sectors, self.most_sectors))

    def _searched(self, view: ArcView, n: int, rng: np.random.Generator) -> np.ndarray:
        """The best sequence of a swarm: per sector a length, and shares of depth at its ends."""
        place = rng.uniform(0.0, 1.0, (self.particles, 3 * n))
        place[:, n : 2 * n] = 0.5 + 0.5 * place[:, n : 2 * n]  # sectors begin deep
        place[:, 2 * n :] *= 0.5  # and end shallow
        speed = rng.uniform(-0.1, 0.1, place.shape)
        own, own_value = place.copy(), np.full(self.particles, -np.inf)
        best, best_value = place[0], -np.inf
        for _ in range(self.iterations):
            values = np.array([self._fitness(view, self._sequence(view, p)) for p in place])
            better = values > own_value
            own[better], own_value[better] = place[better], values[better]
            if own_value.max() > best_value:
                best, best_value = own[own_value.argmax()].copy(), float(own_value.max())
            pull = OWN * rng.random(place.shape) * (own - place)
            pull += SHARED * rng.random(place.shape) * (best - place)
            speed = np.clip(INERTIA * speed + pull, -0.25, 0.25)
            place = np.clip(place + speed, 0.0, 1.0)
        return self._sequence(view, best)

    def _sequence(self, view: ArcView, particle: np.ndarray) -> np.ndarray:
        """Layers (n,) of a particle: in every sector a fall from its begin to its end."""
        lengths, begin, end = np.split(particle, 3)
        lengths = 0.3 + lengths
        borders = np.concatenate([[0.0], np.cumsum(lengths) / lengths.sum()]) * view.n
        at = np.arange(view.n)
        sector = np.clip(np.searchsorted(borders, at, side="right") - 1, 0, len(begin) - 1)
        share = (at - borders[sector]) / np.maximum(np.diff(borders)[sector], 1e-9)
        depth_share = begin[sector] + share * (np.minimum(end, begin)[sector] - begin[sector])
        low = max(float(np.nanmin(view.wed_mm[:, 0])), float(view.range_mm[0]))
        high = float(np.nanmax(view.wed_mm[:, 1]))
        return _falling(view, view.nearest(low + depth_share * (high - low)), sector)

    def _fitness(self, view: ArcView, sequence: np.ndarray) -> float:
        covered = min(view.covered(sequence, s) for s in (1.0, 0.965, 1.035))
        slowest = view.sequencing.switch_s.max() * view.n
        switching = view.sequencing.switching_s(sequence)
        return covered - self.time_weight * switching / max(slowest, 1e-9)


def _falling(view: ArcView, sequence: np.ndarray, sector: np.ndarray) -> np.ndarray:
    """Layers that fall at every step of a sector where a lower valid one is there."""
    layers = sequence.copy()
    for d in range(1, len(layers)):
        if sector[d] != sector[d - 1] or layers[d] < 0 or layers[d - 1] < 0:
            continue
        lower = view.layers_at[d][view.layers_at[d] < layers[d - 1]]
        if layers[d] >= layers[d - 1] and len(lower):
            layers[d] = lower[-1]
    return layers
