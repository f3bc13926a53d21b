"""Nuclear fragmentation of carbon ions in water, and the mixed field that it leaves along depth.

Reaction cross sections: Tripathi, Cucinotta and Wilson, Nucl. Instrum. Methods B 117 (1996) 347;
Shen et al., Nucl. Phys. A 491 (1989) 130; on hydrogen the protons' on carbon at the same velocity.
Multiplicities, energies, angles and the fragments' own attenuation are engineering values, good
to a quarter, with more helium and hydrogen at high energies, as far as the projectile's charge
allows; measured tails ask for it. Fragments fly on with nearly the projectile's velocity and
slow down continuously; where they react in turn, helium and hydrogen go on, once. Target fragments,
neutrons and γ are left out.
Water has 1 g/cm³, so MeV/cm is MeV cm²/g. Energies are per nucleon.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from engine.physics._fragment_kernels import deposit_rays
from engine.physics.constants import (
    ATOMIC_MASS_UNIT_MEV,
    AVOGADRO_PER_MOL,
    BARN_CM2,
    Numbers,
    momentum_mev,
)
from engine.physics.ions import (
    CARBON,
    OXYGEN,
    TABLE_MEV,
    Ion,
    energy_at_range_mm,
    range_mm,
    range_straggling_mm,
    stopping_power_mev_cm2_g,
)
from engine.physics.nuclear import non_elastic_mb

WATER_MOLECULES_PER_MM3 = AVOGADRO_PER_MOL / 18.015 * 1e-3
CHARGE_CHANGING_SHARE = 0.86  # of all reactions of carbon in water
LOWEST_REACTION_MEV = 3.0  # below, the Coulomb barrier; a range of 40 µm

CHARGES = np.arange(1, 7)  # of the species told apart
TABLE_STEPS = 20_000  # of a table over residual range
BEAM_CELLS = 320  # of production along the beam
RAYS_PER_BIRTH = 9
PRIMARY_RAYS = 601
REACTION_STEPS = 40  # along a fragment's path
GATHER_CELLS, GATHER_ENERGIES = 60, 24  # of the second generation's births
ANGLE_GROUPS = 8  # of energies of production that share one angle
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Fragment:
    """One isotope among the products of a charge-changing reaction.

    ``multiplicity`` per reaction; energies per nucleon are normal about ``energy_share`` of the
    projectile's with the relative width ``energy_width``; ``angle_rad`` is the projected angle's
    standard deviation at 300 MeV and goes with one over momentum; ``length_mm`` attenuates.
    """

    ion: Ion
    multiplicity: float
    energy_share: float
    energy_width: float
    angle_rad: float
    length_mm: float


def _fragments() -> tuple[Fragment, ...]:
    heavy, light = 400.0, 700.0
    degree = np.pi / 180.0
    rows = [
        ("carbon-11", 6, 11, 0.12, 1.0, 0.01, 0.2, 250.0),  # a neutron lost, the charge kept
        ("boron-11", 5, 11, 0.6 * 0.165, 0.99, 0.02, 0.3, heavy),
        ("boron-10", 5, 10, 0.4 * 0.165, 0.99, 0.02, 0.3, heavy),
        ("beryllium-9", 4, 9, 0.5 * 0.075, 0.99, 0.03, 0.5, heavy),
        ("beryllium-7", 4, 7, 0.5 * 0.075, 0.99, 0.03, 0.5, heavy),
        ("lithium-7", 3, 7, 0.5 * 0.10, 0.99, 0.03, 0.5, heavy),
        ("lithium-6", 3, 6, 0.5 * 0.10, 0.99, 0.03, 0.5, heavy),
        ("helium-4", 2, 4, 0.8 * 0.95, 0.98, 0.05, 1.2, heavy),
        ("helium-3", 2, 3, 0.2 * 0.95, 0.98, 0.05, 1.4, heavy),
        ("proton", 1, 1, 1.0, 0.97, 0.10, 4.0, light),
        ("deuteron", 1, 2, 0.55, 0.97, 0.10, 3.5, light),
        ("triton", 1, 3, 0.25, 0.97, 0.10, 3.0, light),
    ]
    return tuple(
        Fragment(Ion(name, z, a), number, share, width, angle * degree, length)
        for name, z, a, number, share, width, angle, length in rows
    )


FRAGMENTS = _fragments()
# More helium and hydrogen at high energies: factor on both, linear between. A tunable default.
LIGHT_GAIN_MEV = (180.0, 300.0)
LIGHT_GAIN = (1.0, 1.25)
# Hydrogen of a fragment of helium that reacts, per that of carbon; from heavier ones there come
# helium and hydrogen by their charge over carbon's.
HELIUM_BREAKS = 0.8
ANGLE_MEV = 300.0  # where the fragments' angles hold


def _center_of_mass_mev(energy_mev: Numbers, projectile_a: int, target_a: int) -> Numbers:
    """Kinetic energy of both nuclei in their center of mass."""
    p, t = projectile_a * ATOMIC_MASS_UNIT_MEV, target_a * ATOMIC_MASS_UNIT_MEV
    total = projectile_a * energy_mev + p
    return np.sqrt(p * p + t * t + 2.0 * total * t) - p - t


def tripathi_mb(energy_mev: Numbers, projectile: Ion, target: Ion) -> np.ndarray:
    """Total reaction cross section of two nuclei, mb; 20–35 % low on hydrogen."""
    energy = np.asarray(energy_mev, dtype=np.float64)
    (zp, ap), (zt, at) = ((i.charge, i.mass_number) for i in (projectile, target))
    p, t = ap ** (1.0 / 3.0), at ** (1.0 / 3.0)
    cm = _center_of_mass_mev(energy, ap, at)
    overlap = p * t / (p + t)
    density = 2.05 if 1 in (ap, at) else 1.75
    transparency = density * (1.0 - np.exp(-energy / 40.0))
    transparency -= 0.292 * np.exp(-energy / 792.0) * np.cos(0.229 * energy**0.453)
    excess = 0.91 * (at - 2 * zt) * zp / (at * ap)
    delta = 1.85 * overlap + 0.16 * overlap / np.cbrt(cm) - transparency + excess
    radii = 1.29 * 0.6 * 1.36 / 1.1 * (p + t)
    barrier = 1.44 * zp * zt / (radii + 1.2 * (p + t) / np.cbrt(cm))
    area = 10.0 * np.pi * 1.1**2 * (p + t + delta) ** 2
    return area * np.maximum(1.0 - barrier / cm, 0.0)


def shen_mb(energy_mev: Numbers, projectile: Ion, target: Ion) -> np.ndarray:
    """Total reaction cross section of two nuclei, mb, after Shen."""
    energy = np.asarray(energy_mev, dtype=np.float64)
    (zp, ap), (zt, at) = ((i.charge, i.mass_number) for i in (projectile, target))
    p, t = ap ** (1.0 / 3.0), at ** (1.0 / 3.0)
    cm = _center_of_mass_mev(energy, ap, at)
    overlap = p * t / (p + t)
    log_energy = np.log10(energy)
    high = 2.0 - 10.0 / np.maximum(log_energy, 1.5) ** 5
    transparency = np.where(log_energy > 1.5, high, (2.0 - 10.0 / 1.5**5) * (log_energy / 1.5) ** 3)
    radius = 1.1 * (p + t + 1.85 * overlap - transparency)
    radius = radius + (at - 2 * zt) * zp / (ap * at) + 0.176 * overlap / np.cbrt(cm)
    rp, rt = 1.12 * p - 0.94 / p, 1.12 * t - 0.94 / t
    barrier = 1.44 * zp * zt / (rp + rt + 3.2) - rp * rt / (rp + rt)
    return 10.0 * np.pi * radius**2 * np.maximum(1.0 - barrier / cm, 0.0)


def carbon_water_mb(energy_mev: Numbers) -> np.ndarray:
    """Reaction cross section of carbon with a water molecule, mb."""
    oxygen = tripathi_mb(energy_mev, CARBON, OXYGEN)
    return oxygen + 2.0 * non_elastic_mb(energy_mev, "C")


def charge_changing_per_mm(energy_mev: Numbers) -> np.ndarray:
    """Reactions of carbon in water after which it is carbon no more, per mm of path."""
    energy = np.maximum(energy_mev, LOWEST_REACTION_MEV)
    section = CHARGE_CHANGING_SHARE * carbon_water_mb(energy)
    there = np.asarray(energy_mev) >= LOWEST_REACTION_MEV
    return np.where(there, section * 1e-3 * BARN_CM2 * 1e2 * WATER_MOLECULES_PER_MM3, 0.0)


@dataclass(frozen=True, eq=False)
class _Slowing:
    """One isotope over residual range in water, at squares of even steps: dense near rest."""

    range_mm: np.ndarray  # (n,)
    tables: np.ndarray  # (3, n): energy per nucleon, ∫ absorption, stopping power in keV/µm

    def range_of(self, energy_mev: np.ndarray) -> np.ndarray:
        return np.interp(energy_mev, self.tables[0], self.range_mm)


@lru_cache(maxsize=32)
def _slowing(ion: Ion, length_mm: float) -> _Slowing:
    """``length_mm`` attenuates; 0 stands for carbon's own reactions."""
    longest = float(range_mm(ion.charge, ion.mass_number, TABLE_MEV[1]))
    residual = longest * np.linspace(0.0, 1.0, TABLE_STEPS) ** 2
    energy = energy_at_range_mm(ion.charge, ion.mass_number, residual)
    if length_mm > 0.0:
        absorbed = residual / length_mm
    else:
        lost = (1.0 + FRAGMENTS[0].multiplicity) * charge_changing_per_mm(energy)
        steps = 0.5 * np.diff(residual) * (lost[1:] + lost[:-1])
        absorbed = np.concatenate([[0.0], np.cumsum(steps)])
    stopping = stopping_power_mev_cm2_g(ion.charge, np.maximum(energy, 1e-3)) / 10.0
    return _Slowing(residual, np.array([energy, absorbed, stopping]))


