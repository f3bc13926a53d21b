"""RT Ion Plans as other systems write them: read as PS3.3 C.8.8.25 has them, or refused."""

import numpy as np
import pytest
from plan_samples import (
    ISOCENTER,
    LAYERS,
    foreign_beam,
    foreign_plan,
    foreign_point,
    item,
    tank,
    written,
)

from engine.geometry.coordinates import beam_frame
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_plan import read_plan
from engine.machine.library import load_machine

NEAR = dict(particles_per_mu=1e8, energy_within_mev=2.0)  # 150 and 120 MeV are near ours


def read(plan, tmp_path, **keys):
    return read_plan(written(plan, tmp_path), **{**NEAR, **keys})


def refused(plan, tmp_path, **keys) -> str:
    with pytest.raises(DicomError) as refusal:
        read(plan, tmp_path, **keys)
    return str(refusal.value)


def points_of(plan):
    return plan.IonBeamSequence[0].IonControlPointSequence


def test_monitor_units_are_shared_out_by_meterset_weights(tmp_path):
    """80 MU for a final weight of 4: spot weights × 20 MU × particles."""
    found = read(foreign_plan(), tmp_path)
    np.testing.assert_allclose(found.plan.weights, 1e8 * np.array([40.0, 10.0, 30.0]))
    assert found.n_fractions == 28
    assert found.plan.beams[0].isocenter_mm == ISOCENTER
    assert found.structures_uid == "1.2.9"


def test_spots_are_on_the_gantrys_x_and_y(tmp_path):
    """At 90° the beam comes from the patient's left; x then points posterior, y to the head."""
    plan = read(foreign_plan(), tmp_path).plan
    frame = beam_frame(plan.beams[0], plan.machine.virtual_source_mm)
    at = frame.to_patient(plan.u_mm[:1], plan.v_mm[:1], np.zeros(1))[0]
    np.testing.assert_allclose(at - np.array(ISOCENTER), [0.0, 30.0, 20.0], atol=1e-6)
    np.testing.assert_allclose(frame.direction, [-1.0, 0.0, 0.0], atol=1e-12)


def test_particles_may_depend_on_the_energy(tmp_path):
    found = read(foreign_plan(), tmp_path, particles_per_mu={70: 0.5e8, 150: 1.0e8, 230: 2e8})
    at_120 = 0.5e8 + 0.5e8 * 50.0 / 80.0
    np.testing.assert_allclose(found.plan.weights, [40.0 * 1e8, 10.0 * at_120, 30.0 * at_120])


@pytest.mark.parametrize("told", [{70: 1e8, 140: 1e8}, {130: 1e8, 230: 1e8}, {}])
def test_particles_are_not_made_up_beyond_the_energies_that_are_told(tmp_path, told):
    with pytest.raises(ValueError, match="particles_per_mu"):
        read(foreign_plan(), tmp_path, particles_per_mu=told)


def test_numbers_of_particles_are_taken_as_they_are(tmp_path):
    plan = foreign_plan(metersets=(4e9,))
    plan.IonBeamSequence[0].PrimaryDosimeterUnit = "NP"
    found = read(plan, tmp_path, particles_per_mu=None)
    np.testing.assert_allclose(found.plan.weights, [2e9, 0.5e9, 1.5e9])


def test_monitor_units_without_particles_are_refused(tmp_path):
    assert "particles_per_mu" in refused(foreign_plan(), tmp_path, particles_per_mu=None)


@pytest.mark.parametrize("told", [-1.0, 0.0, np.nan, {100: -1e8}])
def test_particles_must_be_positive(tmp_path, told):
    with pytest.raises(ValueError, match="particles_per_mu"):
        read(foreign_plan(), tmp_path, particles_per_mu=told)


def test_energies_that_the_machine_lacks_are_listed_with_what_would_do(tmp_path):
    said = refused(foreign_plan(), tmp_path, energy_within_mev=0.01)
    machine = load_machine("generic_proton").energy_mev
    off = max(np.abs(machine - e).min() for e in (120.0, 150.0))
    assert "lacks 2 energies" in said and "120, 150 MeV" in said
    enough = float(said.split("energy_within_mev=")[1].split(".\n")[0].rstrip("."))
    assert off <= enough <= off + 0.01
    read(foreign_plan(), tmp_path, energy_within_mev=enough)


