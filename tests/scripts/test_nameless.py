"""No record tells the path of a DICOM folder; the digest of its files stands there."""

import json

import pytest
from omegaconf import OmegaConf

from ptenv.cases.digests import digest_of_files
from scripts import cli
from scripts.nameless import READER, dicom_folders, nameless, without


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "Doe_John"
    made.mkdir()
    (made / "a.dcm").write_bytes(b"a")
    return made


def _digest(folder) -> str:
    return f"dicom:{digest_of_files(folder)[:12]}"


def test_patients_cases_and_plans_stand_by_their_digests(folder):
    cfg = OmegaConf.create({
        "patient": {"_target_": READER, "path": str(folder)},
        "cases": [f"dicom:{folder}", "head-and-neck-1"],
        "plan": str(folder / "planned"), "dicom": {"machine": None},
        "output": f"{folder}/out", "n": 3,
    })  # fmt: skip
    kept = OmegaConf.to_container(nameless(cfg))
    assert kept["patient"]["path"] == kept["cases"][0] == _digest(folder)
    assert kept["cases"][1:] == ["head-and-neck-1"]
    assert kept["output"] == f"{_digest(folder)}/out"
    assert kept["n"] == 3
    assert "Doe" not in OmegaConf.to_yaml(nameless(cfg))


def test_a_slash_at_the_end_of_a_folder_hides_nothing(folder):
    cfg = OmegaConf.create({
        "patient": {"_target_": READER, "path": f"{folder}/", "names": f"{folder}/names.yaml"},
    })  # fmt: skip
    assert "Doe" not in OmegaConf.to_yaml(nameless(cfg))


def test_other_words_that_hold_the_path_stay():
    kept = {"seven": "dicom:abc"}
    assert without("patient.path=seven", kept) == "patient.path=dicom:abc"
    assert without("cases=['dicom:seven']", kept) == "cases=['dicom:abc']"
    for other in ("output=seventy", "output=a/seven", "output=seven.json", "output=out-seven"):
        assert without(other, kept) == other


def test_what_was_replaced_stays_as_it_is(folder):
    cfg = OmegaConf.create({"cases": [f"dicom:{folder}"]})
    assert nameless(nameless(cfg)) == nameless(cfg)


def test_a_folder_that_is_not_there_is_not_named_either(tmp_path):
    cfg = OmegaConf.create({
        "patient": {"_target_": READER, "path": str(tmp_path / "Doe_Jane")},
        "beams": {"from_plan": str(tmp_path / "Doe_Jim.dcm")}, "cases": ["dicom:Doe_Joe"],
    })  # fmt: skip
    kept = nameless(cfg)
    assert "Doe" not in OmegaConf.to_yaml(kept)
    assert {kept.patient.path, kept.beams.from_plan, kept.cases[0]} == {"dicom:missing"}
    assert nameless(kept) == kept


def test_other_configurations_stay_whole():
    cfg = OmegaConf.create({"patient": {"_target_": "f", "path": "x"}, "plan": "x", "case": "x"})
    assert dicom_folders(OmegaConf.to_container(cfg)) == {}
    assert nameless(cfg) == cfg


def test_a_plan_leaves_no_path_of_its_patient(tmp_path, monkeypatch):
    source, made = tmp_path / "Doe_John", tmp_path / "made"
    small = ["patient.seed=7", "patient.spacing_mm=6", "patient.crop_mm=30"]
    volume = "patient.target_volume_cm3=[8,20]"
    assert cli.main(["export", *small, volume, f"output={source}"]) == 0
    call = [f"patient.path={source}", "dose_grid_mm=8", "optimization.solver.max_evaluations=5"]
    assert cli.main(["plan", "patient=dicom", *call, f"output={made}"]) == 0
    record = json.loads((made / "record.json").read_text())
    assert f"patient.path={_digest(source)}" in record["overrides"]
    for path in made.iterdir():
        assert b"Doe" not in path.read_bytes(), path.name
