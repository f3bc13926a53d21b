"""The highest target alone, on one side or both."""

from dataclasses import replace

import numpy as np
import pytest

from engine.patient.patient import PartialVolume, Structure
from engine.patient.phantoms import head_and_neck
from engine.patient.single_target import single_target


@pytest.fixture(scope="module")
def patient():
    return head_and_neck(5, spacing_mm=5.0, level="L3")


def test_the_highest_target_stays_alone(patient):
    alone = single_target(patient)
    assert alone.targets == (patient.targets[0],)
    assert dict(alone.prescription_gy) == {"PTV_7000": 70.0}
    assert alone.organs == patient.organs
    np.testing.assert_array_equal(alone.mask("PTV_7000"), patient.mask("PTV_7000"))
    assert len(patient.targets) == 3, "the patient given is as it was"


def test_two_sides_make_the_whole(patient):
    box = np.zeros(patient.grid.shape, bool)
    box[20:24, 20:24] = patient.external.mask[20:24, 20:24]
    wide = patient.with_structures(Structure("PTV_7000", box, "target"))
    left, right = (single_target(wide, side).mask("PTV_7000") for side in ("left", "right"))
    assert not (left & right).any()
    assert (left | right).sum() >= 0.9 * box.sum(), "the middle column may belong to neither"


def test_partial_volumes_stay_with_the_whole_and_not_with_a_half(patient):
    whole = patient.structures["PTV_7000"]
    partial = PartialVolume(patient.grid, whole.mask.astype(np.float32))
    known = patient.with_structures(replace(whole, partial=partial))
    assert single_target(known).structures["PTV_7000"].partial is partial
    assert single_target(known, "left").structures["PTV_7000"].partial is None


def test_left_is_where_x_grows():
    patient = head_and_neck(5, spacing_mm=5.0, level="L3")
    box = np.zeros(patient.grid.shape, bool)
    middle = patient.grid.shape[2] // 2
    box[20:24, 20:24, middle - 6 : middle + 7] = True
    wide = patient.with_structures(Structure("PTV_7000", box, "target"))
    left = single_target(wide, "left")
    x = patient.grid.points_mm(np.flatnonzero(left.mask("PTV_7000")))[:, 0]
    body = patient.grid.points_mm(np.flatnonzero(patient.external.mask))[:, 0]
    assert 0 < left.mask("PTV_7000").sum() < box.sum()
    assert x.min() > 0.5 * (body.min() + body.max()) - 25.0


def test_unknown_sides_and_empty_halves_are_refused(patient):
    with pytest.raises(ValueError, match="side='up'"):
        single_target(patient, "up")
    mask = patient.mask("PTV_7000").copy()
    mask[:] = False
    empty = patient.with_structures(Structure("PTV_7000", mask, "target"))
    with pytest.raises(ValueError, match="no voxel"):
        single_target(empty)
