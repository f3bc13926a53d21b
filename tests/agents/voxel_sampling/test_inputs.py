"""What the network sees of a case."""

import numpy as np
import pytest

from agents.voxel_sampling.inputs import CaseVolume, row_prescription
from agents.voxel_sampling.study import case_named
from agents.voxel_sampling.study_problem import RING_GROUP


@pytest.fixture(scope="module")
def case(environment):
    return case_named(environment, "head-and-neck-00001")


@pytest.fixture(scope="module")
def volume(case):
    return CaseVolume.of(case, "head-and-neck-00001")


def test_rows_are_targets_and_organs_that_equation_1_leaves(case, volume):
    np.testing.assert_array_equal(
        volume.rows, np.flatnonzero(case.candidates & (case.group != RING_GROUP))
    )
    assert set(volume.ring) == set(np.flatnonzero(case.candidates & (case.group == RING_GROUP)))


def test_the_crop_is_the_bounding_box_and_places_lead_back(case, volume):
    z, y, x = np.unravel_index(case.influence.voxels[volume.rows], case.grid.shape)
    extents = [np.ptp(axis) + 1 for axis in (z, y, x)]
    assert list(volume.size) == extents
    pz, py, px = np.unravel_index(volume.place, volume.size)
    for there, here in ((z, pz), (y, py), (x, px)):
        np.testing.assert_array_equal(there - there.min(), here)


def test_channels_are_depth_target_and_organ(case, volume):
    flat = volume.channels.reshape(3, -1)
    np.testing.assert_allclose(
        flat[0, volume.place], np.clip(case.depth_mm[volume.rows] / 30.0, 0, 1), rtol=1e-6
    )
    np.testing.assert_array_equal(flat[1, volume.place].astype(bool), volume.in_target)
    np.testing.assert_array_equal(flat[2, volume.place].astype(bool), ~volume.in_target)
    assert flat[:, np.setdiff1d(np.arange(flat.shape[1]), volume.place)].max() == 0.0


def test_every_target_voxel_has_the_prescription_of_its_target(case, volume):
    at = volume.in_target
    assert set(np.unique(volume.prescription_gy[at])) <= set(case.prescription_gy.values())
    assert volume.prescription_gy[at].min() > 0
    assert volume.prescription_gy[~at].max(initial=0.0) == 0.0
    high = case.problem.structures[case.targets[0]]
    full = high.rows[high.volume >= high.volume.max()]
    assert np.all(row_prescription(case)[full] == max(case.prescription_gy.values()))


def test_chosen_voxels_become_rows_of_the_case(volume):
    selected = np.random.default_rng(0).random(len(volume.rows)) < 0.3
    mask = volume.mask(selected, None, np.random.default_rng(0))
    np.testing.assert_array_equal(np.flatnonzero(mask), volume.rows[selected])
    with_ring = volume.mask(selected, 1.0, np.random.default_rng(0))
    assert with_ring.sum() == selected.sum() + len(volume.ring)


def test_a_case_without_target_voxels_is_refused(case):
    class Without:
        def __getattr__(self, name):
            return getattr(case, name)

        target_rows = np.zeros(case.influence.n_rows, bool)

    with pytest.raises(ValueError, match="no target voxel"):
        CaseVolume.of(Without())
