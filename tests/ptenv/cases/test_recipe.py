import re
import zipfile
from dataclasses import fields, replace

import pytest

from ptenv.cases import recipe as recipes
from ptenv.cases.patients import SPLITS, checked_case, procedural_id, split_seeds
from ptenv.cases.recipe import VoxelMaskRecipe

OTHER = {
    "patient": "head-and-neck-00002", "ct_spacing_mm": 6.0, "target_volume_cm3": (5.0, 9.0),
    "level": "L0", "dose_grid_mm": 4.0, "gantry_deg": (60.0,), "spot_spacing_mm": 7.0,
    "layer_spacing_mm": 7.0, "lateral_margin_mm": 3.0, "lateral_cutoff": 0.03, "ring_mm": 9.0,
    "budgets": (0.1, 0.9), "n_anchor_masks": 4, "converged_evaluations": 70,
    "quality_evaluations": 21, "single_target": True, "machine": "generic_carbon",
    "biology": "lem1", "rbe": 3.0, "fraction_gy": 3.0, "n_fractions": 20, "couch_deg": (0.0, 180.0),
    "spot_pattern": "square", "ring_objectives": False, "weight_after_equation_1": True,
    "tissue": (0.2, 0.05, 30.0, 5.0), "engine": "yoda",
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(VoxelMaskRecipe)])
def test_every_setting_changes_the_key(recipe, name):
    if name == "machine":
        recipe = replace(recipe, rbe=2.0)  # carbon is refused with the protons'
    if name in ("biology", "tissue"):
        recipe = replace(recipe, machine="generic_carbon", rbe=2.0)
    assert getattr(recipe, name) != OTHER[name]
    assert replace(recipe, **{name: OTHER[name]}).key() != recipe.key()


def test_the_format_and_the_machine_change_the_key(recipe, monkeypatch, tmp_path):
    before = recipe.key()
    monkeypatch.setattr(recipes, "FORMAT", recipes.FORMAT + 1)
    assert recipe.key() != before
    monkeypatch.undo()
    data = (recipes.MACHINES / f"{recipe.machine}.npz").read_bytes()
    (tmp_path / f"{recipe.machine}.npz").write_bytes(data + b"x")
    monkeypatch.setattr(recipes, "MACHINES", tmp_path)
    assert recipe.key() != before


def test_equal_settings_have_one_key_however_they_are_written(recipe):
    other = replace(recipe, dose_grid_mm=5, gantry_deg=[60, 300], n_anchor_masks=3.0)
    assert other == recipe
    assert other.key() == recipe.key()


def test_the_key_follows_the_files_of_a_patient_not_their_place(tmp_path, small):
    def key(path):
        return VoxelMaskRecipe(patient=f"openkbp:{path}", **small).key()

    for name in "abc":
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            moment = zipfile.ZipInfo("ct.csv", (2020, 1, 1, 0, 0, 0))
            archive.writestr(moment, "data,1" if name != "c" else "data,2")
    assert key(tmp_path / "a.zip") == key(tmp_path / "b.zip")
    assert key(tmp_path / "a.zip") != key(tmp_path / "c.zip")
    folder = tmp_path / "pt"
    folder.mkdir()
    (folder / "PTV70.csv").write_text("1")
    one = key(folder)
    (folder / "PTV70.csv").rename(folder / "Larynx.csv")
    assert key(folder) != one


