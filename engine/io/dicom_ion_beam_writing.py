"""One beam of scanned ions as an item of an RT Ion Plan (PS3.3 C.8.8.25).

Every energy layer is a pair of control points: at the first all spots have their weights, at the
second none (C.8.8.25.7). Weights are numbers of particles, the primary dosimeter's unit NP. Spot
positions are the plan's: both are of the isocenter plane in the IEC 61217 gantry system.
"""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from engine.geometry.plan import Aperture, Beam, Plan
from engine.io.dicom_private import write_air_gap_mm
from engine.io.dicom_study import decimal, decimals, line
from engine.machine.ion import IonMachine

FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))


def ion_beam(plan: Plan, index: int, number: int) -> tuple[Dataset, DSfloat]:
    """A beam's item and its meterset, the particles of a fraction."""
    beam, machine = plan.beams[index], plan.machine
    spots = np.arange(plan.n_spots)[plan.beam_slice(index)]
    spots = spots[plan.weights[spots] > 0.0]
    item = _beginning(beam, machine, number)
    layers = np.split(spots, np.flatnonzero(np.diff(plan.spot_energy[spots].astype(int))) + 1)
    points, reached = [], 0.0
    for layer in layers:
        weights = plan.weights[layer].astype(np.float32)
        points.append(_control_point(plan, layer, weights, reached))
        reached += float(weights.sum(dtype=np.float64))
        points.append(_control_point(plan, layer, np.zeros_like(weights), reached))
    for at, point in enumerate(points):
        point.ControlPointIndex = at
    _place(points[0], beam, machine)
    item.FinalCumulativeMetersetWeight = decimal(reached)
    item.NumberOfControlPoints, item.IonControlPointSequence = len(points), points
    return item, decimal(reached)


def _beginning(beam: Beam, machine: IonMachine, number: int) -> Dataset:
    """What holds for all control points."""
    item = Dataset()
    item.BeamNumber = number
    item.BeamName = f"{number}: gantry {beam.gantry_deg:g}"
    item.BeamType = "STATIC"
    item.RadiationType = "PROTON" if machine.charge == 1 else "ION"
    if machine.charge > 1:
        item.RadiationMassNumber, item.RadiationAtomicNumber = machine.mass_number, machine.charge
        item.RadiationChargeState = machine.charge
    item.ScanMode, item.TreatmentDeliveryType = "MODULATED", "TREATMENT"
    item.TreatmentMachineName = line(machine.name, 16)
    item.PrimaryDosimeterUnit = "NP"
    item.VirtualSourceAxisDistances = list(sources_mm(machine))
    for name in ("Wedges", "Compensators", "Boli", "LateralSpreadingDevices", "RangeModulators"):
        setattr(item, f"NumberOf{name}", 0)
    item.NumberOfBlocks = 0 if beam.aperture is None else 1
    if beam.aperture is not None:
        item.IonBlockSequence = [_block(beam.aperture, machine)]
    item.NumberOfRangeShifters = 0 if beam.range_shifter is None else 1
    if beam.range_shifter is not None:
        item.RangeShifterSequence = [_range_shifter(beam)]
    item.PatientSupportType = "TABLE"
    return item


def _range_shifter(beam: Beam) -> Dataset:
    item = Dataset()
    item.RangeShifterNumber, item.RangeShifterID = 1, line(beam.range_shifter, 16)
    item.RangeShifterType = "BINARY"
    return item


def _block(aperture: Aperture, machine: IonMachine) -> Dataset:
    """The opening projected from the virtual sources to the isocenter plane (C.8.8.25.4)."""
    corners = np.asarray(aperture.opening_mm, dtype=float)
    item = Dataset()
    item.IsocenterToBlockTrayDistance = -aperture.exit_mm
    item.BlockMountingPosition = "SOURCE_SIDE"  # so the tray is at the downstream face
    item.BlockType, item.BlockDivergence = "APERTURE", "ABSENT"
    item.BlockNumber, item.MaterialID = 1, line(aperture.material, 16)
    item.BlockThickness = decimal(aperture.thickness_mm)
    item.BlockNumberOfPoints = len(corners)
    item.BlockData = decimals(corners / block_scale(aperture.exit_mm, machine))
    return item


def block_scale(exit_mm: float, machine: IonMachine) -> np.ndarray:
    """Size at a block over size in the isocenter plane, (2,) of u and v."""
    sources = np.array(sources_mm(machine))
    return (sources + exit_mm) / sources


def sources_mm(machine: IonMachine) -> tuple[float, float]:
    """Distances of the virtual sources of u and v from the isocenter."""
    return machine.virtual_sources_mm or (machine.virtual_source_mm,) * 2


def _control_point(plan: Plan, layer: np.ndarray, weights: np.ndarray, reached: float) -> Dataset:
    energy = int(plan.spot_energy[layer[0]])
    point = Dataset()
    point.CumulativeMetersetWeight = decimal(reached)
    point.NominalBeamEnergy = decimal(plan.machine.energy_mev[energy])
    point.ScanSpotTuneID = "1"
    point.NumberOfScanSpotPositions = len(layer)
    positions_mm = np.column_stack([plan.u_mm[layer], plan.v_mm[layer]])
    point.ScanSpotPositionMap = positions_mm.ravel().tolist()
    point.ScanSpotMetersetWeights = weights.tolist()
    point.ScanningSpotSize = [spot_fwhm_mm(plan.machine, energy)] * 2
    point.NumberOfPaintings = 1
    return point


def spot_fwhm_mm(machine: IonMachine, energy: int) -> float:
    """Width of a spot in air at the isocenter."""
    drift = machine.nozzle_to_isocenter_mm
    variance = (
        machine.nozzle_variance_mm2[energy]
        + 2.0 * drift * machine.nozzle_covariance_mm_rad[energy]
        + drift**2 * machine.nozzle_angle_variance_rad2[energy]
    )
    return FWHM_PER_SIGMA * float(np.sqrt(variance))


def _place(point: Dataset, beam: Beam, machine: IonMachine) -> None:
    """Everything that stays as the first control point has it."""
    point.GantryAngle, point.GantryRotationDirection = decimal(beam.gantry_deg % 360.0), "NONE"
    point.GantryPitchAngle, point.GantryPitchRotationDirection = 0.0, "NONE"
    point.BeamLimitingDeviceAngle, point.BeamLimitingDeviceRotationDirection = 0.0, "NONE"
    point.PatientSupportAngle = decimal(beam.couch_deg % 360.0)
    point.PatientSupportRotationDirection = "NONE"
    point.TableTopPitchAngle = point.TableTopRollAngle = 0.0
    point.TableTopPitchRotationDirection = point.TableTopRollRotationDirection = "NONE"
    for axis in ("Vertical", "Longitudinal", "Lateral"):
        setattr(point, f"TableTop{axis}Position", None)
    point.IsocenterPosition = decimals(beam.isocenter_mm)
    point.SnoutPosition = None
    if beam.range_shifter is not None:
        if beam.shifter_exit_mm is None:
            raise ValueError(
                f"shifter_exit_mm of the beam at gantry {beam.gantry_deg:g}° is not set; "
                "place_spots fills it in."
            )
        setting = Dataset()
        setting.ReferencedRangeShifterNumber, setting.RangeShifterSetting = 1, "IN"
        setting.IsocenterToRangeShifterDistance = -beam.shifter_exit_mm
        wet_mm = machine.range_shifter(beam.range_shifter).wet_mm
        setting.RangeShifterWaterEquivalentThickness = wet_mm
        write_air_gap_mm(setting, beam.air_gap_mm)
        point.RangeShifterSettingsSequence = [setting]
