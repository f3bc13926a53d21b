from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from engine.io.openkbp import read_patient
from engine.patient.ct import rsp_volume
from engine.patient.patient import Structure
from engine.patient.phantoms import head_and_neck, water_tank
from engine.patient.repeat_ct import (
    CAVITY_HU,
    MUCUS_HU,
    REPEAT_CTS,
    filled_sinuses,
    fluid_share,
    repeat_series,
    sinus_air,
    tilted_neck,
    weight_loss,
)

SIMULATE = {
    "weight_loss": weight_loss,
    "filled_sinuses": filled_sinuses,
    "tilted_neck": tilted_neck,
}


@lru_cache
def head():
    return head_and_neck(seed=1, spacing_mm=4.0, level="L3")


def ball(spacing_mm=4.0, radius_mm=80.0, bone_radius_mm=0.0):
    """Soft tissue (0 HU) in air, with a ball of bone in the middle."""
    patient = water_tank(200.0, spacing_mm, target_size_mm=20.0)
    z, y, x = patient.grid.axes_mm()
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    hu = np.where(radius < radius_mm, np.float32(0.0), np.float32(-1000.0))
    hu[radius < bone_radius_mm] = 1000.0
    body = Structure("External", radius < radius_mm, "external")
    return replace(patient, hu=hu).with_structures(body)


def water_equivalent_mm(patient, axis=1):
    """Water-equivalent length of rays along an axis, mm."""
    return rsp_volume(patient).sum(axis=axis, dtype=float) * patient.grid.spacing_mm[axis]


def thickness_mm(patient):
    """Thickness of 0 HU along y, from shares of voxels: HU mix linearly, RSP not quite."""
    return (patient.hu + 1000.0).sum(axis=1, dtype=float) / 1000.0 * patient.grid.spacing_mm[1]


def mass(patient):
    return float(rsp_volume(patient).sum(dtype=float))


def assert_a_repeat_ct(planned, repeated):
    assert repeated.grid == planned.grid and repeated.hu.dtype == planned.hu.dtype
    assert repeated.hu.shape == planned.hu.shape and np.isfinite(repeated.hu).all()
    assert repeated.hu.min() >= -1000.0 and repeated.hu.max() <= planned.hu.max()
    for name, structure in planned.structures.items():
        if structure.role != "external":
            assert repeated.structures[name] is structure
    new = repeated.external.mask
    assert np.all(repeated.hu[~new & planned.external.mask] == -1000.0)
    assert ":repeat:" in repeated.source


@pytest.mark.parametrize("kind", REPEAT_CTS)
def test_strength_zero_gives_the_same_hu_and_external(kind):
    repeated = SIMULATE[kind](head(), 0.0)
    np.testing.assert_array_equal(repeated.hu, head().hu)
    np.testing.assert_array_equal(repeated.external.mask, head().external.mask)
    assert repeated.hu is not head().hu


@pytest.mark.parametrize("kind", REPEAT_CTS)
def test_the_planned_patient_is_unchanged(kind):
    planned = head()
    hu, body = planned.hu.copy(), planned.external.mask.copy()
    repeated = SIMULATE[kind](planned, 1.0)
    assert not np.shares_memory(repeated.hu, planned.hu)
    np.testing.assert_array_equal(planned.hu, hu)
    np.testing.assert_array_equal(planned.external.mask, body)


@pytest.mark.parametrize("kind", REPEAT_CTS)
def test_a_series_changes_more_with_every_strength(kind):
    planned = head()
    series = list(repeat_series(planned, kind))
    assert len({label for label, _ in series}) == 5
    changes = []
    for _, repeated in series:
        assert_a_repeat_ct(planned, repeated)
        changes.append(np.abs(water_equivalent_mm(repeated) - water_equivalent_mm(planned)).sum())
    assert np.all(np.diff([0.0, *changes]) > 0.0)


@pytest.mark.parametrize("kind", REPEAT_CTS)
def test_a_series_has_the_strengths_of_its_table(kind):
    for strength, (_, repeated) in zip(REPEAT_CTS[kind], repeat_series(head(), kind)):
        np.testing.assert_array_equal(repeated.hu, SIMULATE[kind](head(), strength).hu)


def test_two_of_a_series_are_the_half_and_the_whole():
    labels = [label for label, _ in repeat_series(head(), "filled_sinuses", n=2)]
    assert labels == ["sinuses 50% filled", "sinuses 100% filled"]


@pytest.mark.parametrize("kind", REPEAT_CTS)
@pytest.mark.parametrize("strength", [-0.1, np.nan, np.inf, 10.1])
def test_strengths_out_of_range_are_refused(kind, strength):
    with pytest.raises(ValueError, match=f"={strength}"):
        SIMULATE[kind](head(), strength)