def test_a_patient_is_one_case_as_a_zip_and_as_a_folder(tmp_path, small):
    folder = tmp_path / "pt_7"
    folder.mkdir()
    for name in ("ct.csv", "PTV70.csv"):
        (folder / name).write_text(f"data of {name}")
    for kept, top in (("a.zip", "pt_7/"), ("b.zip", "")):
        with zipfile.ZipFile(tmp_path / kept, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("PTV70.csv", "ct.csv"):
                archive.write(folder / name, f"{top}{name}")
    keys = {
        VoxelMaskRecipe(patient=f"openkbp:{tmp_path / kept}", **small).key()
        for kept in ("pt_7", "a.zip", "b.zip")
    }
    assert len(keys) == 1
    (tmp_path / "c.zip").write_bytes(b"PK no zip")
    assert VoxelMaskRecipe(patient=f"openkbp:{tmp_path / 'c.zip'}", **small).key() not in keys


def test_engines_that_cannot_be_are_refused(recipe):
    with pytest.raises(ValueError, match="'monte_carlo' is unknown"):
        replace(recipe, engine="monte_carlo")
    with pytest.raises(ValueError, match="computes protons"):
        replace(recipe, engine="yoda", machine="generic_carbon", rbe=3.0)


def test_splits_are_disjoint_and_of_the_published_sizes():
    train, validation, test = (set(SPLITS[s]) for s in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (10_000, 100, 200)
    assert not (train & validation or train & test or validation & test)
    assert list(split_seeds("test", 3)) == [20_000, 20_001, 20_002]
    assert len(split_seeds("train", None)) == 10_000


def test_case_ids_have_one_form():
    assert checked_case("head-and-neck-17") == procedural_id(17) == "head-and-neck-00017"


def test_case_id_of_a_file_holds_no_path(tmp_path, small):
    (tmp_path / "pt_7.zip").write_bytes(b"")
    name = f"openkbp:{tmp_path}/pt_7.zip"
    assert VoxelMaskRecipe(patient=name, **small).case_id == "openkbp:pt_7"


@pytest.mark.parametrize(
    "case, message",
    [
        ("head-and-neck", "give 'head-and-neck-NUMBER'"),
        ("lung-1", "case='lung-1' is unknown"),
        (17, "case=17 must be text"),
        ("openkbp:", "patient='openkbp:': give 'head-and-neck-NUMBER'"),
    ],
)
def test_unknown_cases_are_refused(case, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_case(case)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="pt_9.zip.*check the path"):
        checked_case(f"openkbp:{tmp_path}/pt_9.zip")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dose_grid_mm": 0.1}, "dose_grid_mm=0.1 must lie in"),
        ({"dose_grid_mm": "fine"}, "dose_grid_mm='fine' must be a number"),
        ({"ring_mm": float("nan")}, "ring_mm=nan must be a number"),
        ({"spot_spacing_mm": -5.0}, "spot_spacing_mm=-5.0"),
        ({"budgets": (0.1, 0.0)}, r"budgets=\(0.1, 0.0\) must be shares"),
        ({"budgets": ()}, "budgets"),
        ({"budgets": (0.1, 0.1)}, "twice"),
        ({"gantry_deg": ()}, "gantry_deg is empty"),
        ({"gantry_deg": 60}, "gantry_deg=60 must be a list of numbers"),
        ({"gantry_deg": (0, 400)}, "gantry_deg=400.0 must lie in -360 … 360"),
        ({"budgets": "0.1"}, "budgets='0.1' must be a list of numbers"),
        ({"target_volume_cm3": 8.0}, "target_volume_cm3=8.0 must be a list"),
        ({"target_volume_cm3": (8.0,)}, r"target_volume_cm3=\(8.0,\) must be \(low, high\)"),
        ({"lateral_cutoff": 0.3}, "lateral_cutoff=0.3 must lie in"),
        ({"n_anchor_masks": 0}, "n_anchor_masks=0"),
    ],
)
def test_settings_out_of_range_are_refused(recipe, settings, message):
    with pytest.raises(ValueError, match=message):
        replace(recipe, **settings)


@pytest.mark.parametrize(
    "split, n", [("training", 3), ("validation", 101), ("test", 0), ("test", 2.5), ("test", "3")]
)
def test_unknown_splits_and_sizes_are_refused(split, n):
    with pytest.raises(ValueError, match="split=|n_patients="):
        split_seeds(split, n)
