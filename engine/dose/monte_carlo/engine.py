"""The Monte Carlo proton engine, after Janson et al., Med. Dosim. (2024): the judge of the others.

Modelled: primary protons and secondary protons, deuterons and alphas by class II condensed
history; stopping along every voxel crossing (Bethe, with PSTAR's low-energy corrections in water
and the ratio of Bethe's formulas between materials); Gaussian straggling (Bohr, relativistic);
multiple Coulomb scattering as a soft Gaussian plus single scatterings one by one, electrons after
Fano; non-elastic reactions and elastic scattering off nuclei from ICRU 63's tables, elastic
scattering off hydrogen; energy spectrum, phase space with a second Gaussian, virtual sources,
range shifters and block apertures.

Not modelled: δ-electrons (their energy stays in the voxel); Vavilov's skewed straggling; neutrons,
photons, ³H, ³He (they leave) and the flight of heavier recoils (they stay); correlations between
the particles of one reaction, whose energy is conserved on average only; nuclear reactions of
deuterons and alphas; nuclear scattering below 5°; reactions below 3 MeV, multiple scattering and
straggling below 8 MeV (per nucleon); the air between nozzle and patient, which is vacuum. Elements
without a table follow the nearest in mass; where none is near, traces of up to 1 % do not react.
Cut-offs: particles stop at zero range; secondaries whose range is below 0.05 mm of water stay where
they are made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from engine.dose.checks import check_asked
from engine.dose.influence import InfluenceMatrix
from engine.dose.monte_carlo.columns import influence_columns
from engine.dose.monte_carlo.simulation import (
    MAX_HISTORIES,
    Setup,
    Simulated,
    StopAt,
    simulate,
)
from engine.dose.monte_carlo.tables import Processes
from engine.dose.progress import Progress
from engine.dose.voxels import body_voxels, checked_voxels
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.ion import IonMachine
from engine.patient.ct import Calibration, SchneiderCalibration
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient
from engine.physics.materials import I_WATER_EV, LIMITS_I_WATER_EV

Scored = Literal["dose to water", "dose to medium"]
QUANTITIES = ("dose", "dose_error", "letd")
MAX_SEED = 2**63 - 1
MAX_ENTRY_CUTOFF = 0.1  # more would leave a spot little but its axis


@dataclass(frozen=True)
class MonteCarloEngine:
    """Dose by following protons one by one; the grid of the dose is the grid of the transport.

    A dose ends with ``n_histories``, or, where that is None, once the standard error, averaged in
    percent over the voxels above half the maximum (0.05 g/cm³ or denser), is at most
    ``uncertainty_percent``; more than ``max_histories`` are refused before they are begun.
    An influence matrix follows ``histories_per_spot`` for every spot and keeps entries above
    ``entry_cutoff`` of the spot's maximum; of the smaller ones some are kept at that value, by
    chance, so that sums stay right. One ``seed`` gives one dose, bit for bit, whatever the threads.

    Switches: ``straggling``, ``scattering``, ``non_elastic``, ``nuclear_elastic``,
    ``proton_proton``. ``scored_particles`` "primaries" leaves out what reactions set free.
    ``progress`` is called between batches.
    """

    n_histories: int | None = None
    uncertainty_percent: float = 1.0
    max_histories: int = 1_000_000_000
    histories_per_spot: int = 10_000
    entry_cutoff: float = 1e-3
    seed: int = 0
    scores: Scored = "dose to water"
    scored_particles: Literal["all", "primaries"] = "all"
    i_water_ev: float = I_WATER_EV
    straggling: bool = True
    scattering: bool = True
    non_elastic: bool = True
    nuclear_elastic: bool = True
    proton_proton: bool = True
    calibration: Calibration = field(default_factory=SchneiderCalibration)
    progress: Callable[[Progress], None] | None = None
    influence_is_estimate = True  # no field: a final dose deserves histories of its own
    quantities = QUANTITIES

    def __post_init__(self):
        _check_settings(self)

    def like(self, medium: KnownMedium, nuclear: bool, scored: Scored) -> "MonteCarloEngine":
        """The same engine in a known medium, with its water's mean excitation energy.

        Without ``nuclear`` its three switches go off; with it, what was switched off stays off.
        """
        return replace(
            self, calibration=medium, i_water_ev=medium.i_water_ev, scores=scored,
            non_elastic=self.non_elastic and nuclear,
            nuclear_elastic=self.nuclear_elastic and nuclear,
            proton_proton=self.proton_proton and nuclear,
        )  # fmt: skip

    def dose(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        beam: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Per quantity (nz, ny, nx) float32, of one fraction: "dose" in Gy, its standard error
        "dose_error" in Gy, "letd" in keV/µm of water, of all protons scored.

        ValueError where plan, quantities or image do not fit, where a material has no cross
        sections, devices overlap, or the uncertainty is out of reach. A plan whose protons do not
        arrive gives zeros and a PhysicsWarning.
        """
        return self.simulate(patient, plan, grid, scenario, quantities, beam).quantities

    def simulate(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        beam: int | None = None,
    ) -> Simulated:
        """``dose`` with what it rests on: histories, uncertainty, where the energy went."""
        plan = plan if beam is None else plan.part(beam, beam + 1)
        _check(plan, scenario, quantities, QUANTITIES)
        stop = StopAt(self.n_histories, self.uncertainty_percent, self.max_histories)
        setup = self._setup(patient, plan, grid, scenario)
        return simulate(setup, plan.weights, stop, self.seed, quantities, self.progress)

    def influence(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        voxels: np.ndarray | None = None,
    ) -> InfluenceMatrix:
        """Gy per particle of one fraction in ``voxels`` (flat indices of ``grid``, ascending).

        ValueError as ``dose``; spots that do not arrive are empty columns and a PhysicsWarning.
        """
        _check(plan, scenario, quantities, ("dose",))
        voxels = body_voxels(patient, grid) if voxels is None else checked_voxels(voxels, grid)
        return influence_columns(
            self._setup(patient, plan, grid, scenario), plan, voxels, self.histories_per_spot,
            self.entry_cutoff, self.seed, self.progress,
        )  # fmt: skip

    @property
    def processes(self) -> Processes:
        return Processes(
            self.straggling, self.scattering, self.non_elastic, self.nuclear_elastic,
            self.proton_proton,
        )  # fmt: skip

    def _setup(self, patient: Patient, plan: Plan, grid: Grid, scenario: Scenario) -> Setup:
        return Setup.of(
            patient, plan, grid, scenario, self.calibration, self.i_water_ev, self.processes,
            self.scores == "dose to water", self.scored_particles == "primaries",
        )  # fmt: skip


