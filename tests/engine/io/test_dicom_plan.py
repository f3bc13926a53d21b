"""Plans out and in again, and what plans of ions and photons share."""

import re
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_checks import assert_follows_docbook, assert_valid
from dicom_samples import PYDICOM_FILES
from plan_samples import (
    ISOCENTER,
    axes_in_patient,
    foreign_beam,
    foreign_plan,
    item,
    spots,
    tank,
    written,
)
from standard_docbook import place, table

from engine.geometry.bixels import place_bixels
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Aperture, Beam
from engine.geometry.spots import SpotSettings, place_spots
from engine.io.dicom_dataset import DicomError, read_dataset
from engine.io.dicom_plan import prescription, read_plan
from engine.io.dicom_plan_parts import Setups
from engine.io.dicom_plan_writing import write_plan
from engine.io.dicom_study import Study, roi_numbers
from engine.machine.depth_kernels import layer_kernel
from engine.machine.library import load_machine

FLOAT32 = 2.0**-24  # relative rounding of a weight
# PS3.3 C.8.8.14, C.8.8.25; but not where something else may stand for it, as energy for voltage
FOR_FIRST = r"Required for first Item (of|in) (\w+ )?Control Point Sequence, or (?!.*not present)"
HOLE = Aperture(((-30.0, -20.0), (30.0, -20.0), (0.0, 25.5)), -151.25, 60.0)


@pytest.fixture(scope="module")
def patient():
    return tank()


@pytest.fixture(scope="module")
def study(patient):
    return Study.of(patient)


def again(plan, patient, study, tmp_path, **keys):
    write_plan(plan, patient, study, tmp_path / "plan.dcm")
    return read_plan(tmp_path / "plan.dcm", **keys)


def photons(patient):
    beams = [Beam(40.0, ISOCENTER), Beam(320.0, ISOCENTER, 12.5)]
    plan = place_bixels(patient, load_machine("generic_photon"), beams, 5.0)
    return plan.with_weights(np.random.default_rng(3).uniform(0.0, 12.0, plan.n_spots))


def assert_same_spots(found, plan, relative):
    """Spots of the plan that deliver anything, places and energies exactly."""
    delivered = plan.weights > 0.0
    for name in ("spot_beam", "spot_energy", "u_mm", "v_mm"):
        ours, theirs = getattr(found, name), getattr(plan, name)[delivered]
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(found.weights, plan.weights[delivered], rtol=relative)


@pytest.mark.parametrize("machine", ["generic_proton", "generic_carbon"])
def test_a_plan_of_ions_comes_back_exactly_but_for_weights_in_float32(
    patient, study, machine, tmp_path
):
    plan = spots(machine)
    found = again(plan, patient, study, tmp_path)
    assert found.plan.beams == plan.beams
    assert found.plan.machine is plan.machine
    assert_same_spots(found.plan, plan, FLOAT32)
    assert (found.beam_numbers, found.n_fractions, found.notes) == ((1, 2), patient.n_fractions, ())
    assert found.structures_uid == study.structures_uid
    assert found.frame_uid == study.frame_uid


def test_a_placed_plan_with_a_range_shifter_comes_back(patient, study, tmp_path):
    settings = SpotSettings(5.0, range_shifter="rs40")
    beam = Beam(0.0, ISOCENTER, air_gap_mm=37.5)
    plan = place_spots(patient, load_machine("generic_proton"), [beam], settings)
    plan = plan.with_weights(np.random.default_rng(1).uniform(1e6, 1e7, plan.n_spots))
    found = again(plan, patient, study, tmp_path).plan
    exit_mm = np.float32(plan.beams[0].shifter_exit_mm)
    assert found.beams == (replace(plan.beams[0], shifter_exit_mm=float(exit_mm)),)
    assert found.beams[0].range_shifter == "rs40"
    assert_same_spots(found, plan, FLOAT32)


