from dataclasses import replace

import numpy as np
import pytest

from engine.dose.quantities import BiologicalDose
from ptenv.envs.voxel_mask import RoundChoice, VoxelMaskTask
from ptenv.envs.voxel_mask_render import ansi, drawn_patient, picture, picture_figure

pytest.importorskip("matplotlib", reason="pictures need the extra 'agents'")


@pytest.fixture(scope="module")
def state(case):
    task, rng = VoxelMaskTask(False), np.random.default_rng(0)
    choice = RoundChoice(rng.random(case.influence.n_rows) < 0.2, 10, 0.5, False)
    return task.transition(task.start(case, 1.0), choice, rng)


def test_the_drawn_patient_has_the_case_s_targets_and_organs(case):
    patient = drawn_patient(case)
    assert patient.targets == case.targets
    assert "zRing" in patient.structures
    assert "Body" not in patient.structures
    rows = np.flatnonzero(patient.mask(case.targets[0]))
    np.testing.assert_array_equal(rows, case.influence.voxels[case.group == 0])
    assert patient.hu.max() > 200  # bone
    assert patient.hu.min() < -800  # air


def test_the_picture_shows_chosen_voxels_dose_and_figures(state):
    figure = picture_figure(state, reference=0.9 * state.dose_gy, title="a title")
    texts = [t.get_text() for part in figure.subfigs for axes in part.axes for t in axes.texts]
    notes = next(text for text in texts if text.startswith("score"))
    for word in ("Q", "work", "budget", "selected", "PTV_7000 D95%[%]", "Parotid"):
        assert word in notes
    legend = [t.get_text() for t in figure.subfigs[1].axes[0].get_legend().get_texts()]
    assert "reference" in legend
    assert "Body" not in legend


def test_a_varying_rbe_is_not_said_to_be_the_protons_one(state):
    case = state.case
    carbon = replace(case, problem=replace(case.problem, quantity=BiologicalDose(20, 0.1, 0.05)))
    for of, label in ((case, "dose in Gy (RBE), RBE 1.1"), (carbon, "dose in Gy (RBE)")):
        figure = picture_figure(replace(state, case=of))
        assert figure.subfigs[1].axes[0].get_xlabel() == label


def test_pictures_are_arrays(state):
    rgb = picture(state)
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert rgb.std() > 20


def test_a_line_of_text_says_how_it_stands(state):
    text = ansi(state, VoxelMaskTask(False))
    assert "head-and-neck-00001 round 1: score" in text
    assert "PTV_7000 D95" in text
    used = 100.0 * (1.0 - state.work_left / state.work_budget)
    assert f"work {used:.1f} % of a budget of 100 %" in text
    assert "\n" not in text
