"""References made without our engine, or of published geometry, through the whole comparison."""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.evaluation.gamma import gamma_3d
from engine.geometry.single_spots import SingleSpot
from engine.io.reference_dose import ReferenceDose, read_reference_dose, write_reference_dose
from engine.machine.commissioning import core_variance_mm2, pristine_peak
from engine.machine.single_spots import SpotKind
from engine.patient.ct import DEFAULT_CALIBRATION
from engine.patient.grid import Grid
from engine.patient.tissues import BIN_MATERIALS
from engine.physics.constants import GY_MM2_PER_MEV_CM2_G
from engine.physics.materials import WATER
from scripts.validate_reference import compare, compute

CRITERION = dict(dose_percent=1.0, distance_mm=1.0, local=False, cutoff_percent=10.0)
ENGINE = PencilBeamEngine(lateral_cutoff=0.001)


def closed_form(grid: Grid, spot: SingleSpot, i_ev: float, n_sub: int = 3) -> np.ndarray:
    """Dose (nz, ny, nx) in Gy of one spot without nuclear interactions, in a tank of water that
    fills the grid and is entered through its lowest y: depth dose times one Gaussian.

    Written from the formulas in numpy, with sub-voxels; shares only the depth kernels.
    """
    kind, direction = spot.kind, np.array(spot.direction)
    depth = np.arange(0.0, 110.0, 0.05)
    dose = pristine_peak(kind.energy_mev, depth, kind.energy_std_mev, 0.05, i_ev, False)
    scatter = core_variance_mm2(kind.energy_mev, depth, i_ev)
    total = np.zeros(grid.size)
    steps = (np.arange(n_sub) + 0.5) / n_sub - 0.5
    for dz, dy, dx in np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3):
        offset = np.array([dx, dy, dz]) * grid.spacing_mm[0]
        points = grid.points_mm() + offset - spot.position_mm
        t = points @ direction
        r2 = (points**2).sum(axis=1) - t * t
        z = (points[:, 1] + spot.position_mm[1] - grid.lower_mm[1]) / direction[1]
        cross = kind.correlation * kind.sigma_mm * kind.angle_std_rad
        variance = kind.sigma_mm**2 + 2 * cross * t + (kind.angle_std_rad * t) ** 2
        variance = variance + np.interp(z, depth, scatter)
        planar = np.interp(z, depth, dose.dose_mev_cm2_g, right=0.0) * GY_MM2_PER_MEV_CM2_G
        total += planar * np.exp(-0.5 * r2 / variance) / (2 * np.pi * variance)
    return (spot.weight * total / n_sub**3).reshape(grid.shape)


@pytest.mark.parametrize("direction", [(0.0, 1.0, 0.0), (0.36, 0.8, 0.48), (-0.6, 0.8, 0.0)])
@pytest.mark.parametrize("i_ev", [75.0, 78.0])
def test_a_spot_in_water_is_the_closed_form_at_any_angle(tmp_path, direction, i_ev):
    grid = Grid.centered((40, 50, 40), (2.0, 2.0, 2.0))
    start = np.array([3.0, grid.lower_mm[1], -4.0]) - 20.0 * np.array(direction)
    start = start - np.array([30.0, 0.0, 30.0]) * np.sign([direction[0], 0.0, direction[2]]) / 2
    spot = SingleSpot(SpotKind(90.0, 0.7, 4.0, 0.004, -0.3), tuple(start), direction, 1e7)
    ones = np.ones(grid.shape, np.float32)
    reference = ReferenceDose(
        "closed_form", grid, closed_form(grid, spot, i_ev).astype(np.float32), None, ones, None,
        np.zeros(grid.shape, np.uint8), (WATER,), (spot,), False, "dose to medium", i_ev, "numpy",
    )  # fmt: skip
    write_reference_dose(reference, tmp_path / "closed_form.npz")
    reference = read_reference_dose(tmp_path / "closed_form.npz")
    ours, _ = compute(reference, ENGINE, DEFAULT_CALIBRATION)
    compared = compare(reference, ours, CRITERION)
    rows = {(r.group, r.quantity): r for r in compared.rows}
    assert compared.gamma.pass_rate_percent == 100.0
    assert rows["Dose", "integral dose over the reference's"].ours == pytest.approx(1.0, abs=3e-3)
    numbers = compared.numbers
    assert numbers["r80_mm"] == pytest.approx(numbers["reference_r80_mm"], abs=0.1)
    assert numbers["core_sigma_mm"] == pytest.approx(numbers["reference_core_sigma_mm"], rel=0.02)
    shifted = np.roll(ours, 2, axis=0)  # 4 mm
    assert gamma_3d(reference.dose_gy, shifted, grid, **CRITERION).pass_rate_percent < 60.0


