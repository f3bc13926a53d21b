import numpy as np
import pytest

from engine.geometry.scenarios import NOMINAL, Scenario, setup_and_range


def test_nine_scenarios_are_nominal_two_ranges_and_six_shifts():
    # one error at a time, 3 mm and 3.5 %
    scenarios = setup_and_range()
    assert scenarios[0] == NOMINAL and len(set(scenarios)) == 9
    assert [s.density_scale for s in scenarios[1:3]] == pytest.approx([1.035, 0.965])
    shifts = np.array([s.shift_mm for s in scenarios[3:]])
    assert np.all(np.count_nonzero(shifts, axis=1) == 1) and np.all(abs(shifts).sum(axis=1) == 3.0)
    np.testing.assert_array_equal(shifts.sum(axis=0), 0.0)
    assert all(s.density_scale == 1.0 for s in scenarios[3:])


def test_combined_scenarios_are_the_21_of_janson():
    # Janson 2024, "Setup and density error scenario sampling": 7 set-ups × 3 densities
    scenarios = setup_and_range(combined=True)
    assert scenarios[0] == NOMINAL and len(set(scenarios)) == 21
    assert len({s.shift_mm for s in scenarios}) == 7
    assert {s.density_scale for s in scenarios} == {0.965, 1.0, 1.035}
    assert set(setup_and_range()) <= set(scenarios)


def test_errors_of_zero_leave_their_scenarios_out():
    assert setup_and_range(0.0, 0.0) == (NOMINAL,)
    assert setup_and_range(0.0, 0.0, combined=True) == (NOMINAL,)
    assert len(setup_and_range(0.0, 3.5)) == 3
    assert len(setup_and_range(3.0, 0.0)) == len(setup_and_range(3.0, 0.0, combined=True)) == 7


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_errors_that_are_no_size_are_refused(wrong):
    with pytest.raises(ValueError, match="shift_mm="):
        setup_and_range(shift_mm=wrong)
    with pytest.raises(ValueError, match="range_percent="):
        setup_and_range(range_percent=wrong)


def test_range_errors_that_are_no_errors_are_refused():
    with pytest.raises(ValueError, match="range_percent=50"):
        setup_and_range(range_percent=50.0)


def test_scenarios_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="three finite numbers"):
        Scenario(shift_mm=(1.0, np.nan, 0.0))
    with pytest.raises(ValueError, match="density_scale=2.0"):
        Scenario(density_scale=2.0)
