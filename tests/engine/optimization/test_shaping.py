"""Dose modification and recovery on a small horseshoe under photons, and on protons."""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.dose.quantities import RbeDose
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Beam
from engine.geometry.spots import SpotSettings, place_spots
from engine.machine.library import load_machine
from engine.optimization.regions import Region
from engine.optimization.shaping import Recovery, Shaper, Wish, scaled_patch
from engine.optimization.shaping_model import MatrixDose
from engine.optimization.shaping_requests import (
    DvhPoint,
    IsodoseDrag,
    IsodosePush,
    RequestRefused,
    Scene,
    VoxelRequest,
    VoxelsRequest,
    as_plain,
    from_plain,
)  # fmt: skip
from engine.optimization.shaping_session import ShapingSession
from engine.patient.phantoms import horseshoe

PRESCRIPTION = 60.0


def shaped(modality: str) -> ShapingSession:
    patient = horseshoe((5.0, 5.0, 5.0))
    target, organ = (patient.mask(n).ravel() for n in ("PTV", "Core"))
    voxels = np.flatnonzero(target | organ)
    if modality == "photon":
        beams = [Beam(40.0 * k) for k in range(9)]
        plan = place_bixels(patient, load_machine("generic_photon"), beams, margin_mm=8.0)
        influence = PhotonSvdEngine().influence(patient, plan, patient.grid, voxels=voxels)
    else:
        beams = [Beam(90.0), Beam(180.0), Beam(270.0)]
        settings = SpotSettings(8.0, layer_spacing_mm=8.0)
        plan = place_spots(patient, load_machine("generic_proton"), beams, settings)
        influence = PencilBeamEngine(lateral_cutoff=0.02).influence(
            patient, plan, patient.grid, voxels=voxels
        )
    t, o = target[voxels], organ[voxels]
    quantity = RbeDose(30)
    model = MatrixDose(influence, t.astype(np.float32), o.astype(np.float32))
    points = patient.grid.points_mm(voxels).astype(np.float32)
    level = PRESCRIPTION / quantity.scale
    floor = np.where(t, 0.97 * level, -np.inf).astype(np.float32)
    ceiling = np.where(t, 1.07 * level, 0.0).astype(np.float32)
    shaper = Shaper(model, points, floor, ceiling, level)
    start = np.ones(influence.n_spots, np.float32)
    start *= shaper.prescription_gy / influence.dose(start)[t].mean()
    regions = {n: Region(np.flatnonzero(m), np.ones(m.sum())) for n, m in (("PTV", t), ("Core", o))}
    return ShapingSession(shaper, Scene(patient.grid, voxels, regions, quantity), start)


@pytest.fixture(scope="module")
def sessions():
    return {m: shaped(m) for m in ("photon", "proton")}


@pytest.fixture(params=["photon", "proton"])
def session(request, sessions):
    old = sessions[request.param]
    return ShapingSession(old.shaper, old.scene, old.start)


RIM = (0.0, 20.0, 0.0)


def test_a_modification_alone_gives_the_voxel_its_dose(session):
    shaper = replace(session.shaper, recovery=Recovery(n_steps=0))
    row = session.scene.nearest_row(RIM)
    for wanted, lower in ((0.6, True), (1.3, False)):
        goal = wanted * float(session.plan.dose[row])
        outcome = shaper.apply(session.plan, Wish([row], [goal], lower))
        assert outcome.plan.dose[row] == pytest.approx(goal, rel=2e-3)
        assert outcome.is_met
        assert outcome.recovered == ()


def test_recovery_gives_the_target_back_what_the_modification_took(session):
    row, dose = session.scene.nearest_row(RIM), session.plan.dose
    target, level = session.shaper.floor > 0, session.shaper.prescription_gy
    wish = Wish([row], [0.6 * dose[row]], True)
    without = replace(session.shaper, recovery=Recovery(n_steps=0)).apply(session.plan, wish)
    with_it = session.shaper.apply(session.plan, wish)

    def cold(outcome):
        return np.maximum(np.minimum(dose, 0.97 * level) - outcome.plan.dose, 0.0)[target]

    assert cold(without).max() > 0.05 * level
    assert cold(with_it).sum() < 0.25 * cold(without).sum()
    assert with_it.plan.dose[row] < 0.75 * dose[row]


