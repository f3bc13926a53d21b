"""What a photon clinic can deliver: fluence in bixels, and the dose of a pencil in water."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy.signal import fftconvolve
from scipy.special import erf

from engine.machine.photon_kernels import (
    DEPTH_STEP_MM,
    N_COMPONENTS,
    PIXEL_MM,
    RADIUS_MM,
    separated_kernel,
)  # fmt: skip

LATTICE_MM = 0.5  # step of the tables of a bixel's dose; bixels lie on this lattice
REFERENCE_DEPTH_MM, REFERENCE_SIDE_MM, GY_PER_MU = 100.0, 100.0, 0.01


@dataclass(frozen=True, eq=False)
class PhotonMachine:
    """One photon beam. Weights of its bixels are monitor units (MU) per fraction.

    1 MU of a field of 10 × 10 cm² gives 0.01 Gy to the isocenter in 10 cm of water (SAD 1000 mm).
    ``depth_component`` (n_depths, 3) and ``pixel_kernel`` (3, n, n) are those of
    ``SeparatedKernel``. ``fluence_radius_mm`` and ``fluence`` are the primary fluence over the
    distance from the axis in the isocenter plane, 1 on it; ``source_fwhm_mm`` is the Gaussian
    penumbra of source and leaf ends there.
    """

    name: str
    energy_mev: np.ndarray  # (1,) the nominal accelerating potential
    depth_component: np.ndarray
    pixel_kernel: np.ndarray
    fluence_radius_mm: np.ndarray
    fluence: np.ndarray
    virtual_source_mm: float = 1000.0  # distance from the source to the isocenter
    source_fwhm_mm: float = 5.0
    gy_per_unit: float = 1.0  # that the tables are multiplied by, for the calibration
    min_spot_weight: float = 0.0
    depth_step_mm: float = DEPTH_STEP_MM
    _tables: dict = field(default_factory=dict, repr=False)

    @property
    def source_std_mm(self) -> float:
        return self.source_fwhm_mm / np.sqrt(8.0 * np.log(2.0))

    def fluence_at(self, u_mm: np.ndarray, v_mm: np.ndarray) -> np.ndarray:
        """Primary fluence at points of the isocenter plane, float32."""
        radius = np.hypot(u_mm, v_mm)
        return np.interp(radius, self.fluence_radius_mm, self.fluence).astype(np.float32)

    def depth_at(self, depth_mm: np.ndarray) -> np.ndarray:
        """D_i at radiological depths (n,): (n, 3) float32; the calibration is in it."""
        place = np.clip(np.asarray(depth_mm, np.float64), 0.0, None) / self.depth_step_mm
        low = np.minimum(place.astype(np.int64), len(self.depth_component) - 2)
        share = (place - low)[:, None].clip(0.0, 1.0)
        table = self.depth_component
        values = table[low] * (1.0 - share) + table[low + 1] * share
        return (values * self.gy_per_unit).astype(np.float32)

    def bixel_table(self, width_mm: float, reach_mm: float) -> np.ndarray:
        """C_i of a bixel of unit fluence at lattice offsets of a quadrant, (n, n, 3) float32.

        The fluence of the bixel, blurred by the penumbra, convolved with w_i; 0 beyond
        ``reach_mm``, and at the last two nodes in any case. Kept: every beam asks for the same.
        """
        key = (float(width_mm), float(reach_mm))
        if key not in self._tables:
            self._tables[key] = self._new_bixel_table(*key)
        return self._tables[key]

    def _new_bixel_table(self, width_mm: float, reach_mm: float) -> np.ndarray:
        if not 0.0 < reach_mm <= RADIUS_MM:
            raise ValueError(f"reach_mm={reach_mm} must lie in 0 … {RADIUS_MM:g}.")
        if not 0.0 < width_mm <= 50.0:
            raise ValueError(f"width_mm={width_mm} of a bixel must lie in 0 … 50.")
        edge = np.ceil((0.5 * width_mm + 4.0 * self.source_std_mm) / PIXEL_MM) * PIXEL_MM
        at = np.arange(-edge, edge + 0.5 * PIXEL_MM, PIXEL_MM)
        root2 = np.sqrt(2.0) * self.source_std_mm
        open_share = 0.5 * (erf((at + 0.5 * width_mm) / root2) - erf((at - 0.5 * width_mm) / root2))
        fluence = open_share[:, None] * open_share[None, :]
        # a point within half the diagonal of a cell of the reach still has its cell in the table
        n, step = int(reach_mm // LATTICE_MM) + 3, round(LATTICE_MM / PIXEL_MM)
        table = np.zeros((n, n, N_COMPONENTS), np.float32)
        radius = LATTICE_MM * np.hypot(np.arange(n)[:, None], np.arange(n)[None, :])
        for i, quadrant in enumerate(self.pixel_kernel.astype(np.float64)):
            whole = mirrored(quadrant)
            blurred = fftconvolve(whole, fluence, mode="same")
            middle = len(whole) // 2
            part = blurred[middle::step, middle::step][:n, :n]
            table[: len(part), : len(part), i] = part
        table[radius > reach_mm] = 0.0
        table.setflags(write=False)
        return table


def mirrored(quadrant: np.ndarray) -> np.ndarray:
    """All four quadrants (2n − 1, 2n − 1, …) of a table (n, n, …) that is given for one."""
    half = np.concatenate([quadrant[:0:-1], quadrant])
    return np.concatenate([half[:, :0:-1], half], axis=1)


@lru_cache(maxsize=4)
def generic_photon(tpr_20_10: float = 0.68) -> PhotonMachine:
    """A flattened 6 MV beam: TPR20,10 = 0.67 with 0.68 in the fits, which fall a little steeper.

    Primary fluence after the generic data of matRad (1.052 at 85 mm, 1.075 at 170 mm from the
    axis); penumbra 5 mm.
    """
    kernel = separated_kernel(tpr_20_10)
    machine = PhotonMachine(
        "generic_photon", np.array([6.0]), kernel.depth_component, kernel.pixel_kernel,
        np.array([0.0, 85.0, 170.0, 255.0]), np.array([1.0, 1.052, 1.075, 0.46]),
    )  # fmt: skip
    reference = square_field_gy(machine, REFERENCE_SIDE_MM, np.array([REFERENCE_DEPTH_MM]))
    object.__setattr__(machine, "gy_per_unit", GY_PER_MU / float(reference[0]))
    for array in vars(machine).values():
        if hasattr(array, "setflags"):
            array.setflags(write=False)
    return machine


def square_field_gy(
    machine: PhotonMachine, side_mm: float, depth_mm: np.ndarray, profile: bool = True
) -> np.ndarray:
    """Gy per MU (n,) on the axis of a square field, each depth at the isocenter distance: a tissue
    phantom ratio but for its scale. ``profile=False`` leaves the primary fluence flat."""
    table = machine.pixel_kernel.astype(np.float64)
    n = table.shape[1]
    at = PIXEL_MM * np.arange(n)
    root2 = np.sqrt(2.0) * machine.source_std_mm
    share = 0.5 * (erf((at + 0.5 * side_mm) / root2) - erf((at - 0.5 * side_mm) / root2))
    fluence = share[:, None] * share[None, :]
    if profile:
        fluence = fluence * machine.fluence_at(at[:, None], at[None, :])
    count = np.where(np.arange(n) == 0, 1.0, 2.0)  # a quadrant stands for all four
    lateral = np.einsum("iuv,uv,u,v->i", table, fluence, count, count)
    return machine.depth_at(depth_mm) @ lateral
