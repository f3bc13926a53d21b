"""Hinges find the material they lie in: depth doses and widths do not depend on the sequence."""

import numpy as np
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.dose.monte_carlo.tables import Processes, physics_tables
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.machine.single_spots import SpotKind
from engine.patient.ct import SchneiderCalibration
from engine.patient.phantoms import half_slab_tank
from engine.patient.tissues import MATERIALS
from engine.physics.constants import PROTON_MASS_MEV
from engine.physics.materials import AIR, WATER, stopping_ratio_table
from engine.physics.stopping_power import csda_range_mm, energy_at_range

BONE = MATERIALS["cortical_bone"].stated()
HALF_MM = 30.0


def slabs(sequence, thickness_mm, until_mm):
    """Layers (material, from, to) that repeat a sequence of materials."""
    edges = np.arange(0.0, until_mm, thickness_mm)
    return [(sequence[i % len(sequence)], e, e + thickness_mm) for i, e in enumerate(edges)]


def fermi_eyges(layers, energy_mev, depths_mm):
    """Exact second moments <x²> mm² at depths (n,), and where protons stop, mm.

    Marches in steps of 0.05 mm with the engine's own scattering tables: the variance that screened
    Rutherford scattering up to its largest angle has per step, whatever the split in soft and hard.
    """
    materials = tuple(dict.fromkeys(m for m, *_ in layers))
    tables = physics_tables(materials, 75.0, Processes(nuclear_elastic=False))
    media = tables.media.astype(float)
    step, residual, depth = 0.05, float(csda_range_mm(energy_mev)), 0.0
    angle2 = cross = place2 = 0.0
    found = dict.fromkeys(depths_mm, np.nan)
    while residual > 0.0:
        material = next(m for m, low, high in layers if low <= depth + 0.5 * step < high)
        e = float(energy_at_range(residual))
        row = media[materials.index(material), int(e)]
        used = material.density_g_cm3 * row[0] * step
        pv = e * (e + 2 * PROTON_MASS_MEV) / (e + PROTON_MASS_MEV)
        pc2 = e * (e + 2 * PROTON_MASS_MEV)
        logarithm = np.log(tables.hard_limit2 * pc2) + row[3] - row[2] - 1.0
        power = 0.5 * row[1] * used / pv**2 * logarithm  # per plane
        place2 += 2 * cross * step + angle2 * step**2 + power * step**2 / 3
        cross += angle2 * step + power * step / 2
        angle2 += power
        depth, residual = depth + step, residual - used
        for at in found:
            if abs(at - depth) < 0.5 * step:
                found[at] = place2
    return np.array(list(found.values())), depth


def second_moment(box, dose, at_mm):
    """<x²> in the layer at a depth, mm², the voxels' own width taken off; mean of both axes."""
    layer = dose[:, np.argmin(np.abs(box.depth_mm - at_mm))]
    z, _, x = box.grid.axes_mm()
    total = layer.sum()
    return 0.5 * ((layer.sum(0) * x**2).sum() + (layer.sum(1) * z**2).sum()) / total - (
        box.grid.spacing_mm[2] ** 2 / 12
    )


