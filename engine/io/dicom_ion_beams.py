"""One beam of scanned ions of an RT Ion Plan (PS3.3 C.8.8.25).

A control point holds what is delivered until the next one: its spots' weights add up to the growth
of the cumulative meterset weight, which is 0 from the second of a pair to the next pair. What a
control point leaves out stays as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from pydicom.dataset import Dataset

from engine.geometry.plan import Aperture, Beam
from engine.io.dicom_dataset import (
    DicomError,
    has,
    item,
    items,
    label,
    number,
    numbers,
    text,
    whole,
)
from engine.io.dicom_ion_beam_writing import block_scale, sources_mm, spot_fwhm_mm
from engine.io.dicom_plan_parts import (
    TILTS,
    Part,
    Seen,
    Setups,
    refuse_devices,
    refuse_moving,
    refuse_tilts,
)
from engine.io.dicom_private import air_gap_mm
from engine.machine.ion import IonMachine

NOTHING = 1e-9  # of a beam's cumulative weight: what grows less is not delivered
SUM_WITHIN = 2e-3  # of a control point's weights, from the growth of the cumulative weight
WET_WITHIN_MM = 0.5  # of a range shifter's water-equivalent thickness
FARTHEST_MM = 1000.0  # of a spot from the isocenter
NOTED_FROM = 0.1  # relative difference of spot sizes and of virtual sources
DEFAULT_GAP_MM = 50.0
LARGEST_TURN_DEG = 10.0  # while one control point is delivered
STILL = ("PatientSupportAngle", "IsocenterPosition")  # while a control point is delivered
KEPT = (
    "NominalBeamEnergy", "GantryAngle", "PatientSupportAngle", "IsocenterPosition",
    "RangeShifterSettingsSequence", "ScanSpotPositionMap", "ScanSpotMetersetWeights",
    "ScanSpotTuneID", "SnoutPosition",
)  # fmt: skip


@dataclass
class IonReading:
    """How beams are read: for which machine, with how many particles a monitor unit."""

    machine: IonMachine
    particles_per_mu: float | Mapping[float, float] | None
    energy_within_mev: float
    notes: list[str]
    missing_mev: set[float] = field(default_factory=set)
    tunes: set[str] = field(default_factory=set)

    def energy_index(self, energy_mev: float) -> int:
        """The machine's nearest; one that it lacks is remembered, so that all are told at once."""
        nearest = int(np.argmin(np.abs(self.machine.energy_mev - energy_mev)))
        if abs(float(self.machine.energy_mev[nearest]) - energy_mev) > self.energy_within_mev:
            self.missing_mev.add(energy_mev)
        return nearest

    def conclude(self, where: str) -> None:
        """Refuse what ``energy_index`` did not find; note what differs between beams."""
        if len(self.tunes) > 1:
            self.notes.append(
                f"{len(self.tunes)} scan-spot tunes are computed with one width of spots"
            )
        if not self.missing_mev:
            return
        wanted, machine = sorted(self.missing_mev), self.machine
        nearest = [machine.energy_mev[np.abs(machine.energy_mev - e).argmin()] for e in wanted]
        off_mev = max(abs(n - e) for n, e in zip(nearest, wanted))
        shown = ", ".join(f"{e:g}" for e in wanted[:12]) + (", …" if len(wanted) > 12 else "")
        raise DicomError(
            f"{machine.name} lacks {len(wanted)} energies of {where}: {shown} MeV (it has "
            f"{len(machine.energy_mev)} from {machine.energy_mev[0]:g} to "
            f"{machine.energy_mev[-1]:g}). Name the machine that the plan was made for, or take "
            f"the nearest energies with energy_within_mev={np.ceil(100 * off_mev) / 100:g}."
        )

    def particles(self, energy_mev: float, unit: str, where: str) -> float:
        """Particles per unit of the primary dosimeter."""
        if unit == "NP":
            return 1.0
        if unit != "MU":
            raise DicomError(f"PrimaryDosimeterUnit of {where} is {unit!r}; NP and MU are read.")
        told = self.particles_per_mu
        if told is None:
            raise DicomError(
                f"{where} counts monitor units, and how many particles one is only its machine "
                "knows; give particles_per_mu, a number (1e8 is usual near 125 MeV) or "
                "{MeV: number}."
            )
        by_energy = told if isinstance(told, Mapping) else {energy_mev: told}
        at, values = np.array(sorted(by_energy.items()), float).reshape(-1, 2).T
        if not (len(at) and np.all(np.isfinite(values)) and np.all(values > 0.0)):
            raise ValueError(f"particles_per_mu={told} must be positive numbers.")
        if not at[0] - self.energy_within_mev <= energy_mev <= at[-1] + self.energy_within_mev:
            raise ValueError(
                f"particles_per_mu={told} is told from {at[0]:g} to {at[-1]:g} MeV, and {where} "
                f"has {energy_mev:g} MeV; tell it for that energy too."
            )
        return float(np.interp(energy_mev, at, values))


