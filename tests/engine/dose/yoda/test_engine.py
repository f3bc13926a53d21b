"""The deterministic engine: what it conserves, what it can treat, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from engine.dose.monte_carlo.engine import MonteCarloEngine
from engine.dose.yoda.engine import YodaEngine
from engine.dose.yoda.splitting import RingScheme
from engine.evaluation.comparison import axis_profile
from engine.evaluation.gamma import gamma_3d
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Aperture, Beam, Plan
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.machine.ion import SecondGaussian
from engine.machine.library import load_machine
from engine.machine.single_spots import SpotKind
from engine.patient.patient import Structure
from engine.patient.phantoms import half_slab_tank, water_tank
from engine.physics.constants import GY_G_PER_MEV

ENERGY_MEV = 70.0
KIND = SpotKind(ENERGY_MEV, 0.7, 3.0, 1e-8)
EM = YodaEngine(nuclear=False)


@pytest.fixture(scope="module")
def tank():
    """60 × 60 × 60 mm³ of water in voxels of 2 mm."""
    return water_tank(60.0, 2.0, 20.0)


def spot(patient, kind=KIND, x_mm=0.0, weight=1.0) -> Plan:
    """One spot along y from the tank's surface on."""
    start = (x_mm, float(patient.grid.lower_mm[1]), 0.0)
    return plan_of([SingleSpot(kind, start, (0.0, 1.0, 0.0), weight)], nuclear=False)


def clinical(beam: Beam, machine=None, energy_mev=ENERGY_MEV, u_mm=0.0) -> Plan:
    """One proton of the generic machine."""
    machine = machine or load_machine("generic_proton")
    one = np.zeros(1)
    return Plan(
        machine, (beam,), one.astype(np.uint16),
        np.full(1, machine.energy_index(energy_mev), np.uint16), np.array([u_mm], np.float32),
        one.astype(np.float32), np.ones(1),
    )  # fmt: skip


def dose(engine, patient, plan, **arguments):
    return engine.dose(patient, plan, patient.grid, **arguments)["dose"].astype(np.float64)


def energy_mev(patient, gy) -> float:
    """All that is left in a tank of water."""
    return float(gy.sum()) * patient.grid.voxel_volume_cm3 / GY_G_PER_MEV


def test_all_energy_stays_in_the_tank_without_reactions(tank):
    for split in ("1", "1+6+6+12", "1+6+6+12+12+24"):
        engine = replace(EM, scheme=split, adaptive=False)
        assert energy_mev(tank, dose(engine, tank, spot(tank))) == pytest.approx(70.0, rel=1e-3)


def test_reactions_take_what_neutrons_and_photons_carry_away(tank):
    lost = 1.0 - energy_mev(tank, dose(YodaEngine(), tank, spot(tank))) / ENERGY_MEV
    assert 0.01 < lost < 0.025  # MCsquare: 0.015 at 70 MeV within 60 mm


def test_however_a_spot_is_split_in_water_its_dose_is_the_same(tank):
    whole = dose(EM, tank, spot(tank))  # adaptive: not split at all
    for split in ("1+6+6+12", "1+6+6+12+12+24"):
        parts = dose(replace(EM, scheme=split, adaptive=False), tank, spot(tank))
        assert np.abs(parts - whole).max() < 4e-3 * whole.max()


def test_spots_are_split_where_matter_differs_and_solves_are_shared():
    slab = half_slab_tank(1000.0, 2.0)
    water = water_tank(100.0, 2.0, 20.0)
    plan = spot(slab, SpotKind(100.0, 1.0, 3.0, 1e-8))
    split = EM.counted(slab, plan, slab.grid)[1]
    assert split.n_beamlets == 62  # the center is a pair
    assert split.n_solved == 2 and split.n_reused == 60  # through the slab, and beside it
    assert EM.counted(water, plan, water.grid)[1].n_beamlets == 1


def test_a_slab_in_half_of_a_spot_makes_two_ranges():
    """5 mm of range apart: bone of 10 mm in one half (Burlacu 2024's tank)."""
    slab = half_slab_tank(1000.0, 2.0)
    gy = dose(EM, slab, spot(slab, SpotKind(100.0, 1.0, 3.0, 1e-8)))
    half = gy.shape[2] // 2
    behind, beside = gy[:, :, half + 2 :].sum(axis=(0, 2)), gy[:, :, : half - 2].sum(axis=(0, 2))
    apart = 2.0 * (np.argmax(beside) - np.argmax(behind))
    assert 2.0 <= apart <= 6.0


