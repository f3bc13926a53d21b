"""What the pencil-beam kernels need of one beam: depth tables of its layers, raster lines."""

from dataclasses import dataclass

import numpy as np

from engine.dose.influence import FACTOR_MAX, LANES, MAX_PLACES_PER_BEAM, ROOT_MAX
from engine.dose.pencil_beam import _kernels as kernels
from engine.geometry.plan import Plan
from engine.machine.biology import layer_biology
from engine.machine.depth_kernels import LayerKernel, layer_kernel
from engine.physics.biology import BiologicalModel
from engine.physics.constants import GY_MM2_PER_MEV_CM2_G

# of 16 bits: α to 5 per Gy (LEM I stays below 2.8) and √β to 1 per Gy
FACTOR_SCALE = np.array([5.0 / FACTOR_MAX, 1.0 / FACTOR_MAX], np.float32)
DISTAL_FLOOR = 1e-3  # of the depth dose's maximum: where a layer ends


@dataclass(frozen=True, eq=False)
class BeamLayers:
    """Layers (n_layers,) of falling energy and raster lines (n_lines,) of one beam, float32."""

    table: np.ndarray  # (n_layers, n_depths, 6), columns as in _kernels
    inverse_step: np.float32  # 1/mm
    air: np.ndarray  # (n_layers, 3): in-air variance a + b t + c t² in mm²
    air_ref: np.ndarray  # (n_layers,): in-air variance at which the reach was tabulated
    z_end: np.ndarray  # (n_layers,) depth in mm beyond which neither it nor a later one arrives
    box: np.ndarray  # (n_layers, 4): u low, u high, v low, v high in mm
    scale: np.ndarray  # (n_spots,) Gy per particle at root 1
    raster: "Raster"
    largest_reach_mm: float  # in the isocenter plane
    effects: np.ndarray  # (n_layers, n_depths or 0, 4), columns as in _kernels

    @property
    def has_effects(self) -> bool:
        return self.effects.shape[1] > 0


@dataclass(frozen=True, eq=False)
class Raster:
    """Lines of evenly spaced spots at one v, sorted by layer and rising v, (n_lines + 8,).

    Eight lines are read at a time, so eight spare ones without spots follow the last.
    """

    layer_line: np.ndarray  # (n_layers + 1,) uint64, first line of every layer
    v_mm: np.ndarray
    u_mm: np.ndarray  # of the first spot
    column: np.ndarray  # uint64, place of the first spot
    count: np.ndarray  # uint32
    u_inverse: np.ndarray  # 1/pitch in 1/mm
    v_first: np.ndarray  # (n_layers,) mm, where a layer's table of lines begins
    v_inverse: np.float32  # 1/mm, of the tables' bins
    line_at: np.ndarray  # uint64, of every bin: first line above the bin before
    line_at_start: np.ndarray  # (n_layers + 1,) uint64
    place: np.ndarray  # (n_spots,) uint16, of every spot in the influence matrix
    spot_u: np.ndarray  # (n_places + 8,) mm, at the spots' places

    def arguments(self) -> tuple:
        """In the order in which the kernels take them."""
        return (
            self.v_first, self.v_inverse, self.line_at, self.line_at_start, self.layer_line,
            self.v_mm, self.u_mm, self.column, self.count, self.u_inverse, self.spot_u,
        )  # fmt: skip


def beam_layers(
    plan: Plan,
    beam: int,
    lateral_cutoff: float,
    voxel_variance: float,
    along_mm: tuple[float, float],
    biology: BiologicalModel | None = None,
) -> BeamLayers:
    """Tables and raster of one beam; ``lateral_cutoff`` is the share of dose beyond the reach.

    ``along_mm`` bounds the dose grid along the beam, t from the isocenter: what is tabulated must
    not depend on which of its voxels are asked for.
    """
    exit_mm = plan.beams[beam].shifter_exit_mm
    along_mm = (max(along_mm[0], -np.inf if exit_mm is None else exit_mm), along_mm[1])
    columns = plan.beam_slice(beam)
    n_spots = columns.stop - columns.start
    if n_spots > MAX_PLACES_PER_BEAM:
        raise ValueError(
            f"beam {beam} has {n_spots} spots, more than {MAX_PLACES_PER_BEAM}; "
            "widen the spot spacing or split the beam."
        )
    energy, u, v = plan.spot_energy[columns], plan.u_mm[columns], plan.v_mm[columns]
    _check_order(beam, energy, u, v)
    layer_first = _starts(energy[1:] != energy[:-1], n_spots)
    layer_kernels = [_kernel(plan, beam, int(energy[f])) for f in layer_first[:-1]]
    tables, scale, reach = _tables(layer_kernels, lateral_cutoff, voxel_variance, along_mm)
    effects = np.zeros((len(layer_kernels), 0, 4), np.float32)
    if biology is not None:
        factors = [_biology(plan, beam, int(energy[f]), biology) for f in layer_first[:-1]]
        effects = _effects(factors, tables[:, :, kernels.DOSE], layer_kernels[0].depth_step_mm)
    source = plan.machine.virtual_source_mm
    air = np.array([k.air_variance for k in layer_kernels], np.float32).reshape(-1, 3)
    box = [
        (u[a:b].min(), u[a:b].max(), v[a:b].min(), v[a:b].max())
        for a, b in zip(layer_first, layer_first[1:])
    ]
    return BeamLayers(
        table=tables,
        inverse_step=np.float32(1.0 / layer_kernels[0].depth_step_mm),
        air=air,
        air_ref=air[:, 0].copy(),
        z_end=_ends(layer_kernels),
        box=np.array(box, np.float32),
        scale=np.repeat(scale, np.diff(layer_first)).astype(np.float32),
        raster=_raster(layer_first, u, v),
        largest_reach_mm=reach * source / (source + along_mm[0]),
        effects=effects,
    )


