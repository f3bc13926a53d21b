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


SECOND = ("weight", "variance_mm2", "covariance_mm_rad", "angle_variance_rad2")


def _with(tmp_path, **more):
    """The path of generic_proton with more arrays."""
    from engine.machine.library import DATA

    path = tmp_path / "more.npz"
    with np.load(DATA / "generic_proton.npz") as file:
        np.savez(path, **{name: file[name] for name in file.files}, **more)
    return path


def _second(n=115, **other):
    """A wide Gaussian of 5 % of the protons, with other values where given."""
    values = {"weight": 0.05, "variance_mm2": 400.0, "covariance_mm_rad": 0.01,
              "angle_variance_rad2": 2e-5} | other  # fmt: skip
    return {f"second_{name}": np.full(n, values[name]) for name in SECOND}


def test_a_machine_without_a_second_gaussian_or_second_source_has_none():
    machine = load_machine("generic_proton")
    assert machine.second_gaussian is None
    assert machine.virtual_sources_mm is None


def test_a_second_gaussian_and_two_virtual_sources_are_read_and_cannot_be_written(tmp_path):
    mean = load_machine("generic_proton").virtual_source_mm
    sources = np.array([mean + 150.0, mean - 150.0])
    machine = load_machine(_with(tmp_path, **_second(), virtual_sources_mm=sources))
    assert machine.virtual_sources_mm == (mean + 150.0, mean - 150.0)
    for name in SECOND:
        array = getattr(machine.second_gaussian, name)
        assert array.shape == machine.energy_mev.shape
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


@pytest.mark.parametrize("wrong, message", [
    (dict(n=3), r"second_weight .* of shape \(115,\)"),
    (dict(weight=1.2), "second_weight .* 0 … 1"),
    (dict(weight=np.nan), "second_weight .* finite"),
    (dict(variance_mm2=0.0), "second_variance_mm2 .* positive"),
    (dict(covariance_mm_rad=1.0), "second_covariance_mm_rad .* larger"),
])  # fmt: skip
def test_a_second_gaussian_that_cannot_be_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        load_machine(_with(tmp_path, **_second(**wrong)))


def test_half_a_second_gaussian_is_refused(tmp_path):
    arrays = _second()
    del arrays["second_angle_variance_rad2"]
    with pytest.raises(ValueError, match="lacks .*second_angle_variance_rad2"):
        load_machine(_with(tmp_path, **arrays))


@pytest.mark.parametrize("sources", [[2000.0], [2000.0, -2000.0], [2000.0, np.inf], [1.0, 2.0]])
def test_virtual_sources_that_cannot_be_are_refused(tmp_path, sources):
    with pytest.raises(ValueError, match="virtual_source"):
        load_machine(_with(tmp_path, virtual_sources_mm=np.array(sources)))
