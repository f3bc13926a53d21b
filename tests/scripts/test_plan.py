"""``ptenv plan`` from the command line to its folder of files, and what it says to bad input."""

import json

import numpy as np
import pytest

from engine.geometry.plan import Beam
from scripts import cli
from scripts.plan import fields

FILES = {
    "plan.json", "dose.npz", "dose_wash.png", "dvh.csv", "dvh.png", "scorecard.txt",
    "scorecard.json", "convergence.csv", "config.yaml", "record.json",
}  # fmt: skip
QUICK = (
    "patient=water_tank", "geometry=one_field", "geometry.settings.spot_spacing_mm=10",
    "dose_grid_mm=8", "optimization.solver.max_evaluations=30", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of one small plan."""
    folder = tmp_path_factory.mktemp("plan") / "here"
    assert cli.main(["plan", *QUICK, f"output={folder}"]) == 0
    return folder


def _refused(capsys, tmp_path, *arguments) -> str:
    assert cli.main(["plan", f"output={tmp_path}", *arguments]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_plan_leaves_its_files(made):
    assert {path.name for path in made.iterdir()} == FILES


def test_the_written_plan_gives_back_its_beams_and_deliverable_spots(made):
    plan = json.loads((made / "plan.json").read_text())
    weights = [s[2] for b in plan["beams"] for layer in b["layers"] for s in layer["spots"]]
    energies = [layer["energy_mev"] for layer in plan["beams"][0]["layers"]]
    assert [beam["gantry_deg"] for beam in plan["beams"]] == [0.0]
    assert energies == sorted(energies, reverse=True)
    assert min(weights) >= 1e6  # the machine's minimum spot weight, protons per fraction


def test_the_written_dose_is_the_sum_of_its_beams_and_covers_the_target(made):
    with np.load(made / "dose.npz") as dose:
        total, beams = dose["dose_gy_rbe"], dose["beam_dose_gy_rbe"]
    scorecard = json.loads((made / "scorecard.json").read_text())
    coverage = next(g for g in scorecard["goals"] if g["metric"] == "D95%[%]")
    np.testing.assert_allclose(beams.sum(axis=0), total, rtol=1e-4, atol=1e-4)
    assert total.max() > 0
    assert coverage["value"] > 80


def test_the_histograms_fall_from_all_to_nothing(made):
    table = np.genfromtxt(made / "dvh.csv", delimiter=",", names=True)
    for name in table.dtype.names[1:]:
        assert table[name][0] == 100.0
        assert table[name][-1] == 0.0
        assert np.all(np.diff(table[name]) <= 0)


def test_the_same_configuration_makes_the_same_plan_with_two_threads(made, tmp_path):
    assert cli.main(["plan", *QUICK, f"output={tmp_path}", "threads=2"]) == 0
    assert (tmp_path / "plan.json").read_bytes() == (made / "plan.json").read_bytes()


def test_a_sweep_numbers_its_folders(tmp_path):
    swept = "optimization.solver.max_evaluations=5,10"
    assert cli.main(["plan", "-m", *QUICK[:4], swept, f"output={tmp_path}"]) == 0
    assert {path.name for path in (tmp_path / "1").iterdir()} == FILES


def test_a_missing_patient_is_named(capsys, tmp_path):
    said = _refused(capsys, tmp_path, "patient=openkbp", f"patient.path={tmp_path}/pt_0.zip")
    assert "pt_0.zip' does not exist" in said


def test_a_gantry_angle_out_of_range_is_refused_before_a_patient_is_read(capsys, tmp_path):
    said = _refused(
        capsys, tmp_path, "patient=openkbp", f"patient.path={tmp_path}/pt_0.zip",
        "geometry.beams.gantry_deg=[400]",
    )  # fmt: skip
    assert "gantry_deg=400.0 must lie in -360 … 360" in said


def test_a_prescription_of_zero_is_refused(capsys, tmp_path):
    said = _refused(capsys, tmp_path, "patient=water_tank", "prescription_gy={PTV:0}")
    assert "prescription" in said
    assert "positive" in said


def test_a_prescription_for_no_target_is_refused(capsys, tmp_path):
    said = _refused(capsys, tmp_path, "patient=water_tank", "prescription_gy={Nodule:60}")
    assert "'Nodule'" in said


@pytest.mark.parametrize("spacing", ["0", "-3", "wide", "100"])
def test_a_dose_grid_out_of_range_is_refused(capsys, tmp_path, spacing):
    said = _refused(capsys, tmp_path, "patient=water_tank", f"dose_grid_mm={spacing}")
    assert f"dose_grid_mm={spacing}" in said


def test_an_unknown_machine_is_refused(capsys, tmp_path):
    said = _refused(capsys, tmp_path, "patient=water_tank", "machine.name=cyclotron")
    assert "generic_proton" in said


def test_fields_take_one_couch_angle_for_all_or_one_each():
    assert fields([10, 20], 5) == (Beam(10.0, couch_deg=5.0), Beam(20.0, couch_deg=5.0))
    assert fields(90) == (Beam(90.0),)
    with pytest.raises(ValueError, match="couch_deg"):
        fields([10, 20, 30], [0, 90])


def test_a_real_patient_gets_a_plan(openkbp_pt_1, tmp_path):
    quick = ("geometry.settings.spot_spacing_mm=10", "dose_grid_mm=8",
             "geometry.settings.layer_spacing_mm=8")  # fmt: skip
    assert cli.main(
        ["plan", "patient=openkbp", f"patient.path='{openkbp_pt_1}'", f"output={tmp_path}", *quick]
    ) == 0  # fmt: skip
    scorecard = json.loads((tmp_path / "scorecard.json").read_text())
    coverage = [g["value"] for g in scorecard["goals"] if g["metric"] == "D95%[%]"]
    assert len(coverage) == 3  # 70, 63 and 56 Gy (RBE)
    assert min(coverage) > 80
