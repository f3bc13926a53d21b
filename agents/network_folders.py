"""A trained network as a folder: its weights, and a card that says how to build it and what for."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch


def write_network(
    folder: Path, net: torch.nn.Module, weights: str, card: str, description: Mapping
) -> Path:
    """Weights and card into files of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), folder / weights)
    (folder / card).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def read_network(folder: Path, weights: str, card: str, agent: str) -> tuple[dict, dict]:
    """Card and state of a network that ``ptenv train agent=AGENT`` wrote."""
    try:
        description = json.loads((folder / card).read_text(encoding="utf-8"))
        state = torch.load(folder / weights, map_location="cpu", weights_only=True)
    except OSError:
        raise FileNotFoundError(
            f"network {folder}: no {card} and {weights} there; give the output folder of "
            f"`ptenv train agent={agent}`."
        ) from None
    return description, state


def read_card(folder: Path, card: str) -> dict:
    """What a network's card says, without its weights."""
    return json.loads((folder / card).read_text(encoding="utf-8"))
