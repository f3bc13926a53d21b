"""From CT numbers to what a beam meets: mass density, composition, relative stopping power.

The default is the stoichiometric calibration of Schneider, Bortfeld, Schlegel, Phys. Med. Biol.
45 (2000) 459; a user's own curve takes its place as another ``Calibration``. CT numbers are
rounded to whole HU and clipped to −1000 … 3000 (metal reaches 30000 in some scans), so a volume
is one look-up per voxel in a table of 4001 entries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from engine.patient.patient import Patient
from engine.patient.tissues import BIN_MATERIALS, BIN_STARTS_HU, MATERIALS
from engine.physics.materials import (
    I_WATER_EV,
    WATER,
    Material,
    relative_stopping_power,
    stopping_ratio_table,
)

MIN_HU, MAX_HU = -1000, 3000
_TABLE_HU = np.arange(MIN_HU, MAX_HU + 1)


class Calibration(Protocol):
    """What a CT number means; every method takes HU of any shape.

    ``energy_mev`` is the proton energy for which ``rsp`` holds, and for which a material override
    is converted to a stopping power. ``materials`` are what ``composition`` chooses from; of them
    only the composition counts (they stand at 1 g/cm³ where the HU sets the density).
    """

    energy_mev: float

    @property
    def materials(self) -> tuple[Material, ...]:
        """At most 256."""

    def density_g_cm3(self, hu: np.ndarray) -> np.ndarray:
        """Mass density, float32."""

    def composition(self, hu: np.ndarray) -> np.ndarray:
        """Index into ``materials``, uint8."""

    def rsp(self, hu: np.ndarray) -> np.ndarray:
        """Proton stopping power relative to water, float32."""


@dataclass(frozen=True)
class SchneiderCalibration:
    """Density and 24 tissue compositions after Schneider 2000; titanium from 2995 HU on.

    HU 0 is soft tissue of 1.018 g/cm³, not water: a water phantom needs a material override.
    """

    energy_mev: float = 100.0

    @property
    def materials(self) -> tuple[Material, ...]:
        return BIN_MATERIALS

    def density_g_cm3(self, hu: np.ndarray) -> np.ndarray:
        return _density_table()[table_index(hu)]

    def composition(self, hu: np.ndarray) -> np.ndarray:
        return _bin_table()[table_index(hu)]

    def rsp(self, hu: np.ndarray) -> np.ndarray:
        return _schneider_rsp_table(self.energy_mev)[table_index(hu)]


@dataclass(frozen=True)
class RspCurve:
    """A clinic's own curve: points (HU, RSP), linear between them, constant beyond.

    Compositions stay Schneider's; densities are solved so that they reproduce the curve's RSP at
    ``energy_mev`` beside water of ``i_water_ev``, so that engines which scatter or count particles
    see the same range.
    """

    points: tuple[tuple[float, float], ...]
    energy_mev: float = 100.0
    i_water_ev: float = I_WATER_EV

    def __post_init__(self):
        points = np.asarray(self.points, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
            raise ValueError(f"points={self.points!r} must be two or more pairs (HU, RSP).")
        if not np.all(np.isfinite(points)) or np.any(np.diff(points[:, 0]) <= 0):
            raise ValueError(f"points={self.points!r} must be finite, HU increasing; sort them.")
        if np.any(points[:, 1] < 0) or np.any(points[:, 1] > 10):
            raise ValueError(f"points={self.points!r}: RSP must lie in 0 … 10 (water is 1).")
        object.__setattr__(self, "points", tuple((float(h), float(r)) for h, r in points))

    @property
    def materials(self) -> tuple[Material, ...]:
        return BIN_MATERIALS

    def density_g_cm3(self, hu: np.ndarray) -> np.ndarray:
        per_density = _rsp_per_density(self.energy_mev, self.i_water_ev)[self.composition(hu)]
        return (self.rsp(hu) / per_density).astype(np.float32)

    def composition(self, hu: np.ndarray) -> np.ndarray:
        return _bin_table()[table_index(hu)]

    def rsp(self, hu: np.ndarray) -> np.ndarray:
        hu_points, rsp_points = np.array(self.points).T
        table = np.interp(_TABLE_HU, hu_points, rsp_points).astype(np.float32)
        return table[table_index(hu)]


DEFAULT_CALIBRATION = SchneiderCalibration()


def table_index(hu: np.ndarray) -> np.ndarray:
    """Row of a table over whole HU from −1000 to 3000, uint16; what lies beyond is clipped."""
    hu = np.asarray(hu, dtype=np.float32)
    if np.isnan(hu).any():
        raise ValueError("hu holds NaN; repair the CT before converting it.")
    return (np.clip(hu, MIN_HU, MAX_HU) + np.float32(0.5 - MIN_HU)).astype(np.uint16)


def rsp_volume(patient: Patient, calibration: Calibration = DEFAULT_CALIBRATION) -> np.ndarray:
    """Relative stopping power of every CT voxel, (nz, ny, nx) float32.

    Material overrides replace the CT, the external's first and then in the order of the
    structures. Beyond the external and the supports there is vacuum, 0.
    """
    rsp = calibration.rsp(patient.hu)
    return _override(rsp, patient, lambda m: relative_stopping_power(m, calibration.energy_mev))


def density_volume(patient: Patient, calibration: Calibration = DEFAULT_CALIBRATION) -> np.ndarray:
    """Mass density of every CT voxel in g/cm³, (nz, ny, nx) float32; as ``rsp_volume``."""
    density = calibration.density_g_cm3(patient.hu)
    return _override(density, patient, lambda m: m.density_g_cm3)


def electron_density_volume(
    patient: Patient, calibration: Calibration = DEFAULT_CALIBRATION
) -> np.ndarray:
    """Electrons per volume relative to water, (nz, ny, nx) float32; as ``rsp_volume``."""

    def electrons(material: Material) -> float:
        return material.z_over_a / WATER.z_over_a

    per_density = np.array([electrons(m) for m in calibration.materials], np.float32)
    volume = calibration.density_g_cm3(patient.hu)
    volume *= per_density[calibration.composition(patient.hu)]
    return _override(volume, patient, lambda m: m.density_g_cm3 * electrons(m))


def override_material(name: str) -> Material:
    """The material that a structure's override names."""
    if name not in MATERIALS:
        raise ValueError(f"material={name!r} is unknown; choose from {sorted(MATERIALS)}.")
    return MATERIALS[name]


