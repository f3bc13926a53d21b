"""How long a plan takes: layer switching, beam-on and gantry motion.

Switching times are of a cyclotron with a slow way up (IBA ProteusONE, 5.5 s up and 0.6 s down: Liu
et al. 2020, Wuyckens et al. 2022; Yang et al. 2025 imply 5.7 and 0.7 s) unless another table is
given. Spots take the longer of settling and travel, and a dwell by their protons (8 m/s, 250 µs at
least: OpenTPS). A dynamic arc shoots while it turns: every angle takes the longer of its motion
and its switching plus beam-on; a static one takes their sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.geometry.plan import Plan
from engine.machine.ion import IonMachine

SYNCHROTRON_S = 1.91  # both ways, Hitachi (Shen et al., Med. Phys. 44 (2017) 5083)
PROTONS_PER_MU = 1.0e8  # near 125 MeV (MCsquare's default machine)
CARBON_PER_S, CARBON_SPOT_WEIGHT = 5e7, 2e5


@dataclass(frozen=True, eq=False)
class SwitchingTable:
    """Seconds (E, E) from each energy (row) to each other (column); E energies in MeV, rising."""

    energy_mev: np.ndarray
    seconds: np.ndarray

    def __post_init__(self):
        energy = np.asarray(self.energy_mev, np.float64)
        seconds = np.asarray(self.seconds, np.float64)
        if energy.ndim != 1 or not len(energy) or np.any(np.diff(energy) <= 0):
            raise ValueError("energy_mev must be a rising list of one energy or more.")
        if seconds.shape != (len(energy),) * 2:
            raise ValueError(
                f"the switching table has shape {seconds.shape}; {len(energy)} energies need "
                f"{len(energy)} × {len(energy)} times."
            )
        if not np.all(np.isfinite(seconds)) or seconds.min() < 0:
            raise ValueError("switching times must be finite and 0 or more seconds.")
        if np.any(np.diag(seconds) != 0):
            raise ValueError("an unchanged energy must take 0 s: the table's diagonal is not 0.")
        object.__setattr__(self, "energy_mev", energy)
        object.__setattr__(self, "seconds", seconds)

    @classmethod
    def flat(cls, energy_mev, up_s: float = 5.5, down_s: float = 0.6) -> "SwitchingTable":
        """One time up and one down, whatever the distance."""
        return cls.linear(energy_mev, up_s, down_s, 0.0)

    @classmethod
    def linear(
        cls, energy_mev, up_s: float = 5.5, down_s: float = 0.6, s_per_mev: float = 0.0
    ) -> "SwitchingTable":
        """A time up and one down, and a term for every MeV between the energies."""
        energy = np.asarray(energy_mev, np.float64)
        step = energy[None, :] - energy[:, None]
        times = np.where(step > 0, up_s, down_s) + s_per_mev * np.abs(step)
        return cls(energy, np.where(step == 0, 0.0, times))

    @classmethod
    def synchrotron(cls, energy_mev, switch_s: float = SYNCHROTRON_S) -> "SwitchingTable":
        """The same time both ways."""
        return cls.linear(energy_mev, switch_s, switch_s, 0.0)

    @classmethod
    def of_machine(cls, machine: IonMachine, layers=None) -> "SwitchingTable":
        """The machine's own times, on all its energies or on the ``layers`` (E,) named."""
        energy = machine.energy_mev if layers is None else machine.energy_mev[layers]
        return cls.flat(energy, machine.switch_up_s, machine.switch_down_s)

    def between(self, before_mev: float, after_mev: float) -> float:
        """Seconds from one energy of the table to another."""
        return float(self.seconds[self._index(before_mev), self._index(after_mev)])

    def _index(self, energy_mev: float) -> int:
        nearest = int(np.abs(self.energy_mev - energy_mev).argmin())
        if abs(self.energy_mev[nearest] - energy_mev) > 1e-3:
            raise ValueError(
                f"energy {energy_mev} MeV is not in the switching table of "
                f"{self.energy_mev[0]:g}–{self.energy_mev[-1]:g} MeV; make one for the plan's."
            )
        return nearest


@dataclass(frozen=True, eq=False)
class DeliveryTime:
    """Seconds of a delivery and its parts; arrays by angle (G,), in order of delivery.

    ``total_s`` is less than the parts' sum where the gantry turns while the beam is on.
    """

    total_s: float
    switching_s: np.ndarray
    dwell_s: np.ndarray
    travel_s: np.ndarray  # between spots: settling or scanning
    gantry_s: np.ndarray
    n_up: int
    n_down: int
    n_unchanged: int

    @property
    def beam_on_s(self) -> np.ndarray:
        return self.dwell_s + self.travel_s


