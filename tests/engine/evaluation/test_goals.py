import numpy as np
import pytest

from engine.evaluation.goals import head_and_neck_goals
from engine.evaluation.scorecard import Scorecard
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure

GRID = Grid.centered((4, 4, 4), (5.0, 5.0, 5.0))
MASK = np.ones(GRID.shape, dtype=bool)


def patient_with(*organs):
    structures = [Structure("External", MASK, "external")]
    structures += [Structure(t, MASK, "target") for t in ("PTV56", "PTV70")]
    structures += [Structure(name, MASK, "organ") for name in organs]
    prescription_gy = {"PTV56": 56.0, "PTV70": 70.0}
    hu = np.zeros(GRID.shape, np.float32)
    return Patient("test", GRID, hu, {s.name: s for s in structures}, prescription_gy, 35)


def limits(goals):
    return {goal.key: (goal.sense, goal.limit) for goal in goals}


def test_targets_are_covered_and_only_the_highest_is_capped():
    got = limits(head_and_neck_goals(patient_with()))
    assert got["PTV70 D95%[%]"] == ("at least", 95.0)
    assert got["PTV56 D95%[%]"] == ("at least", 95.0)
    assert got["PTV70 D2%[%]"] == ("at most", 107.0)
    assert "PTV56 D2%[%]" not in got


@pytest.mark.parametrize(
    "organ, metric, limit",
    [
        ("SpinalCord", "D0.1cc[Gy]", 45.0),  # RTOG 0225
        ("Brainstem", "D0.1cc[Gy]", 54.0),  # QUANTEC, Mayo 2010
        ("Parotid_L", "Mean[Gy]", 26.0),  # RTOG 0225
        ("Parotid_R", "Mean[Gy]", 26.0),
        ("Bone_Mandible", "D2%[Gy]", 70.0),  # RTOG 0615
        ("Larynx", "Mean[Gy]", 45.0),  # RTOG 0615
        ("OpticChiasm", "D0.1cc[Gy]", 55.0),  # QUANTEC, Mayo 2010
        ("OpticNrv_R", "D0.1cc[Gy]", 55.0),
        ("Eye_L", "Mean[Gy]", 35.0),  # RTOG 0615
    ],
)
def test_organs_have_their_published_limits(organ, metric, limit):
    assert limits(head_and_neck_goals(patient_with(organ)))[f"{organ} {metric}"] == (
        "at most",
        limit,
    )


def test_organs_that_are_absent_or_unknown_have_no_goal():
    goals = head_and_neck_goals(patient_with("Brainstem", "Musc_Temporal_L"))
    assert {g.structure for g in goals if g.group == "organ"} == {"Brainstem"}


def test_every_goal_names_its_source_and_normal_tissue_is_among_them():
    goals = head_and_neck_goals(patient_with("SpinalCord"))
    assert all(goal.source for goal in goals)
    assert {g.structure for g in goals if g.group == "normal tissue"} == {"zRing"}
    with_body = head_and_neck_goals(patient_with("SpinalCord"), integral=True)
    assert {g.structure for g in with_body if g.group == "normal tissue"} == {"zRing", "External"}
    assert Scorecard(goals).weights().sum() == pytest.approx(1.0)
