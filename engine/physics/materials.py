"""Elements and materials: what a beam meets, per gram, and how it stops there beside water.

Mean excitation energies follow Bragg additivity (ICRU 37/49): the elemental values are those for
condensed compounds (13 % above the pure element for all but some light ones), which give 75.3 eV
for water. A pure element, or a material with a measured value, states its own ``i_ev``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from engine.physics.constants import ELECTRON_MASS_MEV, beta2

I_WATER_EV = 75.0  # ICRU 49 and PSTAR; ICRU 90 recommends 78 eV, which lengthens ranges by 0.47 %
LIMITS_I_WATER_EV = (60.0, 90.0)  # published values lie within 67 … 82 eV
WATER_WITHIN = 0.002  # of the mass fraction of hydrogen: water with rounded fractions is water
LEAST_RATIO_MEV = 1.0  # below it the bare Bethe logarithm, of lead first, nears zero


@dataclass(frozen=True)
class Element:
    """Charge, molar mass, and mean excitation energy within a condensed compound."""

    symbol: str
    z: int
    a_g_mol: float
    i_ev: float


# Molar masses: IUPAC 2013 conventional values. Excitation energies: ICRU 37/49 (see above).
ELEMENTS: Mapping[str, Element] = MappingProxyType(
    {
        symbol: Element(symbol, z, a, i)
        for symbol, z, a, i in (
            ("H", 1, 1.008, 19.2),
            ("Be", 4, 9.0122, 72.0),
            ("C", 6, 12.011, 81.0),
            ("N", 7, 14.007, 82.0),
            ("O", 8, 15.999, 106.0),
            ("F", 9, 18.998, 112.0),
            ("Na", 11, 22.990, 168.4),
            ("Mg", 12, 24.305, 176.3),
            ("Al", 13, 26.982, 187.6),
            ("Si", 14, 28.085, 195.5),
            ("P", 15, 30.974, 195.5),
            ("S", 16, 32.06, 203.4),
            ("Cl", 17, 35.45, 180.0),
            ("Ar", 18, 39.948, 188.0),
            ("K", 19, 39.098, 214.7),
            ("Ca", 20, 40.078, 215.8),
            ("Ti", 22, 47.867, 263.3),
            ("Fe", 26, 55.845, 323.2),
            ("Cu", 29, 63.546, 363.9),
            ("Zn", 30, 65.38, 372.9),
            ("I", 53, 126.904, 554.8),
            ("Pb", 82, 207.2, 930.0),
        )
    }
)

# Of the pure elements, gases as gases (ICRU 37; Geant4's table): what Bragg additivity takes in
# Geant4 and the codes that use its tables, for compounds without a value of their own.
ELEMENTAL_I_EV: Mapping[str, float] = MappingProxyType(
    {
        "H": 19.2, "Be": 63.7, "C": 81.0, "N": 82.0, "O": 95.0, "F": 115.0, "Na": 149.0,
        "Mg": 156.0, "Al": 166.0, "Si": 173.0, "P": 173.0, "S": 180.0, "Cl": 174.0, "Ar": 188.0,
        "K": 190.0, "Ca": 191.0, "Ti": 233.0, "Fe": 286.0, "Cu": 322.0, "Zn": 330.0, "I": 491.0,
        "Pb": 823.0,
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Material:
    """A mixture of elements at a density.

    ``mass_fractions`` maps element symbols to fractions; they are normalized to sum to one when
    they miss it by rounding (up to 2 %). ``i_ev=None`` takes the mean excitation energy from
    Bragg additivity.
    """

    name: str
    density_g_cm3: float
    mass_fractions: Mapping[str, float]
    i_ev: float | None = None

    def __post_init__(self):
        _check(self)
        total = sum(self.mass_fractions.values())
        fractions = {s: float(w) / total for s, w in self.mass_fractions.items() if w > 0.0}
        object.__setattr__(self, "mass_fractions", fractions)

    def per_element(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mass fractions, charges and molar masses, each (n_elements,)."""
        elements = [ELEMENTS[s] for s in self.mass_fractions]
        fractions = np.array(list(self.mass_fractions.values()))
        return fractions, np.array([e.z for e in elements]), np.array([e.a_g_mol for e in elements])

    @cached_property
    def z_over_a(self) -> float:
        """Electrons per molar mass, mol/g."""
        fractions, z, a = self.per_element()
        return float(np.sum(fractions * z / a))

    @cached_property
    def additive_i_ev(self) -> float:
        """Mean excitation energy by Bragg additivity, whatever ``i_ev`` says."""
        return self._additive_ev({s: ELEMENTS[s].i_ev for s in self.mass_fractions})

    @property
    def mean_excitation_ev(self) -> float:
        """The stated mean excitation energy, or the additive one."""
        return self.additive_i_ev if self.i_ev is None else float(self.i_ev)

    @property
    def is_water(self) -> bool:
        """Whether the composition is that of water, be it rounded."""
        fractions = self.mass_fractions
        hydrogen = WATER.mass_fractions["H"]
        return set(fractions) == {"H", "O"} and abs(fractions["H"] - hydrogen) < WATER_WITHIN

    def elemental(self) -> "Material":
        """The same with the additive mean excitation energy of ``ELEMENTAL_I_EV`` stated."""
        return replace(self, i_ev=self._additive_ev(ELEMENTAL_I_EV))

    def _additive_ev(self, i_ev: Mapping[str, float]) -> float:
        fractions, z, a = self.per_element()
        logs = np.log([i_ev[s] for s in self.mass_fractions])
        return float(np.exp(np.sum(fractions * z / a * logs) / self.z_over_a))

    def stated(self) -> "Material":
        """The same with its mean excitation energy stated, so that it no longer counts as additive
        beside water (``stopping_ratio_table``)."""
        return replace(self, i_ev=self.mean_excitation_ev)


