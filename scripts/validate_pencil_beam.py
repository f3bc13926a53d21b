"""The pencil beam against the kernels that it is made of: what is lost or widened on the way?

Protons and carbon ions one spot at a time; then a plan of carbon ions in water, end to end.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from engine.dose.engine import DoseEngine
from engine.machine.ion import IonMachine
from engine.machine.library import load_machine
from scripts.validate_carbon_tank import CARBON_MEV, carbon_effects, carbon_plan
from scripts.validate_check import Check
from scripts.validate_tank import ENERGIES_MEV, core_widths, planar_integral, spot_label

CUTOFF = 0.005  # of the dose that may be lost laterally
WIDTH = 0.03  # interpolation between voxels widens by 1 to 2 %
WHOLE = 1e-3  # at any depth, peak and tail as well
# Half width of the tank and its voxels for carbon: voxels of 2 mm, 0.8 σ of its spots, would sample
# the edge of what is kept so coarsely that 0.6 % seems lost.
NARROW = (60.0, (0.75, 4.0, 0.75))


def pencil_beam(engine: DoseEngine) -> Iterator[Check]:
    """Integrals and widths of single spots, what carbon's do to cells, and a plan of carbon."""
    protons, carbon = load_machine("generic_proton"), load_machine("generic_carbon")
    for index in map(protons.energy_index, ENERGIES_MEV):
        yield from _lost(engine, protons, index)
        yield from core_widths(engine, protons, index, WIDTH)
    for index in map(carbon.energy_index, CARBON_MEV):
        yield from _lost(engine, carbon, index, *NARROW)
        yield _whole(engine, carbon, index)
        yield from core_widths(engine, carbon, index, WIDTH)
    yield from carbon_effects(engine)
    yield from carbon_plan(engine)


def _lost(engine: DoseEngine, machine: IonMachine, index: int, *voxels) -> Iterator[Check]:
    label = spot_label(machine, index)
    bins, planar, kernel = planar_integral(engine, machine, index, *voxels)
    yield Check(
        "", f"dose lost of all, {label}", "", 0.0, 1.0 - planar.sum() / kernel.sum(), CUTOFF,
        False, "integral of the kernel",
    )  # fmt: skip
    plateau = bins < 0.9 * machine.range_mm[index]
    yield Check(
        "", f"planar integral, mean ratio to 0.9 of the range, {label}", "", 1.0,
        float(np.mean(planar[plateau] / kernel[plateau])), CUTOFF, False,
        "kernel at each depth",
    )  # fmt: skip


def _whole(engine: DoseEngine, machine: IonMachine, index: int) -> Check:
    _, planar, kernel = planar_integral(replace(engine, lateral_cutoff=1e-5), machine, index)
    ratio = float(max(planar / kernel, key=lambda r: abs(r - 1.0)))
    name = f"planar integral, nothing cut off, furthest from 1, {spot_label(machine, index)}"
    return Check("", name, "", 1.0, ratio, WHOLE, False, "kernel at each depth")
