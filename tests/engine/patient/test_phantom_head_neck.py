import pickle

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull

from engine.patient.ct import rsp_volume
from engine.patient.phantom_head_neck import LEVELS, head_and_neck
from engine.patient.structures import distance_mm

ORGANS = {
    "Brainstem", "SpinalCord", "OpticChiasm", "OpticNrv_L", "OpticNrv_R", "Eye_L", "Eye_R",
    "Parotid_L", "Parotid_R", "Bone_Mandible", "Larynx",
}  # fmt: skip


def volume_cm3(patient):
    return patient.target_union().sum() * patient.grid.voxel_volume_cm3


def solidity(mask, grid):
    """Share of the voxel centers in the mask's convex hull that the mask holds; 1 if convex."""
    centers = grid.points_mm(np.flatnonzero(mask))
    part = grid.cropped(mask)[0].points_mm()
    faces = ConvexHull(centers).equations
    n_inside = np.all(part @ faces[:, :3].T + faces[:, 3] <= 1e-6, axis=1).sum()
    return mask.sum() / n_inside


def assert_sound(patient):
    targets, body = patient.target_union(), patient.external.mask
    masks = [patient.mask(t) for t in patient.targets]
    assert all(mask.any() for mask in masks)
    assert sum(mask.sum() for mask in masks) == targets.sum()  # exclusive shells
    assert not np.any(targets & ~body)
    assert distance_mm(body, patient.grid)[targets].max() <= -3.0  # below the skin
    assert patient.hu[targets].min() > -300.0  # no air
    organs = [patient.mask(o) for o in patient.organs]
    assert np.sum(organs, axis=0).max(initial=0) <= 1
    assert all(mask.any() and not np.any(mask & ~body) for mask in organs)
    assert np.all(patient.hu[~body] == -1000.0)
    assert ndimage.label(body)[1] == 1
    assert not body[:, 0].any()  # air on every side of the head
    assert not body[:, -1].any()
    assert not body[:, :, 0].any()
    assert not body[:, :, -1].any()
    assert not body[-1].any()
    assert np.all(np.isfinite(rsp_volume(patient)))
    assert dict(patient.prescription_gy).items() <= {
        "PTV_7000": 70.0, "PTV_6300": 63.0, "PTV_5600": 56.0,
    }.items()  # fmt: skip
    assert patient.n_fractions == 35


@pytest.mark.parametrize("first", [0, 10_000, 20_000])
def test_every_seed_gives_a_sound_patient(first):
    for seed in range(first, first + 40):
        patient = head_and_neck(seed, 5.0)
        assert_sound(patient)
        assert 24.5 * 0.85 < volume_cm3(patient) < 575.0 * 1.02
        assert set(patient.organs) in (set(), ORGANS)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spacing_mm", [8.0, 3.0])
def test_every_level_is_sound_at_fine_and_coarse_spacing(level, spacing_mm):
    for seed in range(4):
        assert_sound(head_and_neck(seed, spacing_mm, level))


@pytest.mark.parametrize("level", LEVELS)
def test_small_targets_stay_within_their_bounds(level):
    for seed in range(12):
        patient = head_and_neck(seed, 4.0, level, target_volume_cm3=(10.0, 40.0))
        assert_sound(patient)
        assert 10.0 * 0.85 < volume_cm3(patient) < 40.0 * 1.02


def test_volumes_spread_as_the_papers_table():
    # Quarz et al. 2024, table 1: median 115.5 cm³, 24.5 to 575.0
    volumes = [volume_cm3(head_and_neck(seed, 6.0, "L3")) for seed in range(100)]
    assert 85.0 < np.median(volumes) < 150.0
    assert min(volumes) < 50.0
    assert max(volumes) > 300.0


def test_same_seed_same_bits():
    one, two = head_and_neck(7, 5.0), head_and_neck(7, 5.0)
    assert pickle.dumps(one.hu) == pickle.dumps(two.hu)
    for name, structure in one.structures.items():
        assert np.array_equal(structure.mask, two.mask(name))
    assert one.source == two.source
    other = head_and_neck(8, 5.0)
    assert other.hu.shape != one.hu.shape or not np.array_equal(other.hu, one.hu)


def test_a_drawn_level_is_the_same_patient_as_the_level_asked_for():
    drawn = head_and_neck(3, 5.0)
    level = drawn.source.split(":")[3]
    asked = head_and_neck(3, 5.0, level)
    assert np.array_equal(drawn.target_union(), asked.target_union())
    assert np.array_equal(drawn.hu, asked.hu)


def test_all_levels_are_drawn():
    levels = {head_and_neck(seed, 8.0).source.split(":")[3] for seed in range(60)}
    assert levels == set(LEVELS)


