"""A patient from a folder of DICOM files: CT series, structure set and, where there is one, plan.

What belongs together is found by references; where several could be meant, keys choose. Nothing of
a person is taken over: the patient is called after a digest of the series' UID.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.errors import PhysicsWarning
from engine.io.dicom_ct import Ct, read_ct
from engine.io.dicom_dataset import DicomError, read_dataset
from engine.io.dicom_folder import SHOWN_UNREADABLE, DicomFolder, Entry, scan
from engine.io.dicom_plan import prescription
from engine.io.dicom_structures import Roi, StructureSet, empty_mask
from engine.io.structure_names import EXTERNAL, Patterns, dose_in_name_gy, mapped
from engine.patient.grid import Grid
from engine.patient.patient import ROLES, Patient, Role, Structure
from engine.patient.structures import external_from_hu

FEW_VOXELS = 20_000  # of a mask: larger ones that are compact are off by less than 0.5 %
MOST_OFF = 0.01  # share of a structure off the CT or the body that is not told
TARGET_KINDS = ("PTV", "CTV", "ITV", "GTV")  # the first of these that is there is treated


@dataclass(frozen=True)
class Linked:
    """A series with its structure set, and the plan that gives fractions and prescription."""

    series: Entry
    structures: Entry
    plan: Entry | None
    notes: tuple[str, ...] = ()  # why these, where others could be meant


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A structure that is wanted."""

    name: str
    role: Role
    roi: Roi


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A structure with its mask, and the part of the CT beyond which it is empty."""

    structure: Structure
    window: tuple[slice, slice, slice]


def read_patient(
    path: str | Path,
    series: str | None = None,
    structures: str | None = None,
    plan: str | None = None,
    names: str | Path | Patterns | None = None,
    prescription_gy: Mapping[str, float] | None = None,
    n_fractions: int | None = None,
    roles: Mapping[str, Role] | None = None,
) -> Patient:
    """The patient of a folder of DICOM files, with sub-folders and whatever else lies there.

    ``series``, ``structures`` and ``plan`` choose by UID, or by the digest that the listing shows,
    where the folder holds several. Structures get TG-263 names by ``mapped``, by one's own patterns
    in ``names`` first. What no pattern matches, or one of ``leave_out``, is left out and told,
    unless ``roles`` or ``prescription_gy`` name it, by its local name; ``roles`` overrides what
    names and file say.

    The prescription in Gy (RBE) over the course is ``prescription_gy``; or else the plan's, and for
    targets that it does not name the doses in their names, for PTVs, or where there are none for
    CTVs, and so on. A target without a dose is left out. The external is the structure of that
    role, or else what ``external_from_hu`` finds; targets are clipped to it.

    Whatever is left out or doubtful, and what lies off the CT or the body by more than 1 % of
    itself, is told in one ``PhysicsWarning``. Raises ``DicomError`` of
    files, ``ValueError`` of keys and names.
    """
    folder = scan(path)
    linked = link(folder, series, structures, plan)
    structure_set = StructureSet(linked.structures.path)
    notes = [f"a file is left out: {why}" for why in folder.unreadable[:SHOWN_UNREADABLE]]
    notes += linked.notes
    if linked.series.uid not in linked.structures.refers_to:
        notes.append("the structures refer to another series, of the same frame of reference")
    chosen = _chosen(structure_set, names, roles or {}, prescription_gy or {}, notes)
    planned_gy, planned_fractions = _planned(folder, linked, prescription_gy, n_fractions)
    doses_gy = _doses_gy(chosen, prescription_gy or {}, planned_gy)
    n_fractions = planned_fractions if n_fractions is None else n_fractions
    if n_fractions is None:
        raise DicomError(
            "n_fractions is not told by the key, and no plan in the folder tells it; give "
            "n_fractions=NUMBER."
        )
    ct = read_ct(linked.series.paths)
    found = list(_drawn(structure_set, chosen, doses_gy, ct, notes))
    found = _with_external(found, ct, notes)
    patient = Patient(
        name=f"dicom-{linked.series.short}",
        grid=ct.grid,
        hu=ct.hu,
        structures={structure.name: structure for structure in found},
        prescription_gy={s.name: doses_gy[s.name] for s in found if s.role == "target"},
        n_fractions=n_fractions,
        source=f"dicom:{linked.series.short}",
    )
    _warn_of([*ct.notes, *notes])
    return patient


def link(
    folder: DicomFolder,
    series: str | None = None,
    structures: str | None = None,
    plan: str | None = None,
) -> Linked:
    """What belongs together in a folder, by the keys given and by references.

    A plan is optional: without a key it is the only one that refers to the structure set, and none
    where several do. Structure sets that were drawn on a CT elsewhere are not meant where there
    are others.
    """
    chosen_plan = None if plan is None else folder.chosen("plan", plan)
    chosen_series = None if series is None else folder.chosen("series", series)
    candidates = folder.of("structures")
    for other in (chosen_plan, chosen_series):
        if other is not None:
            belonging = folder.belonging("structures", other)
            candidates = tuple(entry for entry in candidates if entry in belonging)
    notes: tuple[str, ...] = ()
    if structures is None:
        candidates, notes = _with_ct(folder, candidates)
    chosen_set = folder.chosen("structures", structures, candidates)
    if chosen_series is None:
        chosen_series = folder.chosen("series", None, folder.belonging("series", chosen_set))
    if chosen_plan is None:
        plans = folder.belonging("plan", chosen_set)
        chosen_plan = plans[0] if len(plans) == 1 else None
    return Linked(chosen_series, chosen_set, chosen_plan, notes)


def _with_ct(
    folder: DicomFolder, candidates: tuple[Entry, ...]
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Structure sets but those whose CT is elsewhere, if that leaves any, and what to note."""
    here = {entry.uid for entry in folder.of("series")}
    kept = tuple(e for e in candidates if not e.refers_to or e.refers_to & here)
    if not kept or len(kept) == len(candidates):
        return candidates, ()
    others = ", ".join(entry.short for entry in candidates if entry not in kept)
    return kept, (f"structure sets whose CT is not in the folder are not taken: {others}",)


