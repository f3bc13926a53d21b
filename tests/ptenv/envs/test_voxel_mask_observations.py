from types import SimpleNamespace

import numpy as np
import pytest

from ptenv.envs.voxel_mask import VoxelMaskTask
from ptenv.envs.voxel_mask_actions import shell_index
from ptenv.envs.voxel_mask_observations import N_CELLS, CompactObserver, VolumeObserver


@pytest.fixture
def state(case):
    return VoxelMaskTask(False).start(case, 0.1)


def test_the_compact_vector_holds_shares_of_every_cell(case, state):
    vector = CompactObserver()(case, state).astype(float)
    rows, nonzeros, violation, kept = vector[: 4 * N_CELLS].reshape(4, N_CELLS)
    for shares in (rows, nonzeros, violation):
        assert shares.sum() == pytest.approx(1.0, abs=1e-5)
    assert not kept.any()
    counts = np.bincount(shell_index(case), minlength=N_CELLS)
    np.testing.assert_allclose(rows, counts / counts.sum(), atol=1e-6)


def test_budget_features_of_a_fresh_episode(case, state):
    log_budget, left, rounds, objective, density = CompactObserver()(case, state)[-5:]
    assert (log_budget, left, rounds) == pytest.approx((0.0, 1.0, 0.0), abs=1e-5)
    assert objective == pytest.approx(0.0, abs=1e-5)
    assert density == pytest.approx(np.log10(8.0) / 3.0)  # 5 mm cubes


def test_a_mask_is_observed_by_its_share_of_every_cell(case, state):
    seen = SimpleNamespace(**{**vars(state), "work_budget": 1, "mask": case.target_rows})
    kept = CompactObserver()(case, seen)[3 * N_CELLS : 4 * N_CELLS]
    assert set(np.flatnonzero(kept)) == set(np.unique(shell_index(case)[case.target_rows]))
    assert kept.max() == 1.0


def test_volumes_keep_every_row_that_fits(case, state):
    observer = VolumeObserver((200, 100, 100))
    volume = observer(case, state)["volume"]
    assert observer.target_rows_outside(case) == 0
    assert np.count_nonzero(volume[1]) == np.count_nonzero(case.target_rows)
    assert volume[3].sum() == pytest.approx(
        np.clip(state.dose_gy / (1.2 * 70.0), 0, 1).sum(), rel=1e-5
    )


def test_volume_channels_are_depth_target_organ_and_dose_on_their_scales(case, state):
    at = np.stack(np.unravel_index(case.influence.voxels, case.grid.shape))
    volume = VolumeObserver(tuple(2 * n for n in case.grid.shape))(case, state)["volume"]
    target = at[:, case.target_rows]
    moved = np.array(case.grid.shape) - (target.min(axis=1) + target.max(axis=1)) // 2
    depth, targets, organs, dose = volume[:, *(at + moved[:, None])]
    ring = case.group == case.group.max()
    assert depth == pytest.approx(np.where(ring, 0.0, np.minimum(case.depth_mm / 30.0, 1.0)))
    np.testing.assert_array_equal(targets, case.target_rows)
    np.testing.assert_array_equal(organs, case.candidates & ~case.target_rows & ~ring)
    assert dose == pytest.approx(np.clip(state.dose_gy / (1.2 * 70.0), 0.0, 1.0), abs=1e-6)


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="volume_size"):
        VolumeObserver((3, 4))
