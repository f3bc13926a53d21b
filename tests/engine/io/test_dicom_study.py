from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_samples import small_patient
from pydicom.uid import CTImageStorage

from engine.io.dicom_study import Study, decimal, roi_numbers, save


@pytest.fixture(scope="module")
def patient():
    return small_patient()


def test_the_same_image_gives_the_same_identifiers_wherever_it_is_written(patient):
    again = replace(patient, name="somebody", source="elsewhere", hu=patient.hu + np.float32(0.3))
    assert Study.of(again) == Study.of(patient)
    assert Study.of(again).ct_uid(3) == Study.of(patient).ct_uid(3)


def test_rounding_of_a_grid_does_not_make_another_study(patient):
    origin = tuple(o + 1e-9 for o in patient.grid.origin_mm)
    assert Study.of(replace(patient, grid=replace(patient.grid, origin_mm=origin))) == Study.of(
        patient
    )


@pytest.mark.parametrize("change", ["hu", "grid", "mask", "role", "order"])
def test_another_image_or_structure_gives_other_identifiers(patient, change):
    study = Study.of(patient)
    cord = patient.structures["SpinalCord"]
    if change == "hu":
        other = Study.of(replace(patient, hu=patient.hu + np.float32(1.0)))
    elif change == "grid":
        spacing = (patient.grid.spacing_mm[0] + 0.01, *patient.grid.spacing_mm[1:])
        other = Study.of(replace(patient, grid=replace(patient.grid, spacing_mm=spacing)))
    elif change == "mask":
        mask = cord.mask.copy()
        mask[0, 0, 0] = True
        other = Study.of(patient.with_structures(replace(cord, mask=mask)))
    elif change == "order":  # which numbers the structures
        backwards = dict(reversed(patient.structures.items()))
        other = Study.of(replace(patient, structures=backwards))
    else:
        other = Study.of(patient.with_structures(replace(cord, role="support")))
    assert other.structures_uid != study.structures_uid
    assert (other.study_uid == study.study_uid) is (change not in ("hu", "grid"))


def test_identifiers_of_different_things_differ_and_are_valid(patient):
    study = Study.of(patient)
    uids = [
        study.study_uid, study.frame_uid, study.ct_series_uid, study.structures_uid,
        study.series_uid("RTDOSE", "a"), study.series_uid("RTDOSE", "b"), study.uid("a", "b"),
        study.uid("ab"), *(study.ct_uid(i) for i in range(4)),
    ]  # fmt: skip
    assert len(set(uids)) == len(uids)
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


def test_a_file_tells_nothing_of_a_person(patient, tmp_path):
    study = Study.of(replace(patient, name="Doe^Jane", source="/home/jane/doe"))
    path = tmp_path / "sub" / "file.dcm"
    save(study.dataset(CTImageStorage, "CT", study.ct_uid(0)), path)
    made = pydicom.dcmread(path)
    raw = path.read_bytes().lower()
    assert b"doe" not in raw and b"jane" not in raw
    assert made.PatientIdentityRemoved == "YES"
    assert made.PatientID == f"ptenv-{study.pseudonym}"
    dates = [e for e in made if e.VR in ("DA", "TM", "DT")]
    assert dates and all(not e.value for e in dates)
    assert not made.PatientBirthDate and not made.PatientSex and not made.ReferringPhysicianName


def test_a_file_is_the_same_bytes_each_time(patient, tmp_path):
    study = Study.of(patient)
    for name in ("a.dcm", "b.dcm"):
        save(study.dataset(CTImageStorage, "CT", study.ct_uid(0)), tmp_path / name)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


@pytest.mark.parametrize("value", [-1.0 / 3.0, 1e-17 / 3.0, 123456789.123456789, 2.0 / 3.0e7])
def test_decimal_strings_have_sixteen_characters_at_most(value):
    shown = str(decimal(value))
    assert len(shown) <= 16
    assert float(shown) == pytest.approx(value, rel=1e-9)


def test_structures_are_numbered_from_one_in_the_patients_order(patient):
    assert roi_numbers(patient) == {"External": 1, "PTV_7000": 2, "SpinalCord": 3}
