"""Trained agents by the folders that ``ptenv train`` wrote, whatever they learned."""

from collections.abc import Sequence
from pathlib import Path

from agents.baselines.energy_layer import LayerBaseline
from agents.energy_layers.agent import UnetRule, is_unet
from agents.rl.trained import TrainedAgent


def trained_agent(path: str) -> TrainedAgent | LayerBaseline:
    """The agent of one folder; it plays like a baseline."""
    return LayerBaseline(UnetRule(path)) if is_unet(path) else TrainedAgent(path)


def trained_agents(paths: str | Sequence[str]) -> dict[str, TrainedAgent | LayerBaseline]:
    """Agents by the names of their folders; a single path may stand alone."""
    paths = [paths] if isinstance(paths, str) else list(paths)
    return {Path(path).name: trained_agent(path) for path in paths}
