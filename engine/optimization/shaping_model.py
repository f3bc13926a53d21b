"""What dose shaping must know of a plan, and its form for spot maps and bixels with a matrix."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from engine.dose.column_entries import ColumnEntries
from engine.dose.influence import InfluenceMatrix

NARROWEST = 0.05  # of the lateral importance: amplitudes below it are no part of a patch


class Projection(NamedTuple):
    """The amplitudes (n,) that project onto a voxel: their index, their lateral importance K
    (0 … 1), and the voxel's Gy per unit of each."""

    amplitudes: np.ndarray
    lateral: np.ndarray
    gy: np.ndarray


class ShapedDose(Protocol):
    """Dose of amplitudes (bixels of fluence maps, or proton spots) on rows, which are voxels."""

    n_rows: int
    n_amplitudes: int
    n_beams: int
    n_entries: int  # (row, amplitude) pairs of one whole dose computation: one dose product
    beam_of: np.ndarray  # (n_amplitudes,)
    unit: np.ndarray  # (n_amplitudes,) weights that make all amplitudes count alike

    def dose(self, weights: np.ndarray) -> np.ndarray:
        """Gy of one fraction, (n_rows,) float32."""

    def projection(self, row: int) -> Projection: ...

    def path(self, organs: bool) -> np.ndarray:
        """Travelling path information (n_amplitudes,): dose on the way through targets, or organs
        (equation 1 of Ziegenhein et al., Phys. Med. Biol. 61 (2016) 2427)."""

    def add(self, dose: np.ndarray, amplitudes: np.ndarray, change: np.ndarray) -> int:
        """Add the dose of a change of amplitudes to ``dose``; returns the entries touched."""


@dataclass(frozen=True, eq=False)
class MatrixDose:
    """Spot maps of protons, or bixels, by their influence matrix.

    ``target_share`` and ``organ_share`` (n_rows,) tell how much of a row's voxel lies in targets
    and in organs. K of a spot is its dose to the voxel relative to the largest of its beam, so
    that a spot counts by where its Bragg peak lies as well as by its distance.
    """

    influence: InfluenceMatrix
    target_share: np.ndarray
    organ_share: np.ndarray

    @property
    def n_rows(self) -> int:
        return self.influence.n_rows

    @property
    def n_amplitudes(self) -> int:
        return self.influence.n_spots

    @property
    def n_beams(self) -> int:
        return self.influence.n_beams

    @property
    def n_entries(self) -> int:
        return self.columns.n_entries

    @cached_property
    def columns(self) -> ColumnEntries:
        return self.influence.by_column()

    @cached_property
    def beam_of(self) -> np.ndarray:
        return np.repeat(np.arange(self.n_beams), np.diff(self.influence.beam_starts))

    @cached_property
    def unit(self) -> np.ndarray:
        largest = self.columns.largest()
        return 1.0 / np.where(largest > 0, largest, np.inf)

    @cached_property
    def _paths(self) -> tuple[np.ndarray, np.ndarray]:
        shares = (self.target_share, self.organ_share)
        return tuple(self.influence.adjoint(share) * self.unit for share in shares)

    def dose(self, weights: np.ndarray) -> np.ndarray:
        return self.influence.dose(weights)

    def path(self, organs: bool) -> np.ndarray:
        return self._paths[int(organs)]

    def projection(self, row: int) -> Projection:
        amplitudes, gy = self.influence.row_entries(int(row))
        relative = gy * self.unit[amplitudes]
        beam = self.beam_of[amplitudes]
        top = np.zeros(self.n_beams, np.float32)
        np.maximum.at(top, beam, relative)
        lateral = relative / top[beam]
        near = lateral >= NARROWEST
        return Projection(amplitudes[near], lateral[near], gy[near])

    def add(self, dose: np.ndarray, amplitudes: np.ndarray, change: np.ndarray) -> int:
        return self.columns.add(dose, amplitudes, change)
