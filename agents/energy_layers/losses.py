"""Losses without labels: the tri-objective one of Yang et al. 2025, and one that sees errors."""

from dataclasses import dataclass

import torch

from agents.energy_layers.examples import DEPTH_STEP_MM, Batch

SCALES = (1.0, 0.965, 1.035)  # depths without an error and with ± 3.5 % of range
WIDE = 3.0  # times a peak's half width: what lies around it
IMPOSSIBLE = -1e4
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
    told_price = False

    def __call__(self, log_p: torch.Tensor, batch: Batch, price: torch.Tensor | None = None):
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
    """How cold target points stay in the worst range scenario, under sequences that cost time.

    Sequences are drawn with chances that go with exp((Σ scores − price · seconds)/temperature):
    the marginals of that chain, exact by the forward-backward algorithm, know what switching
    costs. Every angle lends a point the depth dose of its chances of layers, plateau and peak; the
    loss is the mean over points of 1/(dose + ``floor``) and ``unevenness`` times the spread over
    the mean of how many peaks lie around a point, what chance adds to it included; the largest
    over nominal and ± 3.5 % range. Cold points are hard to warm, and peaks that line up move
    together when the range is wrong. The price of a second is drawn in training and told to the
    network; a price is found for a limit when it plays. Set-up shifts move points along their
    rays' neighbors at nearly unchanged depth: range errors stand for both.
    """

    temperature: float = 0.25
    floor: float = 0.5
    unevenness: float = 0.3
    spared: float = 0.002
    told_price = True

    def __call__(self, scores: torch.Tensor, batch: Batch, price: torch.Tensor):
        log_p = chain_marginals(scores, batch, price, self.temperature)
        p = log_p.exp() * batch["valid"]
        cold = [coldness(lent_dose(p, batch, scale), self.floor) for scale in SCALES]
        uneven = [unevenness(p, batch, scale) for scale in SCALES]
        terms = {
            "coldness": torch.stack(cold).max(dim=0).values.mean(),
            "unevenness": torch.stack(uneven).max(dim=0).values.mean(),
            "spared": _cross_entropy(log_p, batch["spared"], batch["valid"].any(dim=2)),
        }
        total = terms["coldness"] + self.unevenness * terms["unevenness"]
        return total + self.spared * terms["spared"], terms


def coldness(dose: torch.Tensor, floor: float) -> torch.Tensor:
    """Mean over target points of 1/(dose + floor), by its value at a tenth of a peak an angle,
    (batch,); ``dose`` (batch, G, P) is of equal particles, a peak is 1."""
    return (0.1 * dose.shape[1] / (dose.sum(dim=1) + floor)).mean(dim=1)


def unevenness(p: torch.Tensor, batch: Batch, scale: float) -> torch.Tensor:
    """Spread over mean of the number of peaks around target points, (batch,).

    The spread is of sequences drawn from the chances: between points, and by chance.
    """
    width = WIDE * batch["half_width_mm"][:, :, None]
    chance = []
    for g in range(p.shape[1]):
        off = batch["depth_mm"][:, g, None, :] * scale - batch["range_mm"][:, :, None]
        around = torch.exp(-0.5 * (off / width) ** 4)  # flat within the width, and smooth
        chance.append((p[:, g, :, None] * around).sum(dim=1))
    chance = torch.stack(chance, dim=1)  # (batch, G, P)
    count = chance.sum(dim=1)
    by_chance = (chance * (1.0 - chance)).clamp(min=0.0).sum(dim=1).mean(dim=1)
    return (count.var(dim=1) + by_chance + TINY).sqrt() / (count.mean(dim=1) + TINY)


def chain_marginals(
    scores: torch.Tensor, batch: Batch, price: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Log-marginals (batch, G, E) of layers under exp((Σ scores − price · seconds)/temperature)."""
    scores = torch.where(batch["valid"], scores, torch.full_like(scores, IMPOSSIBLE))
    served = batch["valid"].any(dim=2)
    scores = torch.where(served[:, :, None], scores, torch.zeros_like(scores)) / temperature
    cost = (price / temperature)[:, None, None]

    def step(g: int) -> torch.Tensor:
        busy = batch["switch_s"] + batch["beam_on_s"][:, g, None, :]
        return -cost * torch.maximum(batch["gantry_s"][:, g, None, None], busy)

    n = scores.shape[1]
    steps = [None, *(step(g) for g in range(1, n))]
    forward, backward = [scores[:, 0]], [torch.zeros_like(scores[:, 0])]
    for g in range(1, n):
        forward.append(scores[:, g] + (forward[-1][:, :, None] + steps[g]).logsumexp(dim=1))
    for g in range(n - 1, 0, -1):
        after = backward[0] + scores[:, g]
        backward.insert(0, (steps[g] + after[:, None, :]).logsumexp(dim=2))
    both = torch.stack([f + b for f, b in zip(forward, backward)], dim=1)
    return torch.log_softmax(both, dim=2)


def lent_dose(p: torch.Tensor, batch: Batch, scale: float) -> torch.Tensor:
    """Depth dose that every angle lends each point, (batch, G, P), peaks 1; depths × ``scale``."""
    n_depths = batch["depth_dose"].shape[2]
    at = (batch["depth_mm"] * (scale / DEPTH_STEP_MM)).clamp(max=n_depths - 1.001)
    low = at.floor().long()
    share = (at - low)[..., None]
    table = batch["depth_dose"].transpose(1, 2)  # (batch, depth, E)
    lent = []
    for b in range(len(p)):
        curves = table[b][low[b]] * (1 - share[b]) + table[b][low[b] + 1] * share[b]  # (G, P, E)
        lent.append((curves @ p[b][:, :, None])[..., 0])
    return torch.stack(lent)


def expected_switching_s(log_p: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Σ over layers P(before) P(after) · seconds, per served angle, (batch,)."""
    p = log_p.exp()
    return torch.stack([
        _between(p[b], batch["valid"][b], batch["switch_s"][b]) for b in range(len(p))
    ])  # fmt: skip


def _between(p: torch.Tensor, valid: torch.Tensor, switch_s: torch.Tensor) -> torch.Tensor:
    p = p[valid.any(dim=1)]
    return torch.einsum("ge,ef,gf->", p[:-1], switch_s, p[1:]) / max(len(p), 1)


def _cross_entropy(log_p: torch.Tensor, counts: torch.Tensor, served: torch.Tensor):
    """−log P of the layer with the largest count, mean over served angles."""
    label = counts.argmax(dim=2, keepdim=True)
    return -log_p.gather(2, label)[..., 0].clamp(min=-30.0)[served].mean()
