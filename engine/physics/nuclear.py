"""Nuclear interactions of protons: how many are lost, and where their energy goes.

Cross sections and secondaries are ICRU Report 63's, from ``engine.physics.nuclear_tables``; for
hydrogen, which it leaves out, proton–proton scattering. Neutrons and γ carry their share away.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from engine.physics.constants import (
    ATOMIC_MASS_UNIT_MEV,
    AVOGADRO_PER_MOL,
    BARN_CM2,
    PROTON_MASS_MEV,
    Numbers,
    momentum_mev,
)
from engine.physics.materials import ELEMENTS, WATER, Material
from engine.physics.nuclear_tables import PARTICLES, load_nuclear_tables

# p–p elastic per hydrogen atom, mb; isotropic in the center of mass.
PP_ENERGY_MEV = np.array([20.0, 40.0, 70.0, 100.0, 130.0, 150.0, 200.0, 250.0])
PP_ELASTIC_MB = np.array([160.0, 79.0, 46.0, 33.0, 28.0, 25.0, 23.5, 22.0])

Process = Literal["non-elastic", "proton-proton", "nuclear-elastic"]


def non_elastic_mb(energy_mev: Numbers, symbol: str) -> np.ndarray:
    """Non-elastic cross section per atom, mb; none for hydrogen.

    Below the first energy of an element's table it falls to zero within the grid's step of 1 MeV.
    """
    return _tabulated_mb(energy_mev, symbol, load_nuclear_tables().non_elastic_mb)


def elastic_mb(energy_mev: Numbers, symbol: str) -> np.ndarray:
    """Elastic scattering off nuclei beyond 5° per atom, mb; none for hydrogen.

    Coulomb scattering is in it: the core of a beam, which is Gaussian, holds no angles so large.
    """
    return _tabulated_mb(energy_mev, symbol, load_nuclear_tables().elastic_mb)


def _tabulated_mb(energy_mev: Numbers, symbol: str, cross_sections: np.ndarray) -> np.ndarray:
    energy = np.asarray(energy_mev, dtype=np.float64)
    if symbol == "H":
        return np.zeros_like(energy)
    tables = load_nuclear_tables()
    row, scale = tables.index_of(symbol)
    return np.interp(energy, tables.energy_mev, cross_sections[row]) * scale


def proton_proton_mb(energy_mev: Numbers) -> np.ndarray:
    """p–p elastic cross section per hydrogen atom, mb; log-log between and below the nodes."""
    log_energy = np.log(np.maximum(energy_mev, 1.0))
    log_nodes, log_values = np.log(PP_ENERGY_MEV), np.log(PP_ELASTIC_MB)
    slope = (log_values[1] - log_values[0]) / (log_nodes[1] - log_nodes[0])
    below = slope * np.minimum(log_energy - log_nodes[0], 0.0)
    return np.exp(np.interp(log_energy, log_nodes, log_values) + below)


def interactions_per_mm(
    energy_mev: Numbers, process: Process = "non-elastic", material: Material = WATER
) -> np.ndarray:
    """Interactions per mm of path, shape of ``energy_mev``. Water at 150 MeV: 1 % per cm."""
    total = np.zeros(np.shape(energy_mev))
    for symbol, fraction in material.mass_fractions.items():
        atoms_per_cm3 = (
            material.density_g_cm3 * fraction / ELEMENTS[symbol].a_g_mol * AVOGADRO_PER_MOL
        )
        total = total + atoms_per_cm3 * 1e-3 * BARN_CM2 / 10.0 * _mb(process, energy_mev, symbol)
    return total


def _mb(process: Process, energy_mev: Numbers, symbol: str) -> np.ndarray:
    if process == "non-elastic":
        return non_elastic_mb(energy_mev, symbol)
    if process == "nuclear-elastic":
        return elastic_mb(energy_mev, symbol)
    if process == "proton-proton":
        return proton_proton_mb(energy_mev) if symbol == "H" else np.zeros(np.shape(energy_mev))
    raise ValueError(
        f'process={process!r} is unknown; choose "non-elastic", "proton-proton" or '
        '"nuclear-elastic".'
    )


def charged_share(energy_mev: Numbers) -> np.ndarray:
    """Share of the incident energy that a non-elastic event on oxygen hands to charged ones."""
    energies, per_particle, recoil = _oxygen_shares()
    return np.interp(energy_mev, energies, per_particle.sum(axis=1) + recoil)


@lru_cache(maxsize=1)
def _oxygen_shares() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies (n_blocks,), shares of the incident energy per particle (n_blocks, 3), recoils'."""
    tables, row, n = _oxygen()
    edges = tables.energy_share[row, :n].astype(np.float64)
    mean = 0.5 * (edges[..., 1:] + edges[..., :-1]).mean(axis=-1)
    energies = tables.block_energy_mev[row, :n].astype(np.float64)
    return energies, tables.multiplicity[row, :n] * mean, tables.recoil_share[row, :n]


def _oxygen():
    """The tables, oxygen's row in them and the number of its blocks."""
    tables = load_nuclear_tables()
    row = tables.symbols.index("O")
    return tables, row, int(tables.n_blocks[row])