@pytest.mark.parametrize("sources_mm", [None, (2200.0, 1800.0)])
def test_an_aperture_comes_back_from_the_isocenter_plane(patient, study, sources_mm, tmp_path):
    """PS3.3 C.8.8.25.4: the file has its shadow, from each axis' virtual source."""
    plan = spots("generic_proton", Beam(10.0, ISOCENTER, aperture=HOLE))
    machine = replace(plan.machine, virtual_sources_mm=sources_mm)
    plan = replace(plan, machine=machine)
    found = again(plan, patient, study, tmp_path, machine=machine).plan.beams[0].aperture
    block = pydicom.dcmread(tmp_path / "plan.dcm").IonBeamSequence[0].IonBlockSequence[0]
    np.testing.assert_allclose(found.opening_mm, HOLE.opening_mm, atol=1e-9)
    assert (found.exit_mm, found.thickness_mm, found.material) == (-151.25, 60.0, "brass")
    u_source, v_source = sources_mm or (2047.0, 2047.0)
    assert float(block.BlockData[2]) == pytest.approx(30.0 * u_source / (u_source - 151.25))
    assert float(block.BlockData[5]) == pytest.approx(25.5 * v_source / (v_source - 151.25))


def test_an_aperture_is_turned_as_the_spots_are(patient, study, tmp_path):
    """Of a patient on the right side, on a turned couch, whom a beam at 90° meets in the back."""
    plan = spots("generic_proton", Beam(90.0, ISOCENTER, couch_deg=30.0, aperture=HOLE))
    machine = replace(plan.machine, virtual_sources_mm=(2200.0, 1800.0))
    write_plan(replace(plan, machine=machine), patient, study, tmp_path / "plan.dcm")
    dataset = pydicom.dcmread(tmp_path / "plan.dcm")
    dataset.PatientSetupSequence[0].PatientPosition = "HFDR"
    found = read_plan(written(dataset, tmp_path), machine=machine)
    beam = found.plan.beams[0]
    frame, (x, y, _) = beam_frame(beam, 2000.0), axes_in_patient("HFDR", 90.0, 30.0)
    u, v = np.array(beam.aperture.opening_mm).T
    wanted = np.array(HOLE.opening_mm) @ np.array([x, y])
    assert abs(x @ frame.u_axis) < 0.9
    np.testing.assert_allclose(
        u[:, None] * frame.u_axis + v[:, None] * frame.v_axis, wanted, atol=1e-6
    )
    assert any("two virtual sources" in note for note in found.notes)


def test_a_private_air_gap_that_is_no_number_is_refused(patient, study, tmp_path):
    shifted = Beam(0.0, ISOCENTER, 0.0, "rs40", 50.0, -90.0)
    write_plan(spots("generic_proton", shifted), patient, study, tmp_path / "plan.dcm")
    raw = (tmp_path / "plan.dcm").read_bytes()
    assert raw.count(b"50.0") == 1
    (tmp_path / "plan.dcm").write_bytes(raw.replace(b"50.0", b"5x.0"))
    with pytest.raises(DicomError, match="air gap"):
        read_plan(tmp_path / "plan.dcm")


def test_a_photon_plan_comes_back_from_the_fluence_in_compensators(patient, study, tmp_path):
    plan = photons(patient)
    found = again(plan, patient, study, tmp_path)
    assert found.plan.beams == plan.beams
    assert found.plan.machine is plan.machine
    assert_same_spots(found.plan, plan, 1e-9)


def test_an_arc_is_many_beams(patient, study, tmp_path):
    beams = [Beam(float(angle), ISOCENTER) for angle in range(350, -10, -10)]
    plan = spots("generic_proton", *beams)
    found = again(plan, patient, study, tmp_path)
    assert found.plan.beams == tuple(beams)
    assert found.beam_numbers == tuple(range(1, 37))
    assert_same_spots(found.plan, plan, FLOAT32)


def test_beams_that_deliver_nothing_are_left_out_and_numbers_stay(patient, study, tmp_path):
    plan = spots()
    plan = plan.with_weights(plan.weights * (plan.spot_beam == 1))
    found = again(plan, patient, study, tmp_path)
    assert found.beam_numbers == (2,)
    assert found.plan.beams == plan.beams[1:]


