"""The deterministic proton engine against our own Monte Carlo: tanks, heads, spread-out fields.

``python -m scripts.compare_yoda FOLDER`` compares the tanks of Burlacu et al. 2024 and a cube in
water; ``--heads pt_1.zip …`` adds single spots through heads of OpenKBP, and ``--field pt_1.zip`` a
field on a head's targets. All with and without nuclear interactions, with every scheme. Doses of
Monte Carlo stay in FOLDER as CASE_0.npz (without) and CASE_1.npz: remove them to make new ones.
Writes agreement.json, depth_dose.png and wash_CASE.png.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from engine.dose.pencil_beam.engine import PencilBeamEngine
from engine.dose.yoda.engine import YodaEngine
from engine.geometry.coordinates import beam_frame
from engine.geometry.plan import Beam, Plan
from engine.geometry.single_spots import SingleSpot, plan_of
from engine.geometry.spots import SpotSettings, place_spots
from engine.io.openkbp import read_patient
from engine.machine.library import load_machine
from engine.machine.single_spots import SpotKind
from engine.parallel import set_threads
from engine.patient.patient import Patient
from engine.patient.phantoms import water_tank
from scripts.validate_yoda import (
    ANTERIOR,
    Agreement,
    agreement,
    monte_carlo_like,
    planar_profile,
    slab_case,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TANKS_HU = {"water": None, "plus": 1000.0, "minus": -1000.0}
HEAD_MEV, HEAD_DIRECTIONS = (125.0, 160.0), {"ant": ANTERIOR, "lat": (-1.0, 0.0, 0.0)}
SCHEMES = ("1+6+6+12+12+24", "1+6+12+18+24+30+36", "1+6+6+12")
INSIDE_MM = 0.01  # a spot begins within the grid
CUBE_MM, CUBE_TANK_MM, CUBE_VOXEL_MM = 50.0, (120.0, 160.0, 120.0), 2.0
FIELD_SPACING_MM = 8.0
HEAD_GANTRY_DEG = 270.0
ROUNDS = 40  # of the weights' optimization: a field is flat within a few percent
FIELD_TARGET_GY = 2.0


@dataclass(frozen=True, eq=False)
class Case:
    """One plan on one patient; beams run along an axis of its grid."""

    name: str
    patient: Patient
    plan: Plan
    start_mm: tuple[float, float, float]
    direction: tuple[float, float, float]

    @property
    def is_spot(self) -> bool:
        return self.plan.n_spots == 1


@dataclass(frozen=True, eq=False)
class Row:
    """One case with one scheme against Monte Carlo."""

    case: str
    nuclear: bool
    scheme: str
    agreement: Agreement
    seconds: float
    n_spots: int
    n_solved: int
    n_reused: int

    @cached_property
    def record(self) -> dict:
        """Plain numbers, NaN as None."""
        found = {**asdict(self.agreement), **self.differences}
        own = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "agreement"}
        return {k: _known(v) for k, v in {**own, **found}.items()}

    @property
    def differences(self) -> dict[str, float]:
        """Of R80 in mm and of the core in percent."""
        (r80, our_r80), (core, our_core) = self.agreement.r80_mm, self.agreement.core_mm
        return {
            "r80_difference_mm": our_r80 - r80,
            "core_difference_percent": 100.0 * (our_core / core - 1.0),
        }


def _known(value):
    if isinstance(value, tuple):
        return [_known(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def tanks() -> Iterator[Case]:
    """10 × 10 × 10 cm³ in voxels of 1 mm, one spot of 100 MeV."""
    for name, hu in TANKS_HU.items():
        patient, plan = slab_case(hu, 1.0)
        start = (0.0, float(patient.grid.lower_mm[1]), 0.0)
        yield Case(name, patient, plan, start, ANTERIOR)


def heads(paths: Sequence[str]) -> Iterator[Case]:
    """Single spots through the middle of each CT, from the front and from the left."""
    for path in paths:
        patient = read_patient(path)
        for side, direction in HEAD_DIRECTIONS.items():
            start = entrance_mm(patient, direction, patient.grid.center_mm)
            for energy in HEAD_MEV:
                spot = SingleSpot(SpotKind(energy, 1.0, 3.0, 1e-8), start, direction, 1.0)
                name = f"{head_name(path)}_{side}_{energy:.0f}"
                yield Case(name, patient, plan_of([spot], nuclear=False), start, direction)


def head_name(path: str) -> str:
    """h25 of …/pt_25.zip."""
    return "h" + Path(path).stem.removeprefix("pt_")


def entrance_mm(patient: Patient, direction, through_mm) -> tuple[float, float, float]:
    """Where a line through a point, along one of the grid's axes, enters the grid."""
    grid, direction = patient.grid, np.asarray(direction)
    face = np.where(direction > 0.0, grid.lower_mm + INSIDE_MM, grid.upper_mm - INSIDE_MM)
    return tuple(float(v) for v in np.where(direction == 0.0, through_mm, face))


