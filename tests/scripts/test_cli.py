"""The command line as a person meets it: what it says, and with which exit code."""

import pytest

from scripts import cli


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _said(capsys, *arguments) -> tuple[int, str]:
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.err


def test_without_a_command_all_commands_are_listed(capsys):
    assert cli.main([]) == 2
    assert "plan" in capsys.readouterr().out
    assert cli.main(["--help"]) == 0


def test_an_unknown_command_is_refused_with_the_nearest_one(capsys):
    code, said = _said(capsys, "pln")
    assert code == 2
    assert "`pln` is no command. Did you mean `plan`?" in said


@pytest.mark.parametrize(
    "wrong, named, near",
    [
        ("dose_grid=3", "dose_grid", "dose_grid_mm"),
        ("patient.sed=3", "patient.sed", "patient.seed"),
        ("geometry.beams.gantry=[0]", "geometry.beams.gantry", "geometry.beams.gantry_deg"),
        ("pateint=openkbp", "pateint", "patient"),
    ],
)
def test_a_wrong_key_is_refused_with_the_nearest_one(capsys, wrong, named, near):
    code, said = _said(capsys, "plan", wrong)
    assert code == 2
    assert f"`{named}` is no key" in said
    assert f"`{near}`" in said


def test_a_wrong_choice_is_refused_with_the_choices(capsys):
    code, said = _said(capsys, "plan", "patient=opnkbp")
    assert code == 2
    assert "head_and_neck" in said
    assert "Did you mean `patient=openkbp`?" in said


def test_a_wrong_choice_in_a_sweep_is_refused_before_the_first_run(capsys):
    code, said = _said(capsys, "plan", "-m", "patient=head_and_neck,opnkbp")
    assert code == 2
    assert "patient=opnkbp" in said


def test_a_value_that_must_be_given_is_asked_for(capsys):
    code, said = _said(capsys, "plan", "patient=openkbp")
    assert code == 2
    assert "patient.path=VALUE" in said


def test_words_without_a_value_are_refused(capsys):
    code, said = _said(capsys, "plan", "quick")
    assert code == 2
    assert "`quick` cannot be read; write key=value" in said


def test_an_output_folder_that_cannot_be_written_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, said = _said(capsys, "plan", f"output={tmp_path}/file/below")
    assert code == 2
    assert "cannot be written" in said
    assert "output=FOLDER" in said


def test_showing_the_configuration_makes_no_folder(capsys, tmp_path):
    assert cli.main(["plan", "--cfg", "job"]) == 0
    assert "dose_grid_mm" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_sampling_networks_are_evaluated_by_their_own_study():
    said = ["evaluate", "agent=pnet", "experiment=openkbp_validation", "timing=false"]
    meant = ["study", "experiment=[pnet,openkbp_validation]", "timing=false"]
    assert cli._in_full(said) == meant
    other = ["evaluate", "agents=[pnet_setup1]"]
    assert cli._in_full(other) == other
    assert cli._in_full(["train", "agent=pnet"]) == ["train", "agent=pnet"]


def test_a_key_that_others_refer_to_is_asked_for_by_name(capsys):
    assert cli.main(["study", "experiment=openkbp_validation"]) == cli.EXIT_USAGE
    assert "`openkbp` has no default" in capsys.readouterr().err
