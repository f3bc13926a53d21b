"""Spots of a plan one by one: traced, solved, and their dose left in voxels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.progress import Progress
from engine.dose.yoda import _beamlets as kernels
from engine.dose.yoda import _fokker_planck as fp
from engine.dose.yoda._solve import (
    CORE_SCATTER,
    CORE_SHARE,
    DOSE,
    LET_DOSE,
    PROTON_DOSE,
    SECONDARY,
    THIN_MM,
    add_runs,
    pack,
    solve_block,
    take_runs,
)
from engine.dose.yoda.coefficients import material_coefficients
from engine.dose.yoda.layers import Layer, Physics, layer_of
from engine.dose.yoda.range_axis import INVERSE_LOG, STEP_MM
from engine.dose.yoda.splitting import RingScheme, scheme
from engine.dose.yoda.spots import (
    Split,
    SpotAxis,
    drift,
    lever_mm,
    probe,
    split,
    split_station,
    spot_axis,
    widened,
)
from engine.geometry.coordinates import BeamFrame, beam_frame
from engine.geometry.plan import Plan
from engine.geometry.scenarios import Scenario
from engine.machine.depth_kernels import HALO_ANGLE_RAD, HALO_FADES_MM
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
RADIUS_STEP_SIGMAS = 0.4  # of the narrowest: linear in between, to 2 % of what is wide
AROUND_SIGMAS = 4.0  # within which a spot enters the grid
NARROWEST_MM = 0.05  # what is narrower is a point in any voxel
MAX_POINTS = 6  # per voxel and axis
ALIGNED = 0.999  # cosine to an axis of the grid
N_BLOCKS = 16
NOWHERE = -1
# Where the water before beamlets spreads by no more than this many mm, so few beamlets are enough.
FEWER = ((0.1, "1"), (0.5, "1+6+6+12"))
LEAST_DOSE_SHARE = 1e-3  # of the secondaries': wide Gaussians with less do not set the reach
STRETCH = (0.3, 5.0)  # of the secondaries' widths, for density: limits


@dataclass
class Counts:
    """How many Fokker–Planck solves were made, how many beamlets took another's, and how many more
    solves told where to split."""

    n_spots: int = 0
    n_beamlets: int = 0
    n_solved: int = 0
    n_probed: int = 0

    @property
    def n_reused(self) -> int:
        return self.n_beamlets - self.n_solved


@dataclass(frozen=True, eq=False)
class Traced:
    """A spot's beamlets, and the materials on their rays."""

    axis: SpotAxis
    split: Split
    air: np.ndarray  # (n_cells + 1,) variance of the spot without scatter, at stations, mm²
    lever: np.ndarray  # (n_cells + 1,) mm, see ``Split``
    cells: np.ndarray  # (n, n_cells, N_COEFFICIENTS)
    cell_mm: float
    share: float = 1.0  # of the spot's protons
    probe: "Traced | None" = None  # rays by whose scatter the lever goes
    variance: np.ndarray | None = None  # (n_cells + 1,) of the core, with that scatter, mm²
    split_at: int = 0

    @cached_property
    def donor(self) -> np.ndarray:
        """Whose dose each beamlet takes in each cell, (n, n_cells), see ``donors``."""
        donor = np.empty(self.cells.shape[:2], np.int64)
        kernels.donors(self.cells, self.split.places, donor)
        return donor

    @cached_property
    def donated(self) -> np.ndarray:
        """Share of the protons that take each beamlet's dose in each cell, (n, n_cells)."""
        shares = np.zeros(self.donor.shape)
        np.add.at(
            shares, (self.donor, np.arange(shares.shape[1])), self.split.weight[:, None]
        )  # fmt: skip
        return shares


