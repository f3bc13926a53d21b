"""What all spots of one energy have in common: spectrum before the patient, secondaries' dose."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.dose.yoda import _fokker_planck as fp
from engine.dose.yoda._solve import work_arrays
from engine.dose.yoda.coefficients import material_coefficients
from engine.dose.yoda.range_axis import RangeAxis, group_moments, range_axis
from engine.dose.yoda.secondaries import LIMITS_MEV, SecondaryDose, secondary_dose
from engine.dose.yoda.spectrum import Spectrum, incoming
from engine.machine.depth_kernels import layer_kernel
from engine.machine.ion import IonMachine, RangeShifter
from engine.patient.ct import override_material

SHIFTER_CELL_MM = 1.0
STEP_SPREADS = 1.5  # standard deviation of the ranges at their end, in water
HARD_ANGLE_RAD = 0.082  # 5° in the center of mass with oxygen


@dataclass(frozen=True)
class Physics:
    """Settings that change the solution, and no place in it."""

    i_water_ev: float
    scattering: str
    nuclear: bool
    step_mm: float  # of the Fokker–Planck solver, mm of water


@dataclass(frozen=True, eq=False)
class Layer:
    """One energy behind one range shifter, on the threshold of the patient.

    ``spectrum`` (n_groups, 3) has moved by ``s_mm`` of water, ``surviving`` of its protons are
    left. ``air_variance`` is a, b, c of <x²> = a + b t + c t² along the beam.
    """

    axis: RangeAxis
    incoming: Spectrum
    moments: np.ndarray
    spectrum: np.ndarray
    s_mm: float
    surviving: float
    air_variance: tuple[float, float, float]
    exit_mm: float | None  # of the range shifter, along the beam from the isocenter
    step_mm: float  # of the solver, in water
    secondaries: SecondaryDose | None
    released: np.ndarray  # (n_nodes, n_columns), as ``solve_block`` takes it

    @property
    def start(self) -> tuple[float, float, float, float]:
        """s, the share of protons left, those that scatter hard per χ_c², and the variance of the
        beam's angles.

        Hard is beyond 4.7°: with reactions on, such protons are among those of nuclear-elastic
        scattering, whose tables begin there.
        """
        hard = 0.0 if self.secondaries is None else HARD_ANGLE_RAD**-2
        return self.s_mm, self.surviving, hard, max(self.air_variance[2], 0.0)

    @property
    def released_per_mm(self) -> float:
        """Nodes of ``released`` per mm of water."""
        return 1.0 if self.secondaries is None else 1.0 / self.secondaries.step_mm

    @property
    def edges(self) -> tuple[float, float, float]:
        """Lowest y, width of a group and mean range, as the kernels take them."""
        return self.incoming.lowest_mm, self.incoming.width_mm, self.incoming.mean_mm


def axis_of(physics: Physics) -> RangeAxis:
    """The tables over residual range, with nuclear removal if it is on."""
    if not physics.nuclear:
        return range_axis(physics.i_water_ev)
    any_energy = secondary_dose(100.0, 0.0, physics.i_water_ev)
    return range_axis(physics.i_water_ev, tuple(any_energy.removal_per_mm.tolist()))


def layer_of(
    machine: IonMachine, index: int, physics: Physics, shifter: RangeShifter | None,
    exit_mm: float | None, air_gap_mm: float,
) -> Layer:  # fmt: skip
    """The layer of one of the machine's energies; refuses those beyond the nuclear data."""
    energy, std = float(machine.energy_mev[index]), float(machine.energy_std_mev[index])
    low, high = LIMITS_MEV
    if not low <= energy <= high:
        raise ValueError(
            f"energy_mev={energy:.1f} of a spot lies outside {low:g} … {high:g} MeV, where the "
            "tables of the deterministic engine end; choose another energy."
        )
    kernel = layer_kernel(machine, index, shifter, exit_mm or 0.0, air_gap_mm)
    where = exit_mm if shifter is not None else None
    return _layer(energy, std, physics, shifter, where, kernel.air_variance)


@lru_cache(maxsize=512)
def _layer(
    energy_mev: float, std_mev: float, physics: Physics, shifter: RangeShifter | None,
    exit_mm: float | None, air_variance: tuple[float, float, float],
) -> Layer:  # fmt: skip
    axis = axis_of(physics)
    found = incoming(energy_mev, std_mev, axis)
    moments = group_moments(axis, found.width_mm)
    spectrum, s_mm, surviving = found.coefficients.copy(), 0.0, 1.0
    if shifter is not None:
        s_mm, surviving = _through(shifter, spectrum, found, physics, axis, moments)
    secondaries = None
    if physics.nuclear:
        secondaries = secondary_dose(energy_mev, std_mev, physics.i_water_ev)
    return Layer(
        axis, found, moments, spectrum, s_mm, surviving, air_variance, exit_mm,
        min(physics.step_mm, STEP_SPREADS * found.spread_mm), secondaries,
        released_columns(secondaries),
    )  # fmt: skip


def _through(shifter, spectrum, found: Spectrum, physics: Physics, axis, moments):
    """March ``spectrum`` (in place) through a slab: water passed, share of protons left."""
    cells = shifter_cells(shifter, physics)
    n = len(cells)
    stations, scatter = np.zeros((n + 1, fp.N_STATION)), np.zeros((n, 2))
    groups = len(spectrum)
    passed = fp.march(
        spectrum, found.lowest_mm, found.width_mm, found.mean_mm, 0.0, cells, 0.0,
        (axis.coefficients, axis.logs), moments, work_arrays(groups), np.zeros((3, groups, 3)),
        stations, scatter,
    )  # fmt: skip
    return float(stations[passed, fp.S_MM]), float(stations[passed, fp.SURVIVING])


def shifter_cells(shifter: RangeShifter, physics: Physics) -> np.ndarray:
    """A range shifter's material along the beam, (n_cells, N_COEFFICIENTS)."""
    material = override_material(shifter.material)
    coefficients = material_coefficients(
        [material], physics.i_water_ev, physics.scattering, physics.nuclear
    )[0]
    n = max(int(np.ceil(shifter.thickness_mm / SHIFTER_CELL_MM)), 1)
    mass = material.density_g_cm3 * shifter.thickness_mm / n
    return np.tile(mass * coefficients, (n, 1))


def released_columns(secondaries: SecondaryDose | None) -> np.ndarray:
    """Cumulative MeV by width, then of protons, then their LET product; one column each."""
    if secondaries is None:
        return np.zeros((2, 0))
    columns = [*secondaries.cumulative_mev, secondaries.proton_cumulative_mev,
               secondaries.let_cumulative]  # fmt: skip
    return np.ascontiguousarray(np.array(columns).T)
