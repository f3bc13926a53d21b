"""Pseudo-labels of voxels from the plan that a sampling led to: section 2.5.2 of Quarz 2024.

A rule gives labels (n,) bool and weights (n,) of the cross entropy, for the rows of a
``CaseVolume``; only its own voxels' entries (targets' or organs') are read.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.plans import SamplingPlan

REGULATORS = ("selected", "ratio")
MOST_RATIO = 100.0  # of selected to unselected voxels, when nearly all are selected


class Labels(NamedTuple):
    """Of every voxel that may be selected, (n,): whether it should be, and how much that counts."""

    selected: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class ColdTarget:
    """Target voxels below ``threshold`` of their prescription should be selected, others not.

    The cross entropy of those that should not is multiplied by ``regulator``: "selected", the rate
    of selected voxels in the target, as the paper's algorithm has it; "ratio", selected by
    unselected voxels, as its text says; or a number.
    """

    threshold: float = 0.985
    regulator: str | float = "selected"

    def __post_init__(self):
        if not self.threshold > 0:
            raise ValueError(f"threshold={self.threshold} must be positive.")
        _check_regulator(self.regulator)

    def __call__(
        self, volume: CaseVolume, selected: np.ndarray, plan: SamplingPlan, rng: np.random.Generator
    ) -> Labels:
        cold = plan.dose_gy[volume.rows] < self.threshold * volume.prescription_gy
        regulator = _regulation(self.regulator, selected[volume.in_target])
        return Labels(cold, np.where(cold, 1.0, regulator))


@dataclass(frozen=True)
class EveryOrganVoxel:
    """All that equation (1) leaves: the paper's setup 1."""

    def __call__(self, volume: CaseVolume, selected, plan, rng) -> Labels:
        return Labels(np.ones(len(volume.rows), bool), np.ones(len(volume.rows)))


@dataclass(frozen=True)
class OrganShells:
    """Drawn anew with every plan, dense within ``width_mm`` of the surface: the paper's setup 2.

    Optic chiasm and nerves should be selected wholly.
    """

    boundary_rate: float = 1.0
    interior_rate: float = 1 / 8
    width_mm: float = 2.0

    def __post_init__(self):
        for name in ("boundary_rate", "interior_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} must lie in 0 … 1.")

    def __call__(self, volume: CaseVolume, selected, plan, rng: np.random.Generator) -> Labels:
        boundary = volume.depth_mm <= self.width_mm
        rate = np.where(boundary, self.boundary_rate, self.interior_rate)
        drawn = rng.random(len(rate)) < np.where(volume.always, 1.0, rate)
        return Labels(drawn, np.ones(len(rate)))


@dataclass(frozen=True)
class HotOrgans:
    """Organ voxels that pull on the plan should be selected, others not: not of the paper.

    Those whose share of the objective is ``share`` or more of the mean over organ voxels; others
    count by ``regulator``, as in targets.
    """

    share: float = 0.1
    regulator: str | float = "selected"

    def __post_init__(self):
        if not self.share >= 0:
            raise ValueError(f"share={self.share} must be 0 or more.")
        _check_regulator(self.regulator)

    def __call__(
        self, volume: CaseVolume, selected: np.ndarray, plan: SamplingPlan, rng: np.random.Generator
    ) -> Labels:
        penalty = plan.row_penalty[volume.rows]
        organs = penalty[~volume.in_target]
        hot = penalty > max(self.share * float(organs.mean()) if len(organs) else 0.0, 0.0)
        regulator = _regulation(self.regulator, selected[~volume.in_target])
        return Labels(hot, np.where(hot, 1.0, regulator))


def _check_regulator(regulator: str | float) -> None:
    known = regulator in REGULATORS if isinstance(regulator, str) else regulator >= 0
    if not known:
        raise ValueError(
            f"regulator={regulator!r} is unknown; choose from {REGULATORS}, or give a number."
        )


def _regulation(regulator: str | float, selected: np.ndarray) -> float:
    """What the loss of voxels that should not be selected is multiplied by."""
    if not isinstance(regulator, str):
        return float(regulator)
    rate = float(selected.mean()) if len(selected) else 0.0
    if regulator == "selected":
        return rate
    return min(rate / max(1.0 - rate, 1e-9), MOST_RATIO)