@dataclass(frozen=True, eq=False)
class Solved:
    """Solutions (n_unique, n_cells, columns), and which one each beamlet has, (n,)."""

    solved: np.ndarray
    stations: np.ndarray  # (n_unique, n_cells + 1, N_STATION)
    which: np.ndarray
    share: np.ndarray  # (n_unique,) of the protons
    dose_share: np.ndarray  # (n_unique, n_cells) of those that take its dose
    n_passed: int  # cells that primaries reach
    n_cells: int  # behind these there is no dose

    @property
    def mean(self) -> np.ndarray:
        """Mean of the beamlets, (columns, n_cells)."""
        solved = self.solved[:, : self.n_cells]
        mean = np.einsum("bn,bnk->kn", self.dose_share[:, : self.n_cells], solved)
        mean[CORE_SHARE:SECONDARY] = np.einsum(
            "b,bnk->kn", self.share, solved[:, :, CORE_SHARE:SECONDARY]
        )
        return mean

    @property
    def scatter_mm2(self) -> np.ndarray:
        """Variance of the core by scattering at stations, mean of the beamlets, (n_all + 1,)."""
        middle = self.share @ self.solved[:, :, CORE_SCATTER]
        return np.concatenate([[0.0], middles(middle), middle[-1:]])

    @property
    def water_mm(self) -> np.ndarray:
        """Water passed at stations, mean of the beamlets, (n_cells + 1,)."""
        return self.share @ self.stations[:, : self.n_cells + 1, fp.WATER_MM]


@dataclass(frozen=True, eq=False)
class Voxels:
    """Runs of voxels around a spot, and their values in order (n_values,) float32."""

    row: np.ndarray
    first: np.ndarray
    count: np.ndarray
    offset: np.ndarray  # (n_runs + 1,)
    values: np.ndarray
    share: float  # of the spot's protons

    def add_to(self, volume: np.ndarray, nx: int, weight: float) -> None:
        add_runs(
            self.row, self.first, self.count, self.offset, self.values, nx, weight * self.share,
            volume,
        )  # fmt: skip


