import pytest

from engine.machine.library import load_machine


@pytest.fixture(scope="module")
def machine():
    return load_machine("generic_proton")


def test_the_nearest_deliverable_energy_is_chosen(machine):
    low, high = machine.energy_mev[:2]
    assert machine.energy_index(low + 0.4 * (high - low)) == 0
    assert machine.energy_index(low + 0.6 * (high - low)) == 1
    assert machine.energy_index(machine.energy_mev[-1]) == len(machine.energy_mev) - 1


@pytest.mark.parametrize("energy_mev", [260.0, 69.0, 0.0, -1.0, float("nan")])
def test_an_energy_that_the_machine_does_not_deliver_is_refused(machine, energy_mev):
    message = f"energy_mev={energy_mev} lies outside generic_proton \\(70–230 MeV\\); choose"
    with pytest.raises(ValueError, match=message):
        machine.energy_index(energy_mev)


def test_a_range_shifter_that_the_machine_lacks_is_refused(machine):
    known = [shifter.name for shifter in machine.range_shifters]
    assert machine.range_shifter(known[0]).name == known[0]
    with pytest.raises(ValueError, match="range_shifter='lead' is unknown to generic_proton"):
        machine.range_shifter("lead")
