"""What ``ptenv plan output.dicom=true`` writes: one study that fits together and names nobody."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from engine.dose.quantities import RbeDose, biological_dose
from engine.io.dicom_dose import read_dose
from engine.io.dicom_patient import read_patient
from engine.io.dicom_plan import read_plan
from engine.patient.phantoms import water_tank
from engine.physics.lem import Lem1, Tissue
from scripts import cli, dicom_files

sys.path.insert(0, str(Path(__file__).parents[1] / "engine" / "io"))
from dicom_checks import assert_follows_docbook, assert_valid  # noqa: E402

TANK = (
    "patient=water_tank", "patient.size_mm=[60,120,60]", "patient.spacing_mm=4",
    "patient.target_size_mm=20", "geometry.settings.spot_spacing_mm=8",
    "geometry.settings.range_shifter=rs40",
    "geometry.beams.gantry_deg=[0,180]", "geometry.beams.air_gap_mm=35", "dose_grid_mm=6",
    "optimization.solver.max_evaluations=15", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of one small plan, which begins with an earlier run's file."""
    folder = tmp_path_factory.mktemp("plan") / "here"
    earlier = water_tank((8.0, 40.0, 40.0), 4.0, 8.0)
    dicom_files.write(earlier, folder / "dicom")
    (folder / "dicom" / "CT_0001.dcm").rename(folder / "dicom" / "CT_9999.dcm")
    assert cli.main(["plan", *TANK, "output.dicom=true", f"output={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def files(made):
    return {path.name: pydicom.dcmread(path) for path in sorted((made / "dicom").iterdir())}


def test_a_plan_leaves_ct_structures_plan_and_doses_and_nothing_of_an_earlier_run(files):
    slices = {f"CT_{k:04}.dcm" for k in range(1, 16)}
    assert set(files) == slices | {
        "RTSTRUCT.dcm", "RTPLAN.dcm", "RTDOSE.dcm", "RTDOSE_beam_1.dcm", "RTDOSE_beam_2.dcm",
    }  # fmt: skip


def test_all_files_are_of_one_study_patient_and_frame_of_reference(files):
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID"):
        assert len({str(file[keyword].value) for file in files.values()}) == 1, keyword


def test_references_lead_from_doses_to_plan_to_structures_to_slices(files):
    uid = {name: file.SOPInstanceUID for name, file in files.items()}
    slices = {uid[name] for name in files if name.startswith("CT")}
    structures, plan = files["RTSTRUCT.dcm"], files["RTPLAN.dcm"]
    series = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    series = series.RTReferencedSeriesSequence[0]
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == slices
    assert {
        image.ReferencedSOPInstanceUID
        for roi in structures.ROIContourSequence
        for contour in roi.ContourSequence
        for image in contour.ContourImageSequence
    } <= slices
    told = plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID
    assert told == uid["RTSTRUCT.dcm"]
    for name, beams in (("RTDOSE.dcm", ()), ("RTDOSE_beam_2.dcm", (2,))):
        told = files[name].ReferencedRTPlanSequence[0]
        assert told.ReferencedSOPInstanceUID == uid["RTPLAN.dcm"]
        assert told.ReferencedSOPClassUID == plan.SOPClassUID
        assert read_dose(files[name].filename).beam_numbers == beams
    targets = {item.ReferencedROINumber for item in plan.DoseReferenceSequence}
    names = {item.ROINumber: item.ROIName for item in structures.StructureSetROISequence}
    assert {names[number] for number in targets} == {"PTV"}


def test_what_is_written_is_the_plan_and_its_doses(made):
    plan = read_plan(made / "dicom" / "RTPLAN.dcm")
    told = json.loads((made / "plan.json").read_text())
    spots = [s for b in told["beams"] for layer in b["layers"] for s in layer["spots"]]
    assert [b.gantry_deg for b in plan.plan.beams] == [0.0, 180.0]
    assert [(b.range_shifter, b.air_gap_mm) for b in plan.plan.beams] == [("rs40", 35.0)] * 2
    np.testing.assert_allclose(plan.plan.weights, [w for *_, w in spots], atol=64.0, rtol=1e-7)
    with np.load(made / "dose.npz") as dose:
        volumes = [dose["dose_gy_rbe"], *dose["beam_dose_gy_rbe"]]
        spacing = tuple(dose["spacing_mm"])
    for name, volume in zip(("RTDOSE", "RTDOSE_beam_1", "RTDOSE_beam_2"), volumes):
        found = read_dose(made / "dicom" / f"{name}.dcm")
        assert found.is_effective and found.weighted_by == "RBE 1.1" == told["weighted_by"]
        assert found.grid.spacing_mm == spacing
        np.testing.assert_allclose(found.dose_gy, volume, atol=found.step_gy, rtol=1e-6)


def test_the_patient_comes_back_with_prescription_and_material(made):
    ours = water_tank((60.0, 120.0, 60.0), 4.0, 20.0)
    found = read_patient(made / "dicom")
    assert dict(found.prescription_gy) == {"PTV": 60.0} and found.n_fractions == 30
    assert found.external.material == "water"
    np.testing.assert_array_equal(found.mask("PTV"), ours.mask("PTV"))


def test_everything_follows_the_standard(made, tmp_path):
    folder = made / "dicom"
    assert_valid([folder / "CT_0001.dcm", *folder.glob("RT*.dcm")], tmp_path)


def test_everything_follows_the_docbook(made, pytestconfig):
    assert_follows_docbook((made / "dicom").iterdir(), pytestconfig)


def test_without_the_key_no_dicom_is_written(tmp_path):
    fewer = [a for a in TANK if "max_evaluations" not in a]
    assert cli.main([
        "plan", *fewer, "optimization.solver.max_evaluations=2", f"output={tmp_path}",
    ]) == 0  # fmt: skip
    assert not (tmp_path / "dicom").exists()


def test_a_folder_with_files_of_another_system_is_refused_before_anything_is_computed(
    made, tmp_path, capsys
):
    (tmp_path / "dicom").mkdir()
    other = pydicom.dcmread(made / "dicom" / "CT_0001.dcm")
    other.Manufacturer = "Other"
    other.save_as(tmp_path / "dicom" / "IM0001")
    assert cli.main(["plan", *TANK, "output.dicom=true", f"output={tmp_path}"]) == 2
    assert "another system" in capsys.readouterr().err
    assert not (tmp_path / "plan.json").exists()
    with pytest.raises(ValueError, match="another system"):
        dicom_files.write(water_tank((8.0, 40.0, 40.0), 4.0, 8.0), tmp_path / "dicom")


CHORDOMA = Lem1(Tissue("chordoma", 0.1, 0.05, 30.0, 5.0))


def test_the_weighting_is_named_so_that_another_can_be_told_from_it():
    assert dicom_files.weighted_by(RbeDose(30, 1.0), None) == ""
    assert dicom_files.weighted_by(RbeDose(30, 1.1), None) == "RBE 1.1"
    other = replace(CHORDOMA, tissue=replace(CHORDOMA.tissue, alpha_x_per_gy=0.11))
    names = [
        dicom_files.weighted_by(biological_dose(model, 20), model) for model in (CHORDOMA, other)
    ]
    assert len(set(names)) == 2
    assert all(name.startswith("Lem1") and len(name) <= 64 for name in names)


def test_an_earlier_export_stays_where_a_new_one_fails(tmp_path):
    patient = water_tank((8.0, 40.0, 40.0), 4.0, 8.0)
    dicom_files.write(patient, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    wrong = dicom_files.Doses(patient.grid, np.full(patient.grid.shape, np.nan, np.float32))
    with pytest.raises(ValueError, match="cannot be written"):
        dicom_files.write(water_tank((16.0, 40.0, 40.0), 4.0, 8.0), tmp_path, doses=wrong)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
