"""A dose from elsewhere against one of our engines: the same spots in the same medium."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.dose.engine import DoseEngine
from engine.evaluation.comparison import (
    AxisProfile,
    axis_profile,
    core_sigma_mm,
    difference,
    noise,
    sampled,
)
from engine.evaluation.gamma import Gamma, gamma_3d
from engine.geometry.plan import Plan
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.io.reference_dose import ReferenceDose
from engine.patient.ct import Calibration
from engine.patient.known_medium import KnownMedium

CRITERIA = ((3.0, 3.0), (2.0, 2.0), (1.0, 1.0))  # percent, mm
BEAMS_AT_ONCE = 4
SPOTS_LISTED = 12  # of the heaviest, one by one
DEPTH_SHARES = (0.25, 0.5, 0.75, 0.95)  # of the reference's R80, for lateral widths
LEAST_DENSITY_G_CM3 = 1e-6  # vacuum, where a dose to medium has no meaning


@dataclass(frozen=True)
class Row:
    """One line of the comparison. ``difference`` is ours less the reference in ``unit``, or NaN."""

    group: str
    quantity: str
    unit: str
    reference: float
    ours: float

    @property
    def difference(self) -> float:
        return self.ours - self.reference


@dataclass(frozen=True, eq=False)
class Compared:
    """Reference and ours (nz, ny, nx) in percent of the reference's maximum, and the rows."""

    reference: ReferenceDose
    reference_percent: np.ndarray
    ours_percent: np.ndarray
    gamma: Gamma  # by the criterion asked for
    axes: tuple[tuple[SingleSpot, AxisProfile, AxisProfile], ...]  # theirs, ours; heaviest first
    rows: tuple[Row, ...]


def compute(
    reference: ReferenceDose, engine: DoseEngine, calibration: Calibration
) -> tuple[np.ndarray, KnownMedium]:
    """Our dose (nz, ny, nx) float64 in Gy, as the reference scored it, and the medium."""
    medium = reference.medium(calibration)
    engine = replace(engine, calibration=medium)
    patient = reference.patient()
    plan = plan_of(reference.spots, reference.i_water_ev, reference.nuclear_interactions)
    dose = np.zeros(reference.grid.shape)
    for part in _few_beams(plan):
        dose += engine.dose(patient, part, reference.grid)["dose"]
    if reference.scored == "dose to medium" and engine.scores == "dose to water":
        dose *= medium.stopping_ratio()
    if reference.scored == "dose to water" and engine.scores == "dose to medium":
        dose /= medium.stopping_ratio()
    return dose, medium


def compare(reference: ReferenceDose, ours_gy: np.ndarray, criterion: dict) -> Compared:
    """Every figure of the table; ``criterion`` are the arguments of ``gamma_3d`` asked for."""
    matter = reference.density_g_cm3 > LEAST_DENSITY_G_CM3
    scale = 100.0 / float(reference.dose_gy[matter].max())
    theirs = np.where(matter, reference.dose_gy.astype(np.float64) * scale, 0.0)
    ours = np.where(matter, ours_gy * scale, 0.0)
    asked = gamma_3d(theirs, ours, reference.grid, **criterion)
    rows = [*_gamma_rows(theirs, ours, reference, criterion, asked)]
    rows += _dose_rows(theirs, ours, reference, scale)
    axes = tuple(
        (spot, axis_profile(theirs, reference.grid, spot.position_mm, spot.direction),
         axis_profile(ours, reference.grid, spot.position_mm, spot.direction))
        for spot in _distinct_axes(reference.spots)
    )  # fmt: skip
    rows += _axis_rows(axes, theirs, ours, reference)
    return Compared(reference, theirs, ours, asked, axes, tuple(rows))


def doubts(reference: ReferenceDose, medium: KnownMedium) -> list[str]:
    """What in the files looks unintended, though it can be computed."""
    said = []
    rsp = medium.rsp(reference.density_g_cm3)
    for i, spot in enumerate(_distinct_axes(reference.spots)):
        steps = -np.arange(0.5, 400.0, 1.0)
        points = np.array(spot.position_mm) + steps[:, None] * np.array(spot.direction)
        before_mm = float(sampled(rsp, reference.grid, points).sum())
        if before_mm > 1.0:
            said.append(
                f"spot {i + 1} starts behind {before_mm:.1f} mm of water-equivalent matter, which "
                "our beam passes too; start it at the entrance."
            )
    if reference.material is None:
        tank = (reference.hu == 0) & (np.abs(reference.density_g_cm3 - 1.0) < 1e-4)
        if tank.mean() > 0.1:
            said.append(
                "voxels of 0 HU and 1 g/cm³ are taken for soft tissue, as the CT calibration has "
                "it; give `material` for water."
            )
    return said


def _few_beams(plan: Plan) -> Iterator[Plan]:
    """The plan in parts of a few beams: an engine keeps arrays over all voxels for every beam."""
    for first in range(0, len(plan.beams), BEAMS_AT_ONCE):
        yield plan.part(first, min(first + BEAMS_AT_ONCE, len(plan.beams)))


def _distinct_axes(spots: Sequence[SingleSpot]) -> list[SingleSpot]:
    """The heaviest spots with axes of their own."""
    heaviest = sorted(range(len(spots)), key=lambda i: (-spots[i].weight, i))
    found: dict[tuple, SingleSpot] = {}
    for i in heaviest:
        spot = spots[i]
        found.setdefault(_axis_of(spot), spot)
        if len(found) == SPOTS_LISTED:
            break
    return list(found.values())


