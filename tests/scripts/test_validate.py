"""``ptenv validate`` from the command line to its folder of files, and its exit codes."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.geometry.single_spots import SingleSpot
from engine.io.reference_dose import ReferenceDose, write_reference_dose
from engine.machine.single_spots import SpotKind
from engine.patient.ct import DEFAULT_CALIBRATION
from engine.patient.grid import Grid
from engine.physics.materials import WATER
from scripts import cli
from scripts import validate as script
from scripts.configuration import choices, composed
from scripts.validate_check import Check
from scripts.validate_engines import engine_targets
from scripts.validate_reference import compute

BOTH = {"config.yaml", "record.json"}
PHYSICS = BOTH | {"numbers.json", "targets.csv", "targets.json", "depth_dose.png", "carbon.png"}
COMPARISON = BOTH | {
    "comparison.csv", "comparison.json", "dose.npz", "along.png", "across.png", "dose_wash.png",
    "numbers.json",
}  # fmt: skip
KEYS = {  # that the numbers must have
    "gamma_1_1_10", "gamma_2_2_10", "gamma_3_2_10", "r80_mm", "reference_r80_mm", "core_sigma_mm",
    "reference_core_sigma_mm", "mean_difference_percent", "rms_difference_percent",
}  # fmt: skip


COARSE_MM = 5.0  # where only the words matter


def reference_of_ours(path, spacing_mm=2.0) -> None:
    """Two oblique spots in a tank of water by the pencil beam, its numbers or other ones."""
    n = int(80.0 / spacing_mm)
    grid = Grid.centered((n, n, n), (spacing_mm,) * 3)
    ones = np.ones(grid.shape, np.float32)
    spots = tuple(
        SingleSpot(SpotKind(energy, 0.8, 4.0, 0.003, -0.2), (x, -45.0, 2.0), d, weight)
        for energy, x, d, weight in (
            (80.0, -10.0, (0.28, 0.96, 0.0), 1e6), (75.0, 10.0, (0.0, 0.8, -0.6), 2e6)
        )
    )  # fmt: skip
    reference = ReferenceDose(
        "tank", grid, ones, None, ones, None, np.zeros(grid.shape, np.uint8), (WATER,), spots,
        True, "dose to water", 75.0, "our own pencil beam",
    )  # fmt: skip
    dose, _ = compute(reference, PencilBeamEngine(lateral_cutoff=0.001), DEFAULT_CALIBRATION)
    dose = dose.astype(np.float32)
    write_reference_dose(replace(reference, dose_gy=dose), path)


def validate(tmp_path, *arguments) -> tuple[int, dict]:
    """Exit code, and the comparison by quantity."""
    code = cli.main(["validate", *arguments, f"output={tmp_path / 'out'}", "threads=2"])
    path = tmp_path / "out" / "comparison.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return code, {(r["group"], r["quantity"]): r for r in rows}


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are empty files, where numbers are judged: drawing takes most of a run."""
    monkeypatch.setattr(script, "save", lambda figure, path: path.touch())


