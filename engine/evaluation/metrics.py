"""Plan metrics and their names: what a dose distribution is judged by.

Names follow TG-263 (Mayo et al., IJROBP 100 (2018) 1057): ``D95%[%]``, ``D0.1cc[Gy]``,
``V20Gy[%]``, ``Mean[Gy]``; a percentage of dose is relative to the prescription of the structure.
Doses are in Gy (RBE) over the whole course where the plan is one of protons.

Homogeneity comes in three definitions, conformation in one:
``HI``        100·(D2 − D98)/Dp, Wu et al., IJROBP 56 (2003) 573
``HI_TRiP``   100·(D5 − D95)/Dp, as TRiP98 and matRad print it
``HI_ICRU83`` (D2 − D98)/D50, ICRU Report 83 (2010)
``CN``        (TV_RI/TV)·(TV_RI/V_RI), RI the 95 % isodose, van 't Riet et al., IJROBP 37 (1997) 731
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from engine.evaluation.dvh import Dvh

HomogeneityKind = Literal["wu", "trip", "icru83"]
_HOMOGENEITY_PERCENT = {"wu": (2.0, 98.0), "trip": (5.0, 95.0), "icru83": (2.0, 98.0)}
REFERENCE_ISODOSE = 0.95  # of the prescription, for the conformation number

KNOWN_NAMES = (
    "D95%[Gy] D95%[%] D0.1cc[Gy] D0.1cc[%] V20Gy[%] V20Gy[cc] V20%[%] V20%[cc] Mean[Gy] Mean[%] "
    "Max[Gy] Max[%] Min[Gy] Min[%] EUD-10[Gy] EUD8[%] HI[%] HI_TRiP[%] HI_ICRU83 CN CN[%] CI GI"
)


@dataclass(frozen=True)
class Metric:
    """One metric of one structure: what is read (``kind``), at which argument, in which unit.

    ``unit`` is "Gy", "%", "cc" or "" (a ratio). Build it from its name with ``parse_metric``.
    """

    name: str
    kind: str
    argument: float
    unit: str

    @property
    def needs_prescription(self) -> bool:
        return self.kind in ("volume_at_percent", "homogeneity_wu", "homogeneity_trip") or (
            self.kind in _NEEDS_BODY or (self.unit == "%" and self.kind in _DOSES)
        )

    @property
    def needs_body(self) -> bool:
        return self.kind in _NEEDS_BODY

    def of(self, dvh: Dvh, prescription_gy: float | None = None, body: Dvh | None = None) -> float:
        """Value of the metric; ``body`` is the whole body's histogram, for CN, CI and GI."""
        if self.needs_prescription:
            _check_prescription(prescription_gy, self.name)
        if self.needs_body and body is None:
            raise ValueError(f"metric {self.name!r} needs the whole body; give body.")
        return float(_COMPUTE[self.kind](self, dvh, prescription_gy, body))


def parse_metric(name: str) -> Metric:
    """The metric behind a TG-263-like name; ``KNOWN_NAMES`` shows one of each form."""
    if not isinstance(name, str):
        raise TypeError(f"metric={name!r} must be a name such as 'D95%[%]'.")
    return _parse(name)


@cache
def _parse(name: str) -> Metric:
    for pattern, kind, units in _GRAMMAR:
        match = re.fullmatch(pattern + r"(?:\[(.*)\])?", name)
        if match is None:
            continue
        *number, unit = match.groups()
        if (unit or "") not in units:
            forms = ", ".join(f"[{u}]" if u else "no unit" for u in units)
            raise ValueError(f"metric {name!r} has unit [{unit or ''}]; it takes {forms}.")
        metric = Metric(name, kind, float(number[0]) if number else 0.0, unit or "")
        _check_argument(metric)
        return metric
    raise ValueError(f"metric {name!r} is unknown; write it like one of: {KNOWN_NAMES}.")


def _check_argument(metric: Metric) -> None:
    if metric.kind == "dose_at_percent" and not 0 <= metric.argument <= 100:
        raise ValueError(f"metric {metric.name!r} asks for more than 100 % of the volume.")
    if metric.kind in ("eud", "dose_at_cc") and metric.argument == 0:
        raise ValueError(f"metric {metric.name!r} has argument 0; give another number.")


_NUMBER, _SIGNED = r"(\d+(?:\.\d+)?)", r"([+-]?\d+(?:\.\d+)?)"
_GRAMMAR = (
    (f"D{_NUMBER}%", "dose_at_percent", ("Gy", "%")),
    (f"D{_NUMBER}cc", "dose_at_cc", ("Gy", "%")),
    (f"V{_NUMBER}Gy", "volume_at_gy", ("%", "cc")),
    (f"V{_NUMBER}%", "volume_at_percent", ("%", "cc")),
    ("Mean", "mean", ("Gy", "%")),
    ("Max", "max", ("Gy", "%")),
    ("Min", "min", ("Gy", "%")),
    (f"EUD{_SIGNED}", "eud", ("Gy", "%")),
    ("HI", "homogeneity_wu", ("%",)),
    ("HI_TRiP", "homogeneity_trip", ("%",)),
    ("HI_ICRU83", "homogeneity_icru83", ("", "%")),
    ("CN", "conformation", ("", "%")),
    ("CI", "rtog_conformity", ("",)),
    ("GI", "gradient_index", ("",)),
)
_DOSES = ("dose_at_percent", "dose_at_cc", "mean", "max", "min", "eud")
_NEEDS_BODY = ("conformation", "rtog_conformity", "gradient_index")


def _dose(read: Callable[[Metric, Dvh], float]):
    """A dose in Gy, or in percent of the prescription."""

    def compute(metric, dvh, prescription_gy, body):
        scale = 100.0 / prescription_gy if metric.unit == "%" else 1.0
        return scale * read(metric, dvh)

    return compute


