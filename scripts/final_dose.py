"""The dose that a plan is judged by: the matrix times the weights, or computed anew.

A Monte Carlo matrix is an estimate, and the optimizer has chosen the weights by its noise as well;
a dose of histories of their own tells what the plan is worth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.dose.engine import DoseEngine
from engine.dose.influence import InfluenceMatrix
from engine.dose.quantities import Quantity
from engine.evaluation.gamma import gamma_3d
from engine.geometry.plan import Plan
from engine.patient.patient import Patient
from engine.physics.biology import BiologicalModel
from scripts.record import amount, dose_progress

GAMMA_CRITERIA = ((1.0, 1.0), (2.0, 2.0), (3.0, 2.0))  # percent, mm


@dataclass(frozen=True, eq=False)
class PlanDose:
    """Gy (RBE) of the course on the matrix's rows: total (n_rows,) and beams (n_beams, n_rows),
    each as if it were alone: with a varying RBE they do not add up to the total.

    ``error_gy`` (n_rows,) is the standard error of the total, ``letd_kev_um`` (n_rows,) its
    dose-averaged LET, ``record`` what the scorecard says of a dose computed anew; None: unknown.
    """

    total_gy: np.ndarray
    beams_gy: np.ndarray
    error_gy: np.ndarray | None = None
    letd_kev_um: np.ndarray | None = None
    record: dict | None = None


def final_engine(
    engine: DoseEngine, chosen: DoseEngine | None, letd: bool,
    biology: BiologicalModel | None = None,
) -> DoseEngine | None:  # fmt: skip
    """What computes the final dose: the ``chosen`` engine, or the matrix's where that is only an
    estimate; None: the matrix is the final dose. With ``biology`` it must be: what engines compute
    anew is physical dose, and the beams' doses of equal effect do not add up."""
    final = chosen
    if final is None and getattr(engine, "influence_is_estimate", False):
        final = engine
    if biology is not None and final is not None:
        raise ValueError(
            f"final_dose by {type(final).__name__} is physical, and biology={biology} needs the "
            "matrix's α and √β; leave final_dose out and take dose=pencil_beam, or plan with "
            "quantity=constant_rbe."
        )
    if letd and "letd" not in getattr(final, "quantities", ()):
        raise ValueError(
            "letd=true needs a final dose by an engine that knows spectra; add final_dose=yoda or "
            "final_dose=monte_carlo, or leave letd out."
        )
    return final


def watched(engine: DoseEngine, show: Callable[..., None]) -> DoseEngine:
    """The engine with its progress shown, where it tells of any."""
    return replace(engine, progress=show) if hasattr(engine, "progress") else engine


def of_matrix(influence: InfluenceMatrix, weights: np.ndarray, quantity: Quantity) -> PlanDose:
    """The matrix times the weights."""
    beams = range(influence.n_beams)
    return PlanDose(
        quantity.value(quantity.of_fraction(influence, weights)),
        np.stack([quantity.value(quantity.of_fraction(influence, weights, b)) for b in beams]),
    )


def computed(
    engine: DoseEngine, patient: Patient, plan: Plan, rows: InfluenceMatrix, quantity: Quantity,
    target_fraction: Mapping[str, np.ndarray], letd: bool, notes: list[str],
) -> PlanDose:  # fmt: skip
    """The dose by ``engine``, beam by beam, on the matrix's voxels; says in ``notes`` how well.

    ``target_fraction`` is the share (nz, ny, nx) of every voxel in each target.
    """
    with dose_progress() as show:
        beams = [
            _beam_dose(engine, patient, plan, rows, beam, letd, show, notes)
            for beam in range(len(plan.beams))
        ]
    gy = quantity.value(np.stack([beam["dose"] for beam in beams]))
    total, error, record = gy.sum(axis=0), None, {"engine": type(engine).__name__}
    record["scores"] = engine.scores
    record["matrix"] = against_matrix(total, rows, plan.weights, quantity)
    notes.append(f"the matrix's dose: gamma 2 %/2 mm {record['matrix']['gamma_2_2_10']:.1f} %")
    if hasattr(engine, "simulate"):
        error = quantity.value(np.sqrt(sum(beam["dose_error"] ** 2 for beam in beams)))
        record["beams"] = [beam["record"] for beam in beams]
        in_targets = {
            name: _uncertainty_percent(total, error, share.ravel()[rows.voxels])
            for name, share in target_fraction.items()
        }
        record["target_uncertainty_percent"] = in_targets
        notes.append(", ".join(f"{u:.2g} % in {name}" for name, u in in_targets.items()))
    return PlanDose(total, gy, error, _mean_let(beams) if letd else None, record)