def test_spots_are_sorted_and_those_at_one_place_are_added_up(tmp_path):
    layers = [
        (120.0, [(5.0, 3.0, 1.0), (-5.0, 3.0, 1.0), (0.0, -3.0, 1.0)]),
        (150.0, [(1.0, 2.0, 1.0)]), (120.0, [(5.0, 3.0, 0.5), (9.0, -3.0, 1.0)]),
    ]  # fmt: skip
    plan = read(foreign_plan(foreign_beam(layers=layers), metersets=(5.5,)), tmp_path).plan
    assert list(zip(plan.u_mm, plan.v_mm)) == [(1, 2), (0, -3), (9, -3), (-5, 3), (5, 3)]
    np.testing.assert_allclose(plan.weights, 1e8 * np.array([1.0, 1.0, 1.0, 1.0, 1.5]))
    assert np.all(np.diff(plan.spot_energy.astype(int)) <= 0)


def test_what_a_control_point_leaves_out_stays_as_it_was(tmp_path):
    """Repainting: the second time neither energy nor places are told again."""
    plan = foreign_plan(metersets=(8.0,))
    points, repainted = points_of(plan), foreign_point(4, 4.0, 0.0, LAYERS[1][1], [1.0, 3.0])
    for keyword in ("NominalBeamEnergy", "ScanSpotPositionMap", "NumberOfScanSpotPositions"):
        delattr(repainted, keyword)
    points.append(repainted)
    points.append(foreign_point(5, 8.0, 120.0, LAYERS[1][1], [0.0, 0.0]))
    plan.IonBeamSequence[0].FinalCumulativeMetersetWeight = 8.0
    found = read(plan, tmp_path).plan
    np.testing.assert_allclose(found.weights, 1e8 * np.array([2.0, 0.5 + 1.0, 1.5 + 3.0]))


def test_spots_that_get_nothing_are_left_out(tmp_path):
    layers = [(150.0, [(30.0, 20.0, 2.0), (40.0, 20.0, 0.0)])]
    found = read(foreign_plan(foreign_beam(layers=layers)), tmp_path).plan
    assert found.u_mm.tolist() == [30.0]


def test_a_second_point_of_a_pair_may_repeat_the_weights(tmp_path):
    """Nothing is delivered after it, whatever it holds."""
    plan = foreign_plan()
    for first, second in zip(points_of(plan)[::2], points_of(plan)[1::2]):
        second.ScanSpotMetersetWeights = first.ScanSpotMetersetWeights
    assert read(plan, tmp_path).plan.weights.sum() == pytest.approx(80e8)


def test_a_beam_that_turns_between_layers_is_a_beam_for_every_angle(tmp_path):
    plan = foreign_plan()
    points_of(plan)[2].GantryAngle = 100.0
    found = read(plan, tmp_path)
    assert [b.gantry_deg for b in found.plan.beams] == [90.0, 100.0]
    assert found.beam_numbers == (5, 5)
    assert found.plan.spot_beam.tolist() == [0, 1, 1]


def test_a_beam_that_turns_while_it_treats_is_taken_at_the_middle(tmp_path):
    plan = foreign_plan(foreign_beam(gantry=359.0))
    points_of(plan)[1].GantryAngle = 2.0
    points_of(plan)[2].GantryAngle = 2.0
    found = read(plan, tmp_path)
    assert [b.gantry_deg for b in found.plan.beams] == [0.5, 2.0]
    assert any("middle" in note for note in found.notes)
    points_of(plan)[1].GantryAngle = 40.0
    assert "turns by 41°" in refused(plan, tmp_path)


def with_shifter(identifier="RS 4", wet=40.2, distance=95.0, setting="IN"):
    plan = foreign_plan()
    beam = plan.IonBeamSequence[0]
    beam.NumberOfRangeShifters = 1
    beam.RangeShifterSequence = [
        item(RangeShifterNumber=7, RangeShifterID=identifier, RangeShifterType="BINARY")
    ]
    told = item(ReferencedRangeShifterNumber=7, RangeShifterSetting=setting)
    if distance is not None:
        told.IsocenterToRangeShifterDistance = distance
    if wet is not None:
        told.RangeShifterWaterEquivalentThickness = wet
    points_of(plan)[0].RangeShifterSettingsSequence = [told]
    return plan


