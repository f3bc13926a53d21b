import tracemalloc
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_checks import assert_follows_docbook, assert_valid
from dicom_samples import (
    PYDICOM_FILES,
    edited,
    refused,
    roi,
    small_patient,
    square,
    structure_file,
    written,
)
from plan_samples import tank
from pydicom.uid import ExplicitVRLittleEndian

from engine.io.dicom_structures import MATERIAL_IDS, StructureSet
from engine.io.dicom_structures_writing import write_structures
from engine.io.dicom_study import Study
from engine.io.openkbp import read_patient
from engine.patient.grid import Grid
from engine.patient.patient import Structure
from engine.patient.tissues import MATERIALS

GRID = Grid((12, 30, 30), (3.0, 2.0, 2.0), (0.0, 1.0, 1.0))  # slices at 0, 3, …; edges at 0, 2, …
STUDY = Study.of(small_patient())
FRAME = STUDY.frame_uid
CENTER = (30.0, 30.0)


@pytest.fixture
def drawn(tmp_path):
    """A structure of given contours on GRID."""

    def draw(contours, kind="ORGAN", grid=GRID):
        path = structure_file(tmp_path / "s.dcm", [roi("Cord", contours, kind=kind)], STUDY)
        (found,) = StructureSet(path).rois
        return StructureSet(path).structure(found, grid, FRAME)

    return draw


def stack(z_mm, half=10.0, center=CENTER):
    return [(z, square(center, half)) for z in z_mm]


def by_slice(mask) -> list[int]:
    return mask.sum(axis=(1, 2)).tolist()


def test_what_is_written_is_read_again(tmp_path):
    patient = small_patient().with_structures(
        Structure("Couch", np.indices((6, 10, 12))[1] == 9, "support", "water")
    )
    written(patient, tmp_path)
    found = StructureSet(tmp_path / "RTSTRUCT.dcm")
    assert [(r.name, r.role, r.material) for r in found.rois] == [
        ("External", "external", None), ("PTV_7000", "target", None),
        ("SpinalCord", "organ", None), ("Couch", "support", "water"),
    ]  # fmt: skip
    for declared in found.rois:
        structure = found.structure(declared, patient.grid, Study.of(patient).frame_uid)
        mask = patient.mask(declared.name)
        assert np.array_equal(structure.mask_on(patient.grid), mask)
        np.testing.assert_allclose(structure.fraction_on(patient.grid), mask, atol=1e-4)
        volume_cm3 = mask.sum() * patient.grid.voxel_volume_cm3
        assert structure.volume_cm3() == pytest.approx(volume_cm3, rel=1e-4)
        assert structure.notes == ()


@pytest.mark.parametrize(
    "name, role, kind",
    [
        ("CTV_6000", "target", "CTV"), ("GTVp", "target", "GTV"), ("Boost", "target", "PTV"),
        ("GTV_shell", "organ", "ORGAN"),
    ],
)  # fmt: skip
def test_targets_are_of_the_type_in_their_names(tmp_path, name, role, kind):
    patient = small_patient()
    more = Structure(name, patient.mask("PTV_7000"), role)
    prescribed = {"PTV_7000": 70.0, **({name: 60.0} if role == "target" else {})}
    structures = {**patient.structures, name: more}
    written(replace(patient, structures=structures, prescription_gy=prescribed), tmp_path)
    assert StructureSet(tmp_path / "RTSTRUCT.dcm").rois[-1].kind == kind


def awkward_patient():
    """A patient with a structure of no voxel, and with names that a DICOM file has no room for."""
    patient = small_patient()
    names = ("Nothing", "a\\b\nc", "n" * 64, "m" * 70 + "1", "m" * 70 + "2")
    masks = [np.zeros(patient.grid.shape, bool)] + 4 * [patient.mask("SpinalCord")]
    more = {
        name: Structure(name, mask, "organ", "connective_tissue")
        for name, mask in zip(names, masks)
    }
    return replace(patient, name="awkward", structures={**patient.structures, **more})


def test_names_are_made_to_fit_and_stay_apart(tmp_path):
    written(awkward_patient(), tmp_path)
    rois = StructureSet(tmp_path / "RTSTRUCT.dcm").rois[3:]
    names = ["Nothing", "a_b_c~5", "n" * 64, "m" * 62 + "~7", "m" * 62 + "~8"]
    assert [roi.name for roi in rois] == names
    assert {roi.material for roi in rois} == {"connective_tissue"}


