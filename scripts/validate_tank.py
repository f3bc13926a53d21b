"""Any dose engine in a water tank: does it deliver what the beam model and the tables say?

One spot of generic_proton at a time, square to the tank and oblique to it. Figures are averages
over planes or discs, so that the noise of some 10⁵ histories stays well within the tolerances.
"""

from collections.abc import Iterator

import numpy as np

from engine.dose.engine import DoseEngine
from engine.evaluation.comparison import axis_profile, core_sigma_mm
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.machine.ion import IonMachine
from engine.machine.library import load_machine
from engine.patient.patient import Patient
from engine.patient.phantoms import water_tank
from engine.physics.constants import GY_MM2_PER_MEV_CM2_G
from engine.physics.ions import scattering_power_along
from engine.physics.scattering import propagate
from engine.physics.stopping_power import csda_range_mm
from scripts.validate_check import Check
from scripts.validate_targets import detour, distal_mm, reactions_shift_mm

ENERGIES_MEV = (100.0, 150.0, 200.0)
OBLIQUE = (35.0, 20.0)  # gantry and couch in degrees
HALO_MM, CORE_MM = 100.0, 30.0  # half widths: five σ of the widest halo, and of the widest core
INTEGRAL, PLANES = 0.02, 0.03  # an engine's own physics against that which the kernels come from
WIDTH = 0.05  # nuclear interactions, which Fermi–Eyges lacks, widen Monte Carlo's core by 2 %
NARROW_MM = 3.0  # radius about an oblique axis: beyond it depth in the tank differs too much
CORE_DEPTH_MM = 4.0  # along the axis, over which the plane of a width is averaged


def tank(engine: DoseEngine) -> Iterator[Check]:
    """Integral dose, range and width of a spot at each energy, and its range when oblique."""
    machine = load_machine("generic_proton")
    for energy_mev in ENERGIES_MEV:
        index = machine.energy_index(energy_mev)
        yield from _integral(engine, machine, index)
        yield from core_widths(engine, machine, index, WIDTH)
        yield from _oblique(engine, machine, index)


