"""Materials and calibrations as the engine meets them, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.dose.monte_carlo.tables import Processes, physics_tables
from engine.errors import PhysicsWarning
from engine.geometry.plan import Plan
from engine.geometry.scenarios import NOMINAL, Scenario
from engine.machine.ion import RangeShifter
from engine.patient.ct import RspCurve, SchneiderCalibration
from engine.patient.grid import Grid
from engine.patient.known_medium import KnownMedium
from engine.patient.patient import Patient, Structure
from engine.patient.tissues import MATERIALS
from engine.physics.materials import WATER, Material, stopping_ratio_table
from engine.physics.nuclear_tables import load_nuclear_tables

BONE = MATERIALS["cortical_bone"]


@pytest.fixture(scope="module")
def plan(spots, proton_machine):
    return spots(proton_machine(100.0, 0.3, 2.0))


def ct(hu_by_depth, spacing_mm=1.0, half_mm=30.0) -> Patient:
    """A patient entered along y whose CT numbers (n,) change with depth only."""
    hu = np.asarray(hu_by_depth, np.float32)
    shape = (3, len(hu), 3)
    wide = 2.0 * half_mm / 3.0
    grid = Grid(shape, (wide, spacing_mm, wide), (-wide, 0.5 * spacing_mm, -wide))
    whole = np.ones(shape, bool)
    structures = {"External": Structure("External", whole, "external"),
                  "PTV": Structure("PTV", whole, "target")}  # fmt: skip
    volume = np.broadcast_to(hu[:, None], shape).copy()
    return Patient("ct", grid, volume, structures, {"PTV": 60.0}, 30)


def r80_of(engine, patient, plan, distal, scenario=NOMINAL):
    dose = engine.dose(patient, plan, patient.grid, scenario)["dose"].astype(float)
    return distal(patient.grid.axes_mm()[1], dose.sum(axis=(0, 2)))


@pytest.mark.parametrize("name", ["cortical_bone", "adipose", "lung"])
def test_dose_to_water_is_dose_to_medium_over_the_stopping_ratio(box, plan, name):
    material = MATERIALS[name].stated()
    block = box((40.0, 60.0, 40.0), (4.0, 2.0, 4.0), filling=material)
    water, medium = (
        block.dose(plan, 2000, "electromagnetic", scores=f"dose to {what}")
        for what in ("water", "medium")
    )
    # Range in bone 46 mm; the ratio at the energies there, from Bethe's formula
    ratios = stopping_ratio_table((material,), np.array([100.0, 2.0]), 75.0)[0]
    deposited = medium > 0.0
    found = medium[deposited] / water[deposited]
    low, high = np.sort(ratios)
    assert low - 1e-3 <= found.min() and found.max() <= high + 1e-3
    shallow = np.average(found, weights=water[deposited])
    assert shallow == pytest.approx(ratios[0], rel=0.01)
    if name == "cortical_bone":
        assert 1.0 / found.mean() == pytest.approx(1.136, abs=0.015)  # ICRU composition, additive


def test_in_water_dose_to_water_is_dose_to_medium(box, plan):
    tank = box((40.0, 90.0, 40.0), (4.0, 2.0, 4.0))
    doses = [tank.dose(plan, 2000, scores=f"dose to {what}") for what in ("water", "medium")]
    np.testing.assert_array_equal(*doses)


def test_the_transport_is_the_same_whatever_is_scored(box, plan):
    block = box((40.0, 60.0, 40.0), (4.0, 2.0, 4.0), filling=BONE)
    balances = [block.simulate(plan, 2000, scores=f"dose to {what}").balance
                for what in ("water", "medium")]  # fmt: skip
    assert balances[0] == balances[1]


@pytest.mark.parametrize("scale", [0.95, 1.05])
def test_a_density_scale_scales_the_range(box, plan, distal, scale):
    tank = box((60.0, 100.0, 60.0), (60.0, 0.5, 60.0))
    nominal, scaled = (
        distal(tank.depth_mm, tank.dose(plan, 6000, scenario=s).sum(axis=(0, 2)))
        for s in (Scenario(), Scenario(density_scale=scale))
    )
    assert scaled == pytest.approx(nominal / scale, abs=0.1)


@pytest.mark.parametrize("hu", [-700.0, -90.0, 40.0, 300.0, 1200.0])
def test_the_range_in_a_ct_is_that_of_its_relative_stopping_power(plan, distal, hu):
    calibration = SchneiderCalibration()
    rsp = float(calibration.rsp(np.array([hu]))[0])
    engine = MonteCarloEngine(n_histories=6000, calibration=calibration)
    layer_mm = 20.0 if rsp > 0.5 else 60.0
    depth = np.arange(0.25, 130.0, 0.5)
    behind = ct(np.where(depth < layer_mm, hu, 30.0), 0.5)
    bare = ct(np.full(260, 30.0), 0.5)
    soft = float(calibration.rsp(np.array([30.0]))[0])
    shift = r80_of(engine, bare, plan, distal) - r80_of(engine, behind, plan, distal)
    expected = layer_mm * (rsp / soft - 1.0)
    assert shift == pytest.approx(expected, abs=0.25)


def test_a_stopping_power_curve_gives_the_range_of_its_values(plan, distal):
    # A curve far from Schneider's: what counts is the curve.
    curve = RspCurve(((-1000.0, 0.001), (0.0, 0.9), (1000.0, 1.8)))
    engine = MonteCarloEngine(n_histories=6000, calibration=curve)
    ranges = [r80_of(engine, ct(np.full(n, hu), 0.5), plan, distal)
              for hu, n in ((0.0, 200), (1000.0, 120))]  # fmt: skip
    water = ranges[0] * 0.9
    assert water == pytest.approx(77.0, abs=0.4)  # 77.05, the projected range, in nearly water
    assert ranges[1] * 1.8 == pytest.approx(water, rel=0.006)


def test_a_coarser_dose_grid_gives_the_same_range(plan, distal):
    patient = ct(np.full(180, 0.0), 0.5)
    engine = MonteCarloEngine(n_histories=6000)
    fine = r80_of(engine, patient, plan, distal)
    grid = patient.grid.resampled((20.0, 2.0, 20.0))
    dose = engine.dose(patient, plan, grid)["dose"].astype(float)
    assert distal(grid.axes_mm()[1], dose.sum(axis=(0, 2))) == pytest.approx(fine, abs=0.3)


def test_materials_without_cross_sections_are_refused(box, plan, monkeypatch):
    # Every element that a material may hold has a table near by, as long as near is a factor of
    # 1.5 in mass; iodine's is tantalum's.
    monkeypatch.setattr("engine.physics.nuclear_tables.MAX_MASS_RATIO", 1.3)
    contrast = Material("contrast", 1.1, {"H": 0.10, "O": 0.80, "I": 0.10})
    block = box((40.0, 40.0, 40.0), 8.0, filling=contrast)
    with pytest.raises(ValueError, match=r"'contrast' is 10 % I: .*no nuclear table.* switch"):
        block.dose(plan, 10)
    assert block.dose(plan, 10, "electromagnetic").max() > 0.0
    # a trace is left out
    thyroid = box((40.0, 40.0, 40.0), 8.0, filling=MATERIALS["thyroid"])
    assert thyroid.dose(plan, 10).max() > 0.0


def test_every_material_that_a_structure_may_name_can_be_treated():
    materials = tuple(MATERIALS.values())
    tables = physics_tables(materials, 75.0, Processes())
    assert np.all(np.isfinite(tables.media))
    assert np.all(tables.media[:, :, 0] > 0.0)
    assert np.all(np.diff(tables.reactions, axis=2) >= 0.0)
    # no reaction is more frequent than its majorant
    assert np.all(tables.reactions[:, :, -1] <= tables.majorant + 1e-9)
    # 0.0099 per cm, the macroscopic cross section of water at 200 MeV (non-elastic alone)
    water = physics_tables((WATER,), 75.0, Processes(nuclear_elastic=False, proton_proton=False))
    assert 10.0 * water.reactions[0, 200, -1] == pytest.approx(0.0099, rel=0.01)
    assert "O" in load_nuclear_tables().symbols


def test_a_ct_with_holes_in_it_is_refused(plan):
    patient = ct(np.full(50, 0.0))
    patient.hu[1, 3, 1] = np.nan  # the patient was checked before
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        MonteCarloEngine(n_histories=10).dose(patient, plan, patient.grid)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(n_histories=0), "n_histories=0 must be a whole number"),
        (dict(n_histories=-5), "n_histories=-5 must"),
        (dict(n_histories=1.5), "n_histories=1.5 must"),
        (dict(n_histories=True), "n_histories=True must"),
        (dict(n_histories="1e5"), "n_histories='1e5' must"),
        (dict(n_histories=float("nan")), "n_histories=nan must"),
        (dict(n_histories=float("inf")), "n_histories=inf must"),
        (dict(uncertainty_percent=None), "uncertainty_percent=None must"),
        (dict(seed=1.5), "seed=1.5 must"),
        (dict(seed="a"), "seed='a' must"),
        (dict(n_histories=10**12), "n_histories=1000000000000 must"),
        (dict(histories_per_spot=0), "histories_per_spot=0 must"),
        (dict(max_histories=0), "max_histories=0 must"),
        (dict(uncertainty_percent=0.0), "uncertainty_percent=0.0 must lie above 0"),
        (dict(uncertainty_percent=float("nan")), "uncertainty_percent=nan must"),
        (dict(uncertainty_percent=101.0), "uncertainty_percent=101.0 must"),
        (dict(entry_cutoff=-1e-3), "entry_cutoff=-0.001 must"),
        (dict(entry_cutoff=0.2), "entry_cutoff=0.2 must lie in 0 … 0.1; 1e-3 is usual"),
        (dict(entry_cutoff=None), "entry_cutoff=None must"),
        (dict(seed=-1), "seed=-1 must"),
        (dict(seed=2**63), "seed=9223372036854775808 must"),
        (dict(i_water_ev=7.5), "i_water_ev=7.5 must lie in 60"),
        (dict(i_water_ev="78"), "i_water_ev='78' must"),
        (dict(scores="dose to bone"), "scores='dose to bone' is unknown; choose 'dose to water'"),
        (dict(scored_particles="neutrons"), "scored_particles='neutrons' is unknown"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MonteCarloEngine(**settings)


@pytest.mark.parametrize("n", [1e4, np.int64(100), np.float64(100.0)])
def test_whole_numbers_of_any_type_are_numbers_of_histories(box, plan, n):
    tank = box((40.0, 40.0, 40.0), 8.0)
    found = tank.simulate(plan, n)
    assert found.n_histories == int(n)
    np.testing.assert_array_equal(
        found.quantities["dose"], tank.simulate(plan, int(n)).quantities["dose"]
    )


def test_plans_without_spots_or_with_negative_weights_are_refused(box, plan):
    tank = box((40.0, 40.0, 40.0), 8.0)
    none = Plan(plan.machine, plan.beams, *(a[:0] for a in (
        plan.spot_beam, plan.spot_energy, plan.u_mm, plan.v_mm, plan.weights,
    )))  # fmt: skip
    with pytest.raises(ValueError, match="no spots"):
        tank.dose(none, 10)
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="weights of the plan must be finite and 0 or more"):
            tank.dose(plan.with_weights(np.array([weight])), 10)


@pytest.mark.parametrize("quantity", ["dose_error", "letd"])
def test_columns_hold_dose_only(box, plan, quantity):
    tank = box((40.0, 40.0, 40.0), 8.0)
    with pytest.raises(ValueError, match=quantity):
        tank.engine(histories_per_spot=5).influence(
            tank.patient, plan, tank.grid, quantities=(quantity,)
        )


def test_a_known_medium_of_another_shape_is_refused(box, plan):
    tank, other = box((40.0, 40.0, 40.0), 8.0), box((40.0, 40.0, 40.0), 4.0)
    with pytest.raises(ValueError, match="shape"):
        other.engine(n_histories=10).dose(tank.patient, plan, tank.grid)


def test_like_is_the_same_engine_in_a_known_medium(box):
    tank = box((40.0, 40.0, 40.0), 8.0, i_water_ev=78.0)
    engine = MonteCarloEngine(n_histories=5, seed=7, straggling=False)
    like = engine.like(tank.medium, False, "dose to medium")
    assert isinstance(like.calibration, KnownMedium) and like.i_water_ev == 78.0
    assert like == replace(
        engine, calibration=tank.medium, i_water_ev=78.0, scores="dose to medium",
        non_elastic=False, nuclear_elastic=False, proton_proton=False,
    )  # fmt: skip
    assert not like.straggling and like.seed == 7


def test_an_unknown_shifter_is_refused(box, plan, spots):
    machine = replace(plan.machine, range_shifters=(RangeShifter("a", 1.0, 1.0),))
    tank = box((40.0, 40.0, 40.0), 8.0)
    with pytest.raises(ValueError, match="range_shifter='b' is unknown"):
        tank.dose(spots(machine, range_shifter="b", shifter_exit_mm=-10.0), 10)


def test_like_leaves_off_what_was_off(box):
    tank = box((40.0, 40.0, 40.0), 8.0)
    like = MonteCarloEngine(proton_proton=False).like(tank.medium, True, "dose to medium")
    assert (like.non_elastic, like.nuclear_elastic, like.proton_proton) == (True, True, False)


def test_a_calibration_for_another_water_is_refused():
    curve = RspCurve(((-1000.0, 0.0), (0.0, 1.0), (3000.0, 2.6)), i_water_ev=78.0)
    with pytest.raises(ValueError, match="i_water_ev=78, the engine has i_water_ev=75"):
        MonteCarloEngine(calibration=curve)
    assert MonteCarloEngine(calibration=curve, i_water_ev=78.0).calibration is curve


def test_a_matrix_of_no_voxels_has_no_rows(box, plan):
    tank = box((40.0, 40.0, 40.0), 8.0)
    engine = tank.engine(histories_per_spot=5)
    with pytest.warns(PhysicsWarning, match="give no dose"):
        matrix = engine.influence(tank.patient, plan, tank.grid, voxels=np.array([], int))
    assert (matrix.n_rows, matrix.n_spots) == (0, plan.n_spots)
    assert matrix.dose(np.ones(plan.n_spots)).shape == (0,)
