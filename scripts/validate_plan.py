"""A plan that was read from DICOM, computed by one of our engines, against the dose beside it.

Doses are of the course, and weighted as the file's are: a constant RBE stands in our own files and
is 1.1 for protons elsewhere; a model of biology must be named again.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.dose.engine import DoseEngine
from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.dose.quantities import Quantity, RbeDose
from engine.evaluation.comparison import difference, sampled
from engine.evaluation.gamma import Gamma
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.geometry.plan import Plan
from engine.io.dicom_ct import position_on
from engine.io.dicom_dataset import DicomError
from engine.io.dicom_dose import DicomDose, read_dose
from engine.io.dicom_folder import Entry, scan, short
from engine.io.dicom_patient import link, read_patient
from engine.io.dicom_plan import DicomPlan, read_plan
from engine.machine.ion import IonMachine
from engine.machine.library import load_machine
from engine.machine.photon import PhotonMachine
from engine.patient.ct import Calibration
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.patient.structures import on_grid, resample_fraction
from engine.physics.biology import BiologicalModel
from scripts import final_dose
from scripts.dicom_files import weighted_by
from scripts.judged import judged_on
from scripts.validate_axes import Row
from scripts.validate_reference import Gammas, dose_rows, gamma_rows, pass_rates

PROTON_RBE = 1.1  # clinical convention, ICRU Report 78
IN_BODY = 0.501  # share of a voxel: those that are half inside may be computed or not
COURSE, FRACTION = "course", "fraction"
BEAM_CRITERION = (1.0, 1.0)  # percent, mm


@dataclass(frozen=True, eq=False)
class Given:
    """What a folder holds: patient, plan, and doses of the course (nz, ny, nx) on one grid.

    ``beams_gy`` are by the number of the beam, of those whose dose lies there.
    """

    patient: Patient
    plan: DicomPlan
    dose: DicomDose
    beams_gy: Mapping[int, np.ndarray]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Recomputed:
    """The dose in the folder and ours, (nz, ny, nx) in Gy of the course, and every figure.

    Beyond the body both are 0: nobody is treated there.
    """

    given: Given
    theirs_gy: np.ndarray
    ours_gy: np.ndarray
    gamma: Gamma  # by the criterion asked for
    rows: tuple[Row, ...]
    numbers: dict[str, float]
    evaluation: PlanEvaluation


def read(
    folder: str | Path,
    machine: str | None = None,
    particles_per_mu: float | Mapping[float, float] | None = None,
    energy_within_mev: float = 0.1,
    dose_of: str = COURSE,
    series: str | None = None,
    structures: str | None = None,
    plan: str | None = None,
    dose: str | None = None,
    **of_patient,
) -> Given:
    """All that belongs to one plan in a folder; the keys choose where several could be meant.

    ``dose_of`` says whether doses are of the course, as the standard has it, or of a fraction.
    ``of_patient`` are further arguments of ``read_patient``.
    """
    if dose_of not in (COURSE, FRACTION):
        raise ValueError(f"dose_of={dose_of!r} must be {COURSE} or {FRACTION}.")
    found = scan(folder)
    linked = link(found, series, structures, plan)
    chosen = linked.plan or found.chosen("plan", plan)
    patient = read_patient(
        folder, linked.series.uid, linked.structures.uid, chosen.uid, **of_patient
    )
    read_machine = None if machine is None else load_machine(machine)
    told = read_plan(
        chosen.path, read_machine, particles_per_mu, energy_within_mev, patient,
        position_on(linked.series.paths),
    )  # fmt: skip
    _refuse_elsewhere("plan", told.frame_uid, linked.series)
    belonging = found.belonging("dose", chosen)
    if dose is not None:
        belonging = (found.chosen("dose", dose),)
    if not belonging:
        found.chosen("dose", None, belonging)  # refuses, and lists what there is
    doses = {entry.uid: read_dose(entry.path) for entry in belonging}
    total, notes = _total(told, doses, belonging)
    _refuse_elsewhere("dose", total.frame_uid, linked.series)
    times = 1 if dose_of == COURSE else patient.n_fractions
    beams = {
        d.beam_numbers[0]: d.dose_gy * np.float32(times)
        for d in doses.values()
        if d.summation == "BEAM" and len(d.beam_numbers) == 1 and _on(d.grid, total.grid)
        and (d.is_effective, d.weighted_by) == (total.is_effective, total.weighted_by)
    }  # fmt: skip
    scaled = replace(total, dose_gy=total.dose_gy * np.float32(times))
    return Given(patient, told, scaled, beams, (*linked.notes, *told.notes, *notes))


READERS = (read, read_patient)  # whose arguments are the keys of the group dicom


def quantity_for(
    given: Given, wished: Callable[..., Quantity] | None, biology: BiologicalModel | None
) -> tuple[Quantity, list[str]]:
    """What the file's dose counts for, with notes of what is doubtful.

    ``wished``, which takes ``n_fractions``, wins; without it a physical dose is physical, and an
    effective one what our own files say, or 1.1 for protons.
    """
    dose, n_fractions = given.dose, given.patient.n_fractions
    if wished is not None:
        quantity = wished(n_fractions=n_fractions)
        ours, theirs = weighted_by(quantity, biology), dose.weighted_by
        if theirs == ours or (dose.is_effective and not theirs):
            return quantity, []
        return quantity, [
            f"the file's dose is weighted by {theirs or 'nothing'}, ours by {ours or 'nothing'}"
        ]
    if not dose.is_effective:
        return RbeDose(n_fractions, 1.0), []
    constant = re.fullmatch(r"RBE ([0-9.]+)", dose.weighted_by)
    if constant:
        return RbeDose(n_fractions, float(constant[1])), []
    machine = given.plan.plan.machine
    if not dose.weighted_by and isinstance(machine, IonMachine) and machine.charge == 1:
        said = f"what its effective dose is weighted by is not told; RBE {PROTON_RBE} is taken"
        return RbeDose(n_fractions, PROTON_RBE), [said]
    by = dose.weighted_by or "a model that it does not name"
    raise ValueError(
        f"the dose beside the plan is weighted by {by}; name it as for the plan: "
        f"quantity={machine.name}, quantity=mkm or quantity=constant_rbe quantity.rbe=3."
    )


def compute(
    given: Given, engine: DoseEngine, quantity: Quantity
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Our dose of the course (nz, ny, nx) in Gy on the file's grid, and by beam number those of
    the beams that the file has too; of an engine that counts particles the total alone. Bixels are
    as wide as the file's, whatever the engine's are."""
    patient, plan, grid = given.patient, given.plan.plan, given.dose.grid
    _refuse_mismatch(plan, engine, quantity)
    if isinstance(engine, PhotonSvdEngine) and given.plan.bixel_mm is not None:
        engine = replace(engine, bixel_mm=given.plan.bixel_mm)
    if quantity.rbe is None:  # a model of biology, whose doses of beams do not add up
        matrix = engine.influence(patient, plan, grid)
        done = final_dose.of_matrix(matrix, plan.weights, quantity)
        total, single = matrix.volume(done.total_gy), [matrix.volume(gy) for gy in done.beams_gy]
    elif hasattr(engine, "simulate"):
        return quantity.value(engine.dose(patient, plan, grid)["dose"]), {}
    else:
        single = [
            quantity.value(engine.dose(patient, plan, grid, beam=index)["dose"])
            for index in range(len(plan.beams))
        ]
        total = np.sum(single, axis=0)
    return total, _by_number(given, single)