def survival(energy_mev: float, depth_mm: Numbers) -> np.ndarray:
    """Share of a carbon beam that has all its charge at a depth in water (within the range)."""
    end = float(range_mm(CARBON.charge, CARBON.mass_number, energy_mev))
    left = np.maximum(end - np.asarray(depth_mm, dtype=np.float64), 0.0)
    return np.exp(-_lost(end, left) / (1.0 + FRAGMENTS[0].multiplicity))


def _lost(range_mm: float, left_mm: np.ndarray) -> np.ndarray:
    """Interactions that carbon-12 has had on the way, neutron removal among them."""
    beam = _slowing(CARBON, 0.0)
    behind = np.interp(left_mm, beam.range_mm, beam.tables[1])
    return np.interp(range_mm, beam.range_mm, beam.tables[1]) - behind


def energy_bins(low_mev: float = 0.3, high_mev: float = 500.0, n: int = 32) -> np.ndarray:
    """Energies (n,) evenly spaced in the logarithm."""
    return np.exp(np.linspace(np.log(low_mev), np.log(high_mev), n))


@dataclass(frozen=True, eq=False)
class MixedField:
    """What one ion of a beam leaves in water, over cells of depth.

    ``dose_mev_cm2_g`` (n_cells, 6, n_bins) of the species of charge 1 … 6 at the bins' energies
    (a value between two is shared linearly in log energy), planar-integrated; ``let_kev_um``
    (n_cells,) is its dose average; ``angle_variance_mm2`` (n_cells, 6) the lateral variance of a
    species by the angles at which its ions set out.
    """

    edges_mm: np.ndarray
    energy_mev: np.ndarray
    dose_mev_cm2_g: np.ndarray
    let_kev_um: np.ndarray
    angle_variance_mm2: np.ndarray

    @property
    def species_mev_cm2_g(self) -> np.ndarray:
        """Dose (n_cells, 6) of each charge at all energies."""
        return self.dose_mev_cm2_g.sum(axis=2)

    @property
    def total_mev_cm2_g(self) -> np.ndarray:
        return self.dose_mev_cm2_g.sum(axis=(1, 2))


