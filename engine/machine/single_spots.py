"""A machine for spots of any energy, spread and phase space, commissioned for them alone.

For comparisons with other engines, whose beams are no clinic's: kernels come from the same physics
as a machine's file, one for every kind of spot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.machine.commissioning import (
    core_variance_mm2,
    pristine_peak,
    projected_range_mm,
    range_spread_mm,
)
from engine.machine.halo import halo
from engine.machine.ion import IonMachine
from engine.physics.materials import I_WATER_EV, water

ENERGY_LIMITS_MEV = (10.0, 250.0)  # of the nuclear data
PARALLEL_MM = 1e6  # virtual source of a beam without divergence of its axes
NARROWEST_MM = 0.05  # what is narrower is a point in any voxel
DEPTH_STEP_MM = 0.1


@dataclass(frozen=True)
class SpotKind:
    """Energy and phase space of a round spot; per plane, at the place where the spot starts."""

    energy_mev: float
    energy_std_mev: float
    sigma_mm: float
    angle_std_rad: float
    correlation: float = 0.0  # of position and angle; positive diverges

    def __post_init__(self):
        low, high = ENERGY_LIMITS_MEV
        if not low <= self.energy_mev <= high:
            raise ValueError(
                f"energy_mev={self.energy_mev} lies outside {low:g} … {high:g} MeV, the range of "
                "the proton data."
            )
        if not 0.0 <= self.energy_std_mev <= 0.1 * self.energy_mev:
            raise ValueError(
                f"energy_std_mev={self.energy_std_mev} must lie within 0 … "
                f"{0.1 * self.energy_mev:g} MeV, a tenth of the energy."
            )
        if not (np.isfinite(self.sigma_mm) and self.sigma_mm >= 0.0):
            raise ValueError(f"sigma_mm={self.sigma_mm} must be 0 or more.")
        if not 0.0 <= self.angle_std_rad <= 0.1:
            raise ValueError(
                f"angle_std_rad={self.angle_std_rad} must lie within 0 … 0.1 rad; is it in mrad?"
            )
        if not -1.0 <= self.correlation <= 1.0:
            raise ValueError(f"correlation={self.correlation} must lie within -1 … 1.")


def single_spot_machine(
    kinds: Sequence[SpotKind],
    i_water_ev: float = I_WATER_EV,
    nuclear: bool = True,
    start_to_isocenter_mm: float | None = None,
) -> IonMachine:
    """One "energy" of the machine per kind, in the order given, which must not fall in energy.

    Spots start ``start_to_isocenter_mm`` upstream of the isocenter (half the longest range by
    default). Beam axes of one direction are parallel.
    """
    if not kinds:
        raise ValueError("kinds is empty; give at least one kind of spot.")
    energy = np.array([kind.energy_mev for kind in kinds])
    if np.any(np.diff(energy) < 0):
        raise ValueError("kinds must be sorted by rising energy.")
    longest_mm = projected_range_mm(energy[-1], water(i_water_ev))
    deepest_mm = max(1.1 * longest_mm + 15.0, *(_end_mm(kind, i_water_ev) for kind in kinds))
    depth = DEPTH_STEP_MM * np.arange(int(deepest_mm / DEPTH_STEP_MM))
    by_beam: dict[tuple[float, float], dict[str, np.ndarray]] = {}
    for kind in kinds:
        beam = (kind.energy_mev, kind.energy_std_mev)
        if beam not in by_beam:
            by_beam[beam] = _curves(*beam, depth, i_water_ev, nuclear)
    curves = [by_beam[kind.energy_mev, kind.energy_std_mev] for kind in kinds]
    sigma = np.array([max(kind.sigma_mm, NARROWEST_MM) for kind in kinds])
    angle = np.array([kind.angle_std_rad for kind in kinds])
    correlation = np.array([kind.correlation for kind in kinds])
    return IonMachine(
        name="single_spots",
        energy_mev=energy,
        depth_step_mm=DEPTH_STEP_MM,
        **{name: np.array([c[name] for c in curves]) for name in curves[0]},
        energy_std_mev=np.array([kind.energy_std_mev for kind in kinds]),
        nozzle_variance_mm2=sigma**2,
        nozzle_covariance_mm_rad=correlation * sigma * angle,
        nozzle_angle_variance_rad2=angle**2,
        nozzle_to_isocenter_mm=(
            0.5 * longest_mm if start_to_isocenter_mm is None else float(start_to_isocenter_mm)
        ),
        virtual_source_mm=PARALLEL_MM,
        min_spot_weight=0.0,
        switch_up_s=0.0,
        switch_down_s=0.0,
    )


def _end_mm(kind: SpotKind, i_ev: float) -> float:
    """Depth that all but one of a million protons stay short of: five standard deviations."""
    material = water(i_ev)
    spread_mm = range_spread_mm(kind.energy_mev, kind.energy_std_mev, material)
    return projected_range_mm(kind.energy_mev, material) + 5.0 * spread_mm


def _curves(energy_mev: float, std_mev: float, depth, i_ev: float, nuclear: bool) -> dict:
    """Range and kernels of one energy, each curve (n_depths,) float32."""
    peak = pristine_peak(energy_mev, depth, std_mev, DEPTH_STEP_MM, i_ev, nuclear)
    core = core_variance_mm2(energy_mev, depth, i_ev)
    weight, wide = halo(energy_mev, depth, i_ev) if nuclear else (np.zeros_like(depth), core)
    curves = {
        "depth_dose_mev_cm2_g": peak.dose_mev_cm2_g,
        "scatter_variance_mm2": core,
        "halo_weight": weight,
        "halo_variance_mm2": wide,
        "letd_kev_um": peak.letd_kev_um,
    }
    dose, top = peak.dose_mev_cm2_g, int(np.argmax(peak.dose_mev_cm2_g))
    r80 = float(np.interp(-0.8, -dose[top:] / dose[top], depth[top:]))
    return {"range_mm": r80, **{n: np.asarray(c, np.float32) for n, c in curves.items()}}
