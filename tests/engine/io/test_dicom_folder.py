import shutil

import pytest
from dicom_samples import (
    ION_PLAN,
    PYDICOM_FILES,
    drawn_on_another_series,
    edited,
    plan_file,
    refused,
    roi,
    small_patient,
    square,
    structure_file,
    written,
)
from pydicom.dataset import Dataset

from engine.io.dicom_folder import scan, short
from engine.io.dicom_study import Study, referenced, save

PATIENT = small_patient()
STUDY = Study.of(PATIENT)
DOSE = "1.2.840.10008.5.1.4.1.1.481.2"


@pytest.fixture
def folder(tmp_path):
    """CT and structures, in sub-folders, with junk."""
    written(PATIENT, tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for path in sorted(tmp_path.glob("CT_*"))[::2]:
        path.rename(tmp_path / "a" / "b" / path.stem)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty").touch()
    return tmp_path


def dose_file(path, uid, plan_uid):
    made = STUDY.dataset(DOSE, "RTDOSE", uid)
    made.ReferencedRTPlanSequence = [referenced(ION_PLAN, plan_uid)]
    made.DoseSummationType, made.DoseType, made.NumberOfFrames = "PLAN", "EFFECTIVE", 7
    return save(made, path)


def test_files_are_known_by_what_they_say(folder):
    plan_file(folder / "x", STUDY, IonBeamSequence=[Dataset(), Dataset()])
    dose_file(folder / "a" / "y.txt", "1.2.3.5", "1.2.3.4")
    found = scan(folder)
    (series,), (structures,) = found.of("series"), found.of("structures")
    (plan,), (dose,) = found.of("plan"), found.of("dose")
    assert len(series.paths) == 6
    assert series.uid == STUDY.ct_series_uid
    assert structures.refers_to == {series.uid}
    assert plan.refers_to == {structures.uid}
    assert dose.refers_to == {plan.uid}
    assert plan.path == folder / "x"
    assert found.n_not_dicom == 2
    assert found.listing().splitlines() == [
        "1 CT series",
        f"  {series.short}  6 files",
        "1 structure set",
        f"  {structures.short}  structures, refers to {series.short}",
        "1 plan",
        f"  {plan.short}  2 beams of ions, refers to {structures.short}",
        "1 dose",
        f"  {dose.short}  PLAN, EFFECTIVE, 7 slices, refers to {plan.short}",
        "2 files that are not DICOM",
    ]


def test_copies_count_once(folder):
    shutil.copytree(folder / "a", folder / "again")
    found = scan(folder)
    assert len(found.of("series")[0].paths) == 6
    assert found.n_copies == 3
    assert "3 copies of files that are there already" in found.listing()


def test_other_modalities_and_a_dicomdir_are_counted(folder):
    shutil.copy(PYDICOM_FILES / "MR_small.dcm", folder)
    shutil.copy(PYDICOM_FILES / "dicomdirtests" / "DICOMDIR", folder)
    found = scan(folder)
    assert found.others == {"DICOMDIR": 1, "MR": 1}
    assert "1 of modality MR" in found.listing()


def test_unreadable_files_are_told_and_do_not_hinder(folder):
    content = (folder / "RTSTRUCT.dcm").read_bytes()
    for i in range(8):
        (folder / f"cut_{i}").write_bytes(content[: 136 + 40 * i])
    found = scan(folder)
    assert len(found.of("series")) == len(found.of("structures")) == 1
    assert len(found.unreadable) == 8
    assert found.listing().count("cut_") == 5
    assert found.listing().endswith("3 more are unreadable")


def test_a_missing_reference_is_shown(folder):
    plan_file(folder / "x", STUDY, structures_uid="1.2.3.99")
    assert f"refers to {short('1.2.3.99')} (not here)" in scan(folder).listing()


def test_no_uid_and_no_text_of_a_file_is_listed(folder):
    def name(dataset):
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "778899"
        dataset.PatientBirthDate = dataset.StudyDate = "19700102"
        dataset.StructureSetLabel = dataset.SeriesDescription = "Doe 1970"

    for path in (folder / "RTSTRUCT.dcm", next(folder.glob("CT_*"))):
        edited(path, name)
    listing = scan(folder).listing().lower()
    for secret in ("doe", "jane", "778899", "1970", STUDY.ct_series_uid, STUDY.structures_uid):
        assert secret not in listing


def test_digests_are_of_letters_and_differ():
    found = {short(f"1.2.{i}") for i in range(2000)}
    assert len(found) == 2000
    assert all(len(s) == 8 and s.isalpha() and s.islower() for s in found)


def test_the_only_one_is_chosen(folder):
    found = scan(folder)
    assert found.chosen("series").uid == STUDY.ct_series_uid
    refused(lambda: found.chosen("plan"), "there is no plan in the folder", "1 CT series")


@pytest.fixture
def crowded(folder):
    """Two series, three structure sets (two on the first series), two plans on the first set."""
    other = small_patient()
    other.hu[:] = 7.0
    written(other, folder / "other")
    cord = [roi("Cord", [(-20.0, square((0.0, 10.0), 3.0))])]
    second = structure_file(folder / "second", cord, STUDY)
    edited(second, lambda d: setattr(d, "SOPInstanceUID", "1.2.3.2"))
    plan_file(folder / "p1", STUDY, "1.2.3.11")
    plan_file(folder / "p2", STUDY, "1.2.3.12")
    return scan(folder)


def test_where_several_could_be_meant_a_key_chooses(crowded):
    said = refused(lambda: crowded.chosen("series"), "2 CT series that could be meant", "series=…")
    for entry in crowded.of("series"):
        assert entry.short in said
        for wish in (entry.uid, entry.short, entry.short[:5]):
            assert crowded.chosen("series", wish) == entry
    refused(lambda: crowded.chosen("series", ""), "names 0")
    refused(lambda: crowded.chosen("series", "xyz"), "series='xyz' names 0 of the CT series")
    refused(lambda: crowded.chosen("plan", None, []), "belongs to what was chosen")


def test_references_tell_what_belongs_together(crowded):
    plan = crowded.chosen("plan", "1.2.3.11")
    (structures,) = crowded.belonging("structures", plan)
    (series,) = crowded.belonging("series", structures)
    assert structures.uid == STUDY.structures_uid
    assert series.uid == STUDY.ct_series_uid
    assert {e.uid for e in crowded.belonging("structures", series)} == {structures.uid, "1.2.3.2"}
    assert len(crowded.belonging("plan", structures)) == 2
    assert crowded.belonging("dose", plan) == ()


def test_failing_references_the_frame_of_reference_tells(folder):
    edited(folder / "RTSTRUCT.dcm", drawn_on_another_series)
    found = scan(folder)
    (series,) = found.belonging("series", found.chosen("structures"))
    assert series.uid == STUDY.ct_series_uid


def test_folders_without_dicom_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    refused(lambda: scan(tmp_path), "no DICOM file (1 of other kinds)")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        scan(tmp_path / "a.txt")
