"""The Lightning module that fits a network to arcs."""

from collections.abc import Callable

import lightning as L
import torch

from agents.energy_layers.examples import Batch

PRICES = (0.003, 6.0)  # of a second, in units of the network's scores


class LayerSelection(L.LightningModule):
    """Learn layers from spot counts: (batch, planes, G, E) → log-probabilities (batch, G, E).

    ``prices`` of a second, drawn log-uniformly, are what a loss that tells one is trained on; the
    network then sees the price as one more plane, see ``planes_of``.
    """

    def __init__(
        self, net: torch.nn.Module, loss: Callable,
        optimizer: Callable[..., torch.optim.Optimizer],
        prices: tuple[float, float] = PRICES,
    ):  # fmt: skip
        super().__init__()
        self.net, self.loss, self.optimizer, self.prices = net, loss, optimizer, prices

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        return self._score("train", batch, torch.rand(len(batch["wed"])))

    def validation_step(self, batch: Batch, index: int) -> torch.Tensor:
        n = len(batch["wed"])
        return self._score("validation", batch, (torch.arange(n) + 0.5) / n)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.net.parameters())

    def _score(self, stage: str, batch: Batch, drawn: torch.Tensor) -> torch.Tensor:
        low, high = self.prices
        price = low * (high / low) ** drawn if self.loss.told_price else None
        scores = self.net(planes_of(batch, price), batch["wed"], batch["valid"])
        total, terms = self.loss(scores, batch, price)
        n = len(batch["wed"])
        self.log(f"{stage}/loss", total, batch_size=n, on_step=False, on_epoch=True)
        for name, value in terms.items():
            self.log(f"{stage}/{name}", value, batch_size=n, on_step=False, on_epoch=True)
        return total


def planes_of(batch: Batch, price: torch.Tensor | None) -> torch.Tensor:
    """What the network sees, (batch, 2 or 3, G, E): counts, and the price where it is told."""
    planes = [batch["target"], batch["spared"]]
    if price is not None:
        planes.append(torch.log10(price)[:, None, None].expand_as(batch["target"]) / 2.0)
    return torch.stack(planes, dim=1)
