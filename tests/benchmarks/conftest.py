"""Cases and reporting of the benchmarks: they print, they gate nothing."""

import os
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from engine import parallel
from engine.geometry.plan import Beam
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.patient.phantoms import tg119_c_shape

sys.path.insert(0, str(Path(__file__).parent))  # layouts.py, which is no test

FIELDS_OF_VIEW_MM = {5.0: (325.0, 505.0, 505.0), 3.0: (321.0, 501.0, 501.0)}  # z, y, x
C_SHAPE_SPOTS = SpotSettings(5.0, layer_spacing_mm=2.5, lateral_margin_mm=5.0, pattern="square")


@pytest.fixture(scope="session")
def c_shape():
    """Function: the TG-119 C-shape in a CT of 663 065 voxels of 5 mm (3.0 M of 3 mm), two fields.

    At 90° and 270° and 5 mm there are 9446 spots.
    """

    @lru_cache(maxsize=4)
    def build(spacing_mm, gantry_deg):
        patient = tg119_c_shape(spacing_mm, field_of_view_mm=FIELDS_OF_VIEW_MM[spacing_mm])
        beams = [Beam(float(g)) for g in gantry_deg]
        return patient, place_spots(patient, load_machine("generic_proton"), beams, C_SHAPE_SPOTS)

    return build


@pytest.fixture
def with_threads():
    """Function that sets the number of threads, which is set back afterwards."""
    before = parallel.threads()
    yield parallel.set_threads
    parallel.set_threads(before)


@pytest.fixture
def report(capsys, benchmark):
    """Function that prints a line of figures, with the time and the machine's load beside it."""

    def show(**figures):
        seconds = benchmark.stats.stats.min
        text = ", ".join(f"{name} {_text(value)}" for name, value in figures.items())
        with capsys.disabled():
            print(f"\n    {1e3 * seconds:.1f} ms (min): {text}; load {os.getloadavg()[0]:.1f}")
        benchmark.extra_info.update({k: str(v) for k, v in figures.items()})

    return show


def _text(value) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
