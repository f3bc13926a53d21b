"""Predicted doses on repeat CTs, on a small phantom with a few spots."""

import json
from dataclasses import replace

import numpy as np
import pytest

from engine.patient.phantom_head_neck import head_and_neck
from engine.patient.repeat_ct import REPEAT_CTS, weight_loss
from scripts import predict_repeat_cts as module
from scripts.cli import EXIT_USAGE
from scripts.plan import dose_grid
from scripts.predict_repeat_cts import (
    Functionals,
    Settings,
    _coverage,
    _off_body_percent,
    kept_bounds,
    kept_study,
    largest_errors,
    main,
    patient_table,
    planned,
    slab_sweep,
    slab_table,
)

FEW = Settings(
    (45.0,), n_spots=4, dose_grid_mm=6.0, scheme="1", n_strengths=1, organ="SpinalCord",
    max_evaluations=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def patient():
    return head_and_neck(3, spacing_mm=5.0, level="L4")


@pytest.fixture(scope="module")
def kept(patient, tmp_path_factory):
    """Folder, record and arrays of a plan that is not robust."""
    folder = tmp_path_factory.mktemp("repeat_cts")
    return folder, *kept_study(patient, "not robust", FEW, folder)


@pytest.fixture(scope="module")
def sweep():
    return slab_sweep((-1000.0, -50.0, 0.0, 50.0, 1000.0), spacing_mm=2.5)


def test_a_slab_like_the_planned_one_is_predicted_without_error(sweep):
    assert sweep["rows"][2]["error_percent"] == pytest.approx(0.0, abs=1e-3)


def test_small_changes_of_a_slab_are_predicted_far_better_than_large_ones(sweep):
    errors = [abs(row["error_percent"]) for row in sweep["rows"]]
    assert max(errors[1], errors[3]) < 0.05 and errors[0] < 4.0 and errors[4] < 2.0
    assert min(errors[0], errors[4]) > 2.0 * max(errors[1], errors[3])


def test_a_denser_slab_leaves_less_dose_beyond_it(sweep):
    assert np.all(np.diff([row["recomputed_gy"] for row in sweep["rows"]]) < 0.0)


def test_the_table_of_the_slab_names_its_largest_error(sweep):
    worst = max(sweep["rows"], key=lambda row: abs(row["error_percent"]))
    last = slab_table(sweep).splitlines()[-1]
    assert f"largest error {worst['error_percent']:.2f} % at {worst['hu']:.0f} HU" in last


def test_the_heaviest_spots_are_kept_and_the_others_bound_to_zero():
    bounds = kept_bounds(np.array([3.0, 0.0, 5.0, 3.0], np.float32), 2)
    np.testing.assert_array_equal(bounds, [np.inf, 0.0, np.inf, 0.0])


@pytest.mark.parametrize("robust", (False, True))
def test_a_plan_has_no_more_spots_than_asked_for(patient, robust):
    plan = planned(patient, FEW, robust)
    assert 0 < np.count_nonzero(plan.weights) <= FEW.n_spots < plan.n_spots


def test_every_kind_of_repeat_ct_is_computed_for_target_and_organ(patient, kept):
    _, record, arrays = kept
    assert [image["kind"] for image in record["images"]] == list(REPEAT_CTS)
    names = {patient.targets[0], "SpinalCord"}
    assert all(set(image["structures"]) == names for image in record["images"])
    grid = dose_grid(patient, FEW.dose_grid_mm)
    assert arrays["doses"].shape == (1 + len(REPEAT_CTS), *grid.shape)
    assert arrays["hu_gradient"].shape == patient.grid.shape


def test_errors_are_those_of_the_doses(kept):
    _, record, _ = kept
    for image in record["images"]:
        for row in image["structures"].values():
            apart = row["predicted_gy"] - row["recomputed_gy"]
            assert row["error_percent"] == pytest.approx(100.0 * apart / row["recomputed_gy"])


def test_a_little_more_density_is_predicted_well(patient):
    plan, grid = planned(patient, FEW, robust=False), dose_grid(patient, FEW.dose_grid_mm)
    denser = replace(patient, hu=patient.hu + np.float32(5.0) * (patient.hu > -900.0))
    dose = FEW.engine.dose(denser, plan, grid)["dose"]
    functionals, target = Functionals.of(patient, plan, grid, FEW), patient.targets[0]
    row, before = functionals.compared(denser, dose)[target], functionals.adjoints[target].value
    moved = row["recomputed_gy"] - before
    assert row["predicted_gy"] - before == pytest.approx(moved, rel=0.2)


def test_a_kept_plan_is_not_computed_again(patient, kept, monkeypatch):
    folder, record, arrays = kept
    monkeypatch.setattr(module, "study", None)
    again, same = kept_study(patient, "not robust", FEW, folder)
    assert again == json.loads(json.dumps(record))
    np.testing.assert_array_equal(same["doses"], arrays["doses"])


def test_a_folder_of_other_settings_is_refused(patient, kept):
    with pytest.raises(ValueError, match="give another folder as --output"):
        kept_study(patient, "not robust", replace(FEW, n_spots=5), kept[0])


def test_a_plan_that_fails_leaves_nothing_behind(patient, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "study", stopped)
    with pytest.raises(KeyboardInterrupt):
        kept_study(patient, "robust", FEW, tmp_path)
    assert not list(tmp_path.iterdir())


def test_tables_and_pictures_come_from_what_was_kept(patient, kept):
    folder, record, arrays = kept
    table = patient_table(record, record["target"])
    assert all(image["label"] in table for image in record["images"])
    assert "6.2 %" in largest_errors([record])
    module.draw(patient, record, arrays, folder)
    names = {path.name.rpartition("_")[2] for path in folder.glob("*.png")}
    assert names == {"images.png", "gradient.png", "planning.png", "worst.png"}


def test_coverage_of_a_uniform_dose_is_its_mean():
    weights = np.full((2, 3, 4), 1.0 / 24.0)
    assert _coverage(weights, np.full((2, 3, 4), 1.8)) == pytest.approx({"D95": 100.0, "D5": 100.0})


def test_the_target_lies_off_the_body_only_where_skin_was_lost(patient):
    assert _off_body_percent(patient) == 0.0
    target = patient.structures[patient.targets[0]]
    wide = patient.with_structures(replace(target, mask=patient.external.mask.copy()))
    assert _off_body_percent(weight_loss(wide, 5.0)) > 0.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_spots": 0}, "n_spots=0 must be 1 or more"),
        ({"n_strengths": 0}, "n_strengths=0 must be 1 or more"),
        ({"dose_grid_mm": 0.1}, "must lie in 1 … 10 mm"),
        ({"gantry_deg": ()}, "give at least one field"),
        ({"scheme": "1+x"}, "scheme"),
        ({"shift_mm": -1.0}, "shift_mm=-1.0 must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises((ValueError, KeyError), match=message):
        replace(FEW, **change)


@pytest.mark.parametrize(
    "words, message",
    [
        (("patients", "nowhere.zip"), "nowhere.zip"),
        (("patients", "nowhere.zip", "--spots", "0"), "n_spots=0"),
        (("slab", "--step-hu", "1"), "step_hu=1 must lie in 10 … 1000 HU"),
        (("slab", "--scheme", "1+x"), "1+x"),
    ],
)
def test_a_wrong_call_ends_with_one_line(words, message, tmp_path, capsys):
    assert main([*words, "--output", str(tmp_path / "out")]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_organ_is_refused_before_anything_is_computed(openkbp_pt_1, tmp_path, capsys):
    words = ["patients", str(openkbp_pt_1), "--organ", "Spleen", "--output", str(tmp_path / "out")]
    assert main(words) == EXIT_USAGE
    assert "organ='Spleen' is none of pt_1" in capsys.readouterr().err
