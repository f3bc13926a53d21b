"""Fields of a plan, from angles or from a plan that a DICOM file holds."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from engine.errors import PhysicsWarning
from engine.geometry.plan import Aperture, Beam
from engine.io.dicom_ct import position_on
from engine.io.dicom_fields import read_fields
from engine.io.dicom_folder import scan
from engine.io.dicom_patient import link, read_patient
from engine.patient.ct import override_material
from scripts.nameless import FIELDS, READER
from scripts.patient_keys import spoken_as_keys_of


def fields(
    gantry_deg: Sequence[float] | float,
    couch_deg: Sequence[float] | float = 0.0,
    air_gap_mm: Sequence[float] | float = 50.0,
    range_shifter: Sequence[str | None] | str | None = None,
    aperture: Sequence[dict | None] | dict | None = None,
    from_plan: str | None = None,
) -> tuple[Beam, ...]:
    """One beam an angle (IEC 61217); what follows is one value for all fields, or a list.

    ``range_shifter`` None leaves the choice to the spot settings; ``aperture`` holds the arguments
    of an ``Aperture``. ``from_plan``, a file or folder of DICOM, has gantry, couch and isocenters
    in place of those given.
    """
    directions = (
        _of_angles(gantry_deg, couch_deg) if from_plan is None else _of_plan(Path(from_plan))
    )
    given = {"air_gap_mm": air_gap_mm, "range_shifter": range_shifter, "aperture": aperture}
    listed = [_one_each(name, value, len(directions)) for name, value in given.items()]
    return tuple(
        replace(
            beam, air_gap_mm=float(gap), range_shifter=shifter,
            aperture=None if block is None else _aperture(block),
        )
        for beam, gap, shifter, block in zip(directions, *listed)
    )  # fmt: skip


def _of_angles(gantry_deg: Sequence[float] | float, couch_deg) -> list[Beam]:
    gantry = [float(angle) for angle in np.atleast_1d(gantry_deg)]
    couch = _one_each("couch_deg", couch_deg, len(gantry))
    return [Beam(angle, couch_deg=float(c)) for angle, c in zip(gantry, couch)]


def _of_plan(path: Path) -> Sequence[Beam]:
    found = read_fields(path.expanduser())
    if found.notes:
        warnings.warn(f"fields of a plan: {'; '.join(found.notes)}.", PhysicsWarning, stacklevel=3)
    return found.beams


def _one_each(name: str, value: object, n_fields: int) -> list:
    """One value for every field, from one for all or a list."""
    values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if len(values) not in (1, n_fields):
        raise ValueError(
            f"{name}={value} has {len(values)} entries for {n_fields} gantry angles; give one for "
            "each field, or one for all."
        )
    return values * n_fields if len(values) == 1 else values


def _aperture(arguments: dict) -> Aperture:
    """From a configuration, whose lists become tuples; refuses a material that is unknown."""
    keys = ", ".join(Aperture.__dataclass_fields__)
    if not isinstance(arguments, Mapping):
        raise ValueError(f"aperture={arguments!r} must be null, or hold {keys}.")
    try:
        opening = tuple(tuple(corner) for corner in arguments.get("opening_mm", ()))
        block = Aperture(**{**arguments, "opening_mm": opening})
        override_material(block.material)
    except (TypeError, ValueError) as error:
        raise ValueError(f"aperture={arguments} does not fit ({keys}): {error}") from error
    return block


def refuse_foreign(cfg: DictConfig) -> None:
    """Fields of a plan must be of the patient's frame of reference, and of how it lies there."""
    path = (cfg.geometry.get("beams") or {}).get(FIELDS)
    if path is None or cfg.patient.get("_target_") != READER:
        return
    of, path = cfg.patient, Path(path).expanduser()
    with spoken_as_keys_of("patient", read_patient):
        series = link(scan(of.path), of.series, of.structures, of.plan).series
    found = read_fields(path)
    if found.frame_uid and series.frames and found.frame_uid not in series.frames:
        raise ValueError(
            f"the plan of {FIELDS}=… lies in another frame of reference than the CT; give one of "
            "this patient."
        )
    on_ct = position_on(series.paths)
    if read_fields(path, on_ct).beams != found.beams:
        raise ValueError(
            f"the plan of {FIELDS}=… does not say how the patient lies, and on the CT it lies "
            f"{on_ct}; give gantry_deg and couch_deg, as for {on_ct} turned to head first, supine."
        )
