"""The adjoint of the deterministic engine: transposes, Taylor, finite differences, repeat CTs."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from engine.dose.yoda import _fokker_planck as fp
from engine.dose.yoda._adjoint import (
    backward_arrays,
    march_adjoint,
    recorded_march,
    tape_arrays,
    transposed_solve,
)
from engine.dose.yoda._solve import work_arrays
from engine.dose.yoda.adjoint import dose_adjoint, mean_dose_weights
from engine.dose.yoda.coefficients import material_coefficients
from engine.dose.yoda.engine import YodaEngine
from engine.dose.yoda.layers import Physics, _layer
from engine.dose.yoda.solution import Setup
from engine.geometry.plan import Beam, Plan
from engine.geometry.scenarios import NOMINAL
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.machine.library import load_machine
from engine.machine.single_spots import SpotKind
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.phantoms import half_slab_tank
from engine.physics.materials import WATER

# Steps in every cell but of air: hardly ever does it jump which are due.
ENGINE = YodaEngine(scheme="1+6+6+12", adaptive=False, fokker_planck_step_mm=0.1)
N_CELLS = 100


@pytest.fixture(scope="module")
def layer():
    return _layer(100.0, 1.0, Physics(75.0, "moliere", True, 0.0), None, None, (9.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def cells():
    """A ray of 1 mm cells of random density and composition, with vacuum."""
    rng = np.random.default_rng(1)
    of_water = material_coefficients([WATER], 75.0, "moliere", True)[0]
    random = 1.0 + 0.1 * rng.uniform(-1.0, 1.0, (N_CELLS, fp.N_COEFFICIENTS))
    cells = rng.uniform(0.3, 1.6, N_CELLS)[:, None] * of_water * random
    cells[:, fp.D] += 0.02 * rng.uniform(-1.0, 1.0, N_CELLS)
    cells[10:13] = 0.0
    return cells


@pytest.fixture(scope="module")
def bars():
    """Of stations and scatter: a random functional of all that comes out of a march."""
    rng = np.random.default_rng(2)
    stations = np.zeros((N_CELLS + 1, fp.N_STATION))
    stations[:, fp.ENERGY_MEV] = 0.01 * rng.normal(size=N_CELLS + 1)
    stations[:, fp.SURVIVING] = rng.normal(size=N_CELLS + 1)
    stations[:, fp.WATER_MM] = 0.01 * rng.normal(size=N_CELLS + 1)
    return stations, 1e3 * rng.normal(size=(N_CELLS, 2))


def marched(layer, cells, spectrum=None, s_mm=0.0, step_mm=0.0, march=fp.march, tape=()):
    n = len(layer.spectrum)
    stations, scatter = np.zeros((len(cells) + 1, fp.N_STATION)), np.zeros((len(cells), 2))
    u = (layer.spectrum if spectrum is None else spectrum).copy()
    passed = march(
        u, *layer.edges, s_mm, cells, step_mm, (layer.axis.coefficients, layer.axis.logs),
        layer.moments, work_arrays(n), np.zeros((3, n, 3)), stations, scatter, *tape,
    )  # fmt: skip
    return passed, stations, scatter


def value(layer, cells, bars, **start):
    passed, stations, scatter = marched(layer, cells, **start)
    return np.vdot(stations[: passed + 1], bars[0][: passed + 1]) + np.vdot(
        scatter[:passed], bars[1][:passed]
    )


def gradient(layer, cells, bars):
    """Bars of the cells, of the first spectrum, and of s, water and protons there."""
    n = len(layer.spectrum)
    tape = tape_arrays(len(cells), n)
    passed, stations, _ = marched(layer, cells, march=recorded_march, tape=(tape,))
    cells_bar, spectrum_bar, start_bar = np.zeros(cells.shape), np.zeros((n, 3)), np.zeros(3)
    march_adjoint(
        passed, *layer.edges, cells, (layer.axis.coefficients, layer.axis.logs), layer.moments,
        stations, tape, backward_arrays(n), *bars, spectrum_bar, start_bar, cells_bar,
    )  # fmt: skip
    return cells_bar, spectrum_bar, start_bar


def test_the_transposed_solve_is_the_transpose_of_the_solve():
    rng = np.random.default_rng(0)
    n, first = 9, 2
    lower, diagonal, upper = (rng.normal(size=(n, 3, 3)) for _ in range(3))
    diagonal += 8.0 * np.eye(3)
    b, c = rng.normal(size=(2, n, 3))
    x, y = b.copy(), c.copy()
    fp.solve(lower, diagonal, upper, first, x)
    transposed_solve(lower, diagonal, upper, first, y)
    assert np.vdot(c[first:], x[first:]) == pytest.approx(np.vdot(y[first:], b[first:]), rel=1e-12)


@pytest.mark.parametrize("step_mm", (0.0, 2.0))
def test_a_recorded_march_is_the_march(layer, cells, step_mm):
    plain = marched(layer, cells, step_mm=step_mm)
    tape = tape_arrays(len(cells), len(layer.spectrum))
    recorded = marched(layer, cells, step_mm=step_mm, march=recorded_march, tape=(tape,))
    for one, other in zip(plain, recorded):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("column", range(fp.RELEASES))
def test_the_gradient_of_a_march_matches_finite_differences(layer, cells, bars, column):
    step = np.zeros(cells.shape)
    step[:, column] = 1e-5 * np.random.default_rng(3).normal(size=N_CELLS) * cells[:, column]
    found = np.vdot(gradient(layer, cells, bars)[0], step)
    difference = value(layer, cells + step, bars) - value(layer, cells - step, bars)
    assert found == pytest.approx(0.5 * difference, rel=1e-5)


def test_what_the_gradient_of_a_march_leaves_is_of_second_order(layer, cells, bars):
    direction = np.random.default_rng(4).normal(size=N_CELLS)[:, None] * cells
    slope, base = np.vdot(gradient(layer, cells, bars)[0], direction), value(layer, cells, bars)
    rest = [
        abs(value(layer, cells + e * direction, bars) - base - e * slope) for e in (1e-4, 1e-5)
    ]
    assert rest[0] / rest[1] == pytest.approx(100.0, rel=0.2)


def test_the_gradient_of_a_march_reaches_its_start(layer, cells, bars):
    _, spectrum_bar, start_bar = gradient(layer, cells, bars)
    random = np.random.default_rng(5).normal(size=spectrum_bar.shape)
    step = 1e-4 * random * np.abs(layer.spectrum)
    difference = value(layer, cells, bars, spectrum=layer.spectrum + step) - value(
        layer, cells, bars, spectrum=layer.spectrum - step
    )
    assert np.vdot(spectrum_bar, step) == pytest.approx(0.5 * difference, rel=1e-5)
    later, sooner = (value(layer, cells, bars, s_mm=s) for s in (1e-4, -1e-4))
    assert start_bar[:2].sum() == pytest.approx((later - sooner) / 2e-4, rel=1e-5)


@pytest.fixture(scope="module")
def patient():
    """6 cm of smoothly varying tissue behind 4 mm of vacuum, with slabs of bone and of air."""
    grid = Grid.centered((24, 30, 24), (2.0,) * 3)
    hu = 2500.0 * gaussian_filter(np.random.default_rng(0).normal(size=grid.shape), 2.0)
    hu[:, 8:12, 12:], hu[:, 14:17, :9] = 700.0, -950.0
    body, target = np.ones(grid.shape, bool), np.zeros(grid.shape, bool)
    body[:, :2], target[10:14, 16:20, 10:14] = False, True
    structures = (Structure("External", body, "external"), Structure("PTV", target, "target"))
    return Patient(
        "tissue", grid, hu.astype(np.float32), {s.name: s for s in structures}, {"PTV": 60.0}, 30
    )


@pytest.fixture(scope="module")
def weights(patient):
    region = np.zeros(patient.grid.shape, bool)
    region[8:16, 12:24, 8:17] = True
    return mean_dose_weights(region)


@pytest.fixture(scope="module")
def plan():
    """Two spots of 70 MeV that differ in weight, oblique."""
    direction = np.array([0.25, 1.0, 0.15]) / np.linalg.norm([0.25, 1.0, 0.15])
    kind = SpotKind(70.0, 0.7, 3.0, 2e-3)
    starts = (-70.0 * direction, -70.0 * direction + [3.0, 0.0, 2.0])
    return plan_of([
        SingleSpot(kind, tuple(start), tuple(direction), weight)
        for start, weight in zip(starts, (1e9, 5e8))
    ])  # fmt: skip


@pytest.fixture(scope="module")
def adjoint(patient, plan, weights):
    return dose_adjoint(ENGINE, patient, plan, patient.grid, weights)


def functional(weights, patient, plan, engine=ENGINE):
    dose = engine.dose(patient, plan, patient.grid)["dose"]
    return float(np.vdot(weights, dose.astype(np.float64)))


def from_setup(weights, setup: Setup) -> float:
    return float(np.vdot(weights, setup.dose(["dose"])["dose"].astype(np.float64)))


def test_the_value_is_that_of_the_dose(adjoint, patient, plan, weights):
    assert adjoint.value == pytest.approx(functional(weights, patient, plan), rel=1e-6)
    assert adjoint.spot_weight_gradient @ plan.weights == pytest.approx(adjoint.value, rel=1e-12)


def test_spots_without_weight_are_left_out(adjoint, patient, plan, weights):
    alone = plan.with_weights(plan.weights * [1.0, 0.0])
    found = dose_adjoint(ENGINE, patient, alone, patient.grid, weights)
    assert found.value == pytest.approx(adjoint.spot_weight_gradient[0] * plan.weights[0])
    assert np.isnan(found.spot_weight_gradient[1]) and np.isnan(found.spot_energy_gradient[1])


# Coefficients of scattering bend rays a little, across voxels in which matter jumps; stopping and
# reactions do not. What single precision leaves of differences limits the others.
@pytest.mark.parametrize(
    "column, step, rel",
    ((fp.C, 1e-3, 2e-3), (fp.D, 3e-2, 5e-3), (fp.STRENGTH, 3e-3, 0.03),
     (fp.LOG_CONSTANT, 3e-3, 0.03), (fp.REACTS, 3e-3, 1e-4), (fp.RELEASES, 3e-3, 1e-4)),
)  # fmt: skip
def test_the_gradient_of_all_voxels_matches_finite_differences(
    adjoint, patient, plan, weights, column, step, rel
):
    setup = ENGINE.setup(patient, plan, patient.grid, NOMINAL, ENGINE.scheme)
    of_voxels = setup.medium.density_g_cm3 * setup.table[setup.medium.material, column]
    values = []
    for sign in (1.0, -1.0):
        setup.table = setup.table.copy()
        setup.table[:, column] = adjoint_table(patient, plan)[:, column] * (1.0 + sign * step)
        values.append(from_setup(weights, setup))
    difference = (values[0] - values[1]) / (2.0 * step)
    assert np.vdot(adjoint.gradient[column], of_voxels) == pytest.approx(difference, rel=rel)


def adjoint_table(patient, plan) -> np.ndarray:
    return ENGINE.setup(patient, plan, patient.grid, NOMINAL, ENGINE.scheme).table


def test_the_gradient_tells_voxels_apart(adjoint, patient, plan, weights):
    rng = np.random.default_rng(6)
    setup = ENGINE.setup(patient, plan, patient.grid, NOMINAL, ENGINE.scheme)
    medium, density = setup.medium, setup.medium.density_g_cm3.astype(np.float64)
    rates = np.einsum("kzyx,zyxk->zyx", adjoint.gradient, setup.table[medium.material])
    slab = np.zeros(patient.grid.shape)
    slab[:, 8:12] = 1.0
    for where in (slab, rng.normal(size=patient.grid.shape)):
        step, values = 3e-3 * where * density, []
        for sign in (1.0, -1.0):
            setup.medium = replace(medium, density_g_cm3=density + sign * step)
            values.append(from_setup(weights, setup))
        found = float(np.vdot(rates, step))
        assert found == pytest.approx(0.5 * (values[0] - values[1]), rel=0.01)


def test_spot_gradients_match_finite_differences(adjoint, patient, plan, weights):
    """Positions over a voxel, since matter jumps; energies over as much as smooths the groups."""

    def moved(**by) -> float:
        changes = {name: getattr(plan, name) + np.float32(d) for name, d in by.items()}
        return functional(weights, patient, replace(plan, **changes))

    for axis, name in enumerate(("u_mm", "v_mm")):
        steps = np.array([0.6, 0.8, 1.0, 1.2, 1.4])
        slope = np.mean([(moved(**{name: h}) - moved(**{name: -h})) / (2.0 * h) for h in steps])
        found = adjoint.spot_position_gradient[:, axis].sum()
        assert found == pytest.approx(slope, rel=0.1, abs=1e-3)

    def at_energy(by_mev: float) -> float:
        machine = replace(plan.machine, energy_mev=plan.machine.energy_mev + by_mev)
        return functional(weights, patient, replace(plan, machine=machine))

    slope = (at_energy(1.0) - at_energy(-1.0)) / 2.0
    assert adjoint.spot_energy_gradient.sum() == pytest.approx(slope, rel=0.05)


def test_the_energy_gradient_goes_through_a_range_shifter(patient, weights, monkeypatch):
    machine = load_machine("generic_proton")
    shifter = machine.range_shifters[0]
    index = machine.energy_index(115.0)
    beam = Beam(0.0, (0.0, 0.0, 0.0), range_shifter=shifter.name, shifter_exit_mm=-80.0)
    zero = np.zeros(1, np.uint16)
    plan = Plan(
        machine, (beam,), zero, zero + np.uint16(index), np.zeros(1, np.float32) + 0.3,
        np.zeros(1, np.float32), np.array([1e9]),
    )  # fmt: skip
    engine = replace(ENGINE, scheme="1")
    found = dose_adjoint(engine, patient, plan, patient.grid, weights)
    setup = engine.setup(patient, plan, patient.grid, NOMINAL, engine.scheme)
    air = setup.layer(0).air_variance
    energy, std = float(machine.energy_mev[index]), float(machine.energy_std_mev[index])
    values = []
    for by in (1.0, -1.0):
        other = _layer(energy + by, std, setup.physics, shifter, -80.0, air)
        monkeypatch.setattr(setup, "layer", lambda spot, other=other: other)
        values.append(from_setup(weights, setup))
    slope = 0.5 * (values[0] - values[1])
    assert found.spot_energy_gradient[0] == pytest.approx(slope, rel=0.05)


def test_a_repeat_ct_is_predicted_and_the_same_one_changes_nothing(
    adjoint, patient, plan, weights
):
    assert adjoint.change(patient) == 0.0
    denser = replace(patient, hu=patient.hu + np.float32(20.0))
    truth = functional(weights, denser, plan) - adjoint.value
    assert adjoint.change(denser) == pytest.approx(truth, rel=0.05)


def test_matter_that_grows_into_vacuum_is_predicted(adjoint, patient, plan, weights):
    body = patient.external.mask.copy()
    body[:, 1] = True
    grown = patient.with_structures(Structure("External", body, "external"))
    truth = functional(weights, grown, plan) - adjoint.value
    assert adjoint.change(grown) == pytest.approx(truth, rel=0.05)


def test_hu_gradients_are_those_of_changes(adjoint, patient):
    by = np.float32(10.0)
    more, less = (replace(patient, hu=patient.hu + d) for d in (by, -by))
    slope = (adjoint.change(more) - adjoint.change(less)) / (2.0 * by)
    inside = np.abs(patient.hu) < 900.0  # not clipped
    found = adjoint.hu_gradient(10.0)
    clipped = float(np.abs(found[~inside]).sum())
    assert found.sum() == pytest.approx(slope, abs=clipped + 1e-9)
    assert not found[~patient.external.mask].any()


def test_the_half_slab_is_predicted_as_in_the_paper():
    """Burlacu et al. 2024, section 3.2: at most 2.2 %, at −1000 HU."""
    base = half_slab_tank(0.0)
    kind = SpotKind(100.0, 1.0, 3.0, 1e-8)
    plan = plan_of([SingleSpot(kind, (0.0, -50.0, 0.0), (0.0, 1.0, 0.0), 1e9)])
    deep = np.broadcast_to((base.grid.axes_mm()[1] > 10.0)[None, :, None], base.grid.shape)
    weights, engine = mean_dose_weights(deep), YodaEngine(adaptive=False)
    adjoint = dose_adjoint(engine, base, plan, base.grid, weights)
    for hu, worst in ((-1000.0, 0.022), (-500.0, 0.01), (100.0, 1e-3), (1000.0, 0.01)):
        changed = half_slab_tank(hu)
        truth = functional(weights, changed, plan, engine)
        assert adjoint.value + adjoint.change(changed) == pytest.approx(truth, rel=worst)


def test_what_has_no_adjoint_is_refused(adjoint, patient, plan, weights):
    grid = patient.grid
    with pytest.raises(ValueError, match="dose to medium"):
        dose_adjoint(replace(ENGINE, scores="dose to medium"), patient, plan, grid, weights)
    with pytest.raises(ValueError, match="weights have shape"):
        dose_adjoint(ENGINE, patient, plan, grid, weights[1:])
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        dose_adjoint(
            ENGINE, patient, plan, grid, np.where(np.arange(weights.size) == 7, np.nan, 0.0)
            .reshape(weights.shape),
        )  # fmt: skip
    with pytest.raises(ValueError, match="mask is empty"):
        mean_dose_weights(np.zeros(grid.shape, bool))
    moved = Grid(grid.shape, grid.spacing_mm, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="resample it to the planning CT's grid"):
        adjoint.change(replace(patient, grid=moved))
    broken = replace(patient, hu=patient.hu.copy())
    broken.hu[:] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        adjoint.change(broken)
    with pytest.raises(ValueError, match="step_hu"):
        adjoint.hu_gradient(0.1)
