"""Dose of every spot by itself: the columns of an influence matrix."""

import warnings
from collections.abc import Callable

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.monte_carlo._histories import spots_block
from engine.dose.monte_carlo._random import mixed, normal_quantiles
from engine.dose.monte_carlo.records import Records
from engine.dose.monte_carlo.simulation import LEAST_DENSITY_G_CM3, Setup
from engine.dose.progress import Progress
from engine.errors import PhysicsWarning
from engine.geometry.plan import Plan
from engine.parallel import run_blocks, threads

PARTS = 50  # that progress is told in
NOWHERE = -1


def influence_columns(
    setup: Setup, plan: Plan, voxels: np.ndarray, histories_per_spot: int, cutoff: float,
    seed: int, progress: Callable[[Progress], None] | None,
) -> InfluenceMatrix:  # fmt: skip
    """Gy per particle in ``voxels`` (n_rows,) of every spot, from as many histories for each.

    Entries below ``cutoff`` of a spot's largest are kept by chance, see ``spots_block``.
    """
    rows = np.full(setup.grid.size, NOWHERE, np.int32)
    rows[voxels] = np.arange(len(voxels), dtype=np.int32)
    n_blocks, n_spots = threads(), plan.n_spots
    records = Records.of(setup.density_g_cm3, setup.material, n_blocks)
    cuts = [*range(0, n_spots, -(-n_spots // (PARTS * n_blocks))), n_spots]
    found: list = [None] * (len(cuts) - 1)
    keys = spot_keys(plan, seed)
    normals, gy_per_mev = normal_quantiles(), setup.gy_per_mev

    def compute(block: int, first_cut: int) -> None:
        cut = first_cut + block
        if cut >= len(found):
            return
        found[cut] = spots_block(
            cuts[cut], cuts[cut + 1], histories_per_spot, keys, cutoff, LEAST_DENSITY_G_CM3,
            setup.spots, records.longs[block], records.ints[block], records.floats[block],
            setup.grid.shape, setup.grid.spacing_mm, setup.lower_mm, setup.beams, setup.physics,
            setup.to_water, setup.primaries_only, normals, gy_per_mev, rows,
        )  # fmt: skip

    for first_cut in range(0, len(found), n_blocks):
        run_blocks(compute, n_blocks, first_cut)
        if progress is not None:
            done = cuts[min(first_cut + n_blocks, len(found))] * histories_per_spot
            progress(Progress(done, n_spots * histories_per_spot))
    _warn_of_empty(found, n_spots)
    return _joined(setup, plan, voxels, found)


def spot_keys(plan: Plan, seed: int) -> np.ndarray:
    """A seed for every spot, (n_spots,) uint64, told by what and where it is.

    A spot has the same dose, bit for bit, whatever others are in its plan: beams and layers can be
    computed one by one. A shifted set-up has the same random numbers, so that differences between
    scenarios are less noisy than the doses.
    """
    per_beam = np.array([
        [beam.gantry_deg, beam.couch_deg, *beam.isocenter_mm] for beam in plan.beams
    ])  # fmt: skip
    columns = [*per_beam[plan.spot_beam].T, plan.machine.energy_mev[plan.spot_energy],
               plan.u_mm, plan.v_mm]  # fmt: skip
    keys = np.full(plan.n_spots, seed, np.uint64)
    for column in columns:
        keys = mixed(keys ^ np.ascontiguousarray(column, np.float64).view(np.uint64))
    return keys


def _joined(setup: Setup, plan: Plan, voxels: np.ndarray, found: list) -> InfluenceMatrix:
    """One matrix of what ``spots_block`` returned for every cut."""
    counts = np.concatenate([np.diff(starts) for starts, *_ in found])
    beam_starts = np.searchsorted(plan.spot_beam, np.arange(len(plan.beams) + 1))
    return InfluenceMatrix.from_columns(
        setup.grid, voxels, beam_starts, np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([rows for _, rows, *_ in found]),
        np.concatenate([gy for _, _, gy, _ in found]), np.concatenate([top for *_, top in found]),
    )  # fmt: skip


def _warn_of_empty(found: list, n_spots: int) -> None:
    n_empty = sum(int(np.count_nonzero(np.diff(starts) == 0)) for starts, *_ in found)
    if n_empty:
        warnings.warn(
            f"{n_empty} of {n_spots} spots give no dose: they miss the voxels asked for, or stop "
            "in the range shifter or aperture.",
            PhysicsWarning,
            stacklevel=4,
        )
