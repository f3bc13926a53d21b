"""What a network sees of a case: the crop around targets and organs, and whose rows are in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.voxel_sampling.study_problem import RING_GROUP, plannable, voxels
from ptenv.cases.case import Case

DEPTH_SCALE_MM = 30.0
CHANNELS = ("depth", "target", "organ")
ALWAYS = ("opticchiasm", "opticnrv")  # structures that Quarz 2024 samples fully in both setups


@dataclass(frozen=True, eq=False)
class CaseVolume:
    """A case in a network's eyes.

    ``channels`` (3, z, y, x) float32 on the bounding box of the rows that may be selected, targets
    and organs after equation (1) of Quarz 2024: depth below the surface of the enclosing structure
    (30 mm is 1), target, organ. ``rows`` (n,) are those rows of the case, ``place`` (n,) their flat
    index in the crop; the other arrays (n,) tell of the same rows. ``prescription_gy`` is 0 outside
    of targets. ``ring`` (m,) are the rows of normal tissue; ``voxels`` (n_rows,) the flat index
    of every row of the case on its grid.
    """

    name: str  # as the environment calls the case
    channels: np.ndarray
    rows: np.ndarray
    place: np.ndarray
    in_target: np.ndarray  # bool
    always: np.ndarray  # bool: optic chiasm and nerves
    depth_mm: np.ndarray
    prescription_gy: np.ndarray
    ring: np.ndarray
    n_plannable: int  # rows of targets and organs before equation (1)
    voxels: np.ndarray
    grid_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]  # of x, y, z

    @classmethod
    def of(cls, case: Case, name: str | None = None) -> "CaseVolume":
        """The volume of a case; ``name`` is how the environment calls it."""
        rows = np.flatnonzero(voxels(case))
        if not case.target_rows[rows].any():
            raise ValueError(f"{case.case_id} has no target voxel; there is nothing to sample.")
        at = np.stack(np.unravel_index(case.influence.voxels[rows], case.grid.shape))
        low, high = at.min(axis=1), at.max(axis=1) + 1
        shape = tuple((high - low).tolist())
        place = np.ravel_multi_index(tuple(at - low[:, None]), shape)
        in_target = case.target_rows[rows]
        channels = np.zeros((len(CHANNELS), int(np.prod(shape))), np.float32)
        channels[0, place] = np.clip(case.depth_mm[rows] / DEPTH_SCALE_MM, 0.0, 1.0)
        channels[1, place], channels[2, place] = in_target, ~in_target
        return cls(
            name=name or case.case_id, channels=channels.reshape(-1, *shape), rows=rows,
            place=place, in_target=in_target, always=_lies_in(case, ALWAYS)[rows],
            depth_mm=np.asarray(case.depth_mm[rows]),
            prescription_gy=np.where(in_target, row_prescription(case)[rows], 0.0),
            ring=np.flatnonzero((case.group == RING_GROUP) & case.candidates),
            n_plannable=int(plannable(case).sum()), voxels=np.asarray(case.influence.voxels),
            grid_shape=tuple(case.grid.shape), spacing_mm=tuple(case.grid.spacing_mm),
        )  # fmt: skip

    @property
    def size(self) -> tuple[int, int, int]:
        return self.channels.shape[1:]

    @property
    def places(self) -> np.ndarray:
        """Grid indices z, y, x of the rows that may be selected, (n, 3)."""
        at = np.unravel_index(self.voxels[self.rows], self.grid_shape)
        return np.stack(at, axis=1)

    @property
    def n_rows(self) -> int:
        """Rows of the case."""
        return len(self.voxels)

    def mask(
        self, selected: np.ndarray, ring_rate: float | None, rng: np.random.Generator
    ) -> np.ndarray:
        """Selected voxels (n,) bool as rows of the case (n_rows,) bool, the ring's drawn among them
        where it is planned on.
        """
        mask = np.zeros(self.n_rows, bool)
        mask[self.rows[selected]] = True
        if ring_rate:
            mask[self.ring[rng.random(len(self.ring)) < ring_rate]] = True
        return mask


def row_prescription(case: Case) -> np.ndarray:
    """Prescription of every row (n_rows,), 0 outside of targets.

    The highest of the targets that fill half of the voxel; where none does, of those it touches.
    """
    prescribed = np.zeros(case.influence.n_rows)
    for part in (0.0, 0.5):
        for target in reversed(case.targets):
            region = case.problem.structures[target]
            inside = region.rows[region.volume > part * region.volume.max()]
            prescribed[inside] = case.prescription_gy[target]
    return prescribed


def _lies_in(case: Case, names: Sequence[str]) -> np.ndarray:
    """Rows (n_rows,) bool that structures whose names begin so fill by half."""
    inside = np.zeros(case.influence.n_rows, bool)
    for name, region in case.problem.structures.items():
        if name.lower().startswith(tuple(names)):
            inside[region.rows[region.volume >= 0.5 * region.volume.max()]] = True
    return inside
