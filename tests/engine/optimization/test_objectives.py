import numpy as np
import pytest

from engine.optimization.objectives import (
    EUD,
    DoseFallOff,
    MaxDose,
    MaxDVH,
    MeanDose,
    MinDose,
    MinDVH,
    UniformDose,
)


def test_five_gray_over_fifty_cost_as_much_as_one_over_ten():
    """Janson et al. 2024, Optimization functions."""
    volume = np.ones(1)
    high = MaxDose("s", 50.0).value(np.array([55.0]), volume)
    assert high == pytest.approx(MaxDose("s", 10.0).value(np.array([11.0]), volume))


def test_wishes_that_are_met_cost_nothing():
    volume = np.full(4, 0.25)
    dose_gy = np.array([20.0, 20.0, 20.0, 40.0])
    assert MaxDose("s", 41.0).value(dose_gy, volume) == 0
    assert MinDose("s", 19.0).value(dose_gy, volume) == 0
    assert MaxDVH("s", 30.0, 0.25).value(dose_gy, volume) == 0
    assert MaxDVH("s", 30.0, 0.20).value(dose_gy, volume) > 0
    assert MinDVH("s", 40.0, 0.25).value(dose_gy, volume) == 0
    assert MinDVH("s", 40.0, 0.30).value(dose_gy, volume) > 0
    assert MeanDose("s", 25.0).value(dose_gy, volume) == 0


def test_eud_runs_from_minimum_through_mean_to_maximum():
    volume, dose_gy = np.full(3, 1 / 3), np.array([10.0, 20.0, 60.0])
    euds = [EUD("s", 1.0, a=a)._eud(dose_gy, volume)[0] for a in (-300.0, 1.0, 300.0)]
    assert euds == pytest.approx([10.0, 30.0, 60.0], rel=5e-3)


def test_eud_of_zero_dose_stays_finite():
    objective = EUD("s", 50.0, a=-20.0, side="min")
    dose_gy, volume = np.zeros(3), np.full(3, 1 / 3)
    assert objective.value(dose_gy, volume) == pytest.approx(1.0, rel=1e-3)
    assert np.all(np.isfinite(objective.gradient(dose_gy, volume)))


def test_fall_off_level_drops_linearly_with_distance():
    objective = DoseFallOff("s", 60.0, 10.0, 25.0)
    assert objective.level_at(np.array([0.0, 12.5, 25.0, 99.0])) == pytest.approx([60, 35, 10, 10])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MaxDose("s", 0.0), "level_gy=0.0"),
        (lambda: MinDose("s", np.nan), "level_gy=nan"),
        (lambda: UniformDose("s", 60.0, weight=-1.0), "weight=-1.0"),
        (lambda: MinDVH("s", 60.0, 1.0), "volume_fraction=1.0"),
        (lambda: EUD("s", 60.0, a=0.0), "a=0.0"),
        (lambda: EUD("s", 60.0, a=2.0, side="top"), "side='top'"),
        (lambda: DoseFallOff("s", 60.0, 70.0, 20.0), "low_gy=70.0"),
        (lambda: DoseFallOff("s", 60.0, 20.0, 0.0), "distance_mm=0.0"),
        (lambda: DoseFallOff("s", 60.0, 20.0, 9.0).value(np.ones(2), np.ones(2)), "distance_mm"),
    ],
)
def test_bad_levels_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
