"""RBE-weighted dose: the photon dose with the effect of a mixed field, and its derivative.

Doses and effects are per fraction. Of a field, effect = A + B², with A = Σ α d and B = Σ √β d over
all that contributes (Zaider & Rossi, Radiat. Res. 83 (1980) 732).
"""

from typing import Protocol

import numpy as np

from engine.physics.constants import Numbers


class PhotonResponse(Protocol):
    """What any biological model, and any tissue, knows of photons."""

    alpha_x_per_gy: float  # above 0
    beta_x_per_gy2: float  # 0 or more
    threshold_gy: float  # may be infinite


def photon_effect(dose_gy: Numbers, photons: PhotonResponse) -> Numbers:
    """−ln S of photons: a parabola to the threshold dose, its tangent beyond; any shape."""
    alpha, beta = float(photons.alpha_x_per_gy), float(photons.beta_x_per_gy2)
    curved = np.minimum(dose_gy, float(photons.threshold_gy))
    return (alpha + beta * curved) * curved + (alpha + 2.0 * beta * curved) * (dose_gy - curved)


def rbe_weighted_dose(effect: np.ndarray, model: PhotonResponse) -> tuple[np.ndarray, np.ndarray]:
    """Photon dose in Gy of the same effect (0 or more), and its derivative to the effect.

    With A and B of a field, ∂dose/∂w = derivative · (∂A/∂w + 2 B ∂B/∂w). Keeps shape and precision.
    """
    alpha, beta = float(model.alpha_x_per_gy), float(model.beta_x_per_gy2)
    threshold = float(model.threshold_gy)
    largest = np.inf if np.isinf(threshold) else float(photon_effect(threshold, model))
    curved = np.minimum(effect, largest)
    slope = np.sqrt(alpha * alpha + 4.0 * beta * curved)  # of the effect, at the dose found
    dose = 2.0 * curved / (alpha + slope) + (effect - curved) / slope
    return dose, 1.0 / slope
