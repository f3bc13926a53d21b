import subprocess
import sys
import warnings
from functools import partial

import dicom_samples
import numpy as np
import pytest
from dicom_samples import (
    SPACING_MM,
    drawn_on_another_series,
    edited,
    plan_file,
    roi,
    small_patient,
    square,
    structure_file,
    written,
)
from pydicom.dataset import Dataset

from engine.errors import PhysicsWarning
from engine.io import dicom_patient, openkbp
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_folder import short
from engine.io.dicom_patient import read_patient
from engine.io.dicom_study import Study
from engine.patient.phantoms import half_slab_tank, head_and_neck
from engine.patient.structures import external_from_hu, on_grid

PATIENT = small_patient()
STUDY = Study.of(PATIENT)
Z_MM = PATIENT.grid.axes_mm()[0]
MIDDLE = tuple(PATIENT.grid.center_mm[:2])
refused = partial(dicom_samples.refused, error=ValueError)  # keys are no matter of files


@pytest.fixture
def folder(tmp_path):
    return written(PATIENT, tmp_path)


def structures(folder, *rois):
    """The folder with other structures: (name, kind, half size in mm) around the middle."""
    given = [
        roi(name, [(z, square(MIDDLE, half)) for z in Z_MM] if half else [], number, kind)
        for number, (name, kind, half) in enumerate(rois, start=1)
    ]
    structure_file(folder / "RTSTRUCT.dcm", given, STUDY)
    return folder


def planned(path, doses_gy, n_fractions=30, uid="1.2.3.4"):
    """A plan of doses by ROI number."""
    references, group = [Dataset() for _ in doses_gy], Dataset()
    for item, (number, dose_gy) in zip(references, doses_gy.items()):
        item.DoseReferenceType, item.ReferencedROINumber = "TARGET", number
        item.TargetPrescriptionDose = dose_gy
    group.NumberOfFractionsPlanned = n_fractions
    return plan_file(
        path, STUDY, uid, DoseReferenceSequence=references, FractionGroupSequence=[group]
    )


def same(found, expected) -> None:
    assert np.array_equal(found.hu, np.rint(expected.hu))
    assert found.grid.shape == expected.grid.shape
    np.testing.assert_allclose(found.grid.spacing_mm, expected.grid.spacing_mm, rtol=1e-9)
    np.testing.assert_allclose(found.grid.origin_mm, expected.grid.origin_mm, atol=1e-9)
    assert set(found.structures) == set(expected.structures)
    for name, structure in expected.structures.items():
        assert found.structures[name].role == structure.role
        assert found.structures[name].material == structure.material
        assert np.array_equal(found.mask(name), structure.mask), name
    assert dict(found.prescription_gy) == dict(expected.prescription_gy)
    assert found.n_fractions == expected.n_fractions


