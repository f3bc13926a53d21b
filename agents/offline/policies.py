"""Policies to be cloned into: stable-baselines3's, by what they see and do.

They are saved like agents that learned by themselves, so that the same code plays them, and
reinforcement learning can go on from them.
"""

from collections.abc import Sequence

import gymnasium as gym
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from agents.nets.shaping_features import ShapingExtractor
from agents.rl.masked import LayerPolicy


class VolumeExtractor(BaseFeaturesExtractor):
    """Observations of ``ptenv/VoxelMask``, "volume" → (batch, 8 · width + budget features).

    Convolutions with stride, then means and maxima over what is left of the volume.
    """

    def __init__(self, observation_space: gym.spaces.Dict, width: int = 8):
        n_channels = observation_space["volume"].shape[0]
        super().__init__(observation_space, 8 * width + observation_space["budget"].shape[0])
        widths = (n_channels, width, 2 * width, 4 * width)
        self.volume = nn.Sequential(*(
            layer for n_in, n_out in zip(widths[:-1], widths[1:])
            for layer in (nn.Conv3d(n_in, n_out, 3, stride=2, padding=1), nn.ReLU())
        ))  # fmt: skip

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        seen = self.volume(observations["volume"]).flatten(2)
        return torch.cat([seen.mean(2), seen.amax(2), observations["budget"]], 1)


def new_model(env: gym.Env, seed: int, net_arch: Sequence[int]) -> BaseAlgorithm:
    """An untrained model for an environment's spaces; masked where actions are discrete.

    ``net_arch`` are the widths behind the features; the layers of arcs have a head of their own.
    """
    policy, settings = _policy_for(env.observation_space, list(net_arch))
    masked = isinstance(env.action_space, gym.spaces.Discrete)
    algorithm = MaskablePPO if masked else PPO
    return algorithm(policy, env, seed=seed, policy_kwargs=settings, device="cpu")


def _policy_for(space: gym.Space, net_arch: list[int]) -> tuple[str | type, dict]:
    """A policy and its arguments by what is seen."""
    seen = set(space.spaces) if isinstance(space, gym.spaces.Dict) else set()
    if not seen:
        return "MlpPolicy", {"net_arch": net_arch}
    if "plane" in seen:
        return LayerPolicy, {}
    extractors = {
        frozenset({"figures", "spots", "volume"}): ShapingExtractor,
        frozenset({"volume", "budget"}): VolumeExtractor,
    }
    if frozenset(seen) not in extractors:
        raise ValueError(f"no network is known for observations of {sorted(seen)}.")
    return "MultiInputPolicy", {
        "net_arch": net_arch, "features_extractor_class": extractors[frozenset(seen)],
    }  # fmt: skip
