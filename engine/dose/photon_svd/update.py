"""Dose of fluence maps whose amplitudes change patch by patch: the update of interactive planning.

Section 2.4 of Ziegenhein et al., Phys. Med. Biol. 61 (2016) 2427: the convolution is done in
coordinate space for the changed amplitudes alone, at control points, and interpolated at the
voxels. Control points lie on every amplitude near the patch and ``FAR_STEP`` amplitudes apart
beyond ``NEAR`` of it, where the kernels are smooth. A whole map is convolved by FFT at every
amplitude.

Bound: after a patch the dose differs from a whole computation on the same amplitudes by less than
2e-3 of the patch's largest change, and that from ``PhotonSvdEngine.dose``, whose nodes lie closer,
by less than 1 % of the largest dose (1 mm amplitudes); tests hold both.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from engine.dose.photon_svd import _kernels as kernels
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.geometry.plan import Plan
from engine.machine.photon import LATTICE_MM, mirrored
from engine.machine.photon_kernels import N_COMPONENTS
from engine.parallel import run_blocks, threads
from engine.patient.grid import Grid
from engine.patient.patient import Patient

N_BLOCKS = 16
NEAR, FAR_STEP = 8, 5  # amplitudes
WIDEST_MM = 2.0


@dataclass(frozen=True, eq=False)
class FluenceMaps:
    """Maps of amplitudes and the voxels that they reach.

    ``u``, ``v`` (n_beams, n_rows) float32 are positions of the voxels in amplitudes (widths of
    ``plan``'s bixels) from the beam's axis, ``components`` (n_beams, n_rows, 3) as in
    ``PhotonRows``; ``amplitude_u``, ``amplitude_v`` (n_amplitudes,) place the amplitudes alike.
    """

    plan: Plan
    width_mm: float
    reach_mm: float
    u: np.ndarray
    v: np.ndarray
    components: np.ndarray
    amplitude_u: np.ndarray
    amplitude_v: np.ndarray

    @classmethod
    def of(
        cls, engine: PhotonSvdEngine, patient: Patient, plan: Plan, grid: Grid, voxels: np.ndarray
    ) -> "FluenceMaps":
        """The maps of a plan with ``engine.bixel_mm`` wide bixels, on voxels of a dose grid."""
        if engine.bixel_mm > WIDEST_MM:
            raise ValueError(
                f"bixel_mm={engine.bixel_mm:g} of the engine is too wide: maps interpolate between "
                f"amplitudes of {WIDEST_MM:g} mm at most; use the influence matrix for wider ones."
            )
        views, width = engine.view(patient, plan, grid, voxels), engine.bixel_mm
        at_u, at_v = plan.u_mm / width, plan.v_mm / width
        for name, at in (("u_mm", at_u), ("v_mm", at_v)):
            if np.abs(at - np.rint(at)).max() > 1e-3:
                raise ValueError(f"{name} of fluence maps must be multiples of {width:g} mm.")
        return cls(
            plan, width, engine.reach_mm, np.stack([s.u_mm for s in views]) / np.float32(width),
            np.stack([s.v_mm for s in views]) / np.float32(width),
            np.stack([s.components for s in views]), np.rint(at_u).astype(np.int64),
            np.rint(at_v).astype(np.int64),
        )  # fmt: skip

    @property
    def n_beams(self) -> int:
        return len(self.u)

    @property
    def n_rows(self) -> int:
        return self.u.shape[1]

    @cached_property
    def fluence(self) -> np.ndarray:
        """Primary fluence of every amplitude, (n_amplitudes,) float32."""
        return self.plan.machine.fluence_at(self.plan.u_mm, self.plan.v_mm)

    @cached_property
    def lateral(self) -> np.ndarray:
        """C_i of one amplitude at lattice offsets, (n, n, 3)."""
        return self.plan.machine.bixel_table(self.width_mm, self.reach_mm)

    @property
    def table_step(self) -> int:
        return round(self.width_mm / LATTICE_MM)

    def dose(self, weights: np.ndarray) -> np.ndarray:
        """Gy of one fraction of whole maps, (n_rows,) float32."""
        weights = self._checked(weights)
        dose = np.zeros(self.n_rows, np.float32)
        cuts = np.linspace(0, self.n_rows, N_BLOCKS + 1).astype(np.int64)
        for beam in range(self.n_beams):
            part = self.plan.beam_slice(beam)
            if part.stop > part.start:
                u0, v0, sums = self._convolved(part, weights[part] * self.fluence[part])
                run_blocks(
                    kernels.add_block, N_BLOCKS, cuts, np.float32(u0), np.float32(v0),
                    self.u[beam], self.v[beam], self.components[beam], sums, dose,
                )  # fmt: skip
        return dose

    def add(self, dose: np.ndarray, amplitudes: np.ndarray, change: np.ndarray) -> None:
        """Add the dose of changed amplitudes (n,), beam by beam, to ``dose`` (n_rows,)."""
        if not len(amplitudes):
            return
        starts = [self.plan.beam_slice(b).start for b in range(self.n_beams)]
        first = np.searchsorted(amplitudes, [*starts, self.plan.n_spots])
        beams = np.flatnonzero(np.diff(first))
        u, v = self.amplitude_u[amplitudes], self.amplitude_v[amplitudes]
        fluence = (change * self.fluence[amplitudes]).astype(np.float32)
        low, high = np.zeros((2, self.n_beams, 2), np.int64)
        for b in beams:
            part = slice(first[b], first[b + 1])
            low[b], high[b] = (u[part].min(), v[part].min()), (u[part].max(), v[part].max())
        extent = int((high - low).max()) + 1
        reach = int(np.ceil(self.reach_mm / self.width_mm)) + 1
        near = self._control_points(beams, first, u, v, fluence, low - NEAR, extent + 2 * NEAR, 1)
        n_far = (extent + 2 * reach) // FAR_STEP + 3
        far = self._control_points(beams, first, u, v, fluence, low - reach, n_far, FAR_STEP)
        cuts = np.linspace(0, self.n_rows, N_BLOCKS + 1).astype(np.int64)
        run_blocks(
            kernels.add_patch_block, N_BLOCKS, cuts, beams, self.u, self.v, self.components,
            *near, *far, FAR_STEP, dose,
        )  # fmt: skip

    def _control_points(self, beams, first, u, v, fluence, corner, n: int, step: int):
        """Sums (n_beams, n, n, 3) at control points, and where they begin, (n_beams,) each."""
        sums = np.empty((self.n_beams, n, n, N_COMPONENTS), np.float32)
        u0, v0 = np.ascontiguousarray(corner[:, 0]), np.ascontiguousarray(corner[:, 1])
        run_blocks(
            kernels.control_points_block, len(beams), beams, self.table_step, self.lateral, u, v,
            fluence, first, u0, v0, step, sums,
        )  # fmt: skip
        return sums, u0, v0

    @cached_property
    def _spectra(self) -> dict:
        return {}

    def _convolved(self, part: slice, fluence: np.ndarray) -> tuple[int, int, np.ndarray]:
        """First node (u, v) of one beam's map of sums, and the map (n_u, n_v, 3)."""
        u, v = self.amplitude_u[part], self.amplitude_v[part]
        n = (len(self.lateral) - 1) // self.table_step
        shape = (int(np.ptp(u)) + 1, int(np.ptp(v)) + 1)
        size = tuple(fft.next_fast_len(s + 2 * n, real=True) for s in shape)
        drawn = np.zeros(shape, np.float32)
        drawn[u - u.min(), v - v.min()] = fluence
        spectrum = fft.rfft2(drawn, size, workers=threads())
        kernel = self._kernel_spectrum(size, n)
        sums = fft.irfft2(spectrum * kernel, size, workers=threads())
        sums = np.moveaxis(sums[:, : shape[0] + 2 * n, : shape[1] + 2 * n], 0, 2)
        return int(u.min()) - n, int(v.min()) - n, np.ascontiguousarray(sums)

    def _kernel_spectrum(self, size: tuple[int, int], n: int) -> np.ndarray:
        if size not in self._spectra:
            quadrant = self.lateral[:: self.table_step, :: self.table_step][: n + 1, : n + 1]
            whole = mirrored(quadrant)
            self._spectra[size] = fft.rfft2(np.moveaxis(whole, 2, 0), size)
        return self._spectra[size]

    def _checked(self, weights: np.ndarray) -> np.ndarray:
        weights = np.asarray(weights, np.float32)
        if weights.shape != (self.plan.n_spots,):
            raise ValueError(
                f"weights have shape {weights.shape}, the maps {self.plan.n_spots} amplitudes."
            )
        return weights
