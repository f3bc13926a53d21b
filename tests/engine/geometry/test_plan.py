"""Beams and plans refuse what no machine could deliver."""

import numpy as np
import pytest

from engine.geometry.plan import Aperture, Beam, Plan
from engine.geometry.scenarios import Scenario
from engine.machine.library import load_machine


def plan(spot_beam, spot_energy):
    n = len(spot_beam)
    return Plan(
        load_machine("generic_proton"), (Beam(0.0), Beam(90.0)), np.array(spot_beam, np.uint16),
        np.array(spot_energy, np.uint16), np.zeros(n, np.float32), np.zeros(n, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("angle", [np.nan, np.inf, 361.0, -400.0])
@pytest.mark.parametrize("name", ["gantry_deg", "couch_deg"])
def test_an_angle_out_of_range_is_refused(name, angle):
    with pytest.raises(ValueError, match=f"{name}={angle}"):
        Beam(**{"gantry_deg": 0.0, name: angle})


@pytest.mark.parametrize("gap", [-1.0, np.nan])
def test_an_impossible_air_gap_is_refused(gap):
    with pytest.raises(ValueError, match="air_gap_mm"):
        Beam(0.0, air_gap_mm=gap)


def test_spots_of_mixed_beams_are_refused():
    with pytest.raises(ValueError, match="sorted by beam"):
        plan([1, 0], [5, 5])


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="weights has 3 entries for 2 spots"):
        plan([0, 0], [5, 5]).with_weights(np.ones(3))


def test_weights_are_zero_until_given_and_a_plan_is_not_changed():
    bare = plan([0, 0, 1], [7, 5, 5])
    weighted = bare.with_weights(np.ones(3))
    assert bare.weights.tolist() == [0, 0, 0]
    assert weighted.weights.tolist() == [1, 1, 1]


def test_layers_start_where_energy_or_beam_changes():
    whole = plan([0, 0, 0, 1, 1], [7, 7, 5, 5, 4])
    assert whole.layer_starts().tolist() == [0, 2, 3, 4, 5]
    assert whole.beam_slice(1) == slice(3, 5)


def test_a_part_of_a_plan_counts_its_beams_from_zero():
    whole = plan([0, 0, 0, 1, 1], [7, 7, 5, 5, 4]).with_weights(np.arange(5.0))
    part = whole.part(1, 2)
    assert part.beams == whole.beams[1:]
    assert part.spot_beam.tolist() == [0, 0]
    assert part.spot_energy.tolist() == [5, 4]
    assert part.weights.tolist() == [3.0, 4.0]
    for first, stop in ((1, 3), (1, 1), (-1, 1)):
        with pytest.raises(ValueError, match="do not exist"):
            whole.part(first, stop)


def test_spots_of_a_beam_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="names beam 2, the plan has 2"):
        plan([0, 2], [5, 5])


@pytest.mark.parametrize("isocenter_mm", [(0.0, np.nan, 0.0), (0.0, 0.0)])
def test_an_isocenter_that_is_no_place_is_refused(isocenter_mm):
    with pytest.raises(ValueError, match="isocenter_mm"):
        Beam(0.0, isocenter_mm)


def test_scenarios_refuse_impossible_errors():
    with pytest.raises(ValueError, match="shift_mm"):
        Scenario(shift_mm=(0.0, np.nan, 0.0))
    with pytest.raises(ValueError, match="density_scale"):
        Scenario(density_scale=0.0)


SQUARE = ((-20.0, -20.0), (20.0, -20.0), (20.0, 20.0), (-20.0, 20.0))


@pytest.mark.parametrize("wrong", [
    dict(opening_mm=SQUARE[:2]), dict(opening_mm=(1.0, 2.0, 3.0)),
    dict(opening_mm=((0, 0), (1, 1), (2, 2))), dict(opening_mm=(*SQUARE[:3], (np.nan, 0.0))),
    dict(exit_mm=np.inf), dict(thickness_mm=0.0), dict(rim_mm=-1.0),
])  # fmt: skip
def test_an_aperture_that_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Aperture(**{"opening_mm": SQUARE, "exit_mm": -100.0, **wrong})


def test_an_aperture_knows_its_area_and_what_lies_in_its_opening():
    notched = Aperture(((0, 0), (40, 0), (40, 40), (20, 20), (0, 40)), -100.0)
    assert notched.opening_cm2 == pytest.approx(12.0)
    assert notched.contains(np.array([5.0, 20.0, 20.0, 50.0]), np.array([5.0, 10.0, 35.0, 5.0])
                            ).tolist() == [True, True, False, False]  # fmt: skip
