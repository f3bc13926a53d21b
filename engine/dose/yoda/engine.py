"""The deterministic proton engine, after Burlacu et al. 2024 (YODA): Fokker–Planck along beamlets
times Molière's spread across them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from engine.dose.checks import check_asked
from engine.dose.influence import InfluenceMatrix
from engine.dose.voxels import body_voxels, checked_voxels
from engine.dose.yoda.layers import Physics
from engine.dose.yoda.solution import Setup
from engine.dose.yoda.splitting import scheme
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.patient.ct import Calibration, SchneiderCalibration
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient
from engine.physics.materials import I_WATER_EV

Scored = Literal["dose to water", "dose to medium"]
QUANTITIES = ("dose", "letd")


@dataclass(frozen=True)
class YodaEngine:
    """Dose by a deterministic solution along the beamlets of every spot."""

    depth_step_mm: float = 1.0
    scheme: str = "1+6+6+12+12+24"
    influence_scheme: str = "1+6+6+12"
    adaptive: bool = True
    scattering: Literal["moliere", "born"] = "moliere"
    nuclear: bool = True
    scores: Scored = "dose to water"
    i_water_ev: float = I_WATER_EV
    entry_cutoff: float = 1e-3
    fokker_planck_step_mm: float = 2.0
    calibration: Calibration = field(default_factory=SchneiderCalibration)

    def like(self, medium: KnownMedium, nuclear: bool, scored: Scored) -> "YodaEngine":
        """The same engine in a known medium, with its water's mean excitation energy."""
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
        plan = plan if beam is None else plan.part(beam, beam + 1)
        return self.counted(patient, plan, grid, scenario, quantities)[0]

    def counted(self, patient, plan, grid, scenario=NOMINAL, quantities=("dose",)):
        check_asked(plan, scenario, quantities, QUANTITIES, "the deterministic engine")
        setup = self._setup(patient, plan, grid, scenario, self.scheme)
        return setup.dose(quantities), setup.counts

    def influence(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        voxels: np.ndarray | None = None,
    ) -> InfluenceMatrix:
        check_asked(plan, scenario, quantities, ("dose",), "the deterministic engine")
        voxels = body_voxels(patient, grid) if voxels is None else checked_voxels(voxels, grid)
        setup = self._setup(patient, plan, grid, scenario, self.influence_scheme)
        return setup.influence(voxels, self.entry_cutoff)

    def _setup(self, patient, plan, grid, scenario, name) -> Setup:
        physics = Physics(
            self.i_water_ev, self.scattering, self.nuclear, self.fokker_planck_step_mm
        )
        return Setup.of(
            patient, plan, grid, scenario, self.calibration, physics, scheme(name),
            self.adaptive, self.depth_step_mm, self.scores == "dose to medium",
        )