def read_ion_beam(
    beam: Dataset, setups: Setups, meterset: float, reading: IonReading
) -> list[Part]:
    """A part for every direction that the beam has; ``meterset`` is of one fraction."""
    _refuse_unknown(beam, reading)
    points = items(beam, "IonControlPointSequence")
    reached = _reached(beam, points)
    scale = meterset / _final(beam, reached)
    unit, at = text(beam, "PrimaryDosimeterUnit"), whole(beam, "BeamNumber")
    aperture = _aperture(beam, reading.machine)
    parts: dict[tuple[Beam, bool], list[np.ndarray]] = {}
    kept = _Kept({})
    for point, following, grown in zip(points, points[1:], np.diff(reached)):
        kept = kept.after(point)
        refuse_tilts(point, TILTS)
        if grown <= NOTHING * reached[-1]:
            continue
        for keyword in STILL:
            refuse_moving(beam, [kept.of(keyword), following], [keyword])
        seen = _seen(beam, kept, following, setups, reading)
        direction = _direction(beam, kept, seen, aperture, reading)
        rows = _spots(kept, grown, reading)
        rows[:, 2], rows[:, 1] = seen.places(rows[:, 2], rows[:, 1])
        energy_mev = kept.number("NominalBeamEnergy")
        rows[:, 3] *= scale * reading.particles(energy_mev, unit, label(beam))
        parts.setdefault(direction, []).append(rows)
        _note_spot_size(point, int(rows[0, 0]), reading)
    return [
        Part(direction, at, np.concatenate(rows), no_gap)
        for (direction, no_gap), rows in parts.items()
    ]


@dataclass(frozen=True)
class _Kept:
    """The control point that last told each attribute."""

    told_by: Mapping[str, Dataset]

    def after(self, point: Dataset) -> "_Kept":
        return _Kept({**self.told_by, **{k: point for k in KEPT if has(point, k)}, "": point})

    def of(self, keyword: str) -> Dataset:
        """Where an attribute stands; the point at hand where none has told it."""
        return self.told_by.get(keyword, self.told_by[""])

    def number(self, keyword: str) -> float:
        return number(self.of(keyword), keyword)


def _refuse_unknown(beam: Dataset, reading: IonReading) -> None:
    machine, kind, mode = reading.machine, text(beam, "RadiationType"), text(beam, "ScanMode")
    charge = 1 if kind == "PROTON" else whole(beam, "RadiationAtomicNumber", 0)
    if not isinstance(machine, IonMachine) or charge != machine.charge:
        raise DicomError(
            f"{label(beam)} is of {kind} with charge {charge}, which {machine.name} does not "
            "deliver; name another machine."
        )
    if mode not in ("MODULATED", "MODULATED_SPEC"):
        raise DicomError(
            f"ScanMode of {label(beam)} is {mode}: passive scattering and uniform scanning are not "
            "computed; MODULATED, pencil beam scanning, is."
        )
    if text(beam, "ModulatedScanModeType", "STATIONARY") != "STATIONARY":
        reading.notes.append("what is delivered between spots is computed as if it were on them")
    refuse_devices(
        beam, ("Wedges", "Compensators", "Boli", "LateralSpreadingDevices", "RangeModulators")
    )
    theirs = numbers(beam, "VirtualSourceAxisDistances", 2)
    apart = np.abs(theirs / np.array(sources_mm(machine)) - 1.0).max()
    if apart > NOTED_FROM:
        reading.notes.append(
            f"the file's virtual sources are {theirs[0]:.0f} and {theirs[1]:.0f} mm away, "
            f"{machine.name}'s {machine.virtual_source_mm:.0f} mm"
        )


def _reached(beam: Dataset, points: list[Dataset]) -> np.ndarray:
    """Cumulative meterset weight at each control point (n,)."""
    reached = np.array([number(point, "CumulativeMetersetWeight") for point in points])
    if len(points) < 2 or not reached[-1] > 0.0:
        raise DicomError(
            f"{label(beam)} has {len(points)} control points up to a cumulative meterset weight of "
            f"{reached[-1] if len(points) else 0:g}; two or more and a positive weight are needed."
        )
    fall = np.flatnonzero(np.diff(reached) < -NOTHING * reached[-1])
    if len(fall):
        raise DicomError(
            f"CumulativeMetersetWeight of {label(points[fall[0] + 1])} is {reached[fall[0] + 1]:g} "
            f"after {reached[fall[0]]:g}; it must not fall."
        )
    return reached


