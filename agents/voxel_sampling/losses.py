"""The loss of Quarz 2024 on pseudo-labels: section 2.5.2."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.labels import ColdTarget, EveryOrganVoxel, HotOrgans, OrganShells
from agents.voxel_sampling.visits import Visit

RESTS = ("volume", "organs")
Terms = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PseudoLabels:
    """Mean cross entropy over the target's voxels and mean over the rest of the volume.

    ``rest="volume"`` is the paper's: organs with their labels and all voxels around them with the
    label 0; "organs" leaves out what lies around.
    """

    target: ColdTarget = ColdTarget()
    organs: EveryOrganVoxel | OrganShells | HotOrgans = OrganShells()
    rest: str = "volume"
    second: ClassVar[str | None] = None  # mask beside the drawn one

    def __post_init__(self):
        if self.rest not in RESTS:
            raise ValueError(f"rest={self.rest!r} is unknown; choose from {RESTS}.")

    def __call__(self, log_p: torch.Tensor, visit: Visit) -> tuple[torch.Tensor, Terms]:
        """Loss and its terms from log-probabilities (2, z, y, x)."""
        volume, rng = visit.volume, visit.rng()
        entropies = cross_entropies(log_p, volume)
        case = (volume, visit.selected[0], visit.plans[0], rng)
        at = torch.from_numpy(volume.in_target)
        target = _weighted(entropies, self.target(*case))[at]
        organs = _weighted(entropies, self.organs(*case))[~at]
        total, n = organs.sum(), len(organs)
        if self.rest == "volume":
            around = -log_p[0].flatten()
            total = total + around.sum() - around[torch.from_numpy(volume.place)].sum()
            n += around.numel() - len(volume.place)
        terms = {"target": target.mean(), "rest": total / max(n, 1)}
        return terms["target"] + terms["rest"], terms

    def state(self) -> dict:
        """Nothing is remembered from visit to visit."""
        return {}

    def remember(self, state: dict) -> None: ...


def cross_entropies(log_p: torch.Tensor, volume: CaseVolume) -> torch.Tensor:
    """Cross entropies (2, n) of the volume's rows with either label."""
    return -log_p.flatten(1)[:, torch.from_numpy(volume.place)]


def _weighted(entropies: torch.Tensor, labels) -> torch.Tensor:
    selected = torch.from_numpy(np.asarray(labels.selected))
    weight = torch.from_numpy(labels.weight.astype(np.float32))
    return weight * torch.where(selected, entropies[1], entropies[0])
