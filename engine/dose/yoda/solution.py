"""Spots of a plan one by one: traced, solved, and their dose left in voxels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.dose.yoda import _beamlets as kernels
from engine.dose.yoda import _fokker_planck as fp
from engine.dose.yoda._solve import (
    CORE_SCATTER,
    DOSE,
    LET_DOSE,
    PROTON_DOSE,
    SECONDARY,
    THIN_MM,
    add_runs,
    averaged,
    pack,
    solve_block,
)
from engine.dose.yoda.coefficients import material_coefficients
from engine.dose.yoda.layers import Layer, Physics, layer_of
from engine.dose.yoda.range_axis import INVERSE_LOG, STEP_MM
from engine.dose.yoda.splitting import RingScheme
from engine.dose.yoda.spots import Moments, SpotAxis, ray_places, split, spot_axis
from engine.geometry.coordinates import BeamFrame, beam_frame
from engine.geometry.plan import Plan
from engine.geometry.scenarios import Scenario
from engine.parallel import run_blocks, threads
from engine.patient.ct import Calibration
from engine.patient.grid import Grid
from engine.patient.medium import Medium, medium_of, on_grid
from engine.patient.patient import Patient
from engine.physics.constants import GY_G_PER_MEV
from engine.physics.moliere import lever_tables, mixture_table

GY_MM3_PER_MEV = 1e3 * GY_G_PER_MEV  # of a MeV in a mm³ of water
CORE_SIGMAS, TAIL_SIGMAS, WIDE_SIGMAS = 4.5, 3.5, 3.5  # beyond which Gaussians are left out
SUB_VOXEL_SIGMAS = 1.3  # a voxel is averaged over points no farther apart
N_BLOCKS = 16
STRETCH = (0.3, 5.0)  # of the secondaries' widths, for density: limits


@dataclass
class Counts:
    """How many Fokker–Planck solves were made, and how many beamlets took another's."""

    n_spots: int = 0
    n_beamlets: int = 0
    n_solved: int = 0

    @property
    def n_reused(self) -> int:
        return self.n_beamlets - self.n_solved


@dataclass(frozen=True, eq=False)
class Traced:
    """A spot's beamlets, and the materials on their rays: cells (n · rays, n_cells, …)."""

    axis: SpotAxis
    weight: np.ndarray
    places: np.ndarray
    moments: np.ndarray
    cells: np.ndarray
    cell_mm: float
    parent: Moments


@dataclass(frozen=True, eq=False)
class Solved:
    """Solutions of a spot's beamlets (n, n_cells, N_SOLVED), means over their rays."""

    solved: np.ndarray
    mean_s_mm: np.ndarray  # (n_cells + 1,) water passed, mean of the beamlets
    n_cells: int  # behind these there is no dose


@dataclass(frozen=True, eq=False)
class Voxels:
    """Runs of voxels around a spot, and their values in order (n_values,) float32."""

    row: np.ndarray
    first: np.ndarray
    count: np.ndarray
    offset: np.ndarray  # (n_runs + 1,)
    values: np.ndarray

    def add_to(self, volume: np.ndarray, nx: int, factor: float) -> None:
        add_runs(self.row, self.first, self.count, self.offset, self.values, nx, factor, volume)


