"""A dose from elsewhere against one of our engines: the same spots in the same medium."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.dose.engine import DoseEngine
from engine.evaluation.comparison import Difference, Noise, difference, noise, sampled
from engine.evaluation.gamma import Gamma, gamma_3d
from engine.geometry.plan import Plan
from engine.geometry.single_spots import plan_of
from engine.io.reference_dose import ReferenceDose
from engine.patient.ct import Calibration
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from scripts.validate_axes import AxisCompared, Row, axis_rows, compare_axis, distinct_axes

CRITERIA = ((1.0, 1.0), (2.0, 2.0), (3.0, 2.0))  # percent, mm
CUTOFF_PERCENT = 10.0  # of the largest dose, for these criteria
BEAMS_AT_ONCE = 4
LEAST_DENSITY_G_CM3 = 1e-6  # vacuum, where a dose to medium has no meaning


@dataclass(frozen=True, eq=False)
class Compared:
    """Reference and ours (nz, ny, nx) in percent of the reference's maximum, and the rows."""

    reference: ReferenceDose
    reference_percent: np.ndarray
    ours_percent: np.ndarray
    gamma: Gamma  # by the criterion asked for
    axes: tuple[AxisCompared, ...]  # heaviest first
    rows: tuple[Row, ...]
    numbers: dict[str, float]  # the figures by key; NaN where one does not exist


def compute(
    reference: ReferenceDose, engine: DoseEngine, calibration: Calibration
) -> tuple[np.ndarray, KnownMedium]:
    """Our dose (nz, ny, nx) float64 in Gy, as the reference scored it, and the medium."""
    medium = reference.medium(calibration)
    engine = engine.like(medium, reference.nuclear_interactions, reference.scored)
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
    gammas = Gammas(theirs, ours, reference.grid)
    asked = gammas(**criterion)
    rows = [*gamma_rows(gammas, criterion, asked)]
    apart, error = difference(theirs, ours, reference.grid), _noise(theirs, ours, reference, scale)
    rows += dose_rows(apart, error, float(ours.max()))
    axes = tuple(
        compare_axis(spot, theirs, ours, reference) for spot in distinct_axes(reference.spots)
    )
    rows += axis_rows(axes, theirs, ours, reference)
    numbers = _numbers(gammas, apart, error, axes[0])
    return Compared(reference, theirs, ours, asked, axes, tuple(rows), numbers)


def doubts(reference: ReferenceDose, medium: KnownMedium) -> list[str]:
    """What in the files looks unintended, though it can be computed."""
    said = []
    rsp = medium.rsp(reference.density_g_cm3)
    for i, spot in enumerate(distinct_axes(reference.spots)):
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


class Gammas:
    """Gamma of two doses by any criterion, each computed once."""

    def __init__(self, theirs: np.ndarray, ours: np.ndarray, grid: Grid):
        self._arguments, self._known = (theirs, ours, grid), {}

    def __call__(self, dose_percent, distance_mm, local=False, cutoff_percent=CUTOFF_PERCENT):
        key = (float(dose_percent), float(distance_mm), bool(local), float(cutoff_percent))
        if key not in self._known:
            self._known[key] = gamma_3d(
                *self._arguments, dose_percent, distance_mm, local=local,
                cutoff_percent=cutoff_percent,
            )  # fmt: skip
        return self._known[key]


def pass_rates(gammas: Gammas) -> dict[str, float]:
    """In percent, global, of the criteria that are always looked at, by key."""
    return {
        f"gamma_{percent:g}_{distance:g}_{CUTOFF_PERCENT:g}": gammas(
            percent, distance
        ).pass_rate_percent
        for percent, distance in CRITERIA
    }


def gamma_rows(gammas: Gammas, criterion: dict, asked: Gamma) -> Iterator[Row]:
    yield Row("Gamma", f"asked for: {_criterion_label(criterion)}", "%", 100.0,
              asked.pass_rate_percent)  # fmt: skip
    yield Row("Gamma", "mean gamma of it", "", 0.0, asked.mean)
    for percent, distance in CRITERIA:
        for local in (False, True):
            name = f"{percent:g} %/{distance:g} mm, {'local' if local else 'global'}"
            found = gammas(percent, distance, local)
            yield Row("Gamma", name, "%", 100.0, found.pass_rate_percent)


def _numbers(
    gammas: Gammas, apart: Difference, error: Noise | None, axis: AxisCompared
) -> dict[str, float]:
    """What a program reads. Gamma is global, in percent of the voxels above a tenth of the
    maximum; range and width are those of the heaviest axis, differences in percent of the maximum
    over the voxels above half of it."""
    return pass_rates(gammas) | {
        "r80_mm": axis.r80_mm[1],
        "reference_r80_mm": axis.r80_mm[0],
        "core_sigma_mm": axis.core_sigma_mm[1],
        "reference_core_sigma_mm": axis.core_sigma_mm[0],
        "mean_difference_percent": apart.mean_high_percent,
        "rms_difference_percent": apart.rms_high_percent,
        "integral_difference_percent": apart.integral_percent,
        "depth_dose_radius_mm": axis.radius_mm,
        "core_sigma_at_mm": axis.core_at_mm,
        "reference_error_percent": np.nan if error is None else error.mean_percent,
        "reduced_chi2": np.nan if error is None else error.reduced_chi2,
    }


def _criterion_label(criterion: dict) -> str:
    kind = "local" if criterion["local"] else "global"
    return (
        f"{criterion['dose_percent']:g} %/{criterion['distance_mm']:g} mm, {kind}, above "
        f"{criterion['cutoff_percent']:g} %"
    )


def _noise(theirs, ours, reference: ReferenceDose, scale: float) -> Noise | None:
    if reference.sem_gy is None:
        return None
    return noise(theirs, reference.sem_gy.astype(np.float64) * scale, ours)


def dose_rows(found: Difference, error: Noise | None, largest: float) -> Iterator[Row]:
    group, at = "Dose", ", ".join(f"{c:.1f}" for c in found.largest_at_mm)
    integral = 1.0 + found.integral_percent / 100.0
    yield Row(group, "integral dose over the reference's", "", 1.0, integral)
    yield Row(group, "largest dose", "% of max", 100.0, largest)
    yield Row(group, f"largest difference, at ({at}) mm", "% of max", 0.0, found.largest_percent)
    yield Row(group, "mean difference above 50 %", "% of max", 0.0, found.mean_high_percent)
    yield Row(group, "rms difference above 50 %", "% of max", 0.0, found.rms_high_percent)
    yield Row(group, "rms difference above 10 %", "% of max", 0.0, found.rms_percent)
    if error is None:
        return
    yield Row(group, "reference's own error, mean above 50 %", "%", error.mean_percent, np.nan)
    # of the reference alone: a dose of ours that is random differs by more
    rms, within = np.sqrt(error.reduced_chi2), error.within_two_percent
    yield Row(group, "rms difference in the reference's errors", "", 1.0, rms)
    yield Row(group, "voxels within two of the reference's errors", "%", 95.4, within)
