"""The Lightning module that fits a network to arcs."""

from collections.abc import Callable

import lightning as L
import torch

from agents.energy_layers.examples import Batch


class LayerSelection(L.LightningModule):
    """Learn layers from spot counts: (batch, planes, G, E) → log-probabilities (batch, G, E).

    ``limits`` are multiples of the least delivery time that a loss that wants one is trained on;
    the network then sees the limit as one more plane, see ``planes_of``.
    """

    def __init__(
        self, net: torch.nn.Module, loss: Callable,
        optimizer: Callable[..., torch.optim.Optimizer],
        limits: tuple[float, float] = (1.05, 2.2),
    ):  # fmt: skip
        super().__init__()
        self.net, self.loss, self.optimizer, self.limits = net, loss, optimizer, limits

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        low, high = self.limits
        limit = low + (high - low) * torch.rand(len(batch["wed"]))
        return self._score("train", batch, limit)

    def validation_step(self, batch: Batch, index: int) -> torch.Tensor:
        n = len(batch["wed"])
        return self._score("validation", batch, torch.linspace(*self.limits, n) if n > 1
                           else torch.tensor([sum(self.limits) / 2]))  # fmt: skip

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.net.parameters())

    def _score(self, stage: str, batch: Batch, limit: torch.Tensor) -> torch.Tensor:
        limit = limit if self.loss.wants_limit else None
        log_p = self.net(planes_of(batch, limit), batch["wed"], batch["valid"])
        total, terms = self.loss(log_p, batch, limit)
        n = len(batch["wed"])
        self.log(f"{stage}/loss", total, batch_size=n, on_step=False, on_epoch=True)
        for name, value in terms.items():
            self.log(f"{stage}/{name}", value, batch_size=n, on_step=False, on_epoch=True)
        return total


def planes_of(batch: Batch, limit: torch.Tensor | None) -> torch.Tensor:
    """What the network sees, (batch, 2 or 3, G, E): counts, and the limit where it is told."""
    planes = [batch["target"], batch["spared"]]
    if limit is not None:
        planes.append((limit[:, None, None] - 1.0).expand_as(batch["target"]))
    return torch.stack(planes, dim=1)