@dataclass(frozen=True, eq=False)
class _Births:
    """Reactions, each array (n,): where, at what energy of the projectile, how many."""

    depth_mm: np.ndarray
    energy_mev: np.ndarray
    number: np.ndarray


class _Score:
    """Sums over cells of depth while rays are laid."""

    def __init__(self, edges_mm: np.ndarray, bins_mev: np.ndarray):
        self.edges, self.bins = edges_mm, bins_mev
        n = edges_mm.size - 1
        self.energy_mev = np.zeros((CHARGES.size, n, bins_mev.size))
        self.let, self.variance = np.zeros(n), np.zeros((CHARGES.size, n))

    def lay(self, ion: Ion, slowing: _Slowing, rays, angle_rad2: float = 0.0) -> None:
        """``rays``: number, start and range, each (n_rays,)."""
        row, moments = ion.charge - 1, np.zeros((2, self.let.size))
        nodes, log_bins = slowing.range_of(self.bins), np.log(self.bins)
        tables = slowing.range_mm[-1], slowing.tables, nodes, log_bins, ion.mass_number
        deposit_rays(*rays, self.edges, *tables, self.energy_mev[row], moments)
        self.let += moments[0]
        self.variance[row] += angle_rad2 * moments[1]

    def result(self) -> MixedField:
        species = self.energy_mev.sum(axis=2)
        total, per_cm = species.sum(axis=0), 10.0 / np.diff(self.edges)
        dose = self.energy_mev.transpose(1, 0, 2) * per_cm[:, None, None]
        let = self.let / np.where(total > 0.0, total, 1.0)
        variance = self.variance / np.where(species > 0.0, species, 1.0)
        return MixedField(self.edges, self.bins, dose, let, np.ascontiguousarray(variance.T))


