import warnings
import zipfile

import numpy as np
import pytest

from engine.errors import PhysicsWarning
from engine.io.openkbp import read_patient, read_reference_dose
from engine.patient.ct import rsp_volume

N = 128


def flat(i, j, k):
    return (np.asarray(i) * N + np.asarray(j)) * N + np.asarray(k)


def block(i, j, k):
    """Flat indices of a block given by three (start, stop)."""
    axes = np.meshgrid(*(np.arange(*span) for span in (i, j, k)), indexing="ij")
    return flat(*axes).ravel()


def mask_csv(indices):
    return ",data\n" + "".join(f"{n},\n" for n in indices)


def table_csv(indices, values):
    return ",data\n" + "".join(f"{n},{v}\n" for n, v in zip(indices, values))


def published_files():
    """A small box of a patient: 20 × 20 × 20 voxels of tissue with an airway."""
    body = block((50, 70), (50, 70), (50, 70))
    airway = block((60, 62), (60, 62), (50, 70))
    body = np.setdiff1d(body, airway)
    table = block((80, 82), (40, 90), (50, 70))
    metal = flat(55, 55, 55)
    values = np.where(np.arange(len(body)) % 2, 1033.0, 1029.0)
    values[body == metal] = 21767.0
    listed = np.concatenate([body, table])
    return {
        "ct": table_csv(listed, [*values, *np.full(len(table), 1200.0)]),
        "voxel_dimensions": "4.0e+00\n3.0e+00\n2.5e+00\n",
        "PTV70": mask_csv(block((56, 60), (56, 60), (56, 60))),
        "PTV56": mask_csv(block((48, 52), (56, 60), (56, 60))),
        "Brainstem": mask_csv(block((64, 67), (58, 62), (52, 56))),
        "LeftParotid": mask_csv(block((58, 60), (66, 69), (56, 60))),
        "Larynx": mask_csv([]),
        "dose": table_csv(body[:10], [7.675] * 10),
        "possible_dose_mask": mask_csv(body),
    }


def write_folder(path, files):
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text)
    return path


def write_zip(path, files, folder="pt_900/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{folder}{name}.csv", text)
    return path


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pt_900", published_files())


def changed(tmp_path, **files):
    """A zip of the patient with some files replaced, or left out (None)."""
    kept = {n: t for n, t in {**published_files(), **files}.items() if t is not None}
    return write_zip(tmp_path / "pt_900.zip", kept)


def test_folder_and_zip_read_alike(tmp_path, folder):
    patients = [
        read_patient(folder),
        read_patient(write_zip(tmp_path / "a.zip", published_files())),
        read_patient(str(write_zip(tmp_path / "pt_900.zip", published_files(), folder=""))),
    ]
    for patient in patients:
        assert patient.name == "pt_900"
        assert patient.source == "openkbp:pt_900"
        assert np.array_equal(patient.hu, patients[0].hu)
        assert list(patient.structures) == list(patients[0].structures)


def test_axes_become_left_posterior_superior(folder):
    patient = read_patient(folder)
    assert patient.grid.spacing_mm == (2.5, 4.0, 3.0)  # published as i, j, k = y, x, z
    np.testing.assert_allclose(patient.grid.center_mm, 0.0, atol=1e-9)
    z, y, x = np.argwhere(patient.mask("Parotid_L")).mean(axis=0)
    assert (z, y, x) == (127 - 57.5, 58.5, 67.0)


def test_names_roles_and_prescription_follow_what_is_there(folder):
    patient = read_patient(folder)
    assert patient.targets == ("PTV_7000", "PTV_5600")
    assert dict(patient.prescription_gy) == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    assert patient.n_fractions == 35
    assert patient.organs == ("Brainstem", "Parotid_L")  # an empty larynx is a missing one


def test_hu_is_value_minus_1000_and_clipped(folder):
    hu = read_patient(folder).hu
    assert hu.dtype == np.float32
    assert hu[127 - 51, 51, 51] in (29.0, 33.0)
    assert hu.min() == -1000.0
    assert hu.max() == 3000.0
    assert hu[127 - 55, 55, 55] == 3000.0


def test_external_is_the_body_with_its_airway_and_without_the_table(folder):
    patient = read_patient(folder)
    assert patient.external.mask.sum() == 20**3
    assert patient.external.mask[127 - 60, 61, 61]
    assert patient.hu[127 - 60, 61, 61] == -1000.0
    assert not patient.external.mask[:, 80:82].any()
    assert rsp_volume(patient)[:, 80:82].max() == 0.0


def test_targets_are_clipped_to_the_body(folder):
    patient = read_patient(folder)
    assert patient.mask("PTV_5600").sum() == 2 * 4 * 4
    assert not np.any(patient.target_union() & ~patient.external.mask)


def test_reference_dose_lies_on_the_same_grid(folder):
    dose = read_reference_dose(folder)
    assert dose.shape == (128, 128, 128)
    assert dose.dtype == np.float32
    assert (dose > 0).sum() == 10
    assert dose.max() == np.float32(7.675)