def test_every_material_has_an_id_of_its_own():
    assert sorted(MATERIAL_IDS.values()) == sorted(MATERIALS)


PATIENTS = [small_patient(), tank(), awkward_patient()]


@pytest.mark.parametrize("patient", PATIENTS, ids=lambda patient: patient.name)
def test_written_files_are_valid(patient, tmp_path):
    written(patient, tmp_path)
    assert_valid([tmp_path / "RTSTRUCT.dcm"], tmp_path)


@pytest.mark.parametrize("patient", PATIENTS, ids=lambda patient: patient.name)
def test_written_files_follow_the_docbook(patient, tmp_path, pytestconfig):
    written(patient, tmp_path)
    assert_follows_docbook([tmp_path / "RTSTRUCT.dcm"], pytestconfig)


def test_contours_refer_to_their_slices(tmp_path):
    written(small_patient(), tmp_path)
    position = {}
    for path in tmp_path.glob("CT_*.dcm"):
        slice_ = pydicom.dcmread(path)
        position[slice_.SOPInstanceUID] = slice_.ImagePositionPatient[2]
    structures = pydicom.dcmread(tmp_path / "RTSTRUCT.dcm")
    n_contours = 0
    for item in structures.ROIContourSequence:
        for contour in item.ContourSequence:
            (image,) = contour.ContourImageSequence
            assert float(contour.ContourData[2]) == position[image.ReferencedSOPInstanceUID]
            n_contours += 1
    assert n_contours == 6 + 4 + 8


def test_a_voxel_belongs_where_half_of_it_is_inside(drawn):
    structure = drawn(stack([9.0], half=11.1))  # 0.55 of a pixel beyond ten whole ones
    assert structure.mask_on(GRID).sum() == 12 * 12 - 4
    assert drawn(stack([9.0], half=11.0)).mask_on(GRID).sum() == 12 * 12 - 4
    assert drawn(stack([9.0], half=10.9)).mask_on(GRID).sum() == 10 * 10
    fraction = structure.fraction_on(GRID)
    assert fraction.sum() * 4.0 == pytest.approx(22.2**2, rel=1e-5)
    assert fraction[3, 15, 9] == pytest.approx(0.55, abs=1e-5)
    assert fraction[3, 9, 9] == pytest.approx(0.55**2, abs=0.02)


def test_several_contours_of_a_slice_are_separate_pieces_or_holes(drawn):
    contours = [
        (9.0, square((30.0, 30.0), 20.0)),
        (9.0, square((30.0, 30.0), 10.0)),
        (9.0, square((30.0, 30.0), 4.0)),
        (9.0, square((4.0, 4.0), 2.0)),
    ]
    expected = (40**2 - 20**2 + 8**2 + 4**2) / 4.0
    for order in (contours, contours[::-1]):
        assert drawn(order).mask_on(GRID).sum() == expected


CROSSING = [square((26.0, 30.0), 10.0), square((34.0, 30.0), 10.0)]  # 12 mm in common


@pytest.mark.parametrize(
    "kind, area_mm2, notes",
    [
        ("CLOSED_PLANAR", 28 * 20,
         ("'Cord': contours that overlap on 2 slices (z = 9 … 12 mm) are united",)),
        ("CLOSEDPLANAR_XOR", 16 * 20, ()),
    ],
)  # fmt: skip
def test_contours_that_overlap_are_united_unless_they_are_of_the_xor_kind(
    drawn, kind, area_mm2, notes
):
    contours = [(z, polygon, kind) for z in (9.0, 12.0) for polygon in CROSSING]
    structure = drawn([*contours, (15.0, CROSSING[0], kind)])
    areas = [0] * 3 + [area_mm2 / 4] * 2 + [400 / 4] + [0] * 6
    assert by_slice(structure.mask_on(GRID)) == areas
    assert by_slice(structure.fraction_on(GRID)) == pytest.approx(areas, rel=1e-5)
    assert structure.volume_cm3() == pytest.approx(0.003 * (2 * area_mm2 + 400))
    assert structure.notes == notes