def mixed_field(
    energy_mev: float,
    edges_mm: np.ndarray,
    extra_spread_mm: float = 0.0,
    bins_mev: np.ndarray | None = None,
) -> MixedField:
    """Carry one carbon beam and two generations of fragments through water.

    Ranges of the beam are normal, by straggling and ``extra_spread_mm`` in squares; fragments are
    those of its mean range. Edges start at the surface.
    """
    edges = np.asarray(edges_mm, dtype=np.float64)
    if edges[0] != 0.0 or np.any(np.diff(edges) <= 0):
        raise ValueError("edges_mm must start at 0 and increase along depth.")
    score = _Score(edges, energy_bins() if bins_mev is None else np.asarray(bins_mev, np.float64))
    score.lay(CARBON, _slowing(CARBON, 0.0), _primaries(energy_mev, extra_spread_mm))
    first = _beam_reactions(energy_mev)
    helium, heavier = [], []
    for fragment in FRAGMENTS:
        number = fragment.multiplicity * _light_gain(fragment, first.energy_mev) * first.number
        born = _Births(first.depth_mm, first.energy_mev, number)
        _lay_fragments(score, fragment, born)
        if fragment.ion.charge > 1:
            again = _fragment_reactions(fragment, born)
            (helium if fragment.ion.charge == 2 else heavier).append(again)
    _lay_second_generation(score, _gathered(helium, edges[-1]), _gathered(heavier, edges[-1]))
    return score.result()


def _primaries(energy_mev: float, extra_spread_mm: float):
    mean = float(range_mm(CARBON.charge, CARBON.mass_number, energy_mev))
    straggling = range_straggling_mm(CARBON.charge, CARBON.mass_number, energy_mev)
    u = np.linspace(-5.0, 5.0, PRIMARY_RAYS)
    weight = np.exp(-0.5 * u * u)
    ranges = np.maximum(mean + u * np.hypot(straggling, extra_spread_mm), 1e-3)
    return weight / weight.sum(), np.zeros_like(u), ranges


def _beam_reactions(energy_mev: float) -> _Births:
    """Charge-changing reactions of the beam in even cells of its path."""
    mean = float(range_mm(CARBON.charge, CARBON.mass_number, energy_mev))
    depth = (np.arange(BEAM_CELLS) + 0.5) * mean / BEAM_CELLS
    energy = energy_at_range_mm(CARBON.charge, CARBON.mass_number, mean - depth)
    kept = np.exp(-_lost(mean, mean - depth))
    rate = charge_changing_per_mm(energy) * kept * mean / BEAM_CELLS
    return _Births(depth, energy, rate)