def half_filled(hu, left=False):
    """A tank of 2 mm voxels with 30 mm of something else in one half, from 10 mm of depth on."""
    water = water_tank((60.0, 100.0, 60.0), 2.0, 20.0)
    inside = np.zeros(water.grid.shape, bool)
    inside[:, 5:20, :15] = True
    inside = inside if left else inside[:, :, ::-1]
    bare = {n: replace(s, material=None) for n, s in water.structures.items()}
    patient = replace(water, hu=np.where(inside, hu, 0.0).astype(np.float32), structures=bare)
    return patient.with_structures(Structure("Water", ~inside, "support", "water"))


@pytest.mark.parametrize("hu", (1000.0, -1000.0))
def test_mirrored_matter_gives_the_mirrored_dose_and_small_moves_small_changes(hu):
    kind = SpotKind(100.0, 1.0, 3.0, 1e-8)
    right, left = half_filled(hu), half_filled(hu, left=True)
    gy = dose(EM, right, spot(right, kind))
    mirrored = dose(EM, left, spot(left, kind))[:, :, ::-1]
    assert np.abs(gy - mirrored).max() < 0.06 * gy.max()  # the pattern of beamlets is turned
    moved = [dose(EM, right, spot(right, kind, x_mm=x)) for x in (-0.01, 0.01)]
    assert np.abs(moved[0] - moved[1]).max() < 0.01 * gy.max()


@pytest.mark.parametrize("hu, percent", ((1000.0, 98.0), (-1000.0, 96.0)))
def test_thick_slabs_in_half_of_a_spot_agree_with_monte_carlo(hu, percent):
    patient = half_filled(hu)
    plan = spot(patient, SpotKind(100.0, 1.0, 3.0, 1e-8))
    off = dict(non_elastic=False, nuclear_elastic=False, proton_proton=False)
    followed = dose(MonteCarloEngine(n_histories=400_000, **off), patient, plan)
    found = gamma_3d(followed, dose(EM, patient, plan), patient.grid, 1.0, 1.0)
    assert found.pass_rate_percent >= percent


def test_a_beam_that_converges_goes_a_longer_way(tank):
    """Path over depth is 1 + θ² with θ² per axis: 0.16 % at 0.04 rad."""
    straight, slanted = (
        dose(EM, tank, spot(tank, replace(KIND, angle_std_rad=angle, correlation=-0.9)))
        for angle in (1e-8, 0.04)
    )
    falls = [_distal_mm(gy.sum(axis=(0, 2))) for gy in (straight, slanted)]
    assert falls[0] - falls[1] == pytest.approx(0.0016 * 40.8, abs=0.03)


def _distal_mm(planar) -> float:
    top = int(np.argmax(planar))
    return float(np.interp(-0.5 * planar[top], -planar[top:], 2.0 * np.arange(top, planar.size)))


def test_a_second_gaussian_is_split_like_the_first():
    slab, machine = half_slab_tank(1000.0, 2.0), load_machine("generic_proton")
    own = SecondGaussian(
        np.ones(len(machine.energy_mev)), machine.nozzle_variance_mm2,
        machine.nozzle_covariance_mm_rad, machine.nozzle_angle_variance_rad2,
    )  # fmt: skip
    beam = Beam(0.0, (0.0, 0.0, 0.0))
    one, other = (
        dose(EM, slab, clinical(beam, m, 100.0))
        for m in (machine, replace(machine, second_gaussian=own))
    )
    np.testing.assert_allclose(other, one, atol=1e-5 * one.max())


def test_a_ct_with_nan_is_refused(tank):
    hu = tank.hu.copy()
    hu[3, 3, 3] = np.nan
    with pytest.raises(ValueError, match="hu holds NaN"):
        replace(tank, hu=hu)


def test_a_dose_grid_of_another_pitch_has_the_same_dose(tank):
    plan = spot(tank)
    whole = dose(EM, tank, plan)
    coarse = EM.dose(tank, plan, tank.grid.resampled(2.5))["dose"].astype(np.float64)
    depth = [0.5 * 2.0 + 2.0 * np.arange(30), 0.5 * 2.5 + 2.5 * np.arange(24)]
    planar = [gy.sum(axis=(0, 2)) * pitch**2 for gy, pitch in ((whole, 2.0), (coarse, 2.5))]
    np.testing.assert_allclose(
        planar[1][:12], np.interp(depth[1][:12], depth[0], planar[0]), rtol=5e-3
    )


def test_dose_is_symmetric_where_matter_is(tank):
    gy = dose(replace(EM, adaptive=False), tank, spot(tank))
    np.testing.assert_allclose(gy, gy[:, :, ::-1], atol=2e-3 * gy.max())
    np.testing.assert_allclose(gy, gy.transpose(2, 1, 0), atol=3e-3 * gy.max())


