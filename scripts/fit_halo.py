"""Fit the table of the nuclear halo to our own Monte Carlo: `python -m scripts.fit_halo`.

A parallel pencil of 4 mm in water, one run per energy; what comes out goes into
``engine/machine/halo.py``. The core keeps the width of multiple scattering, so that weight and
width of the second Gaussian alone are fitted, to the dose within circles around the axis: what
the middle of a round field receives, which is what plans need. About two minutes.
"""

import sys
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.special import ndtr

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.machine.commissioning import core_variance_mm2, projected_range_mm
from engine.machine.nozzle import energy_std_mev
from engine.machine.single_spots import SpotKind
from engine.patient.grid import Grid
from engine.patient.phantoms import water_tank
from engine.physics.materials import WATER

ENERGIES_MEV = (70.0, 100.0, 150.0, 200.0, 230.0)
N_HISTORIES = 1_000_000
SIGMA_MM = 4.0
SHARES = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])  # of range
CELLS_PER_RANGE, CELLS = 80, 88  # along depth; a share is the mean of the two cells around it
HALF_WIDTH_MM, PITCH_MM = 150.0, 2.0
RADII_MM = np.array([3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0])
SHOWN_MM = (5.0, 10.0, 20.0, 30.0)


@dataclass(frozen=True)
class Circles:
    """Sums over the cells of a plane whose centers lie within circles, for radii (n,)."""

    edges_mm: np.ndarray
    radius_mm: np.ndarray  # (n_cells, n_cells) of the centers

    @classmethod
    def of(cls, grid: Grid) -> "Circles":
        _, _, x = grid.axes_mm()
        edges = np.append(x - 0.5 * PITCH_MM, x[-1] + 0.5 * PITCH_MM)
        return cls(edges, np.hypot(x[:, None], x[None, :]))

    def within(self, plane: np.ndarray) -> np.ndarray:
        return np.array([plane[self.radius_mm <= r].sum() for r in RADII_MM])

    def gaussian(self, variance_mm2: float) -> np.ndarray:
        """Of a Gaussian with the integral 1, cell by cell."""
        share = np.diff(ndtr(self.edges_mm / np.sqrt(variance_mm2)))
        return self.within(np.outer(share, share))


def planes(energy_mev: float, n_histories: int = N_HISTORIES) -> tuple[np.ndarray, Grid]:
    """Monte Carlo's dose in water (nz, ny, nx), depth along y, and its grid."""
    range_mm = projected_range_mm(energy_mev, WATER)
    depth_mm = range_mm / CELLS_PER_RANGE
    size = (2 * HALF_WIDTH_MM, CELLS * depth_mm, 2 * HALF_WIDTH_MM)
    tank = water_tank(size, (PITCH_MM, depth_mm, PITCH_MM), min(10.0, range_mm))
    surface = (0.0, float(tank.grid.lower_mm[1]), 0.0)
    kind = SpotKind(energy_mev, float(energy_std_mev(energy_mev)), SIGMA_MM, 0.0)
    plan = plan_of([SingleSpot(kind, surface, (0.0, 1.0, 0.0), 1.0)], nuclear=False)
    dose = MonteCarloEngine(n_histories=n_histories).dose(tank, plan, tank.grid)["dose"]
    return dose.astype(np.float64), tank.grid


def measured(dose: np.ndarray, circles: Circles) -> np.ndarray:
    """Share of the planar integral within the circles, (n_shares, n_radii)."""
    rows = []
    for share in SHARES:
        cell = round(share * CELLS_PER_RANGE)
        plane = dose[:, max(cell - 1, 0) : cell + 1].sum(axis=1)
        rows.append(circles.within(plane) / plane.sum())
    return np.array(rows)


def fit(found: np.ndarray, core_mm2: float, circles: Circles) -> tuple[float, float]:
    """Weight and σ (mm, with the core's, without the pencil's) of the second Gaussian."""

    def misses(parameters):
        weight, beyond_mm = parameters
        return double_gaussian(weight, core_mm2 + beyond_mm**2, core_mm2, circles) - found

    best = least_squares(misses, [0.05, 10.0], bounds=([0.0, 1.0], [0.5, 80.0]), x_scale=[0.05, 10])
    weight, beyond_mm = best.x
    return float(weight), float(np.hypot(beyond_mm, np.sqrt(core_mm2)))


def double_gaussian(weight: float, wide_mm2: float, core_mm2: float, circles: Circles):
    """Share within the circles (n_radii,) of the pencil with core and halo."""
    core, wide = (circles.gaussian(SIGMA_MM**2 + v) for v in (core_mm2, wide_mm2))
    return (1.0 - weight) * core + weight * wide


def main() -> None:
    weights, sigmas, ranges = [], [], []
    for energy in ENERGIES_MEV:
        dose, grid = planes(energy)
        circles, range_mm = Circles.of(grid), projected_range_mm(energy, WATER)
        found = measured(dose, circles)
        core = core_variance_mm2(energy, SHARES * range_mm)
        fits = [fit(*row, circles) for row in zip(found, core)]
        weights.append([weight for weight, _ in fits])
        sigmas.append([sigma for _, sigma in fits])
        ranges.append(range_mm)
        model = [double_gaussian(w, s * s, c, circles) for (w, s), c in zip(fits, core)]
        shown = np.searchsorted(RADII_MM, SHOWN_MM)
        worst = 100 * np.abs(np.array(model) - found).max(axis=0)[shown]
        within = ", ".join(f"{r:g} mm {w:.2f}" for r, w in zip(SHOWN_MM, worst))
        print(f"{energy:g} MeV: largest miss of the share, %, within {within}", file=sys.stderr)
    print(f"HALO_RANGE_MM = np.array({[round(r, 2) for r in ranges]})")
    print(f"HALO_DEPTH = np.array({SHARES.tolist()})")
    _print("HALO_WEIGHT", weights, 3)
    _print("HALO_SIGMA_MM", sigmas, 1)


def _print(name: str, rows: list[list[float]], digits: int) -> None:
    print(f"{name} = np.array(\n    [")
    for row in rows:
        values = ", ".join(f"{value:.{digits}f}" for value in row)
        print(f"        [{values}],")
    print("    ]\n)")


if __name__ == "__main__":
    main()
