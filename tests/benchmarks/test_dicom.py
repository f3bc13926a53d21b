"""DICOM in and out: a clinic's CT with its structures, and what `ptenv plan` leaves of a patient.

Peak memory of reading is that of a new process, with everything that it imports; of writing, what
is allocated on the way.
"""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from engine.geometry.plan import Beam
from engine.geometry.spots import SpotSettings, place_spots
from engine.io.dicom_ct import write_ct
from engine.io.dicom_patient import read_patient
from engine.io.dicom_plan import read_plan
from engine.io.dicom_study import Study
from engine.machine.library import load_machine
from engine.patient.grid import Grid
from engine.patient.patient import Patient, Structure
from engine.patient.phantoms import head_and_neck
from scripts import dicom_files

sys.path.insert(0, str(Path(__file__).parents[1] / "engine" / "io"))

from dicom_samples import roi, structure_file  # noqa: E402

SHAPE, SPACING_MM = (200, 512, 512), (2.5, 0.98, 0.98)
NAMES = (
    "External", "PTV70", "PTV63", "PTV56", "Brainstem", "SpinalCord", "Parotid_L", "Parotid_R",
    "Eye_L", "Eye_R", "Lens_L", "Lens_R", "OpticNrv_L", "OpticNrv_R", "OpticChiasm", "Larynx",
    "Esophagus", "Bone_Mandible", "Cavity_Oral", "Lips", "Lung_L", "Lung_R", "Heart", "Brain",
    "Cochlea_L", "Cochlea_R", "Trachea", "Glnd_Thyroid", "Glnd_Submand_L", "Glnd_Submand_R",
)  # fmt: skip
KINDS = {"External": "EXTERNAL", "PTV70": "PTV", "PTV63": "PTV", "PTV56": "PTV"}
PEAK_OF_READING = """
import resource, sys, warnings
from engine.io.dicom_patient import read_patient
warnings.simplefilter("ignore")
read_patient(sys.argv[1], n_fractions=35)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """200 slices of 512 × 512 and 30 structures of smooth contours, 0.6 million points."""
    folder, grid = tmp_path_factory.mktemp("clinic"), Grid.centered(SHAPE, SPACING_MM)
    rng = np.random.default_rng(0)
    z_mm, y_mm, x_mm = grid.axes_mm()
    hu = np.full(SHAPE, -1000.0, np.float32)
    hu[:, (y_mm[:, None] / 110.0) ** 2 + (x_mm / 190.0) ** 2 < 1.0] = 0.0
    hu += rng.integers(-20, 20, SHAPE)
    body = hu > -500.0
    structures = {
        "External": Structure("External", body, "external"), "PTV": Structure("PTV", body, "target")
    }  # fmt: skip
    study = Study.of(patient := Patient("clinic", grid, hu, structures, {"PTV": 70.0}, 35))
    write_ct(patient, study, folder)
    rois = [
        roi(name, _contours(rng, z_mm, name), number, KINDS.get(name, "ORGAN"))
        for number, name in enumerate(NAMES, start=1)
    ]
    structure_file(folder / "RTSTRUCT.dcm", rois, study)
    return folder


def _contours(rng, z_mm, name):
    """Wavy ellipses on a stretch of slices; the external on all of them."""
    if name == "External":
        n_points, slices, center, radii = 400, z_mm, (0.0, 0.0), (190.0, 110.0)
    else:
        first, n_slices = rng.integers(0, 60), rng.integers(40, 140)
        n_points, slices = 200, z_mm[first : first + n_slices]
        center, radii = rng.uniform(-40.0, 40.0, 2), rng.uniform(10.0, 60.0, 2)
    angle = np.linspace(0.0, 2.0 * np.pi, n_points, endpoint=False)
    contours = []
    for z in slices:
        wave = 1.0 + 0.03 * np.sin(5.0 * angle + 0.04 * z)
        unit = np.column_stack([wave * np.cos(angle), wave * np.sin(angle)])
        contours.append((float(z), center + radii * unit))
    return contours


@pytest.mark.filterwarnings("ignore::engine.errors.PhysicsWarning")
def test_reading_200_slices_with_30_structures(benchmark, report, clinic):
    run = subprocess.run(
        [sys.executable, "-c", PEAK_OF_READING, str(clinic)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    patient = benchmark.pedantic(
        read_patient, (clinic,), dict(n_fractions=35), rounds=3, warmup_rounds=1
    )
    megabytes = sum(path.stat().st_size for path in clinic.iterdir()) / 1e6
    report(structures=len(patient.structures), files_mb=megabytes, peak_mb=float(run.stdout))


@pytest.fixture(scope="module")
def planned():
    """A procedural patient with three proton fields, and doses on 4 mm of them and in total."""
    patient = head_and_neck(0)
    plan = place_spots(
        patient, load_machine("generic_proton"), [Beam(g) for g in (60.0, 180.0, 300.0)],
        SpotSettings(5.0),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    plan = plan.with_weights(rng.uniform(1e6, 1e8, plan.n_spots))
    grid = patient.grid.resampled(4.0)
    beams_gy = rng.uniform(0.0, 25.0, (3, *grid.shape))
    return patient, plan, dicom_files.Doses(grid, beams_gy.sum(axis=0), beams_gy, "RBE 1.1")


def test_writing_ct_structures_plan_and_doses(benchmark, report, planned, tmp_path):
    patient, plan, doses = planned
    benchmark.pedantic(
        dicom_files.write, (patient, tmp_path, plan, doses), rounds=3, warmup_rounds=1
    )
    tracemalloc.start()
    dicom_files.write(patient, tmp_path, plan, doses)
    peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    megabytes = sum(path.stat().st_size for path in tmp_path.iterdir()) / 1e6
    report(
        slices=patient.grid.shape[0], structures=len(patient.structures), spots=plan.n_spots,
        dose_voxels=doses.grid.size, files_mb=megabytes, peak_mb=peak_mb,
    )  # fmt: skip


def test_reading_the_plan_again(benchmark, report, planned, tmp_path):
    patient, plan, doses = planned
    dicom_files.write(patient, tmp_path, plan, doses)
    read = benchmark.pedantic(read_plan, (tmp_path / dicom_files.PLAN,), rounds=3, warmup_rounds=1)
    report(spots=read.plan.n_spots)
