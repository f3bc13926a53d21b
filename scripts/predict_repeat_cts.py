"""Doses on repeat CTs as the adjoint predicts them, beside recomputed ones.

After section 3.2 of Burlacu et al. 2024: ``python -m scripts.predict_repeat_cts slab`` varies the
half slab of a tank (figure 7), ``… patients PATH …`` recomputes plans of OpenKBP patients on
simulated repeat CTs (figures 8 and 9). Each plan's numbers and doses are kept in the folder
``--output``; what is there is not computed again, only tabulated and drawn.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from engine.dose.influence import InfluenceMatrix
from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.yoda.adjoint import DoseAdjoint, dose_adjoint, mean_dose_weights
from engine.dose.yoda.engine import YodaEngine
from engine.geometry.plan import Beam, Plan
from engine.geometry.scenarios import NOMINAL, setup_and_range
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.geometry.spots import SpotSettings, place_spots
from engine.io.openkbp import read_patient
from engine.machine.library import load_machine
from engine.machine.single_spots import SpotKind
from engine.optimization.head_and_neck import head_and_neck_problem, head_and_neck_voxels
from engine.optimization.problem import PlanningProblem, initial_weights
from engine.optimization.robust import AccurateScenarios, RobustProblem, solve_worst_case
from engine.optimization.solvers import LBFGSB
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from engine.patient.phantoms import half_slab_tank
from engine.patient.repeat_ct import REPEAT_CTS, repeat_series
from engine.patient.single_target import single_target
from engine.patient.structures import on_grid, structure_fraction
from scripts.cli import A_PERSON_CAN_MEND, EXIT_USAGE
from scripts.plan import dose_grid
from scripts.record import dose_progress, stage

SLAB_SPOT, SLAB_PROTONS = SpotKind(100.0, 1.0, 3.0, 1e-8), 1e9
ROI_FROM_MM, SLAB_HU = 60.0, 1000.0
PAPER_SLAB_PERCENT = 2.2
PAPER_PERCENT = {"not robust": 6.2, "robust": 1.0}  # 1031 and 344 spots, a patient each
PLANS = tuple(PAPER_PERCENT)
RASTER = SpotSettings(spot_spacing_mm=None, spacing_factor=1.3, layer_factor=3.0)
PLAN_GRID_MM = 5.0
RBE = 1.1  # of the dose washes alone
WIDTHS = (26, 13, 11, 11, 9, 8)
INK = "#222222"
MARKS = {
    "recomputed": dict(color=INK, marker="o", ls="-"),
    "predicted": dict(color="#0a66c2", marker="x", ls="--"),
}
KIND_COLORS = dict(zip(REPEAT_CTS, ("#c97b12", "#1b8a5a", "#8367c7")))
KIND_NAMES = {
    "weight_loss": "weight loss", "filled_sinuses": "filled sinuses", "tilted_neck": "tilted neck",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How plans are made and their doses computed; a folder of results has one of these.

    Spots are placed at 1.3 times the usual spacing in every third layer or so; the ``n_spots``
    that an optimization gives most protons are kept and optimized again.
    """

    gantry_deg: tuple[float, ...] = (45.0, 315.0, 180.0)
    n_spots: int = 700
    dose_grid_mm: float = 4.0
    scheme: str = "1+6+6+12"
    n_strengths: int = 5
    organ: str | None = None
    shift_mm: float = 3.0
    range_percent: float = 3.5
    max_evaluations: int = 150

    def __post_init__(self):
        if not self.gantry_deg:
            raise ValueError("gantry_deg is empty; give at least one field.")
        for name in ("n_spots", "n_strengths", "max_evaluations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more.")
        if not 1.0 <= self.dose_grid_mm <= 10.0:
            raise ValueError(f"dose_grid_mm={self.dose_grid_mm} must lie in 1 … 10 mm.")
        self.engine  # noqa: B018 (refuses an unknown scheme)
        setup_and_range(self.shift_mm, self.range_percent)

    @property
    def engine(self) -> YodaEngine:
        """Split alike on every CT, as the adjoint has it."""
        return YodaEngine(scheme=self.scheme, adaptive=False)

    def record(self) -> dict:
        """As json gives it back."""
        return json.loads(json.dumps(asdict(self)))


