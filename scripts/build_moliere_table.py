"""Build moliere_mixture.npz: `python -m scripts.build_moliere_table [PATH]`, two seconds.

Two and three Gaussians for the lateral density of Molière's theory, at every b of the table. The
fit is least squares over the density, relative to its maximum, and the share beyond a radius, each
for beams from nothing to twice the width of the core; so the axis and the tail both count.
"""

import sys

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, least_squares

from engine.physics._moliere_kernels import B_STEP, FIRST_B
from engine.physics.moliere import DATA, exact_density, exact_share_beyond

LAST_B = 20.0
START_B = 12.0
BEAMS = (0.0, 0.5, 1.0, 2.0)  # widths over the core's
DENSITY_AT = np.linspace(0.0, 6.0, 61)  # radii over the core's σ
SHARE_AT = np.linspace(1.5, 6.0, 19)
START = {2: [-2.0, 0.0, 1.1], 3: [-1.0, -3.4, -0.1, -0.1, 2.3]}


def core_variance(b: float) -> float:
    """Hanson's variance of the core per axis, over q; Phys. Rev. 84 (1951) 634."""
    large = brentq(lambda big: big - np.log(big) - (b - np.log(4.0)), 1.0, 60.0)
    return 0.5 * (large - 1.2)


def fitted(b: float, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, weights and variances over q of the mixture at one b."""
    core = core_variance(b)
    sigma = np.sqrt(core)
    beams = [core * width**2 for width in BEAMS]
    density = [exact_density(sigma * DENSITY_AT, b, beam) for beam in beams]
    share = [exact_share_beyond(sigma * SHARE_AT, b, beam) for beam in beams]

    def residual(x):
        weights, variances = unpacked(x, core)
        parts = []
        for i, beam in enumerate(beams):
            total = variances + beam
            near = np.exp(-0.5 * core * DENSITY_AT[:, None] ** 2 / total)
            far = np.exp(-0.5 * core * SHARE_AT[:, None] ** 2 / total)
            parts.append((near @ (weights / (2.0 * np.pi * total)) - density[i]) / density[i][0])
            parts.append(far @ weights - share[i])
        return np.concatenate(parts)

    x = least_squares(residual, start, xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    return x, *unpacked(x, core)


def unpacked(x: np.ndarray, core: float) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of weights over the first and of steps in variance over the core's, undone."""
    n = (x.size + 1) // 2
    weights = np.exp(np.concatenate([[0.0], x[: n - 1]]))
    steps = np.exp(x[n - 1 :])
    return weights / weights.sum(), core * np.cumsum(steps)


def table(n_gaussians: int) -> np.ndarray:
    """Outward from START_B, each fit starting at its neighbor's, so that branches hold."""
    nodes = np.arange(FIRST_B, LAST_B + 0.5 * B_STEP, B_STEP)
    values = np.zeros((nodes.size, 2 * n_gaussians))
    middle = int(np.searchsorted(nodes, START_B))
    for order in (range(middle, nodes.size), range(middle - 1, -1, -1)):
        x = np.array(START[n_gaussians])
        for i in order:
            x, weights, variances = fitted(nodes[i], x)
            values[i] = np.concatenate([weights, variances])
    return np.stack([values, CubicSpline(nodes, values)(nodes, 1)], axis=1)


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else DATA
    np.savez(path, **{f"gaussians_{n}": table(n) for n in (2, 3)})
