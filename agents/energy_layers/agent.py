"""The trained U-Net as an agent: the layers of the whole arc at once."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from agents.baselines.arc_view import ArcView
from agents.energy_layers.examples import ArcExample, collated
from agents.energy_layers.module import planes_of
from agents.energy_layers.training import CARD, load_unet
from agents.nets.sparc_unet import SparcUnet
from engine.optimization.layer_sequencing import LayerSequencing, dynamic_programming

LEAST_LOG_P = -30.0
WEIGHTS = Path(__file__).parent.parent / "weights"


@dataclass
class UnetRule:
    """A rule for ``LayerBaseline``: log-probabilities from the network, decoded within the time.

    ``path`` is a folder that training wrote, or the name of weights that ship with the package.
    ``keep_limit=False`` takes the likeliest layer of every angle, as the paper does.
    """

    path: str
    keep_limit: bool = True
    _net: SparcUnet | None = field(default=None, init=False, repr=False)
    _card: dict = field(default_factory=dict, init=False, repr=False)

    def __call__(self, view: ArcView, limit_s: float, rng) -> np.ndarray:
        case = view.case
        if self._net is None:
            self._net, self._card = load_unet(weights_folder(self.path))
        limit = limit_s / case.sequencing.floor_s
        example = ArcExample.of_case(case, self._card["spared"])
        log_p = log_probabilities(self._net, self._card, example, limit)
        log_p = np.repeat(log_p, case.sequencing.layers_per_angle, axis=0)
        return decoded(log_p, view.sequencing, view.safe(limit_s) if self.keep_limit else None)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_net": None}  # other processes read it from disk


def is_unet(path: str) -> bool:
    """Whether a path names a U-Net: a folder of one's own, or weights that ship with ptenv."""
    return any((folder / CARD).exists() for folder in _candidates(path))


def _candidates(path: str) -> tuple[Path, Path, Path]:
    return Path(path), Path(path) / "agent", WEIGHTS / path


def weights_folder(path: str) -> Path:
    """A folder of a person's own, a run's output folder, or weights that ship with ptenv."""
    for folder in _candidates(path):
        if (folder / CARD).exists():
            return folder
    shipped = sorted(p.name for p in WEIGHTS.glob("*") if (p / CARD).exists())
    raise FileNotFoundError(
        f"network {path!r}: no such folder; give one that `ptenv train agent=sparc_unet` wrote, or "
        f"one of {shipped}."
    )


def log_probabilities(
    net: SparcUnet, card: dict, example: ArcExample, limit: float
) -> np.ndarray:
    """Log-probabilities (G, E) of an arc at a limit (a multiple of its least time)."""
    batch = collated([example])
    told = torch.tensor([limit], dtype=torch.float32) if card["told_limit"] else None
    with torch.inference_mode():
        valid = batch["valid"] if card["masked"] else None
        return net(planes_of(batch, told), batch["wed"], valid)[0].numpy()


def decoded(
    log_p: np.ndarray, sequencing: LayerSequencing, limit_s: float | None = None
) -> np.ndarray:
    """The likeliest layer of each angle (n,), or the likeliest sequence that keeps a limit."""
    value = np.where(sequencing.valid, np.maximum(log_p, LEAST_LOG_P), LEAST_LOG_P)
    best = np.where(sequencing.valid, value, -np.inf).argmax(axis=1)
    best = np.where(sequencing.valid.any(axis=1), best, -1).astype(np.int16)
    if limit_s is None or sequencing.time_s(best) <= limit_s:
        return best
    return dynamic_programming(sequencing, value, limit_s)[:, 0]
