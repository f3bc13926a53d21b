"""RT Plans of photons: fluence where the file has it, refusals where it has not."""

from copy import deepcopy

import numpy as np
import pydicom
import pytest
from plan_samples import ISOCENTER, axes_in_patient, item, tank

from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_plan import read_plan
from engine.io.dicom_plan_writing import write_plan
from engine.io.dicom_study import Study
from engine.machine.library import load_machine

U = np.array([-5.0, 0.0, 5.0, 0.0], np.float32)
V = np.array([-10.0, -10.0, -10.0, 5.0], np.float32)
WEIGHTS = np.array([1.0, 4.0, 0.25, 2.0])


def bixels(u=U, v=V, weights=WEIGHTS) -> Plan:
    zeros = np.zeros(len(u), np.uint16)
    return Plan(
        load_machine("generic_photon"), (Beam(30.0, ISOCENTER),), zeros, zeros,
        np.asarray(u, np.float32), np.asarray(v, np.float32), np.asarray(weights, float),
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    patient = tank()
    write_plan(bixels(), patient, Study.of(patient), tmp_path / "plan.dcm")
    return tmp_path / "plan.dcm"


def test_bixels_are_pixels_of_a_compensator_from_the_upper_left(path):
    """PS3.3 C.8.8.14.10: rows run along +x, columns along −y."""
    beam = pydicom.dcmread(path).BeamSequence[0]
    told = beam.CompensatorSequence[0]
    pixels = np.array(told.CompensatorTransmissionData, float)
    assert (told.CompensatorRows, told.CompensatorColumns) == (4, 3)
    assert list(map(float, told.CompensatorPosition)) == [-5.0, 5.0]
    np.testing.assert_allclose(
        pixels.reshape(4, 3), np.array([[0, 2, 0], [0, 0, 0], [0, 0, 0], [1, 4, 0.25]]) / 4.0
    )
    meterset = pydicom.dcmread(path).FractionGroupSequence[0].ReferencedBeamSequence[0]
    assert float(meterset.BeamMeterset) == 4.0


def test_jaws_enclose_the_bixels(path):
    first = pydicom.dcmread(path).BeamSequence[0].ControlPointSequence[0]
    jaws = {
        opening.RTBeamLimitingDeviceType: list(map(float, opening.LeafJawPositions))
        for opening in first.BeamLimitingDevicePositionSequence
    }
    assert jaws == {"X": [-7.5, 7.5], "Y": [-12.5, 7.5]}


def test_the_fluence_comes_back(path):
    found = read_plan(path).plan
    np.testing.assert_array_equal(found.u_mm, U)
    np.testing.assert_array_equal(found.v_mm, V)
    np.testing.assert_allclose(found.weights, WEIGHTS, rtol=1e-12)


def test_many_bixels_fit_in_a_file(tmp_path):
    """More than the 64 KB of a value with an explicit VR."""
    v, u = (a.ravel() for a in np.meshgrid(np.arange(80) * 2.5, np.arange(80) * 2.5, indexing="ij"))
    plan = bixels(u, v, np.random.default_rng(0).uniform(0.1, 1.0, len(u)))
    patient = tank()
    write_plan(plan, patient, Study.of(patient), tmp_path / "plan.dcm")
    found = read_plan(tmp_path / "plan.dcm").plan
    assert (tmp_path / "plan.dcm").stat().st_size > 2**16
    np.testing.assert_allclose(found.weights, plan.weights, rtol=1e-12)


@pytest.mark.parametrize("u, v", [([0.0], [0.0]), ([0.0, 5.0, 7.0], [0.0, 0.0, 0.0])])
def test_bixels_that_are_no_raster_are_not_written(u, v, tmp_path):
    patient = tank()
    with pytest.raises(ValueError, match="bixel"):
        write_plan(
            bixels(u, v, np.ones(len(u))), patient, Study.of(patient), tmp_path / "plan.dcm"
        )


def _beam(**values):
    return lambda beam: beam.update(item(**values))


def _first(**values):
    return lambda beam: beam.ControlPointSequence[0].update(item(**values))


def _map(**values):
    return lambda beam: beam.CompensatorSequence[0].update(item(**values))


def _leaves(beam):
    beam.BeamLimitingDeviceSequence.append(
        item(RTBeamLimitingDeviceType="MLCX", NumberOfLeafJawPairs=60)
    )


def _no_map(beam):
    beam.NumberOfCompensators = 0
    del beam.CompensatorSequence


def _narrow(beam):
    opening = beam.ControlPointSequence[0].BeamLimitingDevicePositionSequence[1]
    opening.RTBeamLimitingDeviceType, opening.LeafJawPositions = "ASYMY", [-2.0, 10.0]


def _later(**values):
    return lambda beam: beam.ControlPointSequence[1].update(item(**values))


def _jaws_later(beam):
    openings = deepcopy(beam.ControlPointSequence[0].BeamLimitingDevicePositionSequence)
    openings[0].LeafJawPositions = [-7.5, 30.0]
    _later(BeamLimitingDevicePositionSequence=openings)(beam)


REFUSED = {
    "leaves": (_leaves, "MLCX"),
    "a table that turns": (_later(PatientSupportAngle=5.0), "PatientSupportAngle"),
    "a table that moves": (_later(IsocenterPosition=[0.0, 0.0, 9.0]), "IsocenterPosition"),
    "a table that tilts": (_later(TableTopPitchAngle=12.0), "TableTopPitchAngle"),
    "jaws that move": (_jaws_later, "jaws .* move"),
    "no map": (_no_map, "0 fluence maps"),
    "no control points": (_beam(ControlPointSequence=[]), "no control points"),
    "an arc": (_later(GantryAngle=90.0), "GantryAngle .* from 30 to 90"),
    "another energy": (_first(NominalBeamEnergy=10.0), "10 MV"),
    "electrons": (_beam(RadiationType="ELECTRON"), "ELECTRON"),
    "a wedge": (_beam(NumberOfWedges=1), "wedges"),
    "a block": (_beam(NumberOfBlocks=1), "blocks"),
    "a turned collimator": (_first(BeamLimitingDeviceAngle=45.0), "BeamLimitingDeviceAngle"),
    "another unit": (_beam(PrimaryDosimeterUnit="MINUTE"), "MINUTE"),
    "jaws over the map": (_narrow, "3 pixels"),
    "pixels that are not there": (_map(CompensatorRows=5), "12 numbers"),
    "a full turn": (_first(GantryRotationDirection="CW"), "turns CW"),
    "oblong pixels": (_map(CompensatorPixelSpacing=[5.0, 10.0]), "5 × 10 mm; square"),
    "no rows": (_map(CompensatorRows=0), "0 × 3"),
    "negative transmission": (_map(CompensatorTransmissionData=[-1.0] * 12), "0 or more"),
    "nothing let through": (_map(CompensatorTransmissionData=[0.0] * 12), "let something"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_computed_is_refused_with_the_reason(path, what):
    change, said = REFUSED[what]
    dataset = pydicom.dcmread(path)
    change(dataset.BeamSequence[0])
    dataset.save_as(path)
    with pytest.raises(DicomError, match=said):
        read_plan(path)


@pytest.mark.parametrize("position, gantry_deg", [("HFDR", 120.0), ("HFDL", 300.0)])
def test_a_patient_on_the_side_sees_bixels_from_a_turned_gantry(path, position, gantry_deg):
    dataset = pydicom.dcmread(path)
    dataset.PatientSetupSequence[0].PatientPosition = position
    dataset.save_as(path)
    found = read_plan(path).plan
    assert found.beams[0].gantry_deg == gantry_deg
    np.testing.assert_allclose(np.sort(found.u_mm), np.sort(U))


@pytest.mark.parametrize("position", ["HFDR", "FFDL", "HFP"])
@pytest.mark.parametrize("gantry, couch", [(0.0, 90.0), (180.0, -90.0), (0.0, 0.0)])
def test_bixels_lie_where_iec_61217_has_them(path, position, gantry, couch):
    """Seen turned by a quarter, too."""
    dataset = pydicom.dcmread(path)
    dataset.PatientSetupSequence[0].PatientPosition = position
    for point in dataset.BeamSequence[0].ControlPointSequence:
        point.update(item(GantryAngle=gantry, PatientSupportAngle=couch))
    dataset.save_as(path)
    found = read_plan(path).plan
    x, y, z = axes_in_patient(position, gantry, couch)
    frame = beam_frame(found.beams[0], 1000.0)
    np.testing.assert_allclose(-frame.direction, z, atol=1e-9)
    got = np.outer(found.u_mm, frame.u_axis) + np.outer(found.v_mm, frame.v_axis)
    for place, weight in zip(np.outer(U, x) + np.outer(V, y), WEIGHTS):
        (at,) = np.flatnonzero(np.linalg.norm(got - place, axis=1) < 1e-4)
        assert found.weights[at] == pytest.approx(weight)


def test_bixels_between_the_lattices_directions_are_refused(path):
    dataset = pydicom.dcmread(path)
    dataset.PatientSetupSequence[0].PatientPosition = "HFDR"
    for point in dataset.BeamSequence[0].ControlPointSequence:
        point.PatientSupportAngle = 20.0
    dataset.save_as(path)
    with pytest.raises(DicomError, match="multiples of 90"):
        read_plan(path)


def test_pixels_of_two_widths_are_refused(path):
    dataset = pydicom.dcmread(path)
    other = deepcopy(dataset.BeamSequence[0])
    other.BeamNumber = 2
    other.CompensatorSequence[0].CompensatorPixelSpacing = [2.5, 2.5]
    other.CompensatorSequence[0].CompensatorPosition = [-2.5, 2.5]
    dataset.BeamSequence.append(other)
    referred = deepcopy(dataset.FractionGroupSequence[0].ReferencedBeamSequence[0])
    referred.ReferencedBeamNumber = 2
    dataset.FractionGroupSequence[0].ReferencedBeamSequence.append(referred)
    dataset.save_as(path)
    with pytest.raises(DicomError, match="2.5 to 5 mm"):
        read_plan(path)


def test_the_pixels_width_is_told(path):
    assert read_plan(path).bixel_mm == 5.0


def test_a_beam_without_a_flattening_filter_is_told(path):
    dataset = pydicom.dcmread(path)
    dataset.BeamSequence[0].PrimaryFluenceModeSequence = [
        item(FluenceMode="NON_STANDARD", FluenceModeID="FFF")
    ]
    dataset.save_as(path)
    assert any("flattening" in note for note in read_plan(path).notes)
