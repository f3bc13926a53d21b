"""``ptenv export`` from the command line to its folder of DICOM files."""

import re
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from engine.io import openkbp
from engine.io.dicom_dose import read_dose
from engine.io.dicom_patient import read_patient
from engine.io.dicom_plan import read_plan
from scripts import cli, plan_files

sys.path.insert(0, str(Path(__file__).parents[1] / "engine" / "io"))
from plan_samples import item, leaves, photon_plan, written  # noqa: E402

TANK = ("patient=water_tank", "patient.size_mm=[60,120,60]", "patient.spacing_mm=4",
        "patient.target_size_mm=20")  # fmt: skip
QUICK = (
    "geometry.settings.spot_spacing_mm=8", "dose_grid_mm=6", "threads=1", "n_fractions=20",
    "optimization.solver.max_evaluations=10",
)  # fmt: skip


def export(*arguments) -> int:
    return cli.main(["export", *arguments])


def refused(capsys, tmp_path, *arguments) -> str:
    """What is said, and nothing is left where nothing was."""
    before = (tmp_path / "out").exists()
    assert export(*arguments, f"output={tmp_path / 'out'}") == 2
    assert (tmp_path / "out").exists() == before
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module", params=["three_fields", "nine_photon_fields"])
def planned(request, tmp_path_factory):
    """The folder of a small plan, of protons or of photons."""
    folder = tmp_path_factory.mktemp(request.param)
    of_photons = request.param == "nine_photon_fields"
    quick = [a for a in QUICK if not of_photons or "spot_spacing" not in a]
    more = ["experiment=photons"] if of_photons else ["geometry=one_field"]
    assert cli.main(["plan", *TANK, *quick, *more, f"output={folder}"]) == 0
    return folder


def test_a_patient_is_exported_with_its_prescription_and_nothing_else(tmp_path):
    assert export(*TANK, f"output={tmp_path}") == 0
    found = read_patient(tmp_path)
    assert dict(found.prescription_gy) == {"PTV": 60.0} and found.n_fractions == 30
    names = {path.name for path in tmp_path.iterdir()}
    assert {n for n in names if not n.startswith("CT_")} == {"RTSTRUCT.dcm", "RTPLAN.dcm"}


def test_a_plan_is_exported_from_its_folder(planned, tmp_path):
    assert export(*TANK, f"plan={planned}", f"output={tmp_path}") == 0
    kept = plan_files.read(planned)
    found = read_plan(tmp_path / "RTPLAN.dcm")
    assert found.plan.beams == kept.plan.beams
    assert found.n_fractions == 20
    np.testing.assert_array_equal(found.plan.u_mm, kept.plan.u_mm)
    np.testing.assert_allclose(found.plan.weights, kept.plan.weights, rtol=1e-7)
    total = read_dose(tmp_path / "RTDOSE.dcm")
    np.testing.assert_allclose(total.dose_gy, kept.doses.total_gy, atol=total.step_gy, rtol=1e-6)
    assert total.is_effective is (kept.plan.machine.name == "generic_proton")
    assert len(list(tmp_path.glob("RTDOSE_beam_*.dcm"))) == len(kept.plan.beams)


def test_a_plan_that_is_read_again_gives_the_dose_beside_it(planned):
    """Weights are rounded in plan.json: to whole ions, and to 0.0001 monitor units."""
    from engine.dose.pencil_beam.engine import PencilBeamEngine
    from engine.dose.photon_svd.engine import PhotonSvdEngine
    from engine.patient.phantoms import water_tank

    kept = plan_files.read(planned)
    of_photons = kept.plan.machine.name == "generic_photon"
    engine, rbe = (PhotonSvdEngine(), 1.0) if of_photons else (PencilBeamEngine(), 1.1)
    patient = water_tank((60.0, 120.0, 60.0), 4.0, 20.0)
    ours = engine.dose(patient, kept.plan, kept.doses.grid)["dose"] * 20 * rbe
    np.testing.assert_allclose(ours, kept.doses.total_gy, atol=0.002 * ours.max())


def test_another_patient_than_the_plans_is_refused(planned, tmp_path, capsys):
    said = refused(capsys, tmp_path, "patient=tg119", f"plan={planned}")
    assert "phantom:water_tank" in said and "TG-119" in said


def test_another_ct_than_the_plans_is_refused(planned, tmp_path, capsys):
    """A tank of another size is called the same."""
    finer = [a for a in TANK if "spacing" not in a]
    said = refused(capsys, tmp_path, *finer, "patient.spacing_mm=3", f"plan={planned}")
    assert "another CT" in said


def test_a_folder_without_a_plan_is_refused(tmp_path, capsys):
    assert "no plan.json" in refused(capsys, tmp_path, *TANK, f"plan={tmp_path}")


def test_a_damaged_plan_is_refused(tmp_path, capsys):
    (tmp_path / "plan.json").write_text('{"beams": []')
    assert "cannot be read" in refused(capsys, tmp_path, *TANK, f"plan={tmp_path}")


def test_a_published_dose_is_openkbps_alone(tmp_path, capsys):
    assert "OpenKBP" in refused(capsys, tmp_path, *TANK, "dose=true")


def test_a_plan_and_the_published_dose_are_not_mixed(tmp_path, capsys):
    assert "export one of them" in refused(capsys, tmp_path, *TANK, "dose=true", "plan=somewhere")


