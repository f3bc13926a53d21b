import json

import numpy as np
import pytest

from engine.geometry.single_spots import SingleSpot
from engine.io.reference_dose import ReferenceDose, read_reference_dose, write_reference_dose
from engine.machine.single_spots import SpotKind
from engine.patient.grid import Grid
from engine.patient.tissues import MATERIALS
from engine.physics.materials import WATER, Material

SHAPE = (4, 5, 6)


@pytest.fixture
def written(tmp_path):
    """A pair of sound files, as anyone would write them: only numpy and json."""
    arrays = {
        "dose": np.ones(SHAPE, np.float32),
        "sem": np.full(SHAPE, 0.01, np.float32),
        "density_g_cm3": np.ones(SHAPE, np.float32),
        "hu": np.zeros(SHAPE, np.int16),
        "material": np.zeros(SHAPE, np.uint8),
    }
    spot = {
        "energy_mev": 100.0, "energy_std_mev": 1, "position_mm": [2.0, -20.0, 1.0],
        "direction": [0, 1, 0], "sigma_mm": 3.0, "angle_std_rad": 0.002, "correlation": -0.1,
        "weight": 1.0,
    }  # fmt: skip
    metadata = {
        "grid": {"spacing_mm": [2, 2.5, 3], "origin_mm": [-3, -5, -7.5]},
        "particle": "proton",
        "spots": [spot],
        "nuclear_interactions": True,
        "scored": "dose to medium",
        "i_water_ev": 78,
        "materials": [{"name": "Water", "by_weight": {"H": 0.1119, "O": 0.8881}}],
        "source": "some engine 1.0, 1e7 histories",
    }
    path = tmp_path / "case.npz"

    def write(arrays=arrays, metadata=metadata):
        np.savez(path, **arrays)
        path.with_suffix(".json").write_text(json.dumps(metadata))
        return path

    write.arrays, write.metadata, write.spot, write.path = arrays, metadata, spot, path
    return write