def test_l0_is_convex_and_alone():
    for seed in range(8):
        patient = head_and_neck(seed, 4.0, "L0", (30.0, 80.0))
        assert patient.organs == ()
        assert patient.targets == ("PTV_7000",)
        assert solidity(patient.target_union(), patient.grid) > 0.98
        assert np.ptp(patient.hu[patient.external.mask]) == 0.0


def test_l1_is_concave_and_leaves_a_gap():
    solid = []
    for seed in range(8):
        patient = head_and_neck(seed, 4.0, "L1", (60.0, 200.0))
        solid.append(solidity(patient.target_union(), patient.grid))
        distance = distance_mm(patient.target_union(), patient.grid)
        assert min(distance[patient.mask(o)].min() for o in patient.organs) > 2.0
    assert np.mean(solid) < 0.9


def test_l2_touches_an_organ():
    for seed in range(8):
        patient = head_and_neck(seed, 4.0, "L2")
        distance = distance_mm(patient.target_union(), patient.grid)
        nearest = min(distance[patient.mask(o)].min() for o in patient.organs)
        assert 0.0 < nearest <= 2.0  # the faces of the voxels meet


def test_l3_has_air_bone_and_three_nested_dose_levels():
    for seed in range(8):
        patient = head_and_neck(seed, 4.0, "L3")
        body = patient.external.mask
        assert patient.targets == ("PTV_7000", "PTV_6300", "PTV_5600")
        assert patient.hu[body].min() < -900.0
        assert patient.hu[body].max() > 800.0
        inner, outer = patient.mask("PTV_7000"), patient.target_union()
        share = inner.sum() / outer.sum()
        assert 0.25 < share < 0.55
        depth = -distance_mm(outer, patient.grid)
        assert depth[inner].mean() > depth[patient.mask("PTV_5600")].mean()


def test_l4_is_small_and_an_organ_reaches_into_it():
    for seed in range(12):
        patient = head_and_neck(seed, 4.0, "L4")
        assert volume_cm3(patient) < 61.0
        target = patient.target_union()
        assert max((target & patient.mask(o)).sum() for o in patient.organs) > 0


def test_anatomy_lies_the_right_way_round():
    patient = head_and_neck(1, 4.0, "L3")

    def centroid(name):
        return patient.grid.points_mm(np.flatnonzero(patient.mask(name))).mean(axis=0)

    assert centroid("Parotid_L")[0] > 40.0 > -40.0 > centroid("Parotid_R")[0]
    assert centroid("Eye_L")[1] < centroid("OpticNrv_L")[1] < centroid("Brainstem")[1]
    assert centroid("Brainstem")[2] > centroid("SpinalCord")[2] + 40.0
    assert centroid("Bone_Mandible")[1] < centroid("SpinalCord")[1] - 30.0


def test_thin_organs_are_in_one_piece():
    for spacing_mm in (2.0, 5.0):
        patient = head_and_neck(0, spacing_mm, "L3")
        for name in ("SpinalCord", "OpticNrv_L", "OpticNrv_R", "OpticChiasm", "Brainstem"):
            n_parts = ndimage.label(patient.mask(name), structure=np.ones((3, 3, 3)))[1]
            assert n_parts == 1, (name, spacing_mm)


def test_anatomy_does_not_depend_on_the_spacing():
    fine, coarse = head_and_neck(5, 2.5, "L3"), head_and_neck(5, 5.0, "L3")
    for name in ("External", "Brainstem", "Parotid_L", "PTV_7000"):
        volumes = [p.mask(name).sum() * p.grid.voxel_volume_cm3 for p in (fine, coarse)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.12), name


def test_cropping_keeps_the_targets_and_the_slices_around_them():
    whole, cropped = head_and_neck(5, 4.0, "L3"), head_and_neck(5, 4.0, "L3", crop_mm=20.0)
    assert cropped.target_union().sum() == whole.target_union().sum()
    slices = np.flatnonzero(cropped.target_union().any(axis=(1, 2)))
    assert slices[0] == 5
    first = round((cropped.grid.origin_mm[0] - whole.grid.origin_mm[0]) / 4.0)
    assert np.array_equal(cropped.hu, whole.hu[first : first + cropped.grid.shape[0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing_mm": 0.0}, "spacing_mm=0.0"),
        ({"spacing_mm": float("nan")}, "spacing_mm=nan"),
        ({"level": "L9"}, "level='L9'"),
        ({"target_volume_cm3": (40.0, 10.0)}, "target_volume_cm3"),
        ({"crop_mm": -1.0}, "crop_mm=-1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        head_and_neck(0, **arguments)
