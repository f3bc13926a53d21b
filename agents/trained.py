"""Trained agents by the folders that ``ptenv train`` wrote, whatever they learned."""

from collections.abc import Sequence
from pathlib import Path

from agents.baselines.energy_layer import LayerBaseline
from agents.energy_layers.agent import UnetRule, is_unet, weights_folder
from agents.rl.trained import TrainedAgent, algorithm_of, inside
from agents.voxel_sampling.agent import PNetSampler, is_pnet, pnet_folder

AnyAgent = TrainedAgent | LayerBaseline | PNetSampler


def trained_agent(path: str) -> AnyAgent:
    """The agent of one folder; it plays like a baseline."""
    if is_unet(path):
        return LayerBaseline(UnetRule(path))
    return PNetSampler(path) if is_pnet(path) else TrainedAgent(path)


def learned_by(agent) -> dict | None:
    """What an agent learned from ({"cases": […], "env_id": …, "seed": …}); None for a rule."""
    return getattr(agent, "learned", None)


def folder_of(path: str) -> Path:
    """The folder with the weights of an agent that is named by its path or ships with ptenv."""
    if is_unet(path):
        return weights_folder(path)
    return pnet_folder(path) if is_pnet(path) else inside(Path(path))


def described_agent(path: str) -> str:
    """What an agent is, in a word or two."""
    if is_unet(path):
        return "SPArc U-Net"
    return "P-Net" if is_pnet(path) else algorithm_of(Path(path))


def trained_agents(paths: str | Sequence[str]) -> dict[str, AnyAgent]:
    """Agents by the names of their folders; a single path may stand alone."""
    paths = [paths] if isinstance(paths, str) else list(paths)
    return {Path(path).name: trained_agent(path) for path in paths}
