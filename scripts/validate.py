"""Check the physics against tables and Monte Carlo, or a dose engine against a dose from elsewhere.

Without one every engine of ``conf/dose`` is checked, or the one that was named. Writes into
the folder ``output`` targets.csv and .json, depth_dose.png, carbon.png; with a reference
comparison.csv and .json, numbers.json, dose.npz, along.png, across.png, dose_wash.png; with a plan,
a folder of DICOM files, the same but along.png and across.png, and dvh.png. All: config.yaml,
record.json.
``output=FILE.json`` is a file for the numbers alone, and the folder is FILE beside it. The exit
code is 1 where a target or the gamma criterion is missed.
"""

import csv
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from engine.dose.engine import DoseEngine
from engine.dose.quantities import Quantity
from engine.errors import PhysicsWarning
from engine.io.reference_dose import read_reference_dose
from engine.parallel import set_threads
from engine.patient.ct import Calibration
from ptenv.rendering import dvh_figure, save
from scripts import final_dose, validate_plan
from scripts import validate_pictures as pictures
from scripts.configuration import choices
from scripts.patient_keys import spoken_as_keys_of
from scripts.record import dose_progress, output_folder, save_record, stage
from scripts.validate_axes import Row
from scripts.validate_check import Check
from scripts.validate_engines import engine_targets, for_checks, grouped
from scripts.validate_plan import Given, Recomputed
from scripts.validate_reference import Compared, compare, compute, doubts
from scripts.validate_targets import physics_targets

EXIT_MISSED = 1
ENGINE = "dose@engine"  # as Hydra names the choice


def run(cfg: DictConfig) -> float:
    """Share of the targets that pass, or the gamma pass rate in percent."""
    folder = output_folder()
    save_record(cfg, folder)
    if cfg.threads is not None:
        set_threads(cfg.threads)
    wanted = _checked_percent(cfg.pass_rate_percent)
    numbers = _numbers_file(cfg, folder)
    if cfg.reference is not None and cfg.plan is not None:
        raise ValueError("reference=… and plan=… are two comparisons; give one of them.")
    if cfg.reference is None and cfg.plan is None:
        checks = _physics(cfg, folder, numbers)
        value, passed = float(np.mean([c.passed for c in checks])), all(c.passed for c in checks)
        print(f"{sum(c.passed for c in checks)} of {len(checks)} targets passed.")
    else:
        value = (_against if cfg.plan is None else _of_plan)(cfg, folder, numbers)
        passed = value >= wanted
        verdict = "passed" if passed else "MISSED"
        print(f"Gamma pass rate {value:.2f} %, wanted {wanted:g} %: {verdict}.")
    print(f"\nWritten to {folder}/" + (f" and {cfg.output}" if _is_json(cfg.output) else ""))
    if not passed and HydraConfig.get().mode is not RunMode.MULTIRUN:  # a sweep goes on
        raise SystemExit(EXIT_MISSED)
    return value


def _numbers_file(cfg: DictConfig, folder: Path) -> Path:
    return Path(cfg.output) if _is_json(cfg.output) else folder / "numbers.json"


def _is_json(output: str) -> bool:
    return Path(output).suffix == ".json"


def _physics(cfg: DictConfig, folder: Path, numbers: Path) -> list[Check]:
    checks: list[Check] = []
    groups = {name: group() for name, group in physics_targets().items()}
    for engine_name, engine in _engines(cfg).items():
        engine = for_checks(engine_name, engine)
        groups |= {n: group(engine) for n, group in engine_targets(engine_name).items()}
    for name, group in groups.items():
        with stage(name) as notes:
            found = grouped(name, group)
            n_failed = sum(not c.passed for c in found)
            notes.append(f"{len(found)} targets" + (f", {n_failed} FAILED" if n_failed else ""))
        checks += found
    records = _write_checks(checks, folder)
    n_passed = sum(c.passed for c in checks)
    _write_json({"n_targets": len(checks), "n_passed": n_passed, "targets": records}, numbers)
    save(pictures.depth_doses(), folder / "depth_dose.png")
    save(pictures.carbon(), folder / "carbon.png")
    print(f"\n{checks_table(checks)}")
    return checks


def _engines(cfg: DictConfig) -> dict[str, DoseEngine]:
    """The engine that the command line names or changes, or all of them, by name."""
    overrides = list(HydraConfig.get().overrides.task)
    keys = [o.split("=")[0].lstrip("+~") for o in overrides]
    if any(key == ENGINE or key.startswith("engine.") for key in keys):
        return {_engine_name(): instantiate(cfg.engine, _convert_="all")}
    found = {}
    for name in choices("dose"):
        of_this = compose("validate", [*overrides, f"{ENGINE}={name}"])
        found[name] = instantiate(of_this.engine, _convert_="all")
    return found


def _engine_name() -> str:
    return str(HydraConfig.get().runtime.choices[ENGINE])


