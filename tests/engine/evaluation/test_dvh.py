import numpy as np
import pytest

from engine.evaluation.dvh import Dvh, dose_at_cc, dose_at_percent, mean_dose, volume_at_dose

RAMP = (np.arange(1000) + 0.5) * 0.06  # voxel centers of a linear dose ramp 0 … 60 Gy
EVEN = np.full(1000, 0.001)


def random_dvh(seed):
    rng = np.random.default_rng(seed)
    return Dvh(rng.gamma(3.0, 10.0, 200).astype(np.float32), rng.uniform(0.01, 1.0, 200))


@pytest.mark.parametrize("percent", [1.0, 2.0, 50.0, 95.0, 98.0])
def test_dose_at_volume_of_a_linear_ramp_is_exact(percent):
    # hottest x % of a ramp 0 … 60 Gy begins at 60·(1 − x/100)
    assert dose_at_percent(RAMP, EVEN, percent) == pytest.approx(60 * (1 - percent / 100), abs=1e-9)


@pytest.mark.parametrize("level", [5.0, 20.0, 59.0])
def test_volume_at_dose_of_a_linear_ramp_is_exact(level):
    assert volume_at_dose(RAMP, EVEN, level) == pytest.approx(100 * (1 - level / 60), abs=1e-9)


def test_d0_is_the_maximum_and_d100_the_minimum():
    dvh = random_dvh(0)
    assert dvh.dose_at_percent(0.0) == dvh.max_gy
    assert dvh.dose_at_percent(100.0) == dvh.min_gy


def test_dose_to_more_than_the_whole_structure_is_d100():
    assert dose_at_cc(np.array([10.0, 20.0]), np.array([0.03, 0.03]), 0.1) == 10.0


def test_uniform_dose_is_a_step():
    dvh = Dvh(np.full(7, 60.0), np.linspace(0.1, 1.0, 7))
    assert [float(dvh.dose_at_percent(x)) for x in (0, 2, 50, 98, 100)] == [60.0] * 5
    assert dvh.volume_at_dose(60.0) == pytest.approx(dvh.total_cm3)
    assert dvh.volume_at_dose(60.0 + 1e-9) == 0.0
    assert dvh.mean_gy == pytest.approx(60.0)


def test_partial_volumes_weigh_their_doses():
    # one voxel of four inside by a half: mean (60·0.5 + 20·1.5) / 2
    dose, volume = np.array([60.0, 20.0, 20.0]), np.array([0.5, 1.0, 0.5])
    assert mean_dose(dose, volume) == pytest.approx(30.0)
    # middles of the voxels' volume, hottest first, lie at 0.25 and 0.75 or more: D50 in the plateau
    assert dose_at_percent(dose, volume, 75.0) == 20.0


def test_a_voxel_split_in_parts_changes_no_mean_or_extreme():
    whole = Dvh(np.array([10.0, 30.0]), np.array([1.0, 1.0]))
    split = Dvh(np.array([10.0, 30.0, 30.0]), np.array([1.0, 0.25, 0.75]))
    assert split.mean_gy == pytest.approx(whole.mean_gy)
    assert (split.max_gy, split.min_gy) == (whole.max_gy, whole.min_gy)


def test_voxels_without_volume_do_not_count():
    dvh = Dvh(np.array([99.0, 30.0, 10.0]), np.array([0.0, 1.0, 1.0]))
    assert dvh.max_gy == 30.0


@pytest.mark.parametrize("seed", range(5))
def test_dose_at_volume_falls_and_returns_its_volume(seed):
    dvh = random_dvh(seed)
    percent = np.linspace(1.0, 99.0, 50)
    dose = dvh.dose_at_percent(percent)
    assert np.all(np.diff(dose) <= 0)
    back = 100 * dvh.volume_at_dose(dose) / dvh.total_cm3
    inner = (dose < dvh.max_gy) & (dose > dvh.min_gy)
    np.testing.assert_allclose(back[inner], percent[inner], atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_dvh_scales_with_dose_and_not_with_volume(seed):
    dvh = random_dvh(seed)
    scaled = Dvh(3.0 * dvh.dose_gy.astype(float), 7.0 * dvh.volume_cm3)
    for x in (2.0, 50.0, 95.0):
        assert scaled.dose_at_percent(x) == pytest.approx(3.0 * dvh.dose_at_percent(x))


def test_order_of_voxels_does_not_matter():
    dvh = random_dvh(3)
    order = np.random.default_rng(1).permutation(200)
    shuffled = Dvh(dvh.dose_gy[order], dvh.volume_cm3[order])
    assert shuffled.dose_at_cc(0.1) == pytest.approx(dvh.dose_at_cc(0.1), rel=1e-12)


def test_inputs_are_left_unchanged():
    dose, volume = np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0])
    Dvh(dose, volume).dose_at_percent(50.0)
    assert dose.tolist() == [3.0, 1.0, 2.0]
    assert volume.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "dose, volume, message",
    [
        ([1.0, np.nan], [1.0, 1.0], "1 NaN or infinite"),
        ([1.0, 2.0], [1.0], "shape"),
        ([], [], "empty"),
        ([1.0, 2.0], [0.0, 0.0], "empty"),
        ([1.0, 2.0], [1.0, -1.0], "not negative"),
    ],
)
def test_what_no_histogram_can_be_made_of_is_refused(dose, volume, message):
    with pytest.raises(ValueError, match=message):
        Dvh(np.array(dose), np.array(volume))


def test_percent_beyond_the_volume_is_refused():
    with pytest.raises(ValueError, match="0 … 100"):
        random_dvh(0).dose_at_percent(101.0)
