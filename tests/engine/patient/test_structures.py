import numpy as np
import pytest

from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.structures import (
    distance_mm,
    expand,
    external_from_hu,
    on_grid,
    resample_fraction,
    ring,
)

GRID = Grid.centered((20, 24, 28), (3.0, 2.0, 2.0))


def box(grid, low, high):
    mask = np.zeros(grid.shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high))] = True
    return mask


def ball(grid, radius_mm, center_mm=(0.0, 0.0, 0.0)):
    z, y, x = np.meshgrid(*grid.axes_mm(), indexing="ij", sparse=True)
    return (x - center_mm[0]) ** 2 + (y - center_mm[1]) ** 2 + (
        z - center_mm[2]
    ) ** 2 < radius_mm**2


def box_patient():
    target = box(GRID, (8, 10, 12), (12, 14, 16))
    body = box(GRID, (0, 1, 1), (20, 23, 27))
    cord = box(GRID, (0, 16, 13), (20, 18, 15))
    named = [
        Structure("External", body, "external"),
        Structure("PTV", target, "target"),
        Structure("SpinalCord", cord, "organ"),
    ]
    hu = np.where(body, 0.0, -1000.0).astype(np.float32)
    return Patient("box", GRID, hu, {s.name: s for s in named}, {"PTV": 60.0}, 30)


def test_distance_to_a_box_is_exact():
    distance = distance_mm(box(GRID, (8, 10, 12), (12, 14, 16)), GRID)
    # Faces lie half a voxel (3, 2, 2 mm) beyond the outermost centers.
    assert distance[7, 12, 14] == pytest.approx(1.5)
    assert distance[10, 12, 17] == pytest.approx(3.0)
    assert distance[8, 12, 14] == pytest.approx(-1.5)
    assert distance[10, 10, 14] == pytest.approx(-1.0)


def test_distance_to_a_ball_matches_its_radius():
    grid = Grid.centered((40, 40, 40), (2.0, 2.0, 2.0))
    points = np.linalg.norm(grid.points_mm(), axis=1).reshape(grid.shape)
    error = distance_mm(ball(grid, 20.0), grid) - (points - 20.0)
    assert np.abs(error).max() < 2.0
    assert abs(error.mean()) < 0.2


def test_distance_without_a_surface_is_infinite():
    empty = np.zeros(GRID.shape, bool)
    assert np.all(distance_mm(empty, GRID) == np.inf)
    assert np.all(distance_mm(~empty, GRID) == -np.inf)


def test_margins_round_to_the_nearest_voxel():
    mask = box(GRID, (8, 10, 12), (12, 14, 16))
    grown = expand(mask, GRID, 4.0)
    assert grown[10, 12].sum() == 4 + 2 * 2
    assert grown[:, 12, 14].sum() == 4 + 2 * 1
    assert expand(mask, GRID, -2.0)[10, 12].sum() == 2
    assert np.array_equal(expand(mask, GRID, 0.0), mask)
    assert not expand(np.zeros(GRID.shape, bool), GRID, 5.0).any()


def test_growing_volume_of_a_ball_is_unbiased():
    grid = Grid.centered((40, 40, 40), (2.0, 2.0, 2.0))
    grown = expand(ball(grid, 20.0), grid, 10.0)
    assert grown.sum() * grid.voxel_volume_cm3 == pytest.approx(4 / 3 * np.pi * 3.0**3, rel=0.05)


def test_margins_at_the_edge_of_the_image_do_not_eat_into_the_body():
    cut_body = box(GRID, (0, 4, 4), (20, 20, 24))
    assert expand(cut_body, GRID, -4.0)[0].any()


def test_margin_must_be_finite():
    with pytest.raises(ValueError, match="margin_mm=nan"):
        expand(box(GRID, (1, 1, 1), (3, 3, 3)), GRID, np.nan)


def test_ring_surrounds_the_target_inside_the_body():
    patient = box_patient()
    zone = ring(patient, 2.0, 8.0)
    distance = distance_mm(patient.mask("PTV"), GRID)
    assert zone.any()
    assert not np.any(zone & ~patient.external.mask)
    assert distance[zone].min() > 2.0
    assert distance[zone].max() <= 8.0
    around_cord = ring(patient, 0.0, 6.0, of="SpinalCord")
    assert not np.any(around_cord & (patient.mask("PTV") | patient.mask("SpinalCord")))
    with pytest.raises(ValueError, match="inner_mm=5"):
        ring(patient, 5.0, 5.0)


def test_external_keeps_cavities_and_leaves_out_what_lies_off_the_body():
    hu = np.full(GRID.shape, -1000.0, np.float32)
    hu[:, 5:20, 5:20] = 30.0
    hu[:, 10:12, 10:12] = -1000.0  # an airway through the whole scan
    hu[8:11, 5:10, 10:12] = -1000.0  # an open mouth
    hu[:, 22:23, 2:26] = 100.0  # a table
    external = external_from_hu(hu, GRID)
    assert np.array_equal(external, box(GRID, (0, 5, 5), (20, 20, 20)))
    with pytest.raises(ValueError, match="threshold_hu"):
        external_from_hu(np.full(GRID.shape, -1000.0), GRID)


