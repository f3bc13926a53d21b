import time

import numpy as np
import pytest

from engine.machine.depth_kernels import layer_kernel
from engine.machine.ion import RangeShifter
from engine.machine.library import load_machine

EXIT_MM = -80.0


@pytest.fixture(scope="module")
def machine():
    return load_machine("generic_proton")


def r80(kernel) -> float:
    dose = kernel.depth_dose_mev_cm2_g
    top = int(np.argmax(dose))
    depth = kernel.depth_step_mm * np.arange(dose.size)
    return float(np.interp(-0.8, -dose[top:] / dose[top], depth[top:]))


@pytest.mark.parametrize("name", ["rs40", "rs75"])
@pytest.mark.parametrize("index", [50, 80, 114])
def test_a_range_shifter_shortens_the_range_by_its_water_equivalent(machine, name, index):
    shifter = machine.range_shifter(name)
    bare, behind = layer_kernel(machine, index), layer_kernel(machine, index, shifter, EXIT_MM)
    assert r80(bare) - r80(behind) == pytest.approx(shifter.wet_mm, abs=1e-6)
    assert behind.range_mm == pytest.approx(bare.range_mm - shifter.wet_mm)
    assert r80(behind) == pytest.approx(behind.range_mm, abs=0.05)


def test_a_shifter_between_two_depth_steps_shifts_by_its_own_thickness(machine):
    odd = RangeShifter("odd", 33.37, 29.2)
    behind = layer_kernel(machine, 80, odd, EXIT_MM)
    assert r80(layer_kernel(machine, 80)) - r80(behind) == pytest.approx(33.37, abs=0.03)


def test_a_shifter_thicker_than_the_range_leaves_no_dose(machine):
    behind = layer_kernel(machine, 0, machine.range_shifter("rs75"), EXIT_MM)
    assert behind.range_mm < 0
    assert not behind.depth_dose_mev_cm2_g.any()
    assert np.all(np.isfinite(behind.halo_variance_mm2))


def test_without_a_shifter_the_kernel_is_the_machines(machine):
    kernel = layer_kernel(machine, 40)
    n = kernel.depth_dose_mev_cm2_g.size
    assert np.array_equal(kernel.depth_dose_mev_cm2_g, machine.depth_dose_mev_cm2_g[40, :n])
    assert not machine.depth_dose_mev_cm2_g[40, n:].any()
    assert kernel.depth_step_mm * (n - 1) >= 1.09 * kernel.range_mm


def test_every_array_is_float32_and_of_one_length(machine):
    for shifter in (None, *machine.range_shifters):
        kernel = layer_kernel(machine, 60, shifter, EXIT_MM)
        arrays = [
            kernel.depth_dose_mev_cm2_g,
            kernel.scatter_variance_mm2,
            kernel.halo_weight,
            kernel.halo_variance_mm2,
            kernel.letd_kev_um,
        ]
        assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
        assert len({a.shape for a in arrays}) == 1
        assert np.all(kernel.halo_variance_mm2 >= kernel.scatter_variance_mm2)


def test_scatter_behind_a_vanishing_shifter_is_the_machines(machine):
    thin = layer_kernel(machine, 60, RangeShifter("thin", 1e-6, 1e-6), EXIT_MM)
    bare = layer_kernel(machine, 60)
    assert thin.scatter_variance_mm2 == pytest.approx(bare.scatter_variance_mm2, rel=5e-3, abs=1e-3)
    assert thin.air_variance == pytest.approx(bare.air_variance, rel=1e-3)


def test_variance_in_air_is_the_nozzles_moments_after_their_drift(machine):
    kernel = layer_kernel(machine, 60)
    for t in (-410.0, -100.0, 0.0, 50.0):
        u = t + machine.nozzle_to_isocenter_mm
        expected = (
            machine.nozzle_variance_mm2[60]
            + 2.0 * machine.nozzle_covariance_mm_rad[60] * u
            + machine.nozzle_angle_variance_rad2[60] * u * u
        )
        assert kernel.air_variance_mm2(t) == pytest.approx(expected)


def test_a_shifter_widens_the_beam_with_the_square_of_the_gap(machine):
    bare = layer_kernel(machine, 60)
    behind = layer_kernel(machine, 60, machine.range_shifter("rs75"), EXIT_MM)
    gap = np.array([0.0, 50.0, 100.0, 200.0])
    added = behind.air_variance_mm2(EXIT_MM + gap) - bare.air_variance_mm2(EXIT_MM + gap)
    assert np.all(np.diff(added) > 0)
    assert added[0] > 0
    # Highland (1975) for 65.6 mm of Lexan at the mean energy in the slab, some 143 MeV
    angle_rad2 = behind.air_variance[2] - bare.air_variance[2]
    assert np.sqrt(angle_rad2) == pytest.approx(0.0215, rel=0.1)


def test_a_farther_shifter_makes_a_wider_spot_at_the_isocenter(machine):
    shifter = machine.range_shifter("rs40")
    widths = [
        layer_kernel(machine, 60, shifter, e).air_variance_mm2(0.0) for e in (-50, -150, -300)
    ]
    assert np.all(np.diff(widths) > 0)


def test_the_halo_of_a_shifter_spreads_over_the_gap_and_fades_in_the_patient(machine):
    shifter, index = machine.range_shifter("rs75"), 60
    touching = layer_kernel(machine, index, shifter, EXIT_MM)
    for gap in (0.0, 50.0, 100.0):
        kernel = layer_kernel(machine, index, shifter, EXIT_MM, gap)
        added = kernel.halo_variance_mm2 - touching.halo_variance_mm2
        assert np.sqrt(added[0]) == pytest.approx(0.42 * gap, rel=1e-3)  # HALO_ANGLE_RAD
        assert np.all(np.diff(added) <= 1e-3)
        np.testing.assert_array_equal(kernel.scatter_variance_mm2, touching.scatter_variance_mm2)
        np.testing.assert_array_equal(kernel.halo_weight, touching.halo_weight)
    with pytest.raises(ValueError, match="air_gap_mm=-1.0 must be 0 or more"):
        layer_kernel(machine, index, shifter, EXIT_MM, -1.0)


def test_a_kernel_is_made_in_milliseconds(machine):
    shifter = RangeShifter("fresh", 40.0, 34.98)
    layer_kernel(machine, 50, shifter, EXIT_MM)  # compiles
    start = time.perf_counter()
    for index in range(60, 110):
        layer_kernel(machine, index, shifter, EXIT_MM)
    assert (time.perf_counter() - start) / 50 < 5e-3  # 0.3 ms when the machine is idle


def test_indices_outside_the_machine_are_refused(machine):
    with pytest.raises(ValueError, match="energy_index"):
        layer_kernel(machine, 115)
    with pytest.raises(ValueError, match="energy_index"):
        layer_kernel(machine, -1)
    with pytest.raises(ValueError, match="shifter_exit_mm"):
        layer_kernel(machine, 1, machine.range_shifters[0], float("nan"))
    with pytest.raises(ValueError, match="material"):
        layer_kernel(machine, 1, RangeShifter("glass", 40.0, 20.0, "glass"), EXIT_MM)
