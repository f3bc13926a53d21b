"""How a plan holds in other scenarios: worst metrics, DVH bands, root-mean-square deviations.

Scenario doses are (S, n_rows) in Gy (RBE) over the course, the nominal one first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation.dvh import Dvh
from engine.evaluation.metrics import parse_metric
from engine.evaluation.plan_evaluation import PlanEvaluation, StructureRows

LOWER_IS_WORSE = ("D95", "D98", "D90", "D99", "D100", "V", "CN")


@dataclass(frozen=True, eq=False)
class DvhBand:
    """Lowest and highest relative volume (n,) in % over scenarios at doses (n,) in Gy.

    ``width_gy`` maps D98, D95, D50 and D2 to the difference between their extremes.
    """

    dose_gy: np.ndarray
    low_percent: np.ndarray
    high_percent: np.ndarray
    nominal_percent: np.ndarray
    width_gy: dict[str, float]


def dvh_band(scenario_dose_gy: np.ndarray, structure: StructureRows, n: int = 200) -> DvhBand:
    """The band of a structure's cumulative histograms over all scenarios."""
    histograms = _histograms(scenario_dose_gy, structure)
    dose = np.linspace(0.0, max(h.max_gy for h in histograms), n)
    volumes = np.array([h.curve(dose) for h in histograms])
    widths = {}
    for percent in (98, 95, 50, 2):
        values = [float(h.dose_at_percent(percent)) for h in histograms]
        widths[f"D{percent}"] = max(values) - min(values)
    return DvhBand(dose, volumes.min(axis=0), volumes.max(axis=0), volumes[0], widths)


def deviation_gy(scenario_dose_gy: np.ndarray, structure: StructureRows) -> np.ndarray:
    """Root mean square over scenarios of each voxel's deviation from nominal, (n,) in Gy.

    The nominal scenario counts among them, as in √(Σ_s (D_s − D_nominal)²/S).
    """
    dose = _checked(scenario_dose_gy)[:, structure.rows].astype(np.float64)
    return np.sqrt(np.square(dose - dose[0]).mean(axis=0))


def rvh(
    scenario_dose_gy: np.ndarray, structure: StructureRows, n: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Root-mean-square-dose volume histogram: deviations (n,) in Gy, volume in % at or above."""
    histogram = Dvh(deviation_gy(scenario_dose_gy, structure), _volumes(structure))
    levels = np.linspace(0.0, histogram.max_gy, n)
    return levels, histogram.curve(levels)


def rvh_area_gy(scenario_dose_gy: np.ndarray, structure: StructureRows) -> float:
    """Area under the RVH: the structure's mean deviation in Gy; smaller is more robust."""
    deviation, volume = deviation_gy(scenario_dose_gy, structure), _volumes(structure)
    return float((deviation * volume).sum() / volume.sum())


def worst_metric(
    evaluation: PlanEvaluation, scenario_dose_gy: np.ndarray, structure: str, metric: str
) -> float:
    """A metric's worst value over scenarios: the lowest for targets, the highest for organs.

    Of a target "D2%[%]" and "D1%[Gy]" are hot spots: their highest value is the worst.
    """
    if structure not in evaluation.structures:
        raise KeyError(f"structure {structure!r} is unknown; known {list(evaluation.structures)}.")
    values = metric_values(evaluation, scenario_dose_gy, structure, metric)
    is_target = structure in evaluation.prescription_gy
    lowest = is_target and metric.startswith(LOWER_IS_WORSE)
    return float(values.min() if lowest else values.max())


def metric_values(
    evaluation: PlanEvaluation, scenario_dose_gy: np.ndarray, structure: str, metric: str
) -> np.ndarray:
    """A metric in every scenario, (S,)."""
    parsed = parse_metric(metric)
    if parsed.needs_body:
        raise ValueError(f"metric={metric!r} compares with the body; ask for one of the structure.")
    prescription = evaluation.prescription_of(structure)
    histograms = _histograms(scenario_dose_gy, evaluation.structures[structure])
    return np.array([parsed.of(h, prescription, None) for h in histograms])


def voxelwise_worst(
    scenario_dose_gy: np.ndarray, target_rows: np.ndarray
) -> np.ndarray:
    """Each voxel's lowest dose in the targets' rows (n,), its highest elsewhere; (n_rows,)."""
    dose = _checked(scenario_dose_gy)
    worst = dose.max(axis=0)
    worst[target_rows] = dose[:, target_rows].min(axis=0)
    return worst


def _histograms(scenario_dose_gy: np.ndarray, structure: StructureRows) -> list[Dvh]:
    dose = _checked(scenario_dose_gy)[:, structure.rows]
    volumes = _volumes(structure)
    return [Dvh.trusted(d, volumes) for d in np.ascontiguousarray(dose)]


def _volumes(structure: StructureRows) -> np.ndarray:
    """Volumes (n,) in cm³, whatever the given ones are relative to."""
    share = np.asarray(structure.relative_volume, np.float64)
    return share * (structure.volume_cm3 / share.sum())


def _checked(scenario_dose_gy: np.ndarray | Sequence) -> np.ndarray:
    dose = np.asarray(scenario_dose_gy)
    if dose.ndim != 2 or not len(dose):
        raise ValueError(f"scenario doses have shape {dose.shape}; give (scenarios, rows).")
    if not np.all(np.isfinite(dose)):
        raise ValueError("scenario doses must be finite.")
    return dose
