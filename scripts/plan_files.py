"""What a plan leaves in its folder: numbers for programs, tables and pictures for people."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import Quantity
from engine.evaluation.plan_evaluation import PlanEvaluation
from engine.evaluation.scorecard import ScoreTable
from engine.geometry.plan import Aperture, Beam, Plan
from engine.io.dicom_study import Study
from engine.machine.ion import IonMachine
from engine.machine.library import load_machine
from engine.machine.photon import PhotonMachine
from engine.optimization.solution import Solution
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.physics.biology import BiologicalModel
from ptenv.rendering import dose_wash, dvh_figure, let_wash, save
from scripts import dicom_files
from scripts.final_dose import PlanDose

DVH_STEP_GY = 0.1


@dataclass(frozen=True, eq=False)
class Made:
    """A finished plan with all that was computed on the way."""

    patient: Patient
    plan: Plan
    influence: InfluenceMatrix
    quantity: Quantity
    solution: Solution
    dose: PlanDose
    evaluation: PlanEvaluation
    metrics: dict[str, dict[str, float]]
    table: ScoreTable


def write_plan(
    patient: Patient, plan: Plan, quantity: Quantity, biology: BiologicalModel | None,
    solution: Solution, folder: Path,
) -> list[str]:  # fmt: skip
    """Write what the optimization made, which needs no final dose; returns the files' names."""
    _plan(patient, plan, quantity, biology, folder / "plan.json")
    _convergence(solution, folder / "convergence.csv")
    return ["plan.json", "convergence.csv"]


def write(made: Made, folder: Path) -> list[str]:
    """Write what rests on the final dose, numbers before pictures; returns the files' names."""
    writers = {
        "dose.npz": _dose,
        "dvh.csv": _dvh_table,
        "scorecard.txt": _scorecard_text,
        "scorecard.json": _scorecard,
        "dose_wash.png": _dose_wash,
        "dvh.png": _dvh_picture,
    }
    if made.dose.letd_kev_um is not None:
        writers["letd.png"] = _let_wash
    for name, writer in writers.items():
        writer(made, folder / name)
    return list(writers)


def write_dicom(made: Made, biology: BiologicalModel | None, folder: Path) -> list[str]:
    """Write patient, plan and doses as DICOM; says what was written."""
    volume = made.influence.volume
    doses = dicom_files.Doses(
        made.influence.grid, volume(made.dose.total_gy),
        [volume(gy) for gy in made.dose.beams_gy],
        dicom_files.weighted_by(made.quantity, biology),
    )  # fmt: skip
    return dicom_files.write(made.patient, folder, made.plan, doses)


@dataclass(frozen=True, eq=False)
class ReadPlan:
    """A plan read again from its folder, with what it was made for and its doses."""

    patient: str  # the source of the patient, or the name
    image: str  # digest of the CT that it was made on
    prescription_gy: Mapping[str, float]
    n_fractions: int
    plan: Plan
    doses: dicom_files.Doses


def read(folder: Path, machine: str | None = None) -> ReadPlan:
    """What ``write_plan`` and ``write`` left in a folder, for the machine that the plan names or
    another; positions and weights are as rounded there. Refuses a folder without them."""
    try:
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        with np.load(folder / "dose.npz") as dose:
            total, beams = dose["dose_gy_rbe"], dose["beam_dose_gy_rbe"]
            grid = Grid(total.shape, dose["spacing_mm"], dose["origin_mm"])
        if not {"weighted_by", "image"} <= set(content):
            raise ValueError("its plan.json lacks weighted_by or image; plan again")
        plan = _read_plan(content, load_machine(machine or content["machine"]))
        return ReadPlan(
            content["patient"], content["image"], content["prescription_gy_rbe"],
            content["n_fractions"], plan,
            dicom_files.Doses(grid, total, beams, content["weighted_by"]),
        )  # fmt: skip
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"plan={folder} has no {Path(error.filename or '').name}; give the folder of a "
            "finished `ptenv plan`."
        ) from None
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"plan={folder} cannot be read: {error}.") from error


def _read_plan(content: dict, machine: IonMachine | PhotonMachine) -> Plan:
    beams, rows = [], []
    for index, told in enumerate(content["beams"]):
        layers = told.pop("layers")
        beams.append(_read_beam(told))
        for layer in layers:
            energy = int(np.argmin(np.abs(machine.energy_mev - layer["energy_mev"])))
            if abs(machine.energy_mev[energy] - layer["energy_mev"]) > 1e-3:
                raise ValueError(f"{machine.name} has no energy of {layer['energy_mev']} MeV")
            rows += [(index, energy, *spot) for spot in layer["spots"]]
    beam, energy, u, v, weight = np.array(rows, dtype=float).reshape(-1, 5).T
    return Plan(
        machine, tuple(beams), beam.astype(np.uint16), energy.astype(np.uint16),
        u.astype(np.float32), v.astype(np.float32), weight,
    )  # fmt: skip


def _read_beam(told: dict) -> Beam:
    block = told["aperture"]
    if block is not None:
        opening = tuple(tuple(corner) for corner in block["opening_mm"])
        block = Aperture(**{**block, "opening_mm": opening})
    return Beam(**{**told, "isocenter_mm": tuple(told["isocenter_mm"]), "aperture": block})


_PARTICLES = {0: "monitor units", 1: "protons", 6: "carbon ions"}  # by the machine's charge


