"""Energy spectrum of a proton beam along depth, on energy groups that stay where they are.

The Fokker-Planck equation in continuous slowing down, Gaussian straggling and absorption,

    ∂φ/∂z = ∂(Sφ)/∂E + ½ ∂²(Tφ)/∂E² − Σφ,

as Burlacu et al. (2024), section 2.1.1, solve it: symmetric interior penalty Galerkin with
quadratic Legendre polynomials per group, and SDIRK3 in depth. This is the reference that the
engine's own solver, whose groups move with the spectrum, is held against; clear rather than fast.

A spectrum is an array of Legendre coefficients, shape (n_groups, 3), of φ per MeV. Materials enter
per gram: depth runs in density × length (mm at 1 g/cm³), so a density is only a factor. A group
should be narrower than 0.6 of the spectrum's spread in energy, and a step in depth shorter than 0.2
of its spread in range, or the peak blurs (3 % at 0.35); means and spreads hold even then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import SuperLU, splu

from engine.physics.materials import I_WATER_EV, WATER, Material, stopping_ratio_table, water
from engine.physics.nuclear import Process, interactions_per_mm
from engine.physics.stopping_power import TABLE_MEV, mass_stopping_power
from engine.physics.straggling import energy_straggling_mev2_cm

# Alexander's SDIRK3: L-stable, and its last stage is the step. γ solves x³ − 3x² + 3x/2 − 1/6 = 0.
GAMMA = 0.43586652150845899941601945
B1 = -1.5 * GAMMA**2 + 4.0 * GAMMA - 0.25
B2 = 1.5 * GAMMA**2 - 5.0 * GAMMA + 1.25
STAGES = np.array([[GAMMA, 0.0, 0.0], [0.5 * (1.0 - GAMMA), GAMMA, 0.0], [B1, B2, GAMMA]])

PENALTY = 10.0  # η; coercive from (p + 1)² = 9, and drift dominates anyway
RANGE_POWER = 1.77  # Bragg and Kleeman: R ∝ E^1.77
WITHIN_STD = 5.0  # the beam must lie this far inside the groups
LEFT = 1e-9  # with fewer protons left, a mean and a spread say nothing

Function = Callable[[np.ndarray], np.ndarray]  # of energy in MeV, any shape


@dataclass(frozen=True)
class FixedGroups:
    """``n_groups`` equal intervals of energy; three Legendre coefficients describe φ in each."""

    e_min_mev: float
    e_max_mev: float
    n_groups: int

    def __post_init__(self):
        low, high = TABLE_MEV
        if not low <= self.e_min_mev < self.e_max_mev <= high:
            raise ValueError(
                f"e_min_mev={self.e_min_mev}, e_max_mev={self.e_max_mev} must ascend within the "
                f"tables ({low}–{high:.0f} MeV)."
            )
        if not isinstance(self.n_groups, int | np.integer) or self.n_groups < 2:
            raise ValueError(f"n_groups={self.n_groups} must be a whole number from 2.")

    @property
    def width_mev(self) -> float:
        return (self.e_max_mev - self.e_min_mev) / self.n_groups

    @cached_property
    def edges_mev(self) -> np.ndarray:
        """Ascending, (n_groups + 1,)."""
        return np.linspace(self.e_min_mev, self.e_max_mev, self.n_groups + 1)

    @cached_property
    def centers_mev(self) -> np.ndarray:
        return 0.5 * (self.edges_mev[1:] + self.edges_mev[:-1])

    @cached_property
    def mass_mev(self) -> np.ndarray:
        """∫ P_i² dE, (n_groups, 3): the diagonal of the mass matrix."""
        return np.tile(self.width_mev / np.array([1.0, 3.0, 5.0]), (self.n_groups, 1))

    @cached_property
    def moments(self) -> np.ndarray:
        """∫ E^k P_i dE for k = 0, 1, 2, shape (3, n_groups, 3)."""
        h, c = self.width_mev, self.centers_mev
        one = np.ones_like(c)
        number = np.stack((h * one, 0.0 * c, 0.0 * c), axis=1)
        energy = np.stack((h * c, h**2 / 6.0 * one, 0.0 * c), axis=1)
        square = np.stack((h * (c**2 + h**2 / 12.0), h**2 / 3.0 * c, h**3 / 30.0 * one), axis=1)
        return np.stack((number, energy, square))

    def project(self, spectrum: Function, n_points: int = 16) -> np.ndarray:
        """L2 projection of φ(E), (n_groups, 3)."""
        xi, weight = leggauss(n_points)
        values = spectrum(self.at(xi))
        return values @ (weight[:, None] * legvander(xi, 2)) * np.array([0.5, 1.5, 2.5])

    def at(self, xi: np.ndarray) -> np.ndarray:
        """Energies at local coordinates ξ in [−1, 1] of every group, (n_groups, n_xi)."""
        return self.centers_mev[:, None] + 0.5 * self.width_mev * xi


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What the equation needs of a material at 1 g/cm³, as functions of energy in MeV."""

    stopping_mev_per_mm: Function
    straggling_mev2_per_mm: Function
    absorbed_per_mm: Function

    @classmethod
    def of(cls, material: Material, i_water_ev: float, absorption: bool) -> "Coefficients":
        """Stopping power as a ratio to water; all three nuclear processes, or none, absorb."""

        def stopping(energy_mev):
            ratio = stopping_ratio_table((material,), np.ravel(energy_mev), i_water_ev)
            in_water = mass_stopping_power(energy_mev, water(i_water_ev)) / 10.0
            return ratio.reshape(np.shape(energy_mev)) * in_water

        def straggling(energy_mev):
            return energy_straggling_mev2_cm(energy_mev, material) / material.density_g_cm3 / 10.0

        def absorbed(energy_mev):
            processes = get_args(Process) if absorption else ()
            per_mm = [interactions_per_mm(energy_mev, p, material) for p in processes]
            return sum(per_mm, np.zeros(np.shape(energy_mev))) / material.density_g_cm3

        return cls(stopping, straggling, absorbed)

    def straggling_slope_mev_per_mm(self, energy_mev: np.ndarray) -> np.ndarray:
        """dT/dE."""
        aside = 1e-3 * np.minimum(energy_mev, 1.0)
        above = self.straggling_mev2_per_mm(energy_mev + aside)
        return (above - self.straggling_mev2_per_mm(energy_mev - aside)) / (2.0 * aside)