def _against(cfg: DictConfig, folder: Path, numbers: Path) -> float:
    engine = instantiate(cfg.engine, _convert_="all")
    criterion = OmegaConf.to_container(cfg.gamma, resolve=True)
    with stage("Reference") as notes:
        reference = read_reference_dose(str(cfg.reference))
        voxels = " × ".join(map(str, reference.grid.shape))
        spacing = " × ".join(f"{s:g}" for s in reference.grid.spacing_mm)
        notes += [
            f"{reference.name}, {reference.source}",
            f"{len(reference.spots)} spot" + "s" * (len(reference.spots) > 1),
            f"{voxels} voxels of {spacing} mm",
            f"{reference.scored}, I(water) = {reference.i_water_ev:g} eV, "
            f"nuclear interactions {'on' if reference.nuclear_interactions else 'off'}",
        ]
    began = time.perf_counter()
    with stage("Our dose") as notes:
        ours_gy, medium = compute(reference, engine, instantiate(cfg.calibration, _convert_="all"))
        notes.append(_engine_name())
    runtime_s = time.perf_counter() - began
    for doubt in doubts(reference, medium):
        warnings.warn(f"{reference.name}: {doubt}", PhysicsWarning, stacklevel=1)
    with stage("Comparison") as notes:
        compared = compare(reference, ours_gy, criterion)
        notes.append(f"{compared.gamma.n_evaluated} voxels above {criterion['cutoff_percent']:g} %")
    _write_json(_numbers(compared, runtime_s), numbers)  # first: drawing must not cost it
    with stage("Files and pictures"):
        _write_comparison(compared, ours_gy, folder)
    print(f"\n{comparison_table(compared.rows)}\n")
    return compared.gamma.pass_rate_percent


def _of_plan(cfg: DictConfig, folder: Path, numbers: Path) -> float:
    """A plan from DICOM, computed anew and compared with the dose beside it."""
    engine = instantiate(cfg.engine, _convert_="all")
    biology, wished = instantiate(cfg.biology), instantiate(cfg.quantity)
    criterion = OmegaConf.to_container(cfg.gamma, resolve=True)
    with stage("DICOM") as notes, spoken_as_keys_of("dicom", *validate_plan.READERS, path="plan"):
        given = validate_plan.read(str(cfg.plan), **OmegaConf.to_container(cfg.dicom, resolve=True))
        quantity, doubts_ = validate_plan.quantity_for(given, wished, biology)
        notes += _about_plan(given, quantity.rbe)
    for doubt in (*given.notes, *doubts_):
        warnings.warn(f"{given.patient.name}: {doubt}.", PhysicsWarning, stacklevel=1)
    began = time.perf_counter()
    with stage("Our dose") as notes, dose_progress() as show:
        ours = validate_plan.compute(given, final_dose.watched(engine, show), quantity)
        notes.append(_engine_name())
    runtime_s = time.perf_counter() - began
    with stage("Comparison") as notes:
        found = validate_plan.compare(given, *ours, criterion)
        notes.append(f"{found.gamma.n_evaluated} voxels above {criterion['cutoff_percent']:g} %")
    about = {"engine": _engine_name(), "patient": given.patient.source, "rbe": quantity.rbe}
    about |= {"gamma_n_voxels": found.gamma.n_evaluated, "runtime_s": round(runtime_s, 3)}
    _write_json(_known(found.numbers) | about, numbers)
    with stage("Files and pictures"):
        _write_recomputed(found, instantiate(cfg.calibration, _convert_="all"), quantity, folder)
    print(f"\n{comparison_table(found.rows)}\n")
    return found.gamma.pass_rate_percent


def _about_plan(given: Given, rbe: float | None) -> list[str]:
    plan, grid = given.plan.plan, given.dose.grid
    spacing = " × ".join(f"{s:g}" for s in grid.spacing_mm)
    weighting = "a varying RBE" if rbe is None else f"RBE {rbe:g}"
    return [
        given.patient.name,
        f"{plan.n_spots} spots in {len(plan.beams)} beams for {plan.machine.name}",
        f"{given.patient.n_fractions} fractions",
        f"dose on {' × '.join(map(str, grid.shape))} voxels of {spacing} mm, {weighting}",
        f"doses of {len(given.beams_gy)} beams",
    ]


def _write_recomputed(
    found: Recomputed, calibration: Calibration, quantity: Quantity, folder: Path
) -> None:
    _write([{**asdict(r), "difference": r.difference} for r in found.rows], folder / "comparison")
    given, grid = found.given, found.given.dose.grid
    np.savez_compressed(
        folder / "dose.npz", dose=found.ours_gy, reference=found.theirs_gy, gamma=found.gamma.map,
        spacing_mm=grid.spacing_mm, origin_mm=grid.origin_mm,
    )  # fmt: skip
    density = validate_plan.density_on(given.patient, grid, calibration)
    percent = 100.0 / float(found.theirs_gy.max())
    drawn = pictures.wash(
        found.theirs_gy * percent, found.ours_gy * percent, found.gamma.map, grid, density
    )
    save(drawn, folder / "dose_wash.png")
    ours, theirs = (found.evaluation.dvh(gy.ravel()) for gy in (found.ours_gy, found.theirs_gy))
    for histograms in (ours, theirs):
        histograms.pop(given.patient.external.name)  # which would only press the others together
    title = f"{given.patient.name}: ours, and dashed the file's"
    wishes = found.evaluation.prescription_gy
    save(dvh_figure(ours, wishes, theirs, title=title, rbe=quantity.rbe), folder / "dvh.png")