def test_odd_hu_is_warned_of_and_kept(tmp_path):
    files = published_files()
    low = files["ct"].replace(",1033.0", ",1007.0").replace(",1029.0", ",1003.0")
    with pytest.warns(PhysicsWarning, match="brainstem of pt_900 lies at 5 HU"):
        patient = read_patient(changed(tmp_path, ct=low))
    assert patient.hu[127 - 51, 51, 51] in (3.0, 7.0)
    with pytest.warns(PhysicsWarning, match="muscle"):
        read_patient(changed(tmp_path, ct=low, Brainstem=None))


def test_plausible_hu_gives_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_patient(changed(tmp_path))
        read_patient(changed(tmp_path, Brainstem=None))


def test_windows_line_ends_are_read(tmp_path, folder):
    files = {n: t.replace("\n", "\r\n") for n, t in published_files().items()}
    assert np.array_equal(read_patient(changed(tmp_path, **files)).hu, read_patient(folder).hu)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ct": None}, "no ct.csv"),
        ({"voxel_dimensions": None}, "voxel_dimensions.csv .* is missing"),
        ({"voxel_dimensions": "4.0\n3.0\n"}, "three spacings"),
        ({"voxel_dimensions": "4.0\n3.0\n-2.5\n"}, "three spacings"),
        ({"PTV70": None, "PTV56": None}, "no target"),
        ({"PTV70": mask_csv([]), "PTV56": None}, "no target"),
        ({"PTV70": mask_csv([flat(5, 5, 5)])}, "lie off the body"),
        ({"PTV70": mask_csv([N**3])}, "PTV70.csv .* index 2.09715e\\+06"),
        ({"PTV70": mask_csv([-1])}, "index -1"),
        ({"PTV70": ",data\n1.5,\n"}, "index 1.5"),
        ({"PTV70": ",data\nfive,\n"}, "PTV70.csv .* no number"),
        ({"ct": ",data\n5,nan\n"}, "ct.csv .* no number"),
        ({"ct": ",data\n5,10.0\n6"}, "truncated"),
        ({"ct": ",data\n"}, "0 numbers"),
        ({"ct": ",data\n5,10.0\n"}, "threshold_hu"),
        ({"Brainstem": table_csv([5], [1.0])}, "truncated or no OpenKBP file"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        read_patient(changed(tmp_path, **files))


def test_empty_and_truncated_zips_are_refused(tmp_path):
    whole = changed(tmp_path).read_bytes()
    for name, content in {
        "empty.zip": b"",
        "cut.zip": whole[: len(whole) // 2],
        "text.zip": b"not a zip at all",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*copy it again"):
            read_patient(tmp_path / name)


def test_a_damaged_member_is_refused(tmp_path):
    path = changed(tmp_path)
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)  # inside the compressed CT
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_patient(path)


def test_an_archive_without_or_with_many_patients_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    with pytest.raises(ValueError, match="no ct.csv"):
        read_patient(tmp_path / "none.zip")
    for name in ("pt_1", "pt_2"):
        write_folder(tmp_path / "many" / name, published_files())
    with pytest.raises(ValueError, match="2 patients"):
        read_patient(tmp_path / "many")


def test_a_missing_path_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_patient("nowhere/pt_1.zip")


def centroid_mm(patient, name):
    return patient.grid.points_mm(np.flatnonzero(patient.mask(name))).mean(axis=0)


@pytest.mark.parametrize("name", ["pt_1", "pt_4", "pt_203"])
def test_real_patients_lie_the_right_way_round(openkbp_dir, name):
    path = next(p for p in openkbp_dir.glob(f"*/{name}*"))
    patient = read_patient(path)
    brainstem, cord = centroid_mm(patient, "Brainstem"), centroid_mm(patient, "SpinalCord")
    assert brainstem[2] > cord[2] + 30.0  # brainstem above cord
    left, right = centroid_mm(patient, "Parotid_L"), centroid_mm(patient, "Parotid_R")
    assert left[0] > right[0] + 60.0
    assert abs(brainstem[0]) < 20.0
    # The spine is the densest thing behind the middle of the neck, the jaw before it.
    if "Bone_Mandible" in patient.structures:
        assert cord[1] > centroid_mm(patient, "Bone_Mandible")[1] + 40.0
        assert brainstem[2] > centroid_mm(patient, "Bone_Mandible")[2]


def test_real_patient_has_sound_tissue_and_dose(openkbp_pt_1):
    patient = read_patient(openkbp_pt_1)
    assert patient.grid.spacing_mm == (2.5, 3.906, 3.906)
    assert patient.targets == ("PTV_7000", "PTV_6300", "PTV_5600")
    assert 25 <= np.median(patient.hu[patient.mask("Brainstem")]) <= 45
    assert np.median(patient.hu[patient.mask("Bone_Mandible")]) > 300
    for name in patient.targets:
        assert not np.any(patient.mask(name) & ~patient.external.mask)
    dose = read_reference_dose(openkbp_pt_1)
    # The published plan treats these targets: the planning dose reaches 90 % of it.
    for name, prescribed in patient.prescription_gy.items():
        assert np.median(dose[patient.mask(name)]) > 0.9 * prescribed
    assert dose[~patient.external.mask].mean() < 0.1 * dose[patient.external.mask].mean()
