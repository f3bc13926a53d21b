import numpy as np
import pytest

from engine.machine.depth_kernels import layer_kernel
from engine.machine.single_spots import DEPTH_STEP_MM, SpotKind, single_spot_machine
from engine.physics.materials import water
from engine.physics.stopping_power import csda_range_mm


def test_variance_in_air_is_that_of_the_phase_space_at_the_start_and_drifts_from_there():
    kind = SpotKind(150.0, 1.0, 4.0, 0.005, -0.3)
    machine = single_spot_machine([kind])
    kernel, start = layer_kernel(machine, 0), -machine.nozzle_to_isocenter_mm
    t = np.array([0.0, 50.0, 200.0])
    drifted = 16.0 - 2.0 * 0.3 * 4.0 * 0.005 * t + 0.005**2 * t**2
    assert kernel.air_variance_mm2(start + t) == pytest.approx(drifted, rel=1e-9)


@pytest.mark.parametrize("i_ev, detour", [(75.0, 0.9989), (78.0, 0.9989)])
def test_range_follows_the_excitation_energy_of_water(i_ev, detour):
    machine = single_spot_machine([SpotKind(150.0, 0.0, 3.0, 0.0)], i_ev)
    # R80 of a pristine peak is its projected range: CSDA × detour (Monte Carlo, 0.3 mm)
    expected = detour * float(csda_range_mm(150.0, water(i_ev)))
    assert machine.range_mm[0] == pytest.approx(expected, abs=0.3)


def test_without_nuclear_interactions_the_kernel_holds_all_energy_and_no_halo():
    machine = single_spot_machine([SpotKind(100.0, 1.0, 3.0, 0.0)], nuclear=False)
    dose = machine.depth_dose_mev_cm2_g[0].astype(float)
    total = 0.1 * DEPTH_STEP_MM * (dose.sum() - 0.5 * dose[0])
    assert total == pytest.approx(100.0, rel=1e-3)
    assert not machine.halo_weight.any()


def test_kinds_of_one_energy_differ_in_phase_space_alone():
    kinds = [SpotKind(100.0, 1.0, 3.0, 0.0), SpotKind(100.0, 1.0, 6.0, 0.0)]
    machine = single_spot_machine(kinds)
    assert machine.range_mm[0] == machine.range_mm[1]
    assert machine.nozzle_variance_mm2.tolist() == [9.0, 36.0]


@pytest.mark.parametrize(
    "values, named",
    [
        ((9.0, 0.0, 3.0, 0.0), "energy_mev=9"),
        ((300.0, 0.0, 3.0, 0.0), "energy_mev=300"),
        ((np.nan, 0.0, 3.0, 0.0), "energy_mev=nan"),
        ((100.0, -1.0, 3.0, 0.0), "energy_std_mev=-1"),
        ((100.0, 20.0, 3.0, 0.0), "energy_std_mev=20"),
        ((100.0, 1.0, -3.0, 0.0), "sigma_mm=-3"),
        ((100.0, 1.0, 3.0, 3.0), "mrad"),
        ((100.0, 1.0, 3.0, 0.0, 1.5), "correlation=1.5"),
    ],
)
def test_kinds_that_no_beam_has_are_refused(values, named):
    with pytest.raises(ValueError, match=named):
        SpotKind(*values)


def test_kinds_out_of_order_and_no_kinds_are_refused():
    with pytest.raises(ValueError, match="rising energy"):
        single_spot_machine([SpotKind(100.0, 1.0, 3.0, 0.0), SpotKind(90.0, 1.0, 3.0, 0.0)])
    with pytest.raises(ValueError, match="kinds is empty"):
        single_spot_machine([])