@pytest.mark.parametrize(
    "keys, name, exit_mm",
    [
        (dict(), "rs40", -95.0), (dict(identifier="rs75", wet=None), "rs75", -95.0),
        (dict(identifier="rs75"), "rs40", -95.0),
        (dict(distance=None), "rs40", -120.0), (dict(setting="OUT"), None, None),
    ],
)  # fmt: skip
def test_range_shifters_are_known_by_name_or_thickness(tmp_path, keys, name, exit_mm):
    """Without a place of their own they are at the end of the snout."""
    beam = read(with_shifter(**keys), tmp_path).plan.beams[0]
    assert (beam.range_shifter, beam.shifter_exit_mm) == (name, exit_mm)


def test_a_range_shifters_distance_from_the_skin_is_measured_on_the_patient(tmp_path):
    """At 90° the tank's face is 35 mm from its middle, 33.5 from the isocenter."""
    path = written(with_shifter(), tmp_path)
    alone = read_plan(path, **NEAR)
    measured = read_plan(path, patient=tank(), **NEAR)
    assert any("assumed" in note for note in alone.notes)
    assert measured.plan.beams[0].air_gap_mm == pytest.approx(95.0 - 33.5, abs=1.5)
    assert not any("assumed" in note for note in measured.notes)


def _two_shifters(plan):
    settings = points_of(plan)[0].RangeShifterSettingsSequence
    settings.append(item(ReferencedRangeShifterNumber=7, RangeShifterSetting="IN"))


