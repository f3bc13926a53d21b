"""The deterministic proton engine, after Burlacu et al. 2024 (YODA), with nuclear interactions.

Every spot is split into beamlets, Gaussians so thin that matter hardly differs across them (paper,
section 2.3). Along each of them the Fokker–Planck equation gives spectrum, energy loss and LET in
the materials of its own ray; across them scattering gives the spread of Fermi–Eyges theory, with
the tail of single scatterings that Molière's theory has. What a beamlet loses per mm of water on
its own ray is dose to water wherever its Gaussian reaches (the paper's density scaling, equation
11); the paper leaves out nuclear interactions, and splits spots at the surface.

Modelled: slowing down with every material's own stopping power (Bragg additivity), Gaussian
straggling, path lengths that scattering makes longer, Molière's or Born's single scattering
averaged over the spectrum; absorption by non-elastic, p–p and nuclear-elastic interactions with
every material's own cross sections, and the dose of their products (protons, deuterons, alphas,
recoils), along depth and with their own lateral spread; range shifters, a second Gaussian of the
beam, two virtual sources; dose to water or medium, averaged over voxels; dose-averaged LET.

Not modelled: δ-electrons; Vavilov's skewed straggling; large angles of electromagnetic scattering
beyond the width of Molière's tail; the tail of what scatters in a range shifter, and more than one
angle of its secondaries over the gap behind it; matter that a proton meets after scattering from
one beamlet's ray to another's, but for the choice of the depth of splitting; spectra of secondary
protons, whose dose comes from kernels in water, scaled along each ray by water-equivalent depth and
by what its materials set free, but spread around the spot's axis alone; neutrons and photons;
apertures; the air between nozzle and CT, which is vacuum. Spots much wider than voxels (σ of 6 mm
and more, behind range shifters) need finer schemes than the default to resolve a patient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from engine.dose.checks import check_asked
from engine.dose.influence import MAX_PLACES_PER_BEAM, InfluenceMatrix
from engine.dose.progress import Progress
from engine.dose.voxels import body_voxels, checked_voxels
from engine.dose.yoda.layers import Physics
from engine.dose.yoda.solution import Counts, Setup
from engine.dose.yoda.splitting import RingScheme, scheme
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.ion import IonMachine
from engine.patient.ct import Calibration, SchneiderCalibration
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient
from engine.physics.materials import I_WATER_EV, LIMITS_I_WATER_EV
from engine.physics.moliere import MODELS

Scored = Literal["dose to water", "dose to medium"]
QUANTITIES = ("dose", "letd")
LIMITS = {  # what an argument may be, and what is usual
    "depth_step_mm": (0.1, 2.5, "1 mm"),
    "fokker_planck_step_mm": (0.1, 4.0, "2 mm of water"),
    "entry_cutoff": (0.0, 0.1, "1e-3"),
    "i_water_ev": (*LIMITS_I_WATER_EV, "75 eV (ICRU 49) or 78 eV (ICRU 90)"),
}


@dataclass(frozen=True)
class YodaEngine:
    """Dose by one Fokker–Planck solve per kind of materials on a beamlet's ray.

    ``scheme`` splits the spots of a dose, ``influence_scheme`` those of a matrix: beamlets per ring
    as "1+6+6+12+12+24", "1" for none, or a ``RingScheme``. If ``adaptive``, spots before which
    matter hardly differs are split less. ``depth_step_mm`` is the longest cell along a beamlet;
    ``fokker_planck_step_mm`` the water after which the solver takes a step, at most 1.5 standard
    deviations of the ranges. A matrix keeps entries above ``entry_cutoff`` of a spot's largest, and
    gathers smaller ones into some of that size. ``scattering`` is "moliere" or "born". ``progress``
    is called between spots.
    """

    depth_step_mm: float = 1.0
    scheme: str | RingScheme = "1+6+6+12+12+24"
    influence_scheme: str | RingScheme = "1+6+6+12"
    adaptive: bool = True
    scattering: Literal["moliere", "born"] = "moliere"
    nuclear: bool = True
    scores: Scored = "dose to water"
    i_water_ev: float = I_WATER_EV
    entry_cutoff: float = 1e-3
    fokker_planck_step_mm: float = 2.0
    calibration: Calibration = field(default_factory=SchneiderCalibration)
    progress: Callable[[Progress], None] | None = None
    influence_is_estimate = True  # no field: a final dose is split more finely
    quantities = QUANTITIES

    def __post_init__(self):
        _check_settings(self)

    def like(self, medium: KnownMedium, nuclear: bool, scored: Scored) -> "YodaEngine":
        """The same engine in a known medium, with its water's mean excitation energy.

        Without ``nuclear`` nuclear interactions go off; with it they stay as they are.
        """
        return replace(
            self, calibration=medium, i_water_ev=medium.i_water_ev, scores=scored,
            nuclear=self.nuclear and nuclear,
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
        """Per quantity (nz, ny, nx) float32, of one fraction: "dose" in Gy, "letd" in keV/µm of
        water, of all protons.

        ValueError where plan, quantities or image do not fit, spots miss the patient, or energies
        lie beyond the tables.
        """
        return self.counted(patient, plan, grid, scenario, quantities, beam)[0]

    def counted(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        beam: int | None = None,
    ) -> tuple[dict[str, np.ndarray], Counts]:
        """``dose``, and how many Fokker–Planck solves it took."""
        plan = plan if beam is None else plan.part(beam, beam + 1)
        self.check(plan, scenario, quantities, QUANTITIES)
        setup = self.setup(patient, plan, grid, scenario, self.scheme)
        return setup.dose(quantities, self.progress), setup.counts

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

        ValueError as ``dose``.
        """
        self.check(plan, scenario, quantities, ("dose",))
        voxels = body_voxels(patient, grid) if voxels is None else checked_voxels(voxels, grid)
        widest = int(np.bincount(plan.spot_beam).max())
        if widest > MAX_PLACES_PER_BEAM:
            raise ValueError(
                f"a beam has {widest} spots, more than the {MAX_PLACES_PER_BEAM} that a matrix "
                "holds per beam; split it, or space the spots wider."
            )
        setup = self.setup(patient, plan, grid, scenario, self.influence_scheme)
        return setup.influence(voxels, self.entry_cutoff, self.progress)

    def setup(
        self, patient: Patient, plan: Plan, grid: Grid, scenario: Scenario, split: str | RingScheme
    ) -> Setup:
        """Everything that spots have in common, for a plan that fits."""
        physics = Physics(
            self.i_water_ev, self.scattering, self.nuclear, self.fokker_planck_step_mm
        )
        return Setup.of(
            patient, plan, grid, scenario, self.calibration, physics, as_scheme(split),
            self.adaptive, self.depth_step_mm, self.scores == "dose to medium",
        )  # fmt: skip

    def check(
        self, plan: Plan, scenario: Scenario, quantities: Sequence[str], known: Sequence[str]
    ) -> None:
        check_asked(plan, scenario, quantities, known, "the deterministic engine")
        if not (isinstance(plan.machine, IonMachine) and plan.machine.charge == 1):
            raise ValueError(
                f"machine={plan.machine.name!r} has no protons, and the deterministic engine "
                "solves for nothing else; take generic_proton, or another engine."
            )
        if np.any(plan.weights < 0.0) or not np.all(np.isfinite(plan.weights)):
            raise ValueError("weights of the plan must be finite and 0 or more.")
        blocked = [f"{beam.gantry_deg:g}°" for beam in plan.beams if beam.aperture is not None]
        if blocked:
            raise ValueError(
                f"aperture of the beam at gantry {', '.join(blocked)}: the deterministic engine "
                "cannot treat an aperture; use dose=monte_carlo, or leave it out."
            )
        bare = [
            f"{beam.gantry_deg:g}°" for beam in plan.beams
            if beam.range_shifter is not None and beam.shifter_exit_mm is None
        ]  # fmt: skip
        if bare:
            raise ValueError(
                f"shifter_exit_mm of the beam at gantry {', '.join(bare)} is not set; place_spots "
                "fills it in, or give the exit face's place along the beam."
            )