def test_the_plan_is_left_as_it_was_and_amplitudes_stay_positive(session):
    before = session.plan.weights.copy(), session.plan.dose.copy()
    row = session.scene.nearest_row(RIM)
    outcome = session.shaper.apply(session.plan, Wish([row], [0.0], True))
    np.testing.assert_array_equal(session.plan.weights, before[0])
    np.testing.assert_array_equal(session.plan.dose, before[1])
    assert outcome.plan.weights.min() >= 0.0
    np.testing.assert_allclose(
        outcome.plan.dose, session.shaper.model.dose(outcome.plan.weights), rtol=1e-6
    )


def test_the_same_request_gives_the_same_bits(session):
    row = session.scene.nearest_row(RIM)
    wish = Wish([row], [0.5 * session.plan.dose[row]], True)
    one, two = (session.shaper.apply(session.plan, wish) for _ in range(2))
    np.testing.assert_array_equal(one.plan.weights, two.plan.weights)
    assert one.recovered == two.recovered


def test_recovery_begins_with_the_farthest_of_what_was_spoilt(sessions):
    session = sessions["photon"]
    row, before = session.scene.nearest_row(RIM), session.plan.dose
    wish = Wish([row], [0.55 * before[row]], True)
    shaper, n_steps = session.shaper, session.shaper.recovery.n_steps
    dose = replace(shaper, recovery=Recovery(n_steps=0)).apply(session.plan, wish).plan.dose
    slack = shaper.recovery.slack * shaper.prescription_gy
    low, high = np.minimum(before - slack, shaper.floor), np.maximum(before + slack, shaper.ceiling)
    low[row], high[row] = -np.inf, wish.dose[0]
    spoilt = np.flatnonzero((dose < low) | (dose > high))
    distance = np.linalg.norm(shaper.points_mm[spoilt] - shaper.points_mm[row], axis=1)
    first = shaper.apply(session.plan, wish).recovered[0]
    place = np.flatnonzero(spoilt == first)
    assert len(spoilt) > n_steps
    assert distance[place] >= np.quantile(distance, 1.0 - 1.5 / n_steps)


def test_amplitudes_on_the_way_through_the_target_are_lowered_less(sessions):
    """Equations 2 and 3: at the mean path over the beams the weight is half of K."""
    shaper = sessions["photon"].shaper
    row = sessions["photon"].scene.nearest_row(RIM)
    seen = shaper.model.projection(row)
    weight = shaper.weights_of(seen, lower=True) / seen.lateral
    path = shaper.model.path(organs=False)[seen.amplitudes]
    assert np.all(np.diff(weight[np.argsort(path)]) <= 1e-6)
    mean = np.mean([
        np.average(path[beam], weights=seen.lateral[beam])
        for beam in (shaper.model.beam_of[seen.amplitudes] == b for b in range(9)) if beam.any()
    ])  # fmt: skip
    assert np.interp(mean, np.sort(path), -np.sort(-weight)) == pytest.approx(0.5, abs=0.02)


def test_a_patch_makes_up_for_amplitudes_that_meet_zero():
    shape, gy = np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0])
    change = scaled_patch(shape, gy, np.array([0.1, 1.0, 1.0]), -1.5)
    np.testing.assert_allclose(change, [-0.1, -0.7, -0.7])
    emptied = scaled_patch(shape, gy, np.array([0.1, 1.0, 1.0]), -9.0)
    np.testing.assert_allclose(emptied, [-0.1, -1.0, -1.0])
    np.testing.assert_allclose(scaled_patch(shape, gy, np.zeros(3), 3.0), [1.0, 1.0, 1.0])


# ------------------------------------------------------------------------------------- requests


def volume_above(session, structure, dose_gy):
    region = session.scene.structures[structure]
    return 100.0 * region.volume[session.dose_gy[region.rows] >= dose_gy].sum()


def test_every_kind_of_request_moves_the_dose_as_asked(session):
    scene = session.scene
    near = [tuple(p) for p in scene.points_mm[scene.rows_within(RIM, 8.0)].tolist()]
    level = float(session.dose_gy[scene.nearest_row(RIM)])
    requests = (
        VoxelRequest(RIM, 0.7 * level),
        VoxelsRequest(tuple(near), 0.9 * level, True),
        IsodoseDrag("axial", 0.85 * level, (0.0, 25.0, 0.0), (0.0, 15.0, 0.0)),
        IsodosePush(0.8 * level, RIM, 8.0, True),
        DvhPoint("Core", 0.8 * level, 60.0),
    )
    for request in requests:
        fresh = ShapingSession(session.shaper, scene, session.start)
        wish = request.wish(scene, fresh.dose_gy)
        before = wish.missing(fresh.plan.dose).sum()
        answer = fresh.request(request)
        assert wish.missing(fresh.plan.dose).sum() < 0.7 * before, request
        assert answer.seconds > 0
        assert request.kind in answer.text
        assert from_plain(as_plain(request)) == request


