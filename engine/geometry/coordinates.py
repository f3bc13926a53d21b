"""Beam's eye view of an IEC 61217 machine in DICOM patient axes (head first, supine).

At gantry 0 the source is anterior and the beam runs posterior; at gantry 90 it comes from the
patient's left. ``u`` is the gantry's x axis (patient left at gantry 0), ``v`` its y axis (superior
at couch 0), ``t`` runs along the beam from the isocenter, downstream positive, all in mm.
"""

from dataclasses import dataclass

import numpy as np

from engine.geometry.plan import Beam

SIDEWAYS = 1e-7  # sine of the angle to the vertical below which a beam is vertical


@dataclass(frozen=True, eq=False)
class BeamFrame:
    """Unit vectors (x, y, z) and isocenter of one beam, with its virtual source."""

    isocenter_mm: np.ndarray
    u_axis: np.ndarray
    v_axis: np.ndarray
    direction: np.ndarray  # from the source to the isocenter
    source_mm: float  # distance from the virtual source to the isocenter

    def to_beam(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(u, v, t) of points (n, 3) in mm; u and v projected from the source to the isoplane."""
        offset = np.asarray(points_mm, dtype=np.float64) - self.isocenter_mm
        t = offset @ self.direction
        shrink = self.source_mm / (self.source_mm + t)
        return (offset @ self.u_axis) * shrink, (offset @ self.v_axis) * shrink, t

    def to_patient(self, u_mm, v_mm, t_mm) -> np.ndarray:
        """Points (n, 3) in patient mm from isoplane positions and depth along the beam."""
        u, v, t = np.broadcast_arrays(u_mm, v_mm, t_mm)
        grow = (self.source_mm + t) / self.source_mm
        return (
            self.isocenter_mm
            + (u * grow)[..., None] * self.u_axis
            + (v * grow)[..., None] * self.v_axis
            + t[..., None] * self.direction
        )


def beam_frame(beam: Beam, source_mm: float, shift_mm=(0.0, 0.0, 0.0)) -> BeamFrame:
    """The frame of a beam whose isocenter is known, moved by a set-up shift (x, y, z) in mm."""
    if beam.isocenter_mm is None:
        raise ValueError("isocenter_mm of the beam is not set; place spots first or give one.")
    g, c = np.deg2rad(beam.gantry_deg), np.deg2rad(beam.couch_deg)
    fixed_u = (np.cos(g), 0.0, -np.sin(g))
    fixed_v = (0.0, 1.0, 0.0)
    fixed_direction = (-np.sin(g), 0.0, -np.cos(g))
    isocenter = np.asarray(beam.isocenter_mm, dtype=np.float64) + np.asarray(shift_mm)
    return BeamFrame(
        isocenter, _on_couch(fixed_u, c), _on_couch(fixed_v, c), _on_couch(fixed_direction, c),
        float(source_mm),
    )  # fmt: skip


def beam_angles(u_axis: np.ndarray, direction: np.ndarray) -> tuple[float, float, float]:
    """Gantry, couch and turn in degrees of the beam whose eye view has these axes (3,).

    ``beam_frame`` with gantry and couch has the same direction, and its axes u and v turned by the
    third angle, from u to v, are the given ones. Two couches see any direction; the one with the
    smaller turn is taken, and with a vertical beam the one with none.
    """
    x, y, z = direction[0], direction[2], -direction[1]  # at couch 0, as in ``_on_couch``
    across = float(np.hypot(x, y))
    found = []
    for sine in (across, -across):
        gantry_rad = np.arctan2(sine, -z)
        if across > SIDEWAYS:
            couch_rad = np.arctan2(y / sine, -x / sine)
        else:  # u lies in the plane that the couch turns in
            sign = np.cos(gantry_rad)
            couch_rad = np.arctan2(-sign * u_axis[2], sign * u_axis[0])
        beam = Beam(np.rad2deg(gantry_rad), (0.0, 0.0, 0.0), np.rad2deg(couch_rad))
        frame = beam_frame(beam, 1.0)
        turn_rad = np.arctan2(frame.v_axis @ u_axis, frame.u_axis @ u_axis)
        found.append((beam.gantry_deg % 360.0, beam.couch_deg, np.rad2deg(turn_rad)))
    return min(found, key=lambda angles: round(abs(angles[2]), 6))


def _on_couch(fixed: tuple[float, float, float], couch_rad: float) -> np.ndarray:
    """A fixed-system vector (x left, y superior, z anterior at couch 0) in DICOM x, y, z."""
    x = np.cos(couch_rad) * fixed[0] + np.sin(couch_rad) * fixed[1]
    y = -np.sin(couch_rad) * fixed[0] + np.cos(couch_rad) * fixed[1]
    return np.array([x, -fixed[2], y])
