import pytest

from engine.physics.materials import (
    AIR,
    LEXAN,
    PMMA,
    WATER,
    Material,
    relative_stopping_power,
    water,
)

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