def refused(capsys, tmp_path, *arguments) -> str:
    assert cli.main(["validate", *arguments, f"output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def physics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("physics")
    assert cli.main(["validate", f"output={folder}"]) == 0
    return folder


def test_the_physics_passes_and_leaves_its_files(physics):
    assert {path.name for path in physics.iterdir()} == PHYSICS
    targets = json.loads((physics / "targets.json").read_text())
    assert len(targets) > 150
    assert all(t["passed"] for t in targets)
    with (physics / "targets.csv").open() as file:
        assert [r["quantity"] for r in csv.DictReader(file)] == [t["quantity"] for t in targets]


def test_carbon_passes_and_is_drawn(physics):
    targets = json.loads((physics / "targets.json").read_text())
    for group in ("Carbon ions in water", "Fragmentation", "LEM and RBE"):
        of_group = [t for t in targets if t["group"] == group]
        assert len(of_group) >= 25
        assert all(t["passed"] for t in of_group)
    own = [t for t in targets if t["group"] == "Engine pencil_beam, its own"]
    carbon = [t for t in own if "Z = 6" in t["quantity"] or "carbon" in t["quantity"]]
    assert len(carbon) == 3 * (3 + 3 + 6) + 4  # spots: integrals, widths, effects; and a plan
    assert all(t["passed"] for t in carbon)
    assert (physics / "carbon.png").stat().st_size > 50_000


@pytest.mark.usefixtures("undrawn")
def test_a_missed_target_is_listed_first_and_is_exit_code_one(capsys, tmp_path):
    # Twice the dose may be lost laterally, which the targets do not allow.
    assert cli.main(["validate", "dose.lateral_cutoff=0.01", f"output={tmp_path}"]) == 1
    said = capsys.readouterr().out
    assert "FAILED" in said
    failed, rest = said.index("\nFAILED"), said.index("\nStopping power and range\n")
    assert failed < said.index("dose lost of all") < rest
    assert "Traceback" not in said


def test_a_target_without_a_number_does_not_pass():
    assert not Check("g", "q", "", 1.0, float("nan"), 0.1, True, "s").passed
    assert Check("g", "q", "", 2.0, 2.2, 0.1, True, "s").deviation == pytest.approx(0.1)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("spacing_mm", [2.0, 2.5])
def test_our_own_dose_comes_back_with_every_point_at_one_percent_one_millimeter(
    tmp_path, spacing_mm
):
    reference_of_ours(tmp_path / "tank.npz", spacing_mm)
    code, rows = validate(
        tmp_path, f"reference={tmp_path}/tank.npz", "gamma.dose_percent=1", "gamma.distance_mm=1"
    )
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == COMPARISON
    assert rows["Gamma", "1 %/1 mm, global"]["ours"] == 100.0
    assert rows["Gamma", "2 %/2 mm, local"]["ours"] == 100.0
    assert rows["Dose", "integral dose over the reference's"]["ours"] == pytest.approx(
        1.0, abs=5e-3
    )
    for group in ("Spot 1, 75 MeV", "Spot 2, 80 MeV"):
        assert rows[group, "R80 of the integral"]["difference"] == pytest.approx(0.0, abs=0.1)


@pytest.mark.usefixtures("undrawn")
def test_a_dose_three_millimeters_off_misses_the_criterion(tmp_path, capsys):
    reference_of_ours(tmp_path / "tank.npz")
    shifted = json.loads((tmp_path / "tank.json").read_text())
    for spot in shifted["spots"]:
        spot["position_mm"][0] += 3.0
    (tmp_path / "tank.json").write_text(json.dumps(shifted))
    code, rows = validate(tmp_path, f"reference={tmp_path}/tank.npz")
    assert code == 1
    assert rows["Gamma", "2 %/2 mm, global"]["ours"] < 80.0
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_a_dose_two_percent_too_high_shows_in_the_integral(tmp_path):
    reference_of_ours(tmp_path / "tank.npz")
    with np.load(tmp_path / "tank.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "tank.npz", **{**arrays, "dose": arrays["dose"] / np.float32(1.02)})
    code, rows = validate(tmp_path, f"reference={tmp_path}/tank.npz", "pass_rate_percent=0")
    assert code == 0
    found = rows["Dose", "integral dose over the reference's"]["ours"]
    assert found == pytest.approx(1.02, abs=5e-3)


@pytest.mark.usefixtures("undrawn")
def test_the_standard_error_of_the_reference_explains_its_noise(tmp_path):
    reference_of_ours(tmp_path / "tank.npz")
    with np.load(tmp_path / "tank.npz") as file:
        arrays = dict(file)
    dose = arrays["dose"]
    sem = (0.02 * np.sqrt(dose * dose.max())).astype(np.float32)
    noisy = np.maximum(dose + sem * np.random.default_rng(2).normal(size=dose.shape), 0.0)
    np.savez(tmp_path / "tank.npz", **{**arrays, "dose": noisy.astype(np.float32), "sem": sem})
    _, rows = validate(tmp_path, f"reference={tmp_path}/tank.npz")
    chi = rows["Dose", "rms difference in the reference's errors"]["ours"]
    assert chi == pytest.approx(1.0, abs=0.1)
    own = rows["Dose", "reference's own error, mean above 50 %"]
    assert own["reference"] == pytest.approx(2.4, abs=0.4)
    assert own["ours"] is None  # json has no NaN


@pytest.mark.usefixtures("undrawn")
def test_water_given_as_zero_hounsfield_units_is_doubted(tmp_path):
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    with np.load(tmp_path / "tank.npz") as file:
        arrays = {n: a for n, a in file.items() if n != "material"}
    hu = np.zeros(arrays["dose"].shape, np.int16)
    np.savez(tmp_path / "tank.npz", **arrays, hu=hu)
    with pytest.warns(UserWarning, match="soft tissue"):
        validate(tmp_path, f"reference={tmp_path}/tank.npz")


@pytest.mark.usefixtures("undrawn")
def test_a_spot_that_starts_in_matter_is_doubted(tmp_path):
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    metadata = json.loads((tmp_path / "tank.json").read_text())
    metadata["spots"][0]["position_mm"][1] = -20.0
    (tmp_path / "tank.json").write_text(json.dumps(metadata))
    with pytest.warns(UserWarning, match="start it at the entrance"):
        validate(tmp_path, f"reference={tmp_path}/tank.npz")


def test_a_malformed_reference_is_refused_in_a_sentence(capsys, tmp_path):
    said = refused(capsys, tmp_path, f"reference={tmp_path}/none.npz")
    assert "none.npz' does not exist" in said
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    metadata = json.loads((tmp_path / "tank.json").read_text())
    (tmp_path / "tank.json").write_text(json.dumps({**metadata, "particle": "carbon"}))
    said = refused(capsys, tmp_path, f"reference={tmp_path}/tank.npz")
    assert "cannot be compared yet" in said


@pytest.mark.parametrize(
    "override, named",
    [
        ("pass_rate_percent=120", "pass_rate_percent=120"),
        ("dose.lateral_cutoff=-1", "lateral_cutoff=-1"),
        ("engine.lateral_cutoff=-1", "lateral_cutoff=-1"),
        ("engine.lateral_cutof=0.01", "Did you mean `engine.lateral_cutoff`"),
        ("engine=pensil_beam", "`engine=pensil_beam` is no choice; choose from"),
        ("engine=pensil_beam", "Did you mean `engine=pencil_beam`?"),
        ("dose=pensil_beam", "pencil_beam"),
        ("gama.dose_percent=1", "gamma.dose_percent"),
        ("refrence=x.npz", "reference"),
    ],
)
def test_wrong_settings_are_refused(capsys, tmp_path, override, named):
    assert named in refused(capsys, tmp_path, override)


def test_an_output_is_a_folder_or_json(capsys, tmp_path):
    def said(output, *arguments) -> str:
        assert cli.main(["validate", "reference=none.npz", f"output={output}", *arguments]) == 2
        return capsys.readouterr().err

    assert "output=FILE.json" in said(tmp_path / "numbers.csv")
    (tmp_path / "taken.json").mkdir()
    assert "is a folder" in said(tmp_path / "taken.json")
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in said(tmp_path / "file.json")
    assert "name a folder" in said(tmp_path / "out.json", "-m")
    assert not (tmp_path / "numbers.csv").exists()
    assert not (tmp_path / "out.json").exists()


def numbers_of(path) -> dict:
    numbers = json.loads(path.read_text())
    assert numbers.keys() >= KEYS
    return numbers


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("group", ["engine", "dose"])
def test_the_numbers_go_into_the_file_that_is_named(tmp_path, group):
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    output = tmp_path / "new" / "folders" / "numbers.json"
    called = ("validate", f"{group}=pencil_beam", f"{group}.lateral_cutoff=0.001")
    assert cli.main([*called, f"reference={tmp_path}/tank.npz", f"output={output}"]) == 0
    numbers = numbers_of(output)
    for key in ("gamma_1_1_10", "gamma_2_2_10", "gamma_3_2_10"):
        assert numbers[key] == 100.0
    assert numbers["r80_mm"] == pytest.approx(numbers["reference_r80_mm"], abs=0.01)
    assert numbers["mean_difference_percent"] == pytest.approx(0.0, abs=0.01)
    assert 0.0 <= numbers["rms_difference_percent"] < 0.01
    assert numbers["engine"] == "pencil_beam"
    assert {p.name for p in output.parent.iterdir()} == {"numbers.json", "numbers"}
    beside = {p.name for p in output.with_suffix("").iterdir()}
    assert beside == COMPARISON - {"numbers.json"}


@pytest.mark.usefixtures("undrawn")
def test_a_number_that_does_not_exist_is_null(tmp_path):
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    metadata = json.loads((tmp_path / "tank.json").read_text())
    for spot in metadata["spots"]:
        spot["energy_mev"] = 200.0
    (tmp_path / "tank.json").write_text(json.dumps(metadata))
    validate(tmp_path, f"reference={tmp_path}/tank.npz")
    numbers = numbers_of(tmp_path / "out" / "numbers.json")
    assert numbers["r80_mm"] is None  # ours leaves the tank
    assert numbers["reduced_chi2"] is None  # no standard error is given


def test_numbers_are_kept_where_drawing_fails(capsys, tmp_path, monkeypatch):
    def fails(figure, path):
        raise RuntimeError("no pen")

    monkeypatch.setattr(script, "save", fails)
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    called = ("validate", f"reference={tmp_path}/tank.npz", f"output={tmp_path}/n.json")
    assert cli.main([*called]) == 1
    assert "no pen" in capsys.readouterr().err
    numbers_of(tmp_path / "n.json")
    assert [p.name for p in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("name", choices("dose"))
def test_every_engine_goes_through_the_tank(physics, name):
    groups = {t["group"] for t in json.loads((physics / "targets.json").read_text())}
    assert groups >= set(engine_targets(name))
    assert f"Engine {name}, in a tank" in groups


def test_an_engine_brings_checks_of_its_own_in_a_module_of_its_name():
    assert list(engine_targets("pencil_beam")) == [
        "Engine pencil_beam, in a tank", "Engine pencil_beam, its own",
    ]  # fmt: skip
    assert list(engine_targets("engine_of_tomorrow")) == ["Engine engine_of_tomorrow, in a tank"]


def test_a_criterion_of_nothing_is_refused(capsys, tmp_path):
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    said = refused(capsys, tmp_path, f"reference={tmp_path}/tank.npz", "gamma.distance_mm=0")
    assert "distance_mm=0" in said


def test_the_folder_of_a_comparison_holds_our_dose_and_pictures(tmp_path):
    reference_of_ours(tmp_path / "tank.npz", COARSE_MM)
    validate(tmp_path, f"reference={tmp_path}/tank.npz")
    for name in COMPARISON:
        assert (tmp_path / "out" / name).stat().st_size > (5000 if name.endswith(".png") else 100)
    with np.load(tmp_path / "out" / "dose.npz") as ours, np.load(tmp_path / "tank.npz") as theirs:
        assert ours["dose"].shape == theirs["dose"].shape
        top = theirs["dose"].max()
        assert np.abs(ours["dose"] - theirs["dose"]).max() < 0.01 * top


def test_comparisons_ask_more_of_monte_carlo_than_plans_do():
    compared = composed("validate", ["dose@engine=monte_carlo"]).engine
    planned = composed("plan", ["dose=monte_carlo", "dose@final_dose=monte_carlo"])
    assert compared.uncertainty_percent == 0.5
    assert planned.dose.uncertainty_percent == planned.final_dose.uncertainty_percent == 1.0
    own = composed("validate", ["dose@engine=monte_carlo", "engine.uncertainty_percent=2"]).engine
    assert own.uncertainty_percent == 2
