import numpy as np
import pytest

from engine.machine.library import available_machines, load_machine


def test_generic_proton_ships_with_the_package():
    assert "generic_proton" in available_machines()


def test_a_machine_is_read_once_and_cannot_be_written():
    machine = load_machine("generic_proton")
    assert load_machine("generic_proton") is machine
    with pytest.raises(ValueError, match="read-only"):
        machine.range_mm[0] = 0.0


def test_a_machine_can_be_a_file_of_ones_own(tmp_path):
    from engine.machine.library import DATA

    path = tmp_path / "mine.npz"
    path.write_bytes((DATA / "generic_proton.npz").read_bytes())
    machine = load_machine(path)
    assert machine.name == "mine"
    assert np.array_equal(machine.range_mm, load_machine("generic_proton").range_mm)


def test_unknown_names_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="generic_proton"):
        load_machine("generic_protons")
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        load_machine(tmp_path / "gone.npz")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bad.npz"):
        load_machine(path)


def test_files_that_lack_a_table_or_hold_nan_are_refused(tmp_path):
    from engine.machine.library import DATA

    with np.load(DATA / "generic_proton.npz") as file:
        arrays = {name: file[name] for name in file.files}
    path = tmp_path / "odd.npz"
    np.savez(path, **{k: v for k, v in arrays.items() if k != "halo_weight"})
    with pytest.raises(ValueError, match="halo_weight"):
        load_machine(path)
    spoiled = arrays["letd_kev_um"].copy()
    spoiled[3, 5] = np.nan
    np.savez(path, **(arrays | {"letd_kev_um": spoiled}))
    with pytest.raises(ValueError, match="letd_kev_um"):
        load_machine(path)