def test_angles_are_written_within_a_turn_and_keep_their_direction(patient, study, tmp_path):
    plan = spots("generic_proton", Beam(-30.0, ISOCENTER, -85.0))
    found = again(plan, patient, study, tmp_path).plan.beams[0]
    first = pydicom.dcmread(tmp_path / "plan.dcm").IonBeamSequence[0].IonControlPointSequence[0]
    assert (float(first.GantryAngle), float(first.PatientSupportAngle)) == (330.0, 275.0)
    assert (found.gantry_deg, found.couch_deg) == (330.0, -85.0)
    ours, theirs = (beam_frame(b, 2000.0) for b in (found, plan.beams[0]))
    for axis in ("u_axis", "v_axis", "direction"):
        np.testing.assert_allclose(getattr(ours, axis), getattr(theirs, axis), atol=1e-12)


def test_an_isocenter_comes_back_to_the_digits_of_a_decimal_string(patient, study, tmp_path):
    third = (-100.0 / 3.0, 1e-15 / 3.0, 700.0 / 9.0)
    found = again(spots("generic_proton", Beam(0.0, third)), patient, study, tmp_path)
    np.testing.assert_allclose(found.plan.beams[0].isocenter_mm, third, atol=1e-10)


def test_the_prescription_is_written_with_and_without_beams(patient, study, tmp_path):
    for plan in (None, spots()):
        write_plan(plan, patient, study, tmp_path / "plan.dcm")
        doses, n_fractions = prescription(read_dataset(tmp_path / "plan.dcm"))
        assert doses == {roi_numbers(patient)["PTV"]: 60.0}
        assert n_fractions == 30


def test_a_prescription_alone_is_no_plan_to_compute(patient, study, tmp_path):
    with pytest.raises(DicomError, match="no treatment beam"):
        again(None, patient, study, tmp_path)


def test_plans_that_differ_have_other_identifiers(patient, study, tmp_path):
    plans = [
        None, spots(), spots(seed=1), spots("generic_carbon"),
        spots("generic_proton", Beam(0.0, ISOCENTER)),
    ]  # fmt: skip
    uids = [
        write_plan(p, patient, study, tmp_path / "p.dcm").ReferencedSOPInstanceUID for p in plans
    ]
    other = replace(patient, n_fractions=31)
    uids.append(write_plan(spots(), other, study, tmp_path / "p.dcm").ReferencedSOPInstanceUID)
    assert len(set(uids)) == 6
    assert write_plan(
        spots(), patient, study, tmp_path / "p.dcm"
    ).ReferencedSOPInstanceUID == uids[1]


@pytest.fixture
def paths(patient, study, tmp_path):
    """A file of every kind of plan."""
    shifted = Beam(0.0, ISOCENTER, 0.0, "rs40", 50.0, -90.0, HOLE)
    plans = {
        "prescription": None, "protons": spots(), "carbon": spots("generic_carbon"),
        "devices": spots("generic_proton", shifted), "photons": photons(patient),
    }  # fmt: skip
    for name, plan in plans.items():
        write_plan(plan, patient, study, tmp_path / f"{name}.dcm")
    return sorted(tmp_path.glob("*.dcm"))


def test_written_plans_follow_the_standard(paths, tmp_path):
    assert_valid(paths, tmp_path)


def test_written_plans_follow_the_docbook(paths, pytestconfig):
    assert_follows_docbook(paths, pytestconfig)


def test_first_control_points_have_all_that_is_asked_of_every_beam(paths):
    """Which neither program looks for: "Required for first Item" is no condition to them."""
    pytest.importorskip("dicom_standard", reason="dicom-standard is not installed (extra dev)")
    asked = {"rt-ion-beams": [], "rt-beams": []}
    for row in table("module_to_attributes"):
        said = " ".join(row["description"].split())
        if row["moduleId"] in asked and re.search(FOR_FIRST, said):
            asked[row["moduleId"]].append(int(place(row)[-1], 16))
    assert [len(tags) for tags in asked.values()] == [17, 13]
    for path in paths:
        plan = pydicom.dcmread(path)
        for beam in [*plan.get("IonBeamSequence", []), *plan.get("BeamSequence", [])]:
            is_ion = "IonControlPointSequence" in beam
            first = (beam.IonControlPointSequence if is_ion else beam.ControlPointSequence)[0]
            tags = asked["rt-ion-beams" if is_ion else "rt-beams"]
            assert [hex(tag) for tag in tags if tag not in first] == [], path.name


