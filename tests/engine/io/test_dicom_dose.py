import numpy as np
import pydicom
import pytest
from dicom_checks import assert_follows_docbook, assert_valid
from dicom_samples import PYDICOM_FILES, edited, small_patient
from pydicom.uid import RTIonPlanStorage

from engine.io.dicom_dataset import DicomError
from engine.io.dicom_dose import read_dose, write_dose
from engine.io.dicom_study import Study, referenced
from engine.patient.grid import Grid

GRID = Grid((5, 7, 9), (4.0, 2.5, 3.0), (-12.3, 4.567, -100.1))


@pytest.fixture(scope="module")
def study():
    return Study.of(small_patient())


@pytest.fixture(scope="module")
def plan(study):
    return referenced(RTIonPlanStorage, study.uid("a plan"))


@pytest.fixture(scope="module")
def dose_gy():
    return np.random.default_rng(0).uniform(0.0, 75.0, GRID.shape).astype(np.float32)


@pytest.fixture
def path(study, plan, dose_gy, tmp_path):
    return write_dose(GRID, dose_gy, study, plan, tmp_path / "dose.dcm")


def same_grid(found: Grid, expected: Grid) -> bool:
    return found.shape == expected.shape and np.allclose(
        [found.spacing_mm, found.origin_mm], [expected.spacing_mm, expected.origin_mm], atol=1e-9
    )


def test_a_dose_comes_back_within_half_a_step(path, dose_gy):
    found = read_dose(path)
    rounding = np.spacing(dose_gy.max())  # of float32, which holds 24 of the 32 bits
    assert same_grid(found.grid, GRID)
    assert found.step_gy == pytest.approx(dose_gy.max() / 2**32, rel=1e-6)
    assert np.abs(found.dose_gy - dose_gy).max() <= 0.5 * found.step_gy + rounding
    assert found.dose_gy.dtype == np.float32


def test_small_doses_are_kept_to_half_a_step_as_well(study, plan, tmp_path):
    """A few steps, where float32 is finer than the step."""
    dose = np.random.default_rng(0).uniform(0.0, 1e-6, GRID.shape).astype(np.float32)
    dose[2, 3, 4] = 60.0
    found = read_dose(write_dose(GRID, dose, study, plan, tmp_path / "dose.dcm"))
    apart = np.abs(found.dose_gy.astype(float) - dose)[dose < 1.0]
    assert 0.4 * found.step_gy < apart.max() <= 0.5001 * found.step_gy


def test_no_dose_at_all_can_be_written(study, plan, tmp_path):
    nothing = np.zeros(GRID.shape, np.float32)
    assert not read_dose(write_dose(GRID, nothing, study, plan, tmp_path / "d.dcm")).dose_gy.any()


def test_the_total_and_a_beam_say_what_they_are(study, plan, dose_gy, tmp_path):
    total = read_dose(write_dose(GRID, dose_gy, study, plan, tmp_path / "t.dcm"))
    beam = read_dose(write_dose(GRID, dose_gy, study, plan, tmp_path / "b.dcm", 3, "RBE 1.1"))
    assert (total.summation, total.beam_numbers, total.is_effective) == ("PLAN", (), False)
    assert (beam.summation, beam.beam_numbers, beam.is_effective) == ("BEAM", (3,), True)
    assert (total.weighted_by, beam.weighted_by) == ("", "RBE 1.1")
    assert total.plan_uid == beam.plan_uid == study.uid("a plan")
    assert total.frame_uid == study.frame_uid


def test_doses_are_files_of_their_own_in_one_series(study, plan, dose_gy, tmp_path):
    paths = [
        write_dose(GRID, dose_gy * scale, study, plan, tmp_path / f"{i}.dcm", beam)
        for i, (scale, beam) in enumerate([(1.0, None), (1.0, 1), (0.5, None)])
    ]
    made = [pydicom.dcmread(p) for p in paths]
    assert len({m.SOPInstanceUID for m in made}) == 3
    assert len({m.SeriesInstanceUID for m in made}) == 1


@pytest.mark.parametrize("dose", [np.full(GRID.shape, -1.0), np.full(GRID.shape, np.nan)])
def test_what_is_no_dose_is_not_written(study, plan, dose, tmp_path):
    with pytest.raises(ValueError, match="dose_gy"):
        write_dose(GRID, dose, study, plan, tmp_path / "dose.dcm")


@pytest.fixture
def paths(study, plan, dose_gy, tmp_path):
    return [
        write_dose(GRID, dose_gy, study, plan, tmp_path / "total.dcm"),
        write_dose(GRID, dose_gy, study, plan, tmp_path / "beam.dcm", 2, "RBE 1.1"),
    ]


def test_written_doses_follow_the_standard(paths, tmp_path):
    assert_valid(paths, tmp_path)


