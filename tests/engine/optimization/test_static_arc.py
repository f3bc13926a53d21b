"""Static arcs: as many layers as asked, in an ordinary plan."""

import numpy as np
import pytest

from engine.geometry.arc import Arc, ArcSettings
from engine.machine.library import load_machine
from engine.optimization.static_arc import static_arc
from engine.patient.phantom_nasopharynx import nasopharynx

MACHINE = load_machine("generic_proton")
SETTINGS = ArcSettings(n_layers=14, layer_spacing_mm=8.0, spot_spacing_mm=9.0, n_points=50)


@pytest.fixture(scope="module")
def patient():
    return nasopharynx(2, spacing_mm=5.0)


def plan_of(patient, n_layers, **settings):
    return static_arc(
        patient, MACHINE, Arc(6), n_layers, SETTINGS, initial_spacing_mm=8.0, cycles=2,
        evaluations=6, dose_grid_mm=8.0, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("n_layers", [1, 9])
def test_the_plan_has_the_layers_asked_for(patient, n_layers):
    plan = plan_of(patient, n_layers)
    assert len(plan.layer_starts()) - 1 == n_layers
    assert len(plan.beams) == 6
    assert not plan.weights.any()
    for beam in range(6):
        energies = plan.spot_energy[plan.beam_slice(beam)].astype(int)
        assert np.all(np.diff(energies) <= 0)


def test_numbers_that_cannot_be_are_refused(patient):
    with pytest.raises(ValueError, match="n_layers=9999"):
        plan_of(patient, 9999)
    with pytest.raises(ValueError, match="dose_grid_mm=0"):
        static_arc(patient, MACHINE, Arc(6), 4, SETTINGS, dose_grid_mm=0)
