"""Elemental compositions: the 24 CT bins of Schneider 2000 and the tissues of ICRU 44 and 46.

Sources: Schneider, Bortfeld, Schlegel, Phys. Med. Biol. 45 (2000) 459, table 6; ICRU 46 (1992).
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from engine.physics.materials import (
    AIR,
    ALUMINUM,
    BRASS,
    LEXAN,
    PMMA,
    TITANIUM,
    WATER,
    Material,
)

_ELEMENTS = ("H", "C", "N", "O", "Na", "Mg", "P", "S", "Cl", "Ar", "K", "Ca")

# First HU of every composition bin; the last tissue bin reaches to where metal begins.
BIN_STARTS_HU = np.array(
    [-1000, -950, -120, -83, -53, -23, 7, 18, 80]
    + list(range(120, 201, 80))
    + list(range(300, 1501, 100))
    + [2995]
)

_PERCENT = (  # H, C, N, O, Na, Mg, P, S, Cl, Ar, K, Ca
    (0.0, 0.0, 75.5, 23.2, 0.0, 0.0, 0.0, 0.0, 0.0, 1.3, 0.0, 0.0),
    (10.3, 10.5, 3.1, 74.9, 0.2, 0.0, 0.2, 0.3, 0.3, 0.0, 0.2, 0.0),
    (11.6, 68.1, 0.2, 19.8, 0.1, 0.0, 0.0, 0.1, 0.1, 0.0, 0.0, 0.0),
    (11.3, 56.7, 0.9, 30.8, 0.1, 0.0, 0.0, 0.1, 0.1, 0.0, 0.0, 0.0),
    (11.0, 45.8, 1.5, 41.1, 0.1, 0.0, 0.1, 0.2, 0.2, 0.0, 0.0, 0.0),
    (10.8, 35.6, 2.2, 50.9, 0.0, 0.0, 0.1, 0.2, 0.2, 0.0, 0.0, 0.0),
    (10.6, 28.4, 2.6, 57.8, 0.0, 0.0, 0.1, 0.2, 0.2, 0.0, 0.1, 0.0),
    (10.3, 13.4, 3.0, 72.3, 0.2, 0.0, 0.2, 0.2, 0.2, 0.0, 0.2, 0.0),
    (9.4, 20.7, 6.2, 62.2, 0.6, 0.0, 0.0, 0.6, 0.3, 0.0, 0.0, 0.0),
    (9.5, 45.5, 2.5, 35.5, 0.1, 0.0, 2.1, 0.1, 0.1, 0.0, 0.1, 4.5),
    (8.9, 42.3, 2.7, 36.3, 0.1, 0.0, 3.0, 0.1, 0.1, 0.0, 0.1, 6.4),
    (8.2, 39.1, 2.9, 37.2, 0.1, 0.0, 3.9, 0.1, 0.1, 0.0, 0.1, 8.3),
    (7.6, 36.1, 3.0, 38.0, 0.1, 0.1, 4.7, 0.2, 0.1, 0.0, 0.0, 10.1),
    (7.1, 33.5, 3.2, 38.7, 0.1, 0.1, 5.4, 0.2, 0.0, 0.0, 0.0, 11.7),
    (6.6, 31.0, 3.3, 39.4, 0.1, 0.1, 6.1, 0.2, 0.0, 0.0, 0.0, 13.2),
    (6.1, 28.7, 3.5, 40.0, 0.1, 0.1, 6.7, 0.2, 0.0, 0.0, 0.0, 14.6),
    (5.6, 26.5, 3.6, 40.5, 0.1, 0.2, 7.3, 0.3, 0.0, 0.0, 0.0, 15.9),
    (5.2, 24.6, 3.7, 41.1, 0.1, 0.2, 7.8, 0.3, 0.0, 0.0, 0.0, 17.0),
    (4.9, 22.7, 3.8, 41.6, 0.1, 0.2, 8.3, 0.3, 0.0, 0.0, 0.0, 18.1),
    (4.5, 21.0, 3.9, 42.0, 0.1, 0.2, 8.8, 0.3, 0.0, 0.0, 0.0, 19.2),
    (4.2, 19.4, 4.0, 42.5, 0.1, 0.2, 9.2, 0.3, 0.0, 0.0, 0.0, 20.1),
    (3.9, 17.9, 4.1, 42.9, 0.1, 0.2, 9.6, 0.3, 0.0, 0.0, 0.0, 21.0),
    (3.6, 16.5, 4.2, 43.2, 0.1, 0.2, 10.0, 0.3, 0.0, 0.0, 0.0, 21.9),
    (3.4, 15.5, 4.2, 43.5, 0.1, 0.2, 10.3, 0.3, 0.0, 0.0, 0.0, 22.5),
)


def _bin_material(index: int, percent: tuple[float, ...]) -> Material:
    fractions = {e: p / 100.0 for e, p in zip(_ELEMENTS, percent, strict=True)}
    return Material(f"schneider_{index + 1}", 1.0, fractions)


# The 24 tissue bins at 1 g/cm³ (the HU sets the density), and titanium for what is denser.
BIN_MATERIALS: tuple[Material, ...] = (
    *(_bin_material(i, p) for i, p in enumerate(_PERCENT)),
    Material("titanium_1", 1.0, {"Ti": 1.0}, TITANIUM.i_ev),
)


def _icru(name: str, density_g_cm3: float, composition: str) -> Material:
    fractions = {}
    for word in composition.split():
        symbol = word.rstrip("0123456789.")
        fractions[symbol] = float(word[len(symbol) :]) / 100.0
    return Material(name, density_g_cm3, fractions)


_TISSUES = (
    _icru("adipose", 0.95, "H11.4 C59.8 N0.7 O27.8 Na0.1 S0.1 Cl0.1"),
    _icru("blood", 1.06, "H10.2 C11.0 N3.3 O74.5 Na0.1 P0.1 S0.2 Cl0.3 K0.2 Fe0.1"),
    _icru("brain", 1.04, "H10.7 C14.5 N2.2 O71.2 Na0.2 P0.4 S0.2 Cl0.3 K0.3"),
    _icru("breast", 1.02, "H10.6 C33.2 N3.0 O52.7 Na0.1 P0.1 S0.2 Cl0.1"),
    _icru("cartilage", 1.10, "H9.6 C9.9 N2.2 O74.4 Na0.5 P2.2 S0.9 Cl0.3"),
    _icru("connective_tissue", 1.12, "H9.4 C20.7 N6.2 O62.2 Na0.6 S0.6 Cl0.3"),
    _icru("eye_lens", 1.07, "H9.6 C19.5 N5.7 O64.6 Na0.1 P0.1 S0.3 Cl0.1"),
    _icru("gi_tract", 1.03, "H10.6 C11.5 N2.2 O75.1 Na0.1 P0.1 S0.1 Cl0.2 K0.1"),
    _icru("heart", 1.06, "H10.3 C12.1 N3.2 O73.4 Na0.1 P0.1 S0.2 Cl0.3 K0.2 Fe0.1"),
    _icru("kidney", 1.05, "H10.3 C13.2 N3.0 O72.4 Na0.2 P0.2 S0.2 Cl0.2 K0.2 Ca0.1"),
    _icru("liver", 1.06, "H10.2 C13.9 N3.0 O71.6 Na0.2 P0.3 S0.3 Cl0.2 K0.3"),
    _icru("lung", 0.26, "H10.3 C10.5 N3.1 O74.9 Na0.2 P0.2 S0.3 Cl0.3 K0.2"),
    _icru("muscle", 1.05, "H10.2 C14.3 N3.4 O71.0 Na0.1 P0.2 S0.3 Cl0.1 K0.4"),
    _icru("pancreas", 1.04, "H10.6 C16.9 N2.2 O69.4 Na0.2 P0.2 S0.1 Cl0.2 K0.2"),
    _icru("skin", 1.09, "H10.0 C20.4 N4.2 O64.5 Na0.2 P0.1 S0.2 Cl0.3 K0.1"),
    _icru("spleen", 1.06, "H10.3 C11.3 N3.2 O74.1 Na0.1 P0.3 S0.2 Cl0.2 K0.3"),
    _icru("thyroid", 1.05, "H10.4 C11.9 N2.4 O74.5 Na0.2 P0.1 S0.1 Cl0.2 K0.1 I0.1"),
    _icru("red_marrow", 1.03, "H10.5 C41.4 N3.4 O43.9 P0.1 S0.2 Cl0.2 K0.2 Fe0.1"),
    _icru("yellow_marrow", 0.98, "H11.5 C64.4 N0.7 O23.1 Na0.1 S0.1 Cl0.1"),
    _icru(
        "spongiosa",
        1.18,
        "H8.5 C40.4 N2.8 O36.7 Na0.1 Mg0.1 P3.4 S0.2 Cl0.2 K0.1 Ca7.4 Fe0.1",
    ),
    _icru(
        "thoracic_vertebra",  # D6, and lumbar L3
        1.33,
        "H7.0 C28.7 N3.8 O43.7 Mg0.1 P5.1 S0.2 Cl0.1 K0.1 Ca11.1 Fe0.1",
    ),
    _icru(
        "cervical_vertebra",  # C4
        1.42,
        "H6.3 C26.1 N3.9 O43.6 Na0.1 Mg0.1 P6.1 S0.3 Cl0.1 K0.1 Ca13.3",
    ),
    _icru("cranium", 1.61, "H5.0 C21.2 N4.0 O43.5 Na0.1 Mg0.2 P8.1 S0.3 Ca17.6"),
    _icru("mandible", 1.68, "H4.6 C19.9 N4.1 O43.5 Na0.1 Mg0.2 P8.6 S0.3 Ca18.7"),
    _icru("cortical_bone", 1.92, "H3.4 C15.5 N4.2 O43.5 Na0.1 Mg0.2 P10.3 S0.3 Ca22.5"),
)

# What a structure's material override may name.
MATERIALS: Mapping[str, Material] = MappingProxyType(
    {m.name: m for m in (WATER, AIR, PMMA, LEXAN, ALUMINUM, TITANIUM, BRASS, *_TISSUES)}
)