def test_a_hole_in_one_of_two_contours_that_overlap_stays_a_hole(drawn):
    hole = square((20.0, 30.0), 2.0)
    structure = drawn([(9.0, polygon) for polygon in (*CROSSING, hole)])
    assert structure.mask_on(GRID).sum() == (28 * 20 - 4 * 4) / 4
    assert structure.notes == ("'Cord': contours that overlap on 1 slice (z = 9 mm) are united",)


def test_a_contour_that_is_there_twice_counts_once(drawn):
    contours = stack([9.0]) + stack([9.0])
    assert drawn(contours).mask_on(GRID).sum() == 100


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_points_and_open_contours_are_left_out_with_a_note(drawn, kind):
    ring = square(CENTER, 10.0)
    structure = drawn(
        [(9.0, ring, kind), (12.0, ring[:1], "POINT"), (15.0, ring, "OPEN_PLANAR"),
         (18.0, ring, "OPEN_NONPLANAR"), (21.0, ring[:2], kind)]
    )  # fmt: skip
    assert by_slice(structure.mask_on(GRID)) == [0] * 3 + [100] + [0] * 8
    assert structure.notes == ("'Cord': 4 points or open contours left out",)


@pytest.mark.parametrize(
    "contours, named",
    [
        ([(9.0, square(CENTER, 5.0), "SPHERE")], "'SPHERE'"),
        ([([9.0, 9.0, 12.0, 9.0], square(CENTER, 5.0))], "spans 3.00 mm along z"),
        ([(9.0, square(CENTER, 5.0)[:1], "POINT")], "has no area"),
        ([(9.0, square((2e5, 0.0), 5.0))], "reaches 200005 mm"),
    ],
)
def test_contours_that_have_no_place_are_refused(drawn, contours, named):
    refused(lambda: drawn(contours), named)


@pytest.mark.parametrize("value", [b"1\\2\\3\\4 ", b"1\\2\\3 ", b"", b"1\\2\\x\\4\\5\\6\\7\\8\\9 "])
def test_contour_data_that_do_not_fit_are_refused(tmp_path, value):
    path = structure_file(tmp_path / "s.dcm", [roi("Cord", stack([9.0]))], STUDY)

    def change(dataset):
        contour = dataset.ROIContourSequence[0].ContourSequence[0]
        made = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag("ContourData"), "UN", len(value), value, 0, True, True
        )
        contour[made.tag] = made

    edited(path, change)
    structures = StructureSet(path)
    refused(lambda: structures.structure(structures.rois[0], GRID, FRAME), "ContourData")


# Where contours lie among slices


def test_contours_between_slices_count_where_they_fill_half_a_slice(drawn):
    """Planes 3 mm apart, 1 mm above the slices: two thirds of each slab lie in the slice below."""
    structure = drawn(stack(np.arange(7.0, 23.0, 3.0)))
    assert by_slice(structure.mask_on(GRID)) == [0, 0] + [100] * 6 + [0] * 4
    fraction = structure.fraction_on(GRID)[:, 15, 14]
    np.testing.assert_allclose(fraction, [0, 0, 2 / 3, 1, 1, 1, 1, 1, 1 / 3, 0, 0, 0], atol=1e-5)
    assert structure.volume_cm3() == pytest.approx(0.4 * 18)


def test_volume_with_a_contour_meters_away_takes_little_memory(drawn):
    contours = [*stack([6.0, 9.0], 300.0), (9.0, square((90_000.0, 90_000.0), 300.0))]
    structure = drawn(contours)
    tracemalloc.start()
    volume_cm3 = structure.volume_cm3()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume_cm3 == pytest.approx(3 * 3.0 * 360.0, rel=1e-3)
    assert peak_bytes < 200e6


def test_denser_contours_than_slices_keep_the_volume(drawn):
    structure = drawn(stack(np.arange(5.0, 15.0)))  # every millimeter, 4.5 to 14.5 mm
    assert structure.volume_cm3() == pytest.approx(4.0)
    assert structure.fraction_on(GRID).sum() * GRID.voxel_volume_cm3 == pytest.approx(4.0, rel=1e-5)
    assert by_slice(structure.mask_on(GRID)) == [0, 0, 100, 100, 100, 0] + [0] * 6


