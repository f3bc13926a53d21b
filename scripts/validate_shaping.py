"""The phantom of Ziegenhein et al., Phys. Med. Biol. 61 (2016) 2427, and its figures 4 and 7.

Horseshoe target of 12 cm around a spherical organ, voxels of 1.952 × 1.952 × 2 mm³, nine equally
spaced coplanar photon fields of 1 mm amplitudes that fill the target; one voxel at the rim of the
organ shall get 55 % of the prescription. ``python -m scripts.validate_shaping`` draws the figure
and prints the times beside table 1 of the paper.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from engine.dose.photon_svd.engine import PhotonSvdEngine
from engine.dose.photon_svd.update import FluenceMaps
from engine.geometry.bixels import place_bixels
from engine.geometry.plan import Beam
from engine.machine.library import load_machine
from engine.optimization.fluence_shaping import FluenceDose
from engine.optimization.shaping import Outcome, Recovery, ShapedPlan, Shaper, Wish
from engine.patient.patient import Patient
from engine.patient.phantoms import horseshoe

PRESCRIPTION_GY = 2.0  # of one fraction
WANTED = 0.55  # of the prescription, at the rim
MARGIN_MM = 8.0  # of the fields around the target: the start then has no voxel below 95 %
FLOOR, CEILING = 0.97, 1.07  # of the prescription, that recovery keeps in the target
LEVELS = {0.55: "#1f77b4", 0.95: "#2ca02c", 1.07: "#d62728"}  # isodose lines of the paper's figures
PAPER_MS = {
    "select location": 40.0, "create patch": 1.0, "convolution and update of the dose": 70.0,
    "travelling path information": 45.0, "distance grid": 89.0, "request, 25 steps": 5000.0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Phantom:
    """The phantom with its maps, and the plan of open fields on targets and organ."""

    patient: Patient
    maps: FluenceMaps
    shaper: Shaper
    start: ShapedPlan
    voxels: np.ndarray
    is_target: np.ndarray


def paper_phantom() -> Phantom:
    """Horseshoe, nine fields, and open fluence scaled to the prescription in the target."""
    patient, machine = horseshoe(), load_machine("generic_photon")
    plan = place_bixels(patient, machine, [Beam(40.0 * k) for k in range(9)], 1.0, MARGIN_MM)
    target, organ = (patient.mask(n).ravel() for n in ("PTV", "Core"))
    voxels = np.flatnonzero(target | organ).astype(np.uint32)
    engine = PhotonSvdEngine(bixel_mm=1.0)
    maps = FluenceMaps.of(engine, patient, plan, patient.grid, voxels)
    is_target = target[voxels]
    model = FluenceDose(maps, is_target.astype(np.float32), organ[voxels].astype(np.float32))
    floor = np.where(is_target, FLOOR * PRESCRIPTION_GY, -np.inf).astype(np.float32)
    ceiling = np.where(is_target, CEILING * PRESCRIPTION_GY, 0.0).astype(np.float32)
    points = patient.grid.points_mm(voxels).astype(np.float32)
    shaper = Shaper(model, points, floor, ceiling, PRESCRIPTION_GY)
    weights = np.ones(plan.n_spots, np.float32)
    weights *= PRESCRIPTION_GY / maps.dose(weights)[is_target].mean()
    return Phantom(patient, maps, shaper, shaper.plan(weights), voxels, is_target)


def rim_rows(phantom: Phantom, angles_deg: Sequence[float]) -> list[int]:
    """Voxels of the organ nearest to its rim in the middle slice; 0° is posterior."""
    radius, found = 21.5, []
    for angle in np.radians(angles_deg):
        at = radius * np.array([np.sin(angle), np.cos(angle), 0.0])
        off = np.linalg.norm(phantom.shaper.points_mm - at, axis=1)
        found.append(int(np.argmin(np.where(phantom.is_target, np.inf, off))))
    return found


def shaped(phantom: Phantom, row: int, n_steps: int = 25) -> Outcome:
    """The request on one voxel, after some recovery steps."""
    shaper = replace(phantom.shaper, recovery=Recovery(n_steps=n_steps))
    return shaper.apply(phantom.start, Wish([row], [WANTED * PRESCRIPTION_GY], True))


def times_ms(phantom: Phantom, row: int) -> dict[str, float]:
    """What the paper's table 1 lists, in milliseconds, each the fastest of five."""
    model, maps = phantom.shaper.model, phantom.maps
    seen = model.projection(row)
    order = np.argsort(seen.amplitudes)
    amplitudes, change = seen.amplitudes[order], (0.01 * seen.lateral[order]).astype(np.float32)
    dose = phantom.start.dose.copy()
    points = phantom.shaper.points_mm

    def select():
        off = np.maximum(phantom.shaper.floor - dose, dose - phantom.shaper.ceiling)
        spoilt = np.flatnonzero(off > -1.0)
        return np.partition(points[spoilt, 0], len(spoilt) // 2), spoilt[np.argmax(off[spoilt])]

    def paths():
        fresh = FluenceDose(maps, model.target_share, model.organ_share)
        return fresh.path(organs=False), fresh.path(organs=True)

    works = {
        "select location": select,
        "create patch": lambda: phantom.shaper.weights_of(model.projection(row), True),
        "convolution and update of the dose": lambda: maps.add(dose, amplitudes, change),
        "travelling path information": paths,
        "distance grid": lambda: np.linalg.norm(points - points[row], axis=1),
        "request, 25 steps": lambda: shaped(phantom, row),
        "dose of whole maps": lambda: maps.dose(phantom.start.weights),
    }
    return {name: 1e3 * min(_seconds(work) for _ in range(5)) for name, work in works.items()}


def figure(phantom: Phantom, row: int):
    """Isodose lines of the middle slice: open fields, after the modification, after recovery."""
    from matplotlib.figure import Figure

    plans = {
        "open fields": phantom.start, "modification alone": shaped(phantom, row, 0).plan,
        "after 25 recovery steps": shaped(phantom, row).plan,
    }  # fmt: skip
    z, y, x = phantom.patient.grid.axes_mm()
    at = int(np.argmin(np.abs(z - phantom.shaper.points_mm[row, 2])))
    drawn = Figure(figsize=(13.0, 4.6), layout="constrained")
    for axes, (title, plan) in zip(drawn.subplots(1, 3), plans.items()):
        dose = _whole_slice(phantom, plan, at) / PRESCRIPTION_GY
        axes.imshow(dose, extent=(x[0], x[-1], y[-1], y[0]), cmap="gray", vmin=0.2, vmax=1.4)
        for name, color in (("PTV", "#ff7f0e"), ("Core", "#9467bd"), ("External", "#7f7f7f")):
            mask = phantom.patient.mask(name)[at]
            axes.contour(x, y, mask, [0.5], colors=color, linewidths=1.0)
        axes.contour(x, y, dose, list(LEVELS), colors=list(LEVELS.values()), linewidths=1.6)
        px, py, _ = phantom.shaper.points_mm[row]
        axes.plot(px, py, "wo", markersize=4, markeredgecolor="k")
        axes.set(title=title, xlabel="x in mm", ylabel="y in mm (posterior down)")
    drawn.suptitle("Isodose lines: 55 % blue, 95 % green, 107 % red; target orange, organ violet")
    return drawn


def _whole_slice(phantom: Phantom, plan: ShapedPlan, at: int) -> np.ndarray:
    """Gy of one slice (ny, nx) on all voxels, by a computation of its own."""
    grid = phantom.patient.grid
    n_slice = grid.shape[1] * grid.shape[2]
    in_slice = np.arange(at * n_slice, (at + 1) * n_slice)
    body = in_slice[phantom.patient.external.mask.ravel()[in_slice]].astype(np.uint32)
    engine = PhotonSvdEngine(bixel_mm=1.0)
    maps = FluenceMaps.of(engine, phantom.patient, phantom.maps.plan, grid, body)
    dose = np.zeros(grid.size, np.float32)
    dose[body] = maps.dose(plan.weights)
    return dose[in_slice].reshape(grid.shape[1:])


def _seconds(work) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def main(folder: str = "outputs/shaping_phantom") -> int:
    from ptenv.rendering import save

    phantom = paper_phantom()
    print(f"{len(phantom.voxels)} voxels, {phantom.maps.plan.n_spots} amplitudes on 9 fields")
    for angle, row in zip(range(0, 360, 30), rim_rows(phantom, range(0, 360, 30))):
        outcome = shaped(phantom, row)
        dose = outcome.plan.dose / PRESCRIPTION_GY
        inside = dose[phantom.is_target]
        print(
            f"rim at {angle:3d}°: {100 * dose[row]:.1f} %, target {100 * inside.min():.1f} to "
            f"{100 * inside.max():.1f} %, {int(np.sum(inside < 0.95))} voxels below 95 %, "
            f"{len(outcome.recovered)} steps"
        )
    row = rim_rows(phantom, [0.0])[0]
    for name, ms in times_ms(phantom, row).items():
        paper = f"  (paper {PAPER_MS[name]:g} ms)" if name in PAPER_MS else ""
        print(f"{name:<36}{ms:9.2f} ms{paper}")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save(figure(phantom, row), path / "figure7.png")
    print(f"Written to {path}/figure7.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