def planar_integral(
    engine: DoseEngine,
    machine: IonMachine,
    index: int,
    half_width_mm: float = HALO_MM,
    voxel_mm: tuple[float, float, float] = (2.0, 1.0, 2.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A spot along y, integrated over planes across it: depth of the planes' middles in mm, the
    engine's Gy mm² per particle and the kernel's, each (n,)."""
    patient = _tank(half_width_mm, float(machine.range_mm[index]) + 20.0, voxel_mm)
    grid = patient.grid
    dose = _spot(engine, patient, machine, index, Beam(0.0, (0.0, 0.0, 0.0)))
    bins = grid.axes_mm()[1] - grid.lower_mm[1]
    planar = dose.sum(axis=(0, 2)) * grid.spacing_mm[0] * grid.spacing_mm[2]
    return bins, planar, _bin_means(machine, index, bins, grid.spacing_mm[1])


def _integral(engine: DoseEngine, machine: IonMachine, index: int) -> Iterator[Check]:
    energy_mev = float(machine.energy_mev[index])
    label = f"{energy_mev:.1f} MeV"
    bins, planar, kernel = planar_integral(engine, machine, index)
    yield Check(
        "", f"integral dose over the kernel's, {label}", "", 1.0, planar.sum() / kernel.sum(),
        INTEGRAL, False, f"kernels of {machine.name}",
    )  # fmt: skip
    plateau = bins < 0.9 * machine.range_mm[index]
    yield Check(
        "", f"planar integral over the kernel's, rms to 0.9 of the range, {label}", "", 0.0,
        float(np.sqrt(np.mean((planar[plateau] / kernel[plateau] - 1.0) ** 2))), PLANES,
        False, f"kernels of {machine.name}",
    )  # fmt: skip
    yield Check(
        "", f"R80 of the planar integral, {label}", "mm",
        detour(energy_mev) * float(csda_range_mm(energy_mev)) + reactions_shift_mm(energy_mev),
        distal_mm(bins, planar, 0.8), 0.3, False, "CSDA × detour (Monte Carlo), MCsquare's shift",
    )  # fmt: skip


def core_widths(
    engine: DoseEngine, machine: IonMachine, index: int, tolerance: float
) -> Iterator[Check]:
    """The core's width along a spot in voxels of 1 mm, whose own spread is taken off."""
    range_mm = float(machine.range_mm[index])
    patient = _tank(CORE_MM, range_mm + 20.0, 1.0)
    surface_mm, along = float(patient.grid.lower_mm[1]), (0.0, 1.0, 0.0)
    dose = _spot(engine, patient, machine, index, Beam(0.0, (0.0, 0.0, 0.0)))
    for share in (0.1, 0.5, 0.9):
        depth = share * range_mm
        y = surface_mm + depth
        expected = _sigma_mm(machine, index, depth, y)
        found = core_sigma_mm(dose, patient.grid, (0.0, y, 0.0), along, expected, CORE_DEPTH_MM)
        ours = float(np.sqrt(max(found**2 - 1.0 / 12.0, 0.0)))
        name = f"core σ at {share:g} of the range, {spot_label(machine, index)}"
        yield Check("", name, "mm", expected, ours, tolerance, True, "Fermi–Eyges, nozzle to depth")


def _oblique(engine: DoseEngine, machine: IonMachine, index: int) -> Iterator[Check]:
    """Gantry and couch turned, the entrance in place: the range along the axis stays."""
    range_mm = float(machine.range_mm[index])
    patient = _tank(0.6 * range_mm + 30.0, range_mm + 20.0, 2.0)
    isocenter = (0.0, float(patient.grid.lower_mm[1]), 0.0)
    found = []
    for gantry, couch in ((0.0, 0.0), OBLIQUE):
        beam = Beam(gantry, isocenter, couch)
        direction = beam_frame(beam, machine.virtual_source_mm).direction
        dose = _spot(engine, patient, machine, index, beam)
        axis = axis_profile(dose, patient.grid, isocenter, direction, NARROW_MM)
        found.append(axis.distal_mm())
    yield Check(
        "", f"R80 within {NARROW_MM:g} mm of the axis, gantry {OBLIQUE[0]:g}, couch "
        f"{OBLIQUE[1]:g}, {machine.energy_mev[index]:.1f} MeV", "mm", *found, 0.5, False,
        "the same at gantry 0",
    )  # fmt: skip


def spot_label(machine: IonMachine, index: int) -> str:
    """The energy, and which ion if it is no proton."""
    energy = f"{machine.energy_mev[index]:.1f} MeV"
    return energy if machine.charge == 1 else f"{energy}/u Z = {machine.charge}"


def _tank(half_width_mm: float, depth_mm: float, spacing_mm) -> Patient:
    width = 2.0 * half_width_mm
    return water_tank((width, depth_mm, width), spacing_mm, 20.0)


def _spot(
    engine: DoseEngine, patient: Patient, machine: IonMachine, index: int, beam: Beam
) -> np.ndarray:
    """Gy per particle (nz, ny, nx) float64 of one spot on the axis."""
    plan = one_spot(machine, index, beam)
    return engine.dose(patient, plan, patient.grid)["dose"].astype(np.float64)


def one_spot(machine: IonMachine, index: int, beam: Beam) -> Plan:
    """A plan of one particle on the axis."""
    one = np.zeros(1)
    return Plan(
        machine, (beam,), one.astype(np.uint16), np.full(1, index, np.uint16),
        one.astype(np.float32), one.astype(np.float32), np.ones(1),
    )  # fmt: skip


def _bin_means(machine: IonMachine, index: int, bins: np.ndarray, width_mm: float) -> np.ndarray:
    """The kernel's planar integral averaged over bins of depth, Gy mm² per particle."""
    dose = machine.depth_dose_mev_cm2_g[index].astype(np.float64)
    step = machine.depth_step_mm
    running = np.concatenate([[0.0], np.cumsum(0.5 * step * (dose[1:] + dose[:-1]))])
    depth = step * np.arange(dose.size)
    ends = np.interp(bins + 0.5 * width_mm, depth, running)
    starts = np.interp(bins - 0.5 * width_mm, depth, running)
    return GY_MM2_PER_MEV_CM2_G * (ends - starts) / width_mm


def _sigma_mm(machine: IonMachine, index: int, depth_mm: float, t_mm: float) -> float:
    """Fermi–Eyges from the nozzle through air to the surface and through water to a depth."""
    place = float(machine.nozzle_variance_mm2[index])
    cross = float(machine.nozzle_covariance_mm_rad[index])
    angle = float(machine.nozzle_angle_variance_rad2[index])
    gap = machine.nozzle_to_isocenter_mm + t_mm - depth_mm
    surface = (angle, cross + angle * gap, place + 2.0 * cross * gap + angle * gap * gap)
    depth = np.linspace(0.0, depth_mm, 2000)
    ion = machine.charge, machine.mass_number
    power = scattering_power_along(*ion, float(machine.energy_mev[index]), depth)
    return float(np.sqrt(propagate(surface, depth, power).position_mm2[-1]))
