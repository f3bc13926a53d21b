import numpy as np
import pytest

from engine.patient.ct import rsp_volume
from engine.patient.grid import Grid
from engine.patient.medium import medium_of
from engine.patient.patient import Patient, Structure
from engine.patient.rsp_map import RspMap
from engine.patient.tissue_ladder import ladder_materials, tissue_ladder
from engine.patient.tissues import MATERIALS
from engine.physics.materials import relative_stopping_power, stopping_ratio_table

SHAPE = (4, 5, 6)
HU = np.zeros(SHAPE, np.float32)


def values(seed: int = 0) -> np.ndarray:
    rsp = np.random.default_rng(seed).uniform(0.0, 3.5, SHAPE).astype(np.float32)
    rsp[0, 0] = 0.0
    return rsp


@pytest.mark.parametrize("energy_mev", [70.0, 100.0, 200.0])
@pytest.mark.parametrize("i_water_ev", [75.0, 78.0])
def test_density_times_composition_gives_the_map_exactly(energy_mev, i_water_ev):
    measured = RspMap(values(), energy_mev, i_water_ev)
    assert np.array_equal(measured.rsp(HU), values())
    ratios = stopping_ratio_table(measured.materials, [energy_mev], i_water_ev)[:, 0]
    again = measured.density_g_cm3(HU) * ratios[measured.composition(HU)]
    np.testing.assert_allclose(again, values(), rtol=2e-7)  # float32


def test_tissues_are_found_again_by_their_stopping_power():
    rungs = tissue_ladder()
    rsp = np.array([relative_stopping_power(m) for m in rungs], np.float32)[None, None]
    measured = RspMap(rsp)
    assert np.array_equal(measured.composition(rsp)[0, 0], np.arange(len(rungs)))
    found = measured.density_g_cm3(rsp)[0, 0]
    np.testing.assert_allclose(found, [m.density_g_cm3 for m in rungs], rtol=1e-6)


def test_overrides_and_vacuum_come_first():
    body, insert = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    body[:, 1:], insert[1, 2] = True, True
    structures = [
        Structure("External", body, "external"),
        Structure("PTV", insert, "target", "titanium"),
    ]
    patient = Patient(
        "box", Grid.centered(SHAPE, (2.0, 2.0, 2.0)), HU, {s.name: s for s in structures},
        {"PTV": 60.0}, 30,
    )  # fmt: skip
    measured = RspMap(values())
    assert np.array_equal(rsp_volume(patient, measured)[2, 1:], values()[2, 1:])
    medium = medium_of(patient, measured)
    assert np.all(medium.density_g_cm3[1, 2] == np.float32(MATERIALS["titanium"].density_g_cm3))
    assert not medium.density_g_cm3[:, 0].any()


def test_the_map_that_was_given_stays_as_it_was():
    given = values()
    measured = RspMap(given)
    measured.rsp(HU)[:] = 5.0
    assert np.array_equal(measured.rsp(HU), values())
    assert measured.materials is ladder_materials()


@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.nan, "values holds 1 NaN"), (np.inf, "values holds 1 NaN"), (-0.1, "spans -0.1"),
     (100.0, "spans 0 … 100")],
)  # fmt: skip
def test_impossible_stopping_powers_are_refused(bad, message):
    rsp = values()
    rsp[1, 1, 1] = bad
    with pytest.raises(ValueError, match=message):
        RspMap(rsp)


@pytest.mark.parametrize("rsp", [np.ones((3, 3)), np.ones(SHAPE, bool), np.ones(SHAPE, complex)])
def test_what_is_no_volume_of_numbers_is_refused(rsp):
    with pytest.raises(ValueError, match=r"values is .*\(nz, ny, nx\)"):
        RspMap(rsp)


@pytest.mark.parametrize("energy_mev", [1.0, 1000.0, np.nan])
def test_energies_beyond_therapy_are_refused(energy_mev):
    with pytest.raises(ValueError, match="energy_mev"):
        RspMap(values(), energy_mev)


def test_another_volume_is_refused():
    with pytest.raises(ValueError, match=r"values has shape \(4, 5, 6\), the CT \(6, 5, 4\)"):
        RspMap(values()).rsp(HU.T)
