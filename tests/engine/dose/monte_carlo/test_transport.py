"""One process at a time: slowing down, straggling, scattering, reactions, and what switches do."""

import numpy as np
import pytest

from engine.patient.tissues import MATERIALS
from engine.physics.materials import Material, stopping_ratio_table, water
from engine.physics.stopping_power import csda_range_mm, energy_at_range
from engine.physics.straggling import range_straggling_mm

PROCESSES = ("straggling", "scattering", "non_elastic", "nuclear_elastic", "proton_proton")
NONE = dict.fromkeys(PROCESSES, False)
CARBON = Material("carbon", 1.8, {"C": 1.0})


@pytest.fixture(scope="module")
def tank(box):
    return box((120.0, 90.0, 120.0), (4.0, 1.0, 4.0))


@pytest.fixture(scope="module")
def pencil(spots, proton_machine):
    return spots(proton_machine(100.0), 1.0, 1.0)  # not on a face between voxels


def with_only(tank, pencil, n, *processes, **settings):
    switches = NONE | dict.fromkeys(processes, True)
    return tank.simulate(pencil, n, **switches, scores="dose to medium", **settings)


@pytest.mark.parametrize("energy_mev", [70.0, 150.0, 230.0])
@pytest.mark.parametrize("i_water_ev", [75.0, 78.0])
def test_without_processes_protons_go_straight_and_stop_at_the_csda_range(
    box, spots, proton_machine, energy_mev, i_water_ev
):
    expected = float(csda_range_mm(energy_mev, water(i_water_ev)))
    fine = box((6.0, np.ceil(expected) + 2.0, 6.0), (2.0, 0.1, 2.0), i_water_ev=i_water_ev)
    dose = fine.dose(spots(proton_machine(energy_mev)), 3, "slowing down")
    in_column = dose[1, :, 1]
    assert in_column.sum() == dose.sum() > 0.0
    assert abs(fine.depth_mm[np.flatnonzero(in_column)[-1]] - expected) <= 0.05 + 1e-3


@pytest.mark.parametrize("energy_mev", [70.0, 150.0, 230.0])
def test_without_processes_every_voxel_gets_the_csda_loss(box, spots, proton_machine, energy_mev):
    tank = box((6.0, 360.0, 6.0), (2.0, 1.5, 2.0))
    dose = tank.dose(spots(proton_machine(energy_mev)), 2, "slowing down")
    edges = 1.5 * np.arange(241)
    residual = energy_at_range(np.maximum(csda_range_mm(energy_mev) - edges, 0.0))
    found = tank.energy_mev(dose)[1, :, 1]
    np.testing.assert_allclose(found, -np.diff(residual), atol=2e-3 * found.max())
    assert found.sum() == pytest.approx(energy_mev, rel=1e-5)


@pytest.mark.parametrize("energy_mev", [70.0, 100.0, 200.0])
def test_ranges_spread_by_straggling_as_theory_says(box, same_place, proton_machine, energy_mev):
    # Bohr's straggling integrated over the path, engine.physics.straggling
    range_mm, n = float(csda_range_mm(energy_mev)), 12_000
    expected = float(range_straggling_mm(energy_mev))
    column = box((4.0, 1.1 * range_mm, 4.0), (4.0, 0.25, 4.0))
    stops = column.stops_mm(n, same_place(proton_machine(energy_mev)), "straight")
    found = np.sqrt(stops.var() - 0.25**2 / 12)
    assert found == pytest.approx(expected, rel=0.02)
    assert stops.mean() == pytest.approx(range_mm, abs=0.03 + 3.0 * expected / np.sqrt(n))


def test_without_straggling_ranges_do_not_spread(box, same_place, proton_machine):
    column = box((4.0, 90.0, 4.0), (4.0, 0.25, 4.0))
    assert np.ptp(column.stops_mm(50, same_place(proton_machine(100.0)), "slowing down")) == 0.0


def test_the_energy_spectrum_spreads_ranges_by_its_own_width(box, same_place, proton_machine):
    column, n = box((4.0, 95.0, 4.0), (4.0, 0.25, 4.0)), 4000
    machine = proton_machine(100.0, std_mev=1.0)
    stops = column.stops_mm(n, same_place(machine), "slowing down")
    per_mev = 0.5 * float(csda_range_mm(101.0) - csda_range_mm(99.0))
    assert stops.std() == pytest.approx(per_mev, rel=4.0 / np.sqrt(2 * n))


