"""``ptenv plan`` from the command line to its folder of files, and what it says to bad input."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.quantities import RbeDose
from engine.geometry.plan import Aperture, Beam
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.patient.phantoms import water_tank
from engine.patient.structures import on_grid
from scripts import cli, final_dose, record
from scripts.fields import fields

FILES = {
    "plan.json", "dose.npz", "dose_wash.png", "dvh.csv", "dvh.png", "scorecard.txt",
    "scorecard.json", "convergence.csv", "config.yaml", "record.json",
}  # fmt: skip
QUICK = (
    "patient=water_tank", "geometry=one_field", "geometry.settings.spot_spacing_mm=10",
    "dose_grid_mm=8", "optimization.solver.max_evaluations=30", "threads=1",
)  # fmt: skip
MONTE_CARLO = (
    "final_dose=monte_carlo", "final_dose.n_histories=20000", "letd=true",
    "geometry.settings.layer_spacing_mm=10",
)  # fmt: skip
SQUARE = "{opening_mm:[[-25,-25],[25,-25],[25,25],[-25,25]],exit_mm:-160}"


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


def test_fields_take_range_shifters_air_gaps_and_apertures_for_all_or_one_each():
    block = {"opening_mm": [[-20, -20], [20, -20], [0, 20]], "exit_mm": -100}
    built = Aperture(((-20, -20), (20, -20), (0, 20)), -100)
    one, two = fields([10, 20], 0, [30, 40], ["rs40", None], [None, block])
    assert one == Beam(10.0, air_gap_mm=30.0, range_shifter="rs40")
    assert two == Beam(20.0, air_gap_mm=40.0, aperture=built)
    assert [beam.aperture for beam in fields([10, 20], aperture=block)] == [built, built]
    with pytest.raises(ValueError, match="range_shifter.* 2 entries for 3 gantry angles"):
        fields([10, 20, 30], range_shifter=["rs40", "rs75"])


@pytest.mark.parametrize("wrong", [
    "{opening_mm:[[0,0],[10,0]],exit_mm:-100}", "{opening_mm:[[0,0],[10,0],[0,10]]}",
    "{opening_mm:[[0,0],[10,0],[0,10]],exit:-100}", "{exit_mm:-100}", "block",
    "{opening_mm:[[0,0],[10,0],[0,10]],exit_mm:far}",
    "{opening_mm:[[0,0],[10,0],[0,10]],exit_mm:-100,material:cheese}",
])  # fmt: skip
def test_an_aperture_that_does_not_fit_is_refused_before_a_patient_is_read(capsys, tmp_path, wrong):
    said = _refused(
        capsys, tmp_path, "patient=openkbp", f"patient.path={tmp_path}/pt_0.zip",
        f"geometry.beams.aperture={wrong}",
    )  # fmt: skip
    assert "aperture=" in said


# ---------------------------------------------------------------------------- the final dose


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The folder of a plan optimized with the pencil beam and judged by Monte Carlo."""
    folder = tmp_path_factory.mktemp("plan") / "judged"
    assert cli.main(["plan", *QUICK, *MONTE_CARLO, f"output={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def case():
    """Patient, plan of two fields, rows, quantity and targets of a small tank."""
    patient = water_tank((80.0, 80.0, 80.0), 4.0, 24.0)
    beams = [Beam(0.0), Beam(90.0)]
    plan = place_spots(patient, load_machine("generic_proton"), beams, SpotSettings(8.0, 10.0))
    plan = plan.with_weights(np.full(plan.n_spots, 1e8))
    grid = patient.grid.resampled(8.0)
    rows = PencilBeamEngine().influence(patient, plan, grid)
    targets = {name: on_grid(patient, grid).fraction[name] for name in patient.targets}
    return patient, plan, rows, RbeDose(patient.n_fractions), targets


def test_a_final_dose_by_monte_carlo_brings_its_error_letd_and_histories(judged):
    assert {path.name for path in judged.iterdir()} == FILES | {"letd.png"}
    with np.load(judged / "dose.npz") as dose:
        gy, error, letd = (dose[k] for k in ("dose_gy_rbe", "dose_error_gy_rbe", "letd_kev_um"))
    high = gy > 0.5 * gy.max()
    assert 0.005 < np.mean(error[high] / gy[high]) < 0.2
    assert 1.0 < np.mean(letd[high]) < 8.0
    told = json.loads((judged / "scorecard.json").read_text())["final_dose"]
    (beam,) = told["beams"]
    assert told["engine"] == "MonteCarloEngine"
    assert beam["n_histories"] == 20_000
    assert 0.5 < told["target_uncertainty_percent"]["PTV"] < 20.0
    assert beam["uncertainty_percent"] > 0.5


def test_the_scorecard_rests_on_the_final_dose(judged, tmp_path):
    plain = [a for a in MONTE_CARLO if a.startswith("geometry")]
    assert cli.main(["plan", *QUICK, *plain, f"output={tmp_path}"]) == 0
    before, after = (json.loads((f / "scorecard.json").read_text()) for f in (tmp_path, judged))
    assert (tmp_path / "plan.json").read_bytes() == (judged / "plan.json").read_bytes()
    assert before["objective"] == after["objective"]
    assert before["metrics"] != after["metrics"]
    assert "final_dose" not in before


def test_monte_carlo_plans_and_judges_with_histories_of_its_own(tmp_path):
    assert cli.main([
        "plan", *QUICK, MONTE_CARLO[-1], "dose=monte_carlo", "dose.histories_per_spot=300",
        "dose.n_histories=20000", f"output={tmp_path}",
    ]) == 0  # fmt: skip
    told = json.loads((tmp_path / "scorecard.json").read_text())
    coverage = next(g["value"] for g in told["goals"] if g["metric"] == "D95%[%]")
    assert told["final_dose"]["beams"][0]["n_histories"] == 20_000
    assert coverage > 70


def test_an_aperture_of_the_configuration_shapes_the_field_and_comes_back_from_the_plan(tmp_path):
    assert cli.main([
        "plan", *QUICK, MONTE_CARLO[-1], "dose=monte_carlo", "dose.histories_per_spot=100",
        "dose.n_histories=5000", f"geometry.beams.aperture={SQUARE}", f"output={tmp_path}",
    ]) == 0  # fmt: skip
    (beam,) = json.loads((tmp_path / "plan.json").read_text())["beams"]
    corners = tuple(tuple(corner) for corner in beam["aperture"].pop("opening_mm"))
    again = Aperture(opening_mm=corners, **beam["aperture"])
    assert asdict(again) == asdict(Aperture(((-25, -25), (25, -25), (25, 25), (-25, 25)), -160))


def test_errors_of_the_total_are_those_of_repeated_doses(case):
    patient, plan, rows, quantity, targets = case

    def dose(seed):
        engine = MonteCarloEngine(n_histories=4000, seed=seed)
        return final_dose.computed(engine, patient, plan, rows, quantity, targets, False, [])

    made = [dose(seed) for seed in range(12)]
    total = np.array([d.total_gy for d in made])
    high = total.mean(axis=0) > 0.5 * total.mean(axis=0).max()
    spread = np.sqrt(np.mean(total.var(axis=0, ddof=1)[high]))
    stated = np.sqrt(np.mean(np.array([d.error_gy for d in made])[:, high] ** 2))
    assert spread == pytest.approx(stated, rel=0.12)
    np.testing.assert_allclose(made[0].beams_gy.sum(axis=0), made[0].total_gy, rtol=1e-6)


def test_alike_beams_have_noise_of_their_own(case):
    patient, plan, rows, quantity, targets = case
    one = plan.part(0, 1)
    twice = replace(
        plan, beams=one.beams * 2, spot_beam=np.repeat([0, 1], one.n_spots).astype(np.uint16),
        **{n: np.tile(getattr(one, n), 2) for n in ("spot_energy", "u_mm", "v_mm", "weights")},
    )  # fmt: skip
    engine = MonteCarloEngine(n_histories=2000)
    dose = final_dose.computed(engine, patient, twice, rows, quantity, targets, False, [])
    assert not np.array_equal(*dose.beams_gy)


def test_letd_of_the_total_weighs_beams_by_dose(case):
    patient, plan, rows, quantity, targets = case
    engine = MonteCarloEngine(n_histories=2000)
    only = replace(plan, weights=np.where(plan.spot_beam == 0, plan.weights, 0.0))
    both, first = (
        final_dose.computed(engine, patient, p, rows, quantity, targets, True, [])
        for p in (plan, only)
    )
    alone = (both.beams_gy[0] > 0) & (both.beams_gy[1] == 0)
    np.testing.assert_allclose(both.letd_kev_um[alone], first.letd_kev_um[alone], rtol=1e-5)
    assert np.all(both.letd_kev_um[both.total_gy == 0] == 0)


def test_an_analytic_final_dose_is_the_matrix_times_the_weights(case):
    patient, plan, rows, quantity, targets = case
    matrix = final_dose.of_matrix(rows, plan.weights, quantity)
    engine = PencilBeamEngine()
    anew = final_dose.computed(engine, patient, plan, rows, quantity, targets, False, [])
    np.testing.assert_allclose(anew.total_gy, matrix.total_gy, rtol=1e-3, atol=1e-4)
    assert anew.error_gy is None
    matrix = anew.record.pop("matrix")
    assert anew.record == {"engine": "PencilBeamEngine", "scores": "dose to water"}
    assert matrix["gamma_1_1_10"] == 100.0  # the same dose
    assert matrix["mean_difference_percent"] == pytest.approx(0.0, abs=0.01)


def test_a_matrix_that_is_two_percent_high_is_told_from_the_final_dose(case):
    _, plan, rows, quantity, _ = case
    low = quantity.value(rows.dose(plan.weights)) / np.float32(1.02)
    told = final_dose.against_matrix(low, rows, plan.weights, quantity)
    high = low >= 0.5 * low.max()
    expected = 2.0 * float(low[high].mean() / low.max())
    assert told["mean_difference_percent"] == pytest.approx(expected, rel=1e-3)
    assert told["gamma_1_1_10"] <= told["gamma_2_2_10"] <= told["gamma_3_2_10"]


def test_only_an_estimated_matrix_is_computed_anew_unasked():
    pencil, monte_carlo = PencilBeamEngine(), MonteCarloEngine()
    assert final_dose.final_engine(pencil, None, False) is None
    assert final_dose.final_engine(monte_carlo, None, False) is monte_carlo
    assert final_dose.final_engine(monte_carlo, pencil, False) is pencil


@pytest.mark.parametrize(
    "override", ["final_dose=pencil_beam", "final_dose=monte_carlo", "dose=monte_carlo"]
)
def test_a_final_dose_without_the_effect_of_carbon_is_refused(capsys, tmp_path, override):
    said = _refused(capsys, tmp_path, *QUICK, "machine=generic_carbon", override)
    assert "leave final_dose out" in said


def test_a_carbon_plan_leaves_the_dose_of_equal_effect(tmp_path):
    carbon = ("machine=generic_carbon", "fraction_gy=3", "n_fractions=20")
    assert cli.main(["plan", *QUICK, *carbon, f"output={tmp_path / 'here'}"]) == 0
    with np.load(tmp_path / "here" / "dose.npz") as dose:
        total, (alone,) = dose["dose_gy_rbe"], dose["beam_dose_gy_rbe"]
    np.testing.assert_allclose(alone, total, rtol=1e-6)  # one field: the beam is all there is
    assert 55.0 < np.percentile(total[total > 0.8 * total.max()], 50) < 66.0  # 20 × 3 Gy (RBE)
    plan = json.loads((tmp_path / "here" / "plan.json").read_text())
    assert plan["machine"] == "generic_carbon"
    assert plan["weights"] == "carbon ions per fraction"
    assert plan["rbe"] is None


def test_a_long_dose_shows_life_in_a_log(case, capsys, monkeypatch):
    monkeypatch.setattr(record, "LINE_EVERY_S", 0.0)
    patient, plan, rows, quantity, targets = case
    engine = MonteCarloEngine(n_histories=40_000)
    with record.stage("Final dose") as notes:
        final_dose.computed(engine, patient, plan, rows, quantity, targets, False, notes)
    title, *lines, end = capsys.readouterr().out.splitlines()
    assert title.strip() == "Final dose"
    assert "gantry 90°: 40 000 of 40 000 histories (100 %), uncertainty so far" in lines[-1]
    assert " s  gantry 0°: 40 000 histories" in end


def test_a_final_dose_that_fails_leaves_the_optimized_plan(capsys, tmp_path):
    said = _refused(
        capsys, tmp_path, *QUICK, "final_dose=monte_carlo", "final_dose.uncertainty_percent=0.001",
        "final_dose.max_histories=100000",
    )  # fmt: skip
    assert "uncertainty_percent=0.001 would take about" in said
    assert "max_histories" in said
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["beams"][0]["layers"]
    assert not (tmp_path / "scorecard.json").exists()


def test_a_final_dose_of_an_unknown_engine_is_refused_with_the_choices(capsys, tmp_path):
    said = _refused(capsys, tmp_path, "final_dose=monte_carol")
    assert "`final_dose=monte_carol` is no choice" in said
    assert "Did you mean `final_dose=monte_carlo`?" in said


@pytest.mark.parametrize("setting, said_of", [
    ("n_histories=0", "n_histories=0 must be"),
    ("histories_per_spot=-5", "histories_per_spot=-5 must be"),
    ("uncertainty_percent=0", "uncertainty_percent=0 must lie above 0"),
])  # fmt: skip
@pytest.mark.parametrize("place", ["dose", "final_dose"])
def test_wrong_numbers_of_histories_are_refused_before_a_patient_is_read(
    capsys, tmp_path, place, setting, said_of
):
    said = _refused(
        capsys, tmp_path, "patient=openkbp", f"patient.path={tmp_path}/pt_0.zip",
        f"{place}=monte_carlo", f"{place}.{setting}",
    )  # fmt: skip
    assert said_of in said


def test_letd_without_monte_carlo_is_refused(capsys, tmp_path):
    said = _refused(capsys, tmp_path, "patient=water_tank", "letd=true")
    assert "final_dose=monte_carlo" in said


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
