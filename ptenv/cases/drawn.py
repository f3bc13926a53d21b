"""A patient on the dose grid of a case: what pictures and pages show of it."""

import numpy as np

from engine.patient.patient import Patient, Structure
from ptenv.cases.case import BODY, Case
from ptenv.cases.dose_shaping_case import DoseShapingCase


def drawn_patient(case: Case | DoseShapingCase) -> Patient:
    """A patient on the dose grid with what a picture shows of one: CT, targets and organs.

    A voxel belongs to a structure that fills half of it; the external is the whole box.
    """
    inside = {n: case.problem.structures[n] for n in case.evaluation.structures if n != BODY}
    structures = {"External": Structure("External", np.ones(case.grid.shape, bool), "external")}
    for name, region in inside.items():
        on_rows = np.zeros(case.influence.n_rows, bool)
        on_rows[region.rows] = region.volume >= 0.5 * region.volume.max()
        role = "target" if name in case.prescription_gy else "organ"
        structures[name] = Structure(name, case.influence.volume(on_rows) > 0, role)
    return Patient(
        case.case_id, case.grid, np.asarray(case.hu, np.float32), structures,
        case.prescription_gy, case.quantity.n_fractions, source=case.case_id,
    )  # fmt: skip
