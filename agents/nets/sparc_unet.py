"""The U-Net of Yang et al. 2025 (arXiv 2506.18303, figure 1): energy layers of an arc at once."""

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = (16, 32, 64, 128)
SLOPE = 0.2


class SparcUnet(nn.Module):
    """Spot counts over angle × layer → log-probabilities of the layers at each angle.

    Inputs are ``planes`` (batch, n_planes, G, E) and ``wed`` (batch, G), both between 0 and 1; the
    depths become one more column of every plane, as in the paper (72 × 103). Four levels of 16 to
    128 channels, 3 × 3 convolutions with leaky ReLU of slope 0.2, halved by averaging and doubled
    by repetition, skips at every level. ``valid`` (batch, G, E) bool leaves out layers that do not
    reach the target (None: none is left out); angles without any get equal chances. Sizes need not
    divide by eight: zeros fill up. ``periodic`` wraps the angles of a full circle.
    ``logit_limit`` bounds the logits softly, so that no choice becomes so sure that it cannot be
    unlearned.
    """

    def __init__(
        self, n_planes: int = 2, levels: tuple[int, ...] = LEVELS, periodic: bool = False,
        logit_limit: float | None = None,
    ):  # fmt: skip
        super().__init__()
        self.n_planes, self.periodic, self.logit_limit = n_planes, periodic, logit_limit
        widths = [n_planes, *levels]
        self.down = nn.ModuleList(self._block(a, b) for a, b in zip(widths, levels))
        up = list(zip(levels[:0:-1], levels[-2::-1]))
        self.up = nn.ModuleList(self._block(a + b, b) for a, b in up)
        self.last = nn.Conv2d(levels[0], 1, 1)

    def _block(self, n_in: int, n_out: int) -> nn.Module:
        return nn.Sequential(
            _Conv(n_in, n_out, self.periodic), nn.LeakyReLU(SLOPE),
            _Conv(n_out, n_out, self.periodic), nn.LeakyReLU(SLOPE),
        )  # fmt: skip

    def forward(
        self, planes: torch.Tensor, wed: torch.Tensor, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        n_angles, n_layers = planes.shape[2:]
        column = wed[:, None, :, None].expand(-1, planes.shape[1], -1, 1)
        logits = self._through(torch.cat([planes, column], dim=3))[:, 0, :n_angles, :n_layers]
        if self.logit_limit is not None:
            logits = self.logit_limit * torch.tanh(logits / self.logit_limit)
        if valid is not None:
            kept = valid | ~valid.any(dim=2, keepdim=True)
            logits = logits.masked_fill(~kept, -torch.inf)
        return torch.log_softmax(logits, dim=2)

    def _through(self, x: torch.Tensor) -> torch.Tensor:
        step = 2 ** (len(self.down) - 1)
        n_angles, n_columns = x.shape[2:]
        x = F.pad(x, (0, -n_columns % step, 0, -n_angles % step))
        skips = []
        for block in self.down:
            x = block(F.avg_pool2d(x, 2) if skips else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1]):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        return self.last(x)


class _Conv(nn.Module):
    """3 × 3, zeros beyond the lowest and highest layer, and beyond the angles unless they wrap."""

    def __init__(self, n_in: int, n_out: int, periodic: bool):
        super().__init__()
        self.periodic = periodic
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=(0 if periodic else 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.periodic:
            x = torch.cat([x[:, :, -1:], x, x[:, :, :1]], dim=2)
        return self.conv(x)
