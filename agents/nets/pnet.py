"""P-Net as Quarz et al. 2024 have it: in 3D, without down- and upsampling.

After Wang et al., IEEE Trans. Pattern Anal. Mach. Intell. 41 (2019) 1559.
"""

from math import prod

import torch
from torch import nn
from torch.nn import functional

LAYERS = (2, 2, 3, 3, 3)  # convolutions of the five blocks
DILATIONS = (1, 2, 3, 4, 5)  # of the blocks
MAX_VOXELS = 1_000_000


class PNet(nn.Module):
    """Volumes (batch, n_channels, z, y, x) of any size → log-probabilities (batch, 2, z, y, x).

    The second class is "selected". Five blocks of dilated 3 × 3 × 3 convolutions; each hands its
    output to the next block and to a 1 × 1 × 1 convolution of ``side_channels`` (None: a quarter
    of ``channels``), whose outputs are joined and go through two more convolutions. A voxel sees
    42 voxels to every side; zeros lie beyond the volume. ``selected`` is the chance that every
    voxel has, about, before training. The paper gives the widths in a figure alone; P-Net's are 64
    and 16. Volumes of more than ``max_voxels`` are refused: they would fill the memory.
    """

    def __init__(
        self, n_channels: int = 3, channels: int = 16, side_channels: int | None = None,
        max_voxels: int = MAX_VOXELS, selected: float = 0.5,
    ):  # fmt: skip
        super().__init__()
        for name, value in (("n_channels", n_channels), ("channels", channels),
                            ("max_voxels", max_voxels)):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if not 0.0 < selected < 1.0:
            raise ValueError(f"selected={selected} must lie between 0 and 1.")
        self.n_channels, self.channels, self.max_voxels = n_channels, channels, max_voxels
        self.side_channels = side_channels or max(1, channels // 4)
        inputs = [n_channels, *[channels] * (len(LAYERS) - 1)]
        self.blocks = nn.ModuleList(
            DilatedBlock(n, channels, n_layers, dilation)
            for n, n_layers, dilation in zip(inputs, LAYERS, DILATIONS)
        )
        self.sides = nn.ModuleList(
            nn.Sequential(nn.Conv3d(channels, self.side_channels, 1), nn.ReLU()) for _ in LAYERS
        )
        self.last = nn.Sequential(
            nn.Conv3d(len(LAYERS) * self.side_channels, channels, 1), nn.ReLU(),
            nn.Conv3d(channels, 2, 1),
        )  # fmt: skip
        self._initialise(selected)

    def _initialise(self, selected: float) -> None:
        """He et al. 2015 for rectifiers; the last layer small, about its bias."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.last[-1].weight.mul_(0.1)
            self.last[-1].bias[1] = torch.logit(torch.tensor(selected))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        self.check_size(tuple(volume.shape[2:]))
        x, sides = volume, []
        for block, side in zip(self.blocks, self.sides):
            x = block(x)
            sides.append(side(x))
        return torch.log_softmax(self.last(torch.cat(sides, dim=1)).float(), dim=1)

    def check_size(self, size: tuple[int, ...], name: str = "the volume") -> None:
        """Refuse a volume (z, y, x) that is larger than declared."""
        if prod(size) > self.max_voxels:
            raise ValueError(
                f"{name} has {' × '.join(map(str, size))} = {prod(size)} voxels, the network was "
                f"declared for max_voxels={self.max_voxels}; raise max_voxels where the memory "
                "allows it, or give a coarser dose grid."
            )


class DilatedBlock(nn.Module):
    """3 × 3 × 3 convolutions of one dilation, each with a rectifier; zeros lie beyond the volume.

    Every ``dilation``-th voxel along each axis is a volume of its own, which the convolutions do
    not leave: they run undilated on those as a batch. The same numbers, and the gradients of the
    weights come four times as fast.
    """

    def __init__(self, n_in: int, n_out: int, n_layers: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.convolutions = nn.ModuleList(
            nn.Conv3d(n_out if i else n_in, n_out, 3, padding=1) for i in range(n_layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, missing, inside = x.shape, self._missing(x.shape[2:]), None
        if any(missing):
            inside = self._split(functional.pad(x.new_ones(1, 1, *size[2:]), _room(missing)))
            inside = inside.repeat(size[0], 1, 1, 1, 1)
            x = functional.pad(x, _room(missing))
        x = self._split(x)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x), inplace=True)
            if inside is not None:
                x = x * inside.to(x.dtype)
        return self._joined(x, size)

    def _missing(self, size: torch.Size) -> list[int]:
        """Planes of zeros that every axis lacks: to divide by the dilation, and to be 3 deep.

        At a depth of 2, with AMX of 1 too, oneDNN's bfloat16 gradient of the weights reads memory
        that nobody wrote (torch 2.13): NaN, or worse, numbers.
        """
        missing = [-n % self.dilation for n in size]
        missing[0] = max(missing[0], 3 * self.dilation - size[0])
        return missing

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, n, z, y, x) → (batch · dilation³, n, z / dilation, …)."""
        d, (batch, n, *size) = self.dilation, x.shape
        if d == 1:
            return x
        parts = x.reshape(batch, n, size[0] // d, d, size[1] // d, d, size[2] // d, d)
        parts = parts.permute(0, 3, 5, 7, 1, 2, 4, 6)
        return parts.reshape(batch * d**3, n, *(k // d for k in size))

    def _joined(self, parts: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """The inverse of ``_split``, cut to the size before."""
        d, n, small = self.dilation, parts.shape[1], parts.shape[2:]
        x = parts.reshape(size[0], d, d, d, n, *small).permute(0, 4, 5, 1, 6, 2, 7, 3)
        whole = x.reshape(size[0], n, *(k * d for k in small)) if d > 1 else parts
        return whole[:, :, : size[2], : size[3], : size[4]]


def _room(missing: list[int]) -> list[int]:
    """Zeros behind the last voxel of every axis, as ``pad`` wants them."""
    return [k for n in reversed(missing) for k in (0, n)]