def _raster(layer_first: np.ndarray, u: np.ndarray, v: np.ndarray) -> Raster:
    """Cut each layer's spots into even lines, and tabulate which line starts where in v."""
    n_spots = len(u)
    new = np.diff(v) != 0
    new[layer_first[1:-1] - 1] = True
    steps = np.where(new, np.inf, np.diff(u))
    pitch = float(steps.min()) if np.isfinite(steps).any() else 1.0
    line_start = _starts(steps > 1.001 * pitch, n_spots)
    if np.any((steps < np.inf) & (steps > 1.001 * pitch) & (steps < 1.5 * pitch)):
        line_start = np.arange(n_spots + 1)  # no raster at all: every spot is a line of its own
    line_v = v[line_start[:-1]].astype(np.float32)
    layer_line = np.searchsorted(line_start, layer_first)
    line_place, place = _places(line_start)
    spot_u = np.zeros(int(place[-1]) + 1 + LANES, np.float32)
    spot_u[place] = u
    rows = np.diff(np.unique(line_v))
    v_pitch = max(float(rows.min()), 0.1) if len(rows) else 1.0
    tables, v_first = [], []
    for a, b in zip(layer_line, layer_line[1:]):
        bins = line_v[a] + v_pitch * np.arange(np.ceil((line_v[b - 1] - line_v[a]) / v_pitch) + 1)
        # every line above the bin before: on a raster the bin's own, else what lies between too
        tables.append(a + np.searchsorted(line_v[a:b], bins - 0.9995 * v_pitch))
        v_first.append(line_v[a])
    return Raster(
        layer_line=layer_line.astype(np.uint64),
        v_mm=_padded(line_v, np.float32),
        u_mm=_padded(u[line_start[:-1]], np.float32),
        column=_padded(line_place, np.uint64),
        count=_padded(np.diff(line_start), np.uint32),
        u_inverse=_padded(np.full(len(line_v), 1.0 / pitch), np.float32),
        v_first=np.array(v_first, np.float32),
        v_inverse=np.float32(1.0 / v_pitch),
        line_at=np.concatenate(tables).astype(np.uint64),
        line_at_start=np.cumsum([0] + [len(t) for t in tables]).astype(np.uint64),
        place=place.astype(np.uint16),
        spot_u=spot_u,
    )


