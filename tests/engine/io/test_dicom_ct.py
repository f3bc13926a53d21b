import numpy as np
import pydicom
import pytest
from dicom_checks import assert_follows_docbook, assert_valid
from dicom_samples import PYDICOM_FILES, edited, small_patient, with_bytes
from pydicom.uid import RLELossless

from engine.io.dicom_ct import read_ct, write_ct
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_study import Study
from engine.io.openkbp import read_patient


@pytest.fixture
def patient():
    return small_patient()


@pytest.fixture
def paths(patient, tmp_path):
    return write_ct(patient, Study.of(patient), tmp_path)


def change_all(paths, change):
    for path in paths:
        edited(path, change)


def refused(paths, named: str) -> None:
    with pytest.raises(DicomError) as caught:
        read_ct(paths)
    assert named in str(caught.value), str(caught.value)


def test_what_is_written_is_read_again_in_whole_hu(patient, tmp_path):
    patient.hu[0, 1, 1:4] = 12.4, -12.6, 3000.0
    ct = read_ct(write_ct(patient, Study.of(patient), tmp_path))
    assert ct.hu.dtype == np.float32
    assert np.array_equal(ct.hu, np.rint(patient.hu))
    assert ct.grid.shape == patient.grid.shape
    np.testing.assert_allclose(ct.grid.spacing_mm, patient.grid.spacing_mm, rtol=1e-12)
    np.testing.assert_allclose(ct.grid.origin_mm, patient.grid.origin_mm, rtol=1e-12)
    assert ct.frame_uid == Study.of(patient).frame_uid
    assert ct.notes == ()


def test_numbers_beyond_the_calibration_are_clipped(patient, tmp_path):
    patient.hu[0, 1, 1:3] = -3024.0, 70000.0
    ct = read_ct(write_ct(patient, Study.of(patient), tmp_path))
    assert ct.hu[0, 1, 1:3].tolist() == [-1000.0, 3000.0]


def test_numbers_beyond_the_calibration_are_clipped_when_read(paths):
    def change(dataset):
        values = np.frombuffer(dataset.PixelData, "<i2").copy()
        values[:2] = -3024, 20000
        dataset.PixelData = values.tobytes()

    change_all(paths, change)
    assert read_ct(paths).hu[0, 0, :2].tolist() == [-1000.0, 3000.0]


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(patient, paths, tmp_path):
    for path, name, instance in zip(paths, "fbdace", (3, 1, 2, 6, 5, 4)):
        edited(path, lambda d, i=instance: setattr(d, "InstanceNumber", i))
        path.rename(tmp_path / name)
    ct = read_ct(sorted(tmp_path / name for name in "abcdef"))
    assert np.array_equal(ct.hu, patient.hu)


def test_every_slice_has_its_own_slope_and_intercept(patient, paths):
    for k, path in enumerate(paths):
        slope, intercept = 0.5 + 0.25 * k, -1024.0 + k

        def change(dataset, k=k, slope=slope, intercept=intercept):
            stored = np.rint((patient.hu[k] - intercept) / slope)
            dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
            dataset.PixelRepresentation = 0
            dataset.PixelData = stored.astype("<u2").tobytes()

        edited(path, change)
    rounding = 0.5 * (0.5 + 0.25 * np.arange(len(paths)))
    difference = np.abs(read_ct(paths).hu - patient.hu).max(axis=(1, 2))
    assert np.all(difference <= rounding)
    assert difference.max() > 0.2  # the slopes are there


@pytest.mark.parametrize("padding, limit", [(-2000, None), (5000, None), (4000, 6000)])
def test_padding_is_air(paths, padding, limit):
    def change(dataset):
        values = np.frombuffer(dataset.PixelData, "<i2").copy()
        values[:5] = 5000 if limit else padding
        dataset.add_new("PixelPaddingValue", "SS", padding)
        if limit:
            dataset.add_new("PixelPaddingRangeLimit", "SS", limit)
        dataset.PixelData = values.tobytes()

    change_all(paths, change)
    hu = read_ct(paths).hu
    assert np.all(hu[:, 0, :5] == -1000.0)
    assert hu.max() < 100