def test_an_earlier_export_is_kept_where_the_next_one_fails(tmp_path, capsys):
    assert export(*TANK, f"output={tmp_path / 'out'}") == 0
    before = sorted(p.name for p in (tmp_path / "out").iterdir())
    refused(capsys, tmp_path, *TANK, f"plan={tmp_path}")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == before


def test_dicom_is_read_and_refused_in_the_words_of_the_command_line(tmp_path, capsys):
    source = tmp_path / "source"
    assert export(*TANK, f"output={source}") == 0
    of_source = ("patient=dicom", f"patient.path={source}")
    assert export(*of_source, f"output={tmp_path / 'again'}") == 0
    said = refused(capsys, tmp_path, *of_source, "patient.structures=xyz")
    assert "patient.structures='xyz'" in said and "choose by patient.structures=…" in said
    said = refused(capsys, tmp_path, "patient=dicom", f"patient.path={source}x")
    assert f"patient.path='{source}x' is no folder" in said
    (source / "RTPLAN.dcm").unlink()
    said = refused(capsys, tmp_path, *of_source, "patient.prescription_gy={PTV: 60}")
    assert "give patient.n_fractions=NUMBER" in said


def test_an_openkbp_patient_is_exported_with_its_published_dose(openkbp_pt_1, tmp_path):
    path = f"patient.path={openkbp_pt_1}"
    assert export("patient=openkbp", path, "dose=true", f"output={tmp_path}") == 0
    ours, found = openkbp.read_patient(openkbp_pt_1), read_patient(tmp_path)
    np.testing.assert_array_equal(found.hu, np.rint(ours.hu))
    for name, structure in ours.structures.items():
        np.testing.assert_array_equal(found.mask(name), structure.mask)
    assert found.prescription_gy == ours.prescription_gy
    dose = read_dose(tmp_path / "RTDOSE.dcm")
    published = openkbp.read_reference_dose(openkbp_pt_1)
    assert not dose.is_effective and dose.summation == "PLAN"
    np.testing.assert_allclose(dose.dose_gy, published, atol=dose.step_gy, rtol=1e-6)
    told = pydicom.dcmread(tmp_path / "RTDOSE.dcm").ReferencedRTPlanSequence[0]
    plan = pydicom.dcmread(tmp_path / "RTPLAN.dcm")
    assert told.ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert b"pt_1" not in b"".join(p.read_bytes() for p in tmp_path.glob("RT*.dcm"))


def test_a_new_plan_takes_the_directions_of_one_that_leaves_shape(planned, tmp_path):
    """A plan of photons that cannot be computed, and one of protons, give theirs to photons."""
    assert export(*TANK, f"plan={planned}", f"output={tmp_path / 'study'}") == 0
    file = tmp_path / "study" / "RTPLAN.dcm"
    dataset = pydicom.dcmread(file)
    for beam in dataset.get("BeamSequence", []):
        del beam.CompensatorSequence
        beam.BeamLimitingDeviceSequence[0].RTBeamLimitingDeviceType = "MLCX"
    for beam in dataset.get("BeamSequence") or dataset.IonBeamSequence:
        points = beam.get("ControlPointSequence") or beam.IonControlPointSequence
        points[0].IsocenterPosition = [7.0, *points[0].IsocenterPosition[1:]]
    dataset.save_as(file)
    quick = [a for a in QUICK if "spot_spacing" not in a and "n_fractions" not in a]
    assert cli.main([
        "plan", "experiment=photons", "patient=dicom", f"patient.path={tmp_path / 'study'}",
        f"geometry.beams.from_plan={tmp_path / 'study'}", *quick, f"output={tmp_path / 'new'}",
    ]) == 0  # fmt: skip
    old, new = plan_files.read(planned).plan.beams, plan_files.read(tmp_path / "new").plan.beams
    assert [(b.gantry_deg, b.couch_deg) for b in new] == [(b.gantry_deg, b.couch_deg) for b in old]
    assert all(b.isocenter_mm[0] == 7.0 for b in new) and old[0].isocenter_mm[0] != 7.0
    np.testing.assert_allclose([b.isocenter_mm[1:] for b in new], [b.isocenter_mm[1:] for b in old])
    assert str(tmp_path / "study") not in (tmp_path / "new" / "config.yaml").read_text()


def test_directions_of_another_patient_are_refused(tmp_path, capsys):
    """By the frame of reference, and by the position that the CT alone tells."""
    study = tmp_path / "study"
    assert export(*TANK, f"output={study}") == 0
    of_protons = ["patient=dicom", f"patient.path={study}", "n_fractions=20", "dose_grid_mm=6"]
    call = ["plan", *of_protons, f"geometry.beams.from_plan={tmp_path / 'fields.dcm'}"]
    beam = leaves()
    for change, said in (
        (dict(FrameOfReferenceUID="1.2.3"), "another frame of reference"),
        (dict(PatientSetupSequence=[]), "does not say how the patient lies, .* it lies HFP"),
    ):
        plan = photon_plan(beam)
        plan.FrameOfReferenceUID = pydicom.dcmread(study / "RTPLAN.dcm").FrameOfReferenceUID
        plan.update(item(**change))
        written(plan, tmp_path).rename(tmp_path / "fields.dcm")
        if "PatientSetupSequence" in change:
            for path in study.glob("CT_*.dcm"):
                slice_ = pydicom.dcmread(path)
                slice_.PatientPosition = "HFP"
                slice_.save_as(path)
        assert cli.main([*call, f"output={tmp_path / 'out'}"]) == 2
        assert re.search(said, capsys.readouterr().err)