@pytest.mark.parametrize("every", [2, 3])
def test_slices_between_contours_at_every_second_or_third_are_interpolated(drawn, every):
    """A cone of squares, whose sides shrink by 4 mm a slice, from pixel edge to pixel edge."""
    z_mm = np.arange(3.0, 22.0, 3.0 * every)
    structure = drawn([(z, square(CENTER, 30.0 - z / 1.5)) for z in z_mm])
    side_mm = np.sqrt(structure.fraction_on(GRID).sum(axis=(1, 2)) * 4.0)
    last = round(z_mm[-1] / 3.0)
    np.testing.assert_allclose(side_mm[1 : last + 1], 60.0 - 4.0 * np.arange(1, last + 1), atol=0.6)
    assert np.all(side_mm[last + 1 :] == 0.0)
    assert side_mm[0] == 0.0
    assert structure.notes == ()


def test_a_gap_stays_empty_and_is_told(drawn):
    structure = drawn(stack([3.0, 6.0, 9.0, 15.0, 18.0, 21.0]))
    assert by_slice(structure.mask_on(GRID)) == [0, 100, 100, 100, 0, 100, 100, 100, 0, 0, 0, 0]
    assert structure.notes == ("'Cord': no contour between z = 9 and 15 mm, left empty",)


def test_pieces_far_apart_stay_apart_without_a_note(drawn):
    structure = drawn(stack([3.0, 30.0]))
    assert by_slice(structure.mask_on(GRID)) == [0, 100] + [0] * 8 + [100, 0]
    assert structure.notes == ()


def test_planes_within_rounding_are_one(drawn):
    contours = [(9.0, square((30.0, 30.0), 20.0)), (9.05, square((30.0, 30.0), 10.0))]
    assert drawn(contours).mask_on(GRID).sum() == (40**2 - 20**2) / 4


def test_a_structure_on_another_grid_keeps_its_volume(drawn):
    structure = drawn(stack(np.arange(3.0, 31.0, 3.0), half=9.7))
    for spacing in ((3.0, 4.0, 5.0), (2.0, 1.0, 1.0), 2.5):
        grid = GRID.resampled(spacing)
        found = structure.fraction_on(grid).sum(dtype=float) * grid.voxel_volume_cm3
        assert found == pytest.approx(structure.volume_cm3(), rel=1e-5)
        assert found == pytest.approx(30.0 * 19.4**2 / 1000.0, rel=1e-5)


def test_what_lies_off_the_grid_is_cut_off(drawn):
    structure = drawn(stack(np.arange(-30.0, 100.0, 3.0), half=500.0))
    assert structure.mask_on(GRID).all()
    assert not drawn(stack([500.0])).mask_on(GRID).any()
    assert not drawn(stack([9.0], center=(900.0, 0.0))).mask_on(GRID).any()


def test_the_share_off_the_grid_is_that_of_the_contours_volume(drawn):
    """GRID reaches from 0 to 60 mm in x and y, from -1.5 to 34.5 mm in z."""
    for half, center, share in (
        (10.0, CENTER, 0.0), (30.0, CENTER, 0.0), (10.0, (0.0, 30.0), 0.5),
        (10.0, (62.0, 60.0), 1.0 - 0.4 * 0.5), (31.0, CENTER, 1.0 - (60.0 / 62.0) ** 2),
        (10.0, (0.0, 900.0), 1.0),
    ):  # fmt: skip
        structure = drawn(stack(np.arange(0.0, 34.0, 3.0), half, center))
        assert structure.share_off(GRID) == pytest.approx(share, abs=1e-5), (half, center)
    assert drawn(stack(np.arange(-9.0, 10.0, 3.0))).share_off(GRID) == pytest.approx(3 / 7)
    assert drawn(stack(np.arange(-12.0, 13.0, 6.0))).share_off(GRID) == pytest.approx(4 / 9)


def test_beyond_its_window_a_structure_is_empty(drawn):
    angle = np.linspace(0.0, 2.0 * np.pi, 50)
    ring = CENTER + 7.3 * np.column_stack([np.cos(angle), np.sin(angle)])
    beyond = stack(np.arange(3.0, 93.0, 3.0), 90.0)
    for contours in ([(9.3, ring), (12.1, ring)], [(9.0, ring - 25.0)], beyond):
        structure = drawn(contours)
        fraction, window = structure.fraction_on(GRID), structure.window_on(GRID)
        assert fraction[window].sum() == pytest.approx(fraction.sum())
        assert fraction[window].any(axis=(1, 2)).all()


# The structure set


