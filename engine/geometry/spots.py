"""Energy layers and spots that cover a target, range shifters included (after Janson 2024).

Each target point is binned by its water-equivalent depth into the layer whose Bragg peak it needs;
a layer's spots are the raster points whose distance to the layer's part of the target, seen in the
beam's eye view, is within the lateral margin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.ndimage import distance_transform_edt

from engine.geometry.coordinates import BeamFrame, beam_frame
from engine.geometry.plan import Beam, Plan
from engine.geometry.rays import WetMap, trace_field
from engine.machine.depth_kernels import layer_kernel
from engine.machine.ion import IonMachine
from engine.patient.ct import Calibration, SchneiderCalibration, rsp_volume
from engine.patient.grid import Grid
from engine.patient.patient import Patient

FARTHEST_ISOCENTER_MM = 500.0  # from the box around the target
RASTER_MM = 1.5  # pitch at which a layer's shadow is drawn to measure margins


@dataclass(frozen=True)
class SpotSettings:
    """How spots are placed; lengths in mm, in water along the beam and in the isoplane across.

    ``spot_spacing_mm`` None: 1.06 × the mean spot size σ at the Bragg peaks × ``spacing_factor``.
    ``layer_spacing_mm`` None: the 80 % width of the Bragg peak × ``layer_factor``, layer by layer.
    ``lateral_margin_mm`` None: one spot spacing.
    ``range_shifter``: "auto" takes the thinnest that brings the shallowest target depth within
    reach, where it is not without; None takes none; else a name, unless a beam names its own.
    """

    spot_spacing_mm: float | None = 5.0
    layer_spacing_mm: float | None = None
    spacing_factor: float = 1.0
    layer_factor: float = 1.0
    lateral_margin_mm: float | None = None
    proximal_margin_mm: float = 0.0
    distal_margin_mm: float = 0.0
    pattern: Literal["hexagonal", "square"] = "hexagonal"
    range_shifter: str | None = "auto"

    def __post_init__(self):
        for name in ("spot_spacing_mm", "layer_spacing_mm", "spacing_factor", "layer_factor"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be positive.")
        for name in ("lateral_margin_mm", "proximal_margin_mm", "distal_margin_mm"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} must be 0 or more.")
        if self.pattern not in ("hexagonal", "square"):
            raise ValueError(f"pattern={self.pattern!r} is unknown; hexagonal or square.")


def place_spots(
    patient: Patient,
    machine: IonMachine,
    beams: Sequence[Beam],
    settings: SpotSettings = SpotSettings(),  # noqa: B008 (frozen)
    target: str | None = None,
    calibration: Calibration = SchneiderCalibration(),  # noqa: B008 (frozen)
) -> Plan:
    """A plan of zero weights whose spots cover ``target`` (the union of all targets by default).

    Beams without an isocenter get the target's centroid.
    """
    if not beams:
        raise ValueError("beams is empty; give at least one field.")
    if not isinstance(machine, IonMachine):
        raise ValueError(
            f"machine={machine.name!r} has no ions; take generic_proton, or place_bixels."
        )
    mask = patient.target_union() if target is None else patient.mask(target)
    if not mask.any():
        raise ValueError(f"target {target or 'union'!r} has no voxels; there is nothing to treat.")
    points = target_points(patient.grid, mask)
    rsp = rsp_volume(patient, calibration)
    fields = [
        _Field.of(rsp, patient.grid, machine, centered(beam, points), points, settings)
        for beam in beams
    ]
    per_beam = [field.spots(settings) for field in fields]
    spot_beam = np.repeat(np.arange(len(beams)), [len(spots) for spots in per_beam])
    spots = np.concatenate(per_beam)
    return Plan(
        machine=machine,
        beams=tuple(field.beam for field in fields),
        spot_beam=spot_beam.astype(np.uint16),
        spot_energy=spots[:, 0].astype(np.uint16),
        u_mm=spots[:, 2].astype(np.float32),
        v_mm=spots[:, 1].astype(np.float32),
    )


@dataclass(frozen=True, eq=False)
class _Field:
    """One beam's view of the target: points (n,) in the isoplane and at depth, all in mm."""

    machine: IonMachine
    beam: Beam
    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray  # water equivalent, range shifter not counted

    @classmethod
    def of(cls, rsp, grid, machine, beam, points, settings) -> "_Field":
        frame = beam_frame(beam, machine.virtual_source_mm)
        u, v, t = (a.astype(np.float32) for a in frame.to_beam(points))
        wet = trace_field(rsp, grid, frame, (u.min(), u.max()), (v.min(), v.max()))
        depth = wet.at(u, v, t)
        beam = _with_shifter(machine, beam, depth, settings, wet, frame, u, v)
        return cls(machine, beam, u, v, depth)

    @property
    def shifter_wet_mm(self) -> float:
        if self.beam.range_shifter is None:
            return 0.0
        return self.machine.range_shifter(self.beam.range_shifter).wet_mm

    def spots(self, settings: SpotSettings) -> np.ndarray:
        """Rows of energy index, v and u in mm, sorted by falling energy, rising v, rising u."""
        layers = self.layers(settings)
        spacing = settings.spot_spacing_mm or self._auto_spacing(layers, settings)
        margin = spacing if settings.lateral_margin_mm is None else settings.lateral_margin_mm
        ranges = self.machine.range_mm[layers] - self.shifter_wet_mm
        edges = np.concatenate([[np.inf], 0.5 * (ranges[1:] + ranges[:-1]), [-np.inf]])
        deepest, shallowest = (
            self.depth + settings.distal_margin_mm, self.depth - settings.proximal_margin_mm
        )  # fmt: skip
        rows = []
        for energy, above, below in zip(layers, edges, edges[1:]):
            inside = (deepest >= below) & (shallowest < above)
            if inside.any():
                u, v = self.u[inside], self.v[inside]
                v, u = raster_over(u, v, spacing, margin, settings.pattern)
                rows.append(np.column_stack([np.full(len(u), energy), v, u]))
        return np.concatenate(rows)

    def layers(self, settings: SpotSettings) -> np.ndarray:
        """Energy indices, falling, whose peaks span the target's depths with the margins.

        Energies that the range shifter stops are left out.
        """
        machine, wet = self.machine, self.shifter_wet_mm
        deepest = float(self.depth.max()) + settings.distal_margin_mm + wet
        shallowest = float(self.depth.min()) - settings.proximal_margin_mm + wet
        if deepest > machine.range_mm[-1]:
            raise ValueError(
                f"the target reaches {deepest:.0f} mm of water from gantry "
                f"{self.beam.gantry_deg:g}°, beyond {machine.name}'s "
                f"{machine.range_mm[-1]:.0f} mm; choose another angle."
            )
        energy = int(np.searchsorted(machine.range_mm, deepest))
        chosen = [energy]
        while machine.range_mm[energy] > shallowest and energy > 0:
            step = settings.layer_spacing_mm or settings.layer_factor * self._peak_width(energy)
            goal = machine.range_mm[energy] - step
            energy = min(energy - 1, int(np.argmin(np.abs(machine.range_mm - goal))))
            chosen.append(energy)
        return np.array([e for e in chosen if machine.range_mm[e] > wet])

    def _peak_width(self, energy: int) -> float:
        """Distance between the 80 % depths before and behind the Bragg peak, mm of water."""
        dose = self.machine.depth_dose_mev_cm2_g[energy]
        return self.machine.depth_step_mm * float(np.count_nonzero(dose >= 0.8 * dose.max()))

    def _auto_spacing(self, layers: np.ndarray, settings: SpotSettings) -> float:
        sigmas = []
        for energy in layers:
            kernel = self._kernel(int(energy))
            at_peak = int(np.argmax(kernel.depth_dose_mev_cm2_g))
            sigmas.append(np.sqrt(kernel.air_variance[0] + kernel.scatter_variance_mm2[at_peak]))
        return 1.06 * float(np.mean(sigmas)) * settings.spacing_factor

    def _kernel(self, energy: int):
        if self.beam.range_shifter is None:
            return layer_kernel(self.machine, energy)
        shifter = self.machine.range_shifter(self.beam.range_shifter)
        return layer_kernel(self.machine, energy, shifter, self.beam.shifter_exit_mm)


