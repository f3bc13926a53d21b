"""The pencil beam's physics in water: range, width, halo, energy, and what the cut-off loses."""

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.geometry.scenarios import Scenario
from engine.machine.depth_kernels import layer_kernel
from engine.patient.ct import rsp_volume
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.phantoms import half_slab_tank

EVERYTHING = 1e-5  # lateral cut-off that keeps all that matters


def energy_of(machine, range_mm):
    return int(np.argmin(np.abs(machine.range_mm - range_mm)))


def integral_by_depth(influence, spot):
    """Depth dose (ny,): Gy mm² per particle through every layer of a tank entered along y."""
    dose = influence.volume(influence.dose(np.eye(influence.n_spots)[spot])).astype(float)
    return dose.sum(axis=(0, 2)) * influence.grid.spacing_mm[0] * influence.grid.spacing_mm[2]


def distal_80(depth_mm, dose):
    """Depth behind the peak where the dose falls to 80 %."""
    after = np.arange(np.argmax(dose), len(dose))
    fall = after[np.argmax(dose[after] < 0.8 * dose.max())]
    share = (dose[fall - 1] - 0.8 * dose.max()) / (dose[fall - 1] - dose[fall])
    return depth_mm[fall - 1] + share * (depth_mm[fall] - depth_mm[fall - 1])


def deep_tank(depth_mm, step_mm, width_mm=60.0):
    """A water tank whose surface lies at the isocenter plane, y = 0, with fine steps in depth."""
    n = int(np.ceil(depth_mm / step_mm))
    shape = (int(width_mm / 4), n, int(width_mm / 4))
    grid = Grid(shape, (4.0, step_mm, 4.0), (-width_mm / 2 + 2, step_mm / 2, -width_mm / 2 + 2))
    whole = np.ones(shape, bool)
    structures = {"External": Structure("External", whole, "external", "water"),
                  "PTV": Structure("PTV", whole, "target")}  # fmt: skip
    return Patient("tank", grid, np.zeros(shape, np.float32), structures, {"PTV": 60.0}, 30)


@pytest.mark.parametrize("range_mm", [45, 100, 160, 250, 325])
@pytest.mark.parametrize("step_mm", [0.5, 1.0])
def test_r80_in_a_water_tank_is_the_machines_range(machine, one_beam, range_mm, step_mm):
    energy = energy_of(machine, range_mm)
    tank = deep_tank(machine.range_mm[energy] * 1.1, step_mm)
    engine = PencilBeamEngine()
    influence = engine.influence(tank, one_beam(energy, 0.0, 0.0), tank.grid)
    depth = tank.grid.axes_mm()[1]
    found = distal_80(depth, integral_by_depth(influence, 0))
    assert found == pytest.approx(machine.range_mm[energy], abs=0.2)


def spread(influence, at_depth_mm):
    """Standard deviation along x of the dose in one layer of a tank, mm."""
    dose = influence.volume(influence @ np.ones(influence.n_spots)).astype(float)
    z, y, x = influence.grid.axes_mm()
    line = dose[:, np.argmin(np.abs(y - at_depth_mm)), :].sum(axis=0)
    mean = np.sum(line * x) / np.sum(line)
    return np.sqrt(np.sum(line * (x - mean) ** 2) / np.sum(line))


@pytest.mark.parametrize("range_mm", [80, 160, 250])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_spots_are_as_wide_as_core_and_halo_say(machine, one_beam, range_mm, share):
    energy = energy_of(machine, range_mm)
    tank = deep_tank(range_mm, 4.0, width_mm=240.0)
    engine = PencilBeamEngine(lateral_cutoff=EVERYTHING)
    influence = engine.influence(tank, one_beam(energy, 0.0, 0.0), tank.grid)
    y = tank.grid.axes_mm()[1]
    depth = y[np.argmin(np.abs(y - share * range_mm))]
    k = layer_kernel(machine, energy)
    at = depth / k.depth_step_mm
    core, halo, w = (
        np.interp(at, np.arange(len(a)), a)
        for a in (k.scatter_variance_mm2, k.halo_variance_mm2, k.halo_weight)
    )
    # the voxel's width enters once in the formula, and once more by sampling at its centers
    expected = np.sqrt((1 - w) * core + w * halo + k.air_variance_mm2(depth) + 4.0**2 / 12)
    assert spread(influence, depth) == pytest.approx(expected, rel=0.01)


def test_the_halo_is_there(machine, one_beam):
    energy = energy_of(machine, 200)
    tank = deep_tank(150.0, 5.0, width_mm=160.0)
    engine = PencilBeamEngine(lateral_cutoff=EVERYTHING)
    influence = engine.influence(tank, one_beam(energy, 0.0, 0.0), tank.grid)
    dose = influence.volume(influence @ np.ones(1)).astype(float)
    z, y, x = tank.grid.axes_mm()
    row = np.argmin(np.abs(y - 120.0))
    radius = np.hypot(*np.meshgrid(z, x, indexing="ij"))
    k = layer_kernel(machine, energy)
    at = int(round(120.0 / k.depth_step_mm))
    core = k.scatter_variance_mm2[at] + k.air_variance_mm2(120.0) + 4.0**2 / 12
    outside = dose[:, row][radius > 4 * np.sqrt(core)].sum() / dose[:, row].sum()
    assert outside > 0.01  # a single Gaussian leaves exp(-8) = 3e-4 beyond 4 σ