@pytest.mark.parametrize("weight, others", [(0.0, 0.0), (np.nan, 1e7), (-1.0, 1e7)])
def test_weights_that_deliver_nothing_or_less_are_not_written(
    patient, study, weight, others, tmp_path
):
    plan = spots()
    weights = np.full(plan.n_spots, others)
    weights[7] = weight
    with pytest.raises(ValueError, match="weight"):
        write_plan(plan.with_weights(weights), patient, study, tmp_path / "p.dcm")
    assert not (tmp_path / "p.dcm").exists()


def test_control_points_come_in_pairs_with_only_the_spots_that_deliver(patient, study, tmp_path):
    """PS3.3 C.8.8.25.7: weights add up to the growth of the meterset, and are 0 at the second."""
    plan = spots()
    write_plan(plan, patient, study, tmp_path / "plan.dcm")
    beam = pydicom.dcmread(tmp_path / "plan.dcm").IonBeamSequence[0]
    points = beam.IonControlPointSequence
    delivered = np.count_nonzero(plan.weights[plan.beam_slice(0)])
    assert len(points) == beam.NumberOfControlPoints == 4
    assert sum(point.NumberOfScanSpotPositions for point in points[::2]) == delivered
    reached = [float(point.CumulativeMetersetWeight) for point in points]
    assert reached[0] == 0.0 and reached[1] == reached[2]
    assert reached[3] == float(beam.FinalCumulativeMetersetWeight)
    for first, second in zip(points[::2], points[1::2]):
        assert second.ScanSpotPositionMap == first.ScanSpotPositionMap
        assert not np.any(second.ScanSpotMetersetWeights)
        grown = float(second.CumulativeMetersetWeight) - float(first.CumulativeMetersetWeight)
        assert sum(first.ScanSpotMetersetWeights) == pytest.approx(grown, rel=1e-9)


def test_a_file_says_how_wide_spots_are_in_air_at_the_isocenter(patient, study, tmp_path):
    """Full width at half maximum of what the pencil beam starts from."""
    plan = spots()
    write_plan(plan, patient, study, tmp_path / "plan.dcm")
    point = pydicom.dcmread(tmp_path / "plan.dcm").IonBeamSequence[0].IonControlPointSequence[0]
    variance = layer_kernel(plan.machine, int(plan.spot_energy[0])).air_variance_mm2(0.0)
    np.testing.assert_allclose(point.ScanningSpotSize, 2.3548 * np.sqrt(variance), rtol=1e-4)


def test_a_range_shifter_without_a_place_is_not_written(patient, study, tmp_path):
    with pytest.raises(ValueError, match="shifter_exit_mm"):
        write_plan(
            spots("generic_proton", Beam(0.0, ISOCENTER, range_shifter="rs40")), patient, study,
            tmp_path / "p.dcm",
        )  # fmt: skip


POSITIONS = ("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL")
TURNED = [(0.0, 0.0), (70.0, 0.0), (90.0, 30.0), (215.0, -75.0), (0.0, 40.0), (180.0, -20.0)]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("gantry, couch", TURNED)
def test_spots_lie_where_iec_61217_has_them_however_the_patient_lies(
    position, gantry, couch, tmp_path
):
    beam = foreign_beam(gantry=gantry, couch=couch)
    x_mm, y_mm = np.reshape(beam.IonControlPointSequence[0].ScanSpotPositionMap, (-1, 2)).T
    found = read_plan(
        written(foreign_plan(beam, position=position), tmp_path),
        particles_per_mu=1e8, energy_within_mev=2.0,
    ).plan  # fmt: skip
    x_axis, y_axis, z_axis = axes_in_patient(position, gantry, couch)
    frame = beam_frame(found.beams[0], 2000.0)
    np.testing.assert_allclose(-frame.direction, z_axis, atol=1e-9)
    wanted = x_mm[:, None] * x_axis + y_mm[:, None] * y_axis
    first = found.spot_energy == found.spot_energy[0]
    got = found.u_mm[first, None] * frame.u_axis + found.v_mm[first, None] * frame.v_axis
    apart = np.linalg.norm(wanted[:, None] - got[None], axis=2)
    assert len(wanted) == len(got) and apart.min(axis=1).max() < 1e-4


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
@pytest.mark.parametrize("gantry, couch", TURNED)
def test_who_lies_on_back_or_belly_sees_no_beam_turned(position, gantry, couch):
    setups, beam = Setups({1: position}, position), foreign_beam()
    assert setups.seen(beam, gantry, couch).turn_deg == 0.0


