"""``ptenv headroom``: the table and its verdict."""

import csv

import pytest

from agents.baselines.search import CrossEntropySearch
from agents.headroom import Headroom
from scripts import cli

QUICK = ("n_cases=1", "trials.n_samplings=2", "trials.budgets=[0.1]", "search.population=4",
         "search.iterations=2", "search.n_final=2")  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_cases):
    folder = tmp_path_factory.mktemp("headroom")
    assert cli.main(["headroom", *tiny_cases, *QUICK, f"output={folder}"]) == 0
    return folder


def test_the_table_has_a_row_a_case_and_budget(measured):
    with (measured / "headroom.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["case"] == "head-and-neck-10000"
    assert float(row["bound"]) == 1.0
    assert float(row["highest"]) > 1.0  # converged lies beyond keep-all at 100 evaluations
    assert int(row["plans"]) == 3 * (4 * 2 + 2)
    assert float(row["best plan"]) >= float(row["privileged"])


def test_the_text_says_the_verdict(measured):
    assert "times the sampling noise" in (measured / "headroom.txt").read_text()


def test_the_same_command_takes_searches_from_its_folder(
    measured, tiny_cases, monkeypatch, capsys
):
    before = (measured / "headroom.csv").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(CrossEntropySearch, "search", None)  # would fail if it were asked
        assert cli.main(["headroom", *tiny_cases, *QUICK, f"output={measured}"]) == 0
    assert "1 were done before" in capsys.readouterr().out
    assert (measured / "headroom.csv").read_text() == before


def test_a_folder_of_dicom_has_a_table_and_no_name_in_it(tmp_path, tiny_cases):
    study, out = tmp_path / "Doe_Jane", tmp_path / "out"
    small = ["patient.spacing_mm=6", "patient.crop_mm=30", "patient.target_volume_cm3=[8,20]"]
    assert cli.main(["export", *small, f"output={study}"]) == 0
    of_dicom = [a for a in QUICK if "n_cases" not in a] + [f"cases=['dicom:{study}']"]
    assert cli.main(["headroom", *tiny_cases, *of_dicom, f"output={out}"]) == 0
    with (out / "headroom.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["case"].startswith("dicom:") and int(row["plans"]) == 30
    for path in out.iterdir():
        assert path.name == ".lock" or b"Doe" not in path.read_bytes(), path.name


def test_three_times_the_noise_is_enough():
    figures = dict(random=0.0, heuristic="h", best_heuristic=0.4, best_plan=0.6, bound=1.0,
                   converged=1.5, noise=0.02, n_plans=1)  # fmt: skip
    assert Headroom(privileged=0.461, **figures).is_enough
    assert not Headroom(privileged=0.459, **figures).is_enough
    assert "NOT ENOUGH" in str(Headroom(privileged=0.4, **figures))


def test_of_a_rule_without_chance_any_gain_counts_but_none_does_not():
    figures = dict(random=0.0, heuristic="nothing", best_heuristic=0.0, best_plan=0.6, bound=1.0,
                   converged=1.5, noise=0.0, n_plans=1)  # fmt: skip
    assert Headroom(privileged=0.01, **figures).is_enough
    assert not Headroom(privileged=0.0, **figures).is_enough
    assert "samplings are all alike" in str(Headroom(privileged=0.01, **figures))


def test_random_must_be_among_the_baselines(tmp_path, tiny_cases, capsys):
    assert cli.main(["headroom", *tiny_cases, "random=dice", f"output={tmp_path}"]) == 2
    assert "random='dice'" in capsys.readouterr().err