def quietly(*args, **keys):
    """Read where nothing may be left out or doubtful."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_patient(*args, **keys)


def told(call, *named):
    with pytest.warns(PhysicsWarning) as caught:
        patient = call()
    (warning,) = caught
    for part in named:
        assert part in str(warning.message), str(warning.message)
    return patient


# Round trips


def test_what_is_written_is_read_again(folder):
    same(quietly(folder, n_fractions=35), PATIENT)


def test_a_real_patient_comes_back(openkbp_pt_1, tmp_path):
    patient = openkbp.read_patient(openkbp_pt_1)
    same(quietly(written(patient, tmp_path), n_fractions=35), patient)


@pytest.mark.parametrize("make", [head_and_neck, half_slab_tank], ids=lambda make: make.__name__)
def test_procedural_patients_come_back_with_their_materials(make, tmp_path):
    patient = make(3, spacing_mm=6.0)
    found = quietly(
        written(patient, tmp_path), n_fractions=patient.n_fractions,
        prescription_gy=dict(patient.prescription_gy),
    )  # fmt: skip
    same(found, patient)


# What belongs together


def test_the_structures_choose_the_series(folder):
    other = small_patient()
    other.hu[:] += 1.0
    written(other, folder / "other")
    (folder / "other" / "RTSTRUCT.dcm").unlink()
    same(quietly(folder, n_fractions=35), PATIENT)


def test_several_structure_sets_ask_for_a_choice(folder):
    second = folder / "second.dcm"
    edited(folder / "RTSTRUCT.dcm", lambda d: setattr(d, "SOPInstanceUID", "1.2.3.2"), second)
    edited(second, lambda d: d.StructureSetROISequence.pop())
    edited(second, lambda d: d.ROIContourSequence.pop())
    refused(
        lambda: read_patient(folder, n_fractions=35),
        "structures=…", short("1.2.3.2"), short(STUDY.structures_uid),
    )  # fmt: skip
    assert set(read_patient(folder, structures="1.2.3.2", n_fractions=35).organs) == set()
    same(read_patient(folder, structures=short(STUDY.structures_uid), n_fractions=35), PATIENT)
    planned(folder / "plan", {}, n_fractions=35)
    same(read_patient(folder, plan=short("1.2.3.4")), PATIENT)


def test_of_several_structure_sets_the_one_whose_ct_is_there_is_taken(folder):
    def elsewhere(dataset):
        dataset.SOPInstanceUID = "1.2.3.2"
        drawn_on_another_series(dataset)

    edited(folder / "RTSTRUCT.dcm", elsewhere, folder / "other.dcm")
    taken = told(
        lambda: read_patient(folder, n_fractions=35),
        f"structure sets whose CT is not in the folder are not taken: {short('1.2.3.2')}",
    )
    same(taken, PATIENT)
    told(lambda: read_patient(folder, structures="1.2.3.2", n_fractions=35), "another series")
    third = folder / "third.dcm"
    edited(folder / "RTSTRUCT.dcm", lambda d: setattr(d, "SOPInstanceUID", "1.2.3.3"), third)
    refused(lambda: read_patient(folder, n_fractions=35), "2 structure sets that could be meant")


def test_a_series_chosen_by_key_needs_structures_of_its_own(folder):
    other = small_patient()
    other.hu[:] += 1.0
    written(other, folder / "other")
    (folder / "other" / "RTSTRUCT.dcm").unlink()
    uid = Study.of(other).ct_series_uid
    refused(lambda: read_patient(folder, series=uid, n_fractions=35), "structures=…")
    refused(
        lambda: read_patient(folder, series=uid, structures=STUDY.structures_uid, n_fractions=35),
        "another frame of reference",
    )


def test_structures_of_another_series_in_the_same_frame_are_told_of(folder):
    edited(folder / "RTSTRUCT.dcm", drawn_on_another_series)
    same(told(lambda: read_patient(folder, n_fractions=35), "another series"), PATIENT)


def test_a_file_that_cannot_be_read_is_told_of(folder):
    """The outermost slice: what is left is a sound stack."""
    path = folder / "CT_0006.dcm"
    path.write_bytes(path.read_bytes()[:300])
    patient = told(lambda: read_patient(folder, n_fractions=35), "'CT_0006.dcm'")
    assert patient.grid.shape == (5, 10, 12)


def test_a_folder_without_structures_is_refused(folder):
    (folder / "RTSTRUCT.dcm").unlink()
    refused(lambda: read_patient(folder, n_fractions=35), "no structure set", "1 CT series")


# Names and roles


def test_local_names_become_tg263(folder):
    structures(
        folder, ("BODY", "", 8.0), ("ptv 60 Gy", "", 3.0), ("Cord", "CONTROL", 1.5),
        ("Lt Parotid", "PTV", 2.0), ("table", "", 8.0),
    )  # fmt: skip
    patient = quietly(folder, n_fractions=30)
    assert {n: s.role for n, s in patient.structures.items()} == {
        "External": "external", "PTV_6000": "target", "SpinalCord": "organ",
        "Parotid_L": "organ", "CouchSurface": "support",
    }  # fmt: skip
    assert dict(patient.prescription_gy) == {"PTV_6000": 60.0}


def test_what_has_no_known_name_is_listed_and_left_out(folder):
    structures(
        folder, ("BODY", "", 8.0), ("PTV60", "", 3.0), ("Structure7", "ORGAN", 2.0),
        ("zRing", "", 3.0), ("Cord", "ORGAN", 0),
    )  # fmt: skip
    patient = told(
        lambda: read_patient(folder, n_fractions=30),
        "no pattern knows their names): 'Structure7'", "no contours): 'Cord'",
        "a pattern of leave_out knows them): 'zRing'",
    )  # fmt: skip
    assert set(patient.structures) == {"External", "PTV_6000"}


def test_keys_take_in_what_has_no_known_name(folder, tmp_path_factory):
    structures(
        folder, ("BODY", "", 8.0), ("Boost", "", 3.0), ("Structure7", "", 2.0), ("Odd", "OAR", 2.0)
    )
    patient = told(
        lambda: read_patient(
            folder, n_fractions=30, prescription_gy={"Boost": 66.0}, roles={"Structure7": "organ"}
        ),
        "'Odd'",
    )
    assert patient.targets == ("Boost",)
    assert patient.organs == ("Structure7",)
    own = tmp_path_factory.mktemp("own") / "names.yaml"
    own.write_text("targets: {PTV_6600: [boost]}\nkeep: [odd]\norgans: {Larynx: [structure7]}\n")
    patient = quietly(folder, n_fractions=30, names=own)
    assert dict(patient.prescription_gy) == {"PTV_6600": 66.0}
    assert set(patient.organs) == {"Larynx", "Odd"}


def test_keys_take_in_what_a_pattern_leaves_out(folder):
    structures(folder, ("BODY", "", 8.0), ("PTV60", "", 3.0), ("zRing", "", 3.0), ("zA", "", 2.0))
    patient = told(
        lambda: read_patient(folder, n_fractions=30, roles={"zRing": "organ"}),
        "knows them): 'zA'.",
    )
    assert patient.organs == ("zRing",)


def test_a_kept_name_whose_file_says_no_role_is_told_of(folder):
    structures(folder, ("BODY", "", 8.0), ("PTV60", "", 3.0), ("Odd", "", 2.0))
    patient = told(
        lambda: read_patient(folder, n_fractions=30, names={"keep": ["odd"]}), "'Odd' is left out"
    )
    assert "Odd" not in patient.structures


def test_roles_override_what_names_say(folder):
    structures(folder, ("BODY", "", 8.0), ("PTV60", "", 3.0), ("CTV60", "", 2.0), ("Cord", "", 1.5))
    patient = quietly(folder, n_fractions=30, roles={"CTV60": "organ", "SpinalCord": "support"})
    assert patient.structures["CTV_6000"].role == "organ"
    assert patient.structures["SpinalCord"].role == "support"


def test_wrong_keys_are_refused_with_what_there_is(folder):
    for key, value in (("roles", {"Cord9": "organ"}), ("prescription_gy", {"Cord9": 5.0})):
        refused(lambda k=key, v=value: read_patient(folder, n_fractions=35, **{k: v}),
                f"{key}={{…}} names 'Cord9'", "External, PTV_7000, SpinalCord")  # fmt: skip
    refused(lambda: read_patient(folder, roles={"PTV_7000": "tumor"}), "choose a role from target")


def test_two_structures_of_one_name_are_refused(folder):
    structures(folder, ("PTV60", "", 3.0), ("Cord", "", 2.0), ("Spinal Cord", "", 2.0))
    refused(lambda: read_patient(folder, n_fractions=30), "'Cord' and 'Spinal Cord' are both")


# The external


def test_without_an_external_the_ct_tells_it(folder):
    structures(folder, ("PTV60", "", 3.0))
    patient = quietly(folder, n_fractions=30)
    assert np.array_equal(patient.external.mask, external_from_hu(PATIENT.hu, patient.grid))


def test_the_external_may_be_known_by_its_type_alone(folder):
    structures(folder, ("Hull", "EXTERNAL", 5.0), ("PTV60", "", 3.0))
    patient = quietly(folder, n_fractions=30)
    assert patient.external.name == "External"
    assert patient.external.mask.sum() < 0.5 * patient.grid.size


def test_of_two_by_type_alone_none_is_taken(folder):
    structures(folder, ("A", "EXTERNAL", 5.0), ("B", "EXTERNAL", 5.0), ("PTV60", "", 3.0))
    patient = told(lambda: read_patient(folder, n_fractions=30), "'A', 'B'")
    assert np.array_equal(patient.external.mask, external_from_hu(PATIENT.hu, patient.grid))
    patient = told(lambda: read_patient(folder, n_fractions=30, roles={"B": "external"}), "'A'")
    assert patient.external.name == "B"
    structures(folder, ("A", "EXTERNAL", 5.0), ("C", "", 4.0), ("PTV60", "", 3.0))
    patient = told(lambda: read_patient(folder, n_fractions=30, roles={"C": "external"}), "'A'")
    assert patient.external.name == "C"


def test_targets_are_clipped_to_the_external(folder):
    structures(folder, ("Hull", "EXTERNAL", 3.0), ("PTV60", "", 5.0))
    patient = told(
        lambda: read_patient(folder, n_fractions=30),
        "56 % of 'PTV_6000' lies off the body and is not treated",
    )
    assert np.array_equal(patient.mask("PTV_6000"), patient.external.mask)


def test_an_organ_half_off_the_body_stays_whole_and_is_told(folder):
    """Hull and cord are 4 × 4 pixels, two of these wide in common; the table may lie anywhere."""
    middle, aside = ([(z, square(np.add(MIDDLE, (dx, 0)), 3.0)) for z in Z_MM] for dx in (0, 3))
    given = [
        roi("Hull", middle, 1, "EXTERNAL"), roi("PTV60", middle, 2, "PTV"),
        roi("Cord", aside, 3), roi("Table", aside, 4, "SUPPORT"),
    ]  # fmt: skip
    structure_file(folder / "RTSTRUCT.dcm", given, STUDY)
    with pytest.warns(PhysicsWarning) as caught:
        patient = read_patient(folder, n_fractions=30)
    said = "DICOM patient: 50 % of 'SpinalCord' lies off the body and gets no dose."
    assert [str(w.message) for w in caught] == [said]
    assert patient.mask("SpinalCord").sum() == patient.mask("PTV_6000").sum()


def test_what_lies_off_the_ct_is_told_by_its_share(folder):
    left, top = PATIENT.grid.lower_mm[:2]
    inside = [(z, square(MIDDLE, 3.0)) for z in Z_MM]
    across = [(z, square((left, top + 10.0), 3.0)) for z in Z_MM]
    given = [roi("PTV60", inside, 1), roi("Cord", across, 2), roi("Hull", inside, 3, "EXTERNAL")]
    structure_file(folder / "RTSTRUCT.dcm", given, STUDY)
    told(lambda: read_patient(folder, n_fractions=30), "50 % of 'Cord' lies off the CT")


def test_a_structure_that_goes_on_beyond_the_ct_is_told(folder):
    further = [(z, square(MIDDLE, 3.0)) for z in (*Z_MM, Z_MM[-1] + 3.0)]
    structure_file(folder / "RTSTRUCT.dcm", [roi("PTV60", further, 1)], STUDY)
    patient = told(
        lambda: read_patient(folder, n_fractions=30),
        "'PTV60' is cut at the end of the CT, by 3 mm", "14 % of 'PTV60' lies off the CT",
    )  # fmt: skip
    assert patient.mask("PTV_6000").any(axis=(1, 2)).all()


def test_what_lies_off_the_ct_or_the_body_is_left_out_or_refused(folder):
    far = [(z, square((500.0, 0.0), 5.0)) for z in Z_MM]
    inside = [(z, square(MIDDLE, 3.0)) for z in Z_MM]
    given = [roi("PTV60", inside, 1), roi("Cord", far, 2)]
    structure_file(folder / "RTSTRUCT.dcm", given, STUDY)
    patient = told(lambda: read_patient(folder, n_fractions=30), "'Cord' is left out: it covers no")
    assert patient.organs == ()
    corner = [(z, square(PATIENT.grid.lower_mm[:2], 1.5)) for z in Z_MM]
    given = [roi("PTV60", corner, 1), roi("Hull", inside, 2, "EXTERNAL")]
    structure_file(folder / "RTSTRUCT.dcm", given, STUDY)
    refused(lambda: read_patient(folder, n_fractions=30), "'PTV_6000' lies off the external")


# Prescription


TARGETS = (
    ("PTV High", "PTV", 3.0), ("PTV54", "PTV", 4.0), ("CTV60", "CTV", 2.0), ("GTV", "GTV", 1.0),
)  # fmt: skip


def test_the_keys_prescription_comes_first(folder):
    structures(folder, *TARGETS)
    planned(folder / "plan", {1: 60.0})
    patient = told(
        lambda: read_patient(folder, prescription_gy={"PTV High": 50, "CTV_6000": 40}),
        "'PTV54' is left out: no dose", "'GTV' is left out",
    )  # fmt: skip
    assert dict(patient.prescription_gy) == {"PTV_High": 50, "CTV_6000": 40}
    assert patient.n_fractions == 30  # of the plan


def test_then_the_plans_then_that_of_the_names_of_ptvs(folder):
    structures(folder, *TARGETS)
    planned(folder / "plan", {1: 60.0})
    patient = told(lambda: read_patient(folder), "'CTV60' is left out", "'GTV' is left out")
    assert dict(patient.prescription_gy) == {"PTV_High": 60.0, "PTV_5400": 54.0}
    planned(folder / "plan", {1: 60.0, 2: 55.0})
    patient = told(lambda: read_patient(folder), "'GTV'")
    assert dict(patient.prescription_gy) == {"PTV_High": 60.0, "PTV_5400": 55.0}
    assert patient.n_fractions == 30
    patient = told(lambda: read_patient(folder, n_fractions=20), "'GTV'")
    assert patient.n_fractions == 20


def test_without_ptvs_ctvs_are_treated(folder):
    structures(folder, *TARGETS[2:])
    patient = told(lambda: read_patient(folder, n_fractions=30), "'GTV' is left out")
    assert dict(patient.prescription_gy) == {"CTV_6000": 60.0}


def test_without_any_dose_the_targets_are_listed(folder):
    structures(folder, ("PTV High", "PTV", 3.0), ("GTV", "GTV", 1.0))
    refused(lambda: read_patient(folder, n_fractions=30), "'PTV_High', 'GTV'", "prescription_gy=")
    structures(folder, ("Cord", "ORGAN", 3.0))
    refused(lambda: read_patient(folder, n_fractions=30), "Targets: none")


def test_without_fractions_they_are_asked_for(folder):
    refused(lambda: read_patient(folder), "n_fractions=NUMBER")
    planned(folder / "p1", {}, uid="1.2.3.4")
    planned(folder / "p2", {}, 20, uid="1.2.3.5")
    for keys in ({}, {"n_fractions": 30}, {"prescription_gy": {"PTV_7000": 60.0}}):
        refused(partial(read_patient, folder, **keys), "2 plans that could be meant", "plan=…")
    patient = read_patient(folder, prescription_gy={"PTV_7000": 60.0}, n_fractions=30)
    assert (patient.prescription_gy["PTV_7000"], patient.n_fractions) == (60.0, 30)
    assert read_patient(folder, plan="1.2.3.5").n_fractions == 20


# Persons


SECRETS = ("doe", "jane", "778899", "19700102", "1970")


def identify(folder):
    """A name, an ID and dates in every file, and the name in the files' names."""

    def change(dataset):
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "ID778899"
        dataset.PatientBirthDate = dataset.StudyDate = dataset.SeriesDate = "19700102"
        dataset.StudyDescription = "Jane Doe, born 1970"

    for path in list(folder.iterdir()):
        edited(path, change)
        path.rename(folder / f"DOE_Jane_ID778899_{path.name}")