def kept_entries(
    parts: Sequence[Voxels], volume: np.ndarray, nx: int, cutoff: float, rows: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Rows and Gy of a spot's entries, ascending, and its largest.

    What is smaller than ``cutoff`` of the largest is summed up along the voxels' order, and left as
    an entry of that size wherever so much has come together: the sum stays right to rounding, and
    what is so small moves along x by up to some centimeters.
    ``volume`` (n_voxels,) holds zeros, and does so again; ``rows`` (n_voxels,) is −1 for voxels
    that nobody asks for.
    """
    for part in parts:
        part.add_to(volume, nx, 1.0)
    room = sum(int(part.offset[-1]) for part in parts)
    row, gy = np.empty(room, np.uint32), np.empty(room, np.float32)
    top = max((float(part.values.max(initial=0.0)) * part.share for part in parts), default=0.0)
    n = 0
    for part in parts:  # voxels of the first are zeros for the second
        n = take_runs(
            part.row, part.first, part.count, nx, volume, rows, cutoff * top, n, row, gy
        )
    order = np.argsort(row[:n], kind="stable") if len(parts) > 1 else slice(None)
    return (row[:n][order].copy(), gy[:n][order].copy()), top


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
    to_medium: bool
    frames: tuple[BeamFrame, ...]
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def of(
        cls, patient: Patient, plan: Plan, grid: Grid, scenario: Scenario,
        calibration: Calibration, physics: Physics, scheme: RingScheme, adaptive: bool,
        depth_step_mm: float, to_medium: bool,
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
            float(cell_mm), to_medium, frames,
        )  # fmt: skip

    def dose(
        self, quantities: Sequence[str], progress: Callable[[Progress], None] | None = None
    ) -> dict[str, np.ndarray]:
        """Quantities of the whole plan (nz, ny, nx) float32."""
        kinds = [DOSE] * ("dose" in quantities) + [PROTON_DOSE, LET_DOSE] * ("letd" in quantities)
        sums = {kind: np.zeros(self.grid.size) for kind in kinds}
        spots = np.flatnonzero(self.plan.weights > 0.0)
        for done, spot in enumerate(spots, 1):
            weight = float(self.plan.weights[spot])
            for part in self.solutions(int(spot)):
                for kind, volume in sums.items():
                    self.voxels(*part, kind).add_to(volume, self.grid.shape[2], weight)
            _tell(progress, done, len(spots))
        found = {"dose": sums.get(DOSE)}
        if "letd" in quantities:
            protons = sums[PROTON_DOSE]
            found["letd"] = np.divide(
                sums[LET_DOSE], protons, out=np.zeros(protons.shape), where=protons > 0.0
            )
        return {q: found[q].astype(np.float32).reshape(self.grid.shape) for q in quantities}

    def influence(
        self, voxels: np.ndarray, cutoff: float, progress: Callable[[Progress], None] | None = None
    ) -> InfluenceMatrix:
        """Gy per particle in ``voxels`` (n_rows,); entries below ``cutoff`` of a spot's largest are
        gathered, see ``kept_entries``."""
        rows = np.full(self.grid.size, NOWHERE, np.int32)
        rows[voxels] = np.arange(len(voxels), dtype=np.int32)
        n_spots = self.plan.n_spots
        starts, tops = np.zeros(n_spots + 1, np.int64), np.zeros(n_spots, np.float32)
        found = []
        volume = np.zeros(self.grid.size, np.float32)
        for spot in range(n_spots):
            parts = [self.voxels(*part, DOSE) for part in self.solutions(spot)]
            entries, tops[spot] = kept_entries(parts, volume, self.grid.shape[2], cutoff, rows)
            found.append(entries)
            starts[spot + 1] = starts[spot] + len(entries[0])
            _tell(progress, spot + 1, n_spots)
        beam_starts = np.searchsorted(self.plan.spot_beam, np.arange(len(self.plan.beams) + 1))
        return InfluenceMatrix.from_columns(
            self.grid, voxels, beam_starts, starts, np.concatenate([r for r, _ in found]),
            np.concatenate([gy for _, gy in found]), tops,
        )  # fmt: skip

    def solutions(self, spot: int) -> Iterator[tuple[Traced, Layer, Solved]]:
        """The parts of a spot: the main Gaussian of its phase space, and a second one if any."""
        layer = self.layer(spot)
        axis = self.axis(spot, layer)
        t = axis.t_mm + self.cell_mm * np.arange(self._n_cells(axis) + 1)
        for share, (a0, a1, a2), parts in self._gaussians(spot, layer):
            air = a0 + t * (a1 + t * a2)
            traced = self._traced(axis, layer, air, parts, share)
            if not traced.cells[:, :, fp.C].any():
                raise ValueError(self._misses(spot))
            yield traced, layer, self.solve(traced, layer)

    def layer(self, spot: int) -> Layer:
        """What a spot's energy and range shifter make of its protons before the patient."""
        plan = self.plan
        beam = plan.beams[plan.spot_beam[spot]]
        shifter = beam.range_shifter and plan.machine.range_shifter(beam.range_shifter)
        return layer_of(
            plan.machine, int(plan.spot_energy[spot]), self.physics, shifter or None,
            beam.shifter_exit_mm, beam.air_gap_mm,
        )  # fmt: skip

    def axis(self, spot: int, layer: Layer) -> SpotAxis:
        """A spot's axis from where the first of its protons enter the grid."""
        plan, machine = self.plan, self.plan.machine
        b = int(plan.spot_beam[spot])
        exit_mm = plan.beams[b].shifter_exit_mm if plan.beams[b].range_shifter else None
        upstream = -machine.nozzle_to_isocenter_mm if exit_mm is None else exit_mm
        sources = machine.virtual_sources_mm or (machine.virtual_source_mm,) * 2
        u, v = float(plan.u_mm[spot]), float(plan.v_mm[spot])
        axis = spot_axis(self.frames[b], sources, u, v, self.medium.grid, upstream)
        if axis is None:
            raise ValueError(self._misses(spot))
        a0, a1, a2 = layer.air_variance
        radius = AROUND_SIGMAS * np.sqrt(a0 + axis.t_mm * (a1 + axis.t_mm * a2))
        return widened(axis, float(radius), self.cell_mm, self.medium.grid, upstream)

    def _n_cells(self, axis: SpotAxis) -> int:
        return max(int(np.ceil(axis.length_mm / self.cell_mm)), 2)

    def _gaussians(self, spot: int, layer: Layer) -> Iterator[tuple]:
        """Share of the protons, variance in air and beamlets of each Gaussian of a spot."""
        machine, index = self.plan.machine, int(self.plan.spot_energy[spot])
        more = machine.second_gaussian
        share = 0.0 if more is None else float(more.weight[index])
        if share < 1.0:
            yield 1.0 - share, layer.air_variance, split(self.scheme)
        if share > 0.0:  # what a range shifter adds is the same for both
            moments = more.variance_mm2, more.covariance_mm_rad, more.angle_variance_rad2
            first = (
                machine.nozzle_variance_mm2, machine.nozzle_covariance_mm_rad,
                machine.nozzle_angle_variance_rad2,
            )  # fmt: skip
            apart = [float(m[index] - f[index]) for m, f in zip(moments, first)]
            added = drift(*apart, machine.nozzle_to_isocenter_mm)
            yield share, tuple(np.add(layer.air_variance, added)), split(self.scheme)

    def _misses(self, spot: int) -> str:
        plan = self.plan
        beam = plan.beams[plan.spot_beam[spot]]
        return (
            f"spot {spot} (u_mm={plan.u_mm[spot]:.1f}, v_mm={plan.v_mm[spot]:.1f}, gantry "
            f"{beam.gantry_deg:g}°) misses the patient; check isocenter and angles, or remove it."
        )

    def _traced(
        self, axis: SpotAxis, layer: Layer, air: np.ndarray, parts: Split, share: float
    ) -> Traced:
        """The materials along beamlets, split as finely and as deep as what lies ahead asks for."""
        sigma = np.sqrt(air)
        if len(parts.weight) == 1:
            return self._unsplit(axis, air, share)
        rays = Traced(
            axis, probe(), air, sigma, self.materials_on_rays(axis, probe(), sigma), self.cell_mm
        )
        found = self.solve(rays, layer, of_probe=True)
        variance = air + found.scatter_mm2
        sigma, n = np.sqrt(variance), found.n_passed
        water = self.materials_on_rays(axis, parts, sigma)[:, :n, fp.C]
        if self.adaptive:
            wanted, parts = parts, self._fewer(parts, water)
            if len(parts.weight) == 1:
                return self._unsplit(axis, air, share)
            if parts is not wanted:
                water = self.materials_on_rays(axis, parts, sigma)[:, :n, fp.C]
        range_mm = layer.incoming.mean_mm - layer.s_mm
        split_at = split_station(water, parts, variance, range_mm)
        lever = lever_mm(variance, split_at)
        cells = self.materials_on_rays(axis, parts, lever)
        return Traced(axis, parts, air, lever, cells, self.cell_mm, share, rays, variance, split_at)

    def _unsplit(self, axis: SpotAxis, air: np.ndarray, share: float) -> Traced:
        """The whole spot as one beamlet."""
        alone, lever = split(scheme("1")), np.sqrt(air)
        cells = self.materials_on_rays(axis, alone, lever)
        return Traced(axis, alone, air, lever, cells, self.cell_mm, share)

    def _fewer(self, parts: Split, water: np.ndarray) -> Split:
        """Beamlets for the matter ahead, at most ``parts``; ``water`` (n, n_cells) is theirs."""
        passed = np.cumsum(water, axis=1)
        apart = passed - parts.weight @ passed
        spread_mm = float(np.sqrt((parts.weight @ apart**2).max(initial=0.0)))
        for limit_mm, name in FEWER:
            fewer = split(scheme(name))
            if spread_mm <= limit_mm and len(fewer.weight) < len(parts.weight):
                return fewer
        return parts

    def materials_on_rays(self, axis: SpotAxis, parts: Split, lever: np.ndarray) -> np.ndarray:
        """Materials along the rays of beamlets, (n, n_cells, N_COEFFICIENTS)."""
        lateral = parts.places[:, None, :] * lever[None, :, None]
        axes = np.concatenate([(axis.start_mm - self.medium.grid.lower_mm)[None], axis.axes])
        cells = np.empty((len(lateral), len(lever) - 1, fp.N_COEFFICIENTS))
        n_blocks = min(threads(), len(lateral))
        run_blocks(
            kernels.trace_block, n_blocks, cuts_of(len(lateral), n_blocks), axes, self.cell_mm,
            lateral, self.medium.density_g_cm3, self.medium.material,
            np.array(self.medium.grid.spacing_mm[::-1]), self.table, cells,
        )  # fmt: skip
        return cells

    def solve(self, traced: Traced, layer: Layer, of_probe: bool = False) -> Solved:
        """One Fokker–Planck solve for every kind of materials on a ray."""
        unique, which = distinct(traced.cells)
        n, n_cells = len(unique), traced.cells.shape[1]
        released = layer.released
        solved = np.zeros((n, n_cells, SECONDARY + released.shape[1]))
        stations = np.zeros((n, n_cells + 1, fp.N_STATION))
        passed = np.zeros(n, np.int64)
        n_blocks = min(threads(), n)
        run_blocks(
            solve_block, n_blocks, cuts_of(n, n_blocks), layer.spectrum, layer.edges,
            layer.start,
            traced.cells[unique], layer.step_mm,
            (layer.axis.coefficients, layer.axis.logs), layer.moments,
            lever_tables(n_cells, traced.cell_mm), mixture_table(2), released,
            layer.released_per_mm, stations, solved, passed,
        )  # fmt: skip
        if of_probe:
            self.counts.n_probed += n
        else:
            self.counts.n_spots += 1
            self.counts.n_beamlets += len(which)
            self.counts.n_solved += n
        share = np.bincount(which, traced.split.weight, n)
        dose_share = np.zeros((n, n_cells))
        np.add.at(dose_share, which, traced.donated)
        last = int(passed.max())
        if layer.secondaries is not None:  # they go on
            end = (len(released) - 1) / layer.released_per_mm
            last = max(last, int(np.searchsorted(share @ stations[:, :, fp.WATER_MM], end)))
        return Solved(
            solved, stations, which, share, dose_share, int(passed.max()),
            min(max(last, 2), n_cells),
        )

    def voxels(self, traced: Traced, layer: Layer, solved: Solved, kind: int) -> Voxels:
        """One kind of dose in all voxels that the spot reaches, per proton."""
        grid, axis, cell, n_cells = self.grid, traced.axis, traced.cell_mm, solved.n_cells
        spacing, points = np.array(grid.spacing_mm[::-1]), self.points_per_voxel(traced)
        thickness = 1.0 / float(np.sum(np.abs(axis.axes[2]) / (spacing / points)))
        parts = traced.split
        beamlets = np.empty((n_cells, 6, len(parts.weight)), np.float32)
        pack(
            solved.solved, solved.which, traced.donor, kind, parts.weight, parts.places,
            parts.narrower, middles(traced.air), middles(traced.lever),
            self.point_variance(traced), thickness / cell, GY_MM3_PER_MEV, beamlets,
        )  # fmt: skip
        wide = self.secondaries_around(traced, layer, solved, kind)
        reach = reach_mm(beamlets)
        widest = WIDE_SIGMAS * widest_mm(wide)
        row, first, count, offset = self.runs_around(
            axis, n_cells * cell, float(max(reach.max(), widest))
        )
        values = np.empty(offset[-1], np.float32)
        start = axis.start_mm - np.array(grid.origin_mm[::-1])
        run_blocks(
            kernels.deposit_block, N_BLOCKS, cuts_of(len(row), N_BLOCKS), row, first, count, offset,
            np.concatenate([start[None], axis.axes]), grid.shape, spacing, cell, n_cells, beamlets,
            *radial_sums(wide), (reach * reach).astype(np.float32),
            _offsets(spacing, points, axis.axes, cell),
            self._factors(layer, solved, kind), values,
        )  # fmt: skip
        return Voxels(row, first, count, offset, values, traced.share)

    def _factors(self, layer: Layer, solved: Solved, kind: int) -> tuple:
        """What turns dose to water to dose to medium, or empty arrays."""
        to_medium = self.to_medium and kind == DOSE
        factor = self.table[:, :2] if to_medium else self.table[:0, :2]
        left_mm = np.maximum(layer.incoming.mean_mm - solved.water_mm, 0.0) / STEP_MM
        index = np.minimum(left_mm.astype(int), len(layer.axis.coefficients) - 1)
        return (
            self.scored.density_g_cm3.ravel(), self.scored.material.ravel(),
            np.ascontiguousarray(factor[:, fp.C]), np.ascontiguousarray(factor[:, fp.D]),
            np.ascontiguousarray(layer.axis.coefficients[index, INVERSE_LOG]),
        )  # fmt: skip

    def secondaries_around(self, traced: Traced, layer: Layer, solved: Solved, kind: int):
        """The secondaries' Gaussians around the axis, (n_cells, 2, J) float32."""
        n_cells, cell = solved.n_cells, traced.cell_mm
        if layer.secondaries is None:
            return np.zeros((n_cells, 2, 0), np.float32)
        water_mm, mean = solved.water_mm, solved.mean
        own = middles(traced.air)[:n_cells] + mean[CORE_SCATTER]
        stretch = _stretch(water_mm - water_mm[0], cell)
        sigma = layer.secondaries.sigma_mm[1:, None] * stretch
        variance = own + sigma**2 + self.point_variance(traced)
        parts = GY_MM3_PER_MEV / (2.0 * np.pi) * _released(mean, kind)
        shares, gap_mm2 = behind_gap(traced, layer, water_mm)
        wide = [(parts * f / (variance + g), 0.5 / (variance + g)) for f, g in zip(shares, gap_mm2)]
        return np.ascontiguousarray(
            np.concatenate([np.stack(w) for w in wide], axis=1).transpose(2, 0, 1), np.float32
        )

    def point_variance(self, traced: Traced) -> float:
        """What averaging over a point's share of a voxel adds to a beamlet's variance, mm²."""
        fine = np.array(self.grid.spacing_mm[::-1]) / self.points_per_voxel(traced)
        return 0.5 * float(sum(((axis * fine) ** 2).sum() / 12.0 for axis in traced.axis.axes[:2]))

    def points_per_voxel(self, traced: Traced) -> np.ndarray:
        """Points per voxel in x, y and z, (3,) int64, at most MAX_POINTS each."""
        narrower, square = float(traced.split.narrower.max()), traced.lever**2
        own = np.maximum(traced.air - narrower * square, 0.5 * (1.0 - narrower) * square)
        narrowest = max(float(np.sqrt(own.min())), NARROWEST_MM)
        spacing = np.array(self.grid.spacing_mm[::-1])
        points = np.clip(np.ceil(spacing / (SUB_VOXEL_SIGMAS * narrowest)), 1.0, MAX_POINTS)
        along = np.abs(traced.axis.axes[2])
        if along.max() > ALIGNED:  # cells no shorter than points are far apart blur nothing
            i = int(np.argmax(along))
            points[i] = np.ceil(spacing[i] / self.cell_mm - 1e-9)
        return points.astype(np.int64)

    def runs_around(self, axis: SpotAxis, length_mm: float, reach_mm: float):
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


def _tell(progress: Callable[[Progress], None] | None, done: int, n_spots: int) -> None:
    if progress is not None:
        progress(Progress(done, n_spots, "spots"))


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


def widest_mm(wide: np.ndarray) -> float:
    """Largest σ around the axis, of what has a share of the dose there; 0 if nothing has."""
    doses = (wide[:, 0] / np.maximum(wide[:, 1], 1e-12)).sum(axis=0)
    some = doses > LEAST_DOSE_SHARE * doses.sum()
    return float(1.0 / np.sqrt(2.0 * wide[:, 1][:, some].min())) if some.any() else 0.0


def radial_sums(wide: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Sums of the Gaussians around the axis over radius (n_cells, n_radii), and radii per mm."""
    if wide.shape[2] == 0:
        return np.zeros((len(wide), 1), np.float32), np.float32(1.0)
    sigma = 1.0 / np.sqrt(2.0 * wide[:, 1])
    step = np.float32(RADIUS_STEP_SIGMAS * sigma.min())
    table = np.empty((len(wide), int(WIDE_SIGMAS * widest_mm(wide) / step) + 2), np.float32)
    run_blocks(kernels.radial_block, N_BLOCKS, cuts_of(len(wide), N_BLOCKS), wide, step, table)
    return table, np.float32(1.0) / step


def _stretch(s_mm: np.ndarray, cell_mm: float) -> np.ndarray:
    """Geometric over water-equivalent depth since matter began, (n_cells,)."""
    middle = 0.5 * (s_mm[1:] + s_mm[:-1])
    first = int(np.argmax(middle > THIN_MM))
    depth = cell_mm * (np.arange(len(middle)) + 0.5 - first)
    ratio = np.divide(depth, middle, out=np.ones(len(middle)), where=middle > cell_mm)
    return np.clip(ratio, *STRETCH)


def _offsets(spacing: np.ndarray, points: np.ndarray, axes: np.ndarray, cell_mm: float):
    """Where points lie in a voxel, (n, 3): along two lateral axes in mm, and along it in cells."""
    along = [s * ((np.arange(n) + 0.5) / n - 0.5) for s, n in zip(spacing, points)]
    return np.stack(np.meshgrid(*along), axis=-1).reshape(-1, 3) @ axes.T / [1.0, 1.0, cell_mm]


def reach_mm(beamlets: np.ndarray) -> np.ndarray:
    """Distance from the axis at every depth beyond which beamlets are left out, (n_cells,)."""
    core = CORE_SIGMAS / np.sqrt(2.0 * beamlets[:, kernels.CORE_NARROW])
    tail = TAIL_SIGMAS / np.sqrt(2.0 * beamlets[:, kernels.TAIL_NARROW])
    away = np.hypot(beamlets[:, kernels.X], beamlets[:, kernels.Y])
    return (away + np.maximum(core, tail)).max(axis=1)


def distinct(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First beamlet of every kind of materials on the axis, and the kind of each beamlet."""
    kinds: dict[bytes, int] = {}
    rounded = cells.astype(np.float32)  # rays through other voxels of the same matter are alike
    which = np.array([kinds.setdefault(c.tobytes(), len(kinds)) for c in rounded])
    return np.array([int(np.argmax(which == k)) for k in range(len(kinds))]), which


def behind_gap(traced: Traced, layer: Layer, water_mm: np.ndarray) -> tuple[list, list]:
    """Shares of the secondaries (n_cells,), and what a gap adds to their variance, mm².

    Of those made in the patient, then, if there is one, of those of a range shifter before a gap.

    The latter's angle, and how soon they stop, are the pencil beam's.
    """
    inside = middles(water_mm) - water_mm[0]
    if layer.exit_mm is None:
        return [np.ones(len(inside))], [0.0]
    gap_mm = traced.axis.t_mm + traced.cell_mm * int(np.argmax(inside > THIN_MM)) - layer.exit_mm
    shifted = np.exp(-inside / HALO_FADES_MM)
    return [1.0 - shifted, shifted], [0.0, (HALO_ANGLE_RAD * gap_mm) ** 2]


def middles(stations: np.ndarray) -> np.ndarray:
    """Values in the middle of cells from those at their ends."""
    return 0.5 * (stations[1:] + stations[:-1])


def cuts_of(n: int, n_blocks: int) -> np.ndarray:
    return np.linspace(0, n, n_blocks + 1).astype(np.int64)
