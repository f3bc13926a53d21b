"""Proton arcs: gantry angles, energy layers, spots, and the spot counts of Yang et al. 2025.

One pass over the rays of all angles tells where every energy stops, and what it crosses on its
way. A spot is a ray of a square raster and an energy whose stopping place, R80 in water, lies in
the target; a margin of spots around them is delivered but not counted. M_S is the matrix angle ×
layer of the number of spots that meet a structure: for the target by where they stop, for an
organ by what they cross; M_(S−O) leaves out those that meet O (arXiv 2506.18303, section 2.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from engine.geometry import _arc_kernels as kernels
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.machine.ion import IonMachine
from engine.parallel import run_blocks
from engine.patient.ct import Calibration, SchneiderCalibration, rsp_volume
from engine.patient.patient import Patient

N_BLOCKS = 64
MAX_STRUCTURES = 16  # bits of a label
MAX_LAYERS = 102  # of Yang et al. 2025
TARGET = "target"


@dataclass(frozen=True)
class Arc:
    """Gantry angles in order of delivery: ``n_angles`` steps from ``start_deg`` over ``span_deg``.

    A full circle does not repeat its first angle; a partial arc has its last angle at its end.
    """

    n_angles: int = 72
    start_deg: float = 0.0
    span_deg: float = 360.0
    direction: Literal["clockwise", "counterclockwise"] = "clockwise"
    couch_deg: float = 0.0

    def __post_init__(self):
        if isinstance(self.n_angles, bool) or int(self.n_angles) != self.n_angles or (
            self.n_angles < 1
        ):  # fmt: skip
            raise ValueError(f"n_angles={self.n_angles}: an arc needs one angle or more.")
        if not 0.0 < self.span_deg <= 360.0:
            raise ValueError(f"span_deg={self.span_deg} must lie in 0 … 360 degrees, 0 excluded.")
        if not np.isfinite(self.start_deg):
            raise ValueError(f"start_deg={self.start_deg} must be a finite angle.")
        if self.direction not in ("clockwise", "counterclockwise"):
            raise ValueError(
                f"direction={self.direction!r} is unknown; clockwise or counterclockwise."
            )

    @classmethod
    def stepped(cls, step_deg: float, **settings) -> "Arc":
        """An arc by its step between angles, which must divide the span."""
        span = settings.get("span_deg", 360.0)
        n = span / step_deg if np.isfinite(step_deg) and step_deg > 0 else 0.0
        if n < 1 or abs(n - round(n)) > 1e-6:
            raise ValueError(f"step_deg={step_deg} must divide the span of {span} degrees.")
        return cls(n_angles=round(n) + (span < 360.0), **settings)

    @property
    def step_deg(self) -> float:
        if self.span_deg == 360.0 or self.n_angles == 1:
            return self.span_deg / self.n_angles
        return self.span_deg / (self.n_angles - 1)

    @property
    def angles_deg(self) -> np.ndarray:
        """(n_angles,) float64 in 0 … 360, in order of delivery."""
        sign = 1.0 if self.direction == "clockwise" else -1.0
        return (self.start_deg + sign * self.step_deg * np.arange(self.n_angles)) % 360.0


@dataclass(frozen=True)
class ArcSettings:
    """Layers and spots of an arc; lengths in mm, in water along the beam.

    Layers are the machine's lowest energies, ``n_layers`` at most, every one or some
    ``layer_spacing_mm`` apart, the same from all angles. ``range_shifter`` stays in the beam all
    around. ``n_points`` target voxels are sampled for ``PointCoverage``.
    """

    n_layers: int = MAX_LAYERS
    layer_spacing_mm: float | None = None
    spot_spacing_mm: float = 5.0
    lateral_margin_mm: float = 5.0
    range_shifter: str | None = None
    air_gap_mm: float = 50.0
    n_points: int = 1500

    def __post_init__(self):
        if not 1 <= self.n_layers <= MAX_LAYERS:
            raise ValueError(f"n_layers={self.n_layers} must lie in 1 … {MAX_LAYERS}.")
        for name in ("spot_spacing_mm", "layer_spacing_mm"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be positive.")
        if not (np.isfinite(self.lateral_margin_mm) and self.lateral_margin_mm >= 0):
            raise ValueError(f"lateral_margin_mm={self.lateral_margin_mm} must be 0 or more.")
        if self.n_points < 1:
            raise ValueError(f"n_points={self.n_points} must be at least 1.")


@dataclass(frozen=True, eq=False)
class PointCoverage:
    """Which sampled target points the Bragg peak of a layer reaches from each angle.

    ``depth_mm`` (G, P) is each point's water-equivalent depth, ``range_mm`` (E,) where layers
    stop, ``half_width_mm`` (E,) half of what a layer covers in depth.
    """

    depth_mm: np.ndarray
    range_mm: np.ndarray
    half_width_mm: np.ndarray

    @property
    def n_points(self) -> int:
        return self.depth_mm.shape[1]

    def reached(self, angle: int, layer: int, scale: float = 1.0) -> np.ndarray:
        """Whether the layer's peak lies on each point (P,), all depths times ``scale``."""
        off = np.abs(self.depth_mm[angle] * np.float32(scale) - self.range_mm[layer])
        return off <= self.half_width_mm[layer]

    def counts(self, choice: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """How many chosen layers reach each point, (P,) int16; ``choice`` (G, m), −1 for none."""
        n = np.zeros(self.n_points, np.int16)
        for angle, layers in enumerate(np.asarray(choice).reshape(len(self.depth_mm), -1)):
            for layer in layers[layers >= 0]:
                n += self.reached(angle, int(layer), scale)
        return n

    def value(self, choice: np.ndarray, k: int = 3, scale: float = 1.0) -> float:
        """Mean over the points of min(n, k)/k, 0 … 1."""
        return float(np.minimum(self.counts(choice, scale), k).mean() / k)


@dataclass(frozen=True, eq=False)
class ArcGeometry:
    """What an arc's layers meet, angle by angle; G angles, E layers of rising energy.

    ``meets`` (G, E, n_v, n_u) uint16: bit 0 where the layer stops in the target, bit i where it
    has crossed structure i of ``structures`` by then. The raster lies in the isocenter plane.
    """

    machine: IonMachine
    arc: Arc
    settings: ArcSettings
    beams: tuple[Beam, ...]
    layers: np.ndarray  # (E,) indices into the machine's energies
    range_mm: np.ndarray  # (E,) behind the range shifter
    structures: tuple[str, ...]  # "target" first
    u_mm: np.ndarray  # (n_u,)
    v_mm: np.ndarray  # (n_v,)
    meets: np.ndarray
    wed_mm: np.ndarray  # (G, 2) least and largest depth of the target; NaN where no ray meets it
    coverage: PointCoverage

    @property
    def n_angles(self) -> int:
        return len(self.beams)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def energy_mev(self) -> np.ndarray:
        return self.machine.energy_mev[self.layers]

    def counts(
        self, structures: Sequence[str] = (TARGET,), without: Sequence[str] = ()
    ) -> np.ndarray:
        """M (G, E) int32: spots of the target that meet any of ``structures``, none of ``without``.

        ``counts()`` is M_target, ``counts(without=["Brainstem"])`` M_(target−Brainstem).
        """
        on_target = (self.meets & 1).astype(bool)
        wanted, refused = self._bits(structures), self._bits(without)
        met = on_target & ((self.meets & wanted) != 0) & ((self.meets & refused) == 0)
        return met.sum(axis=(2, 3), dtype=np.int32)

    @cached_property
    def valid(self) -> np.ndarray:
        """Layers (G, E) bool that reach the target."""
        return self.counts() > 0

    @cached_property
    def placed(self) -> np.ndarray:
        """Spots (G, E, n_v, n_u) bool, with the margin around those that stop in the target."""
        return _widened(
            (self.meets & 1).astype(bool),
            self.settings.lateral_margin_mm / self.settings.spot_spacing_mm,
        )

    @cached_property
    def n_spots(self) -> np.ndarray:
        """Spots of every layer with its margin, (G, E) int32."""
        return self.placed.sum(axis=(2, 3), dtype=np.int32)

    def plan(self, choice: np.ndarray) -> Plan:
        """The spots of chosen layers, weights zero; beam g of the plan is angle g.

        ``choice`` is a bool matrix (G, E), or layer indices (G,) or (G, m) with −1 for none.
        """
        chosen = self.chosen(choice)
        angle, layer = np.nonzero(chosen)
        order = np.lexsort((-layer, angle))  # beam by beam, falling energy
        angle, layer = angle[order], layer[order]
        spot_layer, row, column = np.nonzero(self.placed[angle, layer])
        if not len(spot_layer):
            raise ValueError("choice holds no layer that reaches the target; choose valid ones.")
        return Plan(
            machine=self.machine, beams=self.beams,
            spot_beam=angle[spot_layer].astype(np.uint16),
            spot_energy=self.layers[layer[spot_layer]].astype(np.uint16),
            u_mm=self.u_mm[column].astype(np.float32), v_mm=self.v_mm[row].astype(np.float32),
        )  # fmt: skip

    def chosen(self, choice: np.ndarray) -> np.ndarray:
        """A choice as a bool matrix (G, E)."""
        choice = np.asarray(choice)
        if choice.dtype == bool:
            if choice.shape != (self.n_angles, self.n_layers):
                raise ValueError(
                    f"choice has shape {choice.shape}, the arc {self.n_angles} angles and "
                    f"{self.n_layers} layers."
                )
            return choice
        if choice.shape[:1] != (self.n_angles,) or choice.ndim > 2:
            raise ValueError(f"choice has shape {choice.shape}; give ({self.n_angles}, m) indices.")
        if choice.size and not -1 <= choice.min() <= choice.max() < self.n_layers:
            raise ValueError(f"choice must name layers 0 … {self.n_layers - 1}, or −1 for none.")
        chosen = np.zeros((self.n_angles, self.n_layers), bool)
        for layers in choice.reshape(self.n_angles, -1).T:
            angle = np.flatnonzero(layers >= 0)
            chosen[angle, layers[angle]] = True
        return chosen

    def _bits(self, names: Sequence[str]) -> np.uint16:
        names = [names] if isinstance(names, str) else names
        unknown = [n for n in names if n not in self.structures]
        if unknown:
            raise KeyError(f"structures {unknown} were not traced; known: {self.structures}.")
        return np.uint16(sum(1 << self.structures.index(n) for n in names))


def arc_geometry(
    patient: Patient,
    machine: IonMachine,
    arc: Arc,
    settings: ArcSettings = ArcSettings(),  # noqa: B008 (frozen)
    target: str | None = None,
    organs: Sequence[str] | None = None,
    calibration: Calibration = SchneiderCalibration(),  # noqa: B008 (frozen)
) -> ArcGeometry:
    """Trace all angles of an arc around ``target`` (the union of all targets by default).

    ``organs`` are the structures that spot counts may name, all organs by default. Angles from
    which no layer reaches the target have no valid layer; an arc of such angles alone is refused.
    """
    mask = patient.target_union() if target is None else patient.mask(target)
    if not mask.any():
        raise ValueError(f"target {target or 'union'!r} has no voxels; there is nothing to treat.")
    organs = tuple(patient.organs if organs is None else organs)
    if len(organs) >= MAX_STRUCTURES:
        raise ValueError(f"{len(organs)} organs; name {MAX_STRUCTURES - 1} at most.")
    voxels = np.flatnonzero(mask)
    isocenter = tuple(float(c) for c in patient.grid.points_mm(voxels).mean(axis=0))
    beams = tuple(
        Beam(float(a), isocenter, arc.couch_deg, settings.range_shifter, settings.air_gap_mm)
        for a in arc.angles_deg
    )
    layers = energy_ladder(machine, settings.n_layers, settings.layer_spacing_mm)
    ranges = machine.range_mm[layers] - _shifter_wet(machine, settings)
    step = max(1, -(-len(voxels) // settings.n_points))
    points = patient.grid.points_mm(voxels[::step])
    rays = _Rays.of(patient, machine, beams, mask, organs, settings, calibration)
    meets, span, entrance = rays.meet(_edges(ranges))
    if not np.any(meets & 1):
        raise ValueError(
            f"no layer of {machine.name} ({machine.energy_mev[layers[0]]:.0f}–"
            f"{machine.energy_mev[layers[-1]]:.0f} MeV) stops in the target from any of the "
            f"{arc.n_angles} angles; give other energies or a range shifter."
        )
    return ArcGeometry(
        machine, arc, settings, rays.with_exits(beams, entrance, settings), layers, ranges,
        (TARGET, *organs), rays.u_mm, rays.v_mm, meets, _window(span),
        PointCoverage(rays.depth_of(points), ranges.astype(np.float32),
                      _half_widths(machine, layers, ranges)),
    )  # fmt: skip


def energy_ladder(
    machine: IonMachine, n_layers: int = MAX_LAYERS, spacing_mm: float | None = None
) -> np.ndarray:
    """Indices (E,) of the machine's lowest energies, every one or about ``spacing_mm`` apart."""
    if spacing_mm is None:
        return np.arange(min(n_layers, len(machine.energy_mev)))
    wanted = np.arange(machine.range_mm[0], machine.range_mm[-1] + spacing_mm / 2, spacing_mm)
    nearest = np.abs(machine.range_mm[None, :] - wanted[:, None]).argmin(axis=1)
    return np.unique(nearest)[:n_layers]


@dataclass(frozen=True, eq=False)
class _Rays:
    """Volumes to walk through, and the raster of rays that all angles share."""

    rsp: np.ndarray
    labels: np.ndarray
    lower_mm: np.ndarray
    size_mm: np.ndarray
    isocenter: np.ndarray  # (G, 3), as all vectors
    step_u: np.ndarray
    step_v: np.ndarray
    source: np.ndarray
    source_mm: float
    first: tuple[int, int]  # ray numbers of u and v from the isocenter
    shape: tuple[int, int]  # (n_v, n_u)
    pitch_mm: float

    @classmethod
    def of(cls, patient, machine, beams, mask, organs, settings, calibration) -> "_Rays":
        frames = [beam_frame(b, machine.virtual_source_mm) for b in beams]
        pitch = settings.spot_spacing_mm
        points = _corners(patient.grid, mask)
        u, v = np.array([frame.to_beam(points)[:2] for frame in frames]).transpose(1, 0, 2)
        beyond = 1 + int(np.ceil(settings.lateral_margin_mm / pitch))
        first = [int(np.floor(a.min() / pitch)) - beyond for a in (u, v)]
        last = [int(np.ceil(a.max() / pitch)) + beyond for a in (u, v)]
        stack = [
            np.array([getattr(f, name) for f in frames])
            for name in ("isocenter_mm", "u_axis", "v_axis", "direction")
        ]
        source_mm = machine.virtual_source_mm
        return cls(
            np.ascontiguousarray(rsp_volume(patient, calibration), np.float32),
            _labels(patient, mask, organs), patient.grid.lower_mm,
            np.array(patient.grid.spacing_mm[::-1]), stack[0], pitch * stack[1], pitch * stack[2],
            stack[0] - source_mm * stack[3], source_mm, tuple(first),
            (last[1] - first[1] + 1, last[0] - first[0] + 1), pitch,
        )  # fmt: skip

    @property
    def u_mm(self) -> np.ndarray:
        return self.pitch_mm * (self.first[0] + np.arange(self.shape[1]))

    @property
    def v_mm(self) -> np.ndarray:
        return self.pitch_mm * (self.first[1] + np.arange(self.shape[0]))

    def meet(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``meets`` (G, E, n_v, n_u), the target's depths (G, n, 2), the entrances (G, n)."""
        n_angles, n_rays = len(self.source), self.shape[0] * self.shape[1]
        n, n_layers = n_angles * n_rays, len(edges) - 1
        meets = np.zeros((n, n_layers), np.uint16)
        span, entrance = np.empty((n, 2), np.float32), np.empty(n)
        run_blocks(
            kernels.meet_block, N_BLOCKS, _cuts(n), self.rsp, self.labels, self.lower_mm,
            self.size_mm, self.isocenter, self.step_u, self.step_v, self.source, *self.first,
            self.shape[1], n_rays, edges, meets, span, entrance,
        )  # fmt: skip
        meets[(meets & 1) == 0] = 0
        by_layer = meets.reshape(n_angles, *self.shape, n_layers).transpose(0, 3, 1, 2)
        return (
            np.ascontiguousarray(by_layer), span.reshape(n_angles, n_rays, 2),
            np.where(span[:, 1] > 0, entrance, np.inf).reshape(n_angles, n_rays),
        )  # fmt: skip

    def depth_of(self, points: np.ndarray) -> np.ndarray:
        """Water-equivalent depth (G, P) float32 of points (P, 3) in mm."""
        depth = np.empty(len(self.source) * len(points), np.float32)
        run_blocks(
            kernels.depth_block, N_BLOCKS, _cuts(len(depth)), self.rsp, self.lower_mm,
            self.size_mm, self.source, np.ascontiguousarray(points, np.float64), depth,
        )  # fmt: skip
        return depth.reshape(len(self.source), len(points))

    def with_exits(self, beams, entrance, settings: ArcSettings) -> tuple[Beam, ...]:
        """The beams with the exit face of their range shifter, an air gap before the skin."""
        if settings.range_shifter is None:
            return beams
        skin = (entrance.min(axis=1) - 1.0) * self.source_mm
        return tuple(
            replace(b, shifter_exit_mm=float(s) - settings.air_gap_mm) for b, s in zip(beams, skin)
        )


def _labels(patient: Patient, mask: np.ndarray, organs: Sequence[str]) -> np.ndarray:
    labels = mask.astype(np.uint16)
    for bit, organ in enumerate(organs, start=1):
        labels |= patient.mask(organ).astype(np.uint16) << np.uint16(bit)
    return labels


def _corners(grid, mask: np.ndarray) -> np.ndarray:
    """Points (n, 3) that enclose a mask: its voxels that are the outermost of a line along x."""
    first = mask & ~np.roll(mask, 1, axis=2)
    last = mask & ~np.roll(mask, -1, axis=2)
    edge = first | last
    return grid.points_mm(np.flatnonzero(edge if edge.any() else mask))


def _edges(ranges: np.ndarray) -> np.ndarray:
    """Depths (E + 1,) in mm of water between the layers, none below 0."""
    if len(ranges) == 1:
        return np.array([max(ranges[0] - 2.5, 0.0), ranges[0] + 2.5])
    middle = 0.5 * (ranges[1:] + ranges[:-1])
    low, high = 2 * ranges[0] - middle[0], 2 * ranges[-1] - middle[-1]
    return np.maximum(np.concatenate([[low], middle, [high]]), 0.0)


def _half_widths(machine: IonMachine, layers: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Half the 80 % width of the Bragg peak, or half the layers' distance where that is more."""
    dose = machine.depth_dose_mev_cm2_g[layers]
    width = machine.depth_step_mm * (dose >= 0.8 * dose.max(axis=1, keepdims=True)).sum(axis=1)
    return (0.5 * np.maximum(width, np.diff(_edges(ranges)))).astype(np.float32)


def _window(span: np.ndarray) -> np.ndarray:
    """Least and largest depth of the target from every angle, (G, 2) float32."""
    hit = span[..., 1] > 0
    low = np.where(hit, span[..., 0], np.inf).min(axis=1)
    high = np.where(hit, span[..., 1], -np.inf).max(axis=1)
    window = np.stack([low, high], axis=1)
    return np.where(np.isfinite(window), window, np.nan).astype(np.float32)


def _widened(on: np.ndarray, radius: float) -> np.ndarray:
    """A raster (…, n_v, n_u) with everything within ``radius`` steps and half a step of it."""
    reach = int(np.floor(radius + 0.5))
    wide = on.copy()
    for dv in range(-reach, reach + 1):
        for du in range(-reach, reach + 1):
            if (dv or du) and dv * dv + du * du <= (radius + 0.5) ** 2:
                wide |= np.roll(on, (dv, du), axis=(-2, -1))  # the raster's rim is empty
    return wide


def _shifter_wet(machine: IonMachine, settings: ArcSettings) -> float:
    if settings.range_shifter is None:
        return 0.0
    return machine.range_shifter(settings.range_shifter).wet_mm


def _cuts(n: int) -> np.ndarray:
    return np.linspace(0, n, N_BLOCKS + 1).astype(np.int64)