def as_scheme(split: str | RingScheme) -> RingScheme:
    """The scheme of a name, or the one given."""
    return split if isinstance(split, RingScheme) else scheme(split)


def _check_settings(engine: YodaEngine) -> None:
    for name, (low, high, usual) in LIMITS.items():
        value = getattr(engine, name)
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (numeric and low <= value <= high):
            raise ValueError(f"{name}={value!r} must lie in {low:g} … {high:g}; {usual} is usual.")
    choices = {
        "scores": ("dose to water", "dose to medium"), "scattering": MODELS,
        "adaptive": (True, False), "nuclear": (True, False),
    }  # fmt: skip
    for name, known in choices.items():
        if getattr(engine, name) not in known:
            raise ValueError(
                f"{name}={getattr(engine, name)!r} is unknown; choose {known[0]!r} or {known[1]!r}."
            )
    for name in ("scheme", "influence_scheme"):
        as_scheme(getattr(engine, name))
    own_ev = getattr(engine.calibration, "i_water_ev", engine.i_water_ev)
    if own_ev != engine.i_water_ev:
        raise ValueError(
            f"calibration solves its densities for i_water_ev={own_ev:g}, the engine has "
            f"i_water_ev={engine.i_water_ev:g}: ranges would be off; give both the same."
        )