SEQUENCES = {
    "water": (WATER,), "bone": (BONE,), "bone and water": (BONE, WATER),
    "bone, air and water": (BONE, AIR, WATER, AIR),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("thickness_mm", [1.0, 4.0])
def test_any_sequence_of_slabs_widens_the_beam_as_fermi_and_eyges_say(
    box, spots, proton_machine, name, thickness_mm
):
    layers = slabs(SEQUENCES[name], thickness_mm, 260.0)
    _, end = fermi_eyges(layers, 120.0, ())
    at = np.round(np.array([0.3, 0.6, 0.85]) * end) + 0.5
    expected, _ = fermi_eyges(layers, 120.0, tuple(at))
    depth = np.ceil(end) + 5.0
    stack = box((2 * HALF_MM, depth, 2 * HALF_MM), (0.5, 1.0, 0.5), layers)
    dose = stack.dose(
        spots(proton_machine(120.0), 0.25, 0.25), 20_000, "electromagnetic", straggling=False
    )  # fmt: skip
    found = np.array([second_moment(stack, dose, depth_mm) for depth_mm in at]) - 0.25**2
    np.testing.assert_allclose(found / expected, 1.0, atol=0.05)


@pytest.mark.parametrize("thickness_mm", [1.0, 4.0])
def test_a_stack_of_slabs_shortens_the_range_by_what_they_stop(
    box, spots, proton_machine, distal, thickness_mm
):
    layers = slabs((BONE, AIR, WATER), thickness_mm, 240.0)
    stack = box((60.0, 180.0, 60.0), (60.0, 0.5, 60.0), layers)
    dose = stack.energy_mev(
        stack.dose(spots(proton_machine(120.0)), 8000, "electromagnetic", scores="dose to medium")
    ).sum(axis=(0, 2))
    # Depth dose over water-equivalent depth: as in water, but for the detour (bone scatters more).
    rsp = {m: float(m.density_g_cm3 * stopping_ratio_table((m,), np.array([80.0]), 75.0)[0, 0])
           for m in (BONE, AIR, WATER)}  # fmt: skip
    per_voxel = np.array([rsp[m] for d in stack.depth_mm for m, a, b in layers if a < d < b])
    wet = np.cumsum(0.5 * per_voxel) - 0.25 * per_voxel
    dense = per_voxel > 0.5
    r80 = distal(wet[dense], dose[dense] / per_voxel[dense])
    assert r80 == pytest.approx(0.9985 * float(csda_range_mm(120.0)), abs=0.35)


@pytest.mark.parametrize("layers", [(), ((BONE, 20.0, 32.0), (AIR, 40.0, 52.0))])
def test_depth_dose_and_width_do_not_depend_on_the_size_of_voxels(
    box, spots, proton_machine, layers
):
    n, plan = 20_000, spots(proton_machine(100.0), 1.0, 1.0)
    depth_doses, variances = [], []
    for size in (0.5, 1.0, 2.0, 4.0):
        tank = box((64.0, 88.0, 64.0), (2.0, size, 2.0), layers)
        dose = tank.energy_mev(tank.dose(plan, n, "electromagnetic", scores="dose to medium"))
        depth_doses.append(dose.sum(axis=(0, 2)).reshape(22, -1).sum(axis=1))
        z, _, x = tank.grid.axes_mm()
        near = (tank.depth_mm > 56.0) & (tank.depth_mm < 64.0)
        across = dose[:, near].sum(axis=1)
        along_x, along_z = across.sum(0) * (x - 1.0) ** 2, across.sum(1) * (z - 1.0) ** 2
        variances.append(0.5 * (along_x + along_z).sum() / across.sum())
    top = depth_doses[0].max()
    for other in depth_doses[1:]:
        # the noise of 20 000 ranges, 0.006 mm, moves the last 4 mm by a percent
        np.testing.assert_allclose(other, depth_doses[0], atol=0.015 * top)
        assert other.sum() == pytest.approx(depth_doses[0].sum(), rel=1e-3)
    np.testing.assert_allclose(variances, variances[0], rtol=0.05)


def test_a_vacuum_gap_changes_nothing_but_the_width(box, spots, proton_machine, distal):
    plan = spots(proton_machine(100.0))
    whole = box((120.0, 100.0, 120.0), (120.0, 1.0, 120.0))
    gap = box((120.0, 130.0, 120.0), (120.0, 1.0, 120.0))
    gap.medium.density[:, 30:60] = 0.0
    doses = [b.dose(plan, 8000, "electromagnetic").sum(axis=(0, 2)) for b in (whole, gap)]
    assert np.all(doses[1][30:60] == 0.0)
    joined = np.concatenate([doses[1][:30], doses[1][60:]])
    np.testing.assert_allclose(joined, doses[0], atol=0.02 * doses[0].max())
    ranges = [distal(whole.depth_mm, d) for d in (doses[0], joined)]
    assert ranges[0] == pytest.approx(ranges[1], abs=0.1)


@pytest.mark.parametrize("slab_hu", [1000.0, -1000.0])
def test_a_slab_in_one_half_of_a_wide_beam_moves_that_half_of_the_range(slab_hu):
    # Burlacu 2024: 10 mm of slab in the half x > 0 of a tank of water
    patient = half_slab_tank(slab_hu, spacing_mm=1.0)  # coarser voxels would blur the peak
    grid = patient.grid
    wide = SpotKind(90.0, 0.5, 20.0, 0.0)
    spot = SingleSpot(wide, (0.0, float(grid.lower_mm[1]), 0.0), (0.0, 1.0, 0.0), 1.0)
    engine = MonteCarloEngine(n_histories=150_000)
    dose = engine.dose(patient, plan_of([spot]), grid)["dose"].astype(float)
    _, y, x = grid.axes_mm()
    behind, beside = (
        _distal_mm(y, dose[:, :, side].sum(axis=(0, 2)))
        for side in ((x > 8.0) & (x < 25.0), (x < -8.0) & (x > -25.0))
    )
    water_equivalent = float(SchneiderCalibration(90.0).rsp(np.array([slab_hu]))[0])
    assert beside - behind == pytest.approx(10.0 * (water_equivalent - 1.0), abs=0.3)


def _distal_mm(y, dose):
    top = int(np.argmax(dose))
    return float(np.interp(-0.8, -dose[top:] / dose[top], y[top:]))