def test_the_range_does_not_depend_on_the_direction(tank):
    found = []
    for gantry, couch in ((0.0, 0.0), (90.0, 0.0), (30.0, 20.0)):
        isocenter = (0.0, -20.0, 0.0) if gantry != 90.0 else (20.0, 0.0, 0.0)
        beam = Beam(gantry, isocenter, couch)
        plan = clinical(beam)
        direction = beam_frame(beam, plan.machine.virtual_source_mm).direction
        gy = dose(replace(EM, adaptive=False), tank, plan)
        profile = axis_profile(gy, tank.grid, isocenter, direction, 8.0)
        surface = abs((-30.0 - isocenter[1]) / direction[1]) if gantry != 90.0 else 10.0
        found.append(profile.distal_mm() + surface)  # the axis begins at the isocenter
    assert max(found) - min(found) < 0.5


def test_let_is_that_of_protons_slowing_down(tank):
    found = EM.dose(tank, spot(tank), tank.grid, quantities=("dose", "letd"))
    axis = found["letd"][15, :, 15]
    assert axis[0] == pytest.approx(0.96, rel=0.03)  # PSTAR, 70 MeV: 9.56 MeV cm²/g
    assert np.all(np.diff(axis[:20]) > 0.0) and 7.0 < axis[20] < 14.0  # at the peak


def test_dose_to_medium_is_dose_to_water_times_the_stopping_ratio():
    slab = half_slab_tank(1000.0, 2.0)
    plan = spot(slab, SpotKind(100.0, 1.0, 3.0, 1e-8))
    water, medium = (
        dose(replace(EM, scores=scores), slab, plan)
        for scores in ("dose to water", "dose to medium")
    )
    high = water > 0.1 * water.max()
    bone = np.zeros(slab.grid.shape, bool)
    bone[:, 10:15, 25:] = True  # 20 to 30 mm deep, in one half
    np.testing.assert_allclose(medium[high & ~bone], water[high & ~bone], rtol=1e-6)
    ratio = medium[high & bone] / water[high & bone]
    assert 0.88 < ratio.min() and ratio.max() < 0.92  # 1000 HU: RSP 1.44 over density 1.61


def test_a_second_gaussian_has_its_share_and_width(tank):
    machine = load_machine("generic_proton")
    n = len(machine.energy_mev)
    wide = SecondGaussian(np.full(n, 0.2), np.full(n, 100.0), np.zeros(n), np.zeros(n))
    alone = replace(wide, weight=np.ones(n))
    beam = Beam(0.0, (0.0, 0.0, 0.0))
    one, both, other = (
        dose(EM, tank, clinical(beam, replace(machine, second_gaussian=second)))
        for second in (None, wide, alone)
    )
    np.testing.assert_allclose(both, 0.8 * one + 0.2 * other, atol=1e-5 * one.max())
    assert other.max() < 0.6 * one.max()  # 30 mm² of the machine's own, with scatter


def test_a_range_shifter_shortens_the_range_by_its_water(tank):
    beam = Beam(0.0, (0.0, 0.0, 0.0))
    shifted = replace(beam, range_shifter="rs40", shifter_exit_mm=-80.0)
    bins = 2.0 * np.arange(30)
    peaks = []
    for plan in (clinical(beam, energy_mev=80.0), clinical(shifted, energy_mev=110.0)):
        peaks.append(bins[np.argmax(dose(EM, tank, plan).sum(axis=(0, 2)))])
    ranges = (51.8, 91.4)  # CSDA of 80 and 110 MeV in mm, PSTAR
    assert peaks[0] - peaks[1] == pytest.approx(ranges[0] - (ranges[1] - 40.0), abs=2.5)


def test_a_gap_behind_a_range_shifter_lets_its_secondaries_spread(tank):
    near, far = (
        dose(YodaEngine(), tank, clinical(
            Beam(0.0, (0.0, 0.0, 0.0), range_shifter="rs40", shifter_exit_mm=exit_mm),
            energy_mev=110.0,
        ))[:, :3].sum()
        for exit_mm in (-35.0, -250.0)
    )  # fmt: skip
    assert 0.90 < far / near < 0.98  # Monte Carlo with 130 MeV: 6 % less at the entrance


def test_beamlets_beside_the_body_give_dose_to_its_edge():
    """Along a face of the body, on it, half of a spot is inside and stops where all would."""
    whole = water_tank(60.0, 2.0, 20.0)
    inside = np.zeros(whole.grid.shape, bool)
    inside[:, :, :15] = True
    external = replace(whole.external, mask=inside)
    half = replace(whole, structures={**whole.structures, external.name: external})
    kind = replace(KIND, sigma_mm=6.0)
    edge, full = (dose(replace(EM, adaptive=False), p, spot(p, kind)) for p in (half, whole))
    ratio = edge[:, :15, :15].sum() / full[:, :15, :15].sum()
    assert ratio == pytest.approx(1.0, abs=0.03)
    assert edge[:, 23:].sum() < 0.01 * edge.sum()  # range: 40.8 mm


