"""Cumulative dose-volume histograms with partial volumes.

A structure is doses (n,) in Gy with the volume of each voxel that lies inside it, (n,) in cm³;
relative volumes serve as well, where no absolute volume is asked for. Voxels are laid out from
hottest to coldest and each dose stands at the *middle* of its voxel's stretch of volume; in
between the curve is linear, and flat over the outer half voxels (Hazen's plotting position). So
D0 is the maximum, D100 the minimum, a uniform dose is a step, and a linear ramp is met exactly.

Dose at volume and volume at dose read the same curve: V(d) is the largest volume whose D is d or
more.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Dvh:
    """Doses (n,) in Gy and voxel volumes (n,) in cm³ of one structure; sorted when first asked.

    Voxels without volume are left out.
    """

    dose_gy: np.ndarray
    volume_cm3: np.ndarray

    def __post_init__(self):
        dose = np.atleast_1d(np.asarray(self.dose_gy))
        volume = np.atleast_1d(np.asarray(self.volume_cm3))
        check_dose_and_volume(dose, volume)
        if not volume.min() > 0:
            inside = volume > 0
            dose, volume = dose[inside], volume[inside]
        object.__setattr__(self, "dose_gy", dose)
        object.__setattr__(self, "volume_cm3", volume)

    @classmethod
    def trusted(cls, dose_gy: np.ndarray, volume_cm3: np.ndarray) -> "Dvh":
        """A Dvh without the checks, for inner loops: finite doses, positive volumes, same shape."""
        dvh = object.__new__(cls)
        dvh.__dict__.update(dose_gy=dose_gy, volume_cm3=volume_cm3)
        return dvh

    @cached_property
    def total_cm3(self) -> float:
        return float(np.sum(self.volume_cm3, dtype=np.float64))

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.dose_gy)[::-1]

    @cached_property
    def sorted_gy(self) -> np.ndarray:
        """Doses (n,) float64, hottest first."""
        return self.dose_gy[self._order].astype(np.float64)

    @cached_property
    def middle_cm3(self) -> np.ndarray:
        """Volume (n,) from the hottest point to the middle of each sorted voxel."""
        volume = self.volume_cm3[self._order].astype(np.float64)
        return np.cumsum(volume) - 0.5 * volume

    def dose_at_cc(self, volume_cm3) -> np.ndarray | float:
        """Minimum dose in Gy to the hottest volume in cm³; D100 where the structure is smaller."""
        return np.interp(volume_cm3, self.middle_cm3, self.sorted_gy)

    def dose_at_percent(self, percent) -> np.ndarray | float:
        """Dx%: minimum dose in Gy to the hottest x % of the volume, x in 0 … 100."""
        percent = np.asarray(percent, dtype=np.float64)
        if not (percent.min() >= 0 and percent.max() <= 100):
            raise ValueError(f"percent={percent} of the volume must lie in 0 … 100.")
        return self.dose_at_cc(percent * (self.total_cm3 / 100.0))

    def volume_at_dose(self, dose_gy) -> np.ndarray | float:
        """Volume in cm³ that receives ``dose_gy`` or more, with linear interpolation."""
        wanted = np.asarray(dose_gy, dtype=np.float64)
        ascending = self.sorted_gy[::-1]
        hotter = len(ascending) - np.searchsorted(ascending, wanted, side="left")  # voxels ≥ wanted
        last, following = np.maximum(hotter - 1, 0), np.minimum(hotter, len(ascending) - 1)
        upper, lower = self.sorted_gy[last], self.sorted_gy[following]
        share = (upper - wanted) / np.where(upper > lower, upper - lower, 1.0)
        middle = self.middle_cm3
        between = middle[last] + share * (middle[following] - middle[last])
        volume = np.where(hotter == len(middle), self.total_cm3, between)
        volume = np.where(hotter == 0, 0.0, volume)
        return volume if volume.ndim else float(volume)

    @cached_property
    def mean_gy(self) -> float:
        # summed by numpy, not BLAS, whose order depends on the number of threads
        return float(np.sum(self.dose_gy * self.volume_cm3, dtype=np.float64) / self.total_cm3)

    @property
    def max_gy(self) -> float:
        return float(self.dose_gy.max())

    @property
    def min_gy(self) -> float:
        return float(self.dose_gy.min())

    def volume_above(self, dose_gy: float) -> float:
        """Volume in cm³ of the voxels at ``dose_gy`` or more: a count, without interpolation.

        What index formulas that compare two structures need: both count the same voxels.
        """
        return float(np.sum(self.volume_cm3 * (self.dose_gy >= dose_gy), dtype=np.float64))

    def curve(self, dose_gy: np.ndarray) -> np.ndarray:
        """Relative volume (m,) in percent at each dose (m,) in Gy, to be drawn."""
        return 100.0 * np.asarray(self.volume_at_dose(dose_gy)) / self.total_cm3


def check_dose_and_volume(dose_gy: np.ndarray, volume: np.ndarray) -> None:
    """Refuse doses and volumes that no histogram can be made of."""
    if dose_gy.ndim != 1 or dose_gy.shape != volume.shape:
        raise ValueError(
            f"dose_gy has shape {dose_gy.shape}, volume {volume.shape}; give both as (n,)."
        )
    if not np.all(np.isfinite(dose_gy)):
        bad = int(np.sum(~np.isfinite(dose_gy)))
        raise ValueError(f"dose_gy holds {bad} NaN or infinite values; check the dose computation.")
    if not (np.all(np.isfinite(volume)) and np.all(volume >= 0)):
        raise ValueError("volume must be finite and not negative in every voxel.")
    if not np.any(volume > 0):
        raise ValueError("the structure is empty: no voxel has a volume; leave it out.")


def dose_at_percent(dose_gy: np.ndarray, volume: np.ndarray, percent: float) -> float:
    """Dx% in Gy of doses (n,) with volumes (n,)."""
    return float(Dvh(dose_gy, volume).dose_at_percent(percent))


def dose_at_cc(dose_gy: np.ndarray, volume_cm3: np.ndarray, cc: float) -> float:
    """Dose in Gy to the hottest ``cc`` cm³ of doses (n,) with volumes (n,) in cm³."""
    return float(Dvh(dose_gy, volume_cm3).dose_at_cc(cc))


def volume_at_dose(dose_gy: np.ndarray, volume: np.ndarray, level_gy: float) -> float:
    """Percent of the volume that receives ``level_gy`` or more."""
    dvh = Dvh(dose_gy, volume)
    return 100.0 * float(dvh.volume_at_dose(level_gy)) / dvh.total_cm3


def mean_dose(dose_gy: np.ndarray, volume: np.ndarray) -> float:
    """Volume-weighted mean dose in Gy."""
    return Dvh(dose_gy, volume).mean_gy
