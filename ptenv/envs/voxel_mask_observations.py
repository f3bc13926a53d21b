"""What a voxel-mask agent sees: a compact vector, or volumes with the budget beside them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from gymnasium import spaces

from ptenv.cases.case import GROUPS, Case
from ptenv.envs.voxel_mask_actions import N_SHELLS, shell_index

Kind = Literal["compact", "volume"]
N_CELLS = len(GROUPS) * N_SHELLS
CELL_FEATURES = ("rows", "nonzeros", "violation", "kept")
BUDGET_FEATURES = ("log_budget", "work_left", "rounds_done", "log_objective", "density")
VOLUME_CHANNELS = ("depth", "target", "organ", "dose")
DEPTH_SCALE_MM = 30.0
LOG_OBJECTIVE_SCALE = 5.0  # decades below the start that −1 stands for


class CompactObserver:
    """Shell and organ statistics, violations and budget as one vector in −1 … 1.

    Per group and shell, 0 … 1: share of rows, share of nonzeros, share of the violation, share of
    its rows kept in the last round; then log of the episode's budget, work left, rounds done,
    log of the objective relative to the start, log of the target's voxel density.
    """

    n_features = N_CELLS * len(CELL_FEATURES) + len(BUDGET_FEATURES)
    space = spaces.Box(-1.0, 1.0, (n_features,), np.float32)

    def __call__(self, case: Case, state) -> np.ndarray:
        cells = shell_index(case)
        counts = np.bincount(cells, minlength=N_CELLS)
        nonzeros = np.bincount(cells, case.row_nonzeros, N_CELLS)
        violation = np.bincount(cells, state.row_penalty, N_CELLS)
        kept = np.bincount(cells, state.mask, N_CELLS)
        vector = np.concatenate(
            [
                counts / counts.sum(), nonzeros / nonzeros.sum(),
                violation / max(violation.sum(), 1e-12), kept / np.maximum(counts, 1),
                budget_features(case, state),
            ]
        )  # fmt: skip
        return np.clip(vector, -1.0, 1.0).astype(np.float32)


class VolumeObserver:
    """Volumes (4, nz, ny, nx) in 0 … 1 centered in a declared size, and the budget features.

    Channels: depth below the surface of the enclosing structure (30 mm is 1), target mask, organ
    mask after equation (1) of Quarz 2024, last dose (1.2 × the highest prescription is 1). What a
    case has beyond the size is cut.
    """

    def __init__(self, size: Sequence[int]):
        given = np.asarray(size)
        if given.shape != (3,) or given.dtype.kind not in "iu" or given.min() < 1:
            raise ValueError(f"volume_size={size!r} must be three whole numbers (nz, ny, nx) > 0.")
        self.size = tuple(given.tolist())
        shape = (len(VOLUME_CHANNELS), *self.size)
        self.space = spaces.Dict(
            {
                "volume": spaces.Box(0.0, 1.0, shape, np.float32),
                "budget": spaces.Box(-1.0, 1.0, (len(BUDGET_FEATURES),), np.float32),
            }
        )

    def __call__(self, case: Case, state) -> dict[str, np.ndarray]:
        ring = len(GROUPS) - 1
        structure = case.group < ring
        top = 1.2 * max(case.prescription_gy.values())
        rows = (
            np.where(structure, np.clip(case.depth_mm / DEPTH_SCALE_MM, 0.0, 1.0), 0.0),
            case.target_rows,
            structure & ~case.target_rows & case.candidates,
            np.clip(state.dose_gy / top, 0.0, 1.0),
        )
        place, inside = self._places(case)
        volume = np.zeros((len(rows), *self.size), np.float32)
        at = tuple(place[:, inside])
        for channel, values in zip(volume, rows, strict=True):
            channel[at] = values[inside]
        budget = np.clip(budget_features(case, state), -1.0, 1.0).astype(np.float32)
        return {"volume": volume, "budget": budget}

    def target_rows_outside(self, case: Case) -> int:
        """How many target rows of a case do not fit into the size."""
        _, inside = self._places(case)
        return int(np.count_nonzero(case.target_rows & ~inside))

    def _places(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Index (3, n_rows) of every row in the volume, the target's middle in its middle, and
        whether it lies inside (n_rows,).
        """
        at = np.stack(np.unravel_index(case.influence.voxels, case.grid.shape))
        target = at[:, case.target_rows] if case.target_rows.any() else at
        middle = (target.min(axis=1) + target.max(axis=1)) // 2
        place = at - middle[:, None] + np.array(self.size)[:, None] // 2
        return place, np.all((place >= 0) & (place < np.array(self.size)[:, None]), axis=0)


def budget_features(case: Case, state) -> np.ndarray:
    """BUDGET_FEATURES of a state, (5,) float64."""
    progress = np.log10(max(state.objective, 1e-12) / max(case.anchors.f_start, 1e-12))
    return np.array(
        [
            np.log10(state.budget) + 1.0,
            state.work_left / max(state.work_budget, 1),
            state.round / 8.0,
            progress / LOG_OBJECTIVE_SCALE,
            np.log10(case.target_voxels_per_cm3) / 3.0,
        ]
    )
