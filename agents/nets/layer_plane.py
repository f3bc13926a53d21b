"""Features of an arc for one decision: convolutions over angle × layer, seen from the angle."""

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from ptenv.envs.energy_layer_observations import HERE


class PlaneExtractor(BaseFeaturesExtractor):
    """Observations of ``ptenv/EnergyLayer`` → (batch, layer_features · E + global_features).

    The plane is turned so that the present angle comes first: the same arc seen from another
    angle looks the same. Convolutions wrap around in angle, as a full circle does, and shrink it;
    layers keep their resolution, so that each has features of its own, from which one head scores
    them all.
    """

    def __init__(
        self, observation_space: gym.spaces.Dict, width: int = 16, layer_features: int = 32
    ):
        n_planes, _, self.n_layers = observation_space["plane"].shape
        n_clock = observation_space["clock"].shape[0]
        self.layer_features, self.global_features = layer_features, layer_features + n_clock
        super().__init__(observation_space, layer_features * self.n_layers + self.global_features)
        self.first = _conv(n_planes, width, 1)
        self.second = _conv(width, 2 * width, 2)
        self.third = _conv(2 * width, 2 * width, 2)
        mixed = n_planes + width + 4 * width + n_clock
        self.mix = nn.Sequential(
            nn.Conv1d(mixed, layer_features, 1), nn.ReLU(),
            nn.Conv1d(layer_features, layer_features, 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        clock = observations["clock"]
        plane = from_here(observations["plane"])
        near = self.first(plane)
        far = self.third(self.second(near))
        along = clock[:, :, None].expand(-1, -1, self.n_layers)
        layers = self.mix(
            torch.cat([plane[:, :, 0], near[:, :, 0], far[:, :, 0], far.mean(2), along], 1)
        )
        return torch.cat([layers.flatten(1), layers.mean(2), clock], 1)


class LayerHead(nn.Module):
    """One logit a layer from features of a ``PlaneExtractor``, (batch, E)."""

    def __init__(self, layer_features: int, n_layers: int):
        super().__init__()
        self.shape = (layer_features, n_layers)
        self.score = nn.Conv1d(layer_features, 1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        layers = features[:, : self.shape[0] * self.shape[1]]
        return self.score(layers.unflatten(1, self.shape)).squeeze(1)


class ValueHead(nn.Module):
    """The value of a state from the global part of the features, (batch, 1)."""

    def __init__(self, global_features: int, width: int = 64):
        super().__init__()
        self.global_features = global_features
        self.value = nn.Sequential(
            nn.Linear(global_features, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.value(features[:, -self.global_features :])


def from_here(plane: torch.Tensor) -> torch.Tensor:
    """Planes (batch, n, G, E) turned so that the present angle has row 0."""
    n_angles = plane.shape[2]
    here = plane[:, HERE, :, 0].argmax(1)
    rows = (here[:, None] + torch.arange(n_angles, device=plane.device)) % n_angles
    return plane.gather(2, rows[:, None, :, None].expand_as(plane))


def _conv(n_in: int, n_out: int, angle_stride: int) -> nn.Module:
    """3 × 3, periodic in angle, zeros beyond the lowest and highest layer."""
    return nn.Sequential(
        _Wrap(), nn.Conv2d(n_in, n_out, 3, (angle_stride, 1), padding=(0, 1)), nn.ReLU()
    )


class _Wrap(nn.Module):
    """One angle more on either side, from the other end of the circle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