def _chosen(
    structure_set: StructureSet,
    names: str | Path | Patterns | None,
    roles: Mapping[str, Role],
    prescription_gy: Mapping[str, float],
    notes: list[str],
) -> list[_Chosen]:
    """The structures that have contours, a name and a role; notes of the others."""
    _refuse_unknown_roles(roles)
    drawn = [roi for roi in structure_set.rois if roi.n_contours]
    result = mapped([roi.name for roi in drawn], names)
    named = {local: (found.name, found.role) for local, found in result.named.items()}
    given = {*roles, *prescription_gy}
    unnamed = (*result.unmatched, *result.left_out)
    named |= {local: (local, None) for local in unnamed if local in given}
    named |= _external_by_type(drawn, result.unmatched, named, roles)
    chosen = []
    for roi in drawn:
        if roi.name not in named:
            continue
        name, role_of_name = named[roi.name]
        prescribed = "target" if {roi.name, name} & set(prescription_gy) else None
        role = roles.get(roi.name) or roles.get(name) or prescribed or role_of_name or roi.role
        if role is None:
            notes.append(f"{roi.name!r} is left out: its file does not say what it is, roles can")
        else:
            chosen.append(_Chosen(name, role, roi))
    _refuse_unknown_keys("roles", roles, chosen)
    _refuse_unknown_keys("prescription_gy", prescription_gy, chosen)
    unknown, helpers = (
        [local for local in locals_ if local not in named]
        for locals_ in (result.unmatched, result.left_out)
    )
    empty = [roi.name for roi in structure_set.rois if not roi.n_contours]
    reasons = {
        "no pattern knows their names": unknown,
        "a pattern of leave_out knows them": helpers,
        "no contours": empty,
    }
    for why, left_out in reasons.items():
        if left_out:
            notes.append(f"left out ({why}): {', '.join(map(repr, left_out))}")
    return chosen


def _external_by_type(
    drawn: Iterable[Roi],
    unmatched: Iterable[str],
    named: Mapping[str, tuple[str, Role | None]],
    roles: Mapping[str, Role],
) -> dict[str, tuple[str, Role]]:
    """The external that its file alone calls so, if there is no other."""
    if "external" in roles.values() or any(role == "external" for _, role in named.values()):
        return {}
    found = [r.name for r in drawn if r.role == "external" and r.name in unmatched]
    return {found[0]: (EXTERNAL, "external")} if len(found) == 1 else {}


def _planned(
    folder: DicomFolder, linked: Linked, prescription_gy: Mapping[str, float] | None,
    n_fractions: int | None,
) -> tuple[dict[int, float], int | None]:  # fmt: skip
    """Doses by ROI number and fractions of the plan, if the keys leave something to it."""
    if prescription_gy and n_fractions is not None:
        return {}, None
    plans = folder.belonging("plan", linked.structures)
    if linked.plan is None and plans:
        folder.chosen("plan", None, plans)  # refuses, and lists them
    return ({}, None) if linked.plan is None else prescription(read_dataset(linked.plan.path))


