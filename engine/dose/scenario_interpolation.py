"""Approximate doses in error scenarios, interpolated between the doses of nominal spots.

A set-up error moves every spot sideways in the patient: its dose is that of the neighbouring spots
of its layer, by linear interpolation. A density error moves its peak: its dose is that of
neighbouring energies, scaled to the energy that it deposits. Where nominal neighbours are absent
or too sparse, auxiliary spots are computed, which get no weight of their own (Janson 2024,
"Approximate and accurate scenario doses"). One matrix so serves all scenarios: dose ≈ D (A w),
with a sparse A per scenario.

Interpolation between spots a distance h apart widens them: at a share f of the way their variance
grows by f (1 − f) h². The shift along the beam is left out, which changes the spots' size alone; a
spot whose peak moves has the straggling and the width of another energy.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from engine.dose.engine import DoseEngine
from engine.dose.influence import InfluenceMatrix, RowPenalty
from engine.dose.quantities import Quantity
from engine.errors import PhysicsWarning
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.ion import IonMachine
from engine.patient.grid import Grid
from engine.patient.patient import Patient

PITCH_MM = 5.0  # of the auxiliary raster where the nominal spots show none
ON_RASTER_MM = 0.02
SNAP = 1e-3  # shares of a pitch nearer to a neighbour than this are that neighbour
FAR_MM = 0.5  # range by which a scenario may leave the machine's energies without a warning


@dataclass(frozen=True, eq=False)
class MappedInfluence:
    """An influence matrix of other spots, which the plan's spots are interpolated between.

    ``spread`` (n_extended, n_spots) gives every extended spot's weight; products and penalties
    are those of ``InfluenceMatrix``, by the plan's spots.
    """

    extended: InfluenceMatrix
    spread: csr_array
    beam_starts: np.ndarray  # (n_beams + 1,) of the plan's spots

    def __post_init__(self):
        wanted = (self.extended.n_spots, int(self.beam_starts[-1]))
        if self.spread.shape != wanted:
            raise ValueError(f"spread has shape {self.spread.shape}, the spots ask for {wanted}.")

    @property
    def grid(self) -> Grid:
        return self.extended.grid

    @property
    def voxels(self) -> np.ndarray:
        return self.extended.voxels

    @property
    def n_rows(self) -> int:
        return self.extended.n_rows

    @property
    def n_spots(self) -> int:
        return self.spread.shape[1]

    @property
    def n_beams(self) -> int:
        return len(self.beam_starts) - 1

    @property
    def n_nonzeros(self) -> int:
        """Entries that one product touches."""
        return self.extended.n_nonzeros

    def row_nonzeros(self) -> np.ndarray:
        return self.extended.row_nonzeros()

    def dose(self, weights: np.ndarray, beam: int | None = None) -> np.ndarray:
        """Physical dose of one fraction (n_rows,) float32."""
        return self.extended.dose(self.spread_out(weights), beam)

    __matmul__ = dose

    def adjoint(self, row_gradient: np.ndarray, beam: int | None = None) -> np.ndarray:
        """The transposed product, (n_spots,) float32."""
        return self.gathered(self.extended.adjoint(row_gradient, beam))

    def products(self, weights: np.ndarray, beam: int | None = None) -> np.ndarray:
        """As ``InfluenceMatrix.products``, (3, n_rows) float32."""
        return self.extended.products(self.spread_out(weights), beam)

    def products_adjoint(self, row_gradient: np.ndarray, beam: int | None = None) -> np.ndarray:
        """Their transposed product, (n_spots,) float32."""
        return self.gathered(self.extended.products_adjoint(row_gradient, beam))

    def penalty(
        self, weights: np.ndarray, rows: RowPenalty, photons: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Value and gradient (n_spots,) float32 of a row penalty."""
        value, gradient = self.extended.penalty(self.spread_out(weights), rows, photons)
        return value, self.gathered(gradient)

    def rows(self, chosen: np.ndarray) -> "MappedInfluence":
        return replace(self, extended=self.extended.rows(chosen))

    def volume(self, row_values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        return self.extended.volume(row_values, fill)

    def spread_out(self, weights: np.ndarray) -> np.ndarray:
        """Weights of the extended spots, (n_extended,)."""
        weights = np.asarray(weights)
        if weights.shape != (self.n_spots,):
            raise ValueError(
                f"weights have shape {weights.shape}, the matrix {self.n_spots} spots."
            )
        return self.spread @ weights

    def gathered(self, gradient: np.ndarray) -> np.ndarray:
        """A gradient by the extended spots (n_extended,) as one by the plan's, (n_spots,)."""
        return (self.spread.T @ gradient).astype(np.float32)


@dataclass(frozen=True, eq=False)
class InterpolatedScenarios:
    """Approximate doses in every scenario, the nominal one first, from one matrix.

    ``extended`` belongs to the plan that ``with_auxiliary_spots`` made, ``maps`` to its scenarios;
    ``beam_starts`` (n_beams + 1,) are the nominal plan's.
    """

    extended: InfluenceMatrix
    maps: tuple[csr_array, ...]
    beam_starts: np.ndarray

    def __post_init__(self):
        if not self.maps:
            raise ValueError("maps is empty; give one for every scenario, the nominal one first.")

    @property
    def n_scenarios(self) -> int:
        return len(self.maps)

    @property
    def n_spots(self) -> int:
        return self.maps[0].shape[1]

    @property
    def n_rows(self) -> int:
        """Rows of one scenario."""
        return self.extended.n_rows

    @property
    def n_nonzeros(self) -> int:
        """Entries that one evaluation of all scenarios touches."""
        return self.n_scenarios * self.extended.n_nonzeros

    @cached_property
    def scenarios(self) -> tuple[MappedInfluence, ...]:
        """Every scenario as a matrix of the plan's spots."""
        return tuple(MappedInfluence(self.extended, m, self.beam_starts) for m in self.maps)

    @property
    def nominal(self) -> MappedInfluence:
        return self.scenarios[0]

    def dose(self, weights: np.ndarray) -> np.ndarray:
        """Physical dose of one fraction, (S, n_rows) float32."""
        return np.stack([scenario.dose(weights) for scenario in self.scenarios])

    def adjoint(self, row_gradient: np.ndarray) -> np.ndarray:
        """Σ over scenarios of the transposed products, (S, n_rows) → (n_spots,) float32."""
        parts = zip(self.scenarios, row_gradient, strict=True)
        return np.sum([scenario.adjoint(rows) for scenario, rows in parts], axis=0)

    def fraction_dose(self, weights: np.ndarray, quantity: Quantity) -> np.ndarray:
        """Dose of one fraction as the quantity counts it, (S, n_rows) float32."""
        return np.stack([quantity.of_fraction(s, weights) for s in self.scenarios])

    def pulled_back(
        self, weights: np.ndarray, gradient: np.ndarray, quantity: Quantity
    ) -> np.ndarray:
        """df/d(weights) (n_spots,) float32 from df/d(quantity) (S, n_rows)."""
        parts = zip(self.scenarios, gradient, strict=True)
        return np.sum([quantity.pulled_back(s, weights, rows) for s, rows in parts], axis=0)

    def penalties(
        self, weights: np.ndarray, rows: RowPenalty, photons: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (S,) of a penalty on the rows of one scenario, and gradients (S, n_spots)."""
        spread = np.stack([scenario.spread_out(weights) for scenario in self.scenarios])
        values, gradients = self.extended.penalties(spread, rows, photons)
        parts = zip(self.scenarios, gradients)
        return values, np.stack([scenario.gathered(gradient) for scenario, gradient in parts])


def interpolated_scenarios(
    engine: DoseEngine,
    patient: Patient,
    plan: Plan,
    grid: Grid,
    scenarios: Sequence[Scenario],
    voxels: np.ndarray | None = None,
    spot_gap_mm: float | None = None,
    layer_gap_mm: float | None = None,
) -> InterpolatedScenarios:
    """Compute the nominal and the auxiliary spots, from which all scenarios are interpolated."""
    extended, maps = with_auxiliary_spots(plan, scenarios, spot_gap_mm, layer_gap_mm)
    beam_starts = np.searchsorted(plan.spot_beam, np.arange(len(plan.beams) + 1))
    matrix = engine.influence(patient, extended, grid, voxels=voxels)
    return InterpolatedScenarios(matrix, maps, beam_starts)


def with_auxiliary_spots(
    plan: Plan,
    scenarios: Sequence[Scenario],
    spot_gap_mm: float | None = None,
    layer_gap_mm: float | None = None,
) -> tuple[Plan, tuple[csr_array, ...]]:
    """The plan with the spots that scenarios are interpolated between, and a map per scenario.

    A map (n_extended, n_spots) carries the plan's weights to the extended plan's spots. Spots of
    a layer are neighbours on their raster, which is refined until lines, and spots of a line, lie
    no farther than ``spot_gap_mm`` apart (None: as it is). Layers are neighbours when their ranges
    differ by no more than ``layer_gap_mm``; otherwise, and when None, the machine's energies are.
    """
    _check(plan, scenarios, spot_gap_mm, layer_gap_mm)
    fields = [
        _Field.of(plan, beam, spot_gap_mm, layer_gap_mm).extended(scenarios)
        for beam in range(len(plan.beams))
    ]
    sizes = [len(energy) for (energy, _, _), _ in fields]
    energy, u, v = (np.concatenate(column) for column in zip(*(spots for spots, _ in fields)))
    offsets = np.cumsum([0, *sizes])
    maps = tuple(
        _joined_map([entries[s] for _, entries in fields], offsets, plan)
        for s in range(len(scenarios))
    )
    extended = Plan(
        plan.machine, plan.beams, np.repeat(np.arange(len(sizes)), sizes).astype(np.uint16),
        energy.astype(np.uint16), u, v,
    )  # fmt: skip
    return extended, maps


@dataclass(frozen=True, eq=False)
class _Entries:
    """What spots (n,) of one beam owe to which neighbours: arrays (n_entries,)."""

    spot: np.ndarray
    point: np.ndarray  # code of a raster point and energy, later a column
    share: np.ndarray


@dataclass(frozen=True, eq=False)
class _Raster:
    """Lines of constant v, even and odd ones with their own first u; all in mm."""

    v_mm: float
    pitch_v: float
    u_mm: tuple[float, float]  # of even and odd nominal lines
    pitch_u: float
    fine_v: int = 1  # lines in place of one
    fine_u: int = 1

    @classmethod
    def under(cls, energy, u, v, gap_mm: float | None) -> "_Raster":
        """The raster of a beam's spots, or one of its own where they show none."""
        raster = cls._seen(energy, u, v)
        if raster is None or not raster.holds(u, v).all():
            pitch = gap_mm or PITCH_MM
            raster = cls(0.0, pitch, (0.0, 0.0), pitch)
        if gap_mm is None:
            return raster
        fine_v, fine_u = (
            int(np.ceil(p / gap_mm - 1e-6)) for p in (raster.pitch_v, raster.pitch_u)
        )
        return replace(raster, fine_v=fine_v, fine_u=fine_u)

    @classmethod
    def _seen(cls, energy, u, v) -> "_Raster | None":
        same_line = (np.diff(energy) == 0) & (np.diff(v) == 0)
        steps, rows = np.diff(u)[same_line], np.diff(np.unique(v))
        if not len(steps) or steps.min() < 0.1 or (len(rows) and rows.min() < 0.1):
            return None
        pitch_v = _even(v, float(rows.min())) if len(rows) else float(steps.min())
        odd = np.round((v - v.min()) / pitch_v).astype(int) % 2 == 1
        first = [float(side[0]) for side in (u[~odd], u[odd]) if len(side)]
        pitch_u = _even(u[~odd], float(steps.min()))
        return cls(float(v.min()), pitch_v, (first[0], first[-1]), pitch_u)

    def holds(self, u, v) -> np.ndarray:
        """Whether spots lie on the raster."""
        line, place = self.nearest(u, v)
        du, dv = (a - b for a, b in zip((u, v), self.position(line, place)))
        return np.hypot(du, dv) < ON_RASTER_MM

    def nearest(self, u, v) -> tuple[np.ndarray, np.ndarray]:
        line = np.round((v - self.v_mm) / self._step_v).astype(np.int64)
        return line, np.round((u - self._first_u(line)) / self._step_u).astype(np.int64)

    def position(self, line, place) -> tuple[np.ndarray, np.ndarray]:
        """u and v of raster points."""
        return self._first_u(line) + place * self._step_u, self.v_mm + line * self._step_v

    def neighbours(self, u, v) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Line, place and share (n,) of the four around every position (n,)."""
        below, upper = _split((v - self.v_mm) / self._step_v)
        found = []
        for line, share_v in ((below, 1.0 - upper), (below + 1, upper)):
            left, right = _split((u - self._first_u(line)) / self._step_u)
            found.append((line, left, share_v * (1.0 - right)))
            found.append((line, left + 1, share_v * right))
        return found

    @property
    def _step_v(self) -> float:
        return self.pitch_v / self.fine_v

    @property
    def _step_u(self) -> float:
        return self.pitch_u / self.fine_u

    def _first_u(self, line) -> np.ndarray:
        return np.asarray(self.u_mm)[(line // self.fine_v) % 2]


@dataclass(frozen=True, eq=False)
class _Field:
    """One beam of a plan: its spots (n,) and the raster of their neighbours."""

    machine: IonMachine
    axes: np.ndarray  # (3, 2): u and v in the patient
    shifter_wet_mm: float
    energy: np.ndarray
    u: np.ndarray
    v: np.ndarray
    raster: _Raster
    layer_gap_mm: float | None

    @classmethod
    def of(cls, plan: Plan, beam: int, spot_gap_mm, layer_gap_mm) -> "_Field":
        columns, setup = plan.beam_slice(beam), plan.beams[beam]
        frame = beam_frame(setup, plan.machine.virtual_source_mm)
        shifter = setup.range_shifter
        energy = plan.spot_energy[columns].astype(np.int64)
        u, v = (a[columns].astype(np.float64) for a in (plan.u_mm, plan.v_mm))
        return cls(
            plan.machine, np.stack([frame.u_axis, frame.v_axis], axis=1),
            plan.machine.range_shifter(shifter).wet_mm if shifter else 0.0,
            energy, u, v, _Raster.under(energy, u, v, spot_gap_mm), layer_gap_mm,
        )  # fmt: skip

    def extended(self, scenarios: Sequence[Scenario]):
        """Energy, u and v of all spots (n_extended,), and entries per scenario in their columns."""
        own = self._own_points()
        entries = [self._entries(scenario, own) for scenario in scenarios]
        points = np.unique(np.concatenate([own, *(e.point for e in entries)]))
        energy, u, v = self._positions(points, own)
        order = np.lexsort((u, v, -energy))
        column = np.empty(len(points), np.int64)
        column[order] = np.arange(len(points))
        placed = [replace(e, point=column[np.searchsorted(points, e.point)]) for e in entries]
        return (energy[order], u[order], v[order]), placed

    def _own_points(self) -> np.ndarray:
        """Codes of the nominal spots: raster points, or negative ones for spots beside them."""
        line, place = self.raster.nearest(self.u, self.v)
        beside = -1 - np.arange(len(self.u))
        return np.where(
            self.raster.holds(self.u, self.v), _code(self.energy, line, place), beside
        )

    def _entries(self, scenario: Scenario, own: np.ndarray) -> _Entries:
        spots = np.arange(len(self.u))
        du, dv = np.asarray(scenario.shift_mm) @ self.axes
        still = max(abs(du), abs(dv)) < 1e-6 and scenario.density_scale == 1.0
        if still or not len(spots):
            return _Entries(spots, own, np.ones(len(spots)))
        parts = []
        for energy, share_e in self._energies(scenario.density_scale):
            for line, place, share in self.raster.neighbours(self.u + du, self.v + dv):
                total = share * share_e
                some = total > 0.0
                code = _code(energy, line, place)
                parts.append((spots[some], code[some], total[some]))
        return _Entries(*(np.concatenate(column) for column in zip(*parts)))

    def _energies(self, density_scale: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Energy indices and shares (n,) of the layers below and above every spot's new range.

        A medium c times as dense stops a spot where the nominal one stops a range of 1/c. The
        shares sum to what it deposits there, relative to the neighbours: by R ∝ E^1.77 about
        c^−0.43, 1.5 % for 3.5 %.
        """
        energy, ranges = self.energy, self.machine.range_mm
        if density_scale == 1.0:
            return [(energy, np.ones(len(energy)))]
        layers, back = np.unique(energy, return_inverse=True)
        wet = self.shifter_wet_mm
        wanted = wet + (ranges[layers] - wet) / density_scale
        _warn_beyond(wanted, ranges, self.machine.name)
        low, high = np.array([self._around(goal, layers) for goal in wanted]).T
        width = np.maximum(ranges[high] - ranges[low], 1e-9)
        upper = np.clip((wanted - ranges[low]) / width, 0.0, 1.0)
        shares = np.stack([1.0 - upper, upper])
        there = (shares * [self._deposited(low), self._deposited(high)]).sum(axis=0)
        own = self._deposited(layers) / density_scale
        shares *= np.where(there > 0.0, own / np.where(there > 0.0, there, 1.0), 1.0)
        return [(low[back], shares[0][back]), (high[back], shares[1][back])]

    def _deposited(self, energy: np.ndarray) -> np.ndarray:
        """Integral (n,) of the depth dose behind the range shifter, MeV cm²/g · samples."""
        first = int(round(self.shifter_wet_mm / self.machine.depth_step_mm))
        return self.machine.depth_dose_mev_cm2_g[energy, first:].sum(axis=1, dtype=np.float64)

    def _around(self, range_mm: float, layers: np.ndarray) -> tuple[int, int]:
        """Energy indices whose ranges enclose one: nominal layers if near, or the machine's."""
        ranges = self.machine.range_mm
        at = int(np.searchsorted(ranges[layers], range_mm))
        if self.layer_gap_mm is not None and 0 < at < len(layers):
            low, high = int(layers[at - 1]), int(layers[at])
            if ranges[high] - ranges[low] <= self.layer_gap_mm:
                return low, high
        high = int(np.clip(np.searchsorted(ranges, range_mm), 1, len(ranges) - 1))
        return high - 1, high

    def _positions(self, points: np.ndarray, own: np.ndarray):
        """Energy, u and v (n_points,) float32; those of nominal spots to the last bit."""
        energy, line, place = _decoded(points)
        u, v = (a.astype(np.float32) for a in self.raster.position(line, place))
        at = np.searchsorted(points, own)
        lines, spot = np.unique(line[at], return_index=True)  # a line has one v, to the last bit
        where = np.clip(np.searchsorted(lines, line), 0, len(lines) - 1)
        v = np.where(lines[where] == line, self.v[spot][where], v).astype(np.float32)
        energy[at], u[at], v[at] = self.energy, self.u, self.v
        return energy, u, v


def _even(values: np.ndarray, step: float) -> float:
    """A step read off the whole span of float32 positions."""
    span = float(np.ptp(values))
    return span / round(span / step) if span > 0.5 * step else step


def _split(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole steps (n,) int64 and the share of the next one, 0 … 1."""
    whole = np.floor(steps + SNAP)
    share = steps - whole
    share[share < SNAP] = 0.0
    return whole.astype(np.int64), share


def _code(energy, line, place) -> np.ndarray:
    """One number, 0 or more, of an energy index and a raster point."""
    return (energy << 40) + ((line + (1 << 19)) << 20) + (place + (1 << 19))


def _decoded(code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask = (1 << 20) - 1
    return code >> 40, ((code >> 20) & mask) - (1 << 19), (code & mask) - (1 << 19)


def _joined_map(entries: list[_Entries], offsets: np.ndarray, plan: Plan) -> csr_array:
    rows = np.concatenate([e.point + n for e, n in zip(entries, offsets)])
    starts = [plan.beam_slice(beam).start for beam in range(len(entries))]
    spots = np.concatenate([e.spot + n for e, n in zip(entries, starts)])
    share = np.concatenate([e.share for e in entries]).astype(np.float32)
    return csr_array((share, (rows, spots)), shape=(int(offsets[-1]), plan.n_spots))


def _warn_beyond(wanted: np.ndarray, ranges: np.ndarray, name: str) -> None:
    beyond = max(float(wanted.max() - ranges[-1]), float(ranges[0] - wanted.min()))
    if beyond > FAR_MM:
        warnings.warn(
            f"a density error asks for ranges {beyond:.1f} mm beyond the energies of {name}; they "
            "count as its last energy. Compute such scenarios accurately.",
            PhysicsWarning,
            stacklevel=2,
        )


def _check(plan: Plan, scenarios: Sequence[Scenario], spot_gap_mm, layer_gap_mm) -> None:
    if not len(scenarios) or scenarios[0] != NOMINAL:
        raise ValueError("scenarios must begin with the nominal one; setup_and_range makes some.")
    images = {s.image for s in scenarios} - {NOMINAL.image}
    if images:
        raise ValueError(f"images {sorted(images)} cannot be interpolated; compute them.")
    if plan.n_spots == 0:
        raise ValueError("the plan has no spots; place_spots puts them over the target.")
    if any(beam.aperture is not None for beam in plan.beams):
        raise ValueError("doses behind an aperture's edge cannot be interpolated; compute them.")
    for name, gap in (("spot_gap_mm", spot_gap_mm), ("layer_gap_mm", layer_gap_mm)):
        if gap is not None and not (np.isfinite(gap) and gap >= 0.5):
            raise ValueError(f"{name}={gap} must be 0.5 mm or more, or None.")
