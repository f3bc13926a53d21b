"""Open photon fields: square bixels of a fluence map that cover a target."""

from collections.abc import Sequence

import numpy as np

from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.geometry.spots import centered, raster_over, target_points
from engine.machine.photon import LATTICE_MM, PhotonMachine
from engine.patient.patient import Patient


def place_bixels(
    patient: Patient,
    machine: PhotonMachine,
    beams: Sequence[Beam],
    bixel_mm: float = 5.0,
    margin_mm: float = 5.0,
    target: str | None = None,
) -> Plan:
    """A plan of zero weights whose bixels cover the shadow of ``target`` (the union by default).

    Bixels are squares of ``bixel_mm`` in the isocenter plane, on a raster through the isocenter;
    those with their center within ``margin_mm`` of the shadow are kept.
    """
    if not beams:
        raise ValueError("beams is empty; give at least one field.")
    if not isinstance(machine, PhotonMachine):
        raise ValueError(
            f"machine={machine.name!r} has no photons; take generic_photon, or place_spots."
        )
    check_bixel(bixel_mm)
    if not (np.isfinite(margin_mm) and margin_mm >= 0.0):
        raise ValueError(f"margin_mm={margin_mm} must be 0 or more.")
    mask = patient.target_union() if target is None else patient.mask(target)
    if not mask.any():
        raise ValueError(f"target {target or 'union'!r} has no voxels; there is nothing to treat.")
    points = target_points(patient.grid, mask)
    fields = [centered(beam, points) for beam in beams]
    rasters = []
    for field in fields:
        u, v, _ = beam_frame(field, machine.virtual_source_mm).to_beam(points)
        rasters.append(raster_over(u, v, bixel_mm, margin_mm, "square"))
    n_bixels = [len(v) for v, _ in rasters]
    v, u = (np.concatenate(axis).astype(np.float32) for axis in zip(*rasters))
    return Plan(
        machine=machine, beams=tuple(fields),
        spot_beam=np.repeat(np.arange(len(fields)), n_bixels).astype(np.uint16),
        spot_energy=np.zeros(len(u), np.uint16), u_mm=u, v_mm=v,
    )  # fmt: skip


def check_bixel(bixel_mm: float) -> None:
    """Bixels lie on the lattice of their tables: whole steps wide, 50 mm at most."""
    steps = bixel_mm / LATTICE_MM
    if not (0.5 < steps <= 50.0 / LATTICE_MM and abs(steps - round(steps)) < 1e-6):
        raise ValueError(
            f"bixel_mm={bixel_mm} must be a multiple of {LATTICE_MM:g} mm, 50 mm at most."
        )
