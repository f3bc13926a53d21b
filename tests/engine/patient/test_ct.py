import numpy as np
import pytest

from engine.patient.ct import (
    MATERIALS,
    RspCurve,
    SchneiderCalibration,
    density_volume,
    rsp_volume,
)
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.tissues import BIN_MATERIALS, BIN_STARTS_HU
from engine.physics.materials import stopping_ratio_table

SCHNEIDER = SchneiderCalibration()


def slab(hu, *structures, external_material=None):
    grid = Grid.centered((4, 6, 6), (3.0, 3.0, 3.0))
    body, target = np.ones(grid.shape, bool), np.zeros(grid.shape, bool)
    body[:, 0], target[1:3, 2:4, 2:4] = False, True
    named = [
        Structure("External", body, "external", material=external_material),
        Structure("PTV", target, "target"),
        *structures,
    ]
    return Patient(
        "slab",
        grid,
        np.full(grid.shape, hu, np.float32),
        {s.name: s for s in named},
        {"PTV": 60.0},
        30,
    )


@pytest.mark.parametrize(
    ("hu", "density"),  # Schneider 2000, the piecewise density curve evaluated by hand
    [(-1000, 0.00121), (-500, 0.51606), (-98, 0.930486), (0, 1.018), (20, 1.030), (50, 1.06145),
     (1000, 1.609), (2500, 2.451), (2995, 4.54)],
)  # fmt: skip
def test_density_follows_schneiders_curve(hu, density):
    assert SCHNEIDER.density_g_cm3(hu) == pytest.approx(density, rel=1e-5)


@pytest.mark.parametrize(
    ("hu", "rsp"),  # Bethe formula at 100 MeV with Bragg additivity over the bins of Schneider 2000
    [(-535, 0.476), (-68, 0.975), (-8, 1.017), (49, 1.053), (250, 1.138), (750, 1.355),
     (1450, 1.658)],
)  # fmt: skip
def test_rsp_of_bin_centers_matches_hand_evaluation(hu, rsp):
    assert SCHNEIDER.rsp(hu) == pytest.approx(rsp, abs=1.5e-3)


def test_compositions_are_twenty_four_tissues_and_metal():
    assert len(BIN_MATERIALS) == 25
    assert np.array_equal(SCHNEIDER.composition(BIN_STARTS_HU), np.arange(25))
    assert np.array_equal(SCHNEIDER.composition(BIN_STARTS_HU[1:] - 1), np.arange(24))
    for material in BIN_MATERIALS:
        assert sum(material.mass_fractions.values()) == pytest.approx(1.0)


def test_rsp_never_falls_by_more_than_schneiders_jumps():
    step = np.diff(SCHNEIDER.rsp(np.arange(-1000, 2995)))
    assert step.min() > -0.05  # the density curve itself drops at 101 HU, from 1.121 to 1.077


def test_hu_is_rounded_and_clipped():
    assert SCHNEIDER.rsp(-2000.0) == SCHNEIDER.rsp(-1000.0)
    assert SCHNEIDER.rsp(21767.0) == SCHNEIDER.rsp(3000.0)
    assert SCHNEIDER.rsp(40.4) == SCHNEIDER.rsp(40)
    assert SCHNEIDER.rsp(40.6) == SCHNEIDER.rsp(41)
    with pytest.raises(ValueError, match="NaN"):
        SCHNEIDER.rsp(np.array([0.0, np.nan]))


def test_water_override_is_exactly_water():
    patient = slab(0.0, external_material="water")
    body = patient.external.mask
    assert np.all(rsp_volume(patient)[body] == 1.0)
    assert np.all(density_volume(patient)[body] == 1.0)
    assert np.all(rsp_volume(patient, RspCurve(((-1000, 0.1), (0, 0.9)), 150.0))[body] == 1.0)


def test_beyond_the_external_is_vacuum_unless_supported():
    couch = np.zeros((4, 6, 6), bool)
    couch[:2, 0] = True
    bare, supported = slab(100.0), slab(100.0, Structure("Couch", couch, "support", "pmma"))
    assert np.all(rsp_volume(bare)[:, 0] == 0.0)
    assert np.all(rsp_volume(supported)[2:, 0] == 0.0)
    assert rsp_volume(supported)[0, 0, 0] == pytest.approx(1.165, abs=2e-3)  # PMMA, ICRU 46


def test_inner_overrides_win_over_the_external():
    insert = np.zeros((4, 6, 6), bool)
    insert[:, 4] = True
    patient = slab(
        0.0, Structure("Bone", insert, "organ", "cortical_bone"), external_material="water"
    )
    assert density_volume(patient)[0, 4, 0] == pytest.approx(1.92)
    assert density_volume(patient)[0, 3, 0] == 1.0


def test_inputs_stay_as_they_were():
    patient = slab(0.0, external_material="water")
    before = patient.hu.copy()
    first = rsp_volume(patient)
    first[:] = -1.0
    assert np.array_equal(patient.hu, before)
    assert rsp_volume(patient).max() == 1.0


def test_unknown_material_is_refused():
    with pytest.raises(ValueError, match="unobtainium.*choose from"):
        rsp_volume(slab(0.0, external_material="unobtainium"))


def test_compositions_index_the_calibrations_own_materials():
    hu, curve = np.arange(-1000, 3001), RspCurve(((-1000, 0.0), (3000, 2.6)))
    for calibration in (SCHNEIDER, curve):
        assert calibration.materials is BIN_MATERIALS
        assert calibration.composition(hu).dtype == np.uint8
        assert calibration.composition(hu).max() < len(calibration.materials)


def test_density_of_a_user_curve_reproduces_it_beside_water_of_any_excitation_energy():
    points, hu = ((-1000, 0.001), (0, 1.0), (3000, 2.505)), np.array([-500.0, 40.0, 1200.0])
    for i_water_ev in (75.0, 78.0):
        curve = RspCurve(points, 150.0, i_water_ev)
        ratios = stopping_ratio_table(curve.materials, [150.0], i_water_ev)[:, 0]
        again = curve.density_g_cm3(hu) * ratios[curve.composition(hu)]
        np.testing.assert_allclose(again, curve.rsp(hu), rtol=1e-6)


def test_user_curve_is_interpolated_and_its_density_reproduces_it():
    # The default curve of many research planners: (HU, RSP).
    curve = RspCurve(((-1000, 0.001), (-90, 0.95), (0, 1.0), (100, 1.095), (3000, 2.505)))
    assert curve.rsp(50) == pytest.approx(1.0475)
    hu = np.array([-700.0, 0.0, 60.0, 900.0])
    per_density = SCHNEIDER.rsp(hu) / SCHNEIDER.density_g_cm3(hu)
    np.testing.assert_allclose(curve.density_g_cm3(hu) * per_density, curve.rsp(hu), rtol=1e-5)


@pytest.mark.parametrize(
    "points", [((0, 1.0),), ((0, 1.0), (0, 1.1)), ((0, 1.0), (10, -0.1)), ((0, np.nan), (1, 1.0))]
)
def test_bad_curves_are_refused(points):
    with pytest.raises(ValueError, match="points="):
        RspCurve(points)


def test_overrides_offer_tissues_and_phantom_materials():
    offered = {"water", "air", "pmma", "titanium", "brass", "cortical_bone", "muscle", "lung"}
    assert offered <= set(MATERIALS)