def test_nobodys_name_is_taken_over(folder, caplog):
    identify(folder)
    patient = quietly(folder, n_fractions=35)
    same(patient, PATIENT)
    assert patient.name == f"dicom-{short(STUDY.ct_series_uid)}"
    assert patient.source == f"dicom:{short(STUDY.ct_series_uid)}"
    shown = f"{patient.name} {patient.source} {list(patient.structures)} {caplog.text}".lower()
    assert not [secret for secret in SECRETS if secret in shown]


def test_nobodys_name_is_in_a_refusal(folder, caplog):
    identify(folder)
    paths = sorted(folder.glob("*CT*"))
    said = []
    for change in (
        lambda d: delattr(d, "PixelSpacing"),
        lambda d: setattr(d, "Rows", 60000),
        lambda d: setattr(d, "RescaleType", "ED"),
        lambda d: setattr(d, "ImagePositionPatient", [0, 0, 0]),
        lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"),
        lambda d: setattr(d, "SOPInstanceUID", None),
        lambda d: setattr(d, "SeriesInstanceUID", "1.2.3"),
    ):
        content = paths[2].read_bytes()
        edited(paths[2], change)
        with pytest.raises(DicomError) as caught:
            read_patient(folder, n_fractions=35)
        said.append(str(caught.value))
        paths[2].write_bytes(content)
    whole = paths[2].read_bytes()
    for n_bytes in (140, 300, 500, 800, len(whole) - 5):
        paths[2].write_bytes(whole[:n_bytes])
        with pytest.raises(DicomError) as caught:
            read_patient(folder, n_fractions=35)
        said.append(str(caught.value))
    shown = " ".join([*said, caplog.text]).lower()
    assert not [secret for secret in SECRETS if secret in shown]
    assert "ct_0003" in shown


