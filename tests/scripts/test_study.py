"""``ptenv study``: what it writes, that it goes on where it stopped, what it says to bad input."""

import csv
import json

import pytest

from scripts import cli

QUICK = ("n_cases=2", "trials.n_samplings=2", "trials.evaluations=10", "~samplers.importance")


@pytest.fixture(scope="module")
def studied(tmp_path_factory, tiny_cases):
    folder = tmp_path_factory.mktemp("study")
    assert cli.main(["study", *tiny_cases, *QUICK, f"output={folder}"]) == 0
    return folder


def test_the_folder_holds_tables_pictures_and_the_record(studied):
    names = {p.name for p in studied.iterdir()}
    assert names >= {
        "table_2.txt", "table_2.csv", "table_2.md", "organs.txt", "organs.csv", "ks.txt",
        "figure_4.png", "figure_5.png", "figure_2_best.png", "figure_2_worst.png", "episodes.csv",
        "episodes.jsonl", "patients.txt", "plans", "config.yaml", "record.json",
    }  # fmt: skip


def test_there_is_a_row_a_sampling(studied):
    with (studied / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 + 5 * 2)
    assert {r["sampler"] for r in rows} == {
        "Reference", "Reference, eq. (1)", "heuristic", "uniform", "uniform_even",
        "violation_driven", "without_organs",
    }  # fmt: skip
    assert all(float(r["d95_percent_std"]) > 0 for r in rows)


def test_a_stopped_study_goes_on(studied, tmp_path, tiny_cases, capsys):
    (tmp_path / "config.yaml").write_text((studied / "config.yaml").read_text())
    lines = (studied / "episodes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "episodes.jsonl").write_text("".join(lines[:12]) + lines[12][:40])
    (tmp_path / "plans").mkdir()
    first = json.loads(lines[0])["case"]
    for kept in (studied / "plans").glob(f"{first}*"):
        (tmp_path / "plans" / kept.name).write_bytes(kept.read_bytes())
    assert cli.main(["study", *tiny_cases, *QUICK, f"output={tmp_path}"]) == 0
    assert "1 cases are known" in capsys.readouterr().out
    again = (tmp_path / "episodes.jsonl").read_text().splitlines(keepends=True)
    assert again[:12] == lines[:12]  # clocks and all: they were not made again
    assert len(again) == len(lines)


def test_another_study_is_not_continued(studied, tiny_cases, capsys):
    before = (studied / "config.yaml").read_text()
    other = [*tiny_cases, *QUICK, "trials.seed=7", f"output={studied}"]
    assert cli.main(["study", *other]) == 2
    assert "holds a study with other trials" in capsys.readouterr().err
    assert (studied / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("work_of=nobody", "of='nobody' is no sampler here"),
        ("heuristic=nobody", "heuristic='nobody' is no sampler"),
        ("models=[nobody]", "models=['nobody'] are no samplers"),
        ("trials.n_samplings=0", "n_samplings=0"),
        ("samplers.heuristic.width=1", "samplers.heuristic.width_mm"),
        ("cases=['openkbp:nowhere.zip']", "no such file"),
    ],
)
def test_a_wrong_call_is_refused(tmp_path, tiny_cases, capsys, wrong, said):
    assert cli.main(["study", *tiny_cases, *QUICK, f"output={tmp_path}", wrong]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message


def test_nobody_is_judged_on_patients_it_learned_from(tmp_path, capsys):
    call = ["study", "agents=[pnet_setup2]", "work_of=pnet_setup2", f"output={tmp_path / 'out'}"]
    assert cli.main([*call, "cases=[head-and-neck-10000,head-and-neck-00002]"]) == cli.EXIT_USAGE
    assert "'head-and-neck-00002'] are among those that pnet_setup2" in capsys.readouterr().err
