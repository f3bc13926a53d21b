"""Dose shaping on fluence maps: what the algorithm of Ziegenhein et al. 2016 asks of them.

The paper takes K, the lateral importance of an amplitude, from its second kernel component. In a
decomposition by singular values that one has both signs; K here is the lateral profile of an
amplitude's dose at 10 cm of depth, penumbra included.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.dose.photon_svd.update import FluenceMaps
from engine.optimization.shaping_model import NARROWEST, Projection

PROFILE_DEPTH_MM = 100.0
CONTROL = 5  # amplitudes a side that one value of the travelling path information stands for


@dataclass(frozen=True, eq=False)
class FluenceDose:
    """Fluence maps as ``ShapedDose``; ``target_share``, ``organ_share`` (n_rows,) are 0 … 1."""

    maps: FluenceMaps
    target_share: np.ndarray
    organ_share: np.ndarray

    @property
    def n_rows(self) -> int:
        return self.maps.n_rows

    @property
    def n_amplitudes(self) -> int:
        return self.maps.plan.n_spots

    @property
    def n_beams(self) -> int:
        return self.maps.n_beams

    @property
    def n_entries(self) -> int:
        return self.n_rows * self.n_amplitudes

    @cached_property
    def beam_of(self) -> np.ndarray:
        return self.maps.plan.spot_beam.astype(np.int64)

    @cached_property
    def unit(self) -> np.ndarray:
        return np.ones(self.n_amplitudes, np.float32)

    def dose(self, weights: np.ndarray) -> np.ndarray:
        return self.maps.dose(weights)

    def add(self, dose: np.ndarray, amplitudes: np.ndarray, change: np.ndarray) -> int:
        self.maps.add(dose, amplitudes, change)
        return len(amplitudes) * self.n_rows

    def path(self, organs: bool) -> np.ndarray:
        return self._paths[int(organs)]

    @cached_property
    def _paths(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self._path(share) for share in (self.target_share, self.organ_share))

    def _path(self, share: np.ndarray) -> np.ndarray:
        """Σ D_1(l) over the voxels of every control point's column, per amplitude."""
        maps, path = self.maps, np.zeros(self.n_amplitudes)
        inside = np.flatnonzero(share)
        for beam in range(self.n_beams):
            part = maps.plan.beam_slice(beam)
            u, v = maps.amplitude_u[part], maps.amplitude_v[part]
            if not len(u):
                continue
            first = np.array([u.min(), v.min()])
            n_u, n_v = (int(np.ptp(a)) // CONTROL + 1 for a in (u, v))
            depth_dose = maps.components[beam, inside] @ maps.lateral[0, 0] * share[inside]
            cu = np.floor((maps.u[beam, inside] - first[0] + 0.5) / CONTROL).astype(np.int64)
            cv = np.floor((maps.v[beam, inside] - first[1] + 0.5) / CONTROL).astype(np.int64)
            seen = (cu >= 0) & (cv >= 0) & (cu < n_u) & (cv < n_v)
            cell = np.bincount(cu[seen] * n_v + cv[seen], depth_dose[seen], n_u * n_v)
            path[part] = cell[((u - first[0]) // CONTROL) * n_v + (v - first[1]) // CONTROL]
        return path

    @cached_property
    def _profile(self) -> np.ndarray:
        """K at lattice offsets of a quadrant, (n, n), as far as it is above ``NARROWEST``."""
        at_depth = self.maps.plan.machine.depth_at(np.array([PROFILE_DEPTH_MM]))[0]
        profile = self.maps.lateral @ at_depth
        profile = profile / profile[0, 0]
        n = int(np.argmax(profile[:, 0] < NARROWEST)) + 2
        return profile[:n, :n]

    @cached_property
    def _places(self) -> tuple[tuple[int, int, np.ndarray], ...]:
        """Of every beam: first u and v, and the amplitude at each place of its map, −1 for none."""
        places = []
        for beam in range(self.n_beams):
            part = self.maps.plan.beam_slice(beam)
            u, v = self.maps.amplitude_u[part], self.maps.amplitude_v[part]
            u0, v0 = (int(a.min()) if len(a) else 0 for a in (u, v))
            at = np.full((int(np.ptp(u)) + 1, int(np.ptp(v)) + 1) if len(u) else (0, 0), -1)
            at[u - u0, v - v0] = np.arange(part.start, part.stop)
            places.append((u0, v0, at))
        return tuple(places)

    def projection(self, row: int) -> Projection:
        parts = [self._projected(beam, int(row)) for beam in range(self.n_beams)]
        return Projection(*(np.concatenate(arrays) for arrays in zip(*parts)))

    def _projected(self, beam: int, row: int) -> Projection:
        maps, (u0, v0, at) = self.maps, self._places[beam]
        u, v = float(maps.u[beam, row]), float(maps.v[beam, row])
        step = maps.table_step
        reach = (len(self._profile) - 1) / step
        i, j = (_within(x - x0, reach, n) for x, x0, n in zip((u, v), (u0, v0), at.shape))
        if not len(i) or not len(j):
            return Projection(np.empty(0, np.int64), np.empty(0), np.empty(0))
        du, dv = np.abs(i + u0 - u) * step, np.abs(j + v0 - v) * step
        lateral = _bilinear(self._profile[:, :, None], du, dv)[:, :, 0]
        gy = _bilinear(maps.lateral, du, dv) @ maps.components[beam, row]
        amplitudes = at[np.ix_(i, j)]
        near = (lateral >= NARROWEST) & (amplitudes >= 0)
        chosen = amplitudes[near]
        return Projection(chosen, lateral[near], gy[near] * maps.fluence[chosen])


def _within(place: float, reach: float, n: int) -> np.ndarray:
    """Indices of 0 … n − 1 within ``reach`` of a place."""
    return np.arange(max(int(np.ceil(place - reach)), 0), min(int(np.floor(place + reach)) + 1, n))


def _bilinear(table: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
    """Values (n_i, n_j, n) of a table at offsets du (n_i,), dv (n_j,) in its nodes."""
    n = len(table) - 2
    i, j = np.minimum(du.astype(np.int64), n), np.minimum(dv.astype(np.int64), n)
    a, b = (du - i)[:, None, None], (dv - j)[None, :, None]
    at = [[table[np.ix_(i + p, j + q)] for q in (0, 1)] for p in (0, 1)]
    return (at[0][0] * (1 - a) + at[1][0] * a) * (1 - b) + (at[0][1] * (1 - a) + at[1][1] * a) * b