def overrides(patient: Patient) -> Iterator[tuple[np.ndarray, Material]]:
    """Masks (nz, ny, nx) with the material that replaces the CT there; later ones win."""
    for structure in sorted(patient.structures.values(), key=lambda s: s.role != "external"):
        if structure.material is not None:
            yield structure.mask, override_material(structure.material)


def filled(patient: Patient) -> np.ndarray:
    """Where there is matter, (nz, ny, nx): the external and the supports; beyond is vacuum."""
    structures = patient.structures.values()
    return np.logical_or.reduce([s.mask for s in structures if s.role in ("external", "support")])


def _override(volume: np.ndarray, patient: Patient, value_of) -> np.ndarray:
    for mask, material in overrides(patient):
        volume[mask] = value_of(material)
    volume *= filled(patient)
    return volume


@lru_cache(maxsize=1)
def _density_table() -> np.ndarray:
    hu = _TABLE_HU.astype(float)
    pieces = (  # upper end in HU (exclusive), g/cm³
        (-98, 0.00121 + 0.001029700665 * (hu + 1000)),
        (15, 1.018 + 0.000893 * hu),
        (23, np.full(hu.shape, 1.030)),
        (101, 1.003 + 0.001169 * hu),
        (2001, 1.017 + 0.000592 * hu),
        (2995, 2.201 + 0.0005 * (hu - 2000)),
        (np.inf, np.full(hu.shape, MATERIALS["titanium"].density_g_cm3)),
    )
    density = np.select([hu < end for end, _ in pieces], [piece for _, piece in pieces])
    return _frozen(density)


@lru_cache(maxsize=1)
def _bin_table() -> np.ndarray:
    bins = np.searchsorted(BIN_STARTS_HU, _TABLE_HU, side="right") - 1
    return _frozen(bins, np.uint8)


@lru_cache(maxsize=16)
def _rsp_per_density(energy_mev: float, i_water_ev: float = I_WATER_EV) -> np.ndarray:
    """RSP of every bin's material at 1 g/cm³: RSP is proportional to density."""
    return _frozen(stopping_ratio_table(BIN_MATERIALS, np.array([energy_mev]), i_water_ev)[:, 0])


@lru_cache(maxsize=16)
def _schneider_rsp_table(energy_mev: float) -> np.ndarray:
    return _frozen(_density_table() * _rsp_per_density(energy_mev)[_bin_table()])


def _frozen(values, dtype=np.float32) -> np.ndarray:
    array = np.asarray(values, dtype=dtype)
    array.setflags(write=False)
    return array
