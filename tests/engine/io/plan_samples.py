"""Plans, and a plan file as another system writes one; shared by the tests of plan files."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage

from engine.geometry.plan import Beam, Plan
from engine.io.dicom_study import save
from engine.machine.library import load_machine
from engine.patient.patient import Patient
from engine.patient.phantoms import water_tank

ISOCENTER = (1.5, -2.25, 3.125)
LAYERS = [(150.0, [(30.0, 20.0, 2.0)]), (120.0, [(-5.0, 0.0, 0.5), (5.0, 0.0, 1.5)])]


def tank() -> Patient:
    return water_tank((60.0, 80.0, 70.0), 5.0, 20.0)


def spots(machine_name: str = "generic_proton", *beams: Beam, seed: int = 0) -> Plan:
    """Random spots in two layers of every beam, sorted as ``place_spots`` sorts them, some of no
    weight."""
    machine, generator = load_machine(machine_name), np.random.default_rng(seed)
    beams = beams or (Beam(30.0, ISOCENTER, -10.0), Beam(270.0, (0.0, 1.0, 2.0)))
    rows = []
    for index in range(len(beams)):
        for energy in (40, 17):
            v, u = np.meshgrid(np.arange(-2, 3) * 4.3, np.arange(-3, 3) * 5.1, indexing="ij")
            rows += [(index, energy, b, a) for a, b in zip(u.ravel(), v.ravel())]
    beam, energy, v, u = np.array(rows).T
    weights = generator.uniform(1e6, 1e8, len(beam)) * (generator.random(len(beam)) > 0.2)
    return Plan(
        machine, tuple(beams), beam.astype(np.uint16), energy.astype(np.uint16),
        u.astype(np.float32), v.astype(np.float32), weights,
    )  # fmt: skip


def item(**values) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def foreign_point(at: int, reached: float, energy: float, layer, weights=None) -> Dataset:
    """A control point; without ``weights`` those of the layer."""
    weights = [w for *_, w in layer] if weights is None else weights
    return item(
        ControlPointIndex=at, CumulativeMetersetWeight=reached, NominalBeamEnergy=energy,
        ScanSpotTuneID="3.0", NumberOfScanSpotPositions=len(layer),
        ScanSpotPositionMap=[c for u, v, _ in layer for c in (u, v)],
        ScanSpotMetersetWeights=weights,
    )  # fmt: skip


def foreign_beam(number: int = 5, gantry: float = 90.0, couch: float = 0.0, layers=LAYERS):
    """A beam of an RT Ion Plan: pairs of control points, places in the first alone."""
    points, reached = [], 0.0
    for energy, layer in layers:
        points.append(foreign_point(len(points), reached, energy, layer))
        reached += sum(w for *_, w in layer)
        points.append(foreign_point(len(points), reached, energy, layer, [0.0] * len(layer)))
    points[0].update(
        item(
            GantryAngle=gantry, PatientSupportAngle=couch, IsocenterPosition=list(ISOCENTER),
            GantryRotationDirection="NONE", TableTopPitchAngle=0.0, TableTopRollAngle=0.0,
            SnoutPosition=120.0,
        )
    )  # fmt: skip
    return item(
        BeamNumber=number, BeamName="Doe Jane left", BeamType="STATIC", RadiationType="PROTON",
        ScanMode="MODULATED", TreatmentMachineName="TR2", PrimaryDosimeterUnit="MU",
        VirtualSourceAxisDistances=[2100.0, 1900.0], TreatmentDeliveryType="TREATMENT",
        NumberOfWedges=0, NumberOfCompensators=0, NumberOfBoli=0, NumberOfBlocks=0,
        NumberOfRangeShifters=0, NumberOfLateralSpreadingDevices=0, NumberOfRangeModulators=0,
        ReferencedPatientSetupNumber=1, FinalCumulativeMetersetWeight=reached,
        NumberOfControlPoints=len(points), IonControlPointSequence=points,
    )  # fmt: skip


def foreign_plan(*beams: Dataset, metersets=(80.0,), position: str = "HFS") -> Dataset:
    """An RT Ion Plan of 28 fractions."""
    beams = beams or (foreign_beam(),)
    return item(
        SOPClassUID=RTIonPlanStorage, SOPInstanceUID="1.2.3.4", Modality="RTPLAN",
        PatientName="Doe^Jane", PatientID="4711", FrameOfReferenceUID="1.2.3",
        RTPlanLabel="Doe boost", RTPlanGeometry="PATIENT",
        ReferencedStructureSetSequence=[item(ReferencedSOPInstanceUID="1.2.9")],
        PatientSetupSequence=[item(PatientSetupNumber=1, PatientPosition=position)],
        FractionGroupSequence=[
            item(
                FractionGroupNumber=1, NumberOfFractionsPlanned=28, NumberOfBeams=len(beams),
                ReferencedBeamSequence=[
                    item(ReferencedBeamNumber=beam.BeamNumber, BeamMeterset=meterset)
                    for beam, meterset in zip(beams, metersets)
                ],
            )
        ],
        IonBeamSequence=list(beams),
    )  # fmt: skip


def written(dataset: Dataset, folder: Path) -> Path:
    return save(dataset, folder / "RTPLAN.dcm")


def _point(**more):
    return item(ControlPointIndex=0, CumulativeMetersetWeight=0.0, **more)


def leaves(number=1, gantry=40.0, couch=0.0, kind="TREATMENT", **later):
    """A photon beam of a multileaf collimator, without a fluence map."""
    first = _point(
        GantryAngle=gantry, PatientSupportAngle=couch, IsocenterPosition=list(ISOCENTER),
        BeamLimitingDeviceAngle=30.0,
        BeamLimitingDevicePositionSequence=[
            item(RTBeamLimitingDeviceType="MLCX", LeafJawPositions=[-20.0, 20.0])
        ],
    )  # fmt: skip
    return item(
        BeamNumber=number, RadiationType="PHOTON", TreatmentDeliveryType=kind,
        ControlPointSequence=[first, _point(**later)],
    )  # fmt: skip


def photon_plan(*beams):
    plan = foreign_plan(position="HFS")
    plan.SOPClassUID, plan.BeamSequence = RTPlanStorage, list(beams)
    del plan.FractionGroupSequence
    return plan


def _body_axes(position):
    """Unit vectors x, y, z of IEC 61217's table system in the DICOM patient's axes (x left, y
    posterior, z superior): y is where the head or the feet point, z what is up."""
    y = np.array([0.0, 0.0, 1.0 if position.startswith("HF") else -1.0])
    up = {
        "S": (0.0, -1.0, 0.0), "P": (0.0, 1.0, 0.0), "DR": (1.0, 0.0, 0.0), "DL": (-1.0, 0.0, 0.0),
    }  # fmt: skip
    z = np.array(up[position[2:]])  # who lies on the right side has the left one up
    return np.cross(y, z), y, z


def axes_in_patient(position, gantry, couch):
    """The gantry's axes x, y, z in the patient's, by rotation matrices: the gantry turns clockwise
    about the fixed y, the table counterclockwise about the fixed z (IEC 61217, 2011, sections 2.3
    and 2.6)."""
    g, c = np.radians(gantry), np.radians(couch)
    gantry_axes = np.array([
        [np.cos(g), 0.0, -np.sin(g)], [0.0, 1.0, 0.0], [np.sin(g), 0.0, np.cos(g)],
    ])  # fmt: skip
    table_axes = np.array([
        [np.cos(c), np.sin(c), 0.0], [-np.sin(c), np.cos(c), 0.0], [0.0, 0.0, 1.0],
    ])  # fmt: skip
    return (gantry_axes @ table_axes.T) @ np.array(_body_axes(position))