@dataclass(frozen=True, eq=False)
class Secondaries:
    """Charged particles from one event, as (n,) rays: number, energy, direction along the beam.

    ``local_mev`` is deposited on the spot (alphas, recoils, and what does not travel).
    """

    number: np.ndarray
    energy_mev: np.ndarray
    cosine: np.ndarray
    local_mev: float


def proton_proton_secondaries(energy_mev: float, n: int = 32) -> Secondaries:
    """Both protons of an elastic p–p collision: each one's energy is uniform from 0 to E."""
    share = (np.arange(n) + 0.5) / n
    each = share * energy_mev
    cosine = np.sqrt(
        share * (energy_mev + 2.0 * PROTON_MASS_MEV) / (each + 2.0 * PROTON_MASS_MEV)
    )  # two-body kinematics
    return Secondaries(np.full(n, 2.0 / n), each, cosine, 0.0)


def elastic_secondaries(energy_mev: float, symbol: str = "O", n: int = 32) -> Secondaries:
    """The proton after elastic scattering off a nucleus beyond 5°; the recoil stays on the spot.

    ``n`` angles from each of the two tables next in energy.
    """
    tables = load_nuclear_tables()
    row, _ = tables.index_of(symbol)
    energies = tables.elastic_block_energy_mev[row, : tables.n_elastic_blocks[row]]
    quantiles = tables.elastic_inverse_versine[row]  # at (k/128)² of probability
    at = np.sqrt((np.arange(n) + 0.5) / n)
    probability = np.linspace(0.0, 1.0, quantiles.shape[1])
    number, versine = [], []
    for block, weight in _blocks(energy_mev, energies):
        number.append(np.full(n, weight / n))
        versine.append(1.0 / np.interp(at, probability, quantiles[block]))
    number, versine = np.concatenate(number), np.concatenate(versine)
    left, cosine = _off_nucleus(energy_mev, versine, ELEMENTS[symbol].a_g_mol)
    return Secondaries(number, left, cosine, float(number @ (energy_mev - left)))


def _off_nucleus(energy_mev: float, versine: np.ndarray, a_g_mol: float):
    """Energy and direction in the laboratory after scattering by 1 − cos θ = ``versine`` in the
    center of mass of a proton and a nucleus at rest."""
    target = a_g_mol * ATOMIC_MASS_UNIT_MEV
    momentum, total = momentum_mev(energy_mev), energy_mev + PROTON_MASS_MEV + target
    invariant2 = total**2 - momentum**2
    in_center2 = (momentum * target) ** 2 / invariant2
    left = energy_mev - in_center2 * versine / target
    # −t = 2 p² (1 − cos θ) in the center of mass; and of the two four-momenta in the laboratory
    before, after = energy_mev + PROTON_MASS_MEV, left + PROTON_MASS_MEV
    scattered = momentum_mev(left)
    product = before * after - PROTON_MASS_MEV**2 - in_center2 * versine
    return left, np.clip(product / (momentum * scattered), -1.0, 1.0)


def non_elastic_secondaries(
    energy_mev: float, particle: Literal["proton", "deuteron"] = "proton"
) -> Secondaries:
    """Protons or deuterons of a non-elastic event on oxygen, from ICRU 63's spectra.

    Every quantile of energy with every quantile of its angle, from the two tables next in energy.
    Alphas' and recoils' energy counts as the protons' ``local_mev``.
    """
    tables, row, n = _oxygen()
    kind = PARTICLES.index(particle)
    number, share, cosine = [], [], []
    for block, weight in _blocks(energy_mev, tables.block_energy_mev[row, :n]):
        energies = _between(tables.energy_share[row, block, kind])
        angles = _between(tables.cosine[row, block, kind])  # a row for each of 16 groups
        group = np.arange(energies.size) * len(angles) // energies.size
        rays = energies.size * angles.shape[1]
        number.append(np.full(rays, weight * tables.multiplicity[row, block, kind] / rays))
        share.append(np.repeat(energies, angles.shape[1]))
        cosine.append(angles[group].ravel())
    energy = np.concatenate(share) * energy_mev
    local = _local_share(energy_mev) * energy_mev if particle == "proton" else 0.0
    return Secondaries(np.concatenate(number), energy, np.concatenate(cosine), local)


def _local_share(energy_mev: float) -> float:
    energies, per_particle, recoil = _oxygen_shares()
    alphas = per_particle[:, PARTICLES.index("alpha")]
    return float(np.interp(energy_mev, energies, alphas + recoil))


def _blocks(energy_mev: float, energies: np.ndarray) -> list[tuple[int, float]]:
    """The two rows of a table next to an energy and their weights; one beyond its ends."""
    position = float(np.interp(energy_mev, energies, np.arange(len(energies))))
    lower = int(position)
    pair = [(lower, 1.0 - (position - lower)), (lower + 1, position - lower)]
    return [(block, weight) for block, weight in pair if weight > 0.0]


def _between(quantiles: np.ndarray) -> np.ndarray:
    """Means between neighboring quantiles along the last axis."""
    return 0.5 * (quantiles[..., 1:] + quantiles[..., :-1]).astype(np.float64)
