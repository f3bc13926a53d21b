"""Single steps of recorded episodes, as a network learns from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gymnasium as gym
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from agents.offline.datasets import of_episodes
from agents.offline.episodes import MASK

if TYPE_CHECKING:
    from minari import MinariDataset

Batch = dict[str, torch.Tensor | dict[str, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Steps:
    """Observations (n, …) or a dict of them, actions (n, …), masks (n, n_actions) or None."""

    observations: np.ndarray | dict[str, np.ndarray]
    actions: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def batch(self, at: np.ndarray) -> Batch:
        """Some steps as tensors."""
        seen = self.observations
        found = {
            "observations": {k: torch.from_numpy(v[at]) for k, v in seen.items()}
            if isinstance(seen, dict) else torch.from_numpy(seen[at]),
            "actions": torch.from_numpy(self.actions[at]),
        }  # fmt: skip
        if self.masks is not None:
            found["masks"] = torch.from_numpy(self.masks[at].astype(bool))
        return found


def steps_of(dataset: "MinariDataset", best: float = 1.0, cases: set[str] | None = None) -> Steps:
    """The steps of a dataset's episodes: of all ``cases`` or of some, all of them or the ``best``
    share of those on the same case and budget."""
    kept = [i for i, about in zip(dataset.episode_indices, of_episodes(dataset))
            if cases is None or about["case"] in cases]  # fmt: skip
    kept = np.intersect1d(kept, _best(dataset, best))
    episodes = list(dataset.iterate_episodes(kept))
    if not episodes:
        raise ValueError(f"dataset={dataset.id!r} has no episode to learn from.")
    discrete = isinstance(dataset.action_space, gym.spaces.Discrete)
    return Steps(
        _joined([_before(e.observations) for e in episodes]),
        np.concatenate([e.actions for e in episodes]),
        np.concatenate([e.infos[MASK][:-1] for e in episodes]) if discrete else None,
    )


def _best(dataset: "MinariDataset", share: float) -> list[int]:
    """Episodes with the best scores of their case and budget, one at least of each."""
    groups: dict[tuple, list[tuple[float, int]]] = {}
    for index, about in zip(dataset.episode_indices, of_episodes(dataset)):
        groups.setdefault((about["case"], about["budget"]), []).append((-about["score"], index))
    return sorted(
        index for group in groups.values()
        for _, index in sorted(group)[: max(1, round(share * len(group)))]
    )  # fmt: skip


def _before(observations):
    """What was seen before every action: all but the last observation."""
    if isinstance(observations, Mapping):
        return {k: v[:-1] for k, v in observations.items()}
    return observations[:-1]


def _joined(parts: list):
    if isinstance(parts[0], dict):
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    return np.concatenate(parts)


class Batches(Dataset):
    """Batches of steps in a given order."""

    def __init__(self, steps: Steps, order: np.ndarray, batch_size: int):
        self.steps, self.order, self.size = steps, order, batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.steps.batch(self.order[index * self.size : (index + 1) * self.size])


class StepsModule(L.LightningDataModule):
    """Hands steps to a trainer, those to learn from in an order that seed and epoch fix: a run that
    goes on sees what one without a stop sees."""

    def __init__(self, learned: Steps, held_out: Steps, batch_size: int, seed: int):
        super().__init__()
        self.learned, self.held_out, self.batch_size, self.seed = (
            learned, held_out, batch_size, seed,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader:
        rng = np.random.default_rng([self.seed, self.trainer.current_epoch, 1])
        order = rng.permutation(len(self.learned))
        return DataLoader(Batches(self.learned, order, self.batch_size), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        order = np.arange(len(self.held_out))
        return DataLoader(Batches(self.held_out, order, self.batch_size), batch_size=None)