def test_slow_protons_take_shorter_steps():
    shallow = water_tank(20.0, 0.5, 5.0)
    kind = SpotKind(30.0, 0.1, 3.0, 1e-8)
    fine, usual, coarse = (
        dose(replace(EM, fokker_planck_step_mm=step), shallow, spot(shallow, kind)).sum(axis=(0, 2))
        for step in (0.1, 2.0, 4.0)
    )
    assert np.abs(usual - fine).max() < 3e-3 * fine.max()
    np.testing.assert_array_equal(coarse, usual)


def test_what_a_matrix_gathers_keeps_the_sum(tank):
    plan = spot(tank)
    engine = YodaEngine(entry_cutoff=1e-2)
    influence = engine.influence(tank, plan, tank.grid)
    assert influence.adjoint(np.ones(influence.n_rows))[0] == pytest.approx(
        dose(engine, tank, plan).sum(), rel=3e-3
    )
    fine = replace(engine, entry_cutoff=1e-4).influence(tank, plan, tank.grid)
    assert influence.n_nonzeros < 0.7 * fine.n_nonzeros


def test_progress_is_told_spot_by_spot(tank):
    told = []
    plan = spot(tank)
    replace(EM, progress=told.append).dose(tank, plan, tank.grid)
    assert [(p.done, p.expected, p.unit) for p in told] == [(1, 1, "spots")]


@pytest.mark.parametrize("method", ("dose", "influence"))
def test_spots_that_miss_the_patient_are_refused(tank, method):
    far = clinical(Beam(0.0, (0.0, 0.0, 0.0)), u_mm=500.0)
    with pytest.raises(ValueError, match=r"spot 0 .* misses the patient"):
        getattr(EM, method)(tank, far, tank.grid)


def test_spots_through_air_alone_miss_the_patient(tank):
    external = tank.external
    mask = external.mask.copy()
    mask[:, :, 10:] = False
    left = replace(
        tank, structures={**tank.structures, external.name: replace(external, mask=mask)}
    )
    with pytest.raises(ValueError, match="misses the patient"):
        dose(EM, left, spot(left, x_mm=25.0))


def test_energies_beyond_the_tables_are_refused(tank):
    machine = load_machine("generic_proton")
    too_fast = replace(machine, energy_mev=machine.energy_mev + 100.0)
    plan = replace(clinical(Beam(0.0, (0.0, 0.0, 0.0))), machine=too_fast)
    plan = replace(plan, spot_energy=np.array([len(machine.energy_mev) - 1], np.uint16))
    with pytest.raises(ValueError, match="energy_mev=.* outside 10 … 250 MeV"):
        dose(EM, tank, plan)


def test_other_particles_and_apertures_are_refused(tank):
    carbon = clinical(Beam(0.0, (0.0, 0.0, 0.0)), load_machine("generic_carbon"), 150.0)
    with pytest.raises(ValueError, match="generic_carbon"):
        dose(EM, tank, carbon)
    block = Aperture(((-20.0, -20.0), (20.0, -20.0), (0.0, 20.0)), exit_mm=-100.0)
    with pytest.raises(ValueError, match="aperture of the beam at gantry 0°"):
        dose(EM, tank, clinical(Beam(0.0, (0.0, 0.0, 0.0), aperture=block)))


def test_weights_that_are_no_numbers_of_protons_are_refused(tank):
    for weight in (-1.0, np.nan):
        plan = spot(tank).with_weights(np.array([weight]))
        with pytest.raises(ValueError, match="weights"):
            dose(EM, tank, plan)


@pytest.mark.parametrize(
    "setting",
    (dict(depth_step_mm=0.0), dict(depth_step_mm="1"), dict(fokker_planck_step_mm=100.0),
     dict(entry_cutoff=1.0), dict(i_water_ev=20.0), dict(scores="dose"),
     dict(scattering="highland"), dict(nuclear="yes"), dict(scheme="6+1"),
     dict(influence_scheme="none")),
)  # fmt: skip
def test_impossible_settings_are_refused(setting):
    name = next(iter(setting))
    with pytest.raises(ValueError, match="scheme|counts" if "scheme" in name else f"{name}="):
        YodaEngine(**setting)


def test_a_scheme_that_loses_protons_is_refused():
    with pytest.raises(ValueError, match="does not conserve particles"):
        YodaEngine(
            scheme=RingScheme((1, 6), (0.0, 0.0), (0.2, 0.1), (0.0, 0.8), (0.8, 0.8))
        )