def compare(
    given: Given, ours_gy: np.ndarray, our_beams_gy: Mapping[int, np.ndarray], criterion: dict
) -> Recomputed:
    """Every figure; ``criterion`` are the arguments of ``gamma_3d`` asked for."""
    patient, grid = given.patient, given.dose.grid
    solid = [s.mask for s in patient.structures.values() if s.role in ("external", "support")]
    inside = resample_fraction(np.logical_or.reduce(solid), patient.grid, grid) > IN_BODY
    theirs, ours = (np.where(inside, gy, np.float32(0.0)) for gy in (given.dose.dose_gy, ours_gy))
    if not theirs.max() > 0.0:
        raise DicomError(
            f"dose {short(given.plan.uid)} is zero in the body: its grid, or the patient's frame "
            "of reference, is another."
        )
    gammas = Gammas(theirs, ours, grid)
    asked = gammas(**criterion)
    percent = 100.0 / float(theirs.max())
    apart = difference(theirs * percent, ours * percent, grid)
    evaluation = _evaluation(patient, grid)
    rows = [
        *gamma_rows(gammas, criterion, asked),
        *dose_rows(apart, None, percent * float(ours.max())),
        *_beam_rows(given, our_beams_gy, inside),
        *_metric_rows(evaluation, theirs, ours),
    ]
    numbers = pass_rates(gammas) | {
        "mean_difference_percent": apart.mean_high_percent,
        "rms_difference_percent": apart.rms_high_percent,
        "integral_difference_percent": apart.integral_percent,
    }
    return Recomputed(given, theirs, ours, asked, tuple(rows), numbers, evaluation)


def density_on(patient: Patient, grid: Grid, calibration: Calibration) -> np.ndarray:
    """Mass density (nz, ny, nx) at the middles of a grid's voxels, for the pictures."""
    hu = sampled(patient.hu, patient.grid, grid.points_mm()).reshape(grid.shape)
    return calibration.density_g_cm3(hu)