def assemble(groups: FixedGroups, of: Coefficients, penalty: float = PENALTY) -> csr_array:
    """The operator A of M dU/dz + A U = 0, (3 n_groups, 3 n_groups), block tridiagonal.

    No inflow at the upper end; at the lower the protons leave. Both ends let no straggling through
    (homogeneous Neumann).
    """
    unknown = np.arange(3 * groups.n_groups).reshape(groups.n_groups, 3)
    faces = np.hstack((unknown[:-1], unknown[1:]))  # group below a face and group above it
    parts = [
        (unknown, _within_groups(groups, of)),
        (faces, _at_faces(groups, of, penalty)),
        (unknown[:1], _at_the_bottom(groups, of)),
    ]
    rows = [np.broadcast_to(u[:, :, None], block.shape).ravel() for u, block in parts]
    columns = [np.broadcast_to(u[:, None, :], block.shape).ravel() for u, block in parts]
    values = [block.ravel() for _, block in parts]
    where = (np.concatenate(rows), np.concatenate(columns))
    return coo_array((np.concatenate(values), where), shape=(unknown.size,) * 2).tocsr()


def _basis(groups: FixedGroups, xi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P_i and dP_i/dE at local coordinates, each (n_xi, 3)."""
    xi = np.asarray(xi, dtype=float)
    slopes = np.stack((0.0 * xi, 1.0 + 0.0 * xi, 3.0 * xi), axis=-1)
    return legvander(xi, 2), 2.0 / groups.width_mev * slopes


def _within_groups(groups: FixedGroups, of: Coefficients) -> np.ndarray:
    """∫ [Sφ + ½(Tφ)'] v' + Σφv dE per group, (n_groups, 3 of v, 3 of φ)."""
    xi, weight = leggauss(5)
    weight = 0.5 * groups.width_mev * weight
    value, slope = _basis(groups, xi)
    energy = groups.at(xi)
    drift = of.stopping_mev_per_mm(energy) + 0.5 * of.straggling_slope_mev_per_mm(energy)
    spread = 0.5 * of.straggling_mev2_per_mm(energy)
    flow = drift[..., None] * value + spread[..., None] * slope
    lost = of.absorbed_per_mm(energy)[..., None] * value
    return np.einsum("q,qv,gqf->gvf", weight, slope, flow) + np.einsum(
        "q,qv,gqf->gvf", weight, value, lost
    )


def _at_faces(groups: FixedGroups, of: Coefficients, penalty: float) -> np.ndarray:
    """Upwind drift and SIPG's terms at inner faces, (n_groups − 1, 6 of v, 6 of φ)."""
    value, slope = _basis(groups, np.array([1.0, -1.0]))  # seen from below and from above
    jump = np.concatenate((value[0], -value[1]))
    from_above = np.concatenate((np.zeros(3), value[1]))  # energies fall: upwind is above
    mean, mean_slope = 0.5 * value.ravel(), 0.5 * slope.ravel()

    energy = groups.edges_mev[1:-1, None, None]
    stopping, straggling = of.stopping_mev_per_mm(energy), of.straggling_mev2_per_mm(energy)
    straggling_slope = of.straggling_slope_mev_per_mm(energy)
    flow = stopping * from_above + 0.5 * (straggling_slope * mean + straggling * mean_slope)
    symmetric = 0.5 * straggling * mean_slope[:, None] * jump
    penalized = 0.5 * penalty / groups.width_mev * straggling * np.outer(jump, jump)
    return -jump[:, None] * flow - symmetric + penalized


def _at_the_bottom(groups: FixedGroups, of: Coefficients) -> np.ndarray:
    """Protons that drift out through e_min, (1, 3 of v, 3 of φ)."""
    value, _ = _basis(groups, np.array([-1.0]))
    stopping = of.stopping_mev_per_mm(groups.edges_mev[:1])
    return stopping[:, None, None] * np.outer(value, value)


def factorize(operator: csr_array, mass: np.ndarray, step: float) -> SuperLU:
    """LU of M + γ Δz A, shared by the three stages of every step of this length."""
    matrix = diags_array(mass) + GAMMA * step * operator
    return splu(matrix.tocsc(), permc_spec="NATURAL")


def sdirk3_step(
    operator: csr_array, factors: SuperLU, step: float, state: np.ndarray
) -> np.ndarray:
    """The state (n,) of M dU/dz + A U = 0 one step further."""
    slopes = np.zeros((3, state.size))
    for i, stage in enumerate(STAGES):
        slopes[i] = factors.solve(-(operator @ (state + step * stage @ slopes)))
    return state + step * STAGES[-1] @ slopes


def march(
    groups: FixedGroups,
    initial: np.ndarray,
    operators: Sequence[csr_array],
    step_mm: np.ndarray,
    window: float | None = None,
) -> np.ndarray:
    """Spectra at every station, (n_cells + 1, n_groups, 3), from the one at the surface.

    ``operators`` and ``step_mm`` (density × length) have one entry per cell; the factors of the
    previous cell serve again when both are the same. ``window=k`` advances only the groups within
    k standard deviations of the mean, above it in energy and below it in range, and forgets the
    others: slow protons fall behind in energy, and a window in energy would cut them off.
    """
    spectra = np.zeros((len(step_mm) + 1, *initial.shape))
    spectra[0] = initial
    last, factors = None, None
    for n, (operator, step) in enumerate(zip(operators, step_mm)):
        active = _active(groups, spectra[n], operator, step, window)
        key = (id(operator), step, active)
        if key != last:
            unknown = slice(3 * active[0], 3 * active[1])
            block = operator[unknown, unknown]
            last, factors = key, factorize(block, groups.mass_mev.ravel()[unknown], step)
        inside = slice(*active)
        moved = sdirk3_step(block, factors, step, spectra[n, inside].ravel())
        spectra[n + 1, inside] = moved.reshape(-1, 3)
    return spectra


def _active(
    groups: FixedGroups, spectrum: np.ndarray, operator: csr_array, step: float, k: float | None
) -> tuple[int, int]:
    """First group, and the one after the last, that the window reaches in this step."""
    everything = (0, groups.n_groups)
    if k is None:
        return everything
    number, energy, square = np.tensordot(groups.moments, spectrum, axes=2)
    if number < LEFT:
        return everything
    mean = max(energy / number, groups.e_min_mev)
    reach = k * np.sqrt(max(square / number - mean**2, 0.0))
    low = mean * max(1.0 - RANGE_POWER * reach / mean, 0.0) ** (1.0 / RANGE_POWER)
    per_mm = (operator @ spectrum.ravel()) / groups.mass_mev.ravel()
    loss = step * (groups.moments[1].ravel() @ per_mm) / number
    first, last = np.searchsorted(groups.edges_mev, (low - 2.0 * loss, mean + reach))
    return max(int(first) - 1, 0), min(max(int(last), 1), groups.n_groups)


@dataclass(frozen=True, eq=False)
class Transport:
    """The spectrum along a ray and what follows from it, per incident proton.

    ``depth_mm`` holds the (n_stations,) ends of the n_stations − 1 cells.
    """

    groups: FixedGroups
    depth_mm: np.ndarray
    coefficients_per_mev: np.ndarray  # (n_stations, n_groups, 3)

    @cached_property
    def _moments(self) -> np.ndarray:
        """∫ E^k φ dE, (3, n_stations)."""
        return np.tensordot(self.groups.moments, self.coefficients_per_mev, axes=((1, 2), (1, 2)))

    @property
    def number(self) -> np.ndarray:
        """∫ φ dE, (n_stations,)."""
        return self._moments[0]

    @property
    def energy_flow_mev(self) -> np.ndarray:
        """∫ E φ dE, (n_stations,)."""
        return self._moments[1]

    @property
    def mean_energy_mev(self) -> np.ndarray:
        """(n_stations,), NaN where the protons have stopped."""
        return self.energy_flow_mev / np.where(self.number > LEFT, self.number, np.nan)

    @property
    def energy_std_mev(self) -> np.ndarray:
        """(n_stations,), NaN where the protons have stopped."""
        square = self._moments[2] / np.where(self.number > LEFT, self.number, np.nan)
        return np.sqrt(np.maximum(square - self.mean_energy_mev**2, 0.0))

    @property
    def dose_mev_per_mm(self) -> np.ndarray:
        """Mean energy lost per length in every cell, (n_cells,).

        With what leaves through e_min, and with absorbed protons' energy, which does not all stay.
        """
        return -np.diff(self.energy_flow_mev) / np.diff(self.depth_mm)


def solve(
    groups: FixedGroups,
    energy_mev: float,
    energy_std_mev: float,
    depth_mm: np.ndarray,
    *,
    density_g_cm3: float | np.ndarray = 1.0,
    materials: Material | Sequence[Material] = WATER,
    i_water_ev: float = I_WATER_EV,
    absorption: bool = False,
    window: float | None = None,
    penalty: float = PENALTY,
) -> Transport:
    """Carry one proton with a Gaussian spectrum through cells between the stations ``depth_mm``.

    ``density_g_cm3`` and ``materials`` are one for all cells or one for each, (n_cells,); a
    material's own density plays no part. ``energy_std_mev`` is a standard deviation
    (``standard_deviation_mev`` converts the paper's spread). ``window`` as for ``march``.
    """
    depth = _stations(depth_mm)
    density = _densities(density_g_cm3, depth.size - 1)
    step = np.round(density * np.diff(depth), 12)  # equal steps shall be equal to the last digit
    per_cell = _materials(materials, depth.size - 1)
    _check_beam(groups, energy_mev, energy_std_mev)
    if window is not None and not window > 0.0:
        raise ValueError(f"window={window} must be a positive number of deviations, or None.")
    if not penalty > 0.0:
        raise ValueError(f"penalty={penalty} must be positive; {PENALTY:g} is safe.")

    operator = {
        material: assemble(groups, Coefficients.of(material, i_water_ev, absorption), penalty)
        for material in dict.fromkeys(per_cell)
    }
    initial = groups.project(gaussian(energy_mev, energy_std_mev))
    spectra = march(groups, initial, [operator[m] for m in per_cell], step, window)
    return Transport(groups, depth, spectra)


def gaussian(mean_mev: float, std_mev: float) -> Function:
    """A normalized Gaussian spectrum, per MeV."""
    height = 1.0 / (np.sqrt(2.0 * np.pi) * std_mev)
    return lambda energy_mev: height * np.exp(-0.5 * ((energy_mev - mean_mev) / std_mev) ** 2)


def standard_deviation_mev(printed_spread_mev: float) -> float:
    """Of the paper's spectrum exp(−((E − E0)/σ_E)²), eq. 5: its σ_E is √2 standard deviations."""
    return printed_spread_mev / np.sqrt(2.0)


def _stations(depth_mm: np.ndarray) -> np.ndarray:
    depth = np.array(depth_mm, dtype=np.float64)
    if depth.ndim != 1 or depth.size < 2 or not np.all(np.isfinite(depth)):
        raise ValueError(f"depth_mm={depth_mm!r} must hold at least two stations, shape (n,).")
    if not np.all(np.diff(depth) > 0.0):
        raise ValueError("depth_mm must increase along the ray, every step above 0; sort it first.")
    return depth


def _densities(density_g_cm3: float | np.ndarray, n_cells: int) -> np.ndarray:
    density = np.asarray(density_g_cm3, dtype=np.float64)
    if density.shape not in ((), (n_cells,)):
        raise ValueError(
            f"density_g_cm3 has shape {density.shape}; give a number or one per cell, ({n_cells},)."
        )
    if not np.all(np.isfinite(density) & (density > 0.0)):
        raise ValueError(f"density_g_cm3={density_g_cm3!r} must be positive; air has 0.0012.")
    return density


def _materials(materials: Material | Sequence[Material], n_cells: int) -> list[Material]:
    per_cell = [materials] * n_cells if isinstance(materials, Material) else list(materials)
    if len(per_cell) != n_cells:
        raise ValueError(f"materials has {len(per_cell)} entries; give one, or {n_cells} per cell.")
    return per_cell


def _check_beam(groups: FixedGroups, energy_mev: float, energy_std_mev: float) -> None:
    if not (np.isfinite(energy_std_mev) and energy_std_mev > 0.0):
        raise ValueError(f"energy_std_mev={energy_std_mev} must be positive; try 0.1.")
    reach = WITHIN_STD * energy_std_mev
    if not groups.e_min_mev + reach <= energy_mev <= groups.e_max_mev - reach:
        raise ValueError(
            f"energy_mev={energy_mev} with energy_std_mev={energy_std_mev} does not lie "
            f"{WITHIN_STD:g} deviations inside the groups ({groups.e_min_mev}–{groups.e_max_mev} "
            "MeV); widen the groups."
        )
