"""All metrics of a plan from one dose vector: the same for a printed scorecard and an episode.

``PlanEvaluation`` is made once per case; each new dose then costs one sort per structure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from engine.evaluation.dvh import Dvh
from engine.evaluation.metrics import parse_metric

TARGET_METRICS = (
    "D95%[%]", "D98%[%]", "D50%[%]", "D2%[%]", "Mean[Gy]", "HI[%]", "HI_TRiP[%]"
)  # fmt: skip
TARGET_BODY_METRICS = ("CN[%]",)
ORGAN_METRICS = ("D0.1cc[Gy]", "D1%[Gy]", "D2%[Gy]", "Mean[Gy]", "V20%[%]")


class StructureRows(NamedTuple):
    """Where a structure lies in the dose vector, and how much of each voxel it fills.

    ``relative_volume`` (n,) sums to 1 over ``rows`` (n,); ``volume_cm3`` is the whole structure's.
    """

    rows: np.ndarray
    relative_volume: np.ndarray
    volume_cm3: float


@dataclass(frozen=True, eq=False)
class PlanEvaluation:
    """What to read from a dose vector (n_rows,) in Gy (RBE) over the course.

    Structures that ``prescription_gy`` names are targets and are judged by it, all others by the
    highest prescription. ``body`` is needed for the conformation number. ``metrics`` adds metric
    names to the default ones (``TARGET_METRICS``, ``ORGAN_METRICS``) per structure.
    """

    structures: Mapping[str, StructureRows]
    prescription_gy: Mapping[str, float]
    n_rows: int
    body: StructureRows | None = None
    metrics: Mapping[str, Sequence[str]] | None = None
    defaults: bool = True  # False: ``metrics`` alone

    def __post_init__(self):
        _check_prescriptions(self.prescription_gy, self.structures)
        rows = {n: _checked(n, s, self.n_rows) for n, s in self.structures.items()}
        body = None if self.body is None else _checked("body", self.body, self.n_rows)
        names = self._metric_names()
        object.__setattr__(self, "structures", dict(rows))
        object.__setattr__(self, "body", body)
        object.__setattr__(
            self, "_parsed", {s: tuple(parse_metric(m) for m in names[s]) for s in names}
        )
        for name, parsed in self._parsed.items():
            for metric in parsed:
                if metric.needs_body and body is None:
                    raise ValueError(f"{metric.name!r} of {name!r} needs body; give its rows.")

    def _metric_names(self) -> dict[str, list[str]]:
        extra = dict(self.metrics or {})
        unknown = [name for name in extra if name not in self.structures]
        if unknown:
            raise ValueError(
                f"metrics are asked for {unknown}, but the structures are {list(self.structures)}."
            )
        return {
            name: list(dict.fromkeys([*self._defaults_of(name), *extra.get(name, ())]))
            for name in self.structures
        }

    def _defaults_of(self, name: str) -> tuple[str, ...]:
        if not self.defaults:
            return ()
        if name not in self.prescription_gy:
            return ORGAN_METRICS
        return TARGET_METRICS + (TARGET_BODY_METRICS if self.body is not None else ())

    def prescription_of(self, name: str) -> float:
        """Dose in Gy (RBE) that percentages of a structure refer to."""
        return self.prescription_gy.get(name, max(self.prescription_gy.values()))

    def dvh(self, dose_gy: np.ndarray) -> dict[str, Dvh]:
        """Histogram of every structure from a dose vector (n_rows,) in Gy (RBE)."""
        dose = _checked_dose(dose_gy, self.n_rows)
        return {name: _histogram(dose, s) for name, s in self.structures.items()}

    def evaluate(self, dose_gy: np.ndarray) -> dict[str, dict[str, float]]:
        """Metrics as {structure: {metric name: value}} from a dose vector (n_rows,) in Gy (RBE)."""
        histograms = self.dvh(dose_gy)
        dose = np.asarray(dose_gy)
        body = None if self.body is None else _histogram(dose, self.body)
        return {
            name: {m.name: m.of(histogram, self.prescription_of(name), body)
                   for m in self._parsed[name]}
            for name, histogram in histograms.items()
        }  # fmt: skip


def evaluate(
    dose_gy: np.ndarray,
    structures: Mapping[str, StructureRows],
    prescription_gy: Mapping[str, float],
    body: StructureRows | None = None,
    metrics: Mapping[str, Sequence[str]] | None = None,
) -> Mapping[str, Mapping[str, float]]:
    """Metrics of one dose vector (n_rows,); make a ``PlanEvaluation`` to judge many."""
    evaluation = PlanEvaluation(structures, prescription_gy, len(dose_gy), body, metrics)
    return MappingProxyType(evaluation.evaluate(dose_gy))


def delta_d95(
    reference: Mapping[str, Mapping[str, float]],
    plan: Mapping[str, Mapping[str, float]],
    targets: Sequence[str],
) -> dict[str, float]:
    """ΔD95 per target in percentage points, reference − plan (Quarz et al. 2024, table 2)."""
    missing = [t for t in targets if t not in reference or t not in plan]
    if missing:
        raise ValueError(f"targets {missing} are not in both sets of metrics.")
    return {t: reference[t]["D95%[%]"] - plan[t]["D95%[%]"] for t in targets}


def _histogram(dose: np.ndarray, structure: StructureRows) -> Dvh:
    return Dvh.trusted(dose[structure.rows], structure.relative_volume)


def _checked_dose(dose_gy: np.ndarray, n_rows: int) -> np.ndarray:
    dose = np.asarray(dose_gy)
    if dose.shape != (n_rows,):
        raise ValueError(f"dose_gy has shape {dose.shape}, the evaluation is for ({n_rows},) rows.")
    if not np.all(np.isfinite(dose)):
        bad = int(np.sum(~np.isfinite(dose)))
        raise ValueError(f"dose_gy holds {bad} NaN or infinite values; check the dose computation.")
    return dose


def _checked(name: str, structure: StructureRows, n_rows: int) -> StructureRows:
    """The structure without empty voxels, its volumes in cm³ per row (relative × total)."""
    rows, relative, total = StructureRows(*structure)
    rows, relative = np.asarray(rows), np.asarray(relative, dtype=np.float64)
    if rows.ndim != 1 or rows.shape != relative.shape:
        raise ValueError(
            f"{name!r} has rows of shape {rows.shape} and relative_volume of shape "
            f"{relative.shape}; give both as (n,)."
        )
    if rows.dtype.kind not in "ui":
        raise ValueError(
            f"rows of {name!r} are {rows.dtype}; give integer row indices, not a mask."
        )
    if len(rows) and not (0 <= int(rows.min()) and int(rows.max()) < n_rows):
        raise ValueError(f"rows of {name!r} reach {rows.max()}, beyond the {n_rows} rows of dose.")
    if not (np.all(np.isfinite(relative)) and np.all(relative >= 0)):
        raise ValueError(f"relative_volume of {name!r} must be finite and not negative.")
    if not relative.sum() > 0:
        raise ValueError(f"structure {name!r} is empty: no voxel has a volume; leave it out.")
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f"volume_cm3={total} of {name!r} must be positive.")
    inside = relative > 0
    volume = relative[inside] * (total / relative.sum())
    return StructureRows(rows[inside].astype(np.intp), volume, float(total))


def _check_prescriptions(prescription_gy: Mapping[str, float], structures: Mapping) -> None:
    if not prescription_gy:
        raise ValueError("prescription_gy is empty; give a dose in Gy (RBE) for every target.")
    for name, dose_gy in prescription_gy.items():
        if name not in structures:
            raise ValueError(
                f"prescription_gy names {name!r}, but the structures are {list(structures)}."
            )
        if not (np.isfinite(dose_gy) and dose_gy > 0):
            raise ValueError(f"prescription_gy of {name!r} is {dose_gy} Gy; give a positive dose.")