def _light_gain(fragment: Fragment, energy_mev: np.ndarray) -> np.ndarray:
    if fragment.ion.charge > 2:
        return np.ones_like(energy_mev)
    return np.interp(energy_mev, LIGHT_GAIN_MEV, LIGHT_GAIN)


def _lay_fragments(score: _Score, fragment: Fragment, born: _Births) -> None:
    """Rays of one isotope, in groups of energy whose angles are one.

    Energies are quantiles of the normal distribution, other ones at every birth, so that the ends
    of their ranges fill the depths evenly.
    """
    slowing = _slowing(fragment.ion, fragment.length_mm)
    shift = (np.arange(born.number.size) * GOLDEN) % 1.0
    quantile = (np.arange(RAYS_PER_BIRTH) + shift[:, None]) / RAYS_PER_BIRTH
    width = 1.0 + fragment.energy_width * ndtri(np.clip(quantile, 1e-4, 1.0 - 1e-4))
    energy = fragment.energy_share * born.energy_mev[:, None] * width
    ranges = slowing.range_of(np.clip(energy, 0.01, 0.999 * TABLE_MEV[1]))
    for group in np.array_split(np.argsort(born.energy_mev, kind="stable"), ANGLE_GROUPS):
        number = np.repeat(born.number[group] / RAYS_PER_BIRTH, RAYS_PER_BIRTH)
        rays = number, np.repeat(born.depth_mm[group], RAYS_PER_BIRTH), ranges[group].ravel()
        score.lay(fragment.ion, slowing, rays, _angle_rad2(fragment, born.energy_mev[group]))


def _angle_rad2(fragment: Fragment, energy_mev: np.ndarray) -> float:
    momenta = momentum_mev(np.array([ANGLE_MEV, energy_mev.mean()]), ATOMIC_MASS_UNIT_MEV)
    return float((fragment.angle_rad * momenta[0] / momenta[1]) ** 2)


def _fragment_reactions(fragment: Fragment, born: _Births) -> _Births:
    """Reactions of fragments of the mean energy along their paths, counted by charge over 6."""
    slowing = _slowing(fragment.ion, fragment.length_mm)
    whole = slowing.range_of(fragment.energy_share * born.energy_mev)[:, None]
    middle = whole * (np.arange(REACTION_STEPS) + 0.5) / REACTION_STEPS
    rate = np.exp(-middle / fragment.length_mm) * whole / REACTION_STEPS / fragment.length_mm
    number = born.number[:, None] * rate * fragment.ion.charge / CARBON.charge
    energy = np.interp(whole - middle, slowing.range_mm, slowing.tables[0])
    return _Births((born.depth_mm[:, None] + middle).ravel(), energy.ravel(), number.ravel())


def _gathered(parts: list[_Births], last_mm: float) -> _Births:
    """Births within reach, on a coarse grid of depth and energy, each at its cell's mean."""
    depth, energy, number = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("depth_mm", "energy_mev", "number")
    )
    cell = np.minimum(depth / last_mm * GATHER_CELLS, GATHER_CELLS).astype(np.int64)
    level = np.minimum(energy / TABLE_MEV[1] * GATHER_ENERGIES, GATHER_ENERGIES - 1)
    key = cell * GATHER_ENERGIES + level.astype(np.int64)
    n = GATHER_CELLS * GATHER_ENERGIES  # what lies beyond the last cell is left out
    total, d, e = (
        np.bincount(key, weights=w, minlength=n)[:n]
        for w in (number, number * depth, number * energy)
    )
    there = total > 0.0
    return _Births(d[there] / total[there], e[there] / total[there], total[there])


def _lay_second_generation(score: _Score, helium: _Births, heavier: _Births) -> None:
    for fragment in (f for f in FRAGMENTS if f.ion.charge <= 2):
        for born, share in ((heavier, 1.0), (helium, HELIUM_BREAKS * 3.0)):
            if born is helium and fragment.ion.charge == 2:
                continue
            number = share * fragment.multiplicity * _light_gain(fragment, born.energy_mev)
            _lay_fragments(score, fragment, replace(born, number=number * born.number))
