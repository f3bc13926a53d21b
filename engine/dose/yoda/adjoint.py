"""What a change of the CT or of the spots does to a dose, from one forward and one adjoint solve.

For a functional J = Σ w D of the dose to water, the adjoint method of Burlacu et al. 2024 (section
2.4), here as the exact discrete adjoint of what the engine does: every CT voxel gets the
derivative of J with respect to each of its coefficients (density times ``material_coefficients``),
so that another CT costs seven inner products. A voxel's own density has no direct part: dose to
water changes through the rays alone.

Held as they are, since they jump: when steps are taken, at which depth beamlets are split, how far
Gaussians reach, which voxels have matter to score in. What rays meet when they move, with a spot or
with its scattering, is a central difference over a voxel, for along them matter jumps, too.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from engine.dose.yoda import _adjoint_voxels as kernels
from engine.dose.yoda import _fokker_planck as fp
from engine.dose.yoda._adjoint import (
    backward_arrays,
    march_adjoint,
    recorded_march,
    tape_arrays,
    unroll_block,
)
from engine.dose.yoda._beamlets import trace_block
from engine.dose.yoda._solve import CORE_SCATTER, DOSE, SECONDARY, THIN_MM, pack, work_arrays
from engine.dose.yoda.coefficients import material_coefficients
from engine.dose.yoda.engine import YodaEngine
from engine.dose.yoda.layers import Layer, released_columns, shifter_cells
from engine.dose.yoda.secondaries import LIMITS_MEV, secondary_dose
from engine.dose.yoda.solution import (
    GY_MM3_PER_MEV,
    STRETCH,
    WIDE_SIGMAS,
    Setup,
    Solved,
    Traced,
    behind_gap,
    cuts_of,
    distinct,
    middles,
    radial_sums,
    reach_mm,
    widest_mm,
)
from engine.dose.yoda.spectrum import projected
from engine.dose.yoda.spots import SpotAxis
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.ion import RangeShifter
from engine.parallel import run_blocks, threads
from engine.patient.ct import MAX_HU, MIN_HU, overrides
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.medium import medium_of
from engine.patient.patient import Patient
from engine.physics.materials import water
from engine.physics.moliere import lever_tables, mixture_table
from engine.physics.stopping_power import csda_range_mm

ENERGY_STEP_MEV = 0.2  # of the central difference of incoming spectra
SHARES = 0.5  # of a voxel, by which rays are shifted either way


@dataclass(frozen=True, eq=False)
class DoseAdjoint:
    """A functional of the dose on the planning CT, Gy, and its derivatives.

    ``spot_weight_gradient`` (n_spots,) is Gy per proton; spots without weight have NaN in all
    three. ``spot_position_gradient`` (n_spots, 2) is Gy per mm of u and v in the isocenter plane,
    ``spot_energy_gradient`` (n_spots,) Gy per MeV at a constant energy spread and optics. Only
    ``voxels`` (n,), flat indices of the CT, that a ray meets have a gradient, ``per_voxel``
    (n, N_COEFFICIENTS).
    """

    value: float
    spot_weight_gradient: np.ndarray
    spot_position_gradient: np.ndarray
    spot_energy_gradient: np.ndarray
    voxels: np.ndarray
    per_voxel: np.ndarray
    patient: Patient = field(repr=False)
    engine: YodaEngine = field(repr=False)
    density_scale: float = 1.0

    @property
    def gradient(self) -> np.ndarray:
        """Of every mass coefficient of the CT's voxels, (N_COEFFICIENTS, nz, ny, nx).

        Gy per unit of density in g/cm³ times the columns of ``material_coefficients``.
        """
        dense = np.zeros((fp.N_COEFFICIENTS, self.patient.grid.size))
        dense[:, self.voxels] = self.per_voxel.T
        return dense.reshape(fp.N_COEFFICIENTS, *self.patient.grid.shape)

    def change(self, repeat: Patient) -> float:
        """Predicted change of the functional on a repeat CT of the same grid, Gy; first order.

        Structures' material overrides and the external of the repeat count, as in a dose.
        """
        if repeat.grid != self.patient.grid:
            raise ValueError(
                f"the repeat CT {repeat.name!r} lies on {repeat.grid}, the planning CT on "
                f"{self.patient.grid}; resample it to the planning CT's grid."
            )
        return self._product(repeat) - self._planned

    @cached_property
    def _planned(self) -> float:
        return self._product(self.patient)

    def _product(self, patient: Patient) -> float:
        """Σ gradient · coefficients of a CT, looked up where there is a gradient."""
        calibration = self.engine.calibration
        if isinstance(calibration, KnownMedium):  # answers for whole volumes only
            medium = medium_of(patient, calibration)
            density, material = (
                a.ravel()[self.voxels] for a in (medium.density_g_cm3, medium.material)
            )
            materials = list(medium.materials)
        else:
            density, material, materials = self._looked_up(patient)
        table = _coefficients(materials, self.engine)
        return self.density_scale * kernels.inner_product(
            self.per_voxel, density, np.asarray(material, np.int64), table
        )

    def _looked_up(self, patient: Patient):
        """Density and material (n,), index into the materials, as ``medium_of`` has them."""
        calibration, hu = self.engine.calibration, patient.hu.ravel()[self.voxels]
        if not np.all(np.isfinite(hu)):
            raise ValueError(f"hu of {patient.name!r} holds NaN or infinite values; repair the CT.")
        density = calibration.density_g_cm3(hu)
        material = calibration.composition(hu).astype(np.int64)
        materials = list(calibration.materials)
        for mask, by in overrides(patient):
            inside = mask.ravel()[self.voxels]
            density[inside], material[inside] = by.density_g_cm3, len(materials)
            materials.append(by)
        return density * self._filled(patient), material, materials

    def _filled(self, patient: Patient) -> np.ndarray:
        """Whether the external or a support fills the voxels with a gradient, (n,)."""
        masks = [s.mask for s in patient.structures.values() if s.role in ("external", "support")]
        return np.logical_or.reduce([mask.ravel()[self.voxels] for mask in masks])

    def hu_gradient(self, step_hu: float = 10.0) -> np.ndarray:
        """Gy per HU of every CT voxel, (nz, ny, nx), by a central difference of the calibration.

        Compositions jump at some HU, which a larger step smooths. Zero where an override or
        vacuum hides the CT.
        """
        if not step_hu >= 1.0:
            raise ValueError(f"step_hu={step_hu} must be 1 or more; HU are rounded to whole ones.")
        calibration, planned = self.engine.calibration, self.patient.hu.ravel()[self.voxels]
        if isinstance(calibration, KnownMedium):
            raise ValueError("calibration is a KnownMedium, which has no HU; use ``gradient``.")
        table = _coefficients(calibration.materials, self.engine)
        low, high = (np.clip(planned + by, MIN_HU, MAX_HU) for by in (-step_hu, step_hu))
        rise = np.zeros(len(self.voxels))
        for hu, sign in ((high, 1.0), (low, -1.0)):
            rows = table[calibration.composition(hu)]
            density = calibration.density_g_cm3(hu).astype(np.float64)
            rise += sign * density * np.einsum("nk,nk->n", self.per_voxel, rows)
        rise *= self.density_scale * self._filled(self.patient)
        for mask, _ in overrides(self.patient):
            rise[mask.ravel()[self.voxels]] = 0.0
        dense = np.zeros(self.patient.grid.size)
        np.divide(rise, high - low, out=rise, where=high > low)
        dense[self.voxels] = np.where(high > low, rise, 0.0)
        return dense.reshape(self.patient.grid.shape)


def mean_dose_weights(mask: np.ndarray) -> np.ndarray:
    """Weights of the mean dose of a structure, (nz, ny, nx), from its mask."""
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        raise ValueError("mask is empty; the mean dose of no voxel is not defined.")
    return mask / np.count_nonzero(mask)


def dose_adjoint(
    engine: YodaEngine, patient: Patient, plan: Plan, grid: Grid, weights: np.ndarray,
    scenario: Scenario = NOMINAL,
) -> DoseAdjoint:  # fmt: skip
    """Value and derivatives of Σ weights · dose, ``weights`` (nz, ny, nx) on the dose grid.

    All spots are split as finely as ``engine.scheme`` says, since matter that now looks alike to
    all beamlets may differ in a repeat CT: the value is that of an engine that is not ``adaptive``.
    """
    engine = replace(engine, adaptive=False)
    weights = _checked(engine, plan, grid, weights, scenario)
    setup = engine.setup(patient, plan, grid, scenario, engine.scheme)
    backwards = _Backwards(setup, weights)
    for spot in np.flatnonzero(plan.weights > 0.0):
        backwards.spot(int(spot))
    voxels = np.flatnonzero(backwards.per_voxel.any(axis=1))
    loaded = plan.weights > 0.0
    return DoseAdjoint(
        float(plan.weights[loaded] @ backwards.per_proton[loaded]), backwards.per_proton,
        backwards.position, backwards.energy, voxels, backwards.per_voxel[voxels], patient, engine,
        scenario.density_scale,
    )  # fmt: skip


def _checked(engine, plan, grid, weights, scenario) -> np.ndarray:
    engine.check(plan, scenario, ("dose",), ("dose",))
    if engine.scores != "dose to water":
        raise ValueError(
            f"scores={engine.scores!r} has no adjoint; use an engine that scores dose to water."
        )
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != grid.shape:
        raise ValueError(
            f"weights have shape {weights.shape}, the dose grid {grid.shape}; give one per voxel."
        )
    if not np.all(np.isfinite(weights)):
        n_bad = int(np.count_nonzero(~np.isfinite(weights)))
        raise ValueError(f"weights hold {n_bad} NaN or infinite values; give finite ones.")
    return weights


def _coefficients(materials, engine: YodaEngine) -> np.ndarray:
    return _known_coefficients(
        tuple(materials), engine.i_water_ev, engine.scattering, engine.nuclear
    )


@lru_cache(maxsize=64)
def _known_coefficients(materials, i_water_ev, scattering, nuclear) -> np.ndarray:
    return material_coefficients(materials, i_water_ev, scattering, nuclear)


@dataclass(frozen=True, eq=False)
class _Bars:
    """Derivatives of a spot's functional, per proton."""

    value: float
    solved: np.ndarray  # (n, n_cells in all, columns), of each beamlet by itself
    lever: np.ndarray  # (n_cells,) in the middle of cells that have dose
    center: np.ndarray  # (n_cells, 2) place of the secondaries' Gaussians
    places: np.ndarray  # (n_cells, 2) places of all beamlets together
    water: np.ndarray  # (n_cells in all + 1,) mean water passed at stations


