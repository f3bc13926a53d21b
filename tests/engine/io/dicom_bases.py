"""Good DICOM files of a small patient, under the name of a person that nothing may tell."""

from pathlib import Path

import numpy as np
from dicom_elements import Files, edited_bytes, put
from dicom_samples import small_patient, written
from pydicom.uid import ExplicitVRLittleEndian

from engine.geometry.plan import Aperture, Beam, Plan
from engine.io.dicom_dose import write_dose
from engine.io.dicom_plan_writing import write_plan
from engine.io.dicom_study import Study
from engine.machine.library import load_machine

NAME, IDENTIFIER, BIRTH_DATE = "Quibberton^Zaphodine", "KX7741-ZZ", "19520311"
PERSON = ("quibberton", "zaphodine", "kx7741", BIRTH_DATE)  # what no message may hold


def made_bases(folder: Path) -> dict[str, Files]:
    """Files of a small patient with a plan of ions, in two encodings, and with one of photons."""
    patient = small_patient()
    study = Study.of(patient)
    ions, photons = written(patient, folder / "ions"), folder / "photons"
    reference = write_plan(_ion_plan(), patient, study, ions / "RTPLAN.dcm")
    dose_gy = np.linspace(0.0, 70.0, patient.hu.size).reshape(patient.hu.shape)
    write_dose(patient.grid, dose_gy, study, reference, ions / "RTDOSE.dcm")
    write_plan(_photon_plan(), patient, study, photons / "RTPLAN.dcm")
    plain = {path.name: _of_person(path) for path in sorted(ions.iterdir())}
    return {
        "ions": plain,
        "explicit": {name: _explicit(content) for name, content in plain.items()},
        "photons": plain | {"RTPLAN.dcm": _of_person(photons / "RTPLAN.dcm")},
    }


def _of_person(path: Path) -> bytes:
    def change(file):
        put(file, "PatientName", "PN", NAME.encode())
        put(file, "PatientID", "LO", IDENTIFIER.encode())
        put(file, "PatientBirthDate", "DA", BIRTH_DATE.encode())

    return edited_bytes(path.read_bytes(), change)


def _explicit(content: bytes) -> bytes:
    return edited_bytes(content, lambda file: setattr(file, "syntax", ExplicitVRLittleEndian))


def _ion_plan() -> Plan:
    """Two beams of three layers, one behind a range shifter, one through an aperture."""
    machine = load_machine("generic_proton")
    opening = ((-20.0, -20.0), (20.0, -20.0), (20.0, 20.0), (-20.0, 20.0))
    beams = (
        Beam(0.0, (0.0, 5.0, -10.0), 0.0, machine.range_shifters[0].name, 30.0, -100.0),
        Beam(90.0, (0.0, 5.0, -10.0), 10.0, aperture=Aperture(opening, -120.0)),
    )
    return _grid_of_spots(machine, beams, energies=(12, 9, 4))


def _photon_plan() -> Plan:
    beams = (Beam(0.0, (0.0, 5.0, -10.0)), Beam(120.0, (0.0, 5.0, -10.0)))
    return _grid_of_spots(load_machine("generic_photon"), beams, energies=(0,))


def _grid_of_spots(machine, beams, energies) -> Plan:
    """Nine spots a layer, 5 mm apart."""
    layer = np.array([(v, u) for v in (-5.0, 0.0, 5.0) for u in (-5.0, 0.0, 5.0)], np.float32)
    v, u = np.tile(layer, (len(beams) * len(energies), 1)).T
    n_beam = len(energies) * len(layer)
    return Plan(
        machine, beams, np.repeat(np.arange(len(beams)), n_beam).astype(np.uint16),
        np.tile(np.repeat(energies, len(layer)), len(beams)).astype(np.uint16), u, v,
        np.linspace(1.0, 2.0, len(beams) * n_beam) * 1e6,
    )  # fmt: skip
