"""A machine, tanks and plans of a few spots for the dose tests."""

import numpy as np
import pytest

from engine.geometry.plan import Beam, Plan
from engine.machine.library import load_machine


@pytest.fixture(scope="session")
def machine():
    return load_machine("generic_proton")


@pytest.fixture(scope="session")
def one_beam(machine):
    """Function: a plan of one beam from arrays of energy index, u and v, sorted for the engine."""

    def build(energy, u_mm, v_mm, weights=None, **beam):
        energy, u, v = np.broadcast_arrays(np.asarray(energy), u_mm, v_mm)
        order = np.lexsort((u.ravel(), v.ravel(), -energy.ravel().astype(int)))
        spots = (a.ravel()[order] for a in (energy.astype(np.uint16), u, v))
        energy, u, v = spots
        settings = {"gantry_deg": 0.0, "isocenter_mm": (0.0, 0.0, 0.0), **beam}
        return Plan(
            machine, (Beam(**settings),), np.zeros(len(u), np.uint16), energy,
            u.astype(np.float32), v.astype(np.float32),
            np.ones(len(u)) if weights is None else np.asarray(weights, float),
        )  # fmt: skip

    return build