def _total(
    plan: DicomPlan, doses: Mapping[str, DicomDose], entries: tuple[Entry, ...]
) -> tuple[DicomDose, list[str]]:
    """The dose of the whole plan: the file's, or the sum of its beams where there is none."""
    whole = {uid: d for uid, d in doses.items() if d.summation in ("PLAN", "FRACTION")}
    if len(whole) == 1:
        return next(iter(whole.values())), []
    shown = ", ".join(entry.short for entry in entries)
    if whole:
        raise DicomError(
            f"{len(whole)} doses are of the whole plan; choose by dicom.dose=… one of "
            f"{', '.join(map(short, whole))}."
        )
    beams = [d for d in doses.values() if d.summation == "BEAM" and len(d.beam_numbers) == 1]
    if sorted(d.beam_numbers[0] for d in beams) != sorted(set(plan.beam_numbers)) or not all(
        _on(d.grid, beams[0].grid) for d in beams
    ):
        raise DicomError(
            f"none of the doses {shown} is of the whole plan, and beams do not make it up: export "
            "the plan's dose."
        )
    if any(d.is_effective and not d.weighted_by.startswith("RBE ") for d in beams):
        raise DicomError("effective doses of single beams do not add up; export the plan's dose.")
    total = replace(
        beams[0], dose_gy=np.sum([d.dose_gy for d in beams], axis=0), beam_numbers=(),
        summation="PLAN",
    )  # fmt: skip
    return total, ["the doses of the beams are added up"]


def _refuse_elsewhere(what: str, frame_uid: str, series: Entry) -> None:
    if frame_uid and series.frames and frame_uid not in series.frames:
        raise DicomError(
            f"the {what} lies in another frame of reference than the CT; choose another by "
            f"dicom.{what}=…, or export them together."
        )


def _refuse_mismatch(plan: Plan, engine: DoseEngine, quantity: Quantity) -> None:
    of_photons = isinstance(plan.machine, PhotonMachine)
    if of_photons and not isinstance(engine, PhotonSvdEngine):
        raise ValueError("the plan is of photons; add engine=photon_svd.")
    if quantity.rbe is None and getattr(engine, "biology", None) is None:
        raise ValueError(
            f"{type(engine).__name__} computes physical dose alone, and the dose beside the plan "
            "is weighted by a model of biology; take engine=pencil_beam."
        )


def _by_number(given: Given, single: list[np.ndarray]) -> dict[int, np.ndarray]:
    """Doses of the plan's beams by the file's numbers, of which one may be several of ours."""
    numbers = np.array(given.plan.beam_numbers)
    return {
        number: np.sum([single[i] for i in np.flatnonzero(numbers == number)], axis=0)
        for number in given.beams_gy
        if number in numbers
    }


def _on(grid: Grid, other: Grid) -> bool:
    """Whether two grids are one but for rounding."""
    return grid.shape == other.shape and np.allclose(
        [grid.spacing_mm, grid.origin_mm], [other.spacing_mm, other.origin_mm], atol=1e-6
    )


def _beam_rows(given: Given, ours_gy: Mapping[int, np.ndarray], inside: np.ndarray) -> list[Row]:
    """Gamma of every beam whose dose both have."""
    rows = []
    for number, ours in sorted(ours_gy.items()):
        theirs = np.where(inside, given.beams_gy[number], np.float32(0.0))
        if not theirs.max() > 0.0:
            continue
        found = Gammas(theirs, np.where(inside, ours, np.float32(0.0)), given.dose.grid)
        rate = found(*BEAM_CRITERION).pass_rate_percent
        percent, distance_mm = BEAM_CRITERION
        name = f"beam {number}: {percent:g} %/{distance_mm:g} mm, global"
        rows.append(Row("Beams", name, "%", 100.0, rate))
    return rows


def _evaluation(patient: Patient, grid: Grid) -> PlanEvaluation:
    """What reads metrics from a dose on the grid, of all structures that it meets."""
    judged = judged_on(grid, on_grid(patient, grid).fraction, np.arange(grid.size))
    wishes = {name: gy for name, gy in patient.prescription_gy.items() if name in judged}
    if not wishes:
        raise DicomError("no target lies on the grid of the dose; choose another by dicom.dose=….")
    return PlanEvaluation(judged, wishes, grid.size, judged.get(patient.external.name))


def _metric_rows(evaluation: PlanEvaluation, theirs: np.ndarray, ours: np.ndarray) -> list[Row]:
    metrics = [evaluation.evaluate(gy.ravel()) for gy in (theirs, ours)]
    return [
        Row(structure, name.split("[")[0], name.split("[")[1].rstrip("]"), value,
            metrics[1][structure][name])
        for structure, found in metrics[0].items()
        for name, value in found.items()
    ]  # fmt: skip
