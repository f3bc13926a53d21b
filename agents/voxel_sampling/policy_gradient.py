"""The network as a policy: REINFORCE with a credit of every voxel's own.

One reward over 10⁴ voxels and more does not learn; what a voxel answers for is the objective in
its neighborhood.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.losses import Terms, cross_entropies
from agents.voxel_sampling.visits import Visit

BASELINES = {"mean": None, "pair": "sample", "mode": "mode"}  # and the mask that each asks for


@dataclass
class LocalCredit:
    """Gradient of log F + ``price`` × share of selected voxels, F the objective on all voxels.

    Every voxel is drawn by itself with its chance p (``Turns.even`` draws otherwise, and biases the
    gradient). Its credit is the change of F against a baseline plan,
    weighted by a Gaussian of ``sigma_mm`` about the voxel (1 at its middle) and divided by the
    baseline's F; what selecting costs, price · p, needs no sampling. ``baseline``: "mean", the
    running mean of each patient's penalties (``memory`` is what a new plan counts); "pair", another
    sample, each the other's baseline; "mode", the plan of the likelier choices (self-critical).
    The last two take two plans a visit. ``entropy`` rewards p · log p; ``clip`` bounds how far
    chances that are a step old may be followed, as proximal policy optimization does.
    """

    price: float = 0.3
    sigma_mm: float = 4.0
    baseline: str = "mean"
    memory: float = 0.3
    entropy: float = 1e-3
    clip: float = 0.2
    means: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        if self.baseline not in BASELINES:
            raise ValueError(
                f"baseline={self.baseline!r} is unknown; choose from {list(BASELINES)}."
            )
        for name in ("price", "sigma_mm", "entropy"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more.")
        for name in ("memory", "clip"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie above 0 and up to 1.")

    @property
    def second(self) -> str | None:
        """The mask beside the drawn one."""
        return BASELINES[self.baseline]

    def __call__(self, log_p: torch.Tensor, visit: Visit) -> tuple[torch.Tensor, Terms]:
        """Loss and its terms from log-probabilities (2, z, y, x)."""
        log_not, log_yes = -cross_entropies(log_p, visit.volume)
        p = log_yes.exp()
        old = np.clip(visit.chances.astype(np.float64), 1e-7, 1.0 - 1e-7)
        policy = log_p.new_zeros(())
        credits = self.credits(visit)
        for selected, credit in credits:
            at = torch.from_numpy(selected)
            before = torch.from_numpy(np.log(np.where(selected, old, 1.0 - old)).astype(np.float32))
            ratio = (torch.where(at, log_yes, log_not) - before).exp()
            gain = torch.from_numpy(credit.astype(np.float32))
            bounded = ratio.clamp(1.0 - self.clip, 1.0 + self.clip)
            policy = policy - torch.minimum(ratio * gain, bounded * gain).sum() / len(credits)
        disorder = -(p * log_yes + (1.0 - p) * log_not).mean()
        terms = {"policy": policy, "price": self.price * p.mean(), "entropy": disorder}
        return policy + terms["price"] - self.entropy * disorder, terms

    def credits(self, visit: Visit) -> list[tuple[np.ndarray, np.ndarray]]:
        """What voxels were drawn and their credits, both (n,); the mode gets none."""
        penalties = [plan.row_penalty.astype(np.float64) for plan in visit.plans]
        if self.baseline == "pair":
            first, second = penalties
            return [
                (visit.selected[0], self._credit(visit.volume, first, second)),
                (visit.selected[1], self._credit(visit.volume, second, first)),
            ]
        drawn = penalties[0]
        base = penalties[1] if self.baseline == "mode" else self._mean(visit.volume.name, drawn)
        return [(visit.selected[0], self._credit(visit.volume, drawn, base))]

    def _credit(self, volume: CaseVolume, drawn: np.ndarray, base: np.ndarray) -> np.ndarray:
        change = smoothed(volume, drawn - base, self.sigma_mm)
        return -change / max(float(base.sum()), 1e-12)

    def _mean(self, name: str, penalty: np.ndarray) -> np.ndarray:
        """The mean before this plan, which is then taken in."""
        before = self.means.get(name, penalty.astype(np.float32)).astype(np.float64)
        mean = (1.0 - self.memory) * before + self.memory * penalty
        self.means[name] = mean.astype(np.float32)
        return before

    def state(self) -> dict:
        """The patients' mean penalties, for a checkpoint."""
        return dict(self.means)

    def remember(self, state: dict) -> None:
        self.means = dict(state)


def smoothed(volume: CaseVolume, by_row: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Sums (n,) of what rows of the case have, weighted by a Gaussian about each of the volume's
    rows that is 1 at its middle.
    """
    grid = np.zeros(volume.grid_shape)
    grid.ravel()[volume.voxels] = by_row
    sigma = [sigma_mm / s for s in reversed(volume.spacing_mm)]  # of z, y, x
    if sigma_mm == 0:
        return grid.ravel()[volume.voxels[volume.rows]]
    peak = np.prod([_peak(s) for s in sigma])
    around = gaussian_filter(grid, sigma, mode="constant", truncate=3.0)
    return around.ravel()[volume.voxels[volume.rows]] / peak


def _peak(sigma: float) -> float:
    """The middle weight of scipy's kernel."""
    n = int(3.0 * sigma + 0.5)
    return 1.0 / float(np.exp(-0.5 * (np.arange(-n, n + 1) / sigma) ** 2).sum())