def _with_shifter(
    machine: IonMachine, beam: Beam, depth, settings: SpotSettings, wet: WetMap,
    frame: BeamFrame, u, v,
) -> Beam:  # fmt: skip
    """The beam with its range shifter chosen and placed an air gap upstream of the first skin."""
    name = beam.range_shifter or settings.range_shifter
    if name == "auto":
        missing = machine.range_mm[0] - (float(depth.min()) - settings.proximal_margin_mm)
        by_wet = sorted(machine.range_shifters, key=lambda s: s.wet_mm)
        enough = [s for s in by_wet if s.wet_mm >= missing]
        name = None if missing <= 0 or not by_wet else (enough or by_wet[-1:])[0].name
    if name is None:
        return replace(beam, range_shifter=None, shifter_exit_mm=None)
    machine.range_shifter(name)  # refuses an unknown name
    skin = float(wet.entrance_mm(u, v).min())
    return replace(beam, range_shifter=name, shifter_exit_mm=skin - beam.air_gap_mm)


def raster_over(
    u, v, spacing: float, margin: float, pattern: str
) -> tuple[np.ndarray, np.ndarray]:
    """Raster points (v, u) within the margin of the shadow of points, rising v, then rising u."""
    pad = margin + 2 * RASTER_MM
    u0, v0 = u.min() - pad, v.min() - pad
    shape = (int((v.max() + pad - v0) / RASTER_MM) + 2, int((u.max() + pad - u0) / RASTER_MM) + 2)
    empty = np.ones(shape, bool)
    drawn_v, drawn_u = (((a - a0) / RASTER_MM + 0.5).astype(int) for a, a0 in ((v, v0), (u, u0)))
    empty[drawn_v, drawn_u] = False
    distance = distance_transform_edt(empty, sampling=RASTER_MM)
    pitch_v = spacing * (np.sqrt(0.75) if pattern == "hexagonal" else 1.0)
    lines = np.arange(np.ceil((v.min() - margin) / pitch_v), (v.max() + margin) / pitch_v)
    places = np.arange(np.floor((u.min() - margin) / spacing), (u.max() + margin) / spacing + 1)
    shift = 0.5 * (lines % 2) if pattern == "hexagonal" else 0.0 * lines
    grid_v = np.repeat(lines * pitch_v, len(places))
    grid_u = (spacing * (places[None, :] + shift[:, None])).ravel()
    row = np.clip(((grid_v - v0) / RASTER_MM + 0.5).astype(int), 0, shape[0] - 1)
    column = np.clip(((grid_u - u0) / RASTER_MM + 0.5).astype(int), 0, shape[1] - 1)
    near = distance[row, column] <= margin
    return grid_v[near], grid_u[near]


