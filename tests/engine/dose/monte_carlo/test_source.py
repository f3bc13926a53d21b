"""Where protons start and where they go: spots, angles, phase space, set-up shifts."""

from dataclasses import replace

import numpy as np
import pytest

from engine.evaluation.comparison import axis_profile
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam
from engine.geometry.scenarios import Scenario
from engine.machine.library import load_machine
from engine.physics.materials import Material
from engine.physics.stopping_power import csda_range_mm

THIN = Material("thin", 1e-4, {"H": 0.111894, "O": 0.888106})  # nothing stops or scatters in it


@pytest.fixture(scope="module")
def screens(box):
    """A thin gas around the isocenter, in 10 mm of depth and pixels of 0.5 mm."""
    return box((60.0, 200.0, 60.0), (0.5, 10.0, 0.5), filling=THIN)


def seen(screens, dose, at_depth_mm, moments):
    """Mean and σ along x and z in the layer at a depth, pixels' own width taken off."""
    layer = dose[:, np.argmin(np.abs(screens.depth_mm - at_depth_mm))]
    z, _, x = screens.grid.axes_mm()
    (mean_x, sigma_x), (mean_z, sigma_z) = moments(x, layer.sum(0)), moments(z, layer.sum(1))
    own = 0.5**2 / 12
    return mean_x, mean_z, *(np.sqrt(max(s * s - own, 0.0)) for s in (sigma_x, sigma_z))


def test_ions_other_than_protons_are_refused(screens, spots):
    """Carbon would be followed as protons of its energy per nucleon, three times as far."""
    plan = spots(load_machine("generic_carbon"))
    with pytest.raises(ValueError, match="machine='generic_carbon' has no protons"):
        screens.dose(plan, 20)
    with pytest.raises(ValueError, match="machine='generic_carbon' has no protons"):
        screens.engine().influence(screens.patient, plan, screens.grid)


@pytest.mark.parametrize("u, v", [(0.0, 0.0), (12.25, -7.25), (-20.25, 15.75)])
def test_spots_hit_the_isoplane_at_u_and_v_and_diverge_from_the_source(
    screens, spots, proton_machine, moments, u, v
):
    machine = proton_machine(150.0, virtual_source_mm=1000.0)
    plan = spots(machine, u, v, isocenter_mm=(0.0, 105.0, 0.0))
    dose = screens.dose(plan, 20, "slowing down")
    for depth in (5.0, 105.0, 195.0):
        x, z, *_ = seen(screens, dose, depth, moments)
        grown = (1000.0 + depth - 105.0) / 1000.0
        # within a layer of 10 mm a slanted pencil crosses pixels
        assert x == pytest.approx(u * grown, abs=0.3)
        assert z == pytest.approx(v * grown, abs=0.3)


def test_two_scanning_magnets_have_sources_of_their_own(screens, spots, proton_machine, moments):
    machine = proton_machine(150.0, virtual_source_mm=1500.0, virtual_sources_mm=(2000.0, 1000.0))
    plan = spots(machine, 20.0, 20.0, isocenter_mm=(0.0, 5.0, 0.0))
    dose = screens.dose(plan, 20, "slowing down")
    x, z, *_ = seen(screens, dose, 195.0, moments)
    assert x == pytest.approx(20.0 * (1.0 + 190.0 / 2000.0), abs=0.3)
    assert z == pytest.approx(20.0 * (1.0 + 190.0 / 1000.0), abs=0.3)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.6])