def _numbers(compared: Compared, runtime_s: float) -> dict:
    """The comparison as one object, with what it was a comparison of."""
    reference = compared.reference
    return _known(compared.numbers) | {
        "engine": _engine_name(),
        "reference": reference.name,
        "source": reference.source,
        "scored": reference.scored,
        "i_water_ev": reference.i_water_ev,
        "nuclear_interactions": reference.nuclear_interactions,
        "gamma_n_voxels": compared.gamma.n_evaluated,
        "runtime_s": round(runtime_s, 3),
    }


def checks_table(checks: Sequence[Check]) -> str:
    """Failures first, then every group; aligned text."""
    failed = [c for c in checks if not c.passed]
    lines = [f"{len(checks) - len(failed)} of {len(checks)} targets pass."]
    columns = ("quantity", "value", "reference", "deviation", "tolerance", "", "source")
    cells = [_check_cells(c) for c in checks]
    width = [max(map(len, column)) for column in zip(columns, *cells)]

    def line(texts: Sequence[str]) -> str:
        aligned = (t.ljust(w) if i in (0, 5, 6) else t.rjust(w)
                   for i, (t, w) in enumerate(zip(texts, width)))  # fmt: skip
        return "  ".join(aligned).rstrip()

    lines += ["", line(columns)]
    if failed:
        lines += ["", "FAILED", *(line(_check_cells(c)) for c in failed)]
    for group in dict.fromkeys(c.group for c in checks):
        lines += ["", group]
        lines += [line(_check_cells(c)) for c in checks if c.group == group]
    return "\n".join(lines)


def _check_cells(check: Check) -> tuple[str, ...]:
    unit = f" {check.unit}" if check.unit else ""
    if check.relative:
        apart, tolerance = f"{100 * check.deviation:+.2f} %", f"± {100 * check.tolerance:g} %"
    else:
        apart, tolerance = f"{check.deviation:+.4f}{unit}", f"± {check.tolerance:g}{unit}"
    verdict = "pass" if check.passed else "FAIL"
    known, ours = f"{check.reference:.5g}{unit}", f"{check.ours:.5g}{unit}"
    return check.quantity, ours, known, apart, tolerance, verdict, check.source


def comparison_table(rows: Sequence[Row]) -> str:
    """Aligned text, group by group."""
    columns = ("quantity", "reference", "ours", "difference", "")
    cells = [_row_cells(r) for r in rows]
    width = [max(map(len, column)) for column in zip(columns, *cells)]

    def line(texts: Sequence[str]) -> str:
        aligned = (t.ljust(w) if i in (0, 4) else t.rjust(w)
                   for i, (t, w) in enumerate(zip(texts, width)))  # fmt: skip
        return "  ".join(aligned).rstrip()

    lines = [line(columns)]
    for group in dict.fromkeys(r.group for r in rows):
        lines += ["", group, *(line(_row_cells(r)) for r in rows if r.group == group)]
    return "\n".join(lines)


def _row_cells(row: Row) -> tuple[str, ...]:
    def cell(value: float, sign: str = "") -> str:
        return f"{value:{sign}.3f}" if np.isfinite(value) else "–"

    return row.quantity, cell(row.reference), cell(row.ours), cell(row.difference, "+"), row.unit


def _write_checks(checks: Sequence[Check], folder: Path) -> list[dict]:
    records = [{**asdict(c), "deviation": c.deviation, "passed": c.passed} for c in checks]
    return _write(records, folder / "targets")


def _write_comparison(compared: Compared, ours_gy: np.ndarray, folder: Path) -> None:
    records = [{**asdict(r), "difference": r.difference} for r in compared.rows]
    _write(records, folder / "comparison")
    grid = compared.reference.grid
    np.savez_compressed(
        folder / "dose.npz", dose=ours_gy.astype(np.float32), gamma=compared.gamma.map,
        spacing_mm=grid.spacing_mm, origin_mm=grid.origin_mm,
    )  # fmt: skip
    save(pictures.along(compared), folder / "along.png")
    save(pictures.across(compared), folder / "across.png")
    washed = pictures.wash(
        compared.reference_percent, compared.ours_percent, compared.gamma.map, grid,
        compared.reference.density_g_cm3,
    )  # fmt: skip
    save(washed, folder / "dose_wash.png")


def _write(records: list[dict], path: Path) -> list[dict]:
    """The same records as csv and as json, where NaN is null; returns the latter."""
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    known = [_known(record) for record in records]
    _write_json(known, path.with_suffix(".json"))
    return known


def _known(record: dict) -> dict:
    """The record with None where a number does not exist."""
    return {
        k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in record.items()
    }


def _write_json(content, path: Path) -> None:
    """Whole or not at all: under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _checked_percent(value: float) -> float:
    if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0.0 <= value <= 100.0):
        raise ValueError(f"pass_rate_percent={value} must lie in 0 … 100.")
    return float(value)


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["validate", *sys.argv[1:]]))
