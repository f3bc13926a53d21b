"""The influence matrix: physical dose of one fraction per particle of each spot.

Storage, hidden behind the products: voxel-major rows, and in a row chunks of eight neighbouring
spots of a raster line. A chunk is one 16-bit column and eight 16-bit square roots of the value
relative to the spot's scale: 2.25 bytes a slot, relative rounding below 1e-3 down to 1e-4 of a
spot's maximum. Both products then run over eight contiguous floats at a time, and a voxel mask is
a copy of whole rows.

Dose of other units of effect rides on the same pattern: a chunk lies in one layer and one voxel, so
one α and one √β, 16 bits each, stand for its eight spots (2.75 bytes a slot in all).

Columns are places in a padded order in which chunks of different raster lines do not overlap:
adding to eight floats of which some were just written, and some not, stalls the processor for
longer than all the rest of a chunk takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from engine.dose import _influence_kernels as kernels
from engine.dose.column_entries import ColumnEntries
from engine.parallel import run_blocks
from engine.patient.grid import Grid

LANES = 8
MAX_PLACES_PER_BEAM = 65_535 - LANES
ROOT_MAX = 65_535.0  # largest 16-bit root
MAX_BLOCKS = 8  # fixed, so that sums do not depend on the number of threads
CHUNKS_PER_BLOCK = 100_000  # below this a block is not worth a thread
PRODUCTS = ("dose", "alpha_dose", "sqrt_beta_dose")  # what a matrix with factors answers
FACTOR_MAX = 65_535.0  # largest 16-bit factor
WHOLE = np.zeros(MAX_BLOCKS, np.uint64)  # the row of the matrix that has a penalty's first terms


@dataclass(frozen=True, eq=False)
class RowPenalty:
    """A row-separable penalty on the physical dose d of one fraction:
    f(d) = Σ_rows Σ_terms weight · max(0, side · (d − level))².

    ``start`` (n_rows + 1,) uint32 cuts the terms by row; ``level`` in Gy, ``weight`` in 1/Gy² and
    ``side`` (+1 penalizes above the level, −1 below) are (n_terms,) float32.
    """

    start: np.ndarray
    level: np.ndarray
    weight: np.ndarray
    side: np.ndarray

    def __post_init__(self):
        for name, kind in (("start", np.uint32), ("level", np.float32), ("weight", np.float32),
                           ("side", np.float32)):  # fmt: skip
            array = np.ascontiguousarray(getattr(self, name), dtype=kind)
            object.__setattr__(self, name, array)
        n = len(self.level)
        if not len(self.weight) == len(self.side) == n or self.start[-1] != n:
            raise ValueError(
                f"terms disagree: {n} levels, {len(self.weight)} weights, {len(self.side)} sides, "
                f"start ends at {self.start[-1]}."
            )


@dataclass(frozen=True, eq=False)
class InfluenceMatrix:
    """Dose per particle, rows are voxels of ``grid``, columns the plan's spots.

    ``voxels`` (n_rows,) are ascending flat indices into the grid. Build one with an engine, or
    with ``from_dense`` in tests. Weights are particles per fraction, doses Gy per fraction.

    With ``factors`` every chunk also has the dose-weighted α in 1/Gy and √β in 1/Gy of its spots,
    for the biological effect; see ``products``.
    """

    grid: Grid
    voxels: np.ndarray  # uint32
    beam_starts: np.ndarray  # (n_beams + 1,) int64, first column of every beam
    start: np.ndarray  # (n_rows · n_beams + 1,) uint64, first chunk of every row and beam
    columns: np.ndarray  # (n_chunks,) uint16, first place of a chunk within its beam
    values: np.ndarray  # (n_chunks · 8,) uint16
    scale: np.ndarray  # (n_spots,) float32, Gy per particle at root 1
    place: np.ndarray  # (n_spots,) uint16, of every spot within its beam, ascending
    # (2 · n_chunks,) uint16, α and √β of every chunk in units of factor_scale (2,); both empty
    # where the matrix answers physical dose alone
    factors: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint16))
    factor_scale: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def from_columns(
        cls, grid: Grid, voxels, beam_starts, starts, rows, gy, top=None
    ) -> "InfluenceMatrix":
        """From one list of entries per spot: spot j has ``rows`` and ``gy`` (Gy per particle) from
        ``starts[j]`` to ``starts[j + 1]``; rows ascend and index ``voxels`` (n_rows,). Beam b has
        the spots from ``beam_starts[b]`` on, (n_beams + 1,).

        ``top`` (n_spots,) is what 16 bits are relative to, the largest entries by default; larger
        entries are cut to it.
        """
        starts, rows = np.asarray(starts, np.int64), np.asarray(rows, np.uint32)
        gy = np.asarray(gy, np.float32)
        beams = np.asarray(beam_starts, np.int64)
        widths = np.diff(beams)
        if np.any(widths > MAX_PLACES_PER_BEAM):
            raise ValueError(
                f"a beam has {int(widths.max())} spots, more than the {MAX_PLACES_PER_BEAM} that a "
                "matrix holds per beam; split it, or space the spots wider."
            )
        if top is None:
            top = np.maximum.reduceat(np.append(gy, 0.0), starts[:-1]) if len(starts) > 1 else gy
            top = np.where(np.diff(starts) > 0, top, 0.0)
        top = np.asarray(top, np.float32).astype(np.float64)
        scale = (np.where(top > 0, top, 1.0) / ROOT_MAX**2).astype(np.float32)
        start = np.zeros(len(voxels) * len(widths) + 1, np.uint64)
        last = np.empty(len(voxels), np.int64)
        kernels.count_columns(beams, starts, rows, last, start)
        columns = np.zeros(int(start[-1]), np.uint16)
        values = np.zeros(int(start[-1]) * LANES, np.uint16)
        kernels.fill_columns(beams, starts, rows, gy, scale, start, last, columns, values)
        place = np.concatenate([np.arange(n) for n in widths] or [[]]).astype(np.uint16)
        return cls(grid, np.asarray(voxels, np.uint32), beams, start, columns, values, scale, place)

    @classmethod
    def from_dense(cls, grid: Grid, voxels, dense, beam_starts=None) -> "InfluenceMatrix":
        """From an array (n_rows, n_spots) of Gy per particle: for tests and small studies."""
        dense = np.asarray(dense, dtype=np.float32)
        beams = [0, dense.shape[1]] if beam_starts is None else beam_starts
        spots, rows = np.nonzero(dense.T > 0.0)
        starts = np.searchsorted(spots, np.arange(dense.shape[1] + 1))
        return cls.from_columns(grid, voxels, beams, starts, rows, dense.T[spots, rows])

    @classmethod
    def joined(cls, parts: "Sequence[InfluenceMatrix]") -> "InfluenceMatrix":
        """Column blocks side by side: the beams of all parts in their order, on the same rows.

        Beams can so be computed and kept one by one, or appended to those there are.
        """
        if not parts:
            raise ValueError("parts is empty; give at least one matrix.")
        first = parts[0]
        if any(p.grid != first.grid or not np.array_equal(p.voxels, first.voxels) for p in parts):
            raise ValueError("parts differ in their grid or voxels; compute all on the same rows.")
        counts = [np.diff(p.start).reshape(p.n_rows, p.n_beams) for p in parts]
        start = np.concatenate([[0], np.cumsum(np.concatenate(counts, axis=1))]).astype(np.uint64)
        widths = np.concatenate([np.diff(p.beam_starts) for p in parts])
        whole = cls(
            first.grid, first.voxels, np.concatenate([[0], np.cumsum(widths)]), start,
            np.empty(int(start[-1]), np.uint16), np.empty(int(start[-1]) * LANES, np.uint16),
            np.concatenate([p.scale for p in parts]), np.concatenate([p.place for p in parts]),
            *_common_factors(parts),
        )  # fmt: skip
        rows, beam = np.arange(first.n_rows, dtype=np.uint32), 0
        for part in parts:
            part._copy_into(whole, rows, beam)
            beam += part.n_beams
        return whole

    @classmethod
    def stacked(cls, parts: "Sequence[InfluenceMatrix]") -> "InfluenceMatrix":
        """The same spots in several scenarios, rows one after another: those of the first part,
        then those of the second, ….

        ``voxels`` then repeat, so that ``volume`` has no meaning for the whole. Spots must have
        the same ``place`` in all parts, as engines give them for one plan. Where their ``scale``
        differs, the largest of the parts in which the spot reaches a row is kept and the others'
        roots are rounded once more: half a 16-bit step, as much as they are rounded already.
        """
        _check_stackable(parts)
        first, scale = parts[0], _common_scale(parts)
        n_chunks = np.cumsum([0] + [len(p.columns) for p in parts]).astype(np.uint64)
        starts = [p.start[:-1] + n for p, n in zip(parts, n_chunks)]
        whole = cls(
            first.grid, np.concatenate([p.voxels for p in parts]), first.beam_starts,
            np.concatenate([*starts, n_chunks[-1:]]), np.concatenate([p.columns for p in parts]),
            np.empty(int(n_chunks[-1]) * LANES, np.uint16), scale, first.place,
            *_common_factors(parts),
        )  # fmt: skip
        for part, a, b in zip(parts, n_chunks, n_chunks[1:]):
            part._write_rescaled(scale, whole.values[int(a) * LANES : int(b) * LANES])
            if part.has_effects:
                whole.factors[2 * int(a) : 2 * int(b)] = part.factors
        return whole

    @property
    def n_rows(self) -> int:
        return len(self.voxels)

    @property
    def n_spots(self) -> int:
        return int(self.beam_starts[-1])

    @property
    def n_beams(self) -> int:
        return len(self.beam_starts) - 1

    @cached_property
    def n_nonzeros(self) -> int:
        return int(np.count_nonzero(self.values))

    @property
    def nbytes(self) -> int:
        """Bytes held, indices included."""
        arrays = (self.voxels, self.start, self.columns, self.values, self.scale, self.place,
                  self.factors)  # fmt: skip
        return sum(a.nbytes for a in arrays)

    def dose(self, weights: np.ndarray, beam: int | None = None) -> np.ndarray:
        """Physical dose of one fraction (n_rows,) float32, of all beams or of one."""
        padded = self._padded_weights(weights)
        dose = np.empty(self.n_rows, np.float32)
        first, last = self._beam_range(beam)
        run_blocks(
            kernels.dose_block, self._n_blocks, self._cuts, self.start, self.columns, self.values,
            self._base, first, last, padded, dose,
        )  # fmt: skip
        return dose

    @property
    def has_effects(self) -> bool:
        """Whether it answers α·dose and √β·dose besides dose."""
        return len(self.factor_scale) == 2

    def products(self, weights: np.ndarray, beam: int | None = None) -> np.ndarray:
        """Dose in Gy, α·dose and √β·dose of one fraction, (3, n_rows) float32: see PRODUCTS.

        The effect of ions on cells is ε = α·dose + (√β·dose)², −ln of their survival.
        """
        self._require_effects()
        padded = self._padded_weights(weights)
        products = np.empty((3, self.n_rows), np.float32)
        run_blocks(
            kernels.products_block, self._n_blocks, self._cuts, *self._effect_arrays,
            *self._beam_range(beam), padded, products,
        )  # fmt: skip
        return products

    def products_adjoint(self, row_gradient: np.ndarray, beam: int | None = None) -> np.ndarray:
        """The transposed product of ``products``: (3, n_rows) → (n_spots,) float32."""
        self._require_effects()
        row_gradient = np.ascontiguousarray(row_gradient, dtype=np.float32)
        if row_gradient.shape != (3, self.n_rows):
            raise ValueError(
                f"row_gradient has shape {row_gradient.shape}; products have (3, {self.n_rows})."
            )
        partial = self._partial()
        run_blocks(
            kernels.products_adjoint_block, self._n_blocks, self._cuts, *self._effect_arrays,
            *self._beam_range(beam), row_gradient, partial,
        )  # fmt: skip
        return self._gradient(partial)

    def __matmul__(self, weights: np.ndarray) -> np.ndarray:
        return self.dose(weights)

    def adjoint(self, row_gradient: np.ndarray, beam: int | None = None) -> np.ndarray:
        """Σ_rows gradient · entry, (n_spots,) float32: the transposed product."""
        row_gradient = np.ascontiguousarray(row_gradient, dtype=np.float32)
        if row_gradient.shape != (self.n_rows,):
            raise ValueError(
                f"row_gradient has shape {row_gradient.shape}, the matrix {self.n_rows} rows."
            )
        first, last = self._beam_range(beam)
        partial = self._partial()
        run_blocks(
            kernels.adjoint_block, self._n_blocks, self._cuts, self.start, self.columns,
            self.values, self._base, first, last, row_gradient, partial,
        )  # fmt: skip
        return self._gradient(partial)

    def penalty(
        self, weights: np.ndarray, rows: RowPenalty, photons: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Value and gradient (n_spots,) float32 of a row penalty, in one pass over the matrix.

        With ``photons`` the penalty is of the photon dose of equal effect, ``PhotonCurve.array``.
        """
        if len(rows.start) != self.n_rows + 1:
            raise ValueError(f"rows covers {len(rows.start) - 1} rows, the matrix {self.n_rows}.")
        padded = self._padded_weights(weights)
        partial, value = self._partial(), np.zeros(self._n_blocks)
        kernel, arrays = self._penalty_kernel(padded, photons)
        run_blocks(
            kernel, self._n_blocks, self._cuts, *arrays, WHOLE, rows.start, rows.level,
            rows.weight, rows.side, value, partial,
        )  # fmt: skip
        return float(value.sum()), self._gradient(partial)

    def penalty_by_part(
        self, weights: np.ndarray, rows: RowPenalty, part_rows: np.ndarray,
        photons: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Values (n_parts,) float64 and gradients (n_parts, n_spots) float32 of a row penalty on
        each part of a stacked matrix, in one pass over it.

        Part s has the rows ``part_rows[s]`` … ``part_rows[s + 1] − 1``, (n_parts + 1,). ``rows``
        covers all rows, or those of one part, if all are equally long: the same in every scenario.
        ``photons`` as in ``penalty``.
        """
        cuts, block_of, first_row = self._part_layout(np.asarray(part_rows, np.int64), rows)
        padded, n_blocks = self._padded_weights(weights), len(cuts) - 1
        partial, value = np.empty((n_blocks, self._n_places), np.float32), np.zeros(n_blocks)
        kernel, arrays = self._penalty_kernel(padded, photons)
        run_blocks(
            kernel, n_blocks, cuts, *arrays, first_row, rows.start, rows.level, rows.weight,
            rows.side, value, partial,
        )  # fmt: skip
        gradient = np.empty((len(block_of) - 1, self.n_spots), np.float32)
        for part, (a, b) in enumerate(zip(block_of, block_of[1:])):
            kernels.gather_gradient(partial[a:b], self.scale, self._column_of, gradient[part])
        return np.add.reduceat(value, block_of[:-1]), gradient

    def penalties(
        self, weights: np.ndarray, rows: RowPenalty, photons: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (n_sets,) float64 and gradients (n_sets, n_spots) float32 of a row penalty for
        several weights (n_sets, n_spots), in one pass over the matrix (with ``photons`` in one
        each)."""
        if photons is not None:
            found = [self.penalty(w, rows, photons) for w in weights]
            return np.array([v for v, _ in found]), np.stack([g for _, g in found])
        if len(rows.start) != self.n_rows + 1:
            raise ValueError(f"rows covers {len(rows.start) - 1} rows, the matrix {self.n_rows}.")
        padded = np.stack([self._padded_weights(w) for w in weights])
        partial = np.empty((self._n_blocks, *padded.shape), np.float32)
        value = np.empty((self._n_blocks, len(padded)))
        run_blocks(
            kernels.penalties_block, self._n_blocks, self._cuts, self.start, self.columns,
            self.values, self._base, padded, rows.start, rows.level, rows.weight, rows.side,
            value, partial,
        )  # fmt: skip
        gradients = [self._gradient(partial[:, s]) for s in range(len(padded))]
        return value.sum(axis=0), np.stack(gradients)

    def rows(self, chosen: np.ndarray) -> "InfluenceMatrix":
        """A compacted copy of some rows: a bool mask (n_rows,) or ascending row indices."""
        chosen = np.asarray(chosen)
        if chosen.dtype == bool:
            if chosen.shape != (self.n_rows,):
                raise ValueError(f"mask has shape {chosen.shape}, the matrix {self.n_rows} rows.")
            chosen = np.flatnonzero(chosen)
        picked = chosen.astype(np.uint32)
        if len(picked) and (chosen.min() < 0 or chosen.max() >= self.n_rows):
            raise ValueError(f"row indices must lie in 0 … {self.n_rows - 1}.")
        if np.any(np.diff(picked.astype(np.int64)) <= 0):
            raise ValueError("row indices must ascend without repeats.")
        start = np.empty(len(picked) * self.n_beams + 1, np.uint64)
        n_chunks = kernels.row_starts(self.start, np.uint64(self.n_beams), picked, start)
        columns = np.empty(int(n_chunks), np.uint16)
        values = np.empty(int(n_chunks) * LANES, np.uint16)
        copy = replace(
            self, voxels=self.voxels[picked], start=start, columns=columns, values=values,
            factors=self._empty_factors(int(n_chunks)),
        )  # fmt: skip
        self._copy_into(copy, picked, 0)
        return copy

    def beams_only(self, beams: Sequence[int]) -> "InfluenceMatrix":
        """A compacted copy of some column blocks: distinct beam indices, in the order asked."""
        chosen = _checked_beams(beams, self.n_beams)
        start = np.empty(self.n_rows * len(chosen) + 1, np.uint64)
        source = np.empty(self.n_rows * len(chosen), np.uint64)
        n_chunks = int(
            kernels.chosen_beam_starts(
                self.start, np.uint64(self.n_beams), chosen.astype(np.uint64), start, source
            )
        )
        spots = [slice(*self.beam_starts[b : b + 2]) for b in chosen]
        copy = replace(
            self,
            beam_starts=np.cumsum([0] + [s.stop - s.start for s in spots]).astype(np.int64),
            start=start, columns=np.empty(n_chunks, np.uint16),
            values=np.empty(n_chunks * LANES, np.uint16),
            scale=np.concatenate([self.scale[s] for s in spots]),
            place=np.concatenate([self.place[s] for s in spots]),
            factors=self._empty_factors(n_chunks),
        )  # fmt: skip
        layout = (copy._n_blocks, copy._cuts, np.uint64(len(chosen)), source)
        run_blocks(
            kernels.copy_segments_block, *layout, self.columns, self.values, start, copy.columns,
            copy.values,
        )  # fmt: skip
        if self.has_effects:
            run_blocks(
                kernels.copy_segment_factors_block, *layout, self.factors, start, copy.factors
            )
        return copy

    @cached_property
    def _row_nonzeros(self) -> np.ndarray:
        nonzeros = np.empty(self.n_rows, np.uint32)
        kernels.count_row_nonzeros(self.start, np.uint64(self.n_beams), self.values, nonzeros)
        return nonzeros

    def row_nonzeros(self) -> np.ndarray:
        """Nonzero entries of every row, (n_rows,) uint32: the work of reading it once."""
        return self._row_nonzeros.copy()

    def row_entries(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns (n,) int64, ascending, and Gy per particle (n,) float32 of one row."""
        if not 0 <= row < self.n_rows:
            raise ValueError(f"row={row} does not exist; the matrix has {self.n_rows} rows.")
        first, last = self.start[row * self.n_beams], self.start[(row + 1) * self.n_beams]
        counts = np.diff(self.start[row * self.n_beams : (row + 1) * self.n_beams + 1])
        base = np.repeat(self._base[:-1], counts.astype(np.int64)).astype(np.int64)
        places = (base + self.columns[first:last])[:, None] + np.arange(LANES)
        roots = self.values[first * LANES : last * LANES].astype(np.float32)
        columns = self._column_at[places.ravel()]
        kept = roots > 0
        return columns[kept], np.square(roots[kept]) * self.scale[columns[kept]]

    def by_column(self) -> ColumnEntries:
        """All entries column by column: a copy for those who change few spots at a time."""
        counts = np.zeros(self.n_spots, np.int64)
        arguments = (self.start, np.uint64(self.n_beams), self.columns, self.values, self._base,
                     self._column_at)  # fmt: skip
        kernels.count_by_column(*arguments, counts)
        start = np.concatenate([[0], np.cumsum(counts)])
        rows, gy = np.empty(start[-1], np.uint32), np.empty(start[-1], np.float32)
        kernels.fill_by_column(*arguments, self.scale, start[:-1].copy(), rows, gy)
        return ColumnEntries(start, rows, gy)

    def largest_entries(self) -> np.ndarray:
        """Largest entry of every row and beam, (n_rows, n_beams) float32, Gy per particle."""
        padded_scale = self._padded_weights(np.ones(self.n_spots))
        largest = np.empty((self.n_rows, self.n_beams), np.float32)
        run_blocks(
            kernels.largest_by_row, self._n_blocks, self._cuts, self.start, self.columns,
            self.values, self._base, padded_scale, largest,
        )  # fmt: skip
        return largest

    def volume(self, row_values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Row values (n_rows,) as a volume (nz, ny, nx) float32 on the dose grid."""
        flat = np.full(self.grid.size, fill, np.float32)
        flat[self.voxels] = row_values
        return flat.reshape(self.grid.shape)

    def to_dense(self) -> np.ndarray:
        """All entries (n_rows, n_spots) float32; for tests on small matrices."""
        return np.stack([self.dose(unit) for unit in np.eye(self.n_spots)], axis=1)

    # ------------------------------------------------------------------ storage

    def _copy_into(self, other: "InfluenceMatrix", rows: np.ndarray, beam: int) -> None:
        """Write the chunks of some rows (n_rows of ``other``,) to its beams from ``beam`` on."""
        run_blocks(
            kernels.copy_rows_block, other._n_blocks, other._cuts, rows, np.uint64(self.n_beams),
            self.start, self.columns, self.values, np.uint64(other.n_beams), np.uint64(beam),
            other.start, other.columns, other.values,
        )  # fmt: skip
        if self.has_effects:
            run_blocks(
                kernels.copy_row_factors_block, other._n_blocks, other._cuts, rows,
                np.uint64(self.n_beams), self.start, self.factors, np.uint64(other.n_beams),
                np.uint64(beam), other.start, other.factors,
            )  # fmt: skip

    def _empty_factors(self, n_chunks: int) -> np.ndarray:
        return np.empty(2 * n_chunks if self.has_effects else 0, np.uint16)

    @property
    def _effect_arrays(self) -> tuple[np.ndarray, ...]:
        return (
            self.start, self.columns, self.values, self.factors, self.factor_scale, self._base
        )  # fmt: skip

    def _penalty_kernel(self, padded: np.ndarray, photons: np.ndarray | None):
        """The kernel of a row penalty and the arrays that come before the penalty's own."""
        if photons is None:
            return kernels.penalty_block, (
                self.start, self.columns, self.values, self._base, padded
            )  # fmt: skip
        self._require_effects()
        return kernels.effect_penalty_block, (*self._effect_arrays, padded, photons)

    def _require_effects(self) -> None:
        if not self.has_effects:
            raise ValueError(
                "the influence matrix has physical dose alone; compute it with an engine that has "
                "a biological model, and quantities " + f"{PRODUCTS}."
            )

    def _largest_roots(self) -> np.ndarray:
        """Largest root of every spot, (n_spots,) uint16; 0 where it reaches no row."""
        largest = np.zeros(self._n_places, np.uint16)
        kernels.largest_by_place(
            self.start, np.uint64(self.n_beams), self.columns, self.values, self._base, largest
        )
        return largest[self._column_of]

    def _write_rescaled(self, scale: np.ndarray, values: np.ndarray) -> None:
        """Write the roots relative to another scale (n_spots,) into ``values``."""
        if np.array_equal(scale, self.scale):
            values[:] = self.values
            return
        factor = np.ones(self._n_places, np.float32)
        factor[self._column_of] = np.sqrt(self.scale.astype(np.float64) / scale)
        run_blocks(
            kernels.rescale_block, self._n_blocks, self._cuts, self.start, self.columns,
            self.values, self._base, factor, values,
        )  # fmt: skip

    @cached_property
    def _layouts(self) -> dict:
        return {}

    def _part_layout(
        self, part_rows: np.ndarray, rows: RowPenalty
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row cuts (n_blocks + 1,), first block of every part (n_parts + 1,), and the row of the
        matrix whose terms are the penalty's first (n_blocks,). Kept: searches read all starts."""
        key = (part_rows.tobytes(), len(rows.start))
        if key not in self._layouts:
            _check_part_rows(part_rows, self.n_rows, len(rows.start) - 1)
            self._layouts[key] = self._new_part_layout(part_rows, len(rows.start) - 1)
        return self._layouts[key]

    def _new_part_layout(self, part_rows, n_penalty_rows):
        row_start = np.ascontiguousarray(self.start[:: self.n_beams]).astype(np.int64)
        most = -(-2 * MAX_BLOCKS // len(part_rows))  # as many as without parts, if there is one
        cuts, block_of = [], [0]
        for a, b in zip(part_rows, part_rows[1:]):
            low, high = row_start[a], row_start[b]
            n = int(np.clip((high - low) // CHUNKS_PER_BLOCK, 1, most))
            inner = a + np.searchsorted(row_start[a:b], np.linspace(low, high, n + 1)[1:-1])
            cuts += [a, *inner]
            block_of.append(len(cuts))
        whole = n_penalty_rows == self.n_rows
        first_row = np.repeat(0 * part_rows[:-1] if whole else part_rows[:-1], np.diff(block_of))
        return (
            np.array([*cuts, part_rows[-1]], np.uint64), np.array(block_of),
            first_row.astype(np.uint64),
        )  # fmt: skip

    @cached_property
    def _n_blocks(self) -> int:
        return int(np.clip(len(self.columns) // CHUNKS_PER_BLOCK, 1, MAX_BLOCKS))

    @cached_property
    def _cuts(self) -> np.ndarray:
        """Row blocks of about equal work, (n_blocks + 1,) uint64."""
        row_start = self.start[:: self.n_beams]
        goals = np.linspace(0, len(self.columns), self._n_blocks + 1)[1:-1]
        inner = np.searchsorted(row_start, goals)
        return np.concatenate([[0], inner, [self.n_rows]]).astype(np.uint64)

    @cached_property
    def _base(self) -> np.ndarray:
        """First place of every beam among those of all, and their number, (n_beams + 1,) uint64.

        Each beam's places are followed by eight spare ones.
        """
        parts = (self.place[a:b] for a, b in zip(self.beam_starts, self.beam_starts[1:]))
        widths = [int(part[-1]) + 1 + LANES if len(part) else LANES for part in parts]
        return np.concatenate([[0], np.cumsum(widths)]).astype(np.uint64)

    @cached_property
    def _column_of(self) -> np.ndarray:
        beam = np.repeat(np.arange(self.n_beams), np.diff(self.beam_starts))
        return (self._base[beam] + self.place).astype(np.uint32)

    @cached_property
    def _column_at(self) -> np.ndarray:
        """Column of every place (n_places,) int64; −1 where there is none."""
        at = np.full(self._n_places, -1, np.int64)
        at[self._column_of] = np.arange(self.n_spots)
        return at

    @property
    def _n_places(self) -> int:
        return int(self._base[-1])

    def _padded_weights(self, weights: np.ndarray) -> np.ndarray:
        weights = np.ascontiguousarray(weights)
        if weights.shape != (self.n_spots,):
            raise ValueError(
                f"weights have shape {weights.shape}, the matrix {self.n_spots} spots."
            )
        padded = np.zeros(self._n_places, np.float32)
        kernels.pad_weights(weights, self.scale, self._column_of, padded)
        return padded

    def _partial(self) -> np.ndarray:
        return np.empty((self._n_blocks, self._n_places), np.float32)

    def _gradient(self, partial: np.ndarray) -> np.ndarray:
        gradient = np.empty(self.n_spots, np.float32)
        kernels.gather_gradient(partial, self.scale, self._column_of, gradient)
        return gradient

    def _beam_range(self, beam: int | None) -> tuple[np.uint64, np.uint64]:
        if beam is None:
            return np.uint64(0), np.uint64(self.n_beams)
        if not 0 <= beam < self.n_beams:
            raise ValueError(f"beam={beam} does not exist; the matrix has {self.n_beams} beams.")
        return np.uint64(beam), np.uint64(beam + 1)


def _checked_beams(beams: Sequence[int], n_beams: int) -> np.ndarray:
    chosen = np.asarray(beams)
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "ui":
        raise ValueError(f"beams={beams} must be a list of one beam index or more.")
    if chosen.min() < 0 or chosen.max() >= n_beams:
        raise ValueError(f"beams={beams} must lie in 0 … {n_beams - 1}.")
    if len(np.unique(chosen)) < len(chosen):
        raise ValueError(f"beams={beams} names a beam twice; its spots would count double.")
    return chosen.astype(np.int64)


def _check_stackable(parts: "Sequence[InfluenceMatrix]") -> None:
    if not parts:
        raise ValueError("parts is empty; give at least one matrix.")
    first = parts[0]
    for number, part in enumerate(parts):
        if part.grid != first.grid:
            raise ValueError(f"part {number} lies on another grid; compute all on the same.")
        if not np.array_equal(part.beam_starts, first.beam_starts):
            raise ValueError(
                f"part {number} has {np.diff(part.beam_starts)} spots per beam, the first "
                f"{np.diff(first.beam_starts)}; scenarios stack for one plan alone."
            )
        if not np.array_equal(part.place, first.place):
            raise ValueError(
                f"part {number} keeps its spots at other places than the first; compute all "
                "scenarios of a plan with one engine."
            )


def _common_scale(parts: "Sequence[InfluenceMatrix]") -> np.ndarray:
    """A scale (n_spots,) at which no part's roots overflow 16 bits."""
    scales = np.stack([p.scale for p in parts])
    if np.all(scales == scales[0]):
        return scales[0]
    reaches = np.stack([p._largest_roots() > 0 for p in parts])
    # a spot that reaches no row may have any scale: it must not coarsen the others'
    largest = np.where(reaches, scales, 0.0).max(axis=0)
    return np.where(reaches.any(axis=0), largest, scales.max(axis=0)).astype(np.float32)


def _common_factors(parts: "Sequence[InfluenceMatrix]") -> tuple[np.ndarray, np.ndarray]:
    """Room for the factors of all parts, and their scale; both empty where they have none."""
    scales = [p.factor_scale for p in parts]
    if any(not np.array_equal(scale, scales[0]) for scale in scales):
        raise ValueError(
            "some parts have biological factors and some none, or in other units; compute all with "
            "the same model."
        )
    n = sum(len(p.factors) for p in parts)
    return np.empty(n, np.uint16), scales[0]


def _check_part_rows(part_rows: np.ndarray, n_rows: int, n_penalty_rows: int) -> None:
    lengths = np.diff(part_rows)
    if part_rows.ndim != 1 or len(part_rows) < 2 or part_rows[0] != 0 or part_rows[-1] != n_rows:
        raise ValueError(f"part_rows={part_rows} must run from 0 to the {n_rows} rows.")
    if np.any(lengths < 0):
        raise ValueError(f"part_rows={part_rows} must not descend.")
    if n_penalty_rows != n_rows and np.any(lengths != n_penalty_rows):
        raise ValueError(
            f"rows covers {n_penalty_rows} rows, the matrix {n_rows} and its parts "
            f"{lengths.tolist()}; cover all rows, or one part if all are equally long."
        )