def _final(beam: Dataset, reached: np.ndarray) -> float:
    """The cumulative weight that a beam's meterset stands for."""
    final = number(beam, "FinalCumulativeMetersetWeight", reached[-1])
    if abs(final - reached[-1]) > SUM_WITHIN * reached[-1]:
        raise DicomError(
            f"FinalCumulativeMetersetWeight of {label(beam)} is {final:g}, but its last control "
            f"point reaches {reached[-1]:g}; export the plan again."
        )
    return final


def _spots(kept: _Kept, grown: float, reading: IonReading) -> np.ndarray:
    """Rows (n, 4) of energy index, v, u and meterset weight of one control point."""
    point = kept.of("ScanSpotMetersetWeights")
    weights = numbers(point, "ScanSpotMetersetWeights")
    places = numbers(kept.of("ScanSpotPositionMap"), "ScanSpotPositionMap")
    if len(places) != 2 * len(weights):
        raise DicomError(
            f"{label(point)} has {len(weights)} spot weights for {len(places)} coordinates; two "
            "for each are needed."
        )
    total = float(weights.sum())
    if weights.min() < 0.0 or abs(total - grown) > SUM_WITHIN * grown:
        raise DicomError(
            f"ScanSpotMetersetWeights of {label(point)} add up to {total:g}, but the cumulative "
            f"meterset weight grows by {grown:g} to the next control point; export the plan again."
        )
    if np.abs(places).max() > FARTHEST_MM:
        raise DicomError(
            f"spots of {label(point)} lie up to {np.abs(places).max():g} mm from the isocenter; "
            f"{FARTHEST_MM:g} mm are the most that is computed."
        )
    energy = reading.energy_index(kept.number("NominalBeamEnergy"))
    u, v = places[::2], places[1::2]
    rows = np.column_stack([np.full(len(u), energy, float), v, u, weights])
    tune = text(kept.of("ScanSpotTuneID"), "ScanSpotTuneID", "")
    reading.tunes.add(tune)
    return rows[weights > 0.0]


def _seen(
    beam: Dataset, kept: _Kept, following: Dataset, setups: Setups, reading: IonReading
) -> Seen:
    """Where a control point's spots come from, at the middle of its way to the next."""
    gantry, couch = kept.number("GantryAngle"), kept.number("PatientSupportAngle")
    turn = (number(following, "GantryAngle", gantry) - gantry + 180.0) % 360.0 - 180.0
    if abs(turn) > LARGEST_TURN_DEG:
        raise DicomError(
            f"the gantry turns by {turn:g}° while {label(kept.of(''))} is delivered; up to "
            f"{LARGEST_TURN_DEG:g}° are computed, at the middle."
        )
    if turn:
        reading.notes.append("what is delivered while the gantry turns is computed at the middle")
    elif text(kept.of(""), "GantryRotationDirection", "NONE") not in ("NONE", ""):
        reading.notes.append("a gantry said to turn that stays at its angle is taken to stand")
    seen = setups.seen(beam, gantry + 0.5 * turn, couch)
    if seen.turn_deg % 180.0 and reading.machine.virtual_sources_mm is not None:
        reading.notes.append(
            "a beam on a turned couch is seen turned by a patient on the side; its two virtual "
            "sources are computed as if it were not"
        )
    return seen


def _direction(
    beam: Dataset, kept: _Kept, seen: Seen, aperture: Aperture | None, reading: IonReading
) -> tuple[Beam, bool]:
    """The beam that delivers a control point, and whether its air gap is unknown."""
    isocenter = numbers(kept.of("IsocenterPosition"), "IsocenterPosition", 3)
    name, exit_mm, gap_mm = _shifter(beam, kept, reading.machine)
    if aperture is not None:
        opening = seen.places(*np.array(aperture.opening_mm).T)
        aperture = replace(aperture, opening_mm=tuple(zip(*(x.tolist() for x in opening))))
    found = Beam(
        seen.gantry_deg, tuple(float(c) for c in isocenter), seen.couch_deg, name,
        DEFAULT_GAP_MM if gap_mm is None else gap_mm, exit_mm, aperture,
    )  # fmt: skip
    return found, name is not None and gap_mm is None