def stopping_ratio_table(
    materials: Sequence[Material], energy_mev: np.ndarray, i_water_ev: float = I_WATER_EV
) -> np.ndarray:
    """Mass stopping power over that of water with ``i_water_ev``, (n_materials, n) float64.

    ``energy_mev`` (n,) is a proton's; another ion has the ratio of the proton of its speed. The
    formula is Bethe's without corrections, whose logarithm makes no sense for slow protons: below
    1 MeV the ratio stays as it is there (a residual range of 25 µm in water). Which energies are
    compared:

    - water is exactly one, whatever it states;
    - a material that states its excitation energy is compared with ``i_water_ev``;
    - so is an additive one, unless water has the usual 75 eV: then both follow from the same
      additivity, water as 75.3 eV, for the errors of the elements' values are theirs in common.
      The step between the two is 0.05 %. ``Material.stated`` asks for the plain comparison.
    """
    energy = np.asarray(energy_mev, dtype=float)
    if energy.ndim != 1 or not np.all(np.isfinite(energy) & (energy > 0.0)):
        raise ValueError(f"energy_mev={energy_mev!r} must be positive numbers, shape (n,).")
    if not (np.isfinite(i_water_ev) and i_water_ev > 0.0):
        raise ValueError(f"i_water_ev={i_water_ev} must be positive; water has 75 to 78 eV.")
    energy = np.maximum(energy, LEAST_RATIO_MEV)
    ratios = [_mass_stopping_ratio(m, energy, i_water_ev) for m in materials]
    return np.array(ratios).reshape(len(ratios), len(energy))


def relative_stopping_power(
    material: Material, energy_mev: float = 100.0, i_water_ev: float = I_WATER_EV
) -> float:
    """Linear stopping power relative to water: density times ``stopping_ratio_table``.

    The energy matters little: 0.4 % for bone from 100 to 200 MeV.
    """
    ratio = stopping_ratio_table((material,), np.array([energy_mev]), i_water_ev)
    return material.density_g_cm3 * float(ratio[0, 0])


def _mass_stopping_ratio(
    material: Material, energy_mev: np.ndarray, i_water_ev: float
) -> np.ndarray:
    if material.is_water:
        return np.ones(energy_mev.shape)
    additive = material.i_ev is None and i_water_ev == I_WATER_EV
    i_water = WATER.additive_i_ev if additive else i_water_ev
    logarithm = _bethe_logarithm(energy_mev, material.mean_excitation_ev)
    electrons = material.z_over_a / WATER.z_over_a
    return electrons * logarithm / _bethe_logarithm(energy_mev, i_water)


def _bethe_logarithm(energy_mev: np.ndarray, i_ev: float) -> np.ndarray:
    b2 = beta2(energy_mev)
    return np.log(2.0 * ELECTRON_MASS_MEV * 1e6 * b2 / (1.0 - b2) / i_ev) - b2


def _check(material: Material) -> None:
    unknown = [s for s in material.mass_fractions if s not in ELEMENTS]
    if unknown:
        raise ValueError(f"mass_fractions names {unknown}; known elements are {list(ELEMENTS)}.")
    if any(not w >= 0.0 for w in material.mass_fractions.values()):
        raise ValueError(
            f"mass_fractions={dict(material.mass_fractions)} of {material.name!r} holds a "
            "negative or undefined share; give fractions from 0 to 1."
        )
    total = sum(material.mass_fractions.values())
    if abs(total - 1.0) > 0.02:
        raise ValueError(
            f"mass_fractions of {material.name!r} sum to {total:.4g}; give fractions that sum to 1."
        )
    if not material.density_g_cm3 > 0.0:
        raise ValueError(
            f"density_g_cm3={material.density_g_cm3} of {material.name!r} must be positive."
        )
    if material.i_ev is not None and not material.i_ev > 0.0:
        raise ValueError(f"i_ev={material.i_ev} of {material.name!r} must be positive, or None.")


def water(i_ev: float = I_WATER_EV) -> Material:
    """Liquid water, 1 g/cm³, with the mean excitation energy as an explicit choice."""
    return Material("water", 1.0, {"H": 0.111894, "O": 0.888106}, i_ev)


WATER = water()
# ICRU 46 / ICRU 49 compositions.
AIR = Material("air", 0.0012048, {"C": 0.000124, "N": 0.755268, "O": 0.231781, "Ar": 0.012827})
LEXAN = Material("lexan", 1.20, {"H": 0.05549, "C": 0.75575, "O": 0.18876})
PMMA = Material("pmma", 1.19, {"H": 0.080538, "C": 0.599848, "O": 0.319614})
# Pure elements, with their own excitation energies (ICRU 37).
BERYLLIUM = Material("beryllium", 1.848, {"Be": 1.0}, 63.7)
ALUMINUM = Material("aluminum", 2.699, {"Al": 1.0}, 166.0)
TITANIUM = Material("titanium", 4.54, {"Ti": 1.0}, 233.0)
LEAD = Material("lead", 11.35, {"Pb": 1.0}, 823.0)
# CuZn39Pb3, of which apertures are milled; I is additive over the pure metals (322, 330, 823 eV),
# for an alloy is no compound.
BRASS = Material("brass", 8.49, {"Cu": 0.58, "Zn": 0.39, "Pb": 0.03}, 333.2)