def test_a_position_that_is_none_is_refused(tmp_path):
    path = written(foreign_plan(position="SITTING"), tmp_path)
    with pytest.raises(DicomError, match="SITTING.*HFDL"):
        read_plan(path, particles_per_mu=1e8, energy_within_mev=2.0)


def test_a_plan_that_does_not_say_how_the_patient_lies_is_taken_as_supine(tmp_path):
    plan = foreign_plan()
    del plan.PatientSetupSequence
    found = read_plan(written(plan, tmp_path), particles_per_mu=1e8, energy_within_mev=2.0)
    assert any("supine" in note for note in found.notes)


def test_a_plan_that_does_not_say_it_is_taken_as_the_ct(tmp_path):
    plan = foreign_plan()
    plan.PatientSetupSequence[0].PatientPosition = ""
    found = _read(plan, tmp_path, on_ct="FFP")
    assert any("as on the CT" in note for note in found.notes)
    assert found.plan.beams == _read(foreign_plan(position="FFP"), tmp_path).plan.beams


def _read(plan, tmp_path, **more):
    path = written(plan, tmp_path)
    return read_plan(path, particles_per_mu=1e8, energy_within_mev=2.0, **more)


def test_another_position_than_on_the_ct_is_told(tmp_path):
    found = _read(foreign_plan(position="HFP"), tmp_path, on_ct="HFS")
    assert any("lies HFP in the plan, HFS on the CT" in note for note in found.notes)
    assert not any("CT" in note for note in _read(foreign_plan(), tmp_path, on_ct="HFS").notes)


def _setups(*setups):
    return [item(PatientSetupNumber=n, PatientPosition=position) for n, position in setups]


@pytest.mark.parametrize(
    "setups, said",
    [
        ([(1, ""), (2, "HFP")], "setup 1, is ''"),
        ([(2, "HFP")], "setup 1, is 'not there'"),
        ([(1, "HFS"), (1, "HFP")], "has setup 1 2 times"),
    ],
    ids=("its own tells nothing", "its own is not there", "two of one number"),
)
def test_a_beam_does_not_take_another_s_setup(setups, said, tmp_path):
    plan = foreign_plan()
    plan.PatientSetupSequence = _setups(*setups)
    with pytest.raises(DicomError, match=said):
        _read(plan, tmp_path)


def test_a_beam_that_names_no_setup_takes_the_only_position(tmp_path):
    plan = foreign_plan()
    del plan.IonBeamSequence[0].ReferencedPatientSetupNumber
    plan.PatientSetupSequence = _setups((1, "HFP"), (2, "HFP"))
    assert _read(plan, tmp_path).plan.beams[0].gantry_deg == 270.0
    plan.PatientSetupSequence = _setups((1, "HFP"), (2, "HFS"))
    with pytest.raises(DicomError, match="setup None, is None"):
        _read(plan, tmp_path)


@pytest.mark.parametrize(
    "moved, said",
    [
        (dict(PatientSupportAngle=8.0), "PatientSupportAngle .* from 0 to 8"),
        (dict(IsocenterPosition=[0.0, 0.0, 50.0]), "IsocenterPosition .* to 0, 0, 50"),
        (dict(TableTopEccentricAngle=30.0), "TableTopEccentricAngle"),
    ],
)
def test_a_table_that_moves_while_spots_are_delivered_is_refused(moved, said, tmp_path):
    plan = foreign_plan()
    at = 0 if "TableTopEccentricAngle" in moved else 1
    plan.IonBeamSequence[0].IonControlPointSequence[at].update(item(**moved))
    with pytest.raises(DicomError, match=said):
        _read(plan, tmp_path)


