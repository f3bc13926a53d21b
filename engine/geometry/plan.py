"""Beams and spots: what is delivered, from where, with how many particles."""

from dataclasses import dataclass, field, replace

import numpy as np

from engine.machine.ion import IonMachine
from engine.machine.photon import PhotonMachine


@dataclass(frozen=True)
class Aperture:
    """A block with a hole: ``opening_mm`` are the corners (u, v) of a polygon at the block itself.

    ``exit_mm`` is the downstream face along the beam, measured from the isocenter, negative
    upstream. Around the opening the block is ``rim_mm`` wide; beyond, nothing holds protons up.
    """

    opening_mm: tuple[tuple[float, float], ...]
    exit_mm: float
    thickness_mm: float = 65.0
    material: str = "brass"
    rim_mm: float = 100.0

    def __post_init__(self):
        corners = np.asarray(self.opening_mm, dtype=float)
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
            raise ValueError(
                f"opening_mm={self.opening_mm!r} must be three or more corners (u, v) in mm."
            )
        if not np.all(np.isfinite(corners)) or not self.opening_cm2 > 0.0:
            raise ValueError(f"opening_mm={self.opening_mm!r} must be finite and enclose an area.")
        for name in ("thickness_mm", "rim_mm"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} of the aperture must be positive.")
        if not (np.isfinite(self.exit_mm) and self.exit_mm < 0.0):
            raise ValueError(
                f"exit_mm={self.exit_mm} of the aperture must be negative: a block stands upstream "
                "of the isocenter, before the skin."
            )

    @property
    def opening_cm2(self) -> float:
        """Area of the opening."""
        u, v = np.asarray(self.opening_mm, dtype=float).T
        return float(abs(np.sum(u * np.roll(v, -1) - v * np.roll(u, -1)))) / 200.0

    def bounds_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest (u, v) of the opening."""
        corners = np.asarray(self.opening_mm, dtype=float)
        return corners.min(axis=0), corners.max(axis=0)

    def contains(self, u_mm: np.ndarray, v_mm: np.ndarray) -> np.ndarray:
        """Whether points lie in the opening (even-odd rule); bool, broadcast shape."""
        corners = np.asarray(self.opening_mm, dtype=float)
        inside = np.zeros(np.broadcast(u_mm, v_mm).shape, bool)
        for (u0, v0), (u1, v1) in zip(corners, np.roll(corners, -1, axis=0)):
            if v0 == v1:
                continue
            crosses = (v0 > v_mm) != (v1 > v_mm)
            inside ^= crosses & (u_mm < u0 + (v_mm - v0) * (u1 - u0) / (v1 - v0))
        return inside


@dataclass(frozen=True)
class Beam:
    """One field, IEC 61217 angles in degrees, isocenter (x, y, z) in patient mm.

    ``range_shifter`` names one of the machine's, or is None. ``air_gap_mm`` is the distance from
    the range shifter's exit face to the first skin before the target; ``shifter_exit_mm`` is that
    face's position along the beam, measured from the isocenter, downstream positive (so it is
    negative); ``place_spots`` fills it in. Only Monte Carlo can treat an ``aperture``.
    """

    gantry_deg: float
    isocenter_mm: tuple[float, float, float] | None = None  # None: centroid of the targets
    couch_deg: float = 0.0
    range_shifter: str | None = None
    air_gap_mm: float = 50.0
    shifter_exit_mm: float | None = None
    aperture: Aperture | None = None

    def __post_init__(self):
        if not (np.isfinite(self.gantry_deg) and -360.0 <= self.gantry_deg <= 360.0):
            raise ValueError(f"gantry_deg={self.gantry_deg} must lie in -360 … 360 degrees.")
        if not (np.isfinite(self.couch_deg) and -360.0 <= self.couch_deg <= 360.0):
            raise ValueError(f"couch_deg={self.couch_deg} must lie in -360 … 360 degrees.")
        if self.isocenter_mm is not None and not (
            len(self.isocenter_mm) == 3 and np.all(np.isfinite(self.isocenter_mm))
        ):
            raise ValueError(
                f"isocenter_mm={self.isocenter_mm} must be three finite numbers x, y, z, or None."
            )
        if not (np.isfinite(self.air_gap_mm) and self.air_gap_mm >= 0):
            raise ValueError(f"air_gap_mm={self.air_gap_mm} must be 0 or more.")


@dataclass(frozen=True, eq=False)
class Plan:
    """Spots as flat arrays (n_spots,), sorted beam → layer (energy descending) → v → u.

    ``u_mm`` and ``v_mm`` are positions in the isocenter plane of the beam's eye view
    (see ``engine.geometry.coordinates``). ``weights`` are particles per fraction; of a photon
    machine the spots are bixels, and the weights monitor units per fraction.
    """

    machine: IonMachine | PhotonMachine
    beams: tuple[Beam, ...]
    spot_beam: np.ndarray  # uint16
    spot_energy: np.ndarray  # uint16, index into machine.energy_mev
    u_mm: np.ndarray  # float32
    v_mm: np.ndarray  # float32
    weights: np.ndarray = field(default=None)  # float64, zeros when not given

    def __post_init__(self):
        n = len(self.spot_beam)
        if self.weights is None:
            object.__setattr__(self, "weights", np.zeros(n))
        for name in ("spot_energy", "u_mm", "v_mm", "weights"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {n} spots.")
        if np.any(np.diff(self.spot_beam.astype(np.int64)) < 0):
            raise ValueError("spots must be sorted by beam.")
        if n and self.spot_beam[-1] >= len(self.beams):
            raise ValueError(
                f"spot_beam names beam {self.spot_beam[-1]}, the plan has {len(self.beams)} beams."
            )

    @property
    def n_spots(self) -> int:
        return len(self.spot_beam)

    def beam_slice(self, beam: int) -> slice:
        """Columns of one beam."""
        first, last = np.searchsorted(self.spot_beam, [beam, beam + 1])
        return slice(int(first), int(last))

    def part(self, first: int, stop: int) -> "Plan":
        """The plan of the beams ``first`` to ``stop`` − 1, which it counts from 0."""
        if not 0 <= first < stop <= len(self.beams):
            raise ValueError(
                f"beams {first} … {stop - 1} do not exist; the plan has {len(self.beams)} beams."
            )
        spots = slice(self.beam_slice(first).start, self.beam_slice(stop - 1).stop)
        return Plan(
            self.machine, self.beams[first:stop], (self.spot_beam[spots] - first).astype(np.uint16),
            self.spot_energy[spots], self.u_mm[spots], self.v_mm[spots], self.weights[spots],
        )  # fmt: skip

    def layer_starts(self) -> np.ndarray:
        """First spot of every layer, plus n_spots at the end, (n_layers + 1,)."""
        change = (np.diff(self.spot_beam.astype(np.int64)) != 0) | (
            np.diff(self.spot_energy.astype(np.int64)) != 0
        )
        return np.concatenate([[0], np.flatnonzero(change) + 1, [self.n_spots]]).astype(np.int64)

    def with_weights(self, weights: np.ndarray) -> "Plan":
        return replace(self, weights=np.asarray(weights, dtype=np.float64))
