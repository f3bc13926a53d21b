"""Local effect model, first version (LEM I), as in GSI's carbon pilot project.

What photons of the local dose would do, averaged over the cell nucleus, a disc that the ion crosses
along its axis: Scholz et al., Radiat. Environ. Biophys. 36 (1997) 59; Krämer & Scholz, Phys. Med.
Biol. 45 (2000) 3319. The initial slope integrates over impact parameters, so that it tends to the
photons' α at high energy; β follows Krämer & Scholz, Phys. Med. Biol. 51 (2006) 1959.
"""

from dataclasses import dataclass
from functools import lru_cache
from numbers import Real

import numpy as np
from scipy.interpolate import PchipInterpolator

from engine.physics.rbe_dose import photon_effect
from engine.physics.tracks import (
    Track,
    disc_average,
    impact_rings,
    log_table_energy,
    scholz_kraft,
    table_energies,
)


@dataclass(frozen=True)
class Tissue:
    """Photon survival of a tissue, straight above a threshold dose, and its cell nuclei."""

    name: str
    alpha_x_per_gy: float
    beta_x_per_gy2: float
    threshold_gy: float
    nucleus_radius_um: float

    def __post_init__(self) -> None:
        for field in ("alpha_x_per_gy", "threshold_gy", "nucleus_radius_um"):
            value = getattr(self, field)
            if not (isinstance(value, Real) and 0.0 < value < np.inf):
                raise ValueError(
                    f"{field}={value} of tissue {self.name!r} must be finite; give more than 0."
                )
        beta = self.beta_x_per_gy2
        if not (isinstance(beta, Real) and 0.0 <= beta < np.inf):
            raise ValueError(
                f"beta_x_per_gy2={beta} of tissue {self.name!r} must be finite; "
                "give 0 or more."
            )

    @property
    def largest_slope_per_gy(self) -> float:
        """Slope of −ln S where it is straight."""
        return self.alpha_x_per_gy + 2.0 * self.beta_x_per_gy2 * self.threshold_gy


TISSUES = {
    # GSI pilot project, skull base: α/β = 2 Gy, as for late-responding normal brain.
    "chordoma": Tissue("chordoma", 0.1, 0.05, 30.0, 5.0),
}


def tissue(name: str) -> Tissue:
    """A tissue of the table by name."""
    if name not in TISSUES:
        known = ", ".join(TISSUES)
        raise ValueError(f"tissue name={name!r} is unknown; use {known}, or build a Tissue.")
    return TISSUES[name]


class OfTissue:
    """What a model knows of photons where it knows a tissue."""

    tissue: Tissue

    @property
    def alpha_x_per_gy(self) -> float:
        return self.tissue.alpha_x_per_gy

    @property
    def beta_x_per_gy2(self) -> float:
        return self.tissue.beta_x_per_gy2

    @property
    def threshold_gy(self) -> float:
        return self.tissue.threshold_gy


@dataclass(frozen=True)
class Lem1(OfTissue):
    """LEM I of one tissue for hydrogen to carbon, tabulated once per ion in a process.

    Up to 500 MeV per nucleon; below 0.1 (the last µm) the values at 0.1 stand.
    """

    tissue: Tissue

    def __post_init__(self) -> None:
        if not isinstance(self.tissue, Tissue):
            raise ValueError(
                f"tissue={self.tissue!r} tells no parameters; build a Tissue of α, β, threshold "
                "dose and radius of the nucleus."
            )

    def alpha_per_gy(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """Slope of −ln S at low dose, overkill included; shape of the energy."""
        return np.exp(_curves(self.tissue, charge)[0](log_table_energy(charge, energy_mev)))

    def beta_per_gy2(self, charge: int, energy_mev: np.ndarray) -> np.ndarray:
        """Quadratic term: the photons' at high energy, 0 where single ions kill."""
        curve = _curves(self.tissue, charge)[1]
        return np.maximum(curve(log_table_energy(charge, energy_mev)), 0.0)  # but for rounding


@lru_cache(maxsize=64)
def _curves(tissue: Tissue, charge: int) -> tuple[PchipInterpolator, PchipInterpolator]:
    """log α and β against log energy."""
    energy = table_energies()
    alpha, beta = np.array([_coefficients(tissue, scholz_kraft(charge, e)) for e in energy]).T
    return PchipInterpolator(np.log(energy), np.log(alpha)), PchipInterpolator(np.log(energy), beta)


def _coefficients(tissue: Tissue, track: Track) -> tuple[float, float]:
    """α and β of one track: what all its hits would do, less what falls on the already dead.

    The hits' effect needs no impact parameter: averaging over nuclei keeps an integral.
    """

    def within(radius_um):
        return _effect_within(radius_um, track, tissue)

    impact, area = impact_rings(tissue.nucleus_radius_um, track.reach_um)
    lethal = disc_average(within, tissue.nucleus_radius_um, impact)
    wasted = np.where(lethal < 1e-4, 0.5 * lethal**2, lethal + np.expm1(-lethal))
    linear = float(within(np.inf) / track.within_gy_um2())
    alpha = linear - float(np.sum(wasted * area) / track.within_gy_um2())
    beta = max(tissue.largest_slope_per_gy - linear, 0.0) / (2.0 * tissue.threshold_gy)
    return alpha, (alpha / linear) ** 2 * beta


def _effect_within(radius_um: np.ndarray, track: Track, tissue: Tissue) -> np.ndarray:
    """Photons' −ln S at the local dose, integrated over a disc around the path; exact, in µm²."""
    alpha, beta, halo = tissue.alpha_x_per_gy, tissue.beta_x_per_gy2, track.halo_gy_um2
    crossing = np.sqrt(halo / tissue.threshold_gy)  # where the halo's dose is the threshold
    straight_to = np.clip(crossing, track.core_um, track.reach_um)
    outer = np.clip(radius_um, straight_to, track.reach_um)
    inner = np.clip(radius_um, track.core_um, straight_to)
    curved = 2.0 * alpha * halo * np.log(outer / straight_to) + beta * halo**2 * (
        straight_to**-2.0 - outer**-2.0
    )
    straight = 2.0 * tissue.largest_slope_per_gy * halo * np.log(inner / track.core_um)
    offset = beta * tissue.threshold_gy**2 * (inner**2 - track.core_um**2)
    core = np.minimum(radius_um, track.core_um) ** 2 * photon_effect(track.core_gy, tissue)
    return np.pi * (core + straight - offset + curved)