def test_another_frame_of_reference_is_refused(tmp_path):
    path = structure_file(tmp_path / "s.dcm", [roi("Cord", stack([9.0]))], STUDY, frame_uid="1.2.3")
    structures = StructureSet(path)
    refused(lambda: structures.structure(structures.rois[0], GRID, FRAME), "another frame")


def test_structures_without_contours_are_known(tmp_path):
    given = [roi("Cord", stack([9.0])), roi("Empty", [], 2), roi("Missing", [], 3)]
    path = structure_file(tmp_path / "s.dcm", given, STUDY)
    edited(path, lambda d: d.ROIContourSequence.pop())
    assert [r.n_contours for r in StructureSet(path).rois] == [1, 0, 0]


def test_names_and_roles_come_as_written(tmp_path):
    kinds = ["PTV", "CTV", "GTV", "ORGAN", "AVOIDANCE", "EXTERNAL", "SUPPORT", "BOLUS", "POI", ""]
    given = [roi(f" Ünter_{i} x ", stack([9.0]), i, kind) for i, kind in enumerate(kinds)]
    found = StructureSet(structure_file(tmp_path / "s.dcm", given, STUDY)).rois
    assert [r.name for r in found] == [f"Ünter_{i} x" for i in range(len(kinds))]
    expected = ["target"] * 3 + ["organ"] * 2 + ["external"] + ["support"] * 2 + [None] * 2
    assert [r.role for r in found] == expected


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda d: setattr(d, "Modality", "RTPLAN"), "of modality RTPLAN"),
        (lambda d: setattr(d, "StructureSetROISequence", []), "declares no structure"),
        (lambda d: d.ROIContourSequence.append(d.ROIContourSequence[0]), "two items for ROI"),
        (lambda d: delattr(d.StructureSetROISequence[0], "ROINumber"), "no ROINumber"),
        (
            lambda d: delattr(d.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID"),
            "no ReferencedFrameOfReferenceUID",
        ),
    ],
)
def test_a_broken_structure_set_is_refused(tmp_path, change, named):
    path = structure_file(tmp_path / "s.dcm", [roi("Cord", stack([9.0]))], STUDY)
    edited(path, change)
    refused(lambda: StructureSet(path), named)


def test_a_ct_is_no_structure_set(tmp_path):
    written(small_patient(), tmp_path)
    refused(lambda: StructureSet(tmp_path / "CT_0001.dcm"), "of modality CT")


def test_pydicoms_structure_set_is_read():
    path = PYDICOM_FILES / "rtstruct.dcm"
    declared = pydicom.dcmread(path, force=True).StructureSetROISequence
    assert [r.name for r in StructureSet(path).rois] == [item.ROIName for item in declared]


def test_contours_beyond_64_kb_of_explicit_files_are_read(tmp_path):
    """Such a value cannot be a decimal string there, so it is of unknown kind (PS3.5 6.2.2)."""
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    ring = 30.0 + 20.0 * np.column_stack([np.cos(angle), np.sin(angle)])
    path = structure_file(tmp_path / "s.dcm", [roi("Cord", [(9.0, ring)])], STUDY)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with pytest.warns(UserWarning, match="64 kByte"):
        dataset.save_as(path, implicit_vr=False)
    structures = StructureSet(path)
    found = structures.structure(structures.rois[0], GRID, FRAME)
    assert found.volume_cm3() == pytest.approx(0.3 * 4.0 * np.pi, rel=1e-5)


def test_absurd_numbers_are_refused(tmp_path):
    path = structure_file(tmp_path / "s.dcm", [roi("Cord", stack([9.0]))], STUDY)

    def change(dataset):
        dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 10**9

    edited(path, change)
    structures = StructureSet(path)
    refused(lambda: structures.structure(structures.rois[0], GRID, FRAME), "NumberOfContourPoints")


@pytest.mark.parametrize("number", [1, 203])
def test_real_masks_come_back_as_they_were(openkbp_dir, number, tmp_path):
    patient = read_patient(next(p for p in openkbp_dir.glob(f"*/pt_{number}*")))
    study = Study.of(patient)
    found = StructureSet(write_structures(patient, study, tmp_path))
    assert [r.name for r in found.rois] == list(patient.structures)
    for declared in found.rois:
        structure = found.structure(declared, patient.grid, study.frame_uid)
        assert np.array_equal(structure.mask_on(patient.grid), patient.mask(declared.name))