def test_spots_grow_along_the_beam_as_their_phase_space_says(
    screens, spots, proton_machine, moments, correlation
):
    sigma, angle, n = 4.0, 0.012, 20_000
    machine = proton_machine(150.0, 0.0, sigma, angle, correlation, nozzle_to_isocenter_mm=200.0)
    plan = spots(machine, isocenter_mm=(0.0, 200.0, 0.0))  # starts at depth 0
    dose = screens.dose(plan, n, "slowing down")
    for depth in (5.0, 65.0, 125.0, 195.0):
        expected = np.sqrt(
            sigma**2 + 2 * correlation * sigma * angle * depth + (angle * depth) ** 2
        )
        *_, sigma_x, sigma_z = seen(screens, dose, depth, moments)
        for found in (sigma_x, sigma_z):
            assert found == pytest.approx(expected, rel=0.005 + 3.0 / np.sqrt(2 * n))


def test_a_second_gaussian_widens_the_spot_by_its_weight(screens, spots, proton_machine, moments):
    n, weight, wide = 20_000, 0.2, 9.0
    machine = proton_machine(
        150.0, sigma_mm=3.0, second=(weight, wide, 0.0), nozzle_to_isocenter_mm=50.0
    )
    dose = screens.dose(spots(machine), n, "slowing down")
    *_, sigma_x, sigma_z = seen(screens, dose, 105.0, moments)
    expected = np.sqrt((1 - weight) * 3.0**2 + weight * wide**2)
    assert 0.5 * (sigma_x + sigma_z) == pytest.approx(expected, rel=0.03)
    only = proton_machine(150.0, sigma_mm=3.0, second=(1.0, wide, 0.0))
    *_, alone, _ = seen(screens, screens.dose(spots(only), n, "slowing down"), 105.0, moments)
    assert alone == pytest.approx(wide, rel=0.02)


def test_a_set_up_shift_moves_the_beam_in_the_patient(screens, spots, proton_machine, moments):
    plan = spots(proton_machine(150.0), 0.25, 0.25)
    shifted = screens.dose(plan, 20, "slowing down", scenario=Scenario((5.0, 30.0, -3.0)))
    x, z, *_ = seen(screens, shifted, 105.0, moments)
    assert (x, z) == pytest.approx((5.25, -2.75), abs=1e-6)


ANGLES = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (35.0, 20.0), (300.0, -50.0),
          (90.0, 90.0), (-20.0, 80.0))  # fmt: skip


@pytest.mark.parametrize("gantry, couch", ANGLES)
def test_the_range_along_the_axis_is_the_same_at_all_angles(
    box, spots, proton_machine, gantry, couch
):
    # Protons start inside the cube, 30 mm before its middle: no surface has an angle to them.
    tank = box((100.0, 100.0, 100.0), 2.0)
    machine = proton_machine(80.0, 0.4, 4.0, nozzle_to_isocenter_mm=0.0)
    inside = (0.0, 50.0, 0.0)
    frame = beam_frame(Beam(gantry, inside, couch), 1e9)
    start = np.array(inside) - 30.0 * frame.direction
    plan = spots(machine, gantry_deg=gantry, couch_deg=couch, isocenter_mm=tuple(start))
    dose = tank.dose(plan, 15_000)
    axis = axis_profile(dose, tank.grid, start, frame.direction, 6.0)
    found = axis.distal_mm()
    # the detour, and what voxels of 2 mm add
    assert found == pytest.approx(0.9985 * float(csda_range_mm(80.0)), abs=0.3)


@pytest.mark.parametrize("gantry, couch", ANGLES[4:])
def test_spots_are_placed_in_the_beams_eye_view_at_all_angles(
    box, spots, proton_machine, gantry, couch
):
    gas = box((80.0, 80.0, 80.0), 2.0, filling=THIN)
    middle = (0.0, 40.0, 0.0)
    machine = proton_machine(150.0, virtual_source_mm=1000.0)
    plan = spots(machine, 14.0, -9.0, gantry_deg=gantry, couch_deg=couch, isocenter_mm=middle)
    dose = gas.dose(plan, 5, "slowing down").ravel()
    frame = beam_frame(plan.beams[0], 1000.0)
    met = gas.grid.points_mm(np.flatnonzero(dose))
    u, v, _ = frame.to_beam(met)
    # every voxel that the pencil crosses lies within half a diagonal of it
    np.testing.assert_allclose(u, 14.0, atol=np.sqrt(3.0) * 1.05)
    np.testing.assert_allclose(v, -9.0, atol=np.sqrt(3.0) * 1.05)
    along = (met - np.mean(met, axis=0)) @ frame.direction
    assert np.ptp(along) > 60.0