def against_matrix(
    total_gy: np.ndarray, rows: InfluenceMatrix, weights: np.ndarray, quantity: Quantity
) -> dict[str, float]:
    """How far the dose that was optimized lies from the final one (n_rows,) in Gy (RBE): gamma pass
    rates in percent, global, above 10 %; mean difference above half the maximum, in percent of it.
    """
    optimized = quantity.value(quantity.of_fraction(rows, weights))
    volumes = rows.volume(total_gy), rows.volume(optimized)
    rates = {
        f"gamma_{percent:g}_{mm:g}_10": gamma_3d(*volumes, rows.grid, percent, mm).pass_rate_percent
        for percent, mm in GAMMA_CRITERIA
    }
    high = total_gy >= 0.5 * total_gy.max()
    apart = float((optimized - total_gy)[high].mean() / total_gy.max())
    return rates | {"mean_difference_percent": 100.0 * apart}


def _beam_dose(
    engine: DoseEngine, patient: Patient, plan: Plan, rows: InfluenceMatrix, beam: int, letd: bool,
    show: Callable[..., None], notes: list[str],
) -> dict:  # fmt: skip
    """Each quantity of one beam (n_rows,), physical and of one fraction, and its record."""
    where = f"gantry {plan.beams[beam].gantry_deg:g}°"
    letd_too = ["letd"] if letd else []
    if not hasattr(engine, "simulate"):
        own = watched(engine, lambda progress: show(progress, where))
        done = own.dose(patient, plan, rows.grid, quantities=("dose", *letd_too), beam=beam)
        return {name: volume.ravel()[rows.voxels] for name, volume in done.items()}
    names = ("dose", "dose_error", *letd_too)
    # the same seed for all would give beams that look alike the same noise, which then adds up
    seed = int(np.random.SeedSequence([engine.seed, beam]).generate_state(1, np.uint64)[0] >> 1)
    own = replace(watched(engine, lambda progress: show(progress, where)), seed=seed)
    done = own.simulate(patient, plan, rows.grid, quantities=names, beam=beam)
    notes.append(f"{where}: {amount(done.n_histories)} histories, {done.uncertainty_percent:.2g} %")
    record = {
        "gantry_deg": plan.beams[beam].gantry_deg,
        "couch_deg": plan.beams[beam].couch_deg,
        "n_histories": done.n_histories,
        "uncertainty_percent": done.uncertainty_percent,
    }
    found = {name: done.quantities[name].ravel()[rows.voxels] for name in names}
    return found | {"record": record}


def _mean_let(beams: list[dict]) -> np.ndarray:
    """Dose-averaged LET of all beams together (n_rows,) in keV/µm; 0 where there is no dose."""
    product = sum(beam["dose"] * beam["letd"] for beam in beams)
    dose = sum(beam["dose"] for beam in beams)
    return np.divide(product, dose, out=np.zeros_like(dose), where=dose > 0)


def _uncertainty_percent(dose: np.ndarray, error: np.ndarray, share: np.ndarray) -> float | None:
    """Mean standard error in a structure, in percent of each voxel's dose; None without dose."""
    inside = (share > 0) & (dose > 0)
    if not inside.any():
        return None
    return 100.0 * float(np.average(error[inside] / dose[inside], weights=share[inside]))