@dataclass(frozen=True, eq=False)
class _Unrolled:
    """The same for what beamlets began with: materials, spectrum, s, water, protons, released."""

    cells: np.ndarray
    spectrum: np.ndarray
    start: np.ndarray  # (3,)
    released: np.ndarray


class _Backwards:
    """Sums of derivatives over the spots of a plan."""

    def __init__(self, setup: Setup, weights: np.ndarray):
        n = setup.plan.n_spots
        self.setup = setup
        self.weights = weights.ravel()
        self.per_voxel = np.zeros((setup.medium.grid.size, fp.N_COEFFICIENTS))
        self.per_proton = np.full(n, np.nan)
        self.position, self.energy = np.full((n, 2), np.nan), np.full(n, np.nan)

    def spot(self, spot: int) -> None:
        """Add one spot's part."""
        self.per_proton[spot] = self.energy[spot] = 0.0
        self.position[spot] = 0.0
        for traced, layer, solved in self.setup.solutions(spot):
            self._part(spot, traced, layer, solved)

    def _part(self, spot: int, traced: Traced, layer: Layer, solved: Solved) -> None:
        weight = traced.share * float(self.setup.plan.weights[spot])
        bars = self._beamlets(traced, layer, solved)
        rays = self._unrolled(traced, layer, bars.solved, bars.water)
        self._to_voxels(traced.axis, traced.split.places, traced.lever, rays, weight)
        moves = self._moves(spot, traced.axis, len(traced.lever))
        parts = [rays]
        middles = 0.5 * (moves[:, 1:] + moves[:, :-1])[:, : len(bars.places)]
        found = np.einsum("umi,mi->u", middles, bars.places + bars.center)
        found += self._shifted(traced.axis, traced.split.places, traced.lever, moves, rays)
        if len(traced.split.weight) > 1:
            lever_bar = bars.lever + self._bent(traced, rays)[: len(bars.lever)]
            found_by, probed = traced.probe, self._probe(traced, layer, lever_bar)
            places, lever = found_by.split.places, found_by.lever
            self._to_voxels(traced.axis, places, lever, probed, weight)
            found += self._shifted(traced.axis, places, lever, moves, probed)
            parts.append(probed)
        self.per_proton[spot] += traced.share * bars.value
        self.position[spot] += weight * found
        self.energy[spot] += weight * sum(self._per_mev(spot, layer, part) for part in parts)

    def _beamlets(self, traced: Traced, layer: Layer, solved: Solved) -> _Bars:
        """Backwards from the voxels to the beamlets' solutions."""
        setup, parts, n_cells = self.setup, traced.split, solved.n_cells
        n, columns = len(parts.weight), solved.solved.shape[2]
        packed = np.empty((n_cells, 6, n), np.float32)
        air, lever = middles(traced.air), middles(traced.lever)
        voxel = setup.point_variance(traced)
        thickness = _thickness_mm(setup, traced) / traced.cell_mm
        pack(
            solved.solved, solved.which, traced.donor, DOSE, parts.weight, parts.places,
            parts.narrower, air, lever, voxel, thickness, GY_MM3_PER_MEV, packed,
        )  # fmt: skip
        wide = setup.secondaries_around(traced, layer, solved, DOSE)
        bars, wide_bar, center_bar, value = self._voxels(traced, packed, wide, n_cells)
        solved_bar = np.zeros((n, traced.cells.shape[1], columns))
        lever_bar = np.zeros(n_cells)
        kernels.pack_adjoint(
            solved.solved, solved.which, traced.donor, parts.weight, parts.places,
            parts.narrower, air, lever, voxel, thickness, GY_MM3_PER_MEV, bars, solved_bar,
            lever_bar,
        )  # fmt: skip
        water_bar = np.zeros(traced.cells.shape[1] + 1)
        if layer.secondaries is not None:
            self._wide(traced, layer, solved, wide_bar, solved_bar, water_bar)
        return _Bars(
            value, solved_bar, lever_bar, center_bar, bars[:, :, :2].sum(axis=1), water_bar
        )  # fmt: skip

    def _voxels(self, traced: Traced, packed: np.ndarray, wide: np.ndarray, n_cells: int):
        """Backwards through the deposit: bars of beamlets (n_cells, n, 6), of the secondaries'
        Gaussians (n_cells, 2, J) and their center (n_cells, 2), and the value."""
        setup, axis, cell = self.setup, traced.axis, traced.cell_mm
        reach = reach_mm(packed)
        widest = WIDE_SIGMAS * widest_mm(wide)
        farthest = float(max(reach.max(), widest))
        row, first, count, _ = setup.runs_around(axis, n_cells * cell, farthest)
        start = axis.start_mm - np.array(setup.grid.origin_mm[::-1])
        arguments = (
            row, first, count, np.concatenate([start[None], axis.axes]), setup.grid.shape,
            np.array(setup.grid.spacing_mm[::-1]), cell, n_cells,
            (reach * reach).astype(np.float32), setup.points_per_voxel(traced),
            setup.scored.density_g_cm3.ravel(), self.weights,
        )  # fmt: skip
        near, all_of = np.zeros(n_cells, np.int64), np.zeros(n_cells, np.int64)
        nothing = np.empty((4, 0), np.float32)
        kernels.place_points(*arguments, near, all_of, np.empty(0, np.int64), nothing)
        points = np.empty((4, int(all_of.sum())), np.float32)
        starts = np.cumsum(all_of) - all_of
        kernels.place_points(*arguments, near, all_of, starts, points)
        radial, per_mm = radial_sums(wide)
        bars = np.zeros((2, n_cells, packed.shape[2], 6))
        radial_bars = np.zeros((2, *radial.shape))
        center_bars, values = np.zeros((2, n_cells, 2)), np.zeros(n_cells)
        cuts = _balanced(near * packed.shape[2] + all_of, 4 * threads())
        run_blocks(
            kernels.deposit_adjoint_block, len(cuts) - 1, cuts, points, starts, near, all_of,
            np.ascontiguousarray(packed.transpose(0, 2, 1)), radial, per_mm, bars, radial_bars,
            center_bars, values,
        )  # fmt: skip
        wide_bar = np.zeros(wide.shape)
        kernels.radial_adjoint(_merged(radial_bars), wide, per_mm, wide_bar)
        return _merged(bars), wide_bar, _merged(center_bars), float(values.sum())

    def _wide(self, traced, layer, solved: Solved, wide_bar, solved_bar, water_bar) -> None:
        """Backwards through the secondaries' Gaussians; adds to the last two."""
        n_cells, cell, mean = solved.n_cells, traced.cell_mm, solved.mean
        water_mm = solved.water_mm
        middle = 0.5 * (water_mm[1:] + water_mm[:-1]) - water_mm[0]
        first = int(np.argmax(middle > THIN_MM))
        depth = cell * (np.arange(n_cells) + 0.5 - first)
        ratio = np.divide(depth, middle, out=np.ones(n_cells), where=middle > cell)
        stretch = np.clip(ratio, *STRETCH)
        sigma = layer.secondaries.sigma_mm[1:, None]
        own = middles(traced.air)[:n_cells] + mean[CORE_SCATTER]
        variance = own + (sigma * stretch) ** 2 + self.setup.point_variance(traced)
        parts = mean[SECONDARY + 1 : -2]
        unit, variance_bar, parts_bar = GY_MM3_PER_MEV / (2.0 * np.pi), 0.0, 0.0
        for i, (share, gap_mm2) in enumerate(zip(*behind_gap(traced, layer, water_mm))):
            of, whole = slice(i * len(parts), (i + 1) * len(parts)), variance + gap_mm2
            amplitude_bar, narrow_bar = wide_bar[:, 0, of].T, wide_bar[:, 1, of].T
            variance_bar -= (amplitude_bar * unit * share * parts + 0.5 * narrow_bar) / whole**2
            parts_bar += unit * share * amplitude_bar / whole
        weight = traced.split.weight[:, None]
        solved_bar[:, :n_cells, CORE_SCATTER] += weight * variance_bar.sum(axis=0)
        columns = slice(SECONDARY + 1, SECONDARY + 1 + len(parts))
        taken = traced.donated[:, :n_cells, None]
        solved_bar[:, :n_cells, columns] += taken * parts_bar.T
        free = (middle > cell) & (ratio > STRETCH[0]) & (ratio < STRETCH[1])
        stretch_bar = (2.0 * variance_bar * sigma**2 * stretch).sum(axis=0)
        middle_bar = np.where(free, -stretch_bar * ratio / np.where(free, middle, 1.0), 0.0)
        water_bar[:n_cells] += 0.5 * middle_bar
        water_bar[1 : n_cells + 1] += 0.5 * middle_bar
        water_bar[0] -= middle_bar.sum()

    def _unrolled(self, traced: Traced, layer: Layer, solved_bar, water_bar) -> _Unrolled:
        """Backwards through the beamlets' solutions."""
        cells = traced.cells
        n, n_cells = cells.shape[:2]
        unique, which = distinct(cells)
        rows = np.argsort(which, kind="stable")
        n_blocks = min(threads(), n)
        cells_bar = np.zeros(cells.shape)
        spectrum_bar = np.zeros((n_blocks, *layer.spectrum.shape))
        start_bar = np.zeros((n_blocks, 3))
        released_bar = np.zeros((n_blocks, *layer.released.shape))
        run_blocks(
            unroll_block, n_blocks, cuts_of(n, n_blocks), rows, which, cells[unique], solved_bar,
            water_bar, traced.split.weight, layer.spectrum, layer.edges,
            layer.start, layer.step_mm,
            (layer.axis.coefficients, layer.axis.logs), layer.moments,
            lever_tables(n_cells, traced.cell_mm), mixture_table(2), layer.released,
            layer.released_per_mm, cells_bar, spectrum_bar, start_bar, released_bar,
        )  # fmt: skip
        return _Unrolled(
            cells_bar, spectrum_bar.sum(axis=0), start_bar.sum(axis=0), released_bar.sum(axis=0)
        )

    def _bent(self, traced: Traced, rays: _Unrolled) -> np.ndarray:
        """Bar of the lever in the middle of cells through what lies on the rays, (n_cells,)."""
        places, lever = traced.split.places, middles(traced.lever)
        share = SHARES * min(self.setup.medium.grid.spacing_mm)
        share /= float(np.abs(places).max() * lever.max())
        found = np.zeros(len(lever))
        for sign in (1.0, -1.0):
            cells = self._cells(traced.axis, _lateral(places, (1.0 + sign * share) * traced.lever))
            found += sign * np.einsum("bmk,bmk->m", rays.cells, cells)
        return found / (2.0 * share * lever)

    def _cells(self, axis: SpotAxis, lateral: np.ndarray) -> np.ndarray:
        """Materials along rays, as of ``Setup``."""
        setup, grid = self.setup, self.setup.medium.grid
        cells = np.empty((len(lateral), lateral.shape[1] - 1, fp.N_COEFFICIENTS))
        n_blocks = min(threads(), len(lateral))
        run_blocks(
            trace_block, n_blocks, cuts_of(len(lateral), n_blocks), _axes(axis, grid),
            setup.cell_mm, lateral, setup.medium.density_g_cm3, setup.medium.material,
            np.array(grid.spacing_mm[::-1]), setup.table, cells,
        )  # fmt: skip
        return cells

    def _probe(self, traced: Traced, layer: Layer, lever_bar) -> _Unrolled:
        """Backwards through the lever, which goes by the scatter that rays within the spot have."""
        rays, n = traced.probe, len(lever_bar)
        station_bar = np.zeros(len(traced.variance))
        station_bar[:n] += 0.5 * lever_bar
        station_bar[1 : n + 1] += 0.5 * lever_bar
        variance_bar = _lever_adjoint(traced.variance, traced.split_at, station_bar)
        middle_bar = np.zeros(len(variance_bar) - 1)
        middle_bar[1:] += 0.5 * variance_bar[1:-1]
        middle_bar[:-1] += 0.5 * variance_bar[1:-1]
        middle_bar[-1] += variance_bar[-1]
        columns = SECONDARY + layer.released.shape[1]
        solved_bar = np.zeros((len(rays.split.weight), len(middle_bar), columns))
        solved_bar[:, :, CORE_SCATTER] = rays.split.weight[:, None] * middle_bar
        return self._unrolled(rays, layer, solved_bar, np.zeros(len(variance_bar)))

    def _to_voxels(self, axis: SpotAxis, places, lever, rays: _Unrolled, weight: float) -> None:
        grid = self.setup.medium.grid
        kernels.trace_adjoint(
            _axes(axis, grid), self.setup.cell_mm, _lateral(places, lever), grid.shape,
            np.array(grid.spacing_mm[::-1]), rays.cells, weight, self.per_voxel,
        )  # fmt: skip

    def _moves(self, spot: int, axis: SpotAxis, n: int) -> np.ndarray:
        """Lateral mm at stations per mm of u and of v in the isocenter plane, (2, n, 2)."""
        plan = self.setup.plan
        frame = self.setup.frames[plan.spot_beam[spot]]
        sources = plan.machine.virtual_sources_mm or (plan.machine.virtual_source_mm,) * 2
        cosine = float(axis.axes[2] @ frame.direction)
        t = axis.t_mm + cosine * self.setup.cell_mm * np.arange(n)
        return np.stack([
            (1.0 + t / source)[:, None] * (axis.axes[:2] @ along)[None]
            for source, along in zip(sources, (frame.u_axis, frame.v_axis))
        ])  # fmt: skip

    def _shifted(self, axis: SpotAxis, places, lever, moves, rays: _Unrolled) -> np.ndarray:
        """Change per mm of u and v through what lies on the rays, (2,)."""
        shift_mm = SHARES * min(self.setup.medium.grid.spacing_mm)
        lateral, found = _lateral(places, lever), np.zeros(2)
        for i, move in enumerate(moves):
            for sign in (1.0, -1.0):
                cells = self._cells(axis, lateral + sign * shift_mm * move)
                found[i] += sign * np.einsum("bmk,bmk->", rays.cells, cells) / (2.0 * shift_mm)
        return found

    def _per_mev(self, spot: int, layer: Layer, rays: _Unrolled) -> float:
        """Change per MeV of the spectrum before the patient, and of what secondaries leave."""
        plan, physics = self.setup.plan, self.setup.physics
        beam, index = plan.beams[plan.spot_beam[spot]], plan.spot_energy[spot]
        energy = float(plan.machine.energy_mev[index])
        std = float(plan.machine.energy_std_mev[index])
        u_bar, s_bar = rays.spectrum, rays.start[0] + rays.start[1]
        if beam.range_shifter is not None:
            shifter = plan.machine.range_shifter(beam.range_shifter)
            u_bar, s_bar = _through_shifter(layer, shifter, physics, rays)
        spectrum, range_mm, released = _energy_slopes(layer, energy, std)
        return float(
            np.vdot(u_bar, spectrum) + (rays.start[1] - s_bar) * range_mm
            + np.vdot(rays.released, released)
        )  # fmt: skip