def _check_settings(engine: MonteCarloEngine) -> None:
    for name in ("n_histories", "max_histories", "histories_per_spot"):
        if getattr(engine, name) is not None or name != "n_histories":
            _take_whole(engine, name, 1, MAX_HISTORIES, "protons")
    _take_whole(engine, "seed", 0, MAX_SEED, "")
    percent = engine.uncertainty_percent
    if not (isinstance(percent, (int, float)) and 0.0 < percent <= 100.0):
        raise ValueError(
            f"uncertainty_percent={percent!r} must lie above 0 and within 100; 0.5 to 1 percent is "
            "usual for a final dose."
        )
    _refuse_outside(engine, "entry_cutoff", (0.0, MAX_ENTRY_CUTOFF), "1e-3 is usual")
    _refuse_outside(
        engine, "i_water_ev", LIMITS_I_WATER_EV, "75 eV (ICRU 49) and 78 eV (ICRU 90) are usual"
    )
    own_ev = getattr(engine.calibration, "i_water_ev", engine.i_water_ev)
    if own_ev != engine.i_water_ev:
        raise ValueError(
            f"calibration solves its densities for i_water_ev={own_ev:g}, the engine has "
            f"i_water_ev={engine.i_water_ev:g}: ranges would be off; give both the same."
        )
    for name, known in (
        ("scores", ("dose to water", "dose to medium")), ("scored_particles", ("all", "primaries")),
    ):  # fmt: skip
        if getattr(engine, name) not in known:
            raise ValueError(
                f"{name}={getattr(engine, name)!r} is unknown; choose {known[0]!r} or {known[1]!r}."
            )


def _refuse_outside(
    engine: MonteCarloEngine, name: str, limits: tuple[float, float], usual: str
) -> None:
    value, (low, high) = getattr(engine, name), limits
    if not (isinstance(value, (int, float)) and low <= value <= high):
        raise ValueError(f"{name}={value!r} must lie in {low:g} … {high:g}; {usual}.")


def _take_whole(engine: MonteCarloEngine, name: str, least: int, most: int, unit: str) -> None:
    """A field as an int, be it given as 1e6; anything that is no whole number is refused."""
    value = getattr(engine, name)
    numeric = isinstance(value, (int, float, np.integer)) and not isinstance(value, bool)
    if not (numeric and least <= value <= most and value == int(value)):
        raise ValueError(
            f"{name}={value!r} must be a whole number from {least} to {most:.1e} {unit}".rstrip()
            + "."
        )
    object.__setattr__(engine, name, int(value))


def _check(plan: Plan, scenario: Scenario, quantities: Sequence[str], known: tuple) -> None:
    check_asked(plan, scenario, quantities, known, "Monte Carlo")
    if not (isinstance(plan.machine, IonMachine) and plan.machine.charge == 1):
        raise ValueError(
            f"machine={plan.machine.name!r} has no protons, and Monte Carlo follows nothing else; "
            "take generic_proton, or dose=pencil_beam for other ions."
        )
    if np.any(plan.weights < 0.0) or not np.all(np.isfinite(plan.weights)):
        raise ValueError("weights of the plan must be finite and 0 or more.")
