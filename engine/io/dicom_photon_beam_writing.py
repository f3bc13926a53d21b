"""One photon beam of bixels as an item of an RT Plan (PS3.3 C.8.8.14).

The standard has no fluence maps but those of compensators: the bixels of a beam are the pixels of
an ideal compensator, whose transmission is each bixel's weight over the largest one's, and the
meterset is that largest weight in monitor units. Rows of a compensator run along the gantry's +x
and columns along −y (C.8.8.14.10); its position is the center of the first pixel.
"""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from engine.geometry.plan import Beam, Plan
from engine.io.dicom_study import decimal, decimals, line
from engine.machine.photon import LATTICE_MM, PhotonMachine


def photon_beam(plan: Plan, index: int, number: int) -> tuple[Dataset, DSfloat]:
    """A beam's item and its meterset in monitor units of a fraction."""
    beam, machine, spots = plan.beams[index], plan.machine, plan.beam_slice(index)
    u, v, weights = plan.u_mm[spots], plan.v_mm[spots], plan.weights[spots]
    width_mm = bixel_mm(u, v)
    meterset = decimal(weights.max())
    item = _beginning(beam, machine, number)
    item.NumberOfCompensators = 1
    item.CompensatorSequence = [_compensator(u, v, weights / weights.max(), width_mm)]
    item.FinalCumulativeMetersetWeight = 1.0
    first, last = Dataset(), Dataset()
    first.ControlPointIndex, first.CumulativeMetersetWeight = 0, 0.0
    last.ControlPointIndex, last.CumulativeMetersetWeight = 1, 1.0
    _place(first, beam, machine, _edges(u, width_mm), _edges(v, width_mm))
    item.NumberOfControlPoints, item.ControlPointSequence = 2, [first, last]
    return item, meterset


def bixel_mm(u_mm: np.ndarray, v_mm: np.ndarray) -> float:
    """Width of the bixels of a beam: the least distance of two in a row or column."""
    steps = np.concatenate([np.diff(np.unique(u_mm)), np.diff(np.unique(v_mm))])
    if not len(steps):
        raise ValueError("a beam of one bixel does not tell how wide it is; it cannot be written.")
    return float(np.rint(steps.min() / LATTICE_MM) * LATTICE_MM)


def _beginning(beam: Beam, machine: PhotonMachine, number: int) -> Dataset:
    item = Dataset()
    item.BeamNumber = number
    item.BeamName = f"{number}: gantry {beam.gantry_deg:g}"
    item.BeamType, item.RadiationType = "STATIC", "PHOTON"
    item.TreatmentDeliveryType = "TREATMENT"
    item.TreatmentMachineName, item.PrimaryDosimeterUnit = line(machine.name, 16), "MU"
    item.SourceAxisDistance = decimal(machine.virtual_source_mm)
    item.BeamLimitingDeviceSequence = [_jaws("X"), _jaws("Y")]
    item.NumberOfWedges = item.NumberOfBoli = item.NumberOfBlocks = 0
    return item


def _jaws(axis: str) -> Dataset:
    item = Dataset()
    item.RTBeamLimitingDeviceType, item.NumberOfLeafJawPairs = axis, 1
    return item


def _compensator(u, v, transmission, width_mm: float) -> Dataset:
    column = np.rint((u - u.min()) / width_mm).astype(int)
    row = np.rint((v.max() - v) / width_mm).astype(int)
    off_mm = np.hypot(u - u.min() - column * width_mm, v.max() - v - row * width_mm).max()
    if off_mm > 1e-3:
        raise ValueError(
            f"bixels lie up to {off_mm:.3g} mm off a raster of {width_mm:g} mm; place_bixels makes "
            "plans that can be written."
        )
    pixels = np.zeros((row.max() + 1, column.max() + 1))
    pixels[row, column] = transmission
    item = Dataset()
    item.CompensatorNumber, item.MaterialID = 1, ""
    item.SourceToCompensatorTrayDistance = None
    item.CompensatorRows, item.CompensatorColumns = pixels.shape
    item.CompensatorPixelSpacing = decimals([width_mm, width_mm])
    item.CompensatorPosition = decimals([u.min(), v.max()])
    item.CompensatorTransmissionData = decimals(pixels)
    # which older readers ask for even where, as here, there is no material
    item.CompensatorThicknessData = decimals(np.zeros_like(pixels))
    return item


def _edges(at_mm: np.ndarray, width_mm: float) -> tuple[float, float]:
    return float(at_mm.min()) - 0.5 * width_mm, float(at_mm.max()) + 0.5 * width_mm


def _place(point: Dataset, beam: Beam, machine: PhotonMachine, x_mm, y_mm) -> None:
    point.NominalBeamEnergy = decimal(machine.energy_mev[0])
    point.BeamLimitingDevicePositionSequence = [_opening("X", x_mm), _opening("Y", y_mm)]
    point.GantryAngle, point.GantryRotationDirection = decimal(beam.gantry_deg % 360.0), "NONE"
    point.BeamLimitingDeviceAngle, point.BeamLimitingDeviceRotationDirection = 0.0, "NONE"
    point.PatientSupportAngle = decimal(beam.couch_deg % 360.0)
    point.PatientSupportRotationDirection = "NONE"
    point.TableTopEccentricAngle, point.TableTopEccentricRotationDirection = 0.0, "NONE"
    for axis in ("Vertical", "Longitudinal", "Lateral"):
        setattr(point, f"TableTop{axis}Position", None)
    point.IsocenterPosition = decimals(beam.isocenter_mm)


def _opening(axis: str, edges_mm: tuple[float, float]) -> Dataset:
    item = Dataset()
    item.RTBeamLimitingDeviceType, item.LeafJawPositions = axis, decimals(edges_mm)
    return item