def fields(paths: Sequence[str]) -> Iterator[Case]:
    """A cube in water from the front, and the targets of heads from the right."""
    yield field_case("cube", water_tank(CUBE_TANK_MM, CUBE_VOXEL_MM, CUBE_MM), 0.0)
    for path in paths:
        yield field_case(f"{head_name(path)}_field", read_patient(path), HEAD_GANTRY_DEG)


def field_case(name: str, patient: Patient, gantry_deg: float) -> Case:
    """One field of generic_proton, flat in the target by the pencil beam."""
    settings = SpotSettings(spot_spacing_mm=FIELD_SPACING_MM, range_shifter=None)
    machine = load_machine("generic_proton")
    plan = place_spots(patient, machine, [Beam(gantry_deg)], settings)
    target = np.flatnonzero(patient.target_union()).astype(np.uint32)
    influence = PencilBeamEngine().influence(patient, plan, patient.grid, voxels=target)
    plan = replace(plan, weights=flat_weights(influence, FIELD_TARGET_GY))
    beam = plan.beams[0]
    direction = np.rint(beam_frame(beam, machine.virtual_source_mm).direction)
    start = entrance_mm(patient, direction, beam.isocenter_mm)
    return Case(name, patient, plan, start, tuple(direction.tolist()))


def flat_weights(influence, dose_gy: float) -> np.ndarray:
    """Least squares with weights of 0 or more, by the image space reconstruction algorithm."""
    wanted = np.full(influence.n_rows, dose_gy)
    pull, weights = influence.adjoint(wanted), np.ones(influence.n_spots)
    weights *= dose_gy / np.mean(influence @ weights)
    for _ in range(ROUNDS):
        weights = weights * pull / np.maximum(influence.adjoint(influence @ weights), 1e-300)
    return weights.astype(np.float64)


def reference(case: Case, engine: YodaEngine, n_histories: int, folder: Path) -> np.ndarray:
    """Monte Carlo's dose: the one in the folder, or a new one that is left there."""
    path = folder / f"{case.name}_{int(engine.nuclear)}.npz"
    if not path.exists():
        judge = monte_carlo_like(engine, engine.nuclear, n_histories)
        dose = judge.dose(case.patient, case.plan, case.patient.grid)["dose"]
        np.savez_compressed(path, dose=dose, n_histories=n_histories)
    dose = np.load(path)["dose"]
    if dose.shape != case.patient.grid.shape:
        raise ValueError(
            f"{path} has shape {dose.shape}, the case {case.patient.grid.shape}; remove the file."
        )
    return dose


def compared(case: Case, engine: YodaEngine, theirs: np.ndarray) -> tuple[Row, np.ndarray]:
    """One row, and our dose."""
    grid = case.patient.grid
    began = perf_counter()
    found, counts = engine.counted(case.patient, case.plan, grid)
    seconds = perf_counter() - began
    near = agreement(theirs, found["dose"], grid, case.start_mm, case.direction)
    if not case.is_spot:  # widths of many spots mix
        near = replace(near, core_mm=(float("nan"),) * 2)
    row = Row(
        case.name, engine.nuclear, str(engine.scheme), near, seconds, counts.n_spots,
        counts.n_solved, counts.n_reused,
    )  # fmt: skip
    return row, found["dose"]