@dataclass(eq=False)
class Setup:
    """Everything but the spots: medium, materials' coefficients, layers."""

    plan: Plan
    grid: Grid
    medium: Medium  # of the CT, through which beamlets are traced
    scored: Medium  # on the dose grid
    table: np.ndarray
    physics: Physics
    scheme: RingScheme
    adaptive: bool
    cell_mm: float
    rays: int
    to_medium: bool
    frames: tuple[BeamFrame, ...]
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def of(
        cls, patient: Patient, plan: Plan, grid: Grid, scenario: Scenario,
        calibration: Calibration, physics: Physics, scheme: RingScheme, adaptive: bool,
        depth_step_mm: float, rays: int, to_medium: bool,
    ) -> "Setup":  # fmt: skip
        medium = medium_of(patient, calibration, scenario.density_scale)
        table = material_coefficients(
            medium.materials, physics.i_water_ev, physics.scattering, physics.nuclear
        )
        spacing = min(medium.grid.spacing_mm)
        cell_mm = spacing / np.ceil(spacing / depth_step_mm - 1e-9)
        frames = tuple(
            beam_frame(b, plan.machine.virtual_source_mm, scenario.shift_mm) for b in plan.beams
        )
        return cls(
            plan, grid, medium, on_grid(medium, grid), table, physics, scheme, adaptive,
            float(cell_mm), rays, to_medium, frames,
        )  # fmt: skip

    def dose(self, quantities: Sequence[str]) -> dict[str, np.ndarray]:
        """Quantities of the whole plan (nz, ny, nx) float32."""
        kinds = [DOSE] * ("dose" in quantities) + [PROTON_DOSE, LET_DOSE] * ("letd" in quantities)
        sums = {kind: np.zeros(self.grid.size) for kind in kinds}
        for spot in np.flatnonzero(self.plan.weights > 0.0):
            weight = float(self.plan.weights[spot])
            for part in self.solutions(int(spot)):
                for kind, volume in sums.items():
                    self.voxels(*part, kind).add_to(volume, self.grid.shape[2], weight)
        found = {"dose": sums.get(DOSE)}
        if "letd" in quantities:
            protons = sums[PROTON_DOSE]
            found["letd"] = np.divide(
                sums[LET_DOSE], protons, out=np.zeros(protons.shape), where=protons > 0.0
            )
        return {q: found[q].astype(np.float32).reshape(self.grid.shape) for q in quantities}

    def solutions(self, spot: int) -> Iterator[tuple[Traced, Layer, Solved]]:
        """The parts of a spot: the main Gaussian of its phase space, and a second one if any."""
        traced, layer = self.trace(spot)
        yield traced, layer, self.solve(traced, layer)

    def layer(self, spot: int) -> Layer:
        plan = self.plan
        beam = plan.beams[plan.spot_beam[spot]]
        shifter = beam.range_shifter and plan.machine.range_shifter(beam.range_shifter)
        return layer_of(
            plan.machine, int(plan.spot_energy[spot]), self.physics, shifter or None,
            beam.shifter_exit_mm, beam.air_gap_mm,
        )  # fmt: skip

    def trace(self, spot: int) -> tuple[Traced, Layer]:
        plan = self.plan
        b = int(plan.spot_beam[spot])
        beam, machine, layer = plan.beams[b], plan.machine, self.layer(spot)
        sources = machine.virtual_sources_mm or (machine.virtual_source_mm,) * 2
        upstream = -machine.nozzle_to_isocenter_mm
        if beam.range_shifter is not None:
            upstream = float(beam.shifter_exit_mm)
        u, v = float(plan.u_mm[spot]), float(plan.v_mm[spot])
        axis = spot_axis(self.frames[b], sources, u, v, self.medium.grid, upstream)
        if axis is None:
            raise ValueError(self._misses(spot))
        a0, a1, a2 = layer.air_variance
        t = axis.t_mm
        parent = Moments(a0 + t * (a1 + t * a2), 0.5 * a1 + a2 * t, a2)
        traced = self._traced(axis, parent, self.scheme)
        if not traced.cells[:, :, fp.C].any():
            raise ValueError(self._misses(spot))
        return traced, layer

    def _misses(self, spot: int) -> str:
        plan = self.plan
        beam = plan.beams[plan.spot_beam[spot]]
        return (
            f"spot {spot} (u_mm={plan.u_mm[spot]:.1f}, v_mm={plan.v_mm[spot]:.1f}, gantry "
            f"{beam.gantry_deg:g}°) misses the patient; check isocenter and angles, or remove it."
        )

    def _traced(self, axis: SpotAxis, parent: Moments, scheme: RingScheme) -> Traced:
        parts = split(parent, scheme)
        n_cells = max(int(np.ceil(axis.length_mm / self.cell_mm)), 2)
        rays = ray_places(parts, parent, self.rays)
        starts = axis.start_mm + rays[:, :2] @ axis.axes[:2] - self.medium.grid.lower_mm
        directions = axis.axes[2] + rays[:, 2:] @ axis.axes[:2]
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        cells = np.empty((len(starts), n_cells, fp.N_COEFFICIENTS))
        cuts = _cuts(len(starts), threads())
        run_blocks(
            kernels.trace_block, threads(), cuts, starts, directions, self.cell_mm,
            self.medium.density_g_cm3, self.medium.material,
            np.array(self.medium.grid.spacing_mm[::-1]), self.table, cells,
        )  # fmt: skip
        return Traced(
            axis, parts.weight, parts.places, parts.moments, cells, self.cell_mm, parent
        )

    def solve(self, traced: Traced, layer: Layer) -> Solved:
        unique, which = _distinct(traced.cells)
        n, n_cells = len(unique), traced.cells.shape[1]
        cells = traced.cells[unique]
        released = layer.released
        solved = np.zeros((n, n_cells, SECONDARY + released.shape[1]))
        stations = np.zeros((n, n_cells + 1, fp.N_STATION))
        passed = np.zeros(n, np.int64)
        n_blocks = min(threads(), n)
        run_blocks(
            solve_block, n_blocks, _cuts(n, n_blocks), layer.spectrum, layer.edges,
            (layer.s_mm, layer.surviving), cells, self.physics.step_mm, (layer.axis.coefficients, layer.axis.logs), layer.moments,
            lever_tables(n_cells, traced.cell_mm), mixture_table(2), released,
            layer.released_per_mm, stations, solved, passed,
        )  # fmt: skip
        self.counts.n_spots += 1
        self.counts.n_beamlets += len(which)
        self.counts.n_solved += n
        which = which.reshape(len(traced.weight), -1)
        beamlets = np.empty((len(which), n_cells, solved.shape[2]))
        averaged(solved, which, beamlets)
        rays = which.shape[1]
        share = np.bincount(which.ravel(), np.repeat(traced.weight / rays, rays), n)
        mean_s = share @ stations[:, :, fp.WATER_MM]
        last = int(passed.max())
        if layer.secondaries is not None:  # they go on
            end = (len(released) - 1) / layer.released_per_mm
            last = max(last, int(np.searchsorted(mean_s, end)))
        return Solved(beamlets, mean_s, min(max(last, 2), n_cells))

    def voxels(self, traced: Traced, layer: Layer, solved: Solved, kind: int) -> Voxels:
        """One kind of dose in all voxels that the spot reaches, per proton."""
        grid, axis, cell, n_cells = self.grid, traced.axis, traced.cell_mm, solved.n_cells
        spacing, points = np.array(grid.spacing_mm[::-1]), self._points(traced)
        thickness = 1.0 / float(np.sum(np.abs(axis.axes[2]) / (spacing / points)))
        beamlets = np.empty((n_cells, 6, len(traced.weight)), np.float32)
        pack(
            solved.solved, kind, traced.weight, traced.places, traced.moments,
            self._voxel_variance(traced), thickness / cell, cell, GY_MM3_PER_MEV, beamlets,
        )  # fmt: skip
        wide = self._wide(traced, layer, solved, kind)
        reach = _reach_mm(beamlets)
        widest = WIDE_SIGMAS / np.sqrt(2.0 * wide[:, 1].min(initial=np.inf))
        row, first, count, offset = self._runs(
            axis, n_cells * cell, float(max(reach.max(), widest))
        )
        values = np.empty(offset[-1], np.float32)
        start = axis.start_mm - np.array(grid.origin_mm[::-1])
        run_blocks(
            kernels.deposit_block, N_BLOCKS, _cuts(len(row), N_BLOCKS), row, first, count, offset,
            np.concatenate([start[None], axis.axes]), grid.shape, spacing, cell, n_cells, beamlets,
            wide, (reach * reach).astype(np.float32), points,
            self._factors(layer, solved, kind), values,
        )  # fmt: skip
        return Voxels(row, first, count, offset, values)

    def _factors(self, layer: Layer, solved: Solved, kind: int) -> tuple:
        """What turns dose to water to dose to medium, or empty arrays."""
        to_medium = self.to_medium and kind == DOSE
        factor = self.table[:, :2] if to_medium else self.table[:0, :2]
        left_mm = np.maximum(layer.incoming.mean_mm - solved.mean_s_mm, 0.0) / STEP_MM
        index = np.minimum(left_mm.astype(int), len(layer.axis.coefficients) - 1)
        return (
            self.scored.density_g_cm3.ravel(), self.scored.material.ravel(),
            np.ascontiguousarray(factor[:, fp.C]), np.ascontiguousarray(factor[:, fp.D]),
            np.ascontiguousarray(layer.axis.coefficients[index, INVERSE_LOG]),
        )  # fmt: skip

    def _wide(self, traced: Traced, layer: Layer, solved: Solved, kind: int):
        """The secondaries' Gaussians around the axis, (n_cells, 2, J) float32."""
        n_cells, cell = solved.n_cells, traced.cell_mm
        if layer.secondaries is None:
            return np.zeros((n_cells, 2, 0), np.float32)
        found = layer.secondaries
        s = solved.mean_s_mm[: n_cells + 1]
        parts = _released(np.einsum("b,bnk->kn", traced.weight, solved.solved[:, :n_cells]), kind)
        depth = cell * (np.arange(n_cells) + 0.5)
        own = traced.parent.place + depth * (2.0 * traced.parent.cross + depth * traced.parent.angle)
        own = own + traced.weight @ solved.solved[:, :n_cells, CORE_SCATTER]
        stretch = _stretch(s - s[0], cell)
        variance = own + (found.sigma_mm[1:, None] * stretch) ** 2 + self._voxel_variance(traced)
        unit = GY_MM3_PER_MEV / (2.0 * np.pi)
        return np.ascontiguousarray(
            np.stack([unit * parts / variance, 0.5 / variance]).transpose(2, 0, 1), np.float32
        )

    def _voxel_variance(self, traced: Traced) -> float:
        """What averaging over a point's share of a voxel adds to a beamlet's variance, mm²."""
        fine = np.array(self.grid.spacing_mm[::-1]) / self._points(traced)
        return 0.5 * float(sum(((axis * fine) ** 2).sum() / 12.0 for axis in traced.axis.axes[:2]))

    def _points(self, traced: Traced) -> np.ndarray:
        """Points per voxel in x, y and z, (3,) int64."""
        narrowest = float(np.sqrt(traced.moments[:, 0].min()))
        spacing = np.array(self.grid.spacing_mm[::-1])
        return np.maximum(np.ceil(spacing / (SUB_VOXEL_SIGMAS * narrowest)), 1.0).astype(np.int64)

    def _runs(self, axis: SpotAxis, length_mm: float, reach_mm: float):
        """Runs of voxels around the axis, and where their values begin."""
        nz, ny, _ = self.grid.shape
        row, first, count = (np.empty(nz * ny, np.int64) for _ in range(3))
        start = axis.start_mm - np.array(self.grid.origin_mm[::-1])
        n = kernels.rows_around(
            np.stack([start, axis.axes[2]]), length_mm, reach_mm, self.grid.shape,
            np.array(self.grid.spacing_mm[::-1]), row, first, count,
        )  # fmt: skip
        offset = np.concatenate([[0], np.cumsum(count[:n])])
        return row[:n], first[:n], count[:n], offset