def _plan(
    patient: Patient, plan: Plan, quantity: Quantity, biology: BiologicalModel | None, path: Path
) -> None:
    """Beams → layers → spots with weights; spots of weight 0 are left out."""
    beams = []
    for index, beam in enumerate(plan.beams):
        spots = np.arange(plan.n_spots)[plan.beam_slice(index)]
        spots = spots[plan.weights[spots] > 0]
        beams.append({**asdict(beam), "layers": _layers(plan, spots)})
    content = {
        "patient": patient.source or patient.name,
        "image": Study.of(patient).pseudonym,
        "machine": plan.machine.name,
        "n_fractions": patient.n_fractions,
        "prescription_gy_rbe": dict(patient.prescription_gy),
        "rbe": quantity.rbe,
        "weighted_by": dicom_files.weighted_by(quantity, biology),
        "weights": f"{_PARTICLES.get(getattr(plan.machine, 'charge', 0), 'ions')} per fraction",
        "spots": "u_mm, v_mm in the isocenter plane of the beam's eye view, weight",
        "beams": beams,
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _layers(plan: Plan, spots: np.ndarray) -> list[dict]:
    layers = []
    digits = 0 if isinstance(plan.machine, IonMachine) else 4  # monitor units are no whole numbers
    for energy in np.unique(plan.spot_energy[spots])[::-1]:
        of = spots[plan.spot_energy[spots] == energy]
        rows = zip(plan.u_mm[of].tolist(), plan.v_mm[of].tolist(), plan.weights[of].tolist())
        layers.append({
            "energy_mev": round(float(plan.machine.energy_mev[energy]), 3),
            "spots": [[round(u, 3), round(v, 3), _rounded(w, digits)] for u, v, w in rows],
        })  # fmt: skip
    return layers


def _rounded(weight: float, digits: int) -> float | int:
    return round(weight, digits) if digits else round(weight)


def _dose(made: Made, path: Path) -> None:
    """Dose in Gy (RBE) of the course, in total and of each beam alone, on the dose grid (z, y, x).

    Where they are known, the standard error of the total, and LETd in keV/µm.
    """
    volume, dose = made.influence.volume, made.dose
    known = {"dose_error_gy_rbe": dose.error_gy, "letd_kev_um": dose.letd_kev_um}
    np.savez_compressed(
        path,
        dose_gy_rbe=volume(dose.total_gy),
        beam_dose_gy_rbe=np.stack([volume(gy) for gy in dose.beams_gy]),
        spacing_mm=made.influence.grid.spacing_mm,
        origin_mm=made.influence.grid.origin_mm,
        **{name: volume(rows) for name, rows in known.items() if rows is not None},
    )


def _dvh_table(made: Made, path: Path) -> None:
    """Percent of every structure's volume that gets a dose in Gy (RBE) or more."""
    levels = np.arange(0.0, float(made.dose.total_gy.max()) + 2 * DVH_STEP_GY, DVH_STEP_GY)
    histograms = made.evaluation.dvh(made.dose.total_gy)
    columns = [levels] + [
        100.0 * np.array([h.volume_at_dose(level) for level in levels]) / h.total_cm3
        for h in histograms.values()
    ]
    header = ",".join(["dose_gy_rbe", *(f"{name}_percent" for name in histograms)])
    np.savetxt(path, np.column_stack(columns), "%.2f", ",", header=header, comments="")


def _dvh_picture(made: Made, path: Path) -> None:
    """Histograms of targets, organs and ring; the body's would only press the others together."""
    histograms = made.evaluation.dvh(made.dose.total_gy)
    histograms.pop(made.patient.external.name)
    wishes = made.patient.prescription_gy
    figure = dvh_figure(histograms, wishes, title=_title(made), rbe=made.quantity.rbe)
    save(figure, path)


def _dose_wash(made: Made, path: Path) -> None:
    volume = made.influence.volume(made.dose.total_gy)
    drawn = dict(title=_title(made), rbe=made.quantity.rbe)
    save(dose_wash(made.patient, volume, made.influence.grid, **drawn), path)


def _let_wash(made: Made, path: Path) -> None:
    letd, dose = (made.influence.volume(v) for v in (made.dose.letd_kev_um, made.dose.total_gy))
    save(let_wash(made.patient, letd, dose, made.influence.grid, title=_title(made)), path)


def _title(made: Made) -> str:
    """The patient, and what computed a final dose, with its error in the worst of the targets."""
    record = made.dose.record
    if record is None:
        return made.patient.name
    errors = [e for e in record.get("target_uncertainty_percent", {}).values() if e is not None]
    noise = f", error {max(errors):.1f} % in the targets" if errors else ""
    return f"{made.patient.name}, dose by {record['engine']}{noise}"


def _scorecard_text(made: Made, path: Path) -> None:
    path.write_text(f"{_title(made)}: {made.table}\n", encoding="utf-8")


def _scorecard(made: Made, path: Path) -> None:
    goals = [
        {**asdict(row.goal), "value": row.value, "met": row.met, "score": row.score}
        for row in made.table.rows
    ]
    content = {
        "patient": made.patient.source or made.patient.name,
        "rbe": made.quantity.rbe,
        "score": made.table.total,
        "goals": goals,
        "metrics": made.metrics,
        "objective": made.solution.value,
        "solver_ended": made.solution.reason,
    }
    if made.dose.record is not None:
        content["final_dose"] = made.dose.record
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _convergence(solution: Solution, path: Path) -> None:
    header = "evaluations,objective,projected_gradient"
    np.savetxt(path, solution.trace, "%.8g", ",", header=header, comments="")