def test_importing_ptenv_needs_neither_pydicom_nor_yaml():
    code = "import sys, ptenv; print([m for m in ('pydicom', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def cylinder(radius_mm, center=MIDDLE):
    """Contours of a cylinder along z, on the middle slices, and its volume in cm³."""
    angle = np.linspace(0.0, 2.0 * np.pi, 200, endpoint=False)
    ring = np.array(center) + radius_mm * np.column_stack([np.cos(angle), np.sin(angle)])
    z_mm = Z_MM[len(Z_MM) // 2 - 2 : len(Z_MM) // 2 + 3]
    volume_cm3 = np.pi * radius_mm**2 * len(z_mm) * SPACING_MM[0] / 1000.0
    return [(z, ring) for z in z_mm], volume_cm3


def read_of(folder, *rois):
    structure_file(folder / "RTSTRUCT.dcm", list(rois), STUDY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysicsWarning)
        return read_patient(folder, n_fractions=30, prescription_gy={"PTV_6000": 60.0})


BODY = roi("External", [(z, square(MIDDLE, 30.0)) for z in Z_MM], 1, "EXTERNAL")
TARGET = roi("PTV_6000", [(z, square(MIDDLE, 8.0)) for z in Z_MM], 2, "PTV")


@pytest.mark.parametrize("radius_mm", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("spacing", [(3.0, 2.5, 2.5), (3.0, 4.0, 4.0), (2.0, 2.0, 2.0)])
def test_a_structure_of_few_voxels_is_judged_by_partial_volumes(folder, radius_mm, spacing):
    """On dose grids coarser and finer than the CT; whole voxels are off by up to 30 %."""
    worst = 0.0
    for shift in (0.0, 0.4, 0.8):
        contours, volume_cm3 = cylinder(radius_mm, np.array(MIDDLE) + shift)
        patient = read_of(folder, BODY, TARGET, roi("OpticNrv_L", contours, 3))
        grid = patient.grid.resampled(spacing)
        assert on_grid(patient, grid).volume_cm3("OpticNrv_L") == pytest.approx(
            volume_cm3, rel=0.01
        )
        mask = patient.mask("OpticNrv_L")
        worst = max(worst, abs(mask.sum() * patient.grid.voxel_volume_cm3 / volume_cm3 - 1.0))
    assert worst > 0.02 or radius_mm == 3.0


def test_large_structures_have_their_masks_alone(folder, monkeypatch):
    monkeypatch.setattr(dicom_patient, "FEW_VOXELS", 600)
    patient = read_of(folder, BODY, TARGET)
    assert patient.external.mask.sum() > 600 > patient.mask("PTV_6000").sum()
    assert patient.external.partial is None
    assert patient.structures["PTV_6000"].partial is not None


def test_partial_volumes_of_targets_end_at_the_body(folder):
    """A target that half lies off it, between faces of voxels."""
    body = roi("External", [(z, square(MIDDLE, 6.3)) for z in Z_MM], 1, "EXTERNAL")
    edge = np.array(MIDDLE) + np.array([6.3, 0.0])
    contours = [(z, square(edge, 2.2)) for z in Z_MM]
    patient = read_of(folder, body, roi("PTV_6000", contours, 2, "PTV"))
    structures = on_grid(patient, patient.grid)
    off = structures.fraction["PTV_6000"] * ~patient.external.mask
    assert off.max() == 0.0
    assert structures.volume_cm3("PTV_6000") == pytest.approx(
        2.2 * 4.4 * len(Z_MM) * SPACING_MM[0] / 1000.0, rel=0.4
    )