COLUMNS = {
    "case": "case", "nuclear": "nuclear", "scheme": "scheme", "gamma_1_1_percent": "γ 1/1 %",
    "gamma_2_2_percent": "γ 2/2 %", "r80_difference_mm": "ΔR80 mm",
    "core_difference_percent": "Δσ %", "mean_difference_percent": "mean %",
    "sum_difference_percent": "sum %", "integral_difference_percent": "integral %",
    "seconds": "s", "n_solved": "solved", "n_reused": "reused",
}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Aligned text, one line per row."""
    cells = [list(COLUMNS.values())] + [[_cell(r.record[k]) for k in COLUMNS] for r in rows]
    width = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, width)) for line in cells)


def _cell(value) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def washes(case: Case, doses: dict[bool, tuple[np.ndarray, np.ndarray]]) -> "Figure":
    """Monte Carlo, ours and the difference in the axial plane of the beam, without and with."""
    grid, view = case.patient.grid, ("Monte Carlo", "ours", "ours less Monte Carlo")
    at = int(np.clip(round(float(grid.index_of(np.array(case.start_mm))[0])), 0, grid.shape[0] - 1))
    extent = (grid.lower_mm[0], grid.upper_mm[0], grid.upper_mm[1], grid.lower_mm[1])
    figure, panels = _figure(13.0, 4.2 * len(doses), len(doses), 3)
    for line, (nuclear, (theirs, ours)) in zip(panels, doses.items()):
        top = float(theirs.max())
        apart = ours - theirs
        span = max(100.0 * float(np.abs(apart).max()) / top, 1.0)
        limits = ("inferno", 0.0, 100.0), ("inferno", 0.0, 100.0), ("RdBu_r", -span, span)
        for axes, volume, title, (colors, low, high) in zip(
            line, (theirs, ours, apart), view, limits
        ):
            image = axes.imshow(
                100.0 * volume[at] / top, cmap=colors, vmin=low, vmax=high, extent=extent
            )
            axes.set_title(f"{title}, reactions {_cell(nuclear)}", size=9, loc="left")
            figure.colorbar(image, ax=axes, shrink=0.8, label="% of the maximum")
            axes.set_xlabel("x in mm")
            axes.set_ylabel("y in mm")
    figure.suptitle(case.name)
    return figure


def depth_doses(curves: dict[str, list[tuple]]) -> "Figure":
    """Integrals over planes: Monte Carlo black, ours blue, with reactions dashed."""
    n_columns = min(len(curves), 4)
    n_rows = -(-len(curves) // n_columns)
    figure, panels = _figure(4.0 * n_columns, 3.2 * n_rows, n_rows, n_columns)
    for axes in panels.ravel()[len(curves) :]:
        axes.set_axis_off()
    for axes, (name, lines) in zip(panels.ravel(), curves.items()):
        for nuclear, theirs, ours in lines:
            top, style = theirs.dose.max(), "--" if nuclear else "-"
            axes.plot(theirs.along_mm, theirs.dose / top, "k", ls=style, lw=1.4)
            axes.plot(ours.along_mm, ours.dose / top, color="#0a66c2", ls=style, lw=0.9)
        axes.set_title(name, size=9, loc="left")
        axes.set_xlabel("depth in mm", size=8)
    return figure


def _figure(width: float, height: float, n_rows: int, n_columns: int):
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=110, layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.compare_yoda", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads", nargs="*", default=[], help="patients of OpenKBP, pt_N.zip")
    parser.add_argument("--field", nargs="*", default=[], help="those that get a whole field")
    parser.add_argument("--only", nargs="*", help="names of cases to compare, or their beginnings")
    parser.add_argument("--histories", type=int, default=4_000_000, help="of a single spot")
    parser.add_argument("--field-histories", type=int, default=20_000_000)
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES))
    parser.add_argument("--threads", type=int)
    return parser.parse_args(words)


def cases(asked: argparse.Namespace) -> Iterator[Case]:
    """Tanks, heads, fields; of them those that are asked for."""
    for group in (tanks(), heads(asked.heads), fields(asked.field)):
        for case in group:
            if asked.only is None or case.name.startswith(tuple(asked.only)):
                yield case


def main(words: Sequence[str] | None = None) -> int:
    from ptenv.rendering import save

    asked = arguments(words)
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.threads is not None:
        set_threads(asked.threads)
    rows, curves = [], {}
    for case in cases(asked):
        drawn, curves[case.name] = {}, []
        for nuclear in (False, True):
            n_histories = asked.histories if case.is_spot else asked.field_histories
            engine = YodaEngine(nuclear=nuclear)
            theirs = reference(case, engine, n_histories, asked.folder)
            for name in asked.schemes:
                row, ours = compared(case, replace(engine, scheme=name), theirs)
                rows.append(row)
                print(table(rows[-1:]).splitlines()[-1], flush=True)
                if name == asked.schemes[0]:
                    drawn[nuclear] = theirs, ours
                    pair = (planar_profile(d, case.patient.grid, case.direction)
                            for d in (theirs, ours))  # fmt: skip
                    curves[case.name].append((nuclear, *pair))
        save(washes(case, drawn), asked.folder / f"wash_{case.name}.png")
        records = [row.record for row in rows]
        (asked.folder / "agreement.json").write_text(json.dumps(records, indent=1) + "\n")
    if not rows:
        print(f"no case is called {asked.only}; give other names to --only, or leave it out.")
        return 2
    save(depth_doses(curves), asked.folder / "depth_dose.png")
    print(f"\n{table(rows)}\n\nWritten to {asked.folder}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