# --- The half slab


def slab_plan() -> Plan:
    """One spot on the edge of the slab."""
    spot = SingleSpot(SLAB_SPOT, (0.0, -50.0, 0.0), (0.0, 1.0, 0.0), SLAB_PROTONS)
    return plan_of([spot])


def beyond(tank: Patient, depth_mm: float) -> np.ndarray:
    """Voxels (nz, ny, nx) deeper than that for a field from the front."""
    deep = tank.grid.axes_mm()[1] - tank.grid.lower_mm[1] > depth_mm
    return np.broadcast_to(deep[None, :, None], tank.grid.shape)


def slab_sweep(slab_hu: Sequence[float], spacing_mm: float = 1.0, scheme: str = "1+6+6+12") -> dict:
    """Mean dose beyond 60 mm by CT number of the slab, from a slab of 0 HU, and seconds."""
    engine, plan = YodaEngine(scheme=scheme, adaptive=False), slab_plan()
    planned = half_slab_tank(0.0, spacing_mm)
    weights = mean_dose_weights(beyond(planned, ROI_FROM_MM))
    adjoint = dose_adjoint(engine, planned, plan, planned.grid, weights)
    adjoint.change(planned)  # what is kept from call to call
    engine.dose(planned, plan, planned.grid)
    rows, dose_s, change_s = [], [], []
    for hu in slab_hu:
        tank = half_slab_tank(float(hu), spacing_mm)
        dose, seconds = _timed(lambda tank=tank: engine.dose(tank, plan, tank.grid)["dose"])
        dose_s.append(seconds)
        change, seconds = _timed(lambda tank=tank: adjoint.change(tank))
        change_s.append(seconds)
        rows.append(_compared(_mean(weights, dose), adjoint.value + change) | {"hu": float(hu)})
    return {
        "planned_gy": adjoint.value, "rows": rows, "dose_s": float(np.median(dose_s)),
        "change_s": float(np.median(change_s)),
    }  # fmt: skip


def slab_table(sweep: Mapping) -> str:
    lines = [_row("slab in HU", "recomputed", "predicted", "error")]
    lines += [
        _row(f"{r['hu']:.0f}", f"{1e3 * r['recomputed_gy']:.3f} mGy",
             f"{1e3 * r['predicted_gy']:.3f} mGy", f"{r['error_percent']:.2f} %")
        for r in sweep["rows"]
    ]  # fmt: skip
    worst = max(sweep["rows"], key=lambda r: abs(r["error_percent"]))
    lines.append(
        f"largest error {worst['error_percent']:.2f} % at {worst['hu']:.0f} HU (paper "
        f"{PAPER_SLAB_PERCENT:g} % at −1000 HU); a recomputation takes {sweep['dose_s']:.3f} s, "
        f"one more CT {100 * sweep['change_s'] / sweep['dose_s']:.2g} % of it"
    )
    return "\n".join(lines)


# --- Plans


def planned(patient: Patient, settings: Settings, robust: bool) -> Plan:
    """A plan for the highest target by the pencil beam, of the spots with most protons."""
    one = single_target(patient)
    beams = [Beam(float(angle)) for angle in settings.gantry_deg]
    plan = place_spots(one, load_machine("generic_proton"), beams, RASTER)
    problem = planning_problem(one, plan, settings, robust)
    start = initial_weights(problem.nominal if robust else problem)
    first = solved(problem, settings, start, np.full(plan.n_spots, np.inf, np.float32))
    upper = kept_bounds(first, settings.n_spots)
    return plan.with_weights(solved(problem, settings, first, upper))


