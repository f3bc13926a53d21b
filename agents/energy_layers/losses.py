"""Losses without labels: the tri-objective one of Yang et al. 2025, and one that sees errors."""

from dataclasses import dataclass

import torch

from agents.energy_layers.examples import Batch

SCALES = (1.0, 0.965, 1.035)  # depths without an error and with ± 3.5 % of range
WIDE = 2.0  # times a peak's half width: how far a layer counts for the dose around it
TINY = 1e-6


@dataclass(frozen=True)
class TriObjective:
    """Equations (1) to (4): cross entropy with the layer of most spots, with the layer of most
    spots that spare the organ, and the expected switching time.

    Of several layers with the most spots the lowest is the label. Angles that no layer serves are
    left out; switching runs from each served angle to the next one. Means over angles and arcs.
    """

    target: float = 0.5
    spared: float = 0.4
    time: float = 0.1
    wants_limit = False

    def __call__(self, log_p: torch.Tensor, batch: Batch, limit: torch.Tensor | None = None):
        served = batch["valid"].any(dim=2)
        terms = {
            "target": _cross_entropy(log_p, batch["target"], served),
            "spared": _cross_entropy(log_p, batch["spared"], served),
            "time": expected_switching_s(log_p, batch).mean(),
        }
        total = sum(getattr(self, name) * value for name, value in terms.items())
        return total, terms


@dataclass(frozen=True)
class RobustObjective:
    """Even coverage of target points in the worst range scenario, within a delivery time.

    The spread over the mean of how many peaks lie around each point, the share of ``k`` peaks
    that points lack, the two cross entropies in small, and what the expected delivery time is
    over the ``limit`` (a multiple of the least time, which the network is told).
    Set-up shifts move points along their rays' neighbors at nearly unchanged depth, so that range
    errors stand for both.
    """

    evenness: float = 1.0
    coverage: float = 0.5
    spared: float = 0.02
    over_time: float = 6.0
    sharpness: float = 0.01  # of the entropy: chances should become choices
    wants_limit = True

    def __call__(self, log_p: torch.Tensor, batch: Batch, limit: torch.Tensor | None = None):
        served = batch["valid"].any(dim=2)
        counts = torch.stack([soft_counts(log_p, batch, scale) for scale in SCALES])  # (S, B, P)
        spread = counts.std(dim=2) / (counts.mean(dim=2) + TINY)
        k = max(3, log_p.shape[1] // 12)
        lacking = 1.0 - (counts.clamp(max=k) / k).mean(dim=2)
        seconds = expected_time_s(log_p, batch) / batch["floor_s"]
        p = log_p.exp()
        entropy = -(p * log_p.clamp(min=-30.0)).sum(dim=2)[served].mean()
        terms = {
            "evenness": spread.max(dim=0).values.mean(),
            "coverage": lacking.max(dim=0).values.mean(),
            "spared": _cross_entropy(log_p, batch["spared"], served),
            "over_time": torch.relu(seconds - limit).mean(),
            "sharpness": entropy,
        }
        total = sum(getattr(self, name) * value for name, value in terms.items())
        return total, terms


def soft_counts(log_p: torch.Tensor, batch: Batch, scale: float) -> torch.Tensor:
    """Expected number of peaks around every target point, (batch, P)."""
    p = log_p.exp()
    total = torch.zeros(p.shape[0], batch["depth_mm"].shape[2], dtype=p.dtype)
    width = WIDE * batch["half_width_mm"][:, :, None]
    for g in range(p.shape[1]):
        off = (batch["depth_mm"][:, g, None, :] * scale - batch["range_mm"][:, :, None]) / width
        peak = torch.exp(-0.5 * off**4)  # nearly flat within the width, and smooth
        total = total + (p[:, g, :, None] * batch["valid"][:, g, :, None] * peak).sum(dim=1)
    return total


def expected_switching_s(log_p: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Σ over layers P(before) P(after) · seconds, per served angle, (batch,)."""
    p = log_p.exp()
    return torch.stack([
        _between(p[b], batch["valid"][b], batch["switch_s"][b]) for b in range(len(p))
    ])  # fmt: skip


def _between(p: torch.Tensor, valid: torch.Tensor, switch_s: torch.Tensor) -> torch.Tensor:
    p = p[valid.any(dim=1)]
    return torch.einsum("ge,ef,gf->", p[:-1], switch_s, p[1:]) / max(len(p), 1)


def expected_time_s(log_p: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Expected delivery time of independent choices, (batch,) seconds."""
    p = log_p.exp()
    seconds = []
    for b in range(len(p)):
        valid, gantry = batch["valid"][b], batch["gantry_s"][b]
        served = valid.any(dim=1)
        q, beam, turn = p[b][served], batch["beam_on_s"][b][served], gantry[served]
        first = (q[0] * torch.maximum(turn[0], beam[0])).sum()
        step = torch.maximum(
            turn[1:, None, None], batch["switch_s"][b][None] + beam[1:, None, :]
        )
        rest = torch.einsum("ge,gef,gf->", q[:-1], step, q[1:])
        seconds.append(first + rest + gantry[~served].sum())
    return torch.stack(seconds)


def _cross_entropy(log_p: torch.Tensor, counts: torch.Tensor, served: torch.Tensor):
    """−log P of the layer with the largest count, mean over served angles."""
    label = counts.argmax(dim=2, keepdim=True)
    return -log_p.gather(2, label)[..., 0].clamp(min=-30.0)[served].mean()