def test_series_of_unknown_kind_or_number_are_refused():
    with pytest.raises(ValueError, match="kind='growth'"):
        repeat_series(head(), "growth")
    with pytest.raises(ValueError, match="n=0"):
        repeat_series(head(), "weight_loss", n=0)


@pytest.mark.parametrize("shrink_mm", [0.25, 1.0, 2.5, 4.0, 5.0])
def test_a_ball_becomes_thinner_by_the_amount_on_both_sides(shrink_mm):
    planned = ball()
    lost = thickness_mm(planned) - thickness_mm(weight_loss(planned, shrink_mm))
    middle = slice(22, 28)  # rays that meet the skin nearly head-on
    assert lost[middle, middle].mean() == pytest.approx(2.0 * shrink_mm, rel=0.1)


def test_lost_mass_grows_smoothly_with_fractions_of_a_voxel():
    planned = ball()
    lost = [mass(planned) - mass(weight_loss(planned, s)) for s in np.arange(0.0, 5.1, 0.5)]
    steps = np.diff(lost)
    assert np.all(steps > 0.7 * steps.mean()) and np.all(steps < 1.3 * steps.mean())


def test_weight_loss_keeps_bones_and_what_is_deep():
    planned = head()
    repeated = weight_loss(planned, 5.0)
    bone = planned.hu > 600.0  # the noise of soft tissue stays far below
    np.testing.assert_array_equal(repeated.hu[bone], planned.hu[bone])
    stem = planned.mask("Brainstem")
    np.testing.assert_array_equal(repeated.hu[stem], planned.hu[stem])
    assert not np.any(repeated.external.mask & ~planned.external.mask)


def test_skin_close_to_bone_keeps_half_its_thickness():
    planned = ball(spacing_mm=2.0, bone_radius_mm=76.0)  # 4 mm of skin
    lost = thickness_mm(planned) - thickness_mm(weight_loss(planned, 5.0))
    assert lost[47:53, 47:53].mean() == pytest.approx(4.0, abs=1.0)


def test_no_skin_is_lost_where_the_scan_is_cut():
    planned = ball()
    z = planned.grid.axes_mm()[0]
    cut = planned.external.mask & (np.abs(z) < 30.0)[:, None, None]
    hu = np.where(cut, planned.hu, np.float32(-1000.0))
    planned = replace(planned, hu=hu).with_structures(Structure("External", cut, "external"))
    for repeated in (weight_loss(planned, 5.0), tilted_neck(planned, 5.0, (0.0, 0.0))):
        slices = np.flatnonzero(repeated.external.mask.any(axis=(1, 2)))
        np.testing.assert_array_equal(slices, np.flatnonzero(cut.any(axis=(1, 2))))
        middle = slices[[0, -1]][:, None, None], slice(20, 30), slice(20, 30)
        np.testing.assert_array_equal(repeated.hu[middle], planned.hu[middle])


def test_an_external_that_fills_the_ct_has_no_skin_to_move():
    with pytest.raises(ValueError, match="no skin"):
        weight_loss(water_tank(100.0, 5.0), 1.0)


@pytest.mark.parametrize("fraction", [0.05, 0.33, 0.5, 1.0])
def test_mucus_takes_its_fraction_of_the_air(fraction):
    planned = head()
    cavity = sinus_air(planned)
    air = np.clip((MUCUS_HU - planned.hu) / 1025.0, 0.0, 1.0)[cavity]
    share = fluid_share(planned, fraction)[cavity]
    assert (share * air).sum() == pytest.approx(fraction * air.sum(), rel=1e-4)
    gained = (filled_sinuses(planned, fraction).hu - planned.hu)[cavity].sum(dtype=float)
    assert gained == pytest.approx(fraction * 1025.0 * air.sum(), rel=1e-3)


def test_full_sinuses_hold_mucus_alone():
    planned = head()
    cavity = sinus_air(planned)
    repeated = filled_sinuses(planned, 1.0)
    np.testing.assert_allclose(repeated.hu[cavity], MUCUS_HU, atol=1e-3)
    np.testing.assert_array_equal(repeated.hu[~cavity], planned.hu[~cavity])


def test_mucus_collects_at_the_back():
    share = fluid_share(head(), 0.5)
    y = head().grid.axes_mm()[1]
    cavity = sinus_air(head())
    wet, dry = cavity & (share == 1.0), cavity & (share == 0.0)
    assert y[np.nonzero(wet)[1]].mean() > y[np.nonzero(dry)[1]].mean() + 5.0