def _shifter(
    beam: Dataset, kept: _Kept, machine: IonMachine
) -> tuple[str | None, float | None, float | None]:
    """The machine's range shifter that is in the beam, where it ends, and its distance from the
    skin; None where there is none or the file does not tell."""
    names = {
        whole(i, "RangeShifterNumber"): text(i, "RangeShifterID", "")
        for i in items(beam, "RangeShifterSequence")
    }
    if not names:
        refuse_devices(beam, ("RangeShifters",))
        return None, None, None
    settings = items(kept.of("RangeShifterSettingsSequence"), "RangeShifterSettingsSequence")
    inside = [s for s in settings if text(s, "RangeShifterSetting").upper() != "OUT"]
    if not settings:
        raise DicomError(
            f"{label(beam)} has a range shifter and does not say whether it is in the beam "
            "(RangeShifterSettingsSequence); export the plan again."
        )
    if not inside:
        return None, None, None
    if len(inside) > 1:
        raise DicomError(
            f"{label(beam)} has {len(inside)} range shifters in the beam at once; one is computed."
        )
    setting = inside[0]
    name = _known_shifter(
        names.get(whole(setting, "ReferencedRangeShifterNumber"), ""), setting, machine
    )
    return name, -_shifter_mm(setting, kept, beam), air_gap_mm(setting)


def _shifter_mm(setting: Dataset, kept: _Kept, beam: Dataset) -> float:
    """From the isocenter to the end of the range shifter, or of the snout in files that do not
    tell it."""
    distance_mm = number(setting, "IsocenterToRangeShifterDistance", None)
    if distance_mm is None and has(kept.of("SnoutPosition"), "SnoutPosition"):
        distance_mm = kept.number("SnoutPosition")
    if distance_mm is not None:
        if not distance_mm > 0.0:
            raise DicomError(
                f"the range shifter of {label(beam)} ends {distance_mm:g} mm upstream of the "
                "isocenter; it must stand before the patient."
            )
        return distance_mm
    raise DicomError(
        f"{label(beam)} tells neither IsocenterToRangeShifterDistance nor SnoutPosition, so where "
        "its range shifter is remains unknown; export the plan again."
    )


def _known_shifter(identifier: str, setting: Dataset, machine: IonMachine) -> str:
    """By its water-equivalent thickness; of several, or without one, by its name."""
    wet_mm = number(setting, "RangeShifterWaterEquivalentThickness", None)
    alike = [
        shifter.name
        for shifter in machine.range_shifters
        if wet_mm is None or abs(shifter.wet_mm - wet_mm) <= WET_WITHIN_MM
    ]
    if identifier in alike:
        return identifier
    if alike and wet_mm is not None:
        return alike[0]
    known = ", ".join(f"{s.name} ({s.wet_mm:g} mm of water)" for s in machine.range_shifters)
    shown = "an untold thickness" if wet_mm is None else f"{wet_mm:g} mm of water"
    raise DicomError(
        f"the range shifter of {label(setting)}, of {shown}, is unknown to {machine.name}, which "
        f"has {known or 'none'}; name a machine that has it."
    )


def _aperture(beam: Dataset, machine: IonMachine) -> Aperture | None:
    """The one block with an opening (C.8.8.25.4), scaled from the isocenter plane to itself."""
    if not whole(beam, "NumberOfBlocks", 0):
        return None
    block = item(beam, "IonBlockSequence")
    refuse_tilts(items(beam, "IonControlPointSequence")[0], ("BeamLimitingDeviceAngle",))
    if text(block, "BlockType") != "APERTURE":
        raise DicomError(f"BlockType of {label(block)} is {text(block, 'BlockType')}; an APERTURE "
                         "can be computed.")  # fmt: skip
    thickness_mm = number(block, "BlockThickness")
    hangs_below = text(block, "BlockMountingPosition") == "PATIENT_SIDE"
    tray_mm = number(block, "IsocenterToBlockTrayDistance")
    exit_mm = -(tray_mm - thickness_mm) if hangs_below else -tray_mm
    corners = numbers(block, "BlockData", 2 * whole(block, "BlockNumberOfPoints")).reshape(-1, 2)
    opening = corners * block_scale(-tray_mm, machine)
    material = text(block, "MaterialID", "brass").lower()
    try:
        return Aperture(
            tuple((float(u), float(v)) for u, v in opening), exit_mm, thickness_mm, material
        )
    except ValueError as error:
        raise DicomError(f"{label(block)} is no aperture that can be computed: {error}") from None


def _note_spot_size(point: Dataset, energy: int, reading: IonReading) -> None:
    """Of spots whose width is another than the machine's."""
    if not has(point, "ScanningSpotSize"):
        return
    theirs = float(numbers(point, "ScanningSpotSize", 2).mean())
    ours = spot_fwhm_mm(reading.machine, energy)
    if theirs > 0.0 and abs(theirs / ours - 1.0) > NOTED_FROM:
        reading.notes.append(
            "the file's spots are of another width than the machine's, which are computed"
        )
