"""Beam's eye view: IEC 61217 angles in DICOM axes (x left, y posterior, z superior)."""

import numpy as np
import pytest

from engine.geometry.coordinates import beam_angles, beam_frame
from engine.geometry.plan import Beam

LEFT, POSTERIOR, SUPERIOR = np.eye(3)


def frame(gantry_deg=0.0, couch_deg=0.0, isocenter_mm=(0.0, 0.0, 0.0), shift_mm=(0.0, 0.0, 0.0)):
    return beam_frame(Beam(gantry_deg, isocenter_mm, couch_deg), 2000.0, shift_mm)


# IEC 61217 fixed system: x to the right facing the gantry, y to the gantry, z up; a supine
# patient's head points to the gantry, so x is his left, y superior, z anterior at couch 0.
@pytest.mark.parametrize(
    "gantry_deg, direction, u_axis",
    [
        (0, POSTERIOR, LEFT),  # from above, so from anterior
        (90, -LEFT, POSTERIOR),  # from the patient's left
        (180, -POSTERIOR, -LEFT),  # from below the couch
        (270, LEFT, -POSTERIOR),  # from the patient's right
        (-90, LEFT, -POSTERIOR),
    ],
)
def test_a_beam_comes_from_where_iec_61217_says(gantry_deg, direction, u_axis):
    view = frame(gantry_deg)
    np.testing.assert_allclose(view.direction, direction, atol=1e-12)
    np.testing.assert_allclose(view.u_axis, u_axis, atol=1e-12)
    np.testing.assert_allclose(view.v_axis, SUPERIOR, atol=1e-12)


def test_the_couch_turns_counterclockwise_seen_from_above():
    # IEC 61217 patient support: positive about the upward axis. At couch 90 a patient on his back
    # has his head to the room's -x (it was +y); the room's +x, where gantry 90 stands, sees feet.
    view = frame(gantry_deg=90, couch_deg=90)
    np.testing.assert_allclose(view.direction, SUPERIOR, atol=1e-12)  # from the feet to the head
    np.testing.assert_allclose(view.v_axis, LEFT, atol=1e-12)  # the room's +y is the patient's left


def test_the_couch_does_not_move_a_vertical_beam():
    np.testing.assert_allclose(frame(0, 37.0).direction, POSTERIOR, atol=1e-12)


@pytest.mark.parametrize("gantry_deg", [0, 33.3, 90, 145, 359])
@pytest.mark.parametrize("couch_deg", [0, 20, -75])
def test_axes_are_right_handed_and_orthonormal(gantry_deg, couch_deg):
    view = frame(gantry_deg, couch_deg)
    axes = np.stack([view.u_axis, view.v_axis, view.direction])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    upstream = -view.direction  # IEC gantry z points from the isocenter to the source
    np.testing.assert_allclose(np.cross(view.u_axis, view.v_axis), upstream, atol=1e-12)


@pytest.mark.parametrize("gantry_deg", [0, 33.3, 90, 145, 180, 359])
@pytest.mark.parametrize("couch_deg", [0, 20, -75, 90, -90])
def test_angles_are_found_from_the_axes(gantry_deg, couch_deg):
    view = frame(gantry_deg, couch_deg)
    gantry, couch, turn = beam_angles(view.u_axis, view.direction)
    again = frame(gantry, couch)
    np.testing.assert_allclose(again.u_axis, view.u_axis, atol=1e-12)
    np.testing.assert_allclose(again.direction, view.direction, atol=1e-12)
    assert turn == pytest.approx(0.0, abs=1e-9)


def test_a_turned_view_is_that_of_a_beam_and_a_turn():
    rng = np.random.default_rng(5)
    for _ in range(50):
        axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        u_axis, direction = axes[0], axes[1]
        gantry, couch, turn = beam_angles(u_axis, direction)
        view, t = frame(gantry, couch), np.radians(turn)
        np.testing.assert_allclose(view.direction, direction, atol=1e-9)
        seen = np.cos(t) * view.u_axis + np.sin(t) * view.v_axis
        np.testing.assert_allclose(seen, u_axis, atol=1e-9)
        assert abs(turn) <= 90.0 + 1e-6


def test_points_survive_the_way_to_the_beams_eye_view_and_back():
    view = frame(123.0, -31.0, isocenter_mm=(12.0, -40.0, 7.0))
    points = np.random.default_rng(1).uniform(-300, 300, (200, 3))
    u, v, t = view.to_beam(points)
    np.testing.assert_allclose(view.to_patient(u, v, t), points, atol=1e-9)


def test_positions_are_projected_from_the_source_to_the_isoplane():
    view = frame(0.0)  # source 2000 mm anterior of the isocenter
    u, v, t = view.to_beam(np.array([[10.0, 2000.0, -4.0]]))  # twice as far from the source
    np.testing.assert_allclose([u[0], v[0], t[0]], [5.0, -2.0, 2000.0])


def test_the_isocenter_is_the_origin_and_a_shift_moves_it():
    view = frame(77.0, 5.0, (1.0, 2.0, 3.0), shift_mm=(10.0, 0.0, -5.0))
    u, v, t = view.to_beam(np.array([[11.0, 2.0, -2.0]]))
    np.testing.assert_allclose([u[0], v[0], t[0]], 0.0, atol=1e-12)


def test_a_beam_without_isocenter_is_refused():
    with pytest.raises(ValueError, match="isocenter_mm"):
        beam_frame(Beam(0.0), 2000.0)
