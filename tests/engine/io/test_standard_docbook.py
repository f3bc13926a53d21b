"""What dicom-validator makes of the standard's tables, and that it finds what is wrong by them."""

import os
from collections import Counter

import numpy as np
import pydicom
import pytest
from dicom_checks import STANDARD, WRITTEN, departures, standard
from dicom_samples import small_patient
from dicom_samples import written as patient_written
from plan_samples import spots
from pydicom.uid import CTImageStorage, RTDoseStorage, RTIonPlanStorage
from standard_docbook import place, table

from engine.io.dicom_dose import write_dose
from engine.io.dicom_plan_writing import write_plan
from engine.io.dicom_study import Study


@pytest.fixture(scope="module")
def info(pytestconfig):
    return standard(pytestconfig)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of every kind, of a patient with a plan of carbon ions."""
    patient, folder = small_patient(), tmp_path_factory.mktemp("written")
    patient_written(patient, folder)
    study = Study.of(patient)
    plan = write_plan(spots("generic_carbon"), patient, study, folder / "RTPLAN.dcm")
    dose_gy = np.ones(patient.grid.shape, np.float32)
    write_dose(patient.grid, dose_gy, study, plan, folder / "RTDOSE.dcm")
    return folder


def tag_of(path_part: str) -> str:
    return f"({path_part[:4]},{path_part[4:]})".upper().replace("X", "x")


def flat(attributes: dict, outer: tuple = ()):
    """Every attribute with the sequences that it lies in, and its type."""
    for tag, attribute in attributes.items():
        yield (*outer, tag), attribute["type"]
        yield from flat(attribute.get("items", {}), (*outer, tag))


@pytest.mark.skipif(STANDARD in os.environ, reason=f"{STANDARD} names other tables")
def test_every_attribute_of_the_tables_is_checked_in_its_place_with_its_type(info):
    told = Counter()
    for row in table("module_to_attributes"):
        if row["moduleId"] in info.modules:
            told[row["moduleId"], tuple(map(tag_of, place(row))), row["type"]] += 1
    read = Counter(
        (module, place_, type_)
        for module, attributes in info.modules.items()
        for place_, type_ in flat(attributes)
    )
    assert read == told and len(info.modules) == 43 and read.total() == 6630
    assert set(info.iods) == set(WRITTEN)


def attribute(info, sop_class: str, module: str, *keywords: str) -> dict:
    found = {"items": info.modules[info.iods[sop_class]["modules"][module]["ref"]]}
    for keyword in keywords:
        number = pydicom.datadict.tag_for_keyword(keyword)
        found = found["items"][f"({number >> 16:04X},{number & 0xFFFF:04X})"]
    return found


def test_types_conditions_and_values_are_those_of_ps33(info):
    beam = (RTIonPlanStorage, "RT Ion Beams", "IonBeamSequence")  # C.8.8.25
    assert attribute(info, *beam, "ScanMode")["type"] == "1"
    mass = attribute(info, *beam, "RadiationMassNumber")
    assert mass["type"] == "1C"  # required if Radiation Type (300A,00C6) is ION
    assert [mass["cond"][key] for key in ("tag", "op", "values")] == ["(300A,00C6)", "=", ["ION"]]
    units = attribute(info, RTDoseStorage, "RT Dose", "DoseUnits")  # C.8.8.3
    assert units["type"] == "1" and units["enums"][0]["val"] == ["GY", "RELATIVE"]
    bits = attribute(info, RTDoseStorage, "RT Dose", "BitsAllocated")  # by C.8.8.3.4.3
    assert bits["enums"] == [{"val": [16, 32]}]
    uses = {name: use["use"] for name, use in info.iods[CTImageStorage]["modules"].items()}
    assert uses["Image Plane"] == "M" and uses["VOI LUT"] == "U"  # A.3.3
    assert uses["Multi-energy CT Image"].startswith("C - Required if Multi-energy CT")


def test_what_is_written_departs_nowhere(info, folder):
    found = {path.name: departures(pydicom.dcmread(path), info) for path in folder.iterdir()}
    assert len(found) == 9 and not any(found.values()), found


def without(keyword, *sequences):
    def damage(dataset):
        for sequence in sequences:
            dataset = dataset[sequence].value[0]
        delattr(dataset, keyword)

    return damage


def with_value(keyword, value):
    return lambda dataset: setattr(dataset, keyword, value)


@pytest.mark.parametrize(
    "file, damage, said",
    [
        ("CT_0001", without("PatientSex"), "Patient: (0010,0040) TagMissing"),
        ("CT_0001", with_value("ScanMode", "NONE"), "General: (300A,0308) TagUnexpected"),
        ("RTPLAN", with_value("RTPlanLabel", ""), "RT General Plan: (300A,0002) TagEmpty"),
        (
            "RTPLAN", without("RadiationMassNumber", "IonBeamSequence"),
            "RT Ion Beams: (300A,03A2) / (300A,0302) TagMissing",
        ),
        (
            "RTSTRUCT", without("RTROIInterpretedType", "RTROIObservationsSequence"),
            "RT ROI Observations: (3006,0080) / (3006,00A4) TagMissing",
        ),
        ("RTDOSE", with_value("DoseUnits", "SV"), "RT Dose: (3004,0002) EnumValueNotAllowed"),
        ("RTDOSE", with_value("DoseType", "no code"), "RT Dose: (3004,0004) InvalidValue"),
        ("RTDOSE", with_value("SOPClassUID", "1.2.3"), "UnknownSOPClassUID"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # of pydicom, where it is set
def test_what_departs_is_found(info, folder, file, damage, said):
    dataset = pydicom.dcmread(folder / f"{file}.dcm")
    damage(dataset)
    assert departures(dataset, info) == [said]
