"""The analytic pencil beam of protons and carbon ions: depth dose in water times two Gaussians.

Inhomogeneity enters through radiological depth alone, so lateral heterogeneity inside a spot is
not seen (Hong et al., Phys. Med. Biol. 41 (1996) 1305); behind air cavities and edges expect errors
of a few percent and millimeters. Doses are averaged over the voxel's thickness and width.
With a biological model every spot also has α and √β: averages over all ions and energies at a
depth behind water, the same from the axis to the edge of the spot, as TRiP98 has it (Krämer and
Scholz, Phys. Med. Biol. 45 (2000) 3319).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.dose.checks import check_asked
from engine.dose.influence import InfluenceMatrix
from engine.dose.pencil_beam.layers import beam_layers
from engine.dose.pencil_beam.rows import BeamRows, assembled, thickness_mm, voxel_variance
from engine.dose.voxels import body_voxels, checked_voxels
from engine.errors import PhysicsWarning
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Plan
from engine.geometry.rays import along_range_mm, project_voxels, trace_field
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.ion import IonMachine
from engine.patient.ct import Calibration, SchneiderCalibration, rsp_volume
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient
from engine.physics.biology import BiologicalModel

ROWS_PER_BATCH = 50_000  # of the direct dose calculation, which keeps no matrix


@dataclass(frozen=True)
class PencilBeamEngine:
    """Dose to water. ``lateral_cutoff`` is the share of a spot's dose at each depth that may lie
    beyond the last entry kept; entries beyond the range fall off at 1e-3 of the peak."""

    lateral_cutoff: float = 0.005
    calibration: Calibration = field(default_factory=SchneiderCalibration)
    ray_pitch_mm: float | None = None  # of the raster of traced rays; None: the finest CT spacing
    biology: BiologicalModel | None = None  # of α and √β; None: the matrix has dose alone
    scores = "dose to water"

    def __post_init__(self):
        if not 0.0 < self.lateral_cutoff <= 0.1:
            raise ValueError(f"lateral_cutoff={self.lateral_cutoff} must lie in 0 … 0.1.")

    def influence(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        voxels: np.ndarray | None = None,
    ) -> InfluenceMatrix:
        """Gy per particle of one fraction in ``voxels`` (flat indices of ``grid``, ascending)."""
        _check(plan, scenario, quantities)
        voxels = body_voxels(patient, grid) if voxels is None else checked_voxels(voxels, grid)
        beams = self._trace_all(patient, plan, grid, scenario, voxels)
        return assembled(plan, grid, voxels, beams)

    def dose(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        beam: int | None = None,
    ) -> dict[str, np.ndarray]:
        """{"dose": Gy of one fraction (nz, ny, nx) float32}; keeps no matrix."""
        plan = plan if beam is None else plan.part(beam, beam + 1)
        _check(plan, scenario, quantities)
        voxels = body_voxels(patient, grid)
        volume = np.zeros(grid.size, np.float32)
        beams = self._trace_all(patient, plan, grid, scenario, voxels)
        for first in range(0, len(voxels), ROWS_PER_BATCH):
            part = slice(first, first + ROWS_PER_BATCH)
            few = {b: seen.part(part) for b, seen in beams.items()}
            volume[voxels[part]] = assembled(plan, grid, voxels[part], few) @ plan.weights
        return {"dose": volume.reshape(grid.shape)}

    def like(self, medium: KnownMedium, nuclear: bool, scored: str) -> "PencilBeamEngine":
        """This engine in a known medium. It scores dose to water whatever is asked for, and
        whether nuclear interactions count is the machine's affair, in whose kernels they are."""
        return replace(self, calibration=medium)

    def _trace_all(self, patient, plan, grid, scenario, voxels) -> "dict[int, BeamRows]":
        """Every beam that has spots."""
        rsp = rsp_volume(patient, self.calibration) * np.float32(scenario.density_scale)
        return {
            int(beam): self._trace(patient, plan, grid, scenario, rsp, voxels, int(beam))
            for beam in np.unique(plan.spot_beam)
        }

    def _trace(self, patient, plan, grid, scenario, rsp, voxels, beam) -> "BeamRows":
        """Where every voxel lies in one beam's eye view, and behind how much water."""
        frame = beam_frame(plan.beams[beam], plan.machine.virtual_source_mm, scenario.shift_mm)
        variance, along = voxel_variance(grid, frame), along_range_mm(grid, frame)
        layers = beam_layers(plan, beam, self.lateral_cutoff, variance, along, self.biology)
        reach = layers.largest_reach_mm
        u_range = (layers.box[:, 0].min() - reach, layers.box[:, 1].max() + reach)
        v_range = (layers.box[:, 2].min() - reach, layers.box[:, 3].max() + reach)
        wet = trace_field(rsp, patient.grid, frame, u_range, v_range, self.ray_pitch_mm)
        u, v, t = project_voxels(grid, voxels, frame)
        half = 0.5 * thickness_mm(grid, frame)
        return BeamRows(layers, frame, u, v, t, wet.at(u, v, t, -half), wet.at(u, v, t, half))


def _check(plan: Plan, scenario: Scenario, quantities: Sequence[str]) -> None:
    check_asked(plan, scenario, quantities, ("dose",), "the pencil beam")
    blocked = [f"{beam.gantry_deg:g}°" for beam in plan.beams if beam.aperture is not None]
    if blocked:
        raise ValueError(
            f"aperture of the beam at gantry {', '.join(blocked)}: the pencil beam cannot treat an "
            "aperture; use dose=monte_carlo, or leave it out."
        )
    _warn_of_simplified(plan.machine)


def _warn_of_simplified(machine: IonMachine) -> None:
    """Of what the beam model has and this engine leaves out (Python says so once a process)."""
    second, sources = machine.second_gaussian, machine.virtual_sources_mm
    if second is not None and np.any(second.weight > 0.0):
        warnings.warn(
            f"second_gaussian of {machine.name} is left out by the pencil beam: low doses around "
            "fields are too small; Monte Carlo has it.",
            PhysicsWarning,
            stacklevel=4,
        )
    if sources is not None and sources[0] != sources[1]:
        warnings.warn(
            f"virtual_sources_mm={sources} of {machine.name} are taken as one source at "
            f"{machine.virtual_source_mm:g} mm by the pencil beam; Monte Carlo has two.",
            PhysicsWarning,
            stacklevel=4,
        )