def _through_shifter(layer: Layer, shifter: RangeShifter, physics, rays: _Unrolled):
    """Bars of the spectrum and of s before a range shifter."""
    cells = shifter_cells(shifter, physics)
    n, groups = len(cells), len(layer.spectrum)
    stations, tape = np.zeros((n + 1, fp.N_STATION)), tape_arrays(n, groups)
    axis = layer.axis.coefficients, layer.axis.logs
    passed = recorded_march(
        layer.incoming.coefficients.copy(), *layer.edges, 0.0, cells, 0.0, axis, layer.moments,
        work_arrays(groups), np.zeros((3, groups, 3)), stations, np.zeros((n, 2)), tape,
    )  # fmt: skip
    u_bar = rays.spectrum.copy()
    end_bar = np.array([rays.start[0] + rays.start[1], 0.0, rays.start[2]])
    march_adjoint(
        passed, *layer.edges, cells, axis, layer.moments, stations, tape, backward_arrays(groups),
        np.zeros(stations.shape), np.zeros((n, 2)), u_bar, end_bar, np.zeros(cells.shape),
    )  # fmt: skip
    return u_bar, float(end_bar[0])


@lru_cache(maxsize=512)
def _energy_slopes(layer: Layer, energy_mev: float, std_mev: float):
    """Per MeV: the spectrum on groups that move along, the mean range, what secondaries leave."""
    of, i_ev, step = layer.incoming, layer.axis.i_water_ev, ENERGY_STEP_MEV
    low = max(energy_mev - step, LIMITS_MEV[0])
    high = min(energy_mev + step, LIMITS_MEV[1])
    moved, spectra, released = [], [], []
    for energy in (low, high):
        moved.append(float(csda_range_mm(energy, water(i_ev))) - of.mean_mm)
        spectra.append(projected(
            energy, std_mev, layer.axis, of.lowest_mm + moved[-1], of.width_mm, len(of.coefficients)
        ))  # fmt: skip
        if layer.secondaries is not None:
            columns = released_columns(secondary_dose(energy, std_mev, i_ev))
            n = len(layer.released)
            more = np.repeat(columns[-1:], max(n - len(columns), 0), axis=0)
            released.append(np.concatenate([columns, more])[:n])
    per = 1.0 / (high - low)
    slope = per * (released[1] - released[0]) if released else np.zeros(layer.released.shape)
    return per * (spectra[1] - spectra[0]), per * (moved[1] - moved[0]), slope