def _axis_of(spot: SingleSpot) -> tuple[float, ...]:
    return (*np.round(spot.position_mm, 2), *np.round(spot.direction, 4))


def axis_label(number: int, spot: SingleSpot, spots: Sequence[SingleSpot]) -> str:
    """Name of the axis of a spot, with the energies of all spots on it."""
    energies = [s.kind.energy_mev for s in spots if _axis_of(s) == _axis_of(spot)]
    low, high = min(energies), max(energies)
    return f"Spot {number}, {low:g} MeV" if low == high else f"Axis {number}, {low:g}–{high:g} MeV"


def _gamma_rows(theirs, ours, reference: ReferenceDose, criterion: dict, asked: Gamma):
    cutoff = criterion["cutoff_percent"]
    label = _criterion_label(criterion)
    yield Row("Gamma", f"asked for: {label}", "%", 100.0, asked.pass_rate_percent)
    yield Row("Gamma", "mean gamma of it", "", 0.0, asked.mean)
    for percent, distance in CRITERIA:
        for local in (False, True):
            found = gamma_3d(
                theirs, ours, reference.grid, percent, distance, local=local, cutoff_percent=cutoff
            )
            name = f"{percent:g} %/{distance:g} mm, {'local' if local else 'global'}"
            yield Row("Gamma", name, "%", 100.0, found.pass_rate_percent)


def _criterion_label(criterion: dict) -> str:
    kind = "local" if criterion["local"] else "global"
    return (
        f"{criterion['dose_percent']:g} %/{criterion['distance_mm']:g} mm, {kind}, above "
        f"{criterion['cutoff_percent']:g} %"
    )


def _dose_rows(theirs, ours, reference: ReferenceDose, scale: float) -> Iterator[Row]:
    group, found = "Dose", difference(theirs, ours, reference.grid)
    at = ", ".join(f"{c:.1f}" for c in found.largest_at_mm)
    integral = 1.0 + found.integral_percent / 100.0
    yield Row(group, "integral dose over the reference's", "", 1.0, integral)
    yield Row(group, "largest dose", "% of max", 100.0, float(ours.max()))
    yield Row(group, f"largest difference, at ({at}) mm", "% of max", 0.0, found.largest_percent)
    yield Row(group, "mean difference above 50 %", "% of max", 0.0, found.mean_high_percent)
    yield Row(group, "rms difference above 10 %", "% of max", 0.0, found.rms_percent)
    if reference.sem_gy is None:
        return
    error = noise(theirs, reference.sem_gy.astype(np.float64) * scale, ours)
    yield Row(group, "reference's own error, mean above 50 %", "%", error.mean_percent, np.nan)
    yield Row(group, "rms difference in its standard errors", "", 1.0, np.sqrt(error.reduced_chi2))
    yield Row(group, "voxels within two standard errors", "%", 95.4, error.within_two_percent)


def _axis_rows(axes, theirs, ours, reference: ReferenceDose) -> Iterator[Row]:
    for i, (spot, of_theirs, of_ours) in enumerate(axes):
        group = axis_label(i + 1, spot, reference.spots)
        r80 = of_theirs.distal_mm()
        yield Row(group, "R80 on the axis", "mm", r80, of_ours.distal_mm())
        yield Row(group, "peak on the axis", "mm", of_theirs.peak_mm, of_ours.peak_mm)
        peaks = [float(p.dose[p.peak_index]) for p in (of_theirs, of_ours)]
        yield Row(group, "dose at the peak", "% of max", *peaks)
        for share in DEPTH_SHARES if np.isfinite(r80) else ():
            center = of_theirs.start_mm + share * r80 * of_theirs.direction
            guess = sigma_guess_mm(spot, center)
            if not _alone(spot, center, reference.spots, 4.0 * guess):
                continue
            sigmas = [
                core_sigma_mm(d, reference.grid, center, spot.direction, guess)
                for d in (theirs, ours)
            ]
            yield Row(group, f"core σ at {share * r80:.0f} mm", "mm", *sigmas)
    if len(axes) > 1:
        apart = np.array([o.distal_mm() - t.distal_mm() for _, t, o in axes])
        if np.any(np.isfinite(apart)):
            group, mean = "All listed axes", float(np.nanmean(apart))
            worst = float(apart[np.nanargmax(np.abs(apart))])
            yield Row(group, "mean difference of R80", "mm", 0.0, mean)
            yield Row(group, "worst difference of R80", "mm", 0.0, worst)


def _alone(spot: SingleSpot, center, spots: Sequence[SingleSpot], radius_mm: float) -> bool:
    """Whether no spot with another axis passes a place so near that widths would mix."""
    directions = np.array([s.direction for s in spots])
    offset = center - np.array([s.position_mm for s in spots])
    along = (offset * directions).sum(axis=1, keepdims=True)
    apart = np.linalg.norm(offset - along * directions, axis=1)
    same = np.linalg.norm(directions - spot.direction, axis=1) < 1e-4
    return not np.any((apart < radius_mm) & ~(same & (apart < 0.1)))


def sigma_guess_mm(spot: SingleSpot, at_mm: np.ndarray) -> float:
    """A spot's width at a place on its axis, rather too large: drift, and 2.5 % of the path."""
    kind = spot.kind
    path = float(np.linalg.norm(np.asarray(at_mm) - spot.position_mm))
    drift = kind.sigma_mm**2 + 2.0 * max(kind.correlation, 0.0) * (
        kind.sigma_mm * kind.angle_std_rad * path
    )
    return 1.2 * float(np.sqrt(drift + (kind.angle_std_rad * path) ** 2 + (0.025 * path) ** 2))
