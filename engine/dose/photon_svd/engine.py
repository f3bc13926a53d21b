"""The photon pencil beam of Bortfeld, Schlegel, Rhein, Med. Phys. 20 (1993) 311, three components.

D(u, v, l) = (SAD/(SAD + t))² Σ_i D_i(l) (ψ ∗ w_i)(u, v): fluence ψ in the isocenter plane, blurred
by the penumbra, and l the radiological depth by electron density. Inhomogeneity enters through l
alone: scatter does not know of air or bone beside the ray, so errors of several percent in and
behind lung and air cavities are to be expected.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.signal import fftconvolve

from engine.dose.checks import check_asked
from engine.dose.influence import InfluenceMatrix
from engine.dose.photon_svd import _kernels as kernels
from engine.dose.photon_svd.rows import PhotonRows, photon_rows
from engine.dose.voxels import body_voxels, checked_voxels
from engine.geometry.bixels import check_bixel
from engine.geometry.plan import Plan
from engine.geometry.rays import along_range_mm
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.photon import LATTICE_MM, PhotonMachine, mirrored
from engine.machine.photon_kernels import N_COMPONENTS, RADIUS_MM
from engine.parallel import run_blocks
from engine.patient.ct import Calibration, SchneiderCalibration, electron_density_volume
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient

N_BLOCKS = 16


@dataclass(frozen=True)
class PhotonSvdEngine:
    """Dose to water per monitor unit. ``bixel_mm`` is the width of the plan's square bixels;
    what is farther than ``reach_mm`` from a bixel's middle is left out (200 mm: none of it)."""

    bixel_mm: float = 5.0
    reach_mm: float = 60.0
    calibration: Calibration = field(default_factory=SchneiderCalibration)
    ray_pitch_mm: float | None = None  # of the raster of traced rays; None: the finest CT spacing
    scores = "dose to water"

    def __post_init__(self):
        check_bixel(self.bixel_mm)
        least = self.bixel_mm + 5.0  # its corners, and the penumbra around them
        if not least <= self.reach_mm <= RADIUS_MM:
            raise ValueError(
                f"reach_mm={self.reach_mm} must lie in {least:g} … {RADIUS_MM:g} for bixels of "
                f"{self.bixel_mm:g} mm."
            )

    def influence(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        voxels: np.ndarray | None = None,
    ) -> InfluenceMatrix:
        """Gy per MU of one fraction in ``voxels`` (flat indices of ``grid``, ascending)."""
        self._check(plan, scenario, quantities)
        voxels = body_voxels(patient, grid) if voxels is None else checked_voxels(voxels, grid)
        density = self._density(patient, scenario)
        parts = []
        for beam in range(len(plan.beams)):
            seen = self._rows(patient, plan, grid, scenario, density, voxels, beam)
            parts.append(self._beam_influence(plan.part(beam, beam + 1), grid, voxels, seen))
        return InfluenceMatrix.joined(parts)

    def dose(
        self,
        patient: Patient,
        plan: Plan,
        grid: Grid,
        scenario: Scenario = NOMINAL,
        quantities: Sequence[str] = ("dose",),
        beam: int | None = None,
    ) -> dict[str, np.ndarray]:
        """{"dose": Gy of one fraction (nz, ny, nx) float32}, by convolution of the fluence maps."""
        plan = plan if beam is None else plan.part(beam, beam + 1)
        self._check(plan, scenario, quantities)
        voxels = body_voxels(patient, grid)
        density = self._density(patient, scenario)
        dose = np.zeros(len(voxels), np.float32)
        for index in range(len(plan.beams)):
            seen = self._rows(patient, plan, grid, scenario, density, voxels, index)
            self._add_field(plan.part(index, index + 1), seen, dose)
        volume = np.zeros(grid.size, np.float32)
        volume[voxels] = np.maximum(dose, 0.0)
        return {"dose": volume.reshape(grid.shape)}

    def like(self, medium: KnownMedium, nuclear: bool, scored: str) -> "PhotonSvdEngine":
        """This engine in a known medium. It scores dose to water whatever is asked for, and
        photons know no switch for nuclear interactions."""
        return replace(self, calibration=medium)

    def view(
        self, patient: Patient, plan: Plan, grid: Grid, voxels: np.ndarray,
        scenario: Scenario = NOMINAL,
    ) -> list[PhotonRows]:
        """Every beam's view of some voxels."""
        self._check(plan, scenario, ("dose",))
        density, voxels = self._density(patient, scenario), checked_voxels(voxels, grid)
        return [
            self._rows(patient, plan, grid, scenario, density, voxels, beam)
            for beam in range(len(plan.beams))
        ]

    def _density(self, patient: Patient, scenario: Scenario) -> np.ndarray:
        volume = electron_density_volume(patient, self.calibration)
        return volume * np.float32(scenario.density_scale)

    def _rows(self, patient, plan, grid, scenario, density, voxels, beam: int) -> PhotonRows:
        return photon_rows(
            density, patient.grid, plan.machine, plan.beams[beam], grid, voxels, scenario,
            self.ray_pitch_mm,
        )  # fmt: skip

    def _beam_influence(self, plan: Plan, grid: Grid, voxels, seen: PhotonRows) -> InfluenceMatrix:
        machine, (u, v) = plan.machine, seen.lattice
        lateral = machine.bixel_table(self.bixel_mm, self.reach_mm)
        reach = np.float32(len(lateral) - 1.01)  # beyond it nothing is left of the tables
        bixels = (plan.u_mm / np.float32(LATTICE_MM), plan.v_mm / np.float32(LATTICE_MM))
        fluence = machine.fluence_at(plan.u_mm, plan.v_mm)
        cuts = np.linspace(0, plan.n_spots, N_BLOCKS + 1).astype(np.int64)
        counts = np.zeros(plan.n_spots, np.int64)
        run_blocks(kernels.count_block, N_BLOCKS, cuts, *bixels, u, v, reach, counts)
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows, gy = np.empty(starts[-1], np.uint32), np.empty(starts[-1], np.float32)
        run_blocks(
            kernels.fill_block, N_BLOCKS, cuts, *bixels, fluence, u, v, seen.components, reach,
            lateral, starts, rows, gy,
        )  # fmt: skip
        # what the 16 bits of an entry are relative to must not depend on the voxels asked for
        nearest = along_range_mm(grid, seen.frame)[0]
        closer = (seen.frame.source_mm / (seen.frame.source_mm + nearest)) ** 2
        deepest = machine.depth_at(machine.depth_step_mm * np.arange(400))
        top = fluence * np.float32(1.001 * closer * (deepest @ lateral[0, 0]).max())
        return InfluenceMatrix.from_columns(
            grid, voxels, [0, plan.n_spots], starts, rows, gy, top
        )

    def _add_field(self, plan: Plan, seen: PhotonRows, dose: np.ndarray) -> None:
        """Add the dose of one beam's fluence map."""
        if plan.n_spots == 0:
            return
        lateral = plan.machine.bixel_table(self.bixel_mm, self.reach_mm)
        n = len(lateral) - 1
        iu, iv = (np.rint(a / LATTICE_MM).astype(np.int64) for a in (plan.u_mm, plan.v_mm))
        fluence = np.zeros((iu.max() - iu.min() + 2 * n + 1, iv.max() - iv.min() + 2 * n + 1))
        weight = plan.weights * plan.machine.fluence_at(plan.u_mm, plan.v_mm)
        np.add.at(fluence, (iu - iu.min() + n, iv - iv.min() + n), weight)
        whole = mirrored(lateral)
        summed = np.empty((*fluence.shape, N_COMPONENTS), np.float32)
        for i in range(N_COMPONENTS):
            summed[:, :, i] = fftconvolve(fluence, whole[:, :, i], mode="same")
        u, v = seen.lattice
        cuts = np.linspace(0, len(u), N_BLOCKS + 1).astype(np.int64)
        run_blocks(
            kernels.add_block, N_BLOCKS, cuts, np.float32(iu.min() - n), np.float32(iv.min() - n),
            u, v, seen.components, summed, dose,
        )  # fmt: skip

    def _check(self, plan: Plan, scenario: Scenario, quantities: Sequence[str]) -> None:
        check_asked(plan, scenario, quantities, ("dose",), "the photon pencil beam")
        if not isinstance(plan.machine, PhotonMachine):
            raise ValueError(
                f"machine={plan.machine.name!r} has no photons; plan with generic_photon, or take "
                "another dose engine."
            )
        blocked = [b for b in plan.beams if b.aperture is not None or b.range_shifter is not None]
        if blocked:
            raise ValueError(
                f"the beam at gantry {blocked[0].gantry_deg:g}° has an aperture or range shifter, "
                "which photons here do not know; leave it out."
            )
        check_raster(plan, self.bixel_mm)


def check_raster(plan: Plan, bixel_mm: float) -> None:
    """Bixels must lie side by side on the lattice, those of a beam whole widths apart."""
    for beam in range(len(plan.beams)):
        part = plan.beam_slice(beam)
        for name, at in (("u_mm", plan.u_mm[part]), ("v_mm", plan.v_mm[part])):
            if not len(at):
                continue
            apart, off = (at - at[0]) / bixel_mm, at[0] / LATTICE_MM
            if np.abs(apart - np.rint(apart)).max() > 1e-3 or abs(off - np.rint(off)) > 1e-3:
                raise ValueError(
                    f"{name} of beam {beam} are not whole widths of bixel_mm={bixel_mm:g} apart on "
                    f"a lattice of {LATTICE_MM:g} mm; place_bixels with the engine's bixel_mm."
                )
