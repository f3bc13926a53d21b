"""The Lightning module that fits a policy to recorded actions."""

from collections.abc import Callable

import lightning as L
import torch

from agents.offline.steps import Batch

LEAST_DEVIATION = 0.05  # of an action: a policy without chance could not learn on


class Cloning(L.LightningModule):
    """Behavior cloning into a policy of stable-baselines3.

    Discrete actions: mean −log π over the allowed ones. Continuous ones: mean squared error of the
    policy's mean action.
    """

    def __init__(
        self, policy: torch.nn.Module, optimizer: Callable[..., torch.optim.Optimizer]
    ):
        super().__init__()
        self.policy, self.optimizer = policy, optimizer

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        return self._score("train", batch)

    def validation_step(self, batch: Batch, index: int) -> torch.Tensor:
        return self._score("validation", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.policy.parameters())

    def losses(self, batch: Batch) -> torch.Tensor:
        """One loss a step, (n,)."""
        if "masks" in batch:
            chances = self.policy.get_distribution(batch["observations"], batch["masks"])
            return -chances.log_prob(batch["actions"])
        return self.errors(batch).square().mean(dim=1)

    def errors(self, batch: Batch) -> torch.Tensor:
        """Mean action less what was done, (n, n_numbers)."""
        return self.policy.get_distribution(batch["observations"]).mode() - batch["actions"]

    def _score(self, stage: str, batch: Batch) -> torch.Tensor:
        loss = self.losses(batch).mean()
        n = len(batch["actions"])
        self.log(f"{stage}/loss", loss, batch_size=n, on_step=False, on_epoch=True)
        return loss


@torch.no_grad()
def set_deviation(module: Cloning, batches) -> None:
    """Give a policy of continuous actions the deviation that recorded ones have from its mean."""
    errors = torch.cat([module.errors(batch) for batch in batches])
    deviation = errors.square().mean(dim=0).sqrt().clamp_min(LEAST_DEVIATION)
    module.policy.log_std.copy_(deviation.log())
