"""The deterministic engine's own checks: each has a number, and a wrong engine misses some."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from engine.dose.yoda.engine import YodaEngine
from scripts import validate_yoda as script
from scripts.validate_engines import engine_targets, for_checks
from scripts.validate_targets import reactions_shift_mm

N_HISTORIES = 20_000


@dataclass(frozen=True)
class TwiceAsDeep(YodaEngine):
    """What lies at a depth of 50 mm is told at 100 mm."""

    def dose(self, patient, plan, grid, *args, quantities: Sequence[str] = ("dose",), **kwargs):
        found = super().dose(patient, plan, grid, *args, quantities=quantities, **kwargs)
        half = np.arange(grid.shape[1]) // 2
        return {quantity: volume[:, half] for quantity, volume in found.items()}


def missed(checks) -> set[str]:
    return {check.quantity for check in checks if not check.passed}


@pytest.fixture(scope="module")
def few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "SLAB_HISTORIES", N_HISTORIES)
        return list(script.yoda(YodaEngine()))


def test_the_checks_are_found_under_the_engines_name():
    assert script.yoda in engine_targets("yoda").values()
    assert for_checks("yoda", YodaEngine()) == YodaEngine()


def test_every_check_has_a_name_of_its_own_and_a_number(few):
    names = [check.quantity for check in few]
    assert len(set(names)) == len(names) > 130
    assert all(np.isfinite(check.ours) and check.source for check in few)


def test_all_pass_that_no_noise_can_spoil(few):
    judged = {check.quantity for check in few if check.source == script.OWN}
    assert len(judged) == 25
    assert missed(few) <= judged


def test_an_engine_without_reactions_misses_what_they_do():
    expected = {
        "energy deposited, 100 MeV nuclear", "peak over entrance, 100 MeV nuclear",
        "dose share of secondaries at half range, 100 MeV",
    }  # fmt: skip
    found = missed(script.in_water(YodaEngine(nuclear=False), 100))
    assert expected <= found
    assert not any("EM" in name for name in found)


def test_an_engine_that_goes_twice_as_deep_misses_its_ranges_and_monte_carlo(monkeypatch):
    engine = TwiceAsDeep()
    assert {"R80, 70 MeV EM", "R50, 70 MeV nuclear"} <= missed(script.in_water(engine, 70))
    monkeypatch.setattr(script, "SLAB_HISTORIES", N_HISTORIES)
    found = missed(script.half_slab(engine, "+1000 HU"))
    assert "voxels beyond gamma 1 %/1 mm, tank, +1000 HU, EM" in found


def test_an_engine_with_one_beamlet_misses_the_slab_and_the_oblique_surface(monkeypatch):
    monkeypatch.setattr(script, "SLAB_HISTORIES", 10 * N_HISTORIES)
    engine = YodaEngine(scheme="1")
    found = missed([*script.half_slab(engine, "−1000 HU"), script.oblique(engine)])
    assert {"voxels beyond gamma 1 %/1 mm, tank, −1000 HU, EM"} <= found
    assert any("oblique" in name for name in found)


def test_the_checks_are_in_their_references_water_whatever_the_engines():
    engine = YodaEngine(i_water_ev=70.0)
    assert not missed(script.in_water(engine, 100))


def test_wider_groups_are_seen_as_such():
    fine = script.moving(150.0, groups_per_sigma=8.0)
    errors = [
        np.abs(script.moving(150.0, groups_per_sigma=g).dose_mev_per_mm - fine.dose_mev_per_mm)
        .max() for g in (0.5, 1.0, 2.0)
    ]  # fmt: skip
    assert errors[0] > 4.0 * errors[1] > 16.0 * errors[2]


def test_reactions_pull_r80_upstream_by_mcsquares_differences():
    assert reactions_shift_mm(200.0) == pytest.approx(-0.27)
    assert reactions_shift_mm(150.0) == pytest.approx(-0.14)


# --- Agreement of two doses


@pytest.fixture(scope="module")
def slab():
    patient, plan = script.slab_case(1000.0, 2.0)
    dose = replace(YodaEngine(), nuclear=False).dose(patient, plan, patient.grid)["dose"]
    return patient.grid, dose


def test_a_dose_agrees_with_itself(slab):
    grid, dose = slab
    found = script.agreement(dose, dose, grid, (0.0, -50.0, 0.0), script.ANTERIOR)
    assert found.gamma_1_1_percent == found.gamma_2_2_percent == 100.0
    assert found.r80_mm[0] == found.r80_mm[1] == pytest.approx(74.0, abs=1.0)
    assert found.core_mm[0] == found.core_mm[1] == pytest.approx(3.5, abs=0.2)
    assert found.mean_difference_percent == pytest.approx(0.0, abs=1e-9)


def test_a_dose_of_a_fifth_more_differs_by_a_fifth(slab):
    grid, dose = slab
    more = np.float32(1.2) * dose
    found = script.agreement(dose, more, grid, (0.0, -50.0, 0.0), script.ANTERIOR)
    differences = (
        found.mean_difference_percent, found.sum_difference_percent,
        found.integral_difference_percent,
    )  # fmt: skip
    assert differences == pytest.approx((20.0, 20.0, 20.0), abs=1e-4)


def test_a_dose_two_voxels_deeper_has_its_range_there_and_fails_gamma(slab):
    grid, dose = slab
    found = script.agreement(dose, np.roll(dose, 2, 1), grid, (0.0, -50.0, 0.0), script.ANTERIOR)
    assert found.r80_mm[1] - found.r80_mm[0] == pytest.approx(4.0, abs=0.1)
    assert found.gamma_2_2_percent < 95.0


def test_a_beam_from_the_other_side_has_the_same_range_and_core(slab):
    grid, dose = slab
    one = script.agreement(dose, dose, grid, (0.0, -50.0, 0.0), script.ANTERIOR)
    turned = np.ascontiguousarray(np.swapaxes(dose, 1, 2)[:, :, ::-1])  # from high x to low x
    other = script.agreement(turned, turned, grid, (50.0, 0.0, 0.0), (-1.0, 0.0, 0.0))
    assert other.r80_mm == pytest.approx(one.r80_mm)
    assert other.core_mm == pytest.approx(one.core_mm, rel=1e-6)