def test_a_range_shifter_shortens_the_range_and_widens_the_spot(machine, one_beam):
    energy = energy_of(machine, 160)
    tank = deep_tank(180.0, 1.0, width_mm=160.0)
    engine = PencilBeamEngine(lateral_cutoff=EVERYTHING)
    open_beam = engine.influence(tank, one_beam(energy, 0.0, 0.0), tank.grid)
    depth = tank.grid.axes_mm()[1]
    bare = distal_80(depth, integral_by_depth(open_beam, 0))
    widths = [spread(open_beam, 20.0)]
    for exit_mm in (-20.0, -150.0):  # air gap
        shifter = machine.range_shifters[0]
        plan = one_beam(energy, 0.0, 0.0, range_shifter=shifter.name, shifter_exit_mm=exit_mm)
        behind = engine.influence(tank, plan, tank.grid)
        shortened = distal_80(depth, integral_by_depth(behind, 0))
        assert bare - shortened == pytest.approx(shifter.wet_mm, abs=0.3)
        widths.append(spread(behind, 20.0))
    assert widths == sorted(widths)
    assert widths[2] > 1.2 * widths[0]


@pytest.mark.parametrize("density_scale", [0.965, 1.035])
def test_density_scales_the_range(machine, one_beam, density_scale):
    energy = energy_of(machine, 120)
    tank = deep_tank(140.0, 0.5)
    scenario = Scenario(density_scale=density_scale)
    influence = PencilBeamEngine().influence(tank, one_beam(energy, 0.0, 0.0), tank.grid, scenario)
    found = distal_80(tank.grid.axes_mm()[1], integral_by_depth(influence, 0))
    assert found == pytest.approx(machine.range_mm[energy] / density_scale, abs=0.25)


def lost_dose(machine, one_beam, range_mm, u, v):
    """Largest share of a spot's integral dose that the default cut-off loses in water."""
    energy = energy_of(machine, range_mm)
    tank = deep_tank(range_mm * 1.1, 4.0, width_mm=240.0)
    plan = one_beam(energy, u, v)
    kept, whole = (
        engine.influence(tank, plan, tank.grid).adjoint(np.ones(tank.grid.size))
        for engine in (PencilBeamEngine(), PencilBeamEngine(lateral_cutoff=EVERYTHING))
    )
    return np.max(1.0 - kept.astype(float) / whole)


@pytest.mark.parametrize("range_mm", [42, 80, 130, 200, 325])
def test_an_isolated_spot_loses_at_most_half_a_percent(machine, one_beam, range_mm):
    lost = lost_dose(machine, one_beam, range_mm, 0.0, 0.0)
    assert 0.0 < lost <= 0.005


@pytest.mark.parametrize("range_mm", [80, 200])
def test_a_spot_of_a_raster_loses_at_most_half_a_percent(machine, one_beam, range_mm):
    u, v = np.meshgrid(np.arange(-25, 26, 5.0), np.arange(-25, 26, 5.0))
    assert lost_dose(machine, one_beam, range_mm, u, v) <= 0.005


def test_the_energy_of_a_spot_arrives(machine, one_beam):
    # The sum over the tank is the depth dose's integral: MeV per particle over the water's mass.
    energy = energy_of(machine, 120)
    tank = deep_tank(140.0, 2.0, width_mm=240.0)
    influence = PencilBeamEngine(EVERYTHING).influence(tank, one_beam(energy, 0.0, 0.0), tank.grid)
    gy_cm3 = (influence @ np.ones(1)).astype(float).sum() * tank.grid.voxel_volume_cm3
    mev = gy_cm3 * 1e-3 / 1.602176634e-13  # 1 Gy cm³ of water is 1 mJ
    k = layer_kernel(machine, energy)
    expected = k.depth_dose_mev_cm2_g.astype(float).sum() * k.depth_step_mm / 10.0
    # rays fan out, so depth along them is a little longer than the tank's
    assert mev == pytest.approx(expected, rel=2e-3)
    assert 0.85 * machine.energy_mev[energy] < mev < machine.energy_mev[energy]


def test_bone_stops_the_beam_earlier(machine, one_beam):
    patient = half_slab_tank(1000.0, spacing_mm=2.0)
    rsp = rsp_volume(patient).max()  # 10 mm of it in the half x > 0
    energy = energy_of(machine, 70)
    plan = one_beam(energy, [-25.0, 25.0], 0.0)
    influence = PencilBeamEngine().influence(patient, plan, patient.grid)
    depth = patient.grid.axes_mm()[1] + 50.0
    water, bone = (distal_80(depth, integral_by_depth(influence, s)) for s in (0, 1))
    assert water - bone == pytest.approx(10.0 * (rsp - 1.0), abs=1.0)