def test_localizers_are_left_out_with_a_note(patient, paths, tmp_path):
    def change(dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows

    scout = edited(paths[0], change, tmp_path / "scout.dcm")
    ct = read_ct([scout, *paths])
    assert np.array_equal(ct.hu, patient.hu)
    assert ct.notes == ("1 localizer image left out",)
    refused([scout], "no axial slice")


@pytest.mark.parametrize(
    "keyword, value, named",
    [
        ("SeriesInstanceUID", "1.2.3", "2 different SeriesInstanceUID"),
        ("FrameOfReferenceUID", "1.2.3", "2 different FrameOfReferenceUID"),
        ("PixelSpacing", [2.0, 1.6], "PixelSpacing differs within the series: [2.0, 1.5]"),
        ("ImageOrientationPatient", [-1, 0, 0, 0, -1, 0], "ImageOrientationPatient differs"),
        ("Rows", 9, "1 of 6 files are unlike the first"),
        ("Modality", "MR", "of modality MR"),
        ("RescaleType", "ED", "RescaleType of 'CT_0003.dcm' is ED"),
        ("RescaleSlope", "0", "RescaleSlope of 'CT_0003.dcm' is 0"),
        ("RescaleSlope", None, "no RescaleSlope"),
        ("PhotometricInterpretation", "MONOCHROME1", "MONOCHROME1"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2.1", "enhanced (multi-frame) CT"),
        ("ImagePositionPatient", [-4.25, 7.5, -20.0], "one slice lies where another is"),
        ("ImagePositionPatient", [-4.25, 9.5, -14.0], "do not lie above one another"),
        ("FrameOfReferenceUID", None, "no FrameOfReferenceUID"),
    ],
)
def test_a_slice_that_is_unlike_the_others_is_refused(paths, keyword, value, named):
    edited(paths[2], lambda d: setattr(d, keyword, value))
    refused(paths, named)


def test_a_missing_slice_is_refused(paths):
    refused(paths[:2] + paths[3:], "6.00 mm between z = -17 and -11 mm: 1 of them missing")


def test_every_other_slice_missing_is_told_by_the_thickness(paths):
    assert read_ct(paths).notes == ()
    (note,) = read_ct(paths[::2]).notes
    assert "slices of 3 mm lie 6 mm apart" in note


def test_padding_that_is_no_number_is_refused(paths):
    with_bytes(paths[0], "PixelPaddingValue", b"\1\0\2\0")
    refused(paths, "PixelPaddingValue")


def test_compressed_slices_are_read(patient, paths):
    for path in paths:
        edited(path, lambda d: d.compress(RLELossless))
    assert np.array_equal(read_ct(paths).hu, patient.hu)


def test_pydicoms_ct_files_are_read_or_refused():
    path = PYDICOM_FILES / "CT_small.dcm"
    dataset = pydicom.dcmread(path)
    ct = read_ct([path])
    expected = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept
    assert ct.grid.shape == (1, 128, 128)
    assert ct.grid.spacing_mm == (5.0, 0.661468, 0.661468)
    is_padding = dataset.pixel_array == dataset.PixelPaddingValue
    assert np.array_equal(ct.hu[0], np.where(is_padding, -1000, np.clip(expected, -1000, 3000)))
    refused([PYDICOM_FILES / "693_J2KI.dcm"], "no FrameOfReferenceUID")


def test_written_slices_are_valid(paths, tmp_path):
    assert_valid(paths[:2], tmp_path)


def test_written_slices_follow_the_docbook(paths, pytestconfig):
    assert_follows_docbook(paths, pytestconfig)


def test_nothing_of_a_person_is_written(paths):
    dataset = pydicom.dcmread(paths[0])
    assert str(dataset.PatientName).startswith("ptenv^")
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        assert not dataset.get(keyword)


def test_a_real_patient_comes_back_in_whole_hu(openkbp_pt_1, tmp_path):
    patient = read_patient(openkbp_pt_1)
    ct = read_ct(write_ct(patient, Study.of(patient), tmp_path))
    assert np.array_equal(ct.hu, np.rint(patient.hu))
    np.testing.assert_allclose(ct.grid.origin_mm, patient.grid.origin_mm, atol=1e-9)
