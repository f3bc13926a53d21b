"""Make a plan from a CT: spots, dose, optimization, scorecard, pictures.

Writes into the folder ``output``: plan.json, dose.npz, dvh.csv, dvh.png, dose_wash.png,
scorecard.txt and .json, convergence.csv, config.yaml, record.json, letd.png if letd=true, and with
output.dicom=true a folder dicom of CT, structures, plan and doses.
"""

import sys
from dataclasses import replace

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from engine.dose.influence import InfluenceMatrix
from engine.evaluation.goals import RING
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.evaluation.scorecard import Goal, Scorecard, metrics_of
from engine.geometry.delivery import DeliveryModel
from engine.geometry.plan import Plan
from engine.machine.ion import IonMachine
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.parallel import set_threads
from engine.patient.grid import Grid
from engine.patient.patient import Patient, prescribed
from engine.patient.structures import DoseStructures, on_grid, resample_fraction, ring
from scripts import dicom_files, final_dose, plan_files
from scripts.fields import refuse_foreign
from scripts.judged import judged_on
from scripts.patient_keys import patient_of
from scripts.record import dose_progress, output_folder, save_record, solver_progress, stage

DICOM = "dicom"  # the folder of DICOM files in that of the plan


def run(cfg: DictConfig) -> float:
    """One plan; returns the scorecard's number, for sweeps."""
    folder = output_folder()
    save_record(cfg, folder)
    if cfg.threads is not None:
        set_threads(cfg.threads)
    # Everything that needs no patient comes first, so that a wrong number stops the run at once.
    spacing_mm = _checked_spacing_mm(cfg.dose_grid_mm)
    machine = instantiate(cfg.machine)
    place = instantiate(cfg.geometry, _convert_="all")
    engine = instantiate(cfg.dose, _convert_="all")
    chosen = instantiate(cfg.final_dose, _convert_="all")
    biology = instantiate(cfg.biology)
    final = final_dose.final_engine(engine, chosen, cfg.letd, biology)
    pose = instantiate(cfg.optimization.problem)
    solver = instantiate(cfg.optimization.solver)
    solve = instantiate(cfg.optimization.deliverable)
    if cfg.dicom:
        dicom_files.refuse_others(folder / DICOM)

    refuse_foreign(cfg)
    with stage("Patient") as notes:
        patient = _patient(cfg)
        notes += _about_patient(patient)
    with stage("Spots") as notes:
        plan = place(patient, machine)
        notes += _about_plan(plan)
    with stage("Influence matrix") as notes, dose_progress() as show:
        grid = dose_grid(patient, spacing_mm)
        influence = final_dose.watched(engine, show).influence(patient, plan, grid)
        notes += _about_influence(influence)
    with stage("Objectives") as notes:
        quantity = instantiate(cfg.quantity)(n_fractions=patient.n_fractions)
        structures = on_grid(patient, grid)
        problem = pose(patient, structures, influence, quantity, machine.min_spot_weight)
        notes.append(f"{len(problem.objectives)} on {len(problem.structures)} structures")
    with stage("Optimization") as notes:
        start = initial_weights(problem)
        with solver_progress(getattr(solver, "max_evaluations", None)) as show:
            layers = plan.layer_starts()
            solution = solve(problem, solver, start, layer_starts=layers, callback=show)
        plan = plan.with_weights(solution.weights)
        notes += _about_solution(solution, plan, problem)
        if isinstance(machine, IonMachine):
            delivery = DeliveryModel.of_machine(machine, delivery="static")
            notes.append(f"delivery {delivery.time(plan).total_s:.0f} s")
        # before the final dose, which may take long, fail or be stopped
        files = plan_files.write_plan(patient, plan, quantity, biology, solution, folder)
        notes += [f"kept in {files[0]}"] if final else []
    if final is None:
        dose = final_dose.of_matrix(influence, plan.weights, quantity)
    else:
        with stage("Final dose") as notes:
            targets = {name: structures.fraction[name] for name in patient.targets}
            dose = final_dose.computed(
                final, patient, plan, influence, quantity, targets, cfg.letd, notes
            )
    with stage("Evaluation") as notes:
        evaluation, goals = _evaluation(cfg, patient, structures, influence)
        metrics = evaluation.evaluate(dose.total_gy)
        table = Scorecard(goals).score(metrics, quantity.rbe)
        notes.append(f"{table.n_met} of {len(table.rows)} goals met")
        absent = [n for n in patient.organs if n not in evaluation.structures]
        if absent:
            notes.append(f"not judged, outside the body on the dose grid: {', '.join(absent)}")
    with stage("Files and pictures") as notes:
        made = plan_files.Made(
            patient, plan, influence, quantity, solution, dose, evaluation, metrics, table
        )
        notes.append(", ".join(files + plan_files.write(made, folder)))
    if cfg.dicom:
        with stage("DICOM") as notes:
            notes += plan_files.write_dicom(made, biology, folder / DICOM)

    print(f"\n{patient.name}: {table}\n\nWritten to {folder}/")
    return table.total