def target_points(grid: Grid, mask: np.ndarray) -> np.ndarray:
    """Points (n, 3) in x, y, z mm that fill a mask at 2 mm or closer."""
    part, cut = grid.cropped(mask)
    split = tuple(int(np.ceil(s / 2.0)) for s in grid.spacing_mm)
    fine = Grid(
        tuple(n * k for n, k in zip(part.shape, split)),
        tuple(s / k for s, k in zip(part.spacing_mm, split)),
        tuple(o - 0.5 * s + 0.5 * s / k
              for o, s, k in zip(part.origin_mm, part.spacing_mm, split)),
    )  # fmt: skip
    dense = mask[cut]
    for axis, k in enumerate(split):
        dense = np.repeat(dense, k, axis=axis)
    return fine.points_mm(np.flatnonzero(dense))


def centered(beam: Beam, points: np.ndarray) -> Beam:
    """The beam with the centroid of points (n, 3) as its isocenter, unless it has one, which must
    lie near them."""
    if beam.isocenter_mm is not None:
        beyond = np.maximum(points.min(axis=0) - beam.isocenter_mm, 0.0)
        beyond = np.maximum(beyond, np.subtract(beam.isocenter_mm, points.max(axis=0)))
        if np.linalg.norm(beyond) > FARTHEST_ISOCENTER_MM:
            raise ValueError(
                f"isocenter_mm={tuple(beam.isocenter_mm)} of the beam at gantry "
                f"{beam.gantry_deg:g}° lies {np.linalg.norm(beyond):.0f} mm from the target; up to "
                f"{FARTHEST_ISOCENTER_MM:g} mm are placed. Is it of another patient?"
            )
        return beam
    return replace(beam, isocenter_mm=tuple(float(c) for c in points.mean(axis=0)))
