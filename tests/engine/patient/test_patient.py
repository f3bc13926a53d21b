"""A patient is whole, or is refused."""

import pickle

import numpy as np
import pytest

from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure

GRID = Grid.centered((4, 5, 6), (3.0, 3.0, 3.0))
WHOLE, PART = np.ones(GRID.shape, bool), np.zeros(GRID.shape, bool)
PART[1:3, 2:4, 2:4] = True
LOW, HIGH = Structure("PTV_Low", PART, "target"), Structure("PTV_High", ~PART, "target")
BODY = Structure("External", WHOLE, "external")
WISHES = {"PTV_Low": 56.0, "PTV_High": 70.0}


def a_patient(structures=(BODY, LOW, HIGH), **changed) -> Patient:
    given = {
        "name": "box", "grid": GRID, "hu": np.zeros(GRID.shape, np.float32),
        "structures": {s.name: s for s in structures}, "prescription_gy": WISHES, "n_fractions": 35,
    }  # fmt: skip
    return Patient(**{**given, **changed})


def test_targets_come_highest_prescription_first():
    assert a_patient().targets == ("PTV_High", "PTV_Low")
    assert a_patient().target_union().all()


def test_a_structure_is_added_to_a_copy():
    patient = a_patient()
    grown = patient.with_structures(Structure("Eye_L", PART, "organ"))
    assert grown.organs == ("Eye_L",)
    assert patient.organs == ()


def test_structures_and_prescription_cannot_be_written_and_survive_pickling():
    patient = pickle.loads(pickle.dumps(a_patient()))
    assert dict(patient.prescription_gy) == WISHES
    with pytest.raises(TypeError):
        patient.prescription_gy["PTV_Low"] = 1.0
    with pytest.raises(TypeError):
        patient.structures["PTV_Low"] = HIGH


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"structures": (BODY,), "prescription_gy": {}}, "has no target"),
        ({"structures": (LOW, HIGH)}, "0 structures have the role 'external'"),
        ({"prescription_gy": {"PTV_Low": 56.0}}, r"\['PTV_High'\] have no prescription"),
        ({"prescription_gy": {**WISHES, "External": 20.0}}, "'External', which is no target"),
        ({"prescription_gy": {**WISHES, "PTV_Low": 0.0}}, "give a positive dose"),
        ({"n_fractions": 0}, "n_fractions=0"),
        ({"n_fractions": 1.5}, "n_fractions=1.5"),
        ({"hu": np.zeros((4, 5, 5), np.float32)}, "hu has shape"),
        ({"hu": np.full(GRID.shape, np.nan, np.float32)}, "hu holds NaN"),
        (
            {"structures": (BODY, HIGH, Structure("PTV_Low", PART[1:], "target"))},
            "'PTV_Low' has shape",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        a_patient(**changed)


def test_a_structure_under_another_name_is_refused():
    with pytest.raises(ValueError, match="is named 'PTV_Low'"):
        a_patient().__class__(**{**vars(a_patient()), "structures": {"External": BODY, "PTV": LOW}})


def test_an_unknown_structure_is_named_with_those_there_are():
    with pytest.raises(KeyError, match="'Heart' is unknown.*External"):
        a_patient().mask("Heart")


@pytest.mark.parametrize(
    "arguments, message",
    [(("A", PART, "tumor"), "role='tumor'"), (("A", PART.astype(float), "organ"), "boolean")],
)
def test_malformed_structures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Structure(*arguments)
