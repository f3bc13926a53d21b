import numpy as np
import pytest

from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam
from engine.geometry.single_spots import SingleSpot, angles_along, plan_of
from engine.machine.single_spots import SpotKind

KIND = SpotKind(100.0, 1.0, 3.0, 0.003, 0.1)


def directions() -> np.ndarray:
    """Anywhere on the sphere, along the axes, and next to them (n, 3)."""
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    anywhere = np.random.default_rng(3).normal(size=(200, 3))
    beside = axes + 1e-7 * np.random.default_rng(4).normal(size=(6, 3))
    found = np.concatenate([axes, anywhere, beside])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_any_direction_is_reached_by_gantry_and_couch():
    for wanted in directions():
        gantry, couch = angles_along(wanted)
        frame = beam_frame(Beam(gantry, (0.0, 0.0, 0.0), couch), 1e6)
        assert frame.direction == pytest.approx(wanted, abs=1e-6)
        assert abs(couch) <= 90.0


def test_the_usual_directions_have_the_usual_angles():
    assert angles_along((0.0, 1.0, 0.0)) == (0.0, 0.0)  # from the front
    assert angles_along((-1.0, 0.0, 0.0)) == pytest.approx((90.0, 0.0))  # from the patient's left
    assert angles_along((0.0, -1.0, 0.0)) == pytest.approx((180.0, 0.0))
    assert angles_along((1.0, 0.0, 0.0)) == pytest.approx((270.0, 0.0))


def test_axes_of_a_plan_pass_through_the_given_positions_along_the_given_directions():
    generator = np.random.default_rng(5)
    spots = [
        SingleSpot(KIND, tuple(generator.uniform(-80.0, 80.0, 3)), tuple(d), 1.0)
        for d in directions()[6:26]
    ]
    plan = plan_of(spots)
    assert plan.n_spots == len(plan.beams) == len(spots)
    source = plan.machine.virtual_source_mm
    for index, spot in enumerate(spots):
        frame = beam_frame(plan.beams[index], source)
        start, later = frame.to_patient(
            plan.u_mm[index], plan.v_mm[index],
            np.array([-plan.machine.nozzle_to_isocenter_mm, 200.0]),
        )  # fmt: skip
        assert start == pytest.approx(np.array(spot.position_mm), abs=1e-3)
        along = (later - start) / np.linalg.norm(later - start)
        assert along == pytest.approx(np.array(spot.direction), abs=1e-6)


def test_spots_of_one_direction_and_plane_share_a_beam_and_equal_ones_are_added():
    down = (0.0, 1.0, 0.0)
    deeper = SpotKind(120.0, 1.0, 3.0, 0.003, 0.1)
    spots = [
        SingleSpot(KIND, (5.0, -50.0, 0.0), down, 1.0),
        SingleSpot(deeper, (5.0, -50.0, 0.0), down, 2.0),
        SingleSpot(KIND, (-5.0, -50.0, 0.0), down, 4.0),
        SingleSpot(KIND, (5.0, -50.0, 0.0), down, 8.0),
        SingleSpot(KIND, (5.0, -40.0, 0.0), down, 16.0),
    ]
    plan = plan_of(spots)
    assert len(plan.beams) == 2  # the last starts on another plane
    assert plan.machine.energy_mev[plan.spot_energy].tolist() == [120.0, 100.0, 100.0, 100.0]
    assert plan.weights.tolist() == [2.0, 4.0, 9.0, 16.0]
