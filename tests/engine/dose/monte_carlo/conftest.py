"""Boxes of known materials, beams without a clinic's machine, and ways to read a dose."""

from dataclasses import dataclass

import numpy as np
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.geometry.plan import Beam, Plan
from engine.geometry.scenarios import NOMINAL
from engine.machine.ion import IonMachine, SecondGaussian
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient, Structure
from engine.physics.constants import GY_G_PER_MEV
from engine.physics.materials import WATER

EM = dict(non_elastic=False, nuclear_elastic=False, proton_proton=False)
PHYSICS = {
    "all": {},
    "electromagnetic": EM,
    "straight": EM | dict(scattering=False),  # straggling alone
    "slowing down": EM | dict(scattering=False, straggling=False),
}
NARROW_MM = 1e-3
CHUNK = 250  # columns of a matrix that is made dense
START_MM = 400.0  # upstream of the isocenter


@dataclass(frozen=True, eq=False)
class Box:
    """A box entered along y, whose first face is y = 0; x and z are centered."""

    patient: Patient
    medium: KnownMedium

    @property
    def grid(self) -> Grid:
        return self.patient.grid

    @property
    def depth_mm(self) -> np.ndarray:
        """Middles of the voxels along y, (ny,)."""
        return self.grid.axes_mm()[1]

    def engine(self, physics: str = "all", **settings) -> MonteCarloEngine:
        known = dict(calibration=self.medium, i_water_ev=self.medium.i_water_ev)
        return MonteCarloEngine(**{**known, **PHYSICS[physics], **settings})

    def simulate(
        self, plan, n_histories, physics="all", quantities=("dose",), scenario=NOMINAL, **settings
    ):
        engine = self.engine(physics, n_histories=n_histories, **settings)
        return engine.simulate(self.patient, plan, self.grid, scenario, quantities)

    def dose(self, plan, n_histories, physics="all", **settings) -> np.ndarray:
        """(nz, ny, nx) float64, Gy per proton of plans of weight 1."""
        found = self.simulate(plan, n_histories, physics, **settings)
        return found.quantities["dose"].astype(np.float64)

    def energy_mev(self, dose_gy: np.ndarray) -> np.ndarray:
        """What doses to medium mean in MeV per voxel."""
        mass_g = self.medium.density * self.grid.voxel_volume_cm3
        return dose_gy * mass_g / GY_G_PER_MEV

    def stops_mm(self, n_protons: int, plan_of, physics: str, **settings) -> np.ndarray:
        """Depth (n_protons,) of the last voxel that each of some single protons reaches.

        ``plan_of(first, last)`` is a plan of spots of one energy that differ by a micrometer.
        """
        engine = self.engine(physics, histories_per_spot=1, entry_cutoff=0.0, **settings)
        found = []
        for first in range(0, n_protons, CHUNK):
            plan = plan_of(first, min(first + CHUNK, n_protons))
            tracks = engine.influence(self.patient, plan, self.grid).to_dense() > 0.0
            last = tracks.shape[0] - 1 - np.argmax(tracks[::-1], axis=0)
            found.append(self.depth_mm[np.unravel_index(last, self.grid.shape)[1]])
        return np.concatenate(found)


@pytest.fixture(scope="session")
def box():
    """Function: a box of (z, y, x) mm; layers are (material, from, to) in mm of depth."""

    def build(size_mm, spacing_mm, layers=(), filling=WATER, i_water_ev=75.0) -> Box:
        spacing = np.broadcast_to(np.asarray(spacing_mm, float), 3)
        shape = tuple(int(n) for n in np.rint(np.asarray(size_mm) / spacing))
        origin = -0.5 * (np.array(shape) - 1) * spacing
        origin[1] = 0.5 * spacing[1]
        grid = Grid(shape, tuple(spacing), tuple(origin))
        materials = [filling, *dict.fromkeys(material for material, *_ in layers)]
        density = np.full(shape, filling.density_g_cm3, np.float32)
        index = np.zeros(shape, np.uint8)
        depth = grid.axes_mm()[1]
        for material, start, end in layers:
            inside = (depth > start) & (depth < end)
            density[:, inside], index[:, inside] = material.density_g_cm3, materials.index(material)
        whole = np.ones(shape, bool)
        structures = {"External": Structure("External", whole, "external"),
                      "PTV": Structure("PTV", whole, "target")}  # fmt: skip
        patient = Patient("box", grid, np.zeros(shape, np.float32), structures, {"PTV": 60.0}, 30)
        return Box(patient, KnownMedium(density, index, tuple(materials), i_water_ev))

    return build


@pytest.fixture(scope="session")
def proton_machine():
    """Function: a machine without kernels, which Monte Carlo does not need."""

    def build(
        energy_mev, std_mev=0.0, sigma_mm=NARROW_MM, angle_rad=0.0, correlation=0.0, second=None,
        **more,
    ) -> IonMachine:  # fmt: skip
        energy = np.atleast_1d(np.asarray(energy_mev, float))
        full, nothing = np.ones(len(energy)), np.zeros((len(energy), 2), np.float32)
        if second is not None:
            weight, sigma, angle = second
            second = SecondGaussian(weight * full, sigma**2 * full, 0 * full, angle**2 * full)
        settings = dict(
            nozzle_to_isocenter_mm=START_MM, virtual_source_mm=1e9, second_gaussian=second,
        ) | more  # fmt: skip
        return IonMachine(
            "test", energy, 0 * full, 1.0, nothing, nothing, nothing, nothing, nothing,
            std_mev * full, sigma_mm**2 * full, correlation * sigma_mm * angle_rad * full,
            angle_rad**2 * full, min_spot_weight=0.0, switch_up_s=0.0, switch_down_s=0.0,
            **settings,
        )  # fmt: skip

    return build


@pytest.fixture(scope="session")
def spots():
    """Function: a plan of spots at u, v of one beam along y, whose isocenter is the origin."""

    def build(machine, u_mm=0.0, v_mm=0.0, weights=None, energy=0, **beam) -> Plan:
        u, v, energy = np.broadcast_arrays(np.atleast_1d(u_mm).astype(float), v_mm, energy)
        settings = {"gantry_deg": 0.0, "isocenter_mm": (0.0, 0.0, 0.0), **beam}
        weights = np.full(u.size, 1.0 / u.size) if weights is None else np.asarray(weights, float)
        return Plan(
            machine, (Beam(**settings),), np.zeros(u.size, np.uint16), energy.astype(np.uint16),
            u.astype(np.float32), v.astype(np.float32), weights,
        )  # fmt: skip

    return build


@pytest.fixture(scope="session")
def same_place(spots):
    """Function: of a machine, the function of first and last that ``Box.stops_mm`` wants."""

    def build(machine, **beam):
        return lambda first, last: spots(machine, 1e-7 * np.arange(first, last), **beam)

    return build


@pytest.fixture(scope="session")
def distal():
    """Function: depth behind the peak where a profile (n,) falls to a level of it."""

    def find(depth_mm, dose, level=0.8) -> float:
        top = int(np.argmax(dose))
        return float(np.interp(-level, -dose[top:] / dose[top], depth_mm[top:]))

    return find


@pytest.fixture(scope="session")
def moments():
    """Function: mean and standard deviation of a place whose shares are given, both (n,)."""

    def find(place_mm, share) -> tuple[float, float]:
        mean = float(np.sum(place_mm * share) / np.sum(share))
        return mean, float(np.sqrt(np.sum((place_mm - mean) ** 2 * share) / np.sum(share)))

    return find