def refused(path, named: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_reference_dose(path)
    assert named in str(caught.value), str(caught.value)


def test_a_sound_pair_is_read_as_it_stands(written):
    found = read_reference_dose(written())
    assert found.grid == Grid(SHAPE, (2.0, 2.5, 3.0), (-3.0, -5.0, -7.5))
    assert found.spots == (
        SingleSpot(SpotKind(100.0, 1.0, 3.0, 0.002, -0.1), (2.0, -20.0, 1.0), (0.0, 1.0, 0.0), 1.0),
    )
    assert found.i_water_ev == 78.0
    assert found.nuclear_interactions is True
    assert found.scored == "dose to medium"
    assert np.all(found.medium().rsp(found.hu) == 1.0)
    assert found.patient().grid == found.grid


def test_what_is_written_is_read_again(tmp_path):
    generator = np.random.default_rng(1)
    reference = ReferenceDose(
        "again", Grid(SHAPE, (1.0, 2.0, 3.0), (0.5, -5.0, -7.0)),
        generator.random(SHAPE).astype(np.float32), None,
        generator.random(SHAPE).astype(np.float32), None,
        generator.integers(0, 2, SHAPE).astype(np.uint8),
        (WATER, Material("bone", 1.0, MATERIALS["cortical_bone"].mass_fractions)),
        (SingleSpot(SpotKind(90.0, 0.5, 2.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.6, 0.8), 3.0),),
        False, "dose to water", 75.0, "here",
    )  # fmt: skip
    write_reference_dose(reference, tmp_path / "again.npz")
    found = read_reference_dose(tmp_path / "again.npz")
    for name in ("grid", "spots", "nuclear_interactions", "scored", "i_water_ev", "source", "name"):
        assert getattr(found, name) == getattr(reference, name), name
    for name in ("dose_gy", "density_g_cm3", "material"):
        np.testing.assert_array_equal(getattr(found, name), getattr(reference, name))
    assert found.sem_gy is None
    assert found.hu is None


def test_without_material_the_calibration_says_the_composition(written):
    arrays = {n: a for n, a in written.arrays.items() if n != "material"}
    arrays["hu"] = np.full(SHAPE, 1000, np.int16)
    medium = read_reference_dose(written(arrays)).medium()
    assert np.all(medium.composition(arrays["hu"]) == 18)  # Schneider's bin of 1000 … 1100 HU


@pytest.mark.parametrize("kind", [np.float64, np.longdouble])
def test_wider_types_of_the_same_kind_are_taken(written, kind):
    found = read_reference_dose(written({**written.arrays, "dose": np.ones(SHAPE, kind)}))
    assert found.dose_gy.dtype == np.float32


@pytest.mark.parametrize("name", ["dose", "density_g_cm3"])
def test_a_missing_array_is_named(written, name):
    refused(written({n: a for n, a in written.arrays.items() if n != name}), name)


def test_neither_hu_nor_material_is_refused(written):
    arrays = {n: a for n, a in written.arrays.items() if n not in ("hu", "material")}
    refused(written(arrays), "hu")


@pytest.mark.parametrize("name", ["sem", "density_g_cm3", "hu", "material"])
def test_an_array_of_another_shape_is_named(written, name):
    array = np.zeros((4, 5, 7), written.arrays[name].dtype)
    refused(written({**written.arrays, name: array}), f"{name} in case.npz has shape (4, 5, 7)")


@pytest.mark.parametrize(
    "name, kind",
    [("dose", np.int32), ("dose", np.float16), ("dose", complex), ("dose", bool),
     ("hu", np.float32), ("hu", np.uint16), ("material", np.float32), ("density_g_cm3", np.int16)],
)  # fmt: skip
def test_an_array_of_another_type_is_named(written, name, kind):
    refused(written({**written.arrays, name: np.ones(SHAPE, kind)}), f"{name} in case.npz is")


@pytest.mark.parametrize("name", ["dose", "sem", "density_g_cm3"])
@pytest.mark.parametrize("value, said", [(np.nan, "NaN"), (np.inf, "NaN"), (-1.0, "0 or more")])
def test_values_that_cannot_be_are_named(written, name, value, said):
    array = written.arrays[name].copy()
    array[1, 2, 3] = value
    path = written({**written.arrays, name: array})
    refused(path, name)
    refused(path, said)


def test_no_dose_at_all_is_refused(written):
    refused(written({**written.arrays, "dose": np.zeros(SHAPE, np.float32)}), "zero everywhere")


def test_a_material_without_entry_is_refused(written):
    array = np.ones(SHAPE, np.uint8)
    refused(written({**written.arrays, "material": array}), "index 1")
    metadata = {k: v for k, v in written.metadata.items() if k != "materials"}
    refused(written(metadata=metadata), "materials of case.json is missing")


@pytest.mark.parametrize(
    "materials, named",
    [
        ({}, "must be a list"),
        ([3], "materials[0]=3"),
        ([{"name": "x"}], "by_weight of materials[0]"),
        ([{"name": "x", "by_weight": {"Xx": 1.0}}], "Xx"),
        ([{"name": "x", "by_weight": {"H": 0.5}}], "sum to 0.5"),
        ([{"name": "x", "by_weight": {"H": "much"}}], "materials[0]"),
        ([{"name": "x", "by_weight": [1.0]}], "mass fractions"),
    ],
)
def test_malformed_materials_are_named(written, materials, named):
    refused(written(metadata={**written.metadata, "materials": materials}), named)


@pytest.mark.parametrize(
    "key", ["grid", "particle", "spots", "nuclear_interactions", "scored", "i_water_ev", "source"]
)
def test_a_missing_key_is_named(written, key):
    metadata = {k: v for k, v in written.metadata.items() if k != key}
    refused(written(metadata=metadata), f"{key} of case.json is missing")


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("particle", "carbon", "cannot be compared yet"),
        ("particle", "helium", "particle='helium'"),
        ("particle", ["proton"], "particle=['proton']"),
        ("spots", [], "spots of case.json is empty"),
        ("spots", {}, "spots of case.json is empty"),
        ("spots", [1], "spots[0]"),
        ("nuclear_interactions", "yes", "nuclear_interactions='yes'"),
        ("nuclear_interactions", 1, "nuclear_interactions=1"),
        ("scored", "dose", "'dose to medium' or 'dose to water'"),
        ("i_water_ev", "75", "i_water_ev='75'"),
        ("i_water_ev", 7.5, "within 60 … 90"),
        ("i_water_ev", float("nan"), "i_water_ev=nan"),
        ("grid", [1, 2, 3], "spacing_mm and origin_mm"),
        ("grid", {"spacing_mm": [1, 1, 1]}, "origin_mm in grid"),
        ("grid", {"spacing_mm": [1, 1], "origin_mm": [0, 0, 0]}, "spacing_mm=[1, 1]"),
        ("grid", {"spacing_mm": [1, 1, 0], "origin_mm": [0, 0, 0]}, "positive on every axis"),
        ("grid", {"spacing_mm": [1, 1, None], "origin_mm": [0, 0, 0]}, "spacing_mm=None"),
    ],
)
def test_a_wrong_value_is_named(written, key, value, named):
    refused(written(metadata={**written.metadata, key: value}), named)


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("direction", [0, 1, 0.1], "length 1.00499"),
        ("direction", [0, 0, 0], "unit vector"),
        ("direction", [0, 1], "three numbers x, y, z"),
        ("direction", [0, float("nan"), 1], "direction=nan"),
        ("direction", [0, -1, 0], "misses the grid"),
        ("position_mm", [100.0, -20.0, 0.0], "misses the grid"),
        ("position_mm", None, "position_mm=None"),
        ("energy_mev", 400.0, "energy_mev=400.0"),
        ("energy_mev", "100", "energy_mev='100'"),
        ("energy_std_mev", -1.0, "energy_std_mev=-1.0"),
        ("sigma_mm", -1.0, "sigma_mm=-1.0"),
        ("angle_std_rad", 3.0, "is it in mrad?"),
        ("correlation", 2.0, "correlation=2.0"),
        ("weight", -1.0, "weight=-1.0"),
        ("weight", 0.0, "every weight"),
        ("weight", True, "weight=True"),
    ],
)
def test_a_wrong_spot_is_named(written, key, value, named):
    path = written(metadata={**written.metadata, "spots": [{**written.spot, key: value}]})
    refused(path, named)
    if "every" not in named:
        refused(path, "spots[0] of case.json")


@pytest.mark.parametrize("key", ["energy_mev", "direction", "correlation", "weight"])
def test_a_spot_without_a_key_is_named(written, key):
    spot = {k: v for k, v in written.spot.items() if k != key}
    refused(
        written(metadata={**written.metadata, "spots": [spot]}),
        f"{key} of spots[0] of case.json is missing",
    )


def test_a_missing_or_unreadable_file_is_named(written, tmp_path):
    refused(tmp_path / "none.npz", "none.npz' does not exist")
    refused(tmp_path / "none.json", "must be the path of NAME.npz")
    path = written()
    path.with_suffix(".json").write_text("{")
    refused(path, "no readable JSON")
    path.with_suffix(".json").write_text("[]")
    refused(path, "an object is needed")
    path.with_suffix(".json").unlink()
    refused(path, "case.json' does not exist")
    path = written()
    path.write_bytes(path.read_bytes()[:200])
    refused(path, "no readable npz")


def test_a_bare_array_or_objects_are_refused(written):
    path = written()
    with path.open("wb") as file:
        np.save(file, np.ones(SHAPE))
    refused(path, "no npz archive")
    np.savez(path, **{**written.arrays, "dose": np.full(SHAPE, None)})
    refused(path, "no readable npz")