def test_a_dvh_point_moves_the_curve(sessions):
    session = sessions["photon"]
    session = ShapingSession(session.shaper, session.scene, session.start)
    before = volume_above(session, "Core", 57.0)
    for _ in range(4):
        session.request(DvhPoint("Core", 57.0, before - 20.0))
        if volume_above(session, "Core", 57.0) < before - 18.0:
            break
    assert volume_above(session, "Core", 57.0) < before - 10.0


def test_undo_and_redo_go_back_and_forth(session):
    doses = [session.dose_gy.copy()]
    for share in (0.9, 0.8):
        session.request(VoxelRequest(RIM, share * 60.0))
        doses.append(session.dose_gy.copy())
    session.undo()
    np.testing.assert_array_equal(session.dose_gy, doses[1])
    session.undo()
    np.testing.assert_array_equal(session.dose_gy, doses[0])
    with pytest.raises(RequestRefused, match="nothing to undo"):
        session.undo()
    session.redo()
    np.testing.assert_array_equal(session.dose_gy, doses[1])
    session.request(VoxelRequest(RIM, 40.0))
    with pytest.raises(RequestRefused, match="nothing to redo"):
        session.redo()
    assert [entry["kind"] for entry in session.record] == [
        "voxel", "voxel", "undo", "undo", "redo", "voxel",
    ]  # fmt: skip


@pytest.mark.parametrize("request_, said", [
    (VoxelRequest((500.0, 0.0, 0.0), 30.0), "outside"),
    (VoxelRequest((float("nan"), 0.0, 0.0), 30.0), "finite"),
    (VoxelRequest(RIM, -3.0), "negative"),
    (VoxelRequest(RIM, float("inf")), "finite"),
    (VoxelRequest(RIM, "much"), "finite"),
    (VoxelsRequest((), 30.0, True), "empty"),
    (VoxelsRequest((RIM,), 200.0, True), "nothing to change"),
    (IsodoseDrag("oblique", 30.0, RIM, RIM), "plane"),
    (IsodoseDrag("axial", 0.0, RIM, RIM), "level_gy"),
    (IsodosePush(30.0, RIM, -1.0, True), "radius_mm"),
    (IsodosePush(30.0, (0.0, 0.0), 5.0, True), "center_mm"),
    (DvhPoint("Liver", 30.0, 50.0), "Liver"),
    (DvhPoint("Core", 30.0, 130.0), "volume_percent"),
])  # fmt: skip
def test_impossible_requests_are_refused_and_change_nothing(sessions, request_, said):
    session = sessions["photon"]
    before, n = session.plan, len(session.record)
    with pytest.raises(RequestRefused, match=said):
        session.request(request_)
    assert session.plan is before
    assert len(session.record) == n


def test_a_dose_that_no_fluence_gives_is_told(sessions):
    """Not even without any fluence in the patch does the middle of the target get no dose."""
    session = sessions["photon"]
    session = ShapingSession(session.shaper, session.scene, session.start)
    answer = session.request(VoxelRequest((-45.0, 0.0, 0.0), 0.0))
    assert not answer.is_met
    assert "Gy above the request remain" in answer.text


@pytest.mark.parametrize("settings", [
    dict(n_steps=-1), dict(n_steps=1.5), dict(n_modifications=0), dict(slack=2.0),
    dict(compromise=float("nan")),
    dict(within=-1.0),
])  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Recovery(**settings)


def test_wishes_for_rows_that_are_not_there_are_refused(sessions):
    session = sessions["photon"]
    with pytest.raises(ValueError, match="rows"):
        session.shaper.apply(session.plan, Wish([10**6], [1.0], True))
    with pytest.raises(ValueError, match="rows"):
        Wish([], [], True)
    with pytest.raises(ValueError, match="negative"):
        Wish([0], [-1.0], True)
