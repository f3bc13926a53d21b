"""Where spots enter, and how deep and how finely they are split."""

import numpy as np
import pytest

from engine.dose.yoda._fokker_planck import REACTS, RELEASES, C
from engine.dose.yoda.coefficients import material_coefficients
from engine.dose.yoda.splitting import scheme
from engine.dose.yoda.spots import lever_mm, split, split_station, spot_axis, widened
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam
from engine.patient.grid import Grid
from engine.physics.materials import WATER, Material

GRID = Grid.centered((50, 50, 50), (2.0, 2.0, 2.0))
SOURCES = (2000.0, 2000.0)


def axis_of(gantry_deg=0.0, u_mm=0.0, v_mm=0.0, from_t_mm=-500.0, couch_deg=0.0):
    frame = beam_frame(Beam(gantry_deg, (0.0, 0.0, 0.0), couch_deg), 2000.0)
    return spot_axis(frame, SOURCES, u_mm, v_mm, GRID, from_t_mm)


def test_an_axis_enters_at_the_grids_face():
    axis = axis_of()
    np.testing.assert_allclose(axis.start_mm, [0.0, -50.0, 0.0], atol=1e-9)
    assert axis.length_mm == pytest.approx(100.0) and axis.t_mm == pytest.approx(-50.0)
    np.testing.assert_allclose(axis.axes @ axis.axes.T, np.eye(3), atol=1e-12)


def test_an_axis_begins_no_farther_upstream_than_it_may():
    assert axis_of(from_t_mm=-20.0).t_mm == pytest.approx(-20.0)
    assert widened(axis_of(35.0, from_t_mm=-20.0), 12.0, 1.0, GRID, -20.0).t_mm >= -20.0


def test_an_axis_beside_the_grid_is_none():
    assert axis_of(u_mm=80.0) is None


def test_an_oblique_spot_begins_where_its_first_protons_enter():
    axis = axis_of(30.0)
    whole = widened(axis, 12.0, 1.0, GRID, -500.0)
    before = axis.t_mm - whole.t_mm
    assert 12.0 * np.tan(np.radians(30.0)) <= before < 1.0 + 1.5 * 12.0 * np.tan(np.radians(30.0))
    assert before == pytest.approx(round(before))
    assert whole.length_mm >= axis.length_mm + before
    straight = axis_of()
    assert widened(straight, 12.0, 1.0, GRID, -500.0).t_mm == pytest.approx(straight.t_mm)


@pytest.mark.parametrize("name", ("1", "1+6", "1+6+6+12", "1+6+6+12+12+24"))
def test_beamlets_keep_protons_and_second_moments(name):
    parts = split(scheme(name))
    assert parts.weight.sum() == pytest.approx(1.0, abs=1e-12)
    for axis in range(2):
        spread = parts.places[:, axis] ** 2 + 1.0 - parts.narrower
        assert parts.weight @ spread == pytest.approx(1.0, abs=0.02 if name == "1+6" else 6e-3)
        assert parts.weight @ parts.places[:, axis] == pytest.approx(0.0, abs=1e-12)
        assert np.abs(parts.places[:, axis]).min() > 1e-3 or name == "1"  # none on a plane


def test_beamlets_follow_the_spots_width_and_then_fly_straight():
    z = np.arange(101.0)
    variance = 9.0 + 0.04 * z + 1e-5 * z**3
    lever = lever_mm(variance, 60)
    np.testing.assert_allclose(lever[:61], np.sqrt(variance[:61]))
    np.testing.assert_allclose(np.diff(lever[60:], 2), 0.0, atol=1e-12)
    assert lever[61] - lever[60] == pytest.approx(lever[60] - lever[59], rel=0.05)
    assert np.all(lever <= np.sqrt(variance) + 1e-9)


def test_spots_are_split_behind_what_differs_and_later_if_coarser():
    z = np.arange(101.0)
    variance = 9.0 + 1e-5 * z**3
    stations = {}
    for name in ("1+6+6+12", "1+6+6+12+12+24", "1+6+12+18+24+30+36"):
        parts = split(scheme(name))
        water = np.ones((len(parts.weight), 100))
        assert split_station(water, parts, variance, 120.0) == 0  # nothing differs
        water[parts.places[:, 0] > 0.0, 25:35] = 1.5
        stations[len(parts.weight)] = split_station(water, parts, variance, 120.0)
    found = [stations[n] for n in sorted(stations)]
    assert found == sorted(found, reverse=True) and 30 < found[-1]


def test_waters_coefficients_are_ones_and_materials_are_told_apart():
    fat = Material("fat", 0.95, {"H": 0.114, "C": 0.598, "N": 0.007, "O": 0.281})
    water, other = material_coefficients([WATER, fat], 75.0, "moliere", True)
    assert water[C] == pytest.approx(1.0, abs=1e-3) and water[REACTS] == pytest.approx(1.0)
    assert other[C] > 1.0 and 1.0 < other[RELEASES] < 1.1
    assert not material_coefficients([fat], 75.0, "moliere", False)[0, REACTS:].any()
