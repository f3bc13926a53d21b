"""A ladder of mapping materials from air to titanium, and calibrations that choose a rung.

Tables of tissue compositions have few entries and CT numbers run continuously; 87 materials between
16 core materials close the gap, as in Janson et al., Med. Dosim. (2024). The cores are tissues of
ICRU 44 and 46, air and titanium, such that density and relative stopping power both rise from one
to the next. What that leaves out: cartilage, which is denser than skin and stops less, and yellow
marrow, which has the density of fat mixed with lean tissue and stops 1 % more.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.patient.ct import DEFAULT_CALIBRATION, MAX_HU, MIN_HU, table_index
from engine.patient.tissues import MATERIALS
from engine.physics.materials import I_WATER_EV, Material, stopping_ratio_table

CORES = (
    "air", "lung", "adipose", "breast", "gi_tract", "muscle", "liver", "skin", "connective_tissue",
    "spongiosa", "thoracic_vertebra", "cervical_vertebra", "cranium", "mandible", "cortical_bone",
)  # fmt: skip
METAL = "titanium"
STEPS = 6  # from one core to the next
DENSEST_BONE_G_CM3 = 2.70  # of cortical composition: where Schneider's curve leaves for metal


@lru_cache(maxsize=1)
def tissue_ladder() -> tuple[Material, ...]:
    """The mapping materials, each at its own density; densities increase."""
    cores = [MATERIALS[name] for name in CORES]
    rungs = [
        _mixture(lower, upper, step / STEPS)
        for lower, upper in zip(cores, cores[1:])
        for step in range(STEPS)
    ]
    bone = cores[-1]
    dense = Material(f"{bone.name}_dense", DENSEST_BONE_G_CM3, bone.mass_fractions, bone.i_ev)
    return (*rungs, bone, dense, MATERIALS[METAL])


@lru_cache(maxsize=1)
def ladder_materials() -> tuple[Material, ...]:
    """The same compositions at 1 g/cm³, for calibrations that give the density."""
    return tuple(Material(m.name, 1.0, m.mass_fractions, m.i_ev) for m in tissue_ladder())


@lru_cache(maxsize=16)
def ladder_rsp(energy_mev: float, i_water_ev: float = I_WATER_EV) -> np.ndarray:
    """RSP of every rung at its own density, increasing, (n_rungs,) float64."""
    ratios = stopping_ratio_table(tissue_ladder(), np.array([energy_mev]), i_water_ev)[:, 0]
    return ratios * np.array([m.density_g_cm3 for m in tissue_ladder()])


def nearest_rung(values: np.ndarray, rungs: np.ndarray) -> np.ndarray:
    """Index of the rung nearest to each value, uint8; ``rungs`` (n_rungs,) increase."""
    middles = (0.5 * (rungs[1:] + rungs[:-1])).astype(np.float32)
    return np.searchsorted(middles, np.asarray(values, np.float32), side="right").astype(np.uint8)


@dataclass(frozen=True)
class InterpolatedCalibration:
    """Density after Schneider 2000, composition of the ladder's rung that is nearest in density.

    Titanium from 2995 HU on.
    """

    energy_mev: float = 100.0

    @property
    def materials(self) -> tuple[Material, ...]:
        return ladder_materials()

    def density_g_cm3(self, hu: np.ndarray) -> np.ndarray:
        return DEFAULT_CALIBRATION.density_g_cm3(hu)

    def composition(self, hu: np.ndarray) -> np.ndarray:
        return _rung_table()[table_index(hu)]

    def rsp(self, hu: np.ndarray) -> np.ndarray:
        return _rsp_table(self.energy_mev)[table_index(hu)]


def _mixture(lower: Material, upper: Material, share: float) -> Material:
    """Two materials side by side, ``share`` of the volume being the upper: mass fractions are
    weighted by mass (Schneider 2000 interpolates the same way), so density is linear in it."""
    if share == 0.0:
        return lower
    masses = (1.0 - share) * lower.density_g_cm3, share * upper.density_g_cm3
    density = sum(masses)
    elements = {**lower.mass_fractions, **upper.mass_fractions}
    fractions = {
        e: sum(m * of.mass_fractions.get(e, 0.0) for m, of in zip(masses, (lower, upper))) / density
        for e in elements
    }
    return Material(f"{lower.name}_{upper.name}_{share:.0%}", density, fractions)


@lru_cache(maxsize=1)
def _density_table() -> np.ndarray:
    return DEFAULT_CALIBRATION.density_g_cm3(np.arange(MIN_HU, MAX_HU + 1))


@lru_cache(maxsize=1)
def _rung_table() -> np.ndarray:
    rungs = nearest_rung(_density_table(), np.array([m.density_g_cm3 for m in tissue_ladder()]))
    rungs.setflags(write=False)
    return rungs


@lru_cache(maxsize=16)
def _rsp_table(energy_mev: float) -> np.ndarray:
    ratios = stopping_ratio_table(ladder_materials(), np.array([energy_mev]))[:, 0]
    table = _density_table() * ratios.astype(np.float32)[_rung_table()]
    table.setflags(write=False)
    return table
