"""Following histories until a dose is known well enough, and what is known then."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.dose.monte_carlo._histories import GROUP, Beams, dose_block
from engine.dose.monte_carlo._random import normal_quantiles
from engine.dose.monte_carlo._transport import QUANTA_PER_MEV, Physics
from engine.dose.monte_carlo.records import Records
from engine.dose.monte_carlo.source import beams_of, spot_rows
from engine.dose.monte_carlo.tables import Processes, physics_tables
from engine.dose.progress import Progress
from engine.errors import PhysicsWarning
from engine.geometry.plan import Plan
from engine.geometry.scenarios import Scenario
from engine.parallel import run_blocks, threads
from engine.patient.ct import Calibration
from engine.patient.grid import Grid
from engine.patient.medium import medium_of, on_grid
from engine.patient.patient import Patient
from engine.physics.constants import GY_G_PER_MEV

MAX_HISTORIES = 10**10  # 64-bit sums of squares hold more while a voxel stops less than 15 MeV
FIRST_HISTORIES = 4 * GROUP
GROWTH = 4.0  # of the number of histories from one look at the uncertainty to the next
HIGH_DOSE = 0.5  # of the maximum: voxels whose uncertainty counts
LEAST_DENSITY_G_CM3 = 0.05  # thinner voxels, air, see too few collisions to judge by
GOLDEN = 0.6180339887498949  # times the seed, modulo 1: sequences of spots start far apart


@dataclass(frozen=True)
class StopAt:
    """When to stop: a number of histories, or else an uncertainty within a largest number."""

    n_histories: int | None
    uncertainty_percent: float
    max_histories: int


@dataclass(frozen=True)
class Balance:
    """Where the energy of all histories went, in MeV per history.

    ``started_mev`` + ``straggled_mev`` is the sum of the others: straggling changes the energy of
    a proton without a deposit, which cancels on average.
    """

    started_mev: float
    patient_mev: float
    devices_mev: float
    left_mev: float
    neutral_mev: float  # neutrons, photons and binding energy
    straggled_mev: float

    @classmethod
    def of(cls, quanta: np.ndarray, n_histories: int) -> "Balance":
        """From the kernels' columns (n_blocks, 6)."""
        return cls(*(quanta.sum(axis=0) / QUANTA_PER_MEV / max(n_histories, 1)))


