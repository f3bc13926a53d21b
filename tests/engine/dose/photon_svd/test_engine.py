from dataclasses import replace

import numpy as np
import pytest

from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Beam
from engine.machine.library import load_machine
from engine.machine.photon import square_field_gy
from engine.patient.phantoms import half_slab_tank, water_tank


@pytest.fixture(scope="module")
def tank():
    return water_tank((100.0, 220.0, 160.0), 4.0, 60.0)


def open_field(tank, side_mm=60.0):
    machine = load_machine("generic_photon")
    beam = Beam(0.0, isocenter_mm=(0.0, -10.0, 0.0))  # 10 cm deep
    at = np.arange(-0.5 * side_mm + 2.5, 0.5 * side_mm, 5.0)
    plan = place_bixels(tank, machine, [beam])
    u, v = np.meshgrid(at, at)
    n = u.size
    return replace(
        plan, spot_beam=np.zeros(n, np.uint16), spot_energy=np.zeros(n, np.uint16),
        u_mm=u.ravel().astype(np.float32), v_mm=v.ravel().astype(np.float32),
        weights=np.ones(n),
    )  # fmt: skip


def test_an_open_field_on_the_axis_is_the_sum_over_its_square(tank):
    """The engine's bixels against the integral of the kernels over the whole field."""
    plan = open_field(tank)
    dose = PhotonSvdEngine(reach_mm=200.0).dose(tank, plan, tank.grid)["dose"]
    z, y, x = tank.grid.axes_mm()
    at = (np.abs(z).argmin(), slice(None), np.abs(x).argmin())
    depth = y - y[0] + 2.0
    expected = square_field_gy(plan.machine, 60.0, depth) * (1000.0 / (1000.0 + y + 10.0)) ** 2
    off_axis = np.hypot(z[at[0]], x[at[2]])
    assert off_axis < 3.0
    np.testing.assert_allclose(dose[at][3:-3], expected[3:-3], rtol=4e-3)


def test_one_monitor_unit_of_the_reference_field_is_a_centigray():
    machine = load_machine("generic_photon")
    assert square_field_gy(machine, 100.0, np.array([100.0]))[0] == pytest.approx(0.01, rel=1e-6)


def test_half_the_dose_lies_at_the_field_edge(tank):
    plan = open_field(tank)
    dose = PhotonSvdEngine(reach_mm=200.0).dose(tank, plan, tank.grid)["dose"]
    z, y, x = tank.grid.axes_mm()
    profile = dose[np.abs(z).argmin(), np.abs(y + 10.0).argmin()]
    edge = np.interp(30.0, x, profile)
    assert edge == pytest.approx(0.5 * profile.max(), rel=0.05)


def test_reach_leaves_out_scatter_from_far_bixels_only(tank):
    plan = open_field(tank)
    whole = PhotonSvdEngine(reach_mm=200.0).dose(tank, plan, tank.grid)["dose"]
    cut = PhotonSvdEngine(reach_mm=60.0).dose(tank, plan, tank.grid)["dose"]
    assert np.all(cut <= whole * (1 + 1e-5) + 1e-9)
    middle = tuple(n // 2 for n in tank.grid.shape)
    assert cut[middle] == pytest.approx(whole[middle], rel=1e-3)  # all bixels are within reach


def test_depth_counts_electrons():
    """Behind 1 cm of bone the dose is that of a greater depth."""
    bone, water = half_slab_tank(1000.0, 2.0), half_slab_tank(0.0, 2.0)
    machine = load_machine("generic_photon")
    plan = place_bixels(water, machine, [Beam(0.0)], margin_mm=10.0)
    plan = plan.with_weights(np.ones(plan.n_spots))
    engine = PhotonSvdEngine()
    z, y, x = water.grid.axes_mm()
    behind = (np.abs(z).argmin(), np.abs(y - 20.0).argmin(), np.abs(x - 9.0).argmin())
    through = engine.dose(bone, plan, water.grid)["dose"][behind]
    plain = engine.dose(water, plan, water.grid)["dose"][behind]
    extra_mm = 10.0 * (1.53 - 1.0)  # electron density at 1000 HU, 1.53 (Schneider 2000)
    assert through / plain == pytest.approx(1.0 - 0.0045 * extra_mm, abs=6e-3)
    beside = (behind[0], behind[1], np.abs(x + 9.0).argmin())
    assert engine.dose(bone, plan, water.grid)["dose"][beside] == pytest.approx(
        engine.dose(water, plan, water.grid)["dose"][beside], rel=2e-3
    )


def test_protons_and_bixels_off_the_raster_are_refused(tank):
    plan = open_field(tank)
    proton = replace(plan, machine=load_machine("generic_proton"))
    with pytest.raises(ValueError, match="generic_photon"):
        PhotonSvdEngine().dose(tank, proton, tank.grid)
    with pytest.raises(ValueError, match="bixel_mm=7"):
        PhotonSvdEngine(bixel_mm=7.0).dose(tank, plan, tank.grid)
    u = plan.u_mm.copy()
    u[3] += 0.2
    with pytest.raises(ValueError, match="u_mm of beam 0"):
        PhotonSvdEngine().influence(tank, replace(plan, u_mm=u), tank.grid)


@pytest.mark.parametrize("arguments, named", [
    (dict(bixel_mm=0.3), "bixel_mm"), (dict(bixel_mm=float("nan")), "bixel_mm"),
    (dict(reach_mm=1.0), "reach_mm"), (dict(bixel_mm=20.0, reach_mm=20.0), "reach_mm"),
    (dict(reach_mm=500.0), "reach_mm"),
])  # fmt: skip
def test_impossible_settings_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        PhotonSvdEngine(**arguments)