def test_written_doses_follow_the_docbook(paths, pytestconfig):
    assert_follows_docbook(paths, pytestconfig)


def test_planes_may_be_told_by_their_z(path, dose_gy):
    """PS3.3 C.8.8.3.2, option b."""

    def change(dataset):
        z0 = float(dataset.ImagePositionPatient[2])
        dataset.GridFrameOffsetVector = [z0 + float(o) for o in dataset.GridFrameOffsetVector]

    found = read_dose(edited(path, change))
    assert same_grid(found.grid, GRID)
    np.testing.assert_allclose(found.dose_gy, dose_gy, rtol=1e-6, atol=1e-6)


def test_planes_of_a_patient_with_the_feet_first_run_the_other_way(path, dose_gy):
    """x and z turned: offsets count along row × column, which then points to the feet."""

    def change(dataset):
        frames = np.frombuffer(dataset.PixelData, "<u4").reshape(GRID.shape)
        dataset.PixelData = np.ascontiguousarray(frames[::-1, :, ::-1]).tobytes()
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        z, y, x = GRID.origin_mm
        dataset.ImagePositionPatient = [x + 8 * 3.0, y, z + 4 * 4.0]

    found = read_dose(edited(path, change))
    assert same_grid(found.grid, GRID)
    np.testing.assert_allclose(found.dose_gy, dose_gy, rtol=1e-6, atol=1e-6)


def test_what_another_system_says_of_weighting_is_not_taken_over(study, plan, dose_gy, tmp_path):
    path = write_dose(GRID, dose_gy, study, plan, tmp_path / "b.dcm", None, "RBE 1.1")
    found = read_dose(edited(path, lambda d: setattr(d, "Manufacturer", "Other")))
    assert found.is_effective and found.weighted_by == ""


def _tilt(dataset):
    dataset.ImageOrientationPatient = [1, 0, 0, 0, np.cos(0.1), np.sin(0.1)]


def _negative(dataset):
    dataset.PixelRepresentation = 1
    dataset.PixelData = np.full(GRID.shape, -1, "<i4").tobytes()


REFUSED = {
    "relative": (lambda d: setattr(d, "DoseUnits", "RELATIVE"), "RELATIVE"),
    "an error map": (lambda d: setattr(d, "DoseType", "ERROR"), "ERROR"),
    "no step": (lambda d: delattr(d, "DoseGridScaling"), "DoseGridScaling"),
    "a step of 0": (lambda d: setattr(d, "DoseGridScaling", 0), "positive"),
    "a negative step": (lambda d: setattr(d, "DoseGridScaling", "-1e-6"), "positive"),
    "a huge step": (lambda d: setattr(d, "DoseGridScaling", "1e30"), "at most"),
    "negative doses": (_negative, "0 or more"),
    "tilted planes": (_tilt, "tilted"),
    "offsets that begin anywhere": (
        lambda d: setattr(d, "GridFrameOffsetVector", [5, 9, 13, 17, 21]), "begins with 5",
    ),
    "a plane missing": (
        lambda d: setattr(d, "GridFrameOffsetVector", [0, 4, 12, 16, 20]), "missing",
    ),
    "too few offsets": (lambda d: setattr(d, "GridFrameOffsetVector", [0, 4]), "2 numbers"),
    "another kind": (lambda d: setattr(d, "SOPClassUID", RTIonPlanStorage), "no RT Dose"),
    "fewer pixels than claimed": (lambda d: setattr(d, "NumberOfFrames", 6), "claims"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(path, what):
    change, said = REFUSED[what]
    with pytest.raises(DicomError, match=said) as refusal:
        read_dose(edited(path, change))
    assert "dose.dcm" in str(refusal.value)


@pytest.mark.parametrize(
    "name", [p.name for p in sorted(PYDICOM_FILES.glob("rtdose*.dcm"))] or ["rtdose.dcm"]
)
def test_pydicoms_doses_are_refused_as_relative(name):
    with pytest.raises(DicomError, match="RELATIVE"):
        read_dose(PYDICOM_FILES / name)


def test_pydicoms_dose_can_be_read_once_it_is_called_gray(tmp_path):
    """Against pydicom's own pixels and slope."""
    path = edited(
        PYDICOM_FILES / "rtdose.dcm", lambda d: setattr(d, "DoseUnits", "GY"), tmp_path / "d.dcm"
    )
    told = pydicom.dcmread(path)
    expected = told.pixel_array * float(told.DoseGridScaling)
    found = read_dose(path)
    np.testing.assert_allclose(found.dose_gy, expected, rtol=1e-6)
    assert found.grid.spacing_mm[1:] == tuple(map(float, told.PixelSpacing))
    assert found.grid.origin_mm[0] == float(told.ImagePositionPatient[2])