def test_straggling_alone_spreads_depths_and_nothing_sideways(tank, pencil):
    found = with_only(tank, pencil, 3000, "straggling")
    dose = found.quantities["dose"]
    assert np.count_nonzero(dose.sum(axis=1)) == 1
    assert np.count_nonzero(dose.sum(axis=(0, 2))) > 77 + 2
    assert found.balance.straggled_mev != 0.0
    assert found.balance.neutral_mev == found.balance.left_mev == 0.0


def test_scattering_alone_spreads_sideways_and_straggles_nothing(tank, pencil):
    found = with_only(tank, pencil, 3000, "scattering")
    dose = found.quantities["dose"]
    assert np.count_nonzero(dose.sum(axis=1)) > 4
    assert found.balance.straggled_mev == found.balance.neutral_mev == 0.0
    assert np.flatnonzero(dose.sum(axis=(0, 2)))[-1] == 77  # the CSDA range is 77.17 mm


def test_only_non_elastic_reactions_set_neutrals_free(tank, pencil):
    for process in PROCESSES:
        neutral = with_only(tank, pencil, 3000, process).balance.neutral_mev
        assert (neutral > 1.0) == (process == "non_elastic"), process


def test_elastic_reactions_lose_no_energy_and_scatter_sideways(tank, pencil):
    nothing = with_only(tank, pencil, 3000).quantities["dose"]
    for process in ("nuclear_elastic", "proton_proton"):
        found = with_only(tank, pencil, 3000, process)
        dose = found.quantities["dose"]
        assert np.count_nonzero(nothing.sum(axis=1)) == 1
        assert np.count_nonzero(dose.sum(axis=1)) > 20, process
        total = found.balance.patient_mev + found.balance.left_mev
        assert total == pytest.approx(100.0, rel=1e-4)


def test_hydrogen_scatters_protons_only_where_there_is_hydrogen(box, pencil):
    block = box((40.0, 60.0, 40.0), (4.0, 1.0, 4.0), filling=CARBON)
    off = with_only(block, pencil, 2000, "straggling", "scattering")
    on = with_only(block, pencil, 2000, "straggling", "scattering", "proton_proton")
    np.testing.assert_array_equal(off.quantities["dose"], on.quantities["dose"])


def test_scored_primaries_are_the_dose_without_secondaries(tank, pencil):
    everything = tank.simulate(pencil, 20_000)
    primaries = tank.simulate(pencil, 20_000, scored_particles="primaries")
    both = [found.quantities["dose"].astype(float) for found in (everything, primaries)]
    assert np.all(both[1] <= both[0] * (1 + 1e-6))
    assert 0.02 < 1.0 - both[1].sum() / both[0].sum() < 0.08
    assert everything.balance == primaries.balance
    em = [tank.dose(pencil, 5000, "electromagnetic", scored_particles=p)
          for p in ("all", "primaries")]  # fmt: skip
    np.testing.assert_array_equal(*em)


@pytest.mark.parametrize("name", ["cortical_bone", "lung", "adipose"])
@pytest.mark.parametrize("physics", ["slowing down", "electromagnetic"])
def test_layers_shift_the_range_by_their_relative_stopping_power(
    box, spots, proton_machine, distal, name, physics
):
    material, thickness = MATERIALS[name], 20.0
    plan = spots(proton_machine(120.0))
    bare = box((60.0, 120.0, 60.0), (60.0, 0.5, 60.0))
    behind = box((60.0, 140.0, 60.0), (60.0, 0.5, 60.0), [(material, 30.0, 30.0 + thickness)])
    reached = [distal(b.depth_mm, b.dose(plan, 4000, physics).sum(axis=(0, 2)), 0.5)
               for b in (bare, behind)]  # fmt: skip
    # 120 MeV after 30 mm of water; the ratio along the layer, at the energy in its middle
    residual = float(csda_range_mm(120.0)) - 30.0
    rsp = 1.0
    for _ in range(5):
        middle = float(energy_at_range(residual - 0.5 * rsp * thickness))
        ratio = stopping_ratio_table((material.stated(),), np.array([middle]), 75.0)[0, 0]
        rsp = material.density_g_cm3 * ratio
    assert reached[0] - reached[1] == pytest.approx(thickness * (rsp - 1.0), abs=0.2)
