import numpy as np
import pytest

from engine.physics.materials import (
    AIR,
    BRASS,
    LEAD,
    LEXAN,
    PMMA,
    TITANIUM,
    WATER,
    Material,
    relative_stopping_power,
    stopping_ratio_table,
    water,
)
from engine.physics.stopping_power import bethe_mev_cm2_g

# ICRU 44/46 compositions; I and RSP at 100 MeV by Bragg additivity, computed independently.
TISSUES = [
    ("muscle", 1.05, "H.102 C.143 N.034 O.710 Na.001 P.002 S.003 Cl.001 K.004", 74.6, 1.042),
    ("adipose", 0.95, "H.114 C.598 N.007 O.278 Na.001 S.001 Cl.001", 64.8, 0.970),
    ("cortical", 1.92, "H.034 C.155 N.042 O.435 Na.001 Mg.002 P.103 S.003 Ca.225", 112.0, 1.691),
]


def material(name: str, density: float, text: str) -> Material:
    pairs = (word.split(".") for word in text.split())
    return Material(name, density, {symbol: float("0." + share) for symbol, share in pairs})


@pytest.mark.parametrize("name, density, text, i_ev, rsp", TISSUES)
def test_tissues_follow_bragg_additivity(name, density, text, i_ev, rsp):
    tissue = material(name, density, text)
    assert tissue.mean_excitation_ev == pytest.approx(i_ev, abs=0.1)
    assert relative_stopping_power(tissue) == pytest.approx(rsp, rel=1e-3)


def test_water_has_relative_stopping_power_one_by_either_excitation_energy():
    additive = Material("water", 1.0, WATER.mass_fractions)
    assert relative_stopping_power(WATER) == 1.0
    assert relative_stopping_power(additive) == pytest.approx(1.0, abs=1e-14)
    assert additive.mean_excitation_ev == pytest.approx(75.3, abs=0.05)  # ICRU 37/49 elements


def test_water_carries_the_excitation_energy_it_is_given():
    assert WATER.mean_excitation_ev == 75.0  # PSTAR, ICRU 49
    assert water(78.0).mean_excitation_ev == 78.0  # ICRU 90
    assert WATER.z_over_a == pytest.approx(0.55508, rel=1e-4)


def test_plastics_and_air_match_their_published_values():
    assert relative_stopping_power(PMMA) == pytest.approx(1.165, abs=1e-3)
    assert LEXAN.mean_excitation_ev == pytest.approx(73.1, abs=0.1)  # ICRU 49
    assert relative_stopping_power(AIR) == pytest.approx(0.00106, rel=0.01)


def test_energy_hardly_changes_the_relative_stopping_power_of_bone():
    bone = material(*TISSUES[2][:3])
    change = relative_stopping_power(bone, 200.0) / relative_stopping_power(bone, 100.0)
    assert change == pytest.approx(1.6970 / 1.6905, abs=2e-4)


def test_ratio_times_density_is_the_relative_stopping_power_whatever_the_energy():
    bone, energies = material(*TISSUES[2][:3]), np.array([5.0, 70.0, 230.0])
    table = stopping_ratio_table((bone, PMMA, TITANIUM), energies)
    assert table.shape == (3, 3)
    assert table.dtype == np.float64
    for i, one in enumerate((bone, PMMA, TITANIUM)):
        rsp = [relative_stopping_power(one, e) for e in energies]
        np.testing.assert_allclose(one.density_g_cm3 * table[i], rsp, rtol=1e-15)


@pytest.mark.parametrize("i_water_ev", [75.0, 78.0])
def test_stated_materials_stop_as_by_two_bethe_formulas(i_water_ev):
    energies = np.array([50.0, 100.0, 200.0])
    muscle = material(*TISSUES[0][:3]).stated()
    for one in (TITANIUM, BRASS, muscle):
        table = stopping_ratio_table((one,), energies, i_water_ev)[0]
        of_water = bethe_mev_cm2_g(energies, WATER.z_over_a, i_water_ev)
        ours = bethe_mev_cm2_g(energies, one.z_over_a, one.mean_excitation_ev)
        np.testing.assert_allclose(table, ours / of_water, rtol=2e-4)  # T_max beside 2 m β²γ²


def test_additive_materials_are_compared_by_additivity_at_75_ev_and_as_stated_otherwise():
    muscle = material(*TISSUES[0][:3])
    at = {
        i: [float(stopping_ratio_table((m,), [100.0], i)[0, 0]) for m in (muscle, muscle.stated())]
        for i in (75.0, 78.0)
    }
    assert at[75.0][0] / at[75.0][1] == pytest.approx(1.0005, abs=1e-4)
    assert at[78.0][0] == at[78.0][1]


@pytest.mark.parametrize("i_water_ev", [75.0, 78.0])
def test_water_is_exactly_one_at_every_energy_whatever_it_states(i_water_ev):
    rounded = Material("water", 1.0, {"H": 0.112, "O": 0.888})
    table = stopping_ratio_table((WATER, water(78.0), rounded), [0.01, 1.0, 250.0], i_water_ev)
    assert np.all(table == 1.0)


def test_ratio_stays_positive_and_constant_below_one_mev():
    table = stopping_ratio_table((LEAD, TITANIUM, AIR), [1e-3, 0.5, 1.0, 1.1])
    assert np.all(table > 0.0)
    assert np.array_equal(table[:, 0], table[:, 2])
    assert np.array_equal(table[:, 1], table[:, 2])
    assert np.all(table[:, 3] != table[:, 2])


@pytest.mark.parametrize("energy_mev", [[np.nan], [0.0], [-1.0], 100.0])
def test_impossible_energies_are_refused(energy_mev):
    with pytest.raises(ValueError, match="energy_mev"):
        stopping_ratio_table((WATER,), energy_mev)


@pytest.mark.parametrize("i_water_ev", [0.0, np.nan])
def test_an_impossible_excitation_energy_of_water_is_refused(i_water_ev):
    with pytest.raises(ValueError, match="i_water_ev"):
        stopping_ratio_table((WATER,), [100.0], i_water_ev)


def test_brass_is_an_alloy_of_pure_metals():
    # Bragg additivity over the pure elements of ICRU 37: Cu 322, Zn 330, Pb 823 eV
    fractions, z, a = BRASS.per_element()
    logarithm = np.sum(fractions * z / a * np.log([322.0, 330.0, 823.0])) / BRASS.z_over_a
    assert BRASS.mean_excitation_ev == pytest.approx(np.exp(logarithm), abs=0.1)
    assert BRASS.additive_i_ev / BRASS.i_ev == pytest.approx(1.13, abs=1e-3)  # as a compound
    assert relative_stopping_power(BRASS) == pytest.approx(5.6, rel=0.02)  # 8.49 g/cm³ of Z ≈ 30


@pytest.mark.parametrize(
    "density, fractions, i_ev, names",
    [
        (1.0, {"Xx": 1.0}, None, "mass_fractions"),
        (1.0, {"H": 0.5}, None, "mass_fractions"),
        (1.0, {"H": 1.5, "O": -0.5}, None, "mass_fractions"),
        (0.0, {"H": 1.0}, None, "density_g_cm3"),
        (float("nan"), {"H": 1.0}, None, "density_g_cm3"),
        (1.0, {"H": 1.0}, -3.0, "i_ev"),
    ],
)
def test_impossible_materials_are_refused_by_the_argument_at_fault(density, fractions, i_ev, names):
    with pytest.raises(ValueError, match=names):
        Material("odd", density, fractions, i_ev)
