"""Fields made from linear products of the influence matrix, each with its pullback.

The influence matrix answers in physical Gy per particle; what is prescribed is Gy (RBE) over the
whole course. A ``Quantity`` is that step, in two halves: what one fraction counts for (physical
dose, or the photon dose of equal effect), and a ``scale`` from there to the course. Penalties are
worked out on the first half, so that one pass over the matrix answers value and gradient.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.physics.biology import BiologicalModel
from engine.physics.rbe_dose import photon_effect, rbe_weighted_dose


class Quantity(Protocol):
    """A field (n_rows,) computed from linear products of the weights."""

    name: str
    rbe: float | None  # None: it varies
    scale: float  # of the course per Gy of one fraction
    photons: np.ndarray | None  # (5,) of a photon dose of equal effect; None: physical dose

    def of_fraction(
        self, influence: InfluenceMatrix, weights: np.ndarray, beam: int | None = None
    ) -> np.ndarray:
        """What one fraction counts for, (n_rows,) float32 in Gy, of all beams or of one alone."""

    def value(self, fraction_gy: np.ndarray) -> np.ndarray:
        """The field of the course from what ``of_fraction`` gives, same shape."""

    def pulled_back(
        self, influence: InfluenceMatrix, weights: np.ndarray, gradient: np.ndarray,
        beam: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """df/d(weights) (n_spots,) from df/d(field) (n_rows,)."""


@dataclass(frozen=True)
class RbeDose:
    """Course dose in Gy (RBE) with a constant RBE: n_fractions × rbe × physical dose.

    1.1 is the clinical convention for protons (ICRU Report 78).
    """

    n_fractions: int
    rbe: float = 1.1
    name: str = "rbe_dose"
    photons = None

    def __post_init__(self):
        if self.n_fractions < 1 or not self.rbe > 0:
            raise ValueError(f"n_fractions={self.n_fractions}, rbe={self.rbe} must be positive.")

    @property
    def scale(self) -> float:
        """Gy (RBE) of the course per physical Gy of one fraction."""
        return self.rbe * self.n_fractions

    def of_fraction(self, influence, weights, beam=None) -> np.ndarray:
        return influence.dose(weights, beam=beam)

    def value(self, fraction_gy: np.ndarray) -> np.ndarray:
        return fraction_gy * np.float32(self.scale)

    def pulled_back(self, influence, weights, gradient, beam=None) -> np.ndarray:
        pulled = (gradient * np.float32(self.scale)).astype(np.float32)
        return influence.adjoint(pulled, beam=beam)


@dataclass(frozen=True)
class BiologicalDose:
    """Course dose in Gy (RBE): n_fractions × the photon dose of equal effect of one fraction.

    Photons follow a linear-quadratic curve, from ``threshold_gy`` on its tangent; ions the α and
    √β that the matrix carries, averaged over all that arrives with the dose as weight (Zaider and
    Rossi, Radiat. Res. 83 (1980) 732; the low-dose approximation of Krämer and Scholz, Phys. Med.
    Biol. 51 (2006) 1959), which holds while a fraction stays below the threshold. Doses of single
    beams do not add up to the dose of all.
    """

    n_fractions: int
    alpha_x_per_gy: float
    beta_x_per_gy2: float
    threshold_gy: float = np.inf
    name: str = "rbe_dose"
    rbe = None  # it varies

    def __post_init__(self):
        if self.n_fractions < 1:
            raise ValueError(f"n_fractions={self.n_fractions} must be 1 or more.")
        if not (np.isfinite(self.alpha_x_per_gy) and self.alpha_x_per_gy > 0.0):
            raise ValueError(f"alpha_x_per_gy={self.alpha_x_per_gy} must be positive and finite.")
        if not self.threshold_gy > 0.0:
            raise ValueError(f"threshold_gy={self.threshold_gy} must be positive, or infinite.")
        if not (np.isfinite(self.beta_x_per_gy2) and self.beta_x_per_gy2 >= 0.0):
            raise ValueError(f"beta_x_per_gy2={self.beta_x_per_gy2} must be 0 or more.")

    @property
    def scale(self) -> float:
        return float(self.n_fractions)

    @cached_property
    def photons(self) -> np.ndarray:
        """α, β, threshold dose, effect at it, slope beyond it: (5,) float32."""
        alpha, beta, top = self.alpha_x_per_gy, self.beta_x_per_gy2, self.threshold_gy
        if not np.isfinite(top):
            return np.array([alpha, beta, np.inf, np.inf, np.inf], np.float32)
        slope = alpha + 2.0 * beta * top
        return np.array([alpha, beta, top, photon_effect(top, self), slope], np.float32)

    def of_fraction(self, influence, weights, beam=None) -> np.ndarray:
        return self.of_products(influence.products(weights, beam=beam))

    def of_products(self, products: np.ndarray) -> np.ndarray:
        """Photon dose of equal effect (n_rows,) float32 of the products (3, n_rows)."""
        return self._photon_dose(products)[0]

    def value(self, fraction_gy: np.ndarray) -> np.ndarray:
        return fraction_gy * np.float32(self.scale)

    def pulled_back(self, influence, weights, gradient, beam=None) -> np.ndarray:
        products = influence.products(weights, beam=beam)
        return influence.products_adjoint(self.slopes(products, gradient), beam=beam)

    def slopes(self, products: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """df/d(products) (3, n_rows) from df/d(field) (n_rows,); by the dose itself it is 0."""
        by_effect = self._photon_dose(products)[1] * (gradient * np.float32(self.scale))
        by_b = np.float32(2.0) * products[2] * by_effect
        return np.stack([np.zeros_like(by_effect), by_effect, by_b]).astype(np.float32)

    def _photon_dose(self, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Dose of equal effect and its derivative by the effect, float32 as in the kernels."""
        effect = products[1] + products[2] * products[2]
        return rbe_weighted_dose(np.maximum(effect, np.float32(0.0)), self)


def biological_dose(model: BiologicalModel, n_fractions: int) -> BiologicalDose:
    """The dose that photons would have to give for what ``model`` says that ions do."""
    return BiologicalDose(
        n_fractions, model.alpha_x_per_gy, model.beta_x_per_gy2, model.threshold_gy
    )
