"""Where voxels lie in a photon beam's eye view, and how far down each component has come there."""

from dataclasses import dataclass

import numpy as np

from engine.geometry.coordinates import BeamFrame, beam_frame
from engine.geometry.plan import Beam
from engine.geometry.rays import project_voxels, trace_field
from engine.geometry.scenarios import Scenario
from engine.machine.photon import LATTICE_MM, PhotonMachine
from engine.patient.grid import Grid


@dataclass(frozen=True, eq=False)
class PhotonRows:
    """One beam's view of voxels (n_rows,): isoplane position in mm, radiological depth in mm, and
    ``components`` (n_rows, 3) = D_i(l) · (SAD/(SAD + t))², Gy per MU."""

    frame: BeamFrame
    u_mm: np.ndarray
    v_mm: np.ndarray
    depth_mm: np.ndarray
    components: np.ndarray

    @property
    def lattice(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (u, v) in steps of the lattice, float32."""
        step = np.float32(1.0 / LATTICE_MM)
        return self.u_mm * step, self.v_mm * step


def photon_rows(
    electron_density: np.ndarray,
    ct_grid: Grid,
    machine: PhotonMachine,
    beam: Beam,
    grid: Grid,
    voxels: np.ndarray,
    scenario: Scenario,
    ray_pitch_mm: float | None,
) -> PhotonRows:
    """Trace the voxels of a dose grid from one beam; the scenario's density is in the volume."""
    frame = beam_frame(beam, machine.virtual_source_mm, scenario.shift_mm)
    u, v, t = project_voxels(grid, voxels, frame)
    if not len(u):
        return PhotonRows(frame, u, v, t, np.empty((0, 3), np.float32))
    wet = trace_field(
        electron_density, ct_grid, frame, (float(u.min()), float(u.max())),
        (float(v.min()), float(v.max())), ray_pitch_mm,
    )  # fmt: skip
    depth = wet.at(u, v, t)
    inverse_square = np.square(frame.source_mm / (frame.source_mm + t.astype(np.float64)))
    components = machine.depth_at(depth) * inverse_square[:, None].astype(np.float32)
    return PhotonRows(frame, u, v, depth, components)