@dataclass(frozen=True, eq=False)
class Simulated:
    """Quantities (nz, ny, nx) float32 by name, and what they rest on."""

    quantities: dict[str, np.ndarray]
    n_histories: int
    uncertainty_percent: float  # mean standard error above half the maximum
    balance: Balance


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything the kernels need but the weights."""

    grid: Grid
    density_g_cm3: np.ndarray  # (n_voxels,) float32
    material: np.ndarray  # (n_voxels,) uint8
    lower_mm: np.ndarray  # (3,) corner of the grid, x, y, z
    spots: np.ndarray  # (n_spots, n_columns), see ``spot_rows``
    beams: Beams
    physics: Physics
    to_water: bool
    primaries_only: bool

    @classmethod
    def of(
        cls, patient: Patient, plan: Plan, grid: Grid, scenario: Scenario,
        calibration: Calibration, i_water_ev: float, processes: Processes, to_water: bool,
        primaries_only: bool,
    ) -> "Setup":  # fmt: skip
        medium = on_grid(medium_of(patient, calibration, scenario.density_scale), grid)
        beams, of_devices = beams_of(plan, scenario, len(medium.materials))
        materials = (*medium.materials, *of_devices)
        return cls(
            grid, medium.density_g_cm3.ravel(), medium.material.ravel(), grid.lower_mm,
            spot_rows(plan), beams, physics_tables(materials, i_water_ev, processes), to_water,
            primaries_only,
        )  # fmt: skip

    @property
    def gy_per_mev(self) -> np.ndarray:
        """Dose of one MeV in every voxel, (n_voxels,); 0 in vacuum."""
        mass_g = self.density_g_cm3.astype(np.float64) * self.grid.voxel_volume_cm3
        return np.divide(GY_G_PER_MEV, mass_g, out=np.zeros(mass_g.shape), where=mass_g > 0.0)


def simulate(
    setup: Setup, weights: np.ndarray, stop: StopAt, seed: int, quantities: Sequence[str],
    progress: Callable[[Progress], None] | None,
) -> Simulated:  # fmt: skip
    """Dose of all spots with their weights in particles of one fraction."""
    tally = _Tally.empty(setup, weights, "letd" in quantities)
    if not tally.total_weight > 0.0:
        zeros = {q: np.zeros(setup.grid.shape, np.float32) for q in quantities}
        return Simulated(zeros, 0, 0.0, Balance.of(tally.balances, 0))
    wanted = stop.n_histories or FIRST_HISTORIES
    while True:
        _advance(tally, wanted, stop, seed, progress)
        tally.warn_if_lost()
        uncertainty = tally.uncertainty_percent()
        if stop.n_histories is not None or uncertainty <= stop.uncertainty_percent:
            break
        wanted = _next_number(tally.n_histories, uncertainty, stop)
    named = {q: tally.quantity(q) for q in quantities}
    return Simulated(
        named, tally.n_histories, uncertainty, Balance.of(tally.balances, tally.n_histories)
    )


def _advance(
    tally: "_Tally", wanted: int, stop: StopAt, seed: int,
    progress: Callable[[Progress], None] | None,
) -> None:  # fmt: skip
    """Histories up to ``wanted``, in parts that a progress bar can follow."""
    while tally.n_histories < wanted:
        part = wanted - tally.n_histories
        if progress is not None:
            part = min(part, max(FIRST_HISTORIES, wanted // 50 // GROUP * GROUP))
        tally.follow(part, seed)
        if progress is not None:
            now = tally.uncertainty_percent()
            expected = stop.n_histories or _expected(tally.n_histories, now, stop)
            progress(Progress(tally.n_histories, expected, uncertainty_percent=now))


def _expected(n: int, uncertainty: float, stop: StopAt) -> int:
    """Histories that the wanted uncertainty will take, by the inverse square root."""
    if uncertainty <= stop.uncertainty_percent:
        return n
    return int(min(n * (uncertainty / stop.uncertainty_percent) ** 2, 1e18))


def _next_number(n: int, uncertainty: float, stop: StopAt) -> int:
    expected = _expected(n, uncertainty, stop)
    if expected > stop.max_histories:
        raise ValueError(
            f"uncertainty_percent={stop.uncertainty_percent:g} would take about {expected:.1e} "
            f"histories ({uncertainty:.3g} % after {n}), beyond max_histories="
            f"{stop.max_histories:.1e}; ask for less, or allow more."
        )
    ahead = int(min(1.03 * expected, GROWTH * n))
    return max(n + GROUP, -(-ahead // GROUP) * GROUP)


@dataclass(eq=False)
class _Tally:
    """Sums of the histories so far; records hold one set for every block of threads."""

    setup: Setup
    total_weight: float
    reaches: np.ndarray  # (n_spots,) summed shares of the weight
    records: Records  # (n_blocks, n_voxels)
    lets: np.ndarray  # (n_blocks, n_voxels, 2) int64: energy, and energy times LET; or empty
    balances: np.ndarray  # (n_blocks, 6) int64
    n_histories: int = 0

    @classmethod
    def empty(cls, setup: Setup, weights: np.ndarray, with_let: bool) -> "_Tally":
        n_blocks, n_voxels = threads(), setup.grid.size
        total = float(np.sum(weights))
        return cls(
            setup, total, np.cumsum(weights) / (total or 1.0),
            Records.of(setup.density_g_cm3, setup.material, n_blocks),
            np.zeros((n_blocks, n_voxels if with_let else 0, 2), np.int64),
            np.zeros((n_blocks, 6), np.int64),
        )  # fmt: skip

    def follow(self, n: int, seed: int) -> None:
        """The next ``n`` histories; all but the last call take multiples of GROUP."""
        setup, records, n_blocks = self.setup, self.records, len(self.balances)
        run_blocks(
            dose_block, n_blocks, n_blocks, self.n_histories, n, np.uint64(seed),
            (GOLDEN * (seed % 2**32 + 1)) % 1.0, self.reaches, setup.spots, records.longs,
            records.ints, records.floats, setup.grid.shape, setup.grid.spacing_mm, setup.lower_mm,
            setup.beams, setup.physics, setup.to_water, self.lets.shape[1] > 0,
            setup.primaries_only, normal_quantiles(), self.lets, self.balances,
        )  # fmt: skip
        self.n_histories += n

    def energy(self) -> np.ndarray:
        """(n_voxels,) MeV of all histories."""
        return self.records.energy_mev()

    def error(self) -> np.ndarray:
        """(n_voxels,) MeV: standard error of ``energy``, history by history."""
        n, total = self.n_histories, self.energy()
        squares = self.records.squares_mev2()
        variance = np.maximum(squares - total * total / n, 0.0) * n / max(n - 1, 1)
        return np.sqrt(variance) if n > 1 else np.full(total.shape, np.nan)

    def uncertainty_percent(self) -> float:
        """Mean standard error over the voxels above half the maximum; 0 where there is no dose."""
        dose, error = self.energy() * self.setup.gy_per_mev, self.error() * self.setup.gy_per_mev
        dense = self.setup.density_g_cm3 >= LEAST_DENSITY_G_CM3
        if not (dense & (dose > 0.0)).any():
            dense = dose > 0.0
            if not dense.any():
                return 0.0
        high = dense & (dose >= HIGH_DOSE * dose[dense].max())
        return 100.0 * float(np.mean(error[high] / dose[high]))

    def quantity(self, name: str) -> np.ndarray:
        """One quantity (nz, ny, nx) float32."""
        if name == "letd":
            dose, product = self.lets.sum(axis=0).T.astype(np.float64)
            values = np.divide(product, dose, out=np.zeros(dose.shape), where=dose > 0.0)
        else:
            energy = self.energy() if name == "dose" else self.error()
            values = energy * self.setup.gy_per_mev * (self.total_weight / self.n_histories)
        return values.astype(np.float32).reshape(self.setup.grid.shape)

    def warn_if_lost(self) -> None:
        """Say why there is no dose, where there is none."""
        started, patient, devices = self.balances.sum(axis=0)[:3]
        if patient > 1e-6 * started:
            return
        stopped = devices > 0.5 * started
        why = (
            "all protons stop in the range shifter or aperture; choose a thinner one, or more "
            "energy"
            if stopped
            else "every spot misses the patient; check the isocenter and the angles"
        )
        warnings.warn(f"the dose is zero: {why}.", PhysicsWarning, stacklevel=4)
