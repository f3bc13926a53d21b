import numpy as np
import pytest

from engine.patient.known_medium import KnownMedium
from engine.patient.tissues import MATERIALS
from engine.physics.materials import Material, relative_stopping_power

SHAPE = (2, 2, 2)


def medium(
    material: Material, density: float = 1.0, i_ev: float = 75.0, energy_mev: float = 100.0
) -> KnownMedium:
    index = np.zeros(SHAPE, np.uint8)
    return KnownMedium(np.full(SHAPE, density, np.float32), index, (material,), i_ev, energy_mev)


@pytest.mark.parametrize("i_ev", [75.0, 78.0])
def test_water_is_one_whatever_its_excitation_energy(i_ev):
    rounded = Material("water", 1.0, {"H": 0.1119, "O": 0.8881})
    assert np.all(medium(rounded, 1.0, i_ev).rsp(np.zeros(SHAPE)) == 1.0)
    assert np.all(medium(rounded, 0.5, i_ev).rsp(np.zeros(SHAPE)) == 0.5)


def test_stopping_power_is_density_times_that_of_the_composition():
    bone = MATERIALS["cortical_bone"]
    found = medium(bone, 1.92).rsp(np.zeros(SHAPE))
    assert found == pytest.approx(1.691, rel=3e-3)  # ICRU 44, Bragg additivity, at 100 MeV
    assert medium(bone).stopping_ratio() == pytest.approx(1.691 / 1.92, rel=3e-3)


def test_water_of_higher_excitation_energy_stops_less_and_tissue_relatively_more():
    # 78 instead of 75 eV: S of water 0.47 % lower at 150 MeV (PSTAR and ICRU 90)
    muscle = MATERIALS["muscle"]
    at = {i: medium(muscle, 1.0, i, 150.0).stopping_ratio() for i in (75.0, 78.0)}
    ratio = at[78.0] / at[75.0]
    assert ratio == pytest.approx(1.0047, abs=3e-4)


def test_excitation_energies_are_compared_as_stated():
    # 75.0 eV of water beside an additive tissue; a patient's RSP takes 75.3 eV, 0.05 % more
    muscle = MATERIALS["muscle"]
    shift = relative_stopping_power(muscle) / muscle.density_g_cm3 / medium(muscle).stopping_ratio()
    assert shift == pytest.approx(1.0005, abs=1e-4)


def test_composition_is_its_own_index_into_its_own_materials():
    index = np.arange(2, dtype=np.uint16).reshape(1, 1, 2)
    both = (MATERIALS["muscle"], MATERIALS["brass"])
    known = KnownMedium(np.ones(index.shape, np.float32), index, both)
    assert known.composition(np.zeros(index.shape)).dtype == np.uint8
    assert np.array_equal(known.composition(np.zeros(index.shape)), index)
    assert [m.name for m in known.materials] == ["muscle", "brass"]
    assert [m.i_ev for m in known.materials] == [m.mean_excitation_ev for m in both]


def test_another_volume_is_refused():
    with pytest.raises(ValueError, match="its own volume"):
        medium(MATERIALS["muscle"]).rsp(np.zeros((3, 3, 3)))
