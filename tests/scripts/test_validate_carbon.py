"""The checks of carbon ions: what would be wrong does not pass."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.machine.library import load_machine
from engine.physics.constant_rbe import ConstantRbe
from engine.physics.lem import Lem1, tissue
from scripts import validate_carbon as script
from scripts import validate_carbon_tank as tank
from scripts.validate_spread_out_peak import layers_for, spread_out_peak

CHORDOMA = Lem1(tissue("chordoma"))


def missed(checks) -> set[str]:
    return {check.quantity for check in checks if not check.passed}


@pytest.mark.parametrize("group", ["carbon_in_water", "fragmentation", "lem_and_rbe"])
def test_every_target_is_met_and_named_once(group):
    checks = list(getattr(script, group)())
    assert missed(checks) == set()
    assert len({check.quantity for check in checks}) == len(checks)


def test_ranges_of_another_isotope_are_missed(monkeypatch):
    right = script.range_mm
    monkeypatch.setattr(script, "range_mm", lambda z, a, energy: right(z, max(a - 1, 1), energy))
    assert {"range, 100 MeV/u", "range, 400 MeV/u"} <= missed(script.carbon_in_water())


def test_another_tissue_is_missed(monkeypatch):
    other = replace(tissue("chordoma"), threshold_gy=25.0)
    monkeypatch.setattr(script, "chordoma", lambda: Lem1(other))
    found = missed(script.lem_and_rbe())
    assert {"α of C, 10 MeV/u", "α of He, 10 MeV/u", "α of p, 1 MeV/u"} <= found


@dataclass(frozen=True)
class OfOtherBiology:
    """An engine whose matrix holds what another model says."""

    engine: PencilBeamEngine
    wrong: object
    biology: object = None

    def influence(self, *arguments, **options):
        return replace(self.engine, biology=self.wrong).influence(*arguments, **options)


def test_effects_of_another_model_are_missed():
    engine = PencilBeamEngine()
    assert missed(tank.carbon_effects(engine)) == set()
    wrong = OfOtherBiology(engine, Lem1(replace(CHORDOMA.tissue, alpha_x_per_gy=0.11)))
    alphas = [q for q in missed(tank.carbon_effects(wrong)) if q.startswith("α")]
    assert len(alphas) >= 6


def test_a_plan_by_another_model_is_missed():
    engine = PencilBeamEngine()
    assert missed(tank.carbon_plan(engine)) == set()
    wrong = OfOtherBiology(engine, ConstantRbe(3.0, CHORDOMA.tissue))
    assert len([q for q in missed(tank.carbon_plan(wrong)) if q.startswith("RBE")]) == 2


def test_an_effect_that_is_proportional_to_dose_makes_a_flat_physical_dose():
    flat = layers_for(
        load_machine("generic_carbon"), ConstantRbe(2.0, CHORDOMA.tissue), 80.0, 120.0
    )
    peak = spread_out_peak(flat)
    inside = (peak.depth_mm > 90.0) & (peak.depth_mm < 110.0)
    assert peak.rbe == pytest.approx(np.full(peak.rbe.size, 2.0), rel=1e-5)
    assert peak.dose_gy[inside] == pytest.approx(np.full(inside.sum(), 1.5), rel=0.02)
