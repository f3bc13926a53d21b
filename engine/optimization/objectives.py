"""What a plan should achieve, as functions of the dose in one structure.

Every function is divided by the structure's volume and by its own dose level, so that a weight
means the same on every patient (Janson et al., Med. Phys. 2024, "Optimization functions"): 5 Gy
too much on a level of 50 Gy costs as much as 1 Gy on a level of 10 Gy. Functions with small
levels want small weights.

Doses are in the units of the named quantity, Gy (RBE) of the whole course for "rbe_dose".
``value`` and ``gradient`` leave out ``weight``; the problem multiplies it in.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

ABOVE, BELOW = 1.0, -1.0


@runtime_checkable
class Objective(Protocol):
    """A function of the dose in one structure; 0 where the wish is met, smaller is better.

    ``volume`` (n,) holds the relative volumes of the structure's voxels, their sum is 1;
    ``distance_mm`` (n,) their distance to the target, for those functions that want it.
    ``beam`` restricts the function to the dose of one beam. ``asks_for_dose`` says whether it
    wants more dose somewhere; it then has a ``level_gy``, and the start is scaled to meet it.
    """

    structure: str
    weight: float
    quantity: str
    beam: int | None
    asks_for_dose: bool

    def value(self, dose_gy, volume, distance_mm=None) -> float:
        """The function of the dose (n,)."""

    def gradient(self, dose_gy, volume, distance_mm=None) -> np.ndarray:
        """Its derivative by the dose of every voxel, (n,) float64."""


class RowTerms(NamedTuple):
    """weight · max(0, side · (dose − level))² for every voxel of a structure, arrays (n,)."""

    level_gy: np.ndarray
    weight: np.ndarray
    side: float


@runtime_checkable
class SeparableObjective(Objective, Protocol):
    """A sum over voxels of one-sided squares, which the fused product evaluates row by row."""

    def terms(self, volume, distance_mm=None) -> tuple[RowTerms, ...]:
        """The squares whose sum is ``value``."""


@dataclass(frozen=True)
class MinDose:
    """Squared relative underdose below ``level_gy``."""

    structure: str
    level_gy: float
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None
    asks_for_dose = True

    def __post_init__(self):
        _check(self)

    def terms(self, volume, distance_mm=None):
        return (_constant_terms(self.level_gy, volume, BELOW),)

    def value(self, dose_gy, volume, distance_mm=None):
        return _terms_value(self.terms(volume), dose_gy)

    def gradient(self, dose_gy, volume, distance_mm=None):
        return _terms_gradient(self.terms(volume), dose_gy)


@dataclass(frozen=True)
class MaxDose:
    """Squared relative overdose above ``level_gy``."""

    structure: str
    level_gy: float
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None
    asks_for_dose = False

    def __post_init__(self):
        _check(self)

    def terms(self, volume, distance_mm=None):
        return (_constant_terms(self.level_gy, volume, ABOVE),)

    def value(self, dose_gy, volume, distance_mm=None):
        return _terms_value(self.terms(volume), dose_gy)

    def gradient(self, dose_gy, volume, distance_mm=None):
        return _terms_gradient(self.terms(volume), dose_gy)


@dataclass(frozen=True)
class UniformDose:
    """Squared relative deviation from ``level_gy``, either way."""

    structure: str
    level_gy: float
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None
    asks_for_dose = True

    def __post_init__(self):
        _check(self)

    def terms(self, volume, distance_mm=None):
        return tuple(_constant_terms(self.level_gy, volume, side) for side in (BELOW, ABOVE))

    def value(self, dose_gy, volume, distance_mm=None):
        return _terms_value(self.terms(volume), dose_gy)

    def gradient(self, dose_gy, volume, distance_mm=None):
        return _terms_gradient(self.terms(volume), dose_gy)


@dataclass(frozen=True)
class DoseFallOff:
    """Squared overdose above a level that falls linearly with the distance to the target.

    The level is ``high_gy`` at the target and ``low_gy`` from ``distance_mm`` on; the function is
    normalized by ``high_gy``, so that the far tail does not dominate it.
    """

    structure: str
    high_gy: float
    low_gy: float
    distance_mm: float
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None
    asks_for_dose = False

    def __post_init__(self):
        _check(self, level_name="high_gy")
        if not 0 <= self.low_gy <= self.high_gy:
            raise ValueError(
                f"low_gy={self.low_gy} of {self.structure!r} must lie in 0 … {self.high_gy} Gy."
            )
        if not (np.isfinite(self.distance_mm) and self.distance_mm > 0):
            raise ValueError(
                f"distance_mm={self.distance_mm} of {self.structure!r} must be positive."
            )

    def level_at(self, distance_mm: np.ndarray) -> np.ndarray:
        """The level in Gy at a distance from the target."""
        fallen = np.clip(np.asarray(distance_mm, np.float64) / self.distance_mm, 0.0, 1.0)
        return self.high_gy - (self.high_gy - self.low_gy) * fallen

    def terms(self, volume, distance_mm=None):
        if distance_mm is None:
            raise ValueError(
                f"DoseFallOff on {self.structure!r} needs distance_mm (n,), the distance of every "
                "voxel to the target; give it with the structure."
            )
        weight = np.asarray(volume, np.float64) / self.high_gy**2
        return (RowTerms(self.level_at(distance_mm), weight, ABOVE),)

    def value(self, dose_gy, volume, distance_mm=None):
        return _terms_value(self.terms(volume, distance_mm), dose_gy)

    def gradient(self, dose_gy, volume, distance_mm=None):
        return _terms_gradient(self.terms(volume, distance_mm), dose_gy)


@dataclass(frozen=True)
class MeanDose:
    """Squared relative excess of the mean dose over ``level_gy``."""

    structure: str
    level_gy: float
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None
    asks_for_dose = False

    def __post_init__(self):
        _check(self)

    def _excess(self, dose_gy, volume) -> float:
        return max(0.0, float(np.dot(_f64(volume), _f64(dose_gy))) / self.level_gy - 1.0)

    def value(self, dose_gy, volume, distance_mm=None):
        return self._excess(dose_gy, volume) ** 2

    def gradient(self, dose_gy, volume, distance_mm=None):
        return (2.0 * self._excess(dose_gy, volume) / self.level_gy) * _f64(volume)


@dataclass(frozen=True)
class EUD:
    """Squared relative deviation of the generalized equivalent uniform dose (Σ v dᵃ)^(1/a).

    ``side`` "max" penalizes an EUD above the level, "min" one below, "target" both. Large a looks
    at the hottest voxels, a = 1 is the mean, negative a looks at the coldest.
    """

    structure: str
    level_gy: float
    a: float
    side: str = "max"
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None

    def __post_init__(self):
        _check(self)
        if self.side not in ("min", "max", "target"):
            raise ValueError(f"side={self.side!r} is unknown; choose from 'min', 'max', 'target'.")
        if not np.isfinite(self.a) or self.a == 0:
            raise ValueError(f"a={self.a} must be finite and not 0.")

    @property
    def asks_for_dose(self) -> bool:
        return self.side in ("min", "target")

    def _eud(self, dose_gy, volume) -> tuple[float, np.ndarray]:
        """The EUD and its gradient; doses below 1e-6 of the level count as that much."""
        dose = np.maximum(_f64(dose_gy), 1e-6 * self.level_gy)
        pivot = dose.max() if self.a > 0 else dose.min()  # keeps every power in 0 … 1
        ratio = dose / pivot
        total = float(np.dot(_f64(volume), ratio**self.a))
        eud = pivot * total ** (1.0 / self.a)
        return eud, _f64(volume) * ratio ** (self.a - 1.0) * total ** (1.0 / self.a - 1.0)

    def _deviation(self, eud: float) -> float:
        relative = eud / self.level_gy - 1.0
        if self.side == "target":
            return relative
        return max(0.0, relative) if self.side == "max" else min(0.0, relative)

    def value(self, dose_gy, volume, distance_mm=None):
        return self._deviation(self._eud(dose_gy, volume)[0]) ** 2

    def gradient(self, dose_gy, volume, distance_mm=None):
        eud, slope = self._eud(dose_gy, volume)
        return (2.0 * self._deviation(eud) / self.level_gy) * slope


@dataclass(frozen=True)
class MinDVH:
    """At least ``volume_fraction`` of the structure should get ``level_gy``.

    Squared relative underdose, leaving out the coldest 1 − ``volume_fraction`` of the volume.
    """

    structure: str
    level_gy: float
    volume_fraction: float
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None
    asks_for_dose = True

    def __post_init__(self):
        _check(self)
        _check_fraction(self)

    def _terms(self, dose_gy, volume):
        counted = _beyond(_f64(dose_gy), _f64(volume), 1.0 - self.volume_fraction)
        return (_constant_terms(self.level_gy, counted, BELOW),)

    def value(self, dose_gy, volume, distance_mm=None):
        return _terms_value(self._terms(dose_gy, volume), dose_gy)

    def gradient(self, dose_gy, volume, distance_mm=None):
        return _terms_gradient(self._terms(dose_gy, volume), dose_gy)


@dataclass(frozen=True)
class MaxDVH:
    """At most ``volume_fraction`` of the structure may get more than ``level_gy``.

    Squared relative overdose, leaving out the hottest ``volume_fraction`` of the volume.
    """

    structure: str
    level_gy: float
    volume_fraction: float
    weight: float = 1.0
    quantity: str = "rbe_dose"
    beam: int | None = None
    asks_for_dose = False

    def __post_init__(self):
        _check(self)
        _check_fraction(self)

    def _terms(self, dose_gy, volume):
        counted = _beyond(-_f64(dose_gy), _f64(volume), self.volume_fraction)
        return (_constant_terms(self.level_gy, counted, ABOVE),)

    def value(self, dose_gy, volume, distance_mm=None):
        return _terms_value(self._terms(dose_gy, volume), dose_gy)

    def gradient(self, dose_gy, volume, distance_mm=None):
        return _terms_gradient(self._terms(dose_gy, volume), dose_gy)


def _beyond(key: np.ndarray, volume: np.ndarray, exempt: float) -> np.ndarray:
    """The volumes (n,) left when the smallest keys, ``exempt`` of the volume, are left out.

    The voxel on the limit counts in part, which keeps the function continuous.
    """
    order = np.argsort(key, kind="stable")
    filled = np.cumsum(volume[order])
    left = np.empty_like(volume)
    left[order] = np.clip(filled - exempt, 0.0, volume[order])
    return left


def _constant_terms(level_gy: float, volume, side: float) -> RowTerms:
    weight = _f64(volume) / level_gy**2
    return RowTerms(np.full(weight.shape, level_gy), weight, side)


def _terms_value(terms, dose_gy) -> float:
    return float(sum(np.sum(t.weight * _violation(t, dose_gy) ** 2) for t in terms))


def _terms_gradient(terms, dose_gy) -> np.ndarray:
    return sum(2.0 * t.side * t.weight * _violation(t, dose_gy) for t in terms)


def _violation(term: RowTerms, dose_gy) -> np.ndarray:
    return np.maximum(0.0, term.side * (_f64(dose_gy) - term.level_gy))


def _f64(values) -> np.ndarray:
    return np.asarray(values, np.float64)


def _check(objective, level_name: str = "level_gy") -> None:
    level = getattr(objective, level_name)
    if not (np.isfinite(level) and level > 0):
        raise ValueError(
            f"{level_name}={level} of {objective.structure!r} must be positive: "
            "functions are normalized by their level."
        )
    if not (np.isfinite(objective.weight) and objective.weight >= 0):
        raise ValueError(f"weight={objective.weight} of {objective.structure!r} must be 0 or more.")


def _check_fraction(objective) -> None:
    if not 0.0 < objective.volume_fraction < 1.0:
        raise ValueError(
            f"volume_fraction={objective.volume_fraction} of {objective.structure!r} must lie "
            "between 0 and 1; for the whole volume use MinDose or MaxDose."
        )
