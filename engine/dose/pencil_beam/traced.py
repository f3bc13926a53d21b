"""Many plans on the same rows: radiological depths are traced once, plans and scenarios reuse them.

An arc planner asks for the matrix of ever other layers from the same angles, in nominal and wrong
set-ups. Depths of the rows behind each angle are kept; a plan then costs its entries alone. A
range error scales the depths, exactly as ``Scenario.density_scale`` does. A set-up shift moves rows
sideways in the beam's eye view at unchanged depth: a ray from the shifted source to a voxel is
turned by no more than the shift over the source distance (3 mm in 2 m).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.pencil_beam.layers import BeamLayers, beam_layers
from engine.dose.pencil_beam.rows import BeamRows, assembled_stack, thickness_mm, voxel_variance
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.geometry.rays import along_range_mm, project_voxels, trace_field
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.ion import IonMachine
from engine.patient.ct import rsp_volume
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.physics.biology import BiologicalModel

SHIFT_ROOM_MM = 10.0  # by which the dose grid may move along a beam in a scenario


@dataclass(frozen=True, eq=False)
class TracedRows:
    """Depths of rows of a dose grid behind the surface, from every beam.

    ``z_in_mm`` and ``z_out_mm`` (n_beams, n_rows) float32 are water-equivalent depths where a
    voxel begins and ends along the beam; ``voxels`` (n_rows,) flat indices of ``grid``, ascending.
    """

    machine: IonMachine
    beams: tuple[Beam, ...]
    grid: Grid
    voxels: np.ndarray
    z_in_mm: np.ndarray
    z_out_mm: np.ndarray
    lateral_cutoff: float
    biology: BiologicalModel | None = None

    @property
    def n_rows(self) -> int:
        return len(self.voxels)

    def rows(self, chosen: np.ndarray) -> "TracedRows":
        """Some of the rows: a bool mask (n_rows,) or ascending indices."""
        return replace(
            self, voxels=self.voxels[chosen], z_in_mm=self.z_in_mm[:, chosen],
            z_out_mm=self.z_out_mm[:, chosen],
        )  # fmt: skip

    def influence(self, plan: Plan, scenario: Scenario = NOMINAL) -> InfluenceMatrix:
        """Gy per particle of a plan whose beams are among the traced ones."""
        return self.stacked(plan, [scenario])

    def stacked(self, plan: Plan, scenarios: Sequence[Scenario]) -> InfluenceMatrix:
        """All scenarios in one matrix, rows one scenario after the other."""
        if plan.n_spots == 0:
            raise ValueError("the plan has no spots; choose layers that reach the target.")
        _check_scenarios(scenarios)
        traced = {beam: i for i, beam in enumerate(self.beams)}
        used = [int(b) for b in np.unique(plan.spot_beam)]
        unknown = [plan.beams[b].gantry_deg for b in used if plan.beams[b] not in traced]
        if unknown:
            raise ValueError(f"beams at gantry {unknown} were not traced; trace them first.")
        layers = {b: self._layers(plan, b) for b in used}
        row_of = {b: traced[plan.beams[b]] for b in used}
        seen = [self._in_scenario(s, layers, row_of) for s in scenarios]
        return assembled_stack(plan, self.grid, self.voxels, seen)

    def _layers(self, plan: Plan, beam: int) -> BeamLayers:
        frame = beam_frame(plan.beams[beam], self.machine.virtual_source_mm)
        near, far = along_range_mm(self.grid, frame)
        along = (near - SHIFT_ROOM_MM, far + SHIFT_ROOM_MM)
        return beam_layers(
            plan, beam, self.lateral_cutoff, voxel_variance(self.grid, frame), along, self.biology
        )

    def _in_scenario(self, scenario: Scenario, layers, row_of) -> dict[int, BeamRows]:
        positions = {i: self._positions(i, scenario) for i in set(row_of.values())}
        return {b: BeamRows(tables, *positions[row_of[b]]) for b, tables in layers.items()}

    def _positions(self, i: int, scenario: Scenario) -> tuple:
        """Frame, u, v, t, and the scaled depths of all rows from one beam."""
        frame = beam_frame(self.beams[i], self.machine.virtual_source_mm, scenario.shift_mm)
        scale = np.float32(scenario.density_scale)
        u, v, t = project_voxels(self.grid, self.voxels, frame)
        return frame, u, v, t, self.z_in_mm[i] * scale, self.z_out_mm[i] * scale


def trace_rows(
    engine: PencilBeamEngine,
    patient: Patient,
    machine: IonMachine,
    beams: Sequence[Beam],
    grid: Grid,
    voxels: np.ndarray,
) -> TracedRows:
    """Trace rows of a dose grid from every beam; ``voxels`` (n_rows,) ascend."""
    if not len(beams) or not len(voxels):
        raise ValueError(f"{len(beams)} beams and {len(voxels)} voxels: give one of each or more.")
    rsp = rsp_volume(patient, engine.calibration)
    z_in, z_out = np.empty((2, len(beams), len(voxels)), np.float32)
    for i, beam in enumerate(beams):
        frame = beam_frame(beam, machine.virtual_source_mm)
        u, v, t = project_voxels(grid, voxels, frame)
        wet = trace_field(
            rsp, patient.grid, frame, (float(u.min()), float(u.max())),
            (float(v.min()), float(v.max())), engine.ray_pitch_mm,
        )  # fmt: skip
        half = 0.5 * thickness_mm(grid, frame)
        z_in[i], z_out[i] = wet.at(u, v, t, -half), wet.at(u, v, t, half)
    return TracedRows(
        machine, tuple(beams), grid, np.asarray(voxels, np.uint32), z_in, z_out,
        engine.lateral_cutoff, engine.biology,
    )  # fmt: skip


def _check_scenarios(scenarios: Sequence[Scenario]) -> None:
    if not len(scenarios):
        raise ValueError("scenarios is empty; give the nominal one at least.")
    far = [s.shift_mm for s in scenarios if max(abs(x) for x in s.shift_mm) > SHIFT_ROOM_MM]
    if far:
        raise ValueError(
            f"shift_mm={far[0]} is beyond {SHIFT_ROOM_MM:g} mm, for which traced depths hold; "
            "compute such scenarios with the engine itself."
        )
    images = {s.image for s in scenarios} - {NOMINAL.image}
    if images:
        raise ValueError(f"images {sorted(images)} are unknown; rows were traced in one image.")
