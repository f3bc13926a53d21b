"""Microdosimetric kinetic model, of domains in the tracks of Kiefer and Chatterjee.

α = α0 + β z*, with z* the dose-mean specific energy of a domain by one event, saturated where a
nucleus is hit beyond death; β is that of photons. Hawkins, Radiat. Res. 140 (1994) 366; Kase et
al., Phys. Med. Biol. 53 (2008) 37; Inaniwa et al., Phys. Med. Biol. 55 (2010) 6721.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from numbers import Real

import numpy as np
from scipy.interpolate import PchipInterpolator

from engine.physics.tracks import (
    Track,
    disc_average,
    impact_rings,
    kiefer_chatterjee,
    log_table_energy,
    table_energies,
)


@dataclass(frozen=True)
class Mkm:
    """MKM of one cell line for hydrogen to carbon, tabulated once per ion in a process.

    Defaults: human salivary gland cells, with 200 kV X-rays for photons (Inaniwa et al. 2010).
    Up to 500 MeV per nucleon; below 0.1 (the last µm) the values at 0.1 stand.
    """

    alpha_0_per_gy: float = 0.172  # slope at vanishing LET
    beta_0_per_gy2: float = 0.0615
    domain_radius_um: float = 0.32
    nucleus_radius_um: float = 3.9
    alpha_x_per_gy: float = 0.331
    beta_x_per_gy2: float = 0.0593
    threshold_gy: float = np.inf

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = np.inf if field.name == "threshold_gy" else np.finfo(float).max
            if not (isinstance(value, Real) and 0.0 < value <= most):
                raise ValueError(f"{field.name}={value} must be positive; see the defaults of Mkm.")

    def alpha_per_gy(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """Slope of −ln S at low dose; shape of the energy."""
        curve = _curve(self._saturation_gy, self.domain_radius_um, charge)
        specific = np.exp(curve(log_table_energy(charge, energy_mev)))
        return self.alpha_0_per_gy + self.beta_0_per_gy2 * specific

    def beta_per_gy2(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """Quadratic term, the same for all."""
        return np.full_like(log_table_energy(charge, energy_mev), self.beta_0_per_gy2)

    @property
    def _saturation_gy(self) -> float:
        """Specific energy of a domain beyond which more is wasted."""
        ratio2 = (self.nucleus_radius_um / self.domain_radius_um) ** 2
        return float(ratio2 / np.sqrt(self.beta_0_per_gy2 * (1.0 + ratio2)))


@lru_cache(maxsize=64)
def _curve(saturation_gy: float, domain_um: float, charge: int) -> PchipInterpolator:
    """Log of the saturated dose-mean specific energy against log energy."""
    energy = table_energies()
    tracks = [kiefer_chatterjee(charge, e) for e in energy]
    specific = [_specific_energy_gy(saturation_gy, domain_um, track) for track in tracks]
    return PchipInterpolator(np.log(energy), np.log(specific))


def _specific_energy_gy(saturation_gy: float, domain_um: float, track: Track) -> float:
    """Dose-mean specific energy of a domain by one event, saturated."""
    impact, area = impact_rings(domain_um, track.reach_um)
    specific = disc_average(track.within_gy_um2, domain_um, impact)
    squared = -(saturation_gy**2) * np.expm1(-((specific / saturation_gy) ** 2))
    return float(np.sum(squared * area) / track.within_gy_um2())
