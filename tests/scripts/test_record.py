"""What a run prints on the way."""

import sys
import warnings

import pytest

from engine.errors import PhysicsWarning
from scripts.record import stage


@pytest.fixture
def told(capsys, monkeypatch):
    """Function: the lines on both streams of a stage that warns of texts of a category."""

    def show(*about):  # as Python does; pytest would only record
        sys.stderr.write(warnings.formatwarning(*about[:4], line=""))

    def run(*warned):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", show)
            with stage("Patient") as notes:
                for category, text in warned:
                    warnings.warn(text, category, stacklevel=1)
                notes.append("7 slices")
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines()

    return run


def test_a_stage_is_one_line(told):
    out, err = told()
    assert len(out) == 1 and err == []
    assert out[0].startswith("Patient   ") and out[0].endswith(" s  7 slices")


def test_a_warning_stands_on_a_line_of_its_own(told):
    out, err = told((PhysicsWarning, "half of it is missing"))
    assert err == ["PhysicsWarning: half of it is missing"]
    assert [line.split() for line in out[:1]] == [["Patient"]]
    assert len(out) == 2 and out[1].startswith("Patient   ") and out[1].endswith(" s  7 slices")


def test_two_warnings_leave_no_empty_line(told):
    out, err = told((PhysicsWarning, "half of it is missing"), (PhysicsWarning, "so is the rest"))
    assert len(err) == 2
    assert len(out) == 2 and out[0].split() == ["Patient"]


def test_other_warnings_say_where_they_come_from(told):
    _, err = told((UserWarning, "old"))
    assert "test_record.py" in err[0] and err[0].endswith("UserWarning: old")


def test_a_stage_that_fails_after_a_warning_is_named_again(capsys):
    def fail():
        warnings.warn("doubtful", PhysicsWarning, stacklevel=1)
        raise ValueError

    with pytest.warns(PhysicsWarning), pytest.raises(ValueError), stage("Patient"):
        fail()
    assert capsys.readouterr().out.splitlines()[1].split() == ["Patient", "failed"]


def test_warnings_are_shown_as_before_after_a_stage():
    show, spell = warnings.showwarning, warnings.formatwarning
    with pytest.warns(PhysicsWarning, match="recorded"), stage("Patient"):
        warnings.warn("recorded", PhysicsWarning, stacklevel=1)
    assert warnings.showwarning is show and warnings.formatwarning is spell