def _lever_adjoint(variance: np.ndarray, split_at: int, lever_bar: np.ndarray) -> np.ndarray:
    """Backwards through ``lever_mm``, (n,) to (n,)."""
    found, sigma = np.zeros(len(variance)), float(np.sqrt(variance[split_at]))
    found[:split_at] = 0.5 * lever_bar[:split_at] / np.sqrt(variance[:split_at])
    behind = lever_bar[split_at:]
    moment = float(behind @ np.arange(len(behind)))
    low, high = max(split_at - 1, 0), min(split_at + 1, len(variance) - 1)
    half_slope = 0.5 * (variance[high] - variance[low]) / (high - low)
    found[split_at] += 0.5 * (behind.sum() - half_slope * moment / sigma**2) / sigma
    found[high] += 0.5 * moment / sigma / (high - low)
    found[low] -= 0.5 * moment / sigma / (high - low)
    return found


def _lateral(places: np.ndarray, lever: np.ndarray) -> np.ndarray:
    """Where rays are at stations, (n, n_cells + 1, 2) mm."""
    return places[:, None, :] * lever[None, :, None]


def _axes(axis: SpotAxis, grid: Grid) -> np.ndarray:
    """Start from the grid's lower corner, two lateral axes, direction; (4, 3)."""
    return np.concatenate([(axis.start_mm - grid.lower_mm)[None], axis.axes])


def _thickness_mm(setup: Setup, traced: Traced) -> float:
    """Of a point's share of a voxel along the axis."""
    fine = np.array(setup.grid.spacing_mm[::-1]) / setup.points_per_voxel(traced)
    return 1.0 / float(np.sum(np.abs(traced.axis.axes[2]) / fine))


def _merged(bars: np.ndarray) -> np.ndarray:
    """Bars by depth, from those before and behind points, (2, n_cells, …)."""
    total = bars[0].copy()
    total[1:] += bars[1, :-1]
    return total


def _balanced(load: np.ndarray, n_blocks: int) -> np.ndarray:
    """Cuts of rows into blocks of like load."""
    total = np.concatenate([[0], np.cumsum(load)])
    cuts = np.searchsorted(total, np.linspace(0, total[-1], n_blocks + 1))
    cuts[0], cuts[-1] = 0, len(load)
    return np.maximum.accumulate(cuts).astype(np.int64)
