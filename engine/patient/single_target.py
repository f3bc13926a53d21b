"""One target at one level, as energy-layer selection treats it."""

from dataclasses import replace

import numpy as np

from engine.patient.patient import Patient, Structure

SIDES = ("left", "right")


def single_target(patient: Patient, side: str | None = None) -> Patient:
    """The patient with the highest-dose target alone, on one ``side`` of the neck if wished.

    A side is what lies there of the middle of the external contour, slice by slice; x grows to
    the patient's left.
    """
    if side is not None and side not in SIDES:
        raise ValueError(f"side={side!r} is unknown; choose left, right or None for both.")
    name = patient.targets[0]
    mask = patient.mask(name)
    if side is not None:
        mask = mask & _half(patient, side)
    if not mask.any():
        raise ValueError(
            f"target {name!r} of {patient.name!r} has no voxel"
            + (f" on the {side}; choose the other side." if side else "; there is none to treat.")
        )
    kept = {n: s for n, s in patient.structures.items() if s.role != "target"}
    whole = patient.structures[name]
    kept[name] = whole if side is None else Structure(name, mask, "target")
    prescription = {name: patient.prescription_gy[name]}
    return replace(patient, structures=kept, prescription_gy=prescription)


def _half(patient: Patient, side: str) -> np.ndarray:
    """Voxels (nz, ny, nx) bool on one side of the external contour's middle, slice by slice."""
    body = patient.external.mask
    x = np.arange(body.shape[2])
    across = body.any(axis=1)
    first = np.where(across, x, body.shape[2]).min(axis=1)
    last = np.where(across, x, -1).max(axis=1)
    middle = 0.5 * (first + last)
    on_side = x[None, :] > middle[:, None] if side == "left" else x[None, :] < middle[:, None]
    return np.broadcast_to(on_side[:, None, :], body.shape)
