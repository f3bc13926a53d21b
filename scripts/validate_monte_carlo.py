"""The Monte Carlo engine in ``ptenv validate``."""

from dataclasses import replace

from engine.dose.monte_carlo.engine import MonteCarloEngine

N_HISTORIES = 100_000  # of a spot in a tank, where none are set


def for_checks(engine: MonteCarloEngine) -> MonteCarloEngine:
    """A fixed number of histories: uncertainty per voxel is no measure for planes and discs."""
    return replace(engine, n_histories=N_HISTORIES) if engine.n_histories is None else engine
