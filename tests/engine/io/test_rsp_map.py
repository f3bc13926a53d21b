import numpy as np
import pytest

from engine.io.rsp_map import read_rsp_map

RSP = np.random.default_rng(0).uniform(0.0, 2.0, (3, 4, 5)).astype(np.float32)


@pytest.fixture(params=["plain.npy", "alone.npz", "named.npz"])
def path(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".npy":
        np.save(path, RSP)
    elif path.stem == "alone":
        np.savez_compressed(path, volume=RSP)
    else:
        np.savez(path, hu=np.zeros(3), rsp=RSP)
    return path


def test_a_map_is_read_from_every_kind_of_file(path):
    found = read_rsp_map(path, 150.0, 78.0)
    assert np.array_equal(found.rsp(RSP), RSP)
    assert (found.energy_mev, found.i_water_ev) == (150.0, 78.0)


def test_another_shape_than_the_cts_is_refused_by_path(path):
    with pytest.raises(ValueError, match=r"path=.*shape \(3, 4, 5\), the CT \(5, 4, 3\)"):
        read_rsp_map(path).rsp(RSP.T)


def test_impossible_values_are_refused_by_path(tmp_path):
    np.save(tmp_path / "hu.npy", RSP * 1000)
    with pytest.raises(ValueError, match="path=.*hu.npy.*spans"):
        read_rsp_map(tmp_path / "hu.npy")


def test_a_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match="path=.*no readable numpy file"):
        read_rsp_map(path)


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match="path=.*objects"):
        read_rsp_map(tmp_path / "objects.npy")


def test_several_arrays_of_other_names_are_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=RSP, b=RSP)
    with pytest.raises(ValueError, match="is meant 'rsp'"):
        read_rsp_map(tmp_path / "two.npz")


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="path="):
        read_rsp_map(tmp_path / "gone.npy")
    with pytest.raises(ValueError, match="must end in .npy or .npz"):
        read_rsp_map(tmp_path / "map.mha")
