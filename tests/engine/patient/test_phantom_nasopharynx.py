"""Nasopharynx patients: drawn by seed, with the target where such tumors grow."""

import numpy as np
import pytest
from scipy import ndimage

from engine.patient.phantom_nasopharynx import TARGET, nasopharynx
from engine.patient.structures import distance_mm

SEEDS = range(8)


@pytest.fixture(scope="module")
def patients():
    return [nasopharynx(seed, 4.0) for seed in SEEDS]


def test_one_seed_is_one_patient_and_another_is_another(patients):
    again = nasopharynx(3, 4.0)
    np.testing.assert_array_equal(again.hu, patients[3].hu)
    np.testing.assert_array_equal(again.mask(TARGET), patients[3].mask(TARGET))
    volumes = {int(p.mask(TARGET).sum()) for p in patients}
    assert len(volumes) == len(patients)


def test_there_is_one_target_at_the_paper_s_level(patients):
    for patient in patients:
        assert patient.targets == (TARGET,)
        assert patient.prescription_gy[TARGET] / patient.n_fractions == pytest.approx(1.8)


def test_volumes_lie_within_their_bounds(patients):
    for patient in patients:
        volume = patient.mask(TARGET).sum() * patient.grid.voxel_volume_cm3
        assert 40.0 < volume <= 221.0


def test_the_target_is_one_piece_in_tissue_before_the_brainstem(patients):
    for patient in patients:
        mask, stem = patient.mask(TARGET), patient.mask("Brainstem")
        assert ndimage.label(mask)[1] == 1
        assert not (mask & stem).any()
        assert patient.hu[mask].min() > -500.0
        y = patient.grid.points_mm(np.flatnonzero(mask))[:, 1].mean()
        assert y < patient.grid.points_mm(np.flatnonzero(stem))[:, 1].mean(), "y grows backwards"


def test_every_third_target_touches_the_brainstem(patients):
    gaps = [
        distance_mm(p.mask(TARGET), p.grid)[p.mask("Brainstem")].min() for p in patients
    ]
    assert all(gap <= 4.0 for gap in gaps[::3])


@pytest.mark.parametrize("settings, match", [
    ({"seed": -1}, "seed"), ({"seed": 1.5}, "seed"), ({"seed": 0, "spacing_mm": 0.1}, "spacing"),
    ({"seed": 0, "target_volume_cm3": (50, 20)}, "target_volume"),
])  # fmt: skip
def test_what_cannot_be_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        nasopharynx(**settings)