def _places(line_start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of every line's first spot (n_lines,) and of every spot (n_spots,).

    A line takes a whole number of chunks, as long as 16 bits can tell all the places apart.
    """
    count = np.diff(line_start)
    width = -(-count // LANES) * LANES
    if width.sum() > MAX_PLACES_PER_BEAM:
        width = count
    first = np.cumsum(width) - width
    return first, np.repeat(first - line_start[:-1], count) + np.arange(line_start[-1])


def _padded(values: np.ndarray, kind) -> np.ndarray:
    """A copy with eight spare zeros at the end."""
    return np.concatenate([values, np.zeros(LANES)]).astype(kind)


def _kernel(plan: Plan, beam: int, energy_index: int) -> LayerKernel:
    setup = plan.beams[beam]
    if setup.range_shifter is None:
        return layer_kernel(plan.machine, energy_index)
    shifter = plan.machine.range_shifter(setup.range_shifter)
    if setup.shifter_exit_mm is None:
        raise ValueError(
            f"beam {beam} has range shifter {shifter.name!r} but no shifter_exit_mm; "
            "place_spots sets it, or give the exit face's position along the beam."
        )
    return layer_kernel(
        plan.machine, energy_index, shifter, setup.shifter_exit_mm, setup.air_gap_mm
    )


def _biology(plan: Plan, beam: int, energy_index: int, model: BiologicalModel) -> np.ndarray:
    """α and √β of one layer, (2, n_depths)."""
    name = plan.beams[beam].range_shifter
    shifter = None if name is None else plan.machine.range_shifter(name)
    return layer_biology(plan.machine, energy_index, model, shifter)


def _effects(factors: list[np.ndarray], dose: np.ndarray, step_mm: float) -> np.ndarray:
    """α·dose and √β·dose over depth and their sums, (n_layers, n_depths, 4) float32."""
    table = np.zeros((*dose.shape, 4), np.float32)
    for i, pair in enumerate(factors):
        top = pair.max(axis=1)
        if np.any(top > FACTOR_SCALE * FACTOR_MAX):
            raise ValueError(
                f"the biological model gives α up to {top[0]:.3g} and √β up to {top[1]:.3g} per "
                f"Gy; a matrix holds {FACTOR_SCALE * FACTOR_MAX}."
            )
        n = min(pair.shape[1], dose.shape[1])
        for c, factor in zip((kernels.ALPHA, kernels.BETA), pair.astype(np.float64)):
            product = np.zeros(dose.shape[1])
            product[:n] = factor[:n] * dose[i, :n]
            sums = np.concatenate([[0.0], np.cumsum(0.5 * (product[1:] + product[:-1]))])
            table[i, :, int(c)], table[i, :, int(c) - 1] = product, sums * step_mm
    return table


def _tables(layer_kernels: list[LayerKernel], cutoff: float, voxel_variance: float, along_mm):
    """Depth tables in units of squared 16-bit roots, the roots' scale, and the largest reach."""
    n_depths = max(len(k.depth_dose_mev_cm2_g) for k in layer_kernels)
    table = np.zeros((len(layer_kernels), n_depths, kernels.N_TABLE), np.float32)
    scale, largest = np.zeros(len(layer_kernels)), 0.0
    for i, k in enumerate(layer_kernels):
        n = len(k.depth_dose_mev_cm2_g)
        dose = k.depth_dose_mev_cm2_g.astype(np.float64) * GY_MM2_PER_MEV_CM2_G / (2 * np.pi)
        in_air, (smallest_air, largest_air) = k.air_variance[0], _air_extremes(k, along_mm)
        core = k.scatter_variance_mm2 + voxel_variance
        halo = k.halo_variance_mm2 + voxel_variance
        w = k.halo_weight
        peak = dose * ((1 - w) / (core + smallest_air) + w / (halo + smallest_air))
        scale[i] = (peak.max() or 1.0) * 1.001 / ROOT_MAX**2  # a range shifter may stop a layer
        dose /= scale[i]
        reach2 = _reach2(core + in_air, halo + in_air, w, cutoff)
        cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (dose[1:] + dose[:-1]))])
        columns = (cumulative * k.depth_step_mm, dose, k.scatter_variance_mm2, w,
                   k.halo_variance_mm2, reach2)  # fmt: skip
        for c, column in enumerate(columns):
            table[i, :n, c] = column
            table[i, n:, c] = 0.0 if c == kernels.DOSE else column[-1]
        growth = max(largest_air / in_air, 1.0)  # the scattered part grows less
        largest = max(largest, float(np.sqrt(reach2.max() * growth)))
    return table, scale, largest


def _reach2(core, halo, weight, cutoff: float) -> np.ndarray:
    """Radius² in mm² beyond which the share ``cutoff`` of a double Gaussian lies, (n_depths,).

    Newton on the logarithm, convex and nearly straight, from the reach of the wider of the two.
    """
    w = np.maximum(np.asarray(weight, dtype=np.float64), 1e-30)
    w_core = np.maximum(1 - w, 1e-30)  # behind the range of carbon ions all is halo
    reach2 = np.maximum(2 * core * np.log(w_core / cutoff), 2 * halo * np.log(w / cutoff))
    for _ in range(6):
        inner, outer = w_core * np.exp(-reach2 / (2 * core)), w * np.exp(-reach2 / (2 * halo))
        beyond, slope = inner + outer, inner / (2 * core) + outer / (2 * halo)
        reach2 += np.log(beyond / cutoff) * beyond / slope
    return reach2


def _air_extremes(k: LayerKernel, along_mm: tuple[float, float]) -> tuple[float, float]:
    """Least and largest in-air variance between two places along the beam, mm²."""
    _, b, c = k.air_variance
    waist = np.clip(-b / (2 * c), *along_mm) if c > 0 else along_mm[0]
    air = k.air_variance_mm2(np.array([*along_mm, waist]))
    return float(air.min()), float(air.max())


def _ends(layer_kernels: list[LayerKernel]) -> np.ndarray:
    """Depth (n_layers,) in mm where the walk over the layers may stop; below 0 if at once.

    A lower energy with a larger spread may reach deeper than the one before it.
    """
    ends = np.array([_end(k) for k in layer_kernels], np.float32)
    return np.maximum.accumulate(ends[::-1])[::-1].copy()


def _end(k: LayerKernel) -> float:
    dose = k.depth_dose_mev_cm2_g
    if not dose.any():
        return -1.0
    return k.depth_step_mm * float(np.flatnonzero(dose > DISTAL_FLOOR * dose.max())[-1] + 1)


def _check_order(beam: int, energy, u, v) -> None:
    """Columns run by falling energy, rising v, rising u."""
    e = -np.diff(energy.astype(np.int64))
    dv, du = np.diff(v), np.diff(u)
    sound = (e > 0) | ((e == 0) & ((dv > 0) | ((dv == 0) & (du > 0))))
    if not sound.all():
        raise ValueError(
            f"spots of beam {beam} are not sorted by falling energy, rising v, rising u "
            f"(first at spot {int(np.argmin(sound)) + 1}); sort the plan."
        )


def _starts(change: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([[0], np.flatnonzero(change) + 1, [n]]).astype(np.int64)
