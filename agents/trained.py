"""Trained agents by the folders that ``ptenv train`` wrote, whatever they learned."""

from collections.abc import Sequence
from pathlib import Path

from agents.baselines.energy_layer import LayerBaseline
from agents.energy_layers.agent import UnetRule, is_unet
from agents.rl.trained import TrainedAgent
from agents.voxel_sampling.agent import PNetSampler, is_pnet

AnyAgent = TrainedAgent | LayerBaseline | PNetSampler


def trained_agent(path: str) -> AnyAgent:
    """The agent of one folder; it plays like a baseline."""
    if is_unet(path):
        return LayerBaseline(UnetRule(path))
    return PNetSampler(path) if is_pnet(path) else TrainedAgent(path)


def trained_agents(paths: str | Sequence[str]) -> dict[str, AnyAgent]:
    """Agents by the names of their folders; a single path may stand alone."""
    paths = [paths] if isinstance(paths, str) else list(paths)
    return {Path(path).name: trained_agent(path) for path in paths}