def half_slab(hu: int, spacing_mm: float = 1.0) -> ReferenceDose:
    """Burlacu 2024: 10 × 10 × 10 cm³ of water, a slab at 2 to 3 cm depth in one half; 100 MeV with
    a spread of 1 MeV, spot of 3 mm, no nuclear interactions."""
    n = int(100.0 / spacing_mm)
    grid = Grid.centered((n, n, n), (spacing_mm,) * 3)
    _, y, x = grid.axes_mm()
    slab = ((y > -30.0) & (y < -20.0))[None, :, None] & (x > 0.0)[None, None, :]
    slab = np.broadcast_to(slab, grid.shape)
    number = np.array([hu])
    density = np.where(slab, DEFAULT_CALIBRATION.density_g_cm3(number)[0], 1.0).astype(np.float32)
    tissue = BIN_MATERIALS[int(DEFAULT_CALIBRATION.composition(number)[0])]
    spot = SingleSpot(SpotKind(100.0, 1.0, 3.0, 1e-8), (0.0, -50.0, 0.0), (0.0, 1.0, 0.0), 1.0)
    return ReferenceDose(
        f"half_slab_{hu}", grid, np.ones(grid.shape, np.float32), None, density, None,
        slab.astype(np.uint8), (WATER, tissue), (spot,), False, "dose to medium", 75.0, "",
    )  # fmt: skip


@pytest.mark.parametrize("hu", [-1000, 1000])
def test_half_slab_shifts_the_range_of_its_half_by_its_water_equivalent_thickness(hu):
    reference = half_slab(hu)
    dose, medium = compute(reference, ENGINE, DEFAULT_CALIBRATION)
    # 10 mm of slab; RSP of the slab from its density and composition
    shift = 10.0 * (1.0 - float(medium.rsp(dose)[50, 25, 75]))
    depths = []
    for column in (45, 54):  # 4.5 mm to either side of the edge, two and a half rays away
        profile = dose[49:51, :, column].mean(axis=0)
        top = int(np.argmax(profile))
        depths.append(np.interp(-0.8, -profile[top:] / profile[top], np.arange(top, 100) + 0.5))
    assert depths[1] - depths[0] == pytest.approx(shift, abs=0.2)
    # the open half stops at the projected range of 100 MeV in water: 77.05 mm by Monte Carlo,
    # less the distal shift of the energy spread's larger straggling, all at I = 75 eV
    assert depths[0] == pytest.approx(77.05, abs=0.4)


def test_dose_to_medium_in_the_slab_is_dose_to_water_times_the_stopping_power_ratio():
    reference = half_slab(1000, 2.0)
    to_medium, medium = compute(reference, ENGINE, DEFAULT_CALIBRATION)
    scored_in_water = ReferenceDose(**{**vars(reference), "scored": "dose to water"})
    to_water, _ = compute(scored_in_water, ENGINE, DEFAULT_CALIBRATION)
    slab, high = reference.material == 1, to_water > 0.1 * to_water.max()
    ratio = to_medium[high & slab] / to_water[high & slab]
    # Schneider's bin of 1000 … 1100 HU: RSP 1.486 at 1.639 g/cm³, 100 MeV (Bragg additivity)
    assert ratio == pytest.approx(1.486 / 1.639, rel=3e-3)
    assert np.all(to_medium[high & ~slab] == to_water[high & ~slab])


def with_noise(reference: ReferenceDose, dose: np.ndarray, seed: int) -> ReferenceDose:
    """A dose with the noise of 1 % at its maximum that Monte Carlo would have."""
    sem = 0.01 * np.sqrt(dose * dose.max())
    noisy = dose + sem * np.random.default_rng(seed).normal(size=dose.shape)
    return replace(
        reference, dose_gy=np.maximum(noisy, 0.0).astype(np.float32), sem_gy=sem.astype(np.float32)
    )


