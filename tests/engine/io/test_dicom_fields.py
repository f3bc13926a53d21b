"""Directions of plans whose beams cannot be computed, or are to be planned anew."""

import pydicom
import pytest
from dicom_samples import PYDICOM_FILES
from plan_samples import ISOCENTER, foreign_beam, foreign_plan, leaves, photon_plan, written

from engine.geometry.plan import Beam
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_fields import read_fields


def test_beams_that_leaves_shape_have_their_directions_once(tmp_path):
    plan = photon_plan(
        leaves(1, 40.0), leaves(2, 40.0), leaves(3, 90.0, 15.0), leaves(4, kind="SETUP")
    )
    found = read_fields(written(plan, tmp_path))
    assert found.beams == (Beam(40.0, ISOCENTER), Beam(90.0, ISOCENTER, 15.0))
    assert found.notes == ("beam 4 is left out: SETUP",)


def test_ion_beams_that_scatter_have_theirs_too(tmp_path):
    beam = foreign_beam(gantry=90.0, couch=0.0)
    beam.ScanMode = "NONE"
    found = read_fields(written(foreign_plan(beam, position="HFP"), tmp_path))
    assert found.beams == (Beam(270.0, ISOCENTER),)


def test_the_only_plan_of_a_folder_is_meant(tmp_path):
    written(photon_plan(leaves()), tmp_path)
    assert len(read_fields(tmp_path).beams) == 1


def test_a_folder_of_two_plans_is_refused(tmp_path):
    for number in (1, 2):
        plan = photon_plan(leaves())
        plan.SOPInstanceUID = f"1.2.3.{number}"
        written(plan, tmp_path).rename(tmp_path / f"{number}.dcm")
    with pytest.raises(DicomError, match="there are 2 plans"):
        read_fields(tmp_path)
    assert read_fields(tmp_path / "1.dcm").beams


@pytest.mark.parametrize(
    "later, said",
    [
        (dict(GantryAngle=60.0), "GantryAngle .* from 40 to 60"),
        (dict(PatientSupportAngle=5.0), "PatientSupportAngle .* from 0 to 5"),
        (dict(IsocenterPosition=[0.0, 0.0, 9.0]), "IsocenterPosition .* to 0, 0, 9"),
        (dict(TableTopPitchAngle=2.0), "TableTopPitchAngle"),
        (dict(TableTopEccentricAngle=30.0), "TableTopEccentricAngle"),
    ],
)
def test_beams_that_move_or_tilt_are_refused(later, said, tmp_path):
    path = written(photon_plan(leaves(**later)), tmp_path)
    with pytest.raises(DicomError, match=said):
        read_fields(path)


def test_a_full_turn_is_no_static_beam(tmp_path):
    beam = leaves(GantryAngle=40.0)
    beam.ControlPointSequence[0].GantryRotationDirection = "CW"
    with pytest.raises(DicomError, match="turns CW"):
        read_fields(written(photon_plan(beam), tmp_path))


def test_angles_that_rounding_moves_are_still(tmp_path):
    found = read_fields(written(photon_plan(leaves(gantry=0.0, GantryAngle=359.9999)), tmp_path))
    assert found.beams == (Beam(0.0, ISOCENTER),)


def test_a_plan_that_does_not_say_how_the_patient_lies_is_taken_as_the_ct(tmp_path):
    plan = photon_plan(leaves())
    plan.PatientSetupSequence[0].PatientPosition = ""
    path = written(plan, tmp_path)
    assert read_fields(path).beams == (Beam(40.0, ISOCENTER),)
    assert read_fields(path, on_ct="HFP").beams == (Beam(220.0, ISOCENTER),)


def test_a_beam_without_control_points_is_refused(tmp_path):
    beam = leaves()
    beam.ControlPointSequence = []
    with pytest.raises(DicomError, match="no control points"):
        read_fields(written(photon_plan(beam), tmp_path))


def test_a_file_of_something_else_is_refused():
    with pytest.raises(DicomError, match="no RT Plan"):
        read_fields(PYDICOM_FILES / "CT_small.dcm")


def test_pydicoms_own_plan_has_its_beam():
    told = pydicom.dcmread(PYDICOM_FILES / "rtplan.dcm").BeamSequence[0].ControlPointSequence[0]
    (beam,) = read_fields(PYDICOM_FILES / "rtplan.dcm").beams
    assert beam.gantry_deg == float(told.GantryAngle)
    assert beam.isocenter_mm == tuple(map(float, told.IsocenterPosition))