def dose_grid(patient: Patient, spacing_mm: float) -> Grid:
    """A grid of cubes around the body and its supports."""
    solid = [s.mask for s in patient.structures.values() if s.role in ("external", "support")]
    around, _ = patient.grid.cropped(np.logical_or.reduce(solid))
    return around.resampled(spacing_mm)


def _checked_spacing_mm(spacing_mm: float) -> float:
    if not (isinstance(spacing_mm, (int, float)) and 0.5 <= spacing_mm <= 20.0):
        raise ValueError(f"dose_grid_mm={spacing_mm} must lie in 0.5 … 20 mm.")
    return float(spacing_mm)


def _patient(cfg: DictConfig) -> Patient:
    """The patient, with other fractions and prescriptions where some are wished."""
    patient = patient_of(cfg)
    wished = {str(name): gy for name, gy in (cfg.prescription_gy or {}).items()}
    patient = prescribed(patient, cfg.fraction_gy, cfg.n_fractions)
    return replace(patient, prescription_gy={**patient.prescription_gy, **wished})


def _evaluation(
    cfg: DictConfig, patient: Patient, structures: DoseStructures, influence: InfluenceMatrix
) -> tuple[PlanEvaluation, tuple[Goal, ...]]:
    """What judges the dose, and the goals whose structures the dose grid has."""
    around = resample_fraction(ring(patient, 0.0, cfg.ring_mm), patient.grid, influence.grid)
    fraction = {**structures.fraction, RING: around}
    judged = judged_on(influence.grid, fraction, influence.voxels)
    goals = tuple(g for g in instantiate(cfg.evaluation)(patient) if g.structure in judged)
    body = judged[patient.external.name]
    wishes = patient.prescription_gy
    return PlanEvaluation(judged, wishes, influence.n_rows, body, metrics_of(goals)), goals


def _about_patient(patient: Patient) -> list[str]:
    wishes = ", ".join(f"{t} {patient.prescription_gy[t]:g}" for t in patient.targets)
    return [
        patient.name,
        f"{wishes} Gy (RBE) in {patient.n_fractions} fractions",
        f"{len(patient.organs)} organs",
    ]


def _about_plan(plan: Plan) -> list[str]:
    notes = [f"{plan.n_spots} spots"]
    for index, beam in enumerate(plan.beams):
        spots = plan.beam_slice(index)
        n_layers = len(np.unique(plan.spot_energy[spots]))
        shifter = f", {beam.range_shifter}" if beam.range_shifter else ""
        notes.append(f"gantry {beam.gantry_deg:g}°: {n_layers} layers{shifter}")
    return notes


def _about_influence(influence: InfluenceMatrix) -> list[str]:
    return [
        f"{influence.n_rows} voxels × {influence.n_spots} spots",
        f"{influence.n_nonzeros / 1e6:.1f} M nonzeros",
        f"{influence.nbytes / 1e6:.0f} MB",
    ]


def _about_solution(solution, plan: Plan, problem: PlanningProblem) -> list[str]:
    return [
        f"objective {solution.trace[0, 1]:.4g} → {solution.value:.4g}",
        f"{solution.n_iterations} iterations, {solution.n_evaluations} evaluations",
        solution.reason.replace("_", " "),
        f"{np.count_nonzero(plan.weights)} spots of {problem.minimum_weight:.2g} ions or more",
    ]


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["plan", *sys.argv[1:]]))
