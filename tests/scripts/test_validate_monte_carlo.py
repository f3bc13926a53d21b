"""The Monte Carlo engine's own checks: each has a number, and a wrong engine misses some."""

import numpy as np
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from scripts.validate_engines import engine_targets, for_checks
from scripts.validate_monte_carlo import N_HISTORIES, cores, electromagnetic, monte_carlo


def missed(checks) -> set[str]:
    return {check.quantity for check in checks if not check.passed}


@pytest.fixture(scope="module")
def few():
    return list(monte_carlo(MonteCarloEngine(n_histories=2000)))


def test_the_checks_are_found_under_the_engines_name():
    assert monte_carlo in engine_targets("monte_carlo").values()


def test_every_check_has_a_name_of_its_own_and_a_number(few):
    names = [check.quantity for check in few]
    assert len(set(names)) == len(names) > 90
    assert all(np.isfinite(check.ours) and check.source for check in few)


def test_a_run_without_a_number_of_histories_gets_one():
    assert for_checks("monte_carlo", MonteCarloEngine()).n_histories == N_HISTORIES
    assert for_checks("monte_carlo", MonteCarloEngine(n_histories=7)).n_histories == 7


def test_an_engine_that_does_not_straggle_misses_its_widths():
    engine = MonteCarloEngine(n_histories=2000, straggling=False)
    expected = {"width 80–80, 200 MeV EM", "R20, 200 MeV EM", "LETd at R80, 200 MeV EM"}
    assert expected <= missed(electromagnetic(engine, 200))


def test_an_engine_that_does_not_scatter_misses_its_core():
    engine = MonteCarloEngine(n_histories=2000, scattering=False)
    assert "core σ at 0.97 of the range, 100 MeV EM, I = 75 eV" in missed(cores(engine, 100))


def test_the_checks_are_in_their_references_water_whatever_the_engines():
    engine = MonteCarloEngine(n_histories=2000, i_water_ev=70.0)
    assert not any("R50" in name for name in missed(electromagnetic(engine, 100)))