def test_same_grid_changes_nothing():
    mask = np.random.default_rng(0).random(GRID.shape) < 0.3
    assert np.array_equal(resample_fraction(mask, GRID, GRID), mask.astype(np.float32))


def test_integer_coarsening_of_any_mask_is_exact():
    mask = np.random.default_rng(1).random(GRID.shape) < 0.3
    coarse = GRID.resampled((6.0, 4.0, 8.0))
    expected = mask.reshape(10, 2, 12, 2, 7, 4).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(resample_fraction(mask, GRID, coarse), expected, atol=1e-6)


def test_coarsening_preserves_volume_for_any_ratio():
    mask = ball(GRID, 17.0)
    coarse = GRID.resampled((3.7, 4.1, 2.9))
    volume = resample_fraction(mask, GRID, coarse).sum() * coarse.voxel_volume_cm3
    assert volume == pytest.approx(mask.sum() * GRID.voxel_volume_cm3, rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.5, 1.0, 1.0), (1.0, 1.0, 1.0), (2.5, 2.5, 2.5), (1.7,) * 3])
@pytest.mark.parametrize("radius_mm", [7.0, 17.0])
def test_refining_a_ball_preserves_volume_and_recovers_its_surface(spacing, radius_mm):
    mask, fine = ball(GRID, radius_mm), GRID.resampled(spacing)
    fraction = resample_fraction(mask, GRID, fine)
    volume = fraction.sum() * fine.voxel_volume_cm3
    assert volume == pytest.approx(mask.sum() * GRID.voxel_volume_cm3, rel=0.02)
    radius = np.linalg.norm(fine.points_mm(), axis=1).reshape(fine.shape)
    assert np.all(fraction[radius < radius_mm - 3.5] == 1.0)
    assert np.all(fraction[radius > radius_mm + 3.5] == 0.0)


def test_refining_is_smoother_than_the_staircase():
    coarse, fine = Grid.centered((20,) * 3, (4.0,) * 3), Grid.centered((80,) * 3, (1.0,) * 3)
    mask, truth = ball(coarse, 25.0), ball(fine, 25.0)
    smooth = resample_fraction(mask, coarse, fine)
    stairs = np.kron(mask, np.ones((4, 4, 4)))
    assert np.abs(smooth - truth).sum() < 0.8 * np.abs(stairs - truth).sum()


def test_refined_box_keeps_its_faces():
    mask, fine = box(GRID, (8, 10, 12), (12, 16, 20)), GRID.resampled((1.5, 1.0, 1.0))
    fraction = resample_fraction(mask, GRID, fine)
    exact = np.kron(mask, np.ones((2, 2, 2)))
    np.testing.assert_allclose(fraction[20, 26, :], exact[20, 26, :], atol=0.15)
    assert fraction.sum() == pytest.approx(exact.sum(), rel=0.02)


def test_thin_sheets_and_single_voxels_survive_refinement():
    fine = GRID.resampled(1.0)
    for mask in (box(GRID, (10, 4, 4), (11, 20, 20)), box(GRID, (10, 12, 14), (11, 13, 15))):
        volume = resample_fraction(mask, GRID, fine).sum() * fine.voxel_volume_cm3
        assert volume == pytest.approx(mask.sum() * GRID.voxel_volume_cm3, rel=0.05)


def test_structures_cut_by_the_image_end_at_its_faces():
    mask = box(GRID, (0, 4, 4), (20, 20, 20))
    wide = Grid.centered((70, 24, 28), (1.0, 2.0, 2.0))
    fraction = resample_fraction(mask, GRID, wide)
    assert np.flatnonzero(fraction[:, 12, 12]).tolist() == list(range(5, 65))
    assert np.all(fraction[5:65, 12, 12] == 1.0)


def test_a_dose_grid_elsewhere_gets_nothing():
    far = Grid((5, 5, 5), (2.0, 2.0, 2.0), (500.0, 0.0, 0.0))
    assert not resample_fraction(ball(GRID, 10.0), GRID, far).any()
    assert not resample_fraction(np.zeros(GRID.shape, bool), GRID, far).any()


def test_a_cropped_dose_grid_sees_the_same_surface():
    mask, fine = ball(GRID, 15.0), GRID.resampled(1.0)
    whole = resample_fraction(mask, GRID, fine)
    part = Grid((20, 20, 20), (1.0,) * 3, tuple(o + 20.0 for o in fine.origin_mm))
    np.testing.assert_allclose(
        resample_fraction(mask, GRID, part), whole[20:40, 20:40, 20:40], atol=1e-6
    )


def test_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape"):
        resample_fraction(np.zeros((2, 2, 2), bool), GRID, GRID)


def test_on_grid_carries_names_roles_and_volumes():
    patient = box_patient()
    structures = on_grid(patient, GRID.resampled(4.0))
    assert set(structures.fraction) == {"External", "PTV", "SpinalCord"}
    assert structures.role["SpinalCord"] == "organ"
    cm3 = patient.mask("PTV").sum() * GRID.voxel_volume_cm3
    assert structures.volume_cm3("PTV") == pytest.approx(cm3, rel=0.02)
    voxels, fraction = structures.members("PTV")
    assert voxels.dtype == np.uint32
    assert np.all(np.diff(voxels.astype(int)) > 0)
    assert fraction.sum() == pytest.approx(structures.fraction["PTV"].sum(), rel=1e-3)
