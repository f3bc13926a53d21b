"""Features of a plan that is being shaped: figures, critical spots, and the dose volume."""

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class ShapingExtractor(BaseFeaturesExtractor):
    """Observations of ``ptenv/DoseShaping``, "full" → (batch, n_features).

    Every spot goes through the same small net, in its place; the volume through two convolutions
    with stride, then means and maxima over what is left of it.
    """

    def __init__(
        self, observation_space: gym.spaces.Dict, width: int = 16, spot_features: int = 8
    ):
        n_figures = observation_space["figures"].shape[0]
        n_spots, n_of_spot = observation_space["spots"].shape
        n_channels = observation_space["volume"].shape[0]
        super().__init__(observation_space, n_figures + n_spots * spot_features + 4 * width)
        self.spot = nn.Sequential(nn.Linear(n_of_spot, 32), nn.ReLU(), nn.Linear(32, spot_features))
        self.volume = nn.Sequential(
            nn.Conv3d(n_channels, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv3d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        seen = self.volume(observations["volume"]).flatten(2)
        spots = self.spot(observations["spots"]).flatten(1)
        return torch.cat([observations["figures"], spots, seen.mean(2), seen.amax(2)], 1)