def planning_problem(
    patient: Patient, plan: Plan, settings: Settings, robust: bool
) -> PlanningProblem | RobustProblem:
    """The head-and-neck objectives, those on the target in every scenario if ``robust``."""
    grid = dose_grid(patient, PLAN_GRID_MM)
    structures = on_grid(patient, grid)
    voxels = head_and_neck_voxels(patient, structures)
    errors = setup_and_range(settings.shift_mm, settings.range_percent) if robust else (NOMINAL,)
    matrices = [PencilBeamEngine().influence(patient, plan, grid, e, voxels=voxels) for e in errors]
    nominal = head_and_neck_problem(patient, structures, matrices[0])
    if not robust:
        return nominal
    doses = AccurateScenarios(InfluenceMatrix.stacked(matrices), len(errors))
    on_target = [o.structure == patient.targets[0] for o in nominal.objectives]
    return RobustProblem(
        doses, nominal.structures, nominal.objectives, nominal.quantity, on_target
    )  # fmt: skip


def solved(problem, settings: Settings, start: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Weights (n_spots,) within 0 … ``upper``."""
    solver, start = LBFGSB(max_evaluations=settings.max_evaluations), np.minimum(start, upper)
    if isinstance(problem, RobustProblem):
        return solve_worst_case(problem, solver, start, upper=upper).weights
    return solver.solve(problem, start, upper=upper).weights


def kept_bounds(weights: np.ndarray, n_kept: int) -> np.ndarray:
    """Upper bounds (n_spots,) that keep the heaviest spots alone."""
    upper = np.zeros(len(weights), np.float32)
    upper[np.argsort(-weights, kind="stable")[:n_kept]] = np.inf
    return upper


# --- Repeat CTs


def repeat_cts(patient: Patient, n: int) -> Iterator[tuple[str, str, Patient]]:
    """Kind, label and patient of all repeat CTs."""
    for kind in REPEAT_CTS:
        for label, repeat in repeat_series(patient, kind, n):
            yield kind, label, repeat


@dataclass(frozen=True, eq=False)
class Functionals:
    """Mean doses of structures (fractional volumes on the dose grid), and their adjoints."""

    weights: Mapping[str, np.ndarray]
    adjoints: Mapping[str, DoseAdjoint]

    @classmethod
    def of(cls, patient: Patient, plan: Plan, grid: Grid, settings: Settings) -> "Functionals":
        names = [patient.targets[0], *filter(None, [settings.organ])]
        inside = {
            n: structure_fraction(patient.structures[n], patient.grid, grid) for n in names
        }
        weights = {n: share / share.sum(dtype=np.float64) for n, share in inside.items()}
        engine = settings.engine
        found = {n: dose_adjoint(engine, patient, plan, grid, w) for n, w in weights.items()}
        for adjoint in found.values():
            adjoint.change(patient)  # what is kept from call to call
        return cls(weights, found)

    def compared(self, repeat: Patient, dose: np.ndarray) -> dict[str, dict]:
        """Per structure what is recomputed and predicted, and the seconds of predicting."""
        rows = {}
        for name, adjoint in self.adjoints.items():
            change, seconds = _timed(lambda adjoint=adjoint: adjoint.change(repeat))
            row = _compared(_mean(self.weights[name], dose), adjoint.value + change)
            rows[name] = row | {"change_s": seconds}
        return rows


def study(patient: Patient, plan_name: str, settings: Settings) -> tuple[dict, dict]:
    """One plan on all repeat CTs: what goes into its json, and its arrays."""
    with stage(f"{patient.name} {plan_name}: plan") as notes:
        plan = planned(patient, settings, plan_name == "robust")
        notes.append(f"{np.count_nonzero(plan.weights)} of {plan.n_spots} spots")
    grid = dose_grid(patient, settings.dose_grid_mm)
    with stage("  adjoint") as notes:
        functionals, adjoint_s = _timed(lambda: Functionals.of(patient, plan, grid, settings))
        notes.append(f"{len(functionals.adjoints)} of them")
    dose, dose_s = _dose("planning CT", patient, plan, grid, settings)
    images, doses = [], [dose]
    for kind, label, repeat in repeat_cts(patient, settings.n_strengths):
        dose, _ = _dose(label, repeat, plan, grid, settings)
        doses.append(dose)
        images.append({
            "kind": kind, "label": label, "structures": functionals.compared(repeat, dose),
            "target_off_body_percent": _off_body_percent(repeat),
        })  # fmt: skip
    target = patient.targets[0]
    record = {
        "patient": patient.name, "plan": plan_name, "settings": settings.record(),
        "n_spots": int(np.count_nonzero(plan.weights)), "dose_s": dose_s, "adjoint_s": adjoint_s,
        "target": target, "target_percent": _coverage(functionals.weights[target], doses[0]),
        "planned_gy": {n: a.value for n, a in functionals.adjoints.items()}, "images": images,
    }  # fmt: skip
    gradient = functionals.adjoints[target].hu_gradient().astype(np.float32)
    arrays = {"doses": np.stack(doses), "hu_gradient": gradient, "weights": plan.weights}
    return record, arrays


def _dose(label: str, patient: Patient, plan: Plan, grid: Grid, settings: Settings):
    """Gy of one fraction, and seconds."""
    with stage(f"  {label}"), dose_progress() as show:
        engine = replace(settings.engine, progress=show)
        return _timed(lambda: engine.dose(patient, plan, grid)["dose"])


def _off_body_percent(repeat: Patient) -> float:
    """Of the target's volume, what no longer lies in the body."""
    mask = repeat.mask(repeat.targets[0])
    return 100.0 * float(np.mean(~repeat.external.mask[mask]))


def _coverage(weights: np.ndarray, dose: np.ndarray) -> dict[str, float]:
    """D95 and D5 in percent of the mean."""
    order = np.argsort(dose, axis=None)
    volume = np.cumsum(weights.ravel()[order])
    at = {"D95": 0.05, "D5": 0.95}
    values = dose.ravel()[order]
    mean = _mean(weights, dose)
    return {n: 100.0 * float(np.interp(v, volume, values)) / mean for n, v in at.items()}


def _mean(weights: np.ndarray, dose: np.ndarray) -> float:
    return float(np.vdot(weights, dose.astype(np.float64)))


def _compared(recomputed_gy: float, predicted_gy: float) -> dict[str, float]:
    error = 100.0 * (predicted_gy / recomputed_gy - 1.0)
    return {"recomputed_gy": recomputed_gy, "predicted_gy": predicted_gy, "error_percent": error}


def _timed(work):
    began = perf_counter()
    found = work()
    return found, perf_counter() - began


# --- What is kept


def kept_study(patient: Patient, plan_name: str, settings: Settings, folder: Path):
    """The record and arrays in the folder, computed where they are missing.

    The arrays are written first and the json in one move, so that a json stands for a whole plan.
    """
    stem = f"{patient.name}_{plan_name.replace(' ', '_')}"
    path, beside = folder / f"{stem}.json", folder / f"{stem}.npz"
    if path.exists() and beside.exists():
        record = json.loads(path.read_text("utf-8"))
        if record["settings"] != settings.record():
            raise ValueError(
                f"{path} was made with {record['settings']}, not {settings.record()}; give another "
                "folder as --output, or remove it."
            )
        print(f"{stem} is there already", flush=True)
        with np.load(beside) as arrays:
            return record, dict(arrays)
    record, arrays = study(patient, plan_name, settings)
    with (folder / f"{stem}.npz.part").open("wb") as part:
        np.savez_compressed(part, **arrays)
    Path(part.name).replace(beside)
    _write(path, json.dumps(record, indent=1))
    return record, arrays


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", "utf-8")
    part.replace(path)


# --- Tables


def patient_table(record: Mapping, structure: str) -> str:
    """Changes of a mean dose in percent of the planned dose, errors of the recomputed one."""
    planned_gy = record["planned_gy"][structure]
    title = f"{record['patient']}, {record['plan']}, {record['n_spots']} spots, {structure}"
    lines = [f"{title}, planned {planned_gy:.4f} Gy a fraction"]
    lines.append(_row("repeat CT", "recomputed", "predicted", "error", "off body"))
    for image in record["images"]:
        row = image["structures"][structure]
        changes = (100.0 * (row[f"{n}_gy"] / planned_gy - 1.0) for n in ("recomputed", "predicted"))
        off = f"{image['target_off_body_percent']:.1f} %"
        errors = [f"{value:+.2f} %" for value in (*changes, row["error_percent"])]
        lines.append(_row(image["label"], *errors, off))
    return "\n".join(lines)


def largest_errors(records: Sequence[Mapping]) -> str:
    """By plan and kind, of the target's mean dose, over patients and strengths."""
    lines = [_row("largest error", *(KIND_NAMES[k].split()[-1] for k in REPEAT_CTS), "paper")]
    for name in PLANS:
        chosen = [r for r in records if r["plan"] == name]
        errors = {kind: [0.0] for kind in REPEAT_CTS}
        for record in chosen:
            for image in record["images"]:
                error = image["structures"][record["target"]]["error_percent"]
                errors[image["kind"]].append(abs(error))
        cells = (f"{max(errors[kind]):.2f} %" for kind in REPEAT_CTS)
        lines.append(_row(name, *cells, f"{PAPER_PERCENT[name]:g} %"))
    return "\n".join(lines)


def costs(record: Mapping) -> str:
    changes = [i["structures"][record["target"]]["change_s"] for i in record["images"]]
    n_adjoints, dose_s = len(record["planned_gy"]), record["dose_s"]
    of_target = ", ".join(f"{n} {v:.0f} %" for n, v in record["target_percent"].items())
    return (
        f"{record['patient']}, {record['plan']}: dose {dose_s:.1f} s, an adjoint "
        f"{record['adjoint_s'] / n_adjoints / dose_s:.1f} times that, one more CT "
        f"{100.0 * float(np.median(changes)) / dose_s:.2g} % of it; target {of_target} of its mean"
    )


def _row(*cells: str) -> str:
    return cells[0].ljust(WIDTHS[0]) + "".join(c.rjust(w) for c, w in zip(cells[1:], WIDTHS[1:]))


# --- Pictures


def slab_figure(sweep: Mapping):
    """As figure 7: mean dose by CT number, and the relative error."""
    from matplotlib.figure import Figure

    figure = Figure((10.5, 4.2), dpi=130, layout="constrained")
    doses, errors = figure.subplots(1, 2)
    hu = [r["hu"] for r in sweep["rows"]]
    for name, style in MARKS.items():
        mgy = [1e3 * r[f"{name}_gy"] for r in sweep["rows"]]
        doses.plot(hu, mgy, lw=1.3, ms=5, label=name, **style)
    errors.plot(hu, [r["error_percent"] for r in sweep["rows"]], "o-", ms=4, lw=1.3, color=INK)
    doses.legend(frameon=False, fontsize=9)
    _tidy(doses, "CT number of the slab in HU", "mGy from 10⁹ protons", "Mean dose beyond 60 mm")
    _tidy(errors, "CT number of the slab in HU", "%", "Predicted less recomputed over recomputed")
    return figure


def images_figure(patient: Patient, record: Mapping, doses: np.ndarray):
    """As figures 8 and 9: doses on images, target dose and relative error per image."""
    from matplotlib.figure import Figure

    figure = Figure((14.0, 8.2), dpi=120, layout="constrained")
    washes, curves = figure.subfigures(2, 1, height_ratios=(1.15, 1.0))
    shown = [(0, "image 0, planning CT", patient)]
    for number, (_, label, repeat) in enumerate(_strongest(patient, record), start=1):
        index = number * record["settings"]["n_strengths"]
        shown.append((index, f"image {index}, {label}", repeat))
    grid = dose_grid(patient, record["settings"]["dose_grid_mm"])
    washed = None
    for axes, (index, title, of) in zip(washes.subplots(1, len(shown)), shown):
        washed = _wash(axes, of, grid, doses[index], record["planned_gy"][record["target"]])
        axes.set_title(title, size=9, color=INK)
    bar = washes.colorbar(washed, ax=washes.axes, fraction=0.015, pad=0.01)
    bar.set_label("% of the planned mean dose of the target", size=8)
    target, error = curves.subplots(1, 2)
    _draw_doses(target, record)
    _draw_errors(error, record)
    figure.suptitle(
        f"{record['patient']}, {record['plan']} plan, {record['n_spots']} spots", size=11, color=INK
    )
    return figure


def _strongest(patient: Patient, record: Mapping) -> Iterator[tuple[str, str, Patient]]:
    n = record["settings"]["n_strengths"]
    for number, found in enumerate(repeat_cts(patient, n), start=1):
        if number % n == 0:
            yield found


def _wash(axes, patient: Patient, grid: Grid, dose: np.ndarray, full_gy: float):
    """The sagittal cut through the middle of the target, which sees sinuses, neck and skin."""
    middle = patient.grid.points_mm(np.flatnonzero(patient.mask(patient.targets[0]))).mean(axis=0)
    at, at_dose = (int(np.rint(g.index_of(middle)[2])) for g in (patient.grid, grid))
    percent = 100.0 * dose[:, :, at_dose] / full_gy
    axes.imshow(
        patient.hu[:, :, at], cmap="gray", vmin=-500, vmax=500, origin="lower",
        extent=_extent(patient.grid),
    )  # fmt: skip
    washed = axes.imshow(
        np.ma.masked_less(percent, 10.0), cmap="turbo", vmin=0, vmax=120, alpha=0.5,
        origin="lower", extent=_extent(grid), interpolation="bilinear",
    )  # fmt: skip
    _contour(axes, patient, at)
    return washed


def _extent(grid: Grid) -> tuple[float, float, float, float]:
    """Of a sagittal cut: posterior to the right, superior up."""
    (z0, y0, _), (z1, y1, _) = grid.lower_mm[::-1], grid.upper_mm[::-1]
    return y0, y1, z0, z1


def _contour(axes, patient: Patient, at: int) -> None:
    z, y, _ = patient.grid.axes_mm()
    box, _ = patient.grid.cropped(patient.external.mask, margin_mm=8.0)
    for mask, color in ((patient.mask(patient.targets[0]), "#ff3b30"),
                        (patient.external.mask, "#cccccc")):  # fmt: skip
        if mask[:, :, at].any():
            axes.contour(y, z, mask[:, :, at], [0.5], colors=color, linewidths=1.0)
    low, high = _extent(box)[::2], _extent(box)[1::2]
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal")


def _draw_doses(axes, record: Mapping) -> None:
    planned_gy = record["planned_gy"][record["target"]]
    rows = [image["structures"][record["target"]] for image in record["images"]]
    number = np.arange(len(rows) + 1)
    for name, style in MARKS.items():
        gy = [planned_gy, *(row[f"{name}_gy"] for row in rows)]
        axes.plot(number, gy, ms=6, label=name, **style | {"ls": ""})
    _mark_kinds(axes, record)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    _tidy(axes, "image", "Gy a fraction", f"Mean dose of {record['target']}")


def _draw_errors(axes, record: Mapping) -> None:
    for number, image in enumerate(record["images"], start=1):
        error = image["structures"][record["target"]]["error_percent"]
        axes.bar(number, error, color=KIND_COLORS[image["kind"]], width=0.7)
    paper = PAPER_PERCENT[record["plan"]]
    for value in (-paper, paper):
        axes.axhline(value, color=INK, lw=0.8, ls=":")
    axes.axhline(0.0, color=INK, lw=0.8)
    _mark_kinds(axes, record)
    title = f"Predicted less recomputed over recomputed; dots: ± {paper:g} %, the paper's largest"
    _tidy(axes, "image", "%", title)


def _mark_kinds(axes, record: Mapping) -> None:
    n = record["settings"]["n_strengths"]
    for number, kind in enumerate(REPEAT_CTS):
        first, last = number * n + 0.5, (number + 1) * n + 0.5
        axes.axvspan(first, last, color=KIND_COLORS[kind], alpha=0.08, lw=0)
        axes.text(
            0.5 * (first + last), 0.99, f"{KIND_NAMES[kind]} →", ha="center", va="top", size=8,
            color=KIND_COLORS[kind], transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.set_xlim(-0.5, len(REPEAT_CTS) * n + 0.5)
    axes.set_xticks(np.arange(len(REPEAT_CTS) * n + 1))
    axes.margins(y=0.12)


def gradient_figure(patient: Patient, record: Mapping, hu_gradient: np.ndarray):
    """Where HU matter to the target's mean dose: three cuts, signed, over the CT."""
    from matplotlib.figure import Figure

    figure = Figure((13.0, 5.0), dpi=120, layout="constrained")
    per_cm3 = 1e3 * hu_gradient / patient.grid.voxel_volume_cm3
    per_cm3 *= 100.0 / record["planned_gy"][record["target"]]
    span = float(np.quantile(np.abs(per_cm3[per_cm3 != 0.0]), 0.995))
    target = patient.mask(patient.targets[0])
    inside = np.argwhere(target).mean(axis=0).round().astype(int)
    box, part = patient.grid.cropped((hu_gradient != 0.0) | target, margin_mm=8.0)
    low, high = box.lower_mm, box.upper_mm
    views = {"axial": (0, 2, 1), "coronal": (1, 2, 0), "sagittal": (2, 1, 0)}
    size_mm = (high - low)[::-1]
    ratios = [size_mm[right] / size_mm[up] for _, right, up in views.values()]
    drawn, panels = None, figure.subplots(1, 3, width_ratios=ratios)
    for axes, (view, (cut, right, up)) in zip(panels, views.items()):
        index = inside[cut] - part[cut].start
        place = dict(extent=(*(e[::-1][right] for e in (low, high)),
                             *(e[::-1][up] for e in (low, high))), origin="lower")  # fmt: skip
        axes.imshow(np.take(patient.hu[part], index, cut), cmap="gray", vmin=-1000, vmax=800,
                    **place)  # fmt: skip
        values = np.take(per_cm3[part], index, cut)
        drawn = axes.imshow(
            values, cmap="RdBu_r", vmin=-span, vmax=span,
            alpha=np.clip(3.0 * np.abs(values) / span, 0.0, 0.85), **place,
        )  # fmt: skip
        mask = np.take(target[part], index, cut)
        x, y = (box.axes_mm()[axis] for axis in (right, up))
        axes.contour(x, y, mask, [0.5], colors="#ffcc00", linewidths=1.2)
        if up == 1:
            axes.invert_yaxis()
        axes.set(xticks=[], yticks=[])
        axes.set_title(view, size=9, color=INK)
    bar = figure.colorbar(drawn, ax=figure.axes, fraction=0.02, pad=0.01)
    bar.set_label("% of the target's mean dose per 1000 HU in 1 cm³", size=8)
    title = f"{record['patient']}, {record['plan']}: where more HU raise (red) or lower (blue) it"
    figure.suptitle(title, size=11, color=INK)
    return figure


def draw(patient: Patient, record: Mapping, arrays: Mapping, folder: Path) -> None:
    """All pictures of one plan."""
    from ptenv.rendering import dose_wash, save

    stem = f"{record['patient']}_{record['plan'].replace(' ', '_')}"
    save(images_figure(patient, record, arrays["doses"]), folder / f"{stem}_images.png")
    save(gradient_figure(patient, record, arrays["hu_gradient"]), folder / f"{stem}_gradient.png")
    grid = dose_grid(patient, record["settings"]["dose_grid_mm"])
    errors = [abs(i["structures"][record["target"]]["error_percent"]) for i in record["images"]]
    worst = int(np.argmax(errors))
    repeats = list(repeat_cts(patient, record["settings"]["n_strengths"]))
    for name, index, of, label in (
        ("planning", 0, patient, "planning CT"),
        ("worst", worst + 1, repeats[worst][2], record["images"][worst]["label"]),
    ):
        gy = RBE * patient.n_fractions * arrays["doses"][index]
        one = single_target(of)
        names = [*one.targets, *one.organs]
        title = f"{record['patient']}, {record['plan']}, {label}"
        save(dose_wash(one, gy, grid, structures=names, title=title),
             folder / f"{stem}_{name}.png")  # fmt: skip


def _tidy(axes, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label, size=9, color=INK)
    axes.set_ylabel(y_label, size=9, color=INK)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, size=10, color=INK, loc="left")


# --- The command


def run_slab(arguments: argparse.Namespace) -> None:
    from ptenv.rendering import save

    if not 10.0 <= arguments.step_hu <= SLAB_HU:
        raise ValueError(f"step_hu={arguments.step_hu:g} must lie in 10 … {SLAB_HU:g} HU.")
    n = int(SLAB_HU // arguments.step_hu)
    with stage("Half slab"):
        sweep = slab_sweep(arguments.step_hu * np.arange(-n, n + 1), scheme=arguments.scheme)
    text, folder = slab_table(sweep), _folder(arguments.output)
    print(text)
    _write(folder / "slab.json", json.dumps(sweep, indent=1))
    _write(folder / "slab.txt", text)
    save(slab_figure(sweep), folder / "slab.png")


def run_patients(arguments: argparse.Namespace) -> None:
    settings = Settings(
        tuple(arguments.gantry), arguments.spots, arguments.dose_grid_mm, arguments.scheme,
        arguments.strengths, arguments.organ,
    )  # fmt: skip
    patients = [read_patient(path) for path in arguments.path]
    for patient in patients:
        if settings.organ is not None and settings.organ not in patient.organs:
            raise ValueError(
                f"organ={settings.organ!r} is none of {patient.name}; it has {patient.organs}."
            )
    folder, records, tables = _folder(arguments.output), [], []
    for patient in patients:
        for plan_name in PLANS:
            record, arrays = kept_study(patient, plan_name, settings, folder)
            draw(patient, record, arrays, folder)
            records.append(record)
            tables += [patient_table(record, structure) for structure in record["planned_gy"]]
    tables += [largest_errors(records), "\n".join(map(costs, records))]
    text = "\n\n".join(tables)
    _write(folder / "tables.txt", text)
    print(f"\n{text}\n\nWritten to {folder}/")


def _folder(path: str) -> Path:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.predict_repeat_cts", description=__doc__.partition("\n")[0]
    )
    parts = parser.add_subparsers(required=True, metavar="slab | patients")
    slab = parts.add_parser("slab", help="a tank's half slab of −1000 … 1000 HU, in a minute")
    slab.add_argument("--step-hu", type=float, default=100.0)
    slab.set_defaults(run=run_slab)
    of = parts.add_parser("patients", help="plans of OpenKBP patients on simulated repeat CTs")
    of.add_argument("path", nargs="+", help="folder or zip of a patient")
    default = Settings()
    of.add_argument("--gantry", nargs="+", type=float, default=default.gantry_deg, metavar="DEG")
    of.add_argument("--spots", type=int, default=default.n_spots)
    of.add_argument("--dose-grid-mm", type=float, default=default.dose_grid_mm)
    of.add_argument("--strengths", type=int, default=default.n_strengths, help="of each kind")
    of.add_argument("--organ", help="whose mean dose is predicted, too")
    of.set_defaults(run=run_patients)
    for part in (slab, of):
        part.add_argument("--scheme", default=default.scheme, help="of splitting")
        part.add_argument("--output", default="outputs/repeat_cts", help="folder of the results")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except A_PERSON_CAN_MEND as error:
        print(f"{error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