def _released(mean: np.ndarray, kind: int) -> np.ndarray:
    """What secondaries leave beside the axis per mm of water, by width, (J - 1, n_cells).

    ``mean`` (columns, n_cells) is the beamlets' mean; all widths have the same share of protons
    and the same LET.
    """
    parts, (protons, product) = mean[SECONDARY:-2], mean[-2:]
    if kind == DOSE:
        return parts[1:]
    whole = parts.sum(axis=0)
    of = protons if kind == PROTON_DOSE else product
    return parts[1:] * np.divide(of, whole, out=np.zeros(whole.size), where=whole > 0.0)


def _stretch(s_mm: np.ndarray, cell_mm: float) -> np.ndarray:
    """Geometric over water-equivalent depth since matter began, (n_cells,)."""
    middle = 0.5 * (s_mm[1:] + s_mm[:-1])
    first = int(np.argmax(middle > THIN_MM))
    depth = cell_mm * (np.arange(len(middle)) + 0.5 - first)
    ratio = np.divide(depth, middle, out=np.ones(len(middle)), where=middle > cell_mm)
    return np.clip(ratio, *STRETCH)


def _reach_mm(beamlets: np.ndarray) -> np.ndarray:
    """Distance from the axis at every depth beyond which beamlets are left out, (n_cells,)."""
    core = CORE_SIGMAS / np.sqrt(2.0 * beamlets[:, kernels.CORE_NARROW])
    tail = TAIL_SIGMAS / np.sqrt(2.0 * beamlets[:, kernels.TAIL_NARROW])
    away = np.hypot(beamlets[:, kernels.X], beamlets[:, kernels.Y])
    return (away + np.maximum(core, tail)).max(axis=1)


def _distinct(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First beamlet of every kind of materials on the axis, and the kind of each beamlet."""
    kinds: dict[bytes, int] = {}
    which = np.array([kinds.setdefault(c.tobytes(), len(kinds)) for c in cells])
    return np.array([int(np.argmax(which == k)) for k in range(len(kinds))]), which


def _cuts(n: int, n_blocks: int) -> np.ndarray:
    return np.linspace(0, n, n_blocks + 1).astype(np.int64)
