"""The Lightning module that learns which voxels to plan on."""

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch

from agents.nets.pnet import PNet
from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.losses import PseudoLabels
from agents.voxel_sampling.policy_gradient import LocalCredit
from agents.voxel_sampling.visits import Visit


@dataclass(frozen=True)
class LearningRate:
    """``high`` for ``n_high`` epochs, then ``low``, halved every ``halve_every`` down to ``least``.

    ``scale`` is how many epochs of a run stand for one of Quarz 2024's: 0.2 of a run of 10 for 50.
    """

    high: float = 1e-3
    low: float = 1e-4
    least: float = 1e-5
    n_high: float = 5.0
    halve_every: float = 5.0
    scale: float = 1.0

    def __post_init__(self):
        for name in ("high", "low", "least", "halve_every", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")

    def __call__(self, epoch: float) -> float:
        """At a time of the run, in its epochs."""
        epoch = epoch / self.scale + 1e-9
        if epoch < self.n_high:
            return self.high
        halvings = int((epoch - self.n_high) / self.halve_every)
        return max(self.low * 0.5**halvings, self.least)


class VoxelSampling(L.LightningModule):
    """Learn chances of selection: a ``Visit`` a step, volumes (3, z, y, x) → (2, z, y, x).

    ``rate(step)`` is the learning rate of Adam. ``bfloat16`` halves the time of a step on
    processors that have it and is slow on others; weights and losses are float32.
    """

    def __init__(
        self, net: PNet, loss: PseudoLabels | LocalCredit, rate: Callable[[int], float],
        bfloat16: bool = True, optimizer_state: dict | None = None,
    ):  # fmt: skip
        super().__init__()
        self.net, self.loss, self.rate = net, loss, rate
        self.bfloat16, self.optimizer_state = bfloat16, optimizer_state
        self.said: dict[str, float] = {}  # of the last step

    def training_step(self, visit: Visit, index: int) -> torch.Tensor:
        loss, terms = self.loss(self.log_probabilities(visit.volume), visit)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of plan {visit.step} ({visit.volume.name}) is {loss.item()}; go on from "
                "the last checkpoint with a lower learning rate."
            )
        self.said = {
            "loss": loss.item(), **{name: t.item() for name, t in terms.items()}, **visit.figures()
        }  # fmt: skip
        return loss

    def on_train_batch_start(self, visit: Visit, index: int) -> None:
        for group in self.optimizers().param_groups:
            group["lr"] = self.rate(visit.step)

    def transfer_batch_to_device(self, visit: Visit, device, dataloader_idx: int) -> Visit:
        """Arrays of a visit stay where they are; this module computes on the processor."""
        return visit

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.rate(0))
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        return optimizer

    def log_probabilities(self, volume: CaseVolume) -> torch.Tensor:
        """Of a case's volume, (2, z, y, x) float32."""
        return log_probabilities(self.net, volume, self.bfloat16)

    def chances(self, volume: CaseVolume) -> np.ndarray:
        """Of a volume's rows to be selected, (n,) float32."""
        return chances(self.net, volume, self.bfloat16)


def log_probabilities(net: PNet, volume: CaseVolume, bfloat16: bool) -> torch.Tensor:
    """Of both classes at every voxel, (2, z, y, x) float32."""
    net.check_size(volume.size, volume.name)
    planes = torch.from_numpy(volume.channels)[None]
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        return net(planes)[0]


def chances(net: PNet, volume: CaseVolume, bfloat16: bool) -> np.ndarray:
    """Chances (n,) float32 of a volume's rows to be selected."""
    with torch.no_grad():
        selected = log_probabilities(net, volume, bfloat16)[1].flatten()
        return selected[torch.from_numpy(volume.place)].exp().numpy()
