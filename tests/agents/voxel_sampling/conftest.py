"""A patient of eight voxels in a row, and plans that are made up."""

import numpy as np
import pytest

from agents.voxel_sampling.inputs import CaseVolume
from agents.voxel_sampling.plans import SamplingPlan
from agents.voxel_sampling.visits import Visit


def _volume(in_target=(1, 1, 1, 1, 0, 0), n_rows=8, name="toy") -> CaseVolume:
    """Voxels 1 … n of a line; the first and the last are normal tissue."""
    n = len(in_target)
    in_target = np.array(in_target, bool)
    channels = np.zeros((3, 1, 1, n), np.float32)
    channels[0], channels[1], channels[2] = 0.1, in_target, ~in_target
    return CaseVolume(
        name=name, channels=channels, rows=np.arange(1, n + 1), place=np.arange(n),
        in_target=in_target, always=np.zeros(n, bool), depth_mm=np.full(n, 1.0),
        prescription_gy=60.0 * in_target, ring=np.array([0, n_rows - 1]), n_plannable=n,
        voxels=np.arange(n_rows), grid_shape=(1, 1, n_rows), spacing_mm=(2.0, 2.0, 2.0),
    )  # fmt: skip


def _plan(dose_gy=None, penalty=None, n_rows=8) -> SamplingPlan:
    dose = np.full(n_rows, 60.0) if dose_gy is None else np.asarray(dose_gy, float)
    penalty = np.zeros(n_rows) if penalty is None else np.asarray(penalty, float)
    return SamplingPlan(
        dose.astype(np.float32), penalty.astype(np.float32), float(penalty.sum()), {"PTV": 95.0},
        0.0,
    )  # fmt: skip


@pytest.fixture
def toy_volume():
    return _volume


@pytest.fixture
def toy_plan():
    return _plan


@pytest.fixture
def toy_visit():
    """``toy_visit(selected, plan, …)``; chances were a half."""

    def made(selected, *plans, volume=None, second=None, step=0, chances=None) -> Visit:
        volume = volume or _volume()
        masks = [np.asarray(m, bool) for m in (selected, second) if m is not None]
        if chances is None:
            chances = np.full(len(volume.rows), 0.5, np.float32)
        return Visit(step, volume, chances, tuple(masks), plans)

    return made
