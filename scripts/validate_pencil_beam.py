"""The pencil beam against the kernels that it is made of: what is lost or widened on the way?"""

from collections.abc import Iterator

import numpy as np

from engine.dose.engine import DoseEngine
from engine.machine.library import load_machine
from scripts.validate_tank import ENERGIES_MEV, core_widths, planar_integral
from scripts.validate_targets import Check

CUTOFF = 0.005  # of the dose that may be lost laterally
WIDTH = 0.03  # interpolation between voxels widens by 1 to 2 %


def pencil_beam(engine: DoseEngine) -> Iterator[Check]:
    """Integrals and widths of single spots against the kernels of generic_proton."""
    machine = load_machine("generic_proton")
    for index in map(machine.energy_index, ENERGIES_MEV):
        label = f"{machine.energy_mev[index]:.1f} MeV"
        bins, planar, kernel = planar_integral(engine, machine, index)
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
        yield from core_widths(engine, machine, index, WIDTH)
