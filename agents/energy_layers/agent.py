"""The trained U-Net as an agent: the layers of the whole arc at once."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from agents.baselines.arc_view import ArcView
from agents.energy_layers.examples import ArcExample, collated
from agents.energy_layers.module import PRICES, planes_of
from agents.energy_layers.training import CARD, load_unet
from agents.nets.sparc_unet import SparcUnet
from agents.network_folders import read_card
from engine.optimization.layer_sequencing import (
    LayerSequencing,
    dynamic_programming,
    weighted_dynamic_programming,
)  # fmt: skip

LEAST_LOG_P = -30.0
N_PRICES = 12  # that are tried for a limit
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
        example = ArcExample.of_case(case, self._card["spared"])
        limit = view.safe(limit_s) if self.keep_limit else None
        if self._card["told_price"]:
            return self._at_a_price(view, example, np.inf if limit is None else limit)
        return decoded(self._scores(view, example), view.sequencing, limit)

    @property
    def learned(self) -> dict:
        """The cases that the network learned on, and its environment."""
        self._card = self._card or read_card(weights_folder(self.path), CARD)
        return {"env_id": self._card.get("env_id"), "cases": list(self._card.get("learned_on", ())),
                "seed": self._card.get("seed")}  # fmt: skip

    def _at_a_price(self, view: ArcView, example: ArcExample, limit_s: float) -> np.ndarray:
        """The likeliest sequence at the lowest price whose own keeps the limit, and within it."""
        times = view.sequencing
        for price in np.geomspace(*PRICES, N_PRICES):
            scores = self._scores(view, example, price)
            sequence = weighted_dynamic_programming(times, scores, price)[:, 0]
            if times.time_s(sequence) <= limit_s:
                return sequence
        return dynamic_programming(times, scores, limit_s)[:, 0]

    def _scores(
        self, view: ArcView, example: ArcExample, price: float | None = None
    ) -> np.ndarray:
        scores = log_probabilities(self._net, self._card, example, price)
        return np.repeat(
            np.maximum(scores, LEAST_LOG_P), view.case.sequencing.layers_per_angle, axis=0
        )

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
    net: SparcUnet, card: dict, example: ArcExample, price: float | None = None
) -> np.ndarray:
    """Log-probabilities (G, E) of an arc, at a price of a second where the network is told one."""
    batch = collated([example])
    told = torch.tensor([price], dtype=torch.float32) if card["told_price"] else None
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
