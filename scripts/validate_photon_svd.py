"""The photon pencil beam in water: depth dose, field sizes, penumbra, bixels against whole fields.

References are the published fit that the kernels come from (Nyholm et al., Radiother. Oncol. 78
(2006) 347), integrated over square fields without separating it, at the fit's TPR20,10 = 0.68 and
for a parallel beam.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from engine.dose.engine import DoseEngine
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Beam, Plan
from engine.machine.library import load_machine
from engine.machine.photon import PhotonMachine, square_field_gy
from engine.patient.patient import Patient
from engine.patient.phantoms import water_tank
from scripts.validate_check import Check

SOURCE = "the whole field's integral"
SIX_MV = "6 MV, Nyholm 2006"
OUTPUT = {20: 0.871, 30: 0.896, 50: 0.932, 150: 1.048, 200: 1.081, 400: 1.139}
DEPTH_DOSE = {50: 85.8, 100: 66.1, 200: 37.4}  # percent, 10 × 10 cm², SSD 1000 mm
DEPTH_MM, SIDE_MM = 100.0, 100.0


def for_checks(engine: DoseEngine) -> DoseEngine:
    """With all the scatter, as the references have it."""
    return replace(engine, reach_mm=200.0)


def tank(engine: DoseEngine) -> Iterator[Check]:
    """Depth dose and field sizes of the machine in water."""
    machine = load_machine("generic_photon")
    depth = np.arange(0.0, 301.0)
    dose = square_field_gy(machine, SIDE_MM, depth, profile=False)
    yield Check("", "TPR20,10, 10 × 10 cm²", "", 0.673, dose[200] / dose[100], 0.01, False, SIX_MV)
    surface = dose * (1000.0 / (1000.0 + depth)) ** 2
    yield Check("", "depth of the maximum", "mm", 15.0, float(surface.argmax()), 2.0, False, SIX_MV)
    for at, percent in DEPTH_DOSE.items():
        value = 100.0 * surface[at] / surface.max()
        yield Check("", f"depth dose at {at} mm", "%", percent, value, 1.0, False, SIX_MV)
    at = np.array([DEPTH_MM])
    for side, output in OUTPUT.items():
        value = float(square_field_gy(machine, float(side), at, profile=False)[0]) / dose[100]
        yield Check(
            "", f"output at 10 cm, side {side} mm", "", output, value, 0.02, True, SIX_MV
        )  # fmt: skip


def photon_svd(engine: DoseEngine) -> Iterator[Check]:
    """An open field of the engine's bixels in a tank, and its matrix against its convolution."""
    patient, machine, plan = _open_field(60.0, engine.bixel_mm)
    dose = engine.dose(patient, plan, patient.grid)["dose"]
    z, y, x = patient.grid.axes_mm()
    at = (int(np.abs(z).argmin()), int(np.abs(x).argmin()))
    depth = y - patient.grid.lower_mm[1]
    expected = square_field_gy(machine, 60.0, depth)
    expected = expected * (1000.0 / (1000.0 + y - plan.beams[0].isocenter_mm[1])) ** 2
    inside = slice(4, -4)
    ratio = dose[at[0], inside, at[1]] / expected[inside]
    yield Check(
        "", "bixels over whole field on the axis", "", 1.0, float(ratio.mean()), 0.005, False,
        SOURCE,
    )  # fmt: skip
    yield Check("", "largest deviation there", "", 0.0, float(np.abs(ratio - 1).max()), 0.01, False,
                SOURCE)  # fmt: skip
    profile = dose[at[0], int(np.abs(depth - DEPTH_MM).argmin())]
    edge = np.interp(30.0, x, profile) / np.interp(0.0, x, profile)
    yield Check("", "dose at the field's edge over the axis", "", 0.5, float(edge), 0.03, False,
                "definition of a field's size")  # fmt: skip
    rows = np.arange(0, patient.grid.size, 97)
    influence = engine.influence(patient, plan, patient.grid, voxels=rows)
    off = np.abs(influence @ plan.weights - dose.ravel()[rows]).max() / dose.max()
    yield Check("", "matrix against convolution", "", 0.0, float(off), 1e-4, False, "identity")


def _open_field(side_mm: float, bixel_mm: float) -> tuple[Patient, PhotonMachine, Plan]:
    patient = water_tank((100.0, 260.0, 160.0), 4.0, 60.0)
    machine = load_machine("generic_photon")
    n = round(side_mm / bixel_mm)
    at = bixel_mm * (np.arange(n) - 0.5 * (n - 1))
    u, v = (a.ravel().astype(np.float32) for a in np.meshgrid(at, at))
    beam = Beam(0.0, isocenter_mm=(0.0, patient.grid.lower_mm[1] + DEPTH_MM, 0.0))
    plan = place_bixels(patient, machine, [beam], bixel_mm)
    return patient, machine, replace(
        plan, spot_beam=np.zeros(n * n, np.uint16), spot_energy=np.zeros(n * n, np.uint16), u_mm=u,
        v_mm=v, weights=np.ones(n * n),
    )  # fmt: skip