def _volume(metric, dvh, level_gy):
    """A volume in cm³, or in percent of the structure."""
    scale = 100.0 / dvh.total_cm3 if metric.unit == "%" else 1.0
    return scale * dvh.volume_at_dose(level_gy)


def _ratio(metric, value):
    return 100.0 * value if metric.unit == "%" else value


_COMPUTE = {
    "dose_at_percent": _dose(lambda m, dvh: dvh.dose_at_percent(m.argument)),
    "dose_at_cc": _dose(lambda m, dvh: dvh.dose_at_cc(m.argument)),
    "mean": _dose(lambda m, dvh: dvh.mean_gy),
    "max": _dose(lambda m, dvh: dvh.max_gy),
    "min": _dose(lambda m, dvh: dvh.min_gy),
    "eud": _dose(lambda m, dvh: _eud(dvh, m.argument)),
    "volume_at_gy": lambda m, dvh, dp, body: _volume(m, dvh, m.argument),
    "volume_at_percent": lambda m, dvh, dp, body: _volume(m, dvh, m.argument * dp / 100.0),
    "homogeneity_wu": lambda m, dvh, dp, body: _homogeneity(dvh, "wu", dp),
    "homogeneity_trip": lambda m, dvh, dp, body: _homogeneity(dvh, "trip", dp),
    "homogeneity_icru83": lambda m, dvh, dp, body: _ratio(m, _homogeneity(dvh, "icru83", dp)),
    "conformation": lambda m, dvh, dp, body: _ratio(m, _conformation(dvh, body, dp)),
    "rtog_conformity": lambda m, dvh, dp, body: body.volume_above(dp) / dvh.total_cm3,
    "gradient_index": lambda m, dvh, dp, body: _gradient_index(body, dp),
}


def homogeneity_index(
    dose_gy: np.ndarray,
    volume: np.ndarray,
    prescription_gy: float | None = None,
    kind: HomogeneityKind = "wu",
) -> float:
    """Homogeneity index of doses (n,): percent for "wu" and "trip", a ratio for "icru83"."""
    if kind not in _HOMOGENEITY_PERCENT:
        raise ValueError(f"kind={kind!r} is unknown; choose from {tuple(_HOMOGENEITY_PERCENT)}.")
    if kind != "icru83":
        _check_prescription(prescription_gy, f"homogeneity_index(kind={kind!r})")
    return _homogeneity(Dvh(dose_gy, volume), kind, prescription_gy)


def _homogeneity(dvh: Dvh, kind: str, prescription_gy: float | None) -> float:
    hot, cold = dvh.dose_at_percent(_HOMOGENEITY_PERCENT[kind])
    if kind != "icru83":
        return float(100.0 * (hot - cold) / prescription_gy)
    median = float(dvh.dose_at_percent(50.0))
    if hot == cold:
        return 0.0  # uniform, an unirradiated structure included
    return float((hot - cold) / median) if median > 0 else np.inf


def conformation_number(
    target_dose_gy: np.ndarray,
    target_volume: np.ndarray,
    body_dose_gy: np.ndarray,
    body_volume: np.ndarray,
    prescription_gy: float,
    isodose: float = REFERENCE_ISODOSE,
) -> float:
    """van 't Riet's conformation number, 0 … 1; volumes of target and body in the same unit."""
    _check_prescription(prescription_gy, "conformation_number")
    target, body = Dvh(target_dose_gy, target_volume), Dvh(body_dose_gy, body_volume)
    return _conformation(target, body, prescription_gy, isodose)


def _conformation(
    target: Dvh, body: Dvh, prescription_gy: float, isodose: float = REFERENCE_ISODOSE
) -> float:
    level_gy = isodose * prescription_gy
    covered = target.volume_above(level_gy)
    if covered == 0:
        return 0.0
    # a target that sticks out of the body contour still counts as irradiated
    irradiated = max(body.volume_above(level_gy), covered)
    return covered / target.total_cm3 * covered / irradiated


def _gradient_index(body: Dvh, prescription_gy: float) -> float:
    full = body.volume_above(prescription_gy)
    return body.volume_above(0.5 * prescription_gy) / full if full > 0 else np.inf


def equivalent_uniform_dose(dose_gy: np.ndarray, volume: np.ndarray, a: float) -> float:
    """Niemierko's generalized EUD (mean D^a)^(1/a) in Gy: a < 0 for targets, a ≥ 1 for organs."""
    if not np.isfinite(a) or a == 0:
        raise ValueError(
            f"a={a} must be finite and not 0; use a < 0 for targets, a ≥ 1 for organs."
        )
    return _eud(Dvh(dose_gy, volume), a)


def _eud(dvh: Dvh, a: float) -> float:
    scale = dvh.max_gy if a > 0 else dvh.min_gy  # keeps the powers in 0 … 1
    if dvh.min_gy < 0:
        raise ValueError(f"EUD needs doses of 0 or more; the smallest is {dvh.min_gy} Gy.")
    if scale == 0:
        return 0.0
    powers = (dvh.dose_gy.astype(np.float64) / scale) ** a
    mean = np.sum(powers * dvh.volume_cm3) / dvh.total_cm3
    return float(scale * mean ** (1.0 / a))


def _check_prescription(prescription_gy: float | None, whose: str) -> None:
    if prescription_gy is None:
        raise ValueError(f"{whose} needs a prescription in Gy; give prescription_gy.")
    if not (np.isfinite(prescription_gy) and prescription_gy > 0):
        raise ValueError(f"prescription_gy={prescription_gy} for {whose} must be positive.")