@dataclass(frozen=True)
class DeliveryModel:
    """Speeds of gantry, scanning and beam current.

    ``spot_weight`` is the particles that a spot is taken to have before its weight is known: 0.1 MU
    of protons. ``particles_per_s`` is 0.01 s per MU of them near 100 MeV (OpenTPS).
    """

    gantry_deg_per_s: float = 6.0
    settling_s: float = 0.003
    scan_mm_per_s: float = 8000.0
    particles_per_s: float = 100.0 * PROTONS_PER_MU
    least_dwell_s: float = 250e-6
    spot_weight: float = 0.1 * PROTONS_PER_MU
    delivery: Literal["dynamic", "static"] = "dynamic"

    @classmethod
    def of_machine(cls, machine: IonMachine, **settings) -> "DeliveryModel":
        """With the current that the machine's particles come in; settings override.

        Carbon ions from a synchrotron: some 10⁷ to 10⁸ a second, and some 10⁵ a spot (from memory;
        a convention of this package, not a measurement).
        """
        carbon = {"particles_per_s": CARBON_PER_S, "spot_weight": CARBON_SPOT_WEIGHT}
        return cls(**{**(carbon if machine.charge > 1 else {}), **settings})

    def __post_init__(self):
        for name in ("gantry_deg_per_s", "scan_mm_per_s", "particles_per_s"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be positive.")
        for name in ("settling_s", "least_dwell_s", "spot_weight"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} must be 0 or more.")
        if self.delivery not in ("dynamic", "static"):
            raise ValueError(f"delivery={self.delivery!r} is unknown; dynamic or static.")

    def gantry_s(self, angles_deg: Sequence[float]) -> np.ndarray:
        """Rotation (G,) to each angle from the one before, the short way; 0 for the first."""
        turn = np.abs(np.diff(np.asarray(angles_deg, np.float64))) % 360.0
        return np.concatenate([[0.0], np.minimum(turn, 360.0 - turn) / self.gantry_deg_per_s])

    def beam_on_s(self, n_spots: np.ndarray) -> np.ndarray:
        """Of layers whose weights are not known yet: spots of ``spot_weight``, settling each."""
        dwell = max(self.spot_weight / self.particles_per_s, self.least_dwell_s)
        return np.asarray(n_spots, np.float64) * (dwell + self.settling_s)

    def time(self, plan: Plan, table: SwitchingTable | None = None) -> DeliveryTime:
        """Delivery of a plan, beam by beam and layer by layer; spots without weight are left out.

        ``table`` is the machine's own by default. The first layer costs no switch.
        """
        table = SwitchingTable.of_machine(plan.machine) if table is None else table
        n = len(plan.beams)
        switching, dwell, travel = np.zeros((3, n))
        counts, before = [0, 0, 0], None
        for beam, energy, spots in _layers(plan):
            if before is not None:
                switching[beam] += table.between(before, energy)
                counts[0 if energy > before else 1 if energy < before else 2] += 1
            dwell[beam] += self._dwell_s(plan.weights[spots])
            travel[beam] += self._travel_s(plan.u_mm[spots], plan.v_mm[spots])
            before = energy
        gantry = self.gantry_s([beam.gantry_deg for beam in plan.beams])
        busy = switching + dwell + travel
        angle_s = np.maximum(gantry, busy) if self.delivery == "dynamic" else gantry + busy
        return DeliveryTime(float(angle_s.sum()), switching, dwell, travel, gantry, *counts)

    def _dwell_s(self, weights: np.ndarray) -> float:
        return float(np.maximum(weights / self.particles_per_s, self.least_dwell_s).sum())

    def _travel_s(self, u_mm: np.ndarray, v_mm: np.ndarray) -> float:
        """Line by line, every other one backwards, as the spots are sorted."""
        path = np.hypot(np.diff(_there_and_back(u_mm, v_mm)), np.diff(v_mm))
        return float(self.settling_s + np.maximum(path / self.scan_mm_per_s, self.settling_s).sum())


def _layers(plan: Plan):
    """Beam, energy in MeV and spots with weight of every layer that has any."""
    starts = plan.layer_starts()
    for a, b in zip(starts, starts[1:]):
        spots = a + np.flatnonzero(plan.weights[a:b] > 0)
        if len(spots):
            energy = float(plan.machine.energy_mev[plan.spot_energy[a]])
            yield int(plan.spot_beam[a]), energy, spots


def _there_and_back(u_mm: np.ndarray, v_mm: np.ndarray) -> np.ndarray:
    """u of the spots when every other line is scanned backwards."""
    line = np.concatenate([[0], np.cumsum(np.diff(v_mm) != 0)])
    back = line % 2 == 1
    turned = u_mm.astype(np.float64).copy()
    order = np.lexsort((np.where(back, -u_mm, u_mm), line))
    return turned[order]