def test_a_gantry_that_is_said_to_turn_and_stays_is_told(tmp_path):
    plan = foreign_plan()
    plan.IonBeamSequence[0].IonControlPointSequence[0].GantryRotationDirection = "CW"
    assert any("said to turn" in note for note in _read(plan, tmp_path).notes)
    assert not any("said to turn" in note for note in _read(foreign_plan(), tmp_path).notes)


def test_a_table_that_moves_between_layers_makes_another_beam(tmp_path):
    plan = foreign_plan()
    plan.IonBeamSequence[0].IonControlPointSequence[2].PatientSupportAngle = 8.0
    assert [b.couch_deg for b in _read(plan, tmp_path).plan.beams] == [0.0, 8.0]


def test_two_fraction_groups_are_refused(tmp_path):
    plan = foreign_plan()
    plan.FractionGroupSequence.append(item(FractionGroupNumber=2, NumberOfFractionsPlanned=5))
    with pytest.raises(DicomError, match="2 fraction groups"):
        read_plan(written(plan, tmp_path), particles_per_mu=1e8)


def test_a_beam_without_a_meterset_is_refused(tmp_path):
    plan = foreign_plan()
    del plan.FractionGroupSequence[0].ReferencedBeamSequence[0].BeamMeterset
    with pytest.raises(DicomError, match="no meterset of beam 5"):
        read_plan(written(plan, tmp_path), particles_per_mu=1e8)


def test_a_beam_or_meterset_that_is_there_twice_is_refused(tmp_path):
    twice = foreign_plan(foreign_beam(), foreign_beam(gantry=0.0), metersets=(80.0, 70.0))
    with pytest.raises(DicomError, match="has beam 5 2 times"):
        read_plan(written(twice, tmp_path), particles_per_mu=1e8)
    del twice.IonBeamSequence[1]
    with pytest.raises(DicomError, match="ReferencedBeamSequence .* has beam 5 2 times"):
        read_plan(written(twice, tmp_path), particles_per_mu=1e8)


def test_beams_of_several_machines_are_told(tmp_path):
    other = foreign_beam(number=6, gantry=0.0)
    other.TreatmentMachineName = "TR3"
    path = written(foreign_plan(foreign_beam(), other, metersets=(80.0, 80.0)), tmp_path)
    found = read_plan(path, particles_per_mu=1e8, energy_within_mev=2.0)
    assert any("2 machines" in note for note in found.notes)


def test_setup_beams_are_left_out_with_a_note(tmp_path):
    setup = foreign_beam(number=9, gantry=0.0)
    setup.TreatmentDeliveryType = "SETUP"
    path = written(foreign_plan(setup, foreign_beam(), metersets=(0.0, 80.0)), tmp_path)
    found = read_plan(path, particles_per_mu=1e8, energy_within_mev=2.0)
    assert found.beam_numbers == (5,)
    assert any("beam 9" in note and "SETUP" in note for note in found.notes)


def test_a_plan_on_the_machine_alone_is_refused(tmp_path):
    plan = foreign_plan()
    plan.RTPlanGeometry = "TREATMENT_DEVICE"
    with pytest.raises(DicomError, match="TREATMENT_DEVICE"):
        read_plan(written(plan, tmp_path))


def test_nothing_that_a_person_typed_is_taken_over(tmp_path):
    found = read_plan(
        written(foreign_plan(), tmp_path), particles_per_mu=1e8, energy_within_mev=2.0
    )
    assert "doe" not in repr(found).lower()
    with pytest.raises(DicomError) as refusal:
        read_plan(written(foreign_plan(), tmp_path))
    assert "doe" not in str(refusal.value).lower()


@pytest.mark.parametrize(
    "name, said",
    [
        ("rtplan.dcm", "0 fluence maps .* shaped by X, Y"), ("rtplan_truncated.dcm", "ends within"),
        ("rtstruct.dcm", "no RT Plan"), ("rtdose.dcm", "no RT Plan"),
    ],
)  # fmt: skip
def test_pydicoms_files_are_refused_with_the_reason(name, said):
    with pytest.raises(DicomError, match=said):
        read_plan(PYDICOM_FILES / name)
