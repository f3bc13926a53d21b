"""One iteration: dose, penalty and gradient in a pass over the matrix; and the layouts compared.

23.5 ms at 12.5 M nonzeros elsewhere. Every row carries a term that is active, so that every entry
is read for the dose and added to the gradient.
"""

from dataclasses import replace

import numpy as np
import pytest
from layouts import DecodedRows, VoxelBlocks

from engine.dose.influence import RowPenalty
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.quantities import BiologicalDose

MNNZ = 12.5


@pytest.fixture(scope="module")
def matrix(c_shape):
    """Every so many rows of the C-shape's matrix: 12.5 M nonzeros."""
    patient, plan = c_shape(5.0, (45, 315))
    whole = PencilBeamEngine().influence(patient, plan, patient.grid)
    # neighbouring voxels stay together, as in a real problem: whole slices from the middle out
    work = np.cumsum(whole.row_nonzeros(), dtype=np.int64)
    first = np.searchsorted(work, 0.5 * (work[-1] - MNNZ * 1e6))
    last = np.searchsorted(work, 0.5 * (work[-1] + MNNZ * 1e6))
    return whole.rows(np.arange(first, last))


@pytest.fixture(scope="module")
def weights(matrix):
    return np.random.default_rng(0).uniform(1e6, 1e8, matrix.n_spots)


@pytest.fixture(scope="module")
def every_row(matrix, weights):
    """A term on every row that the dose exceeds."""
    n = matrix.n_rows
    level = 0.5 * (matrix @ weights)
    return RowPenalty(np.arange(n + 1), level, np.full(n, 1.0 / n), np.ones(n))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_iteration(benchmark, report, with_threads, matrix, weights, every_row, n_threads):
    with_threads(n_threads)
    benchmark.pedantic(matrix.penalty, (weights, every_row), rounds=30, warmup_rounds=2)
    report(
        threads=n_threads, Mnnz=matrix.n_nonzeros / 1e6, Mslots=len(matrix.values) / 1e6,
        rows=matrix.n_rows, spots=matrix.n_spots, bytes_per_nnz=matrix.nbytes / matrix.n_nonzeros,
    )  # fmt: skip


@pytest.mark.parametrize("n_threads", [1, 2])
def test_iteration_of_rbe_weighted_dose(
    benchmark, report, with_threads, matrix, weights, n_threads
):
    """The same pattern with α and √β on every chunk, one pass for all three products."""
    scale = np.array([5.0, 1.0], np.float32) / np.float32(65535)
    factors = np.tile((np.array([0.6, 0.2]) / scale).astype(np.uint16), len(matrix.columns))
    biological = replace(matrix, factors=factors, factor_scale=scale)
    quantity, n = BiologicalDose(20, 0.1, 0.05, 30.0), matrix.n_rows
    level = 0.5 * quantity.of_fraction(biological, weights)
    rows = RowPenalty(np.arange(n + 1), level, np.full(n, 1.0 / n), np.ones(n))
    with_threads(n_threads)
    arguments = (weights, rows, quantity.photons)
    benchmark.pedantic(biological.penalty, arguments, rounds=30, warmup_rounds=2)
    report(
        threads=n_threads, Mnnz=matrix.n_nonzeros / 1e6,
        bytes_per_nnz=biological.nbytes / matrix.n_nonzeros,
    )  # fmt: skip


@pytest.mark.parametrize("n_threads", [1, 2])
def test_dose_alone(benchmark, report, with_threads, matrix, weights, n_threads):
    with_threads(n_threads)
    benchmark.pedantic(matrix.dose, (weights,), rounds=30, warmup_rounds=2)
    report(threads=n_threads, Mnnz=matrix.n_nonzeros / 1e6)


def test_a_mask_of_15_percent(benchmark, report, matrix):
    mask = np.random.default_rng(1).random(matrix.n_rows) < 0.15
    few = benchmark.pedantic(matrix.rows, (mask,), rounds=20, warmup_rounds=1)
    report(Mnnz=few.n_nonzeros / 1e6, of=matrix.n_nonzeros / 1e6)


class SpotChunks:
    """Ours, with the same two calls as the others."""

    def __init__(self, matrix):
        self.matrix, self.nbytes = matrix, matrix.nbytes

    def product_and_gradient(self, weights):
        rows = self.matrix.dose(weights)
        return rows, self.matrix.adjoint(rows)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("layout", [SpotChunks, DecodedRows, VoxelBlocks])
def test_layout(benchmark, report, with_threads, matrix, weights, layout, n_threads):
    with_threads(n_threads)
    other = layout(matrix)
    dose, gradient = other.product_and_gradient(weights)
    expected = matrix @ weights
    np.testing.assert_allclose(dose, expected, rtol=1e-4, atol=1e-6 * expected.max())
    np.testing.assert_allclose(gradient, matrix.adjoint(expected), rtol=1e-3)
    benchmark.pedantic(other.product_and_gradient, (weights,), rounds=15, warmup_rounds=1)
    report(
        layout=layout.__name__, threads=n_threads, Mnnz=matrix.n_nonzeros / 1e6,
        bytes_per_nnz=other.nbytes / matrix.n_nonzeros,
    )  # fmt: skip