@pytest.mark.parametrize("hu", [-1000, 200, 1000])
def test_noise_of_a_percent_hardly_moves_range_and_width(hu):
    reference = half_slab(hu, 2.0)
    dose, _ = compute(reference, ENGINE, DEFAULT_CALIBRATION)
    for seed in range(3):
        numbers = compare(with_noise(reference, dose, seed), dose, CRITERION).numbers
        assert numbers["r80_mm"] == pytest.approx(numbers["reference_r80_mm"], abs=0.1)
        assert numbers["core_sigma_mm"] == pytest.approx(
            numbers["reference_core_sigma_mm"], rel=0.01
        )
        assert numbers["mean_difference_percent"] == pytest.approx(0.0, abs=0.3)


def test_range_behind_half_a_slab_is_that_of_the_protons_that_go_deepest():
    reference = half_slab(-1000, 2.0)
    dose, _ = compute(reference, ENGINE, DEFAULT_CALIBRATION)
    found = compare(replace(reference, dose_gy=dose.astype(np.float32)), dose, CRITERION).numbers
    assert found["r80_mm"] == pytest.approx(77.05 + 10.0, abs=1.0)  # 10 mm of them in air


def test_a_beam_that_leaves_has_a_width_and_no_range():
    reference = half_slab(1000, 2.0)
    spot = reference.spots[0]
    fast = replace(spot, kind=replace(spot.kind, energy_mev=180.0))
    reference = replace(reference, spots=(fast,))
    dose, _ = compute(reference, ENGINE, DEFAULT_CALIBRATION)
    for scored in (dose, np.where(np.arange(50)[None, :, None] < 40, dose, 0.0)):
        density = np.where(scored > 0.0, reference.density_g_cm3, 0.0012).astype(np.float32)
        seen = replace(reference, dose_gy=scored.astype(np.float32), density_g_cm3=density)
        found = compare(seen, scored, CRITERION).numbers
        assert np.isnan(found["r80_mm"]) and np.isnan(found["reference_r80_mm"])
        assert found["core_sigma_mm"] == pytest.approx(found["reference_core_sigma_mm"], rel=1e-3)


def test_widths_of_neighboring_spots_are_not_told():
    reference = half_slab(200, 2.0)
    spot = reference.spots[0]
    beside = replace(spot, position_mm=(6.0, -50.0, 0.0), weight=0.5)
    reference = replace(reference, spots=(spot, beside))
    dose, _ = compute(reference, ENGINE, DEFAULT_CALIBRATION)
    found = compare(replace(reference, dose_gy=dose.astype(np.float32)), dose, CRITERION).numbers
    assert np.isnan(found["core_sigma_mm"])
    assert found["r80_mm"] == pytest.approx(found["reference_r80_mm"], abs=1e-3)


class AsksAndTells:
    """An engine that notes what it is asked to be like, and scores a dose of one everywhere."""

    def __init__(self, scores: str):
        self.scores, self.asked = scores, None

    def like(self, medium, nuclear, scored):
        self.asked = (medium, nuclear, scored)
        return self

    def dose(self, patient, plan, grid):
        return {"dose": np.ones(grid.shape, np.float32)}


@pytest.mark.parametrize("scores", ["dose to water", "dose to medium"])
@pytest.mark.parametrize("scored", ["dose to water", "dose to medium"])
def test_an_engine_is_asked_for_the_reference_medium_and_its_dose_is_converted(scores, scored):
    reference = replace(half_slab(1000, 5.0), scored=scored, i_water_ev=78.0)
    engine = AsksAndTells(scores)
    dose, medium = compute(reference, engine, DEFAULT_CALIBRATION)
    assert engine.asked == (medium, False, scored)
    assert medium.i_water_ev == 78.0
    expected = 1.0
    if scores != scored:
        ratio = medium.stopping_ratio()
        expected = ratio if scored == "dose to medium" else 1.0 / ratio
        assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(dose, np.broadcast_to(expected, dose.shape), rtol=1e-6)
