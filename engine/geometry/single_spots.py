"""Spots that are given one by one in patient coordinates, as a plan: any place, any direction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.machine.single_spots import SpotKind, single_spot_machine
from engine.physics.materials import I_WATER_EV

SAME_DIRECTION = 1e-6
SAME_PLANE_MM = 1e-3


@dataclass(frozen=True)
class SingleSpot:
    """A spot whose axis starts at ``position_mm`` (x, y, z) and runs along a unit vector.

    Its phase space is that of the plane through the position, perpendicular to the axis.
    """

    kind: SpotKind
    position_mm: tuple[float, float, float]
    direction: tuple[float, float, float]
    weight: float  # particles


def angles_along(direction: Sequence[float]) -> tuple[float, float]:
    """Gantry and couch, IEC 61217 degrees, of a beam along a unit vector in patient x, y, z.

    The couch stays within ±90°. Gantry and couch 0 run posterior, along +y.
    """
    x, y, z = direction
    gantry, couch = np.arctan2(np.hypot(x, z), y), np.arctan2(z, -x) if x or z else 0.0
    if abs(couch) > 0.5 * np.pi:  # the same line with the couch turned by half a turn
        gantry, couch = -gantry, couch - np.copysign(np.pi, couch)
    return float(np.degrees(gantry) % 360.0), float(np.degrees(couch))


def plan_of(
    spots: Sequence[SingleSpot], i_water_ev: float = I_WATER_EV, nuclear: bool = True
) -> Plan:
    """A plan with a machine of its own; a beam for every direction and starting plane.

    Spots that differ in nothing but weight are added up.
    """
    if not spots:
        raise ValueError("spots is empty; give at least one.")
    kinds = sorted({s.kind for s in spots}, key=_order)
    machine = single_spot_machine(kinds, i_water_ev, nuclear)
    number = {kind: i for i, kind in enumerate(kinds)}
    beams, rows = [], []
    for index, group in enumerate(_by_beam(spots)):
        beam = _beam(group, machine.nozzle_to_isocenter_mm)
        frame = beam_frame(beam, machine.virtual_source_mm)
        offset = np.array([s.position_mm for s in group]) - frame.isocenter_mm
        u, v = ((offset @ axis).astype(np.float32) for axis in (frame.u_axis, frame.v_axis))
        beams.append(beam)
        rows += [(index, -number[s.kind], float(b), float(a)) for s, a, b in zip(group, u, v)]
    weights = [s.weight for group in _by_beam(spots) for s in group]
    keys, of = np.unique(np.array(rows), axis=0, return_inverse=True)
    beam_index, kind_index, v, u = keys.T
    return Plan(
        machine, tuple(beams), beam_index.astype(np.uint16), (-kind_index).astype(np.uint16),
        u.astype(np.float32), v.astype(np.float32),
        np.bincount(of.ravel(), weights, len(keys)),
    )  # fmt: skip


def _order(kind: SpotKind) -> tuple[float, ...]:
    return (
        kind.energy_mev, kind.energy_std_mev, kind.sigma_mm, kind.angle_std_rad, kind.correlation
    )  # fmt: skip


def _by_beam(spots: Sequence[SingleSpot]) -> list[list[SingleSpot]]:
    """Spots of one direction and one starting plane, in the order in which they first come."""
    groups: dict[tuple, list[SingleSpot]] = {}
    for spot in spots:
        plane_mm = np.dot(spot.position_mm, spot.direction)
        key = (*np.rint(np.array(spot.direction) / SAME_DIRECTION), round(plane_mm / SAME_PLANE_MM))
        groups.setdefault(key, []).append(spot)
    return list(groups.values())


def _beam(group: list[SingleSpot], start_to_isocenter_mm: float) -> Beam:
    """A beam whose isocenter lies downstream of the middle of its spots."""
    direction = np.array(group[0].direction)
    start = np.mean([s.position_mm for s in group], axis=0)
    gantry_deg, couch_deg = angles_along(direction)
    isocenter = start + start_to_isocenter_mm * direction
    return Beam(gantry_deg, tuple(float(c) for c in isocenter), couch_deg)