def test_opposite_spots_give_mirrored_doses(box, spots, proton_machine):
    tank = box((60.0, 60.0, 60.0), (4.0, 3.0, 4.0))
    machine = proton_machine(70.0, 0.5, 3.0)
    n = 40_000
    left, right = (tank.dose(spots(machine, u), n, seed=seed) for u, seed in ((7.0, 1), (-7.0, 2)))
    mirrored = right[:, :, ::-1]
    high = left > 0.3 * left.max()
    error = np.abs(left - mirrored)[high].mean() / left[high].mean()
    assert error < 0.03
    assert left.sum() == pytest.approx(right.sum(), rel=3e-3)
    z, _, x = tank.grid.axes_mm()
    means = [np.sum(x * d.sum(axis=(0, 1))) / d.sum() for d in (left, right)]
    assert means[0] == pytest.approx(-means[1], abs=0.1)
    assert means[0] == pytest.approx(7.0, abs=0.1)


def test_opposite_fields_share_their_frame_but_not_their_side(box, spots, proton_machine):
    tank = box((40.0, 80.0, 40.0), (4.0, 2.0, 4.0))
    machine = proton_machine(70.0, 0.5, 3.0)
    middle = (0.0, 40.0, 0.0)
    front, back = (
        tank.dose(spots(machine, gantry_deg=g, isocenter_mm=middle), 20_000) for g in (0.0, 180.0)
    )
    depth = front.sum(axis=(0, 2))
    np.testing.assert_allclose(depth, back.sum(axis=(0, 2))[::-1], atol=0.04 * depth.max())
    assert np.argmax(depth) < 25


def test_beams_of_a_plan_add_up(box, spots, proton_machine):
    tank = box((60.0, 60.0, 60.0), 4.0)
    machine = proton_machine(60.0, 0.5, 3.0)
    one = spots(machine, isocenter_mm=(0.0, 30.0, 0.0), weights=[2.0])
    both = replace(
        one, beams=(*one.beams, Beam(90.0, (0.0, 30.0, 0.0))),
        spot_beam=np.array([0, 1], np.uint16), spot_energy=np.zeros(2, np.uint16),
        u_mm=np.zeros(2, np.float32), v_mm=np.zeros(2, np.float32), weights=np.array([2.0, 3.0]),
    )  # fmt: skip
    engine = tank.engine(n_histories=30_000)
    together = engine.dose(tank.patient, both, tank.grid)["dose"].sum()
    parts = [engine.dose(tank.patient, both, tank.grid, beam=b)["dose"].sum() for b in (0, 1)]
    assert together == pytest.approx(sum(parts), rel=3e-3)
    assert parts[1] == pytest.approx(1.5 * parts[0], rel=3e-3)


def test_energies_beyond_the_data_are_refused(screens, spots, proton_machine):
    with pytest.raises(ValueError, match=r"energy_mev=290.0 of a spot lies above 280 MeV"):
        screens.dose(spots(proton_machine(290.0), 0.0, 0.0), 20, "slowing down")


def test_a_beam_without_any_width_is_a_line(screens, spots, proton_machine, moments):
    machine = proton_machine(150.0, sigma_mm=0.0, angle_rad=0.0)
    plan = spots(machine, 0.25, 0.25, isocenter_mm=(0.0, 5.0, 0.0))
    dose = screens.dose(plan, 20, "slowing down")
    *_, sigma_x, sigma_z = seen(screens, dose, 195.0, moments)
    assert max(sigma_x, sigma_z) < 0.2