REFUSED_SHIFTERS = {
    "of another thickness": (dict(wet=42.0), None, "42 mm of water"),
    "of a known name": (dict(identifier="rs75", wet=42.0), None, "42 mm of water"),
    "of no thickness": (dict(wet=None), None, "untold thickness"),
    "behind the isocenter": (dict(distance=-10.0), None, "before the patient"),
    "two at once": (dict(), _two_shifters, "2 range shifters"),
    "without a setting": (
        dict(), lambda p: delattr(points_of(p)[0], "RangeShifterSettingsSequence"), "does not say",
    ),
    "without a place": (
        dict(distance=None), lambda p: delattr(points_of(p)[0], "SnoutPosition"), "SnoutPosition",
    ),
    "counted only": (
        dict(), lambda p: delattr(p.IonBeamSequence[0], "RangeShifterSequence"), "rangeshifters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED_SHIFTERS)
def test_range_shifters_that_cannot_be_computed_are_refused(tmp_path, what):
    keys, change, said = REFUSED_SHIFTERS[what]
    plan = with_shifter(**keys)
    if change is not None:
        change(plan)
    assert said in refused(plan, tmp_path)


def _beam(**values):
    return lambda plan: plan.IonBeamSequence[0].update(item(**values))


def _point(at, **values):
    return lambda plan: points_of(plan)[at].update(item(**values))


def _without(at, keyword):
    return lambda plan: delattr(points_of(plan)[at], keyword)


REFUSED = {
    "uniform scanning": (_beam(ScanMode="UNIFORM"), "UNIFORM"),
    "passive scattering": (_beam(ScanMode="NONE"), "passive"),
    "another particle": (_beam(RadiationType="ION", RadiationAtomicNumber=2), "charge 2"),
    "electrons": (_beam(RadiationType="ELECTRON"), "ELECTRON"),
    "another unit": (_beam(PrimaryDosimeterUnit="MINUTE"), "MINUTE"),
    "a compensator": (_beam(NumberOfCompensators=1), "compensators"),
    "a bolus": (_beam(NumberOfBoli=1), "boli"),
    "a modulator wheel": (_beam(NumberOfRangeModulators=1), "rangemodulators"),
    "a tilted table": (_point(0, TableTopPitchAngle=2.0), "TableTopPitchAngle"),
    "a pitched gantry": (_point(0, GantryPitchAngle=3.0), "GantryPitchAngle"),
    "no isocenter": (_without(0, "IsocenterPosition"), "IsocenterPosition"),
    "no gantry angle": (_without(0, "GantryAngle"), "GantryAngle"),
    "no energy": (_without(0, "NominalBeamEnergy"), "NominalBeamEnergy"),
    "no places": (_without(0, "ScanSpotPositionMap"), "ScanSpotPositionMap"),
    "weights for other places": (_point(2, ScanSpotMetersetWeights=[2.0]), "4 coordinates"),
    "weights of another sum": (_point(2, ScanSpotMetersetWeights=[0.5, 1.6]), "add up to 2.1"),
    "a negative weight": (_point(2, ScanSpotMetersetWeights=[-0.5, 2.5]), "add up"),
    "a meterset that falls": (_point(2, CumulativeMetersetWeight=1.0), "must not fall"),
    "another final weight": (_beam(FinalCumulativeMetersetWeight=5.0), "reaches 4"),
    "no meterset weights": (_without(2, "CumulativeMetersetWeight"), "CumulativeMetersetWeight"),
    "spots far away": (_point(0, ScanSpotPositionMap=[30.0, 2e4]), "20000 mm"),
    "an isocenter of two numbers": (_point(0, IsocenterPosition=[1.0, 2.0]), "2 numbers"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_computed_is_refused_with_the_reason(tmp_path, what):
    change, said = REFUSED[what]
    plan = foreign_plan()
    change(plan)
    assert said in refused(plan, tmp_path)


def test_a_machine_of_another_particle_is_refused(tmp_path):
    assert "generic_carbon" in refused(
        foreign_plan(), tmp_path, machine=load_machine("generic_carbon")
    )


def test_several_tunes_spot_sizes_and_sources_are_told(tmp_path):
    plan = foreign_plan()
    points_of(plan)[2].update(item(ScanSpotTuneID="4.0", ScanningSpotSize=[30.0, 30.0]))
    plan.IonBeamSequence[0].VirtualSourceAxisDistances = [1500.0, 1900.0]
    said = " / ".join(read(plan, tmp_path).notes)
    for part in ("unknown here", "2 scan-spot tunes", "another width", "1500 and 1900 mm"):
        assert part in said


def test_a_plan_that_fits_leaves_no_notes(tmp_path):
    plan = foreign_plan()
    plan.IonBeamSequence[0].TreatmentMachineName = "generic_proton"
    assert read(plan, tmp_path).notes == ()


def test_carbon_ions_go_to_the_carbon_machine(tmp_path):
    plan = foreign_plan()
    _beam(RadiationType="ION", RadiationMassNumber=12, RadiationAtomicNumber=6)(plan)
    assert read(plan, tmp_path, energy_within_mev=5.0).plan.machine.name == "generic_carbon"


def block(**values):
    plan = foreign_plan()
    told = dict(
        IsocenterToBlockTrayDistance=100.0, BlockMountingPosition="SOURCE_SIDE",
        BlockType="APERTURE", BlockThickness=65.0, MaterialID="BRASS", BlockNumberOfPoints=3,
        BlockData=[-20.0, -20.0, 20.0, -20.0, 0.0, 25.0],
    )  # fmt: skip
    plan.IonBeamSequence[0].update(
        item(NumberOfBlocks=1, IonBlockSequence=[item(**{**told, **values})])
    )
    return plan


def test_an_aperture_is_scaled_from_the_isocenter_plane_to_its_tray(tmp_path):
    """From generic_proton's source, 2047 mm away, to 100 mm before the isocenter."""
    found = read(block(), tmp_path).plan.beams[0].aperture
    np.testing.assert_allclose(found.opening_mm[1], np.array([20.0, -20.0]) * 1947.0 / 2047.0)
    assert (found.exit_mm, found.thickness_mm, found.material) == (-100.0, 65.0, "brass")
    upstream = read(block(BlockMountingPosition="PATIENT_SIDE"), tmp_path).plan.beams[0].aperture
    assert upstream.exit_mm == -35.0


@pytest.mark.parametrize(
    "values, said",
    [
        (dict(BlockType="SHIELDING"), "SHIELDING"), (dict(BlockNumberOfPoints=4), "6 numbers"),
        (dict(IsocenterToBlockTrayDistance=-5.0), "negative"),
        (dict(BlockNumberOfPoints=2, BlockData=[0.0, 0.0, 1.0, 1.0]), "three or more"),
    ],
)  # fmt: skip
def test_blocks_that_are_no_apertures_are_refused(tmp_path, values, said):
    assert said in refused(block(**values), tmp_path)


def test_a_turned_collimator_with_a_block_is_refused(tmp_path):
    plan = block()
    points_of(plan)[0].BeamLimitingDeviceAngle = 90.0
    assert "BeamLimitingDeviceAngle" in refused(plan, tmp_path)