def _doses_gy(
    chosen: Iterable[_Chosen], given_gy: Mapping[str, float], planned_gy: Mapping[int, float]
) -> dict[str, float]:
    """Prescription by the targets' names."""
    targets = [c for c in chosen if c.role == "target"]
    if given_gy:
        return {
            target.name: given_gy[key]
            for target in targets
            for key in (target.roi.name, target.name)
            if key in given_gy
        }
    found = {}
    for target in targets:
        dose_gy = planned_gy.get(target.roi.number) or dose_in_name_gy(target.name)
        if dose_gy:
            found[target.name] = dose_gy
    if not found:
        listed = ", ".join(repr(target.name) for target in targets) or "none"
        raise DicomError(
            f"no dose is prescribed: neither a plan nor the targets' names tell one. Targets: "
            f"{listed}; give prescription_gy={{NAME: GY}}, over the course."
        )
    treated = min(_target_kind(name) for name in found)
    return {name: gy for name, gy in found.items() if _target_kind(name) == treated}


def _target_kind(name: str) -> int:
    kinds = [i for i, kind in enumerate(TARGET_KINDS) if name.upper().startswith(kind)]
    return kinds[0] if kinds else 0


def _drawn(
    structure_set: StructureSet,
    chosen: Iterable[_Chosen],
    doses_gy: Mapping[str, float],
    ct: Ct,
    notes: list[str],
) -> Iterable[_Drawn]:
    """Structures with their masks; targets without a dose and what lies off the CT are left out."""
    for wanted in chosen:
        if wanted.role == "target" and wanted.name not in doses_gy:
            notes.append(f"{wanted.roi.name!r} is left out: no dose is prescribed to it")
            continue
        drawn = structure_set.structure(wanted.roi, ct.grid, ct.frame_uid)
        notes += drawn.notes
        mask = drawn.mask_on(ct.grid)
        window = drawn.window_on(ct.grid)
        if not mask[window].any():
            notes.append(f"{wanted.roi.name!r} is left out: it covers no voxel of the CT")
            continue
        cut_mm = drawn.beyond_mm(ct.grid)
        if cut_mm > 0.5 * ct.grid.spacing_mm[0]:
            notes.append(f"{wanted.roi.name!r} is cut at the end of the CT, by {cut_mm:g} mm")
        off = drawn.share_off(ct.grid)
        if off > MOST_OFF:
            notes.append(f"{100 * off:.0f} % of {wanted.roi.name!r} lies off the CT")
        n_voxels = np.count_nonzero(mask[window])
        partial = drawn.partial_on(ct.grid) if n_voxels < FEW_VOXELS else None
        structure = Structure(wanted.name, mask, wanted.role, wanted.roi.material, partial)
        yield _Drawn(structure, window)


def _with_external(found: list[_Drawn], ct: Ct, notes: list[str]) -> list[Structure]:
    """With an external, first, and targets clipped to it."""
    externals = [drawn.structure for drawn in found if drawn.structure.role == "external"]
    external = (
        externals[0]
        if externals
        else Structure(EXTERNAL, external_from_hu(ct.hu, ct.grid), "external")
    )
    others = [drawn for drawn in found if drawn.structure is not external]
    return [external, *(_in_body(drawn, external, ct.grid, notes) for drawn in others)]


def _in_body(drawn: _Drawn, external: Structure, grid: Grid, notes: list[str]) -> Structure:
    """A structure, clipped to the external if it is a target; a note of what lies off it."""
    structure, window = drawn.structure, drawn.window
    if structure.role not in ("target", "organ"):
        return structure
    n_voxels = np.count_nonzero(structure.mask[window])
    inside = structure.mask[window] & external.mask[window]
    off = 1.0 - np.count_nonzero(inside) / n_voxels
    if off > MOST_OFF:
        what = "is not treated" if structure.role == "target" else "gets no dose"
        notes.append(f"{100 * off:.0f} % of {structure.name!r} lies off the body and {what}")
    if structure.role == "organ":
        return structure
    if off == 1.0:
        raise DicomError(
            f"target {structure.name!r} lies off the external; check the structures, or leave the "
            "external out by name to have it from the CT."
        )
    mask = empty_mask(structure.mask.shape)
    mask[window] = inside
    partial = structure.partial
    if partial is not None:
        partial = replace(partial, share=partial.share * external.mask[partial.cut_of(grid)])
    return replace(structure, mask=mask, partial=partial)


def _refuse_unknown_roles(roles: Mapping[str, Role]) -> None:
    for name, role in roles.items():
        if role not in ROLES:
            raise ValueError(f"roles={{{name}: {role}}}: choose a role from {', '.join(ROLES)}.")


def _refuse_unknown_keys(key: str, given: Mapping[str, object], chosen: list[_Chosen]) -> None:
    known = {name for c in chosen for name in (c.name, c.roi.name)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"{key}={{…}} names {', '.join(map(repr, unknown))}, no structure with contours; "
            f"there are {', '.join(sorted(c.name for c in chosen)) or 'none'}."
        )


def _warn_of(notes: list[str]) -> None:
    if notes:
        warnings.warn(f"DICOM patient: {'; '.join(notes)}.", PhysicsWarning, stacklevel=3)
