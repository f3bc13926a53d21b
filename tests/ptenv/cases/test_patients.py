"""Patients of cases that are read from DICOM: found, keyed by content, and never called by name."""

from dataclasses import replace

import numpy as np
import pytest

from engine.io.dicom_ct import write_ct
from engine.io.dicom_structures_writing import write_structures
from engine.io.dicom_study import Study
from engine.patient.phantoms import head_and_neck
from ptenv.cases.library import forget_cases, load_case
from ptenv.cases.patients import (
    KEYS_FILE,
    checked_case,
    name_without_path,
    named_patient,
    nameless_case,
    patient_content,
)  # fmt: skip
from ptenv.cases.recipe import VoxelMaskRecipe


@pytest.fixture(scope="module")
def patient():
    return head_and_neck(3, spacing_mm=6.0, target_volume_cm3=(8.0, 20.0), crop_mm=30.0)


@pytest.fixture
def folder(patient, tmp_path):
    made = tmp_path / "Doe_John_1960"
    made.mkdir()
    study = Study.of(patient)
    write_ct(patient, study, made)
    write_structures(patient, study, made)
    (made / KEYS_FILE).write_text("n_fractions: 33\n")
    return made


def test_a_folder_is_the_patient_that_was_written(patient, folder):
    case = checked_case(f"dicom:{folder}")
    read = named_patient(case, 3.0)
    assert read.n_fractions == 33
    assert read.prescription_gy == patient.prescription_gy
    assert np.array_equal(read.hu, np.rint(patient.hu))
    for name, structure in read.structures.items():
        assert np.array_equal(structure.mask, patient.mask(name))


def test_no_result_calls_a_person_by_the_folder(folder):
    recipe = VoxelMaskRecipe(patient=f"dicom:{folder}")
    assert recipe.case_id.startswith("dicom:")
    for shown in (recipe.case_id, name_without_path(recipe.patient), recipe.read_patient().name):
        assert "Doe" not in shown


def test_the_cache_does_not_tell_where_a_patient_lies(folder, small, own_cache):
    """A case that is read again is of the folder that was asked for, even if it has moved."""
    least = {"n_anchor_masks": 1, "converged_evaluations": 2, "quality_evaluations": 2}
    recipe = VoxelMaskRecipe(patient=f"dicom:{folder}", **{**small, **least, "budgets": [0.1]})
    assert load_case(recipe).recipe["patient"] == recipe.patient
    kept = [path for path in own_cache.rglob("*") if path.is_file()]
    assert kept and not any(b"Doe" in path.read_bytes() for path in kept)
    forget_cases()
    moved = replace(recipe, patient=f"dicom:{folder.rename(folder.parent / 'elsewhere')}")
    assert load_case(moved).recipe["patient"] == moved.patient
    assert len([path for path in own_cache.iterdir() if path.is_dir()]) == 1


def test_the_key_follows_all_files(folder):
    case = f"dicom:{folder}"
    before = patient_content(case)
    (folder / KEYS_FILE).write_text("n_fractions: 30\n")
    assert patient_content(case) != before
    assert named_patient(case, 3.0).n_fractions == 30


@pytest.mark.parametrize(
    "text, said",
    [
        ("fractions: 30\n", "its keys are .*n_fractions"), ("- 30\n", "its keys are"),
        ("path: elsewhere\n", "its keys are"), ("n_fractions: [30\n", "is no YAML"),
    ],
)  # fmt: skip
def test_other_keys_are_refused(folder, text, said):
    (folder / KEYS_FILE).write_text(text)
    with pytest.raises(ValueError, match=said):
        named_patient(f"dicom:{folder}", 3.0)


def test_a_refusal_says_where_a_cases_keys_stand(folder):
    where = "such keys stand in patient.yaml"
    (folder / KEYS_FILE).write_text("structures: xyz\n")
    with pytest.raises(ValueError, match=f"(?s)structures='xyz' names 0 .*{where}"):
        named_patient(f"dicom:{folder}", 3.0)
    (folder / KEYS_FILE).unlink()
    with pytest.raises(ValueError, match=f"(?s)n_fractions=NUMBER.*{where}"):
        named_patient(f"dicom:{folder}", 3.0)
    next(folder.glob("RTSTRUCT*")).unlink()
    with pytest.raises(ValueError, match="no structure set") as caught:
        named_patient(f"dicom:{folder}", 3.0)
    assert where not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    (tmp_path / "one.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        checked_case(f"dicom:{tmp_path}/one")


def test_records_keep_a_digest_of_dicom_alone(folder):
    assert nameless_case(f"dicom:{folder}") == name_without_path(f"dicom:{folder}")
    for case in ("head-and-neck-00003", "openkbp:PATH/pt_1.zip"):
        assert nameless_case(case) == case
