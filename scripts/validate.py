"""Check the physics against tables and Monte Carlo, or a dose engine against a reference dose.

Writes into the folder ``output``, without a reference: targets.csv and .json, depth_dose.png; with
one: comparison.csv and .json, dose.npz, along.png, across.png, dose_wash.png. Both: config.yaml,
record.json. The exit code is 1 where a target or the gamma criterion is missed.
"""

import csv
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from engine.dose.engine import DoseEngine
from engine.errors import PhysicsWarning
from engine.io.reference_dose import read_reference_dose
from engine.parallel import set_threads
from ptenv.rendering import save
from scripts import validate_pictures as pictures
from scripts.record import output_folder, save_record, stage
from scripts.validate_reference import Compared, Row, compare, compute, doubts
from scripts.validate_targets import Check, targets

EXIT_MISSED = 1


def run(cfg: DictConfig) -> float:
    """Share of the targets that pass, or the gamma pass rate in percent."""
    folder = output_folder()
    save_record(cfg, folder)
    if cfg.threads is not None:
        set_threads(cfg.threads)
    wanted = _checked_percent(cfg.pass_rate_percent)
    engine = instantiate(cfg.dose, _convert_="all")
    if cfg.reference is None:
        checks = _physics(engine, folder)
        value, passed = float(np.mean([c.passed for c in checks])), all(c.passed for c in checks)
        print(f"{sum(c.passed for c in checks)} of {len(checks)} targets passed.")
    else:
        value = _against(cfg, engine, folder)
        passed = value >= wanted
        verdict = "passed" if passed else "MISSED"
        print(f"Gamma pass rate {value:.2f} %, wanted {wanted:g} %: {verdict}.")
    print(f"\nWritten to {folder}/")
    if not passed and HydraConfig.get().mode is not RunMode.MULTIRUN:  # a sweep goes on
        raise SystemExit(EXIT_MISSED)
    return value


def _physics(engine: DoseEngine, folder: Path) -> list[Check]:
    checks: list[Check] = []
    for name, group in targets().items():
        with stage(name) as notes:
            found = list(group(engine))
            n_failed = sum(not c.passed for c in found)
            notes.append(f"{len(found)} targets" + (f", {n_failed} FAILED" if n_failed else ""))
        checks += found
    _write_checks(checks, folder)
    save(pictures.depth_doses(), folder / "depth_dose.png")
    print(f"\n{checks_table(checks)}")
    return checks


def _against(cfg: DictConfig, engine: DoseEngine, folder: Path) -> float:
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
    with stage("Our dose") as notes:
        ours_gy, medium = compute(reference, engine, instantiate(cfg.calibration, _convert_="all"))
        notes.append(type(engine).__name__)
    for doubt in doubts(reference, medium):
        warnings.warn(f"{reference.name}: {doubt}", PhysicsWarning, stacklevel=1)
    with stage("Comparison") as notes:
        compared = compare(reference, ours_gy, criterion)
        notes.append(f"{compared.gamma.n_evaluated} voxels above {criterion['cutoff_percent']:g} %")
    with stage("Files and pictures"):
        _write_comparison(compared, ours_gy, folder)
    print(f"\n{comparison_table(compared.rows)}\n")
    return compared.gamma.pass_rate_percent


def checks_table(checks: Sequence[Check]) -> str:
    """Failures first, then every group; aligned text."""
    failed = [c for c in checks if not c.passed]
    lines = [f"{len(checks) - len(failed)} of {len(checks)} targets pass."]
    columns = ("quantity", "reference", "ours", "deviation", "tolerance", "", "source")
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
    return check.quantity, known, ours, apart, tolerance, verdict, check.source


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


def _write_checks(checks: Sequence[Check], folder: Path) -> None:
    records = [{**asdict(c), "deviation": c.deviation, "passed": c.passed} for c in checks]
    _write(records, folder / "targets")


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
    save(pictures.wash(compared), folder / "dose_wash.png")


def _write(records: list[dict], path: Path) -> None:
    """The same records as csv and as json, where NaN is null."""
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    known = [
        {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in r.items()}
        for r in records
    ]
    path.with_suffix(".json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _checked_percent(value: float) -> float:
    if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0.0 <= value <= 100.0):
        raise ValueError(f"pass_rate_percent={value} must lie in 0 … 100.")
    return float(value)


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["validate", *sys.argv[1:]]))