def test_the_airway_to_the_lungs_stays_open():
    planned = head()
    repeated = filled_sinuses(planned, 1.0)
    z = planned.grid.axes_mm()[0]
    top = z[np.flatnonzero(planned.mask("Larynx").any(axis=(1, 2)))[-1]]
    low = planned.external.mask & (planned.hu < CAVITY_HU) & (z <= top)[:, None, None]
    assert low.any() and np.array_equal(repeated.hu[low], planned.hu[low])
    for k in np.flatnonzero(z < top + 40.0):  # up through the pharynx
        assert np.any(repeated.external.mask[k] & (repeated.hu[k] < CAVITY_HU))


def test_patients_without_cavities_or_landmarks_are_refused():
    homogeneous = head_and_neck(seed=1, spacing_mm=5.0, level="L2")
    with pytest.raises(ValueError, match="no sinus"):
        filled_sinuses(homogeneous, 0.5)
    with pytest.raises(ValueError, match="neither Brainstem nor SpinalCord"):
        filled_sinuses(ball(), 0.5)


def test_a_head_above_the_blend_turns_about_the_pivot():
    planned = ball(spacing_mm=2.0, radius_mm=90.0)
    z, y, x = planned.grid.axes_mm()
    far = np.sqrt((z[:, None, None] - 60.0) ** 2 + y[:, None] ** 2 + x**2) < 10.0
    planned = replace(planned, hu=np.where(far, np.float32(1000.0), planned.hu))
    for chin, sign in (("down", -1.0), ("up", 1.0)):
        repeated = tilted_neck(planned, 8.0, (0.0, 0.0), blend_mm=40.0, chin=chin)
        weight = np.clip(repeated.hu, 0.0, None)
        points, weight = planned.grid.points_mm(), weight.ravel()
        found = (points * weight[:, None]).sum(axis=0) / weight.sum()
        turned = np.radians(8.0)
        expected = [0.0, 60.0 * sign * np.sin(turned), 60.0 * np.cos(turned)]
        np.testing.assert_allclose(found, expected, atol=0.3)


def test_a_tilt_leaves_all_below_the_blend():
    planned = head()
    repeated = tilted_neck(planned, 5.0, (20.0, 0.0), blend_mm=40.0)
    below = planned.grid.axes_mm()[0] <= -20.0
    np.testing.assert_array_equal(repeated.hu[below], planned.hu[below])
    np.testing.assert_array_equal(repeated.external.mask[below], planned.external.mask[below])


def test_a_tilt_keeps_mass():
    planned = head()
    repeated = tilted_neck(planned, 5.0)
    assert mass(repeated) == pytest.approx(mass(planned), rel=0.02)


def test_a_patient_without_organs_is_tilted_about_its_target():
    planned = head_and_neck(seed=1, spacing_mm=5.0, level="L0")
    assert_a_repeat_ct(planned, tilted_neck(planned, 3.0))


def test_pivots_blends_and_chins_that_make_no_sense_are_refused():
    for wrong in (
        {"pivot_yz_mm": (np.nan, 0.0)},
        {"pivot_yz_mm": (0.0, 0.0, 0.0)},
        {"blend_mm": 5.0},
        {"chin": "left"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            tilted_neck(head(), 1.0, **wrong)


def test_supports_beside_the_body_keep_their_hu():
    planned = head()
    board = np.zeros(planned.grid.shape, bool)
    board[:, -1] = True
    board &= ~planned.external.mask
    hu = np.where(board, np.float32(-200.0), planned.hu)
    planned = replace(planned, hu=hu).with_structures(Structure("Board", board, "support"))
    for kind in REPEAT_CTS:
        repeated = SIMULATE[kind](planned, 1.0)
        free = board & ~repeated.external.mask
        assert free.any() and np.all(repeated.hu[free] == -200.0)


@pytest.mark.parametrize("kind", REPEAT_CTS)
def test_a_real_patient_is_changed_smoothly(openkbp_dir, kind):
    path = openkbp_dir / "train-pats" / "pt_4.zip"
    if not path.exists():
        pytest.skip(f"{openkbp_dir} holds no train-pats/pt_4.zip, whose sinuses are in the scan")
    planned = read_patient(path)
    weak, strong = (SIMULATE[kind](planned, REPEAT_CTS[kind][i]) for i in (0, -1))
    for repeated in (weak, strong):
        assert_a_repeat_ct(planned, repeated)
    rays = planned.mask(planned.targets[0]).any(axis=1)
    lost = [np.abs(water_equivalent_mm(p) - water_equivalent_mm(planned)) for p in (weak, strong)]
    assert lost[0].sum() < lost[1].sum()
    if kind == "weight_loss":  # front and back together, skin met at an angle
        assert 2.0 < lost[0][rays].mean() < 5.0 and 10.0 < lost[1][rays].mean() < 25.0
