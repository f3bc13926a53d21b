"""Pictures of plans: dose wash, dose-volume histograms, cases, learning curves, and text tables.

Drawn with matplotlib's Agg canvas, without pyplot and without a display; figures are returned,
``save`` writes them and ``to_rgb`` turns them into arrays. Doses are Gy (RBE), RBE 1.1, over the
whole course.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.evaluation.dvh import Dvh
from engine.patient.grid import Grid
from engine.patient.patient import Patient
from ptenv._dose_wash import (
    FAINT,
    INK,
    OTHER_COLORS,
    PAPER,
    PROTON_RBE,
    WASH_FROM,
    Scale,
    Scene,
    dose_label,
    draw_cuts,
    structure_colors,
)

LETD_FULL_KEV_UM = 10.0  # protons: 1 to 3 in the plateau, 10 and more at the end of the range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def dose_wash(
    patient: Patient,
    dose_gy: np.ndarray,
    dose_grid: Grid | None = None,
    *,
    chosen: np.ndarray | None = None,
    structures: Sequence[str] | None = None,
    at_mm: Sequence[float] | None = None,
    title: str = "",
    width_px: int = 1200,
    rbe: float | None = PROTON_RBE,
) -> "Figure":
    """Axial, coronal and sagittal cuts of the CT under a dose (nz, ny, nx) in Gy (RBE).

    ``dose_grid`` is the dose's grid (the CT's by default); ``chosen`` (nz, ny, nx) bool marks
    voxels of it with dots. The cuts meet at ``at_mm`` (x, y, z), by default in the middle of the
    target with the highest prescription. ``structures`` are contoured: targets and organs by
    default.
    """
    scene = Scene(patient, dose_gy, dose_grid, chosen, structures, at_mm)
    figure = _figure(width_px, 0.42)
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": scene.widths()})
    draw_cuts(scene, figure, panels, title, rbe=rbe)
    return figure


def let_wash(
    patient: Patient,
    letd_kev_um: np.ndarray,
    dose_gy: np.ndarray,
    grid: Grid | None = None,
    *,
    title: str = "",
    width_px: int = 1200,
) -> "Figure":
    """Cuts as in ``dose_wash`` under a dose-averaged LET (nz, ny, nx) in keV/µm.

    It is drawn where the dose (nz, ny, nx) in Gy (RBE) is a tenth of the prescription or more.
    """
    enough = np.asarray(dose_gy) >= WASH_FROM * max(patient.prescription_gy.values())
    scene = Scene(patient, np.where(enough, letd_kev_um, 0.0), grid, None, None, None)
    figure = _figure(width_px, 0.42)
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": scene.widths()})
    label = "dose-averaged LET in keV/µm of water"
    draw_cuts(scene, figure, panels, title, scale=Scale(label, LETD_FULL_KEV_UM))
    return figure


def dvh_figure(
    histograms: Mapping[str, Dvh],
    prescription_gy: Mapping[str, float],
    reference: Mapping[str, Dvh] | None = None,
    *,
    title: str = "",
    width_px: int = 900,
    rbe: float | None = PROTON_RBE,
) -> "Figure":
    """Cumulative histograms; those of a ``reference`` plan are dashed, prescriptions marked."""
    figure = _figure(width_px, 0.6)
    _draw_dvh(figure.subplots(), histograms, prescription_gy, reference, title, rbe)
    return figure


def case_picture(
    patient: Patient,
    dose_gy: np.ndarray,
    histograms: Mapping[str, Dvh],
    dose_grid: Grid | None = None,
    *,
    chosen: np.ndarray | None = None,
    reference: Mapping[str, Dvh] | None = None,
    structures: Sequence[str] | None = None,
    notes: str = "",
    title: str = "",
    width_px: int = 1200,
    rbe: float | None = PROTON_RBE,
) -> "Figure":
    """One picture a case: dose wash with the chosen voxels, the histograms below, notes beside."""
    scene = Scene(patient, dose_gy, dose_grid, chosen, structures, None)
    figure = _figure(width_px, 0.8)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.05, 1.0])
    panels = upper.subplots(1, 3, gridspec_kw={"width_ratios": scene.widths()})
    draw_cuts(scene, upper, panels, title, explained=histograms, rbe=rbe)
    if notes:
        axes, beside = lower.subplots(1, 2, gridspec_kw={"width_ratios": [1.5, 1.0]})
        beside.axis("off")
        beside.text(0.0, 1.0, notes, va="top", family="monospace", size=7.5, color=INK)
    else:
        axes = lower.subplots()
    _draw_dvh(axes, histograms, patient.prescription_gy, reference, "", rbe)
    return figure


@dataclass(frozen=True, eq=False)
class DeliverySequence:
    """Energies of an arc in order of delivery; G angles, m layers an angle, NaN for none.

    ``low_mev`` and ``high_mev`` (G,) bound what reaches the target from each angle.
    """

    angles_deg: np.ndarray  # (G,)
    energy_mev: np.ndarray  # (G, m)
    low_mev: np.ndarray
    high_mev: np.ndarray


def sequence_figure(
    sequence: DeliverySequence, *, title: str = "", notes: str = "", width_px: int = 900
) -> "Figure":
    """Energy layers over gantry angle in order of delivery, with what reaches the target."""
    figure = _figure(width_px, 0.45)
    axes = _beside_notes(figure, notes)
    _draw_sequence(axes, sequence, title)
    return figure


def arc_picture(
    patient: Patient,
    dose_gy: np.ndarray,
    sequence: DeliverySequence,
    bands: Mapping[str, Sequence[Dvh]],
    *,
    structures: Sequence[str] | None = None,
    notes: str = "",
    title: str = "",
    width_px: int = 1200,
    rbe: float | None = PROTON_RBE,
) -> "Figure":
    """Dose wash, energy layers over gantry angle, and DVH bands over scenarios, nominal first."""
    scene = Scene(patient, dose_gy, None, None, structures, None)
    figure = _figure(width_px, 1.05)
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=[1.0, 0.7, 0.95])
    panels = upper.subplots(1, 3, gridspec_kw={"width_ratios": scene.widths()})
    draw_cuts(scene, upper, panels, title, explained=bands, rbe=rbe)
    _draw_sequence(middle.subplots(), sequence, "")
    axes = _beside_notes(lower, notes)
    nominal = {n: of[0] for n, of in bands.items()}
    _draw_dvh(axes, nominal, patient.prescription_gy, None, "", rbe)
    colors = structure_colors(list(bands), list(patient.prescription_gy))
    for name, histograms in bands.items():
        _fill_band(axes, histograms, colors[name])
    return figure


def volume_figure(
    panels: Mapping[str, Mapping[str, np.ndarray]], *, width_px: int = 1200
) -> "Figure":
    """Figures of plans over the target's volume: per panel and agent points (n, 2) in cm³ and y."""
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = _figure(width_px, 0.36 * n_rows)
    axes = np.atleast_1d(figure.subplots(n_rows, n_columns, squeeze=False)).ravel()
    names = list(dict.fromkeys(name for of in panels.values() for name in of))
    colors = dict(zip(names, OTHER_COLORS * (1 + len(names) // len(OTHER_COLORS))))
    for panel, (title, of) in zip(axes, panels.items()):
        for name, points in of.items():
            panel.plot(*points.T, "o", ms=3.5, color=colors[name], label=name, alpha=0.8)
        _tidy(panel, "target volume in cm³", title, "")
    axes[0].legend(fontsize=7, frameon=False)
    for empty in axes[len(panels):]:
        empty.axis("off")
    return figure


def _draw_sequence(axes: "Axes", sequence: DeliverySequence, title: str) -> None:
    place = np.arange(len(sequence.angles_deg))
    axes.fill_between(
        place, sequence.low_mev, sequence.high_mev, step="mid", color="0.9", lw=0,
        label="reaches the target",
    )  # fmt: skip
    for energies in sequence.energy_mev.T:
        axes.plot(place, energies, "o-", ms=3.2, lw=0.8, color=INK, drawstyle="steps-mid")
    every = max(1, len(place) // 8)
    axes.set_xticks(place[::every], [f"{a:g}" for a in sequence.angles_deg[::every]])
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    _tidy(axes, "gantry angle in degrees, in order of delivery", "energy in MeV", title)


def _fill_band(axes: "Axes", histograms: Sequence[Dvh], color: str) -> None:
    """Between the lowest and the highest of some histograms, dose by dose."""
    dose = np.linspace(0.0, max(h.max_gy for h in histograms), 300)
    volumes = np.array([h.curve(dose) for h in histograms])
    axes.fill_between(dose, volumes.min(axis=0), volumes.max(axis=0), color=color, alpha=0.25, lw=0)


def _beside_notes(figure, notes: str) -> "Axes":
    """Axes with notes to their right, or alone."""
    if not notes:
        return figure.subplots()
    axes, beside = figure.subplots(1, 2, gridspec_kw={"width_ratios": [2.6, 1.0]})
    beside.axis("off")
    beside.text(0.0, 1.0, notes, va="top", family="monospace", size=7.5, color=INK)
    return axes


def learning_curve(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    baselines: Mapping[str, float] | None = None,
    *,
    x_label: str = "environment steps",
    y_label: str = "score",
    title: str = "",
    width_px: int = 900,
) -> "Figure":
    """Curves {name: (steps, values)}, each with its running mean, against dashed baselines."""
    figure = _figure(width_px, 0.58)
    axes = figure.subplots()
    for number, (name, (steps, values)) in enumerate(curves.items()):
        steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
        if steps.shape != values.shape or steps.ndim != 1:
            raise ValueError(
                f"curve {name!r} has {steps.shape} steps and {values.shape} values; give both (n,)."
            )
        color = ("#0a66c2", *OTHER_COLORS)[number % 7]
        axes.plot(steps, values, color=color, alpha=0.25, lw=0.9)
        axes.plot(steps, _running_mean(values), color=color, lw=2.0, label=name)
    for number, (name, value) in enumerate((baselines or {}).items()):
        color = OTHER_COLORS[::-1][number % 6]
        axes.axhline(value, color=color, lw=1.2, ls=(0, (5, 3)), label=f"{name} {value:.2f}")
    _tidy(axes, x_label, y_label, title)
    axes.margins(x=0.01)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    return figure


def score_table(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str] | None = None,
    decimals: Mapping[str, int] | int = 2,
) -> str:
    """Rows as an aligned text table: numbers to the right, what is missing or NaN as a dash."""
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    digits = decimals if isinstance(decimals, Mapping) else dict.fromkeys(columns, decimals)
    cells = [[_cell(row.get(c), digits.get(c, 2)) for c in columns] for row in rows]
    width = [max(len(c), *(len(line[i]) for line in cells), 1) if cells else len(c)
             for i, c in enumerate(columns)]  # fmt: skip
    left = [any(isinstance(row.get(c), str) for row in rows) for c in columns]

    def line(texts):
        aligned = (t.ljust(w) if to_left else t.rjust(w)
                   for t, w, to_left in zip(texts, width, left))  # fmt: skip
        return "  ".join(aligned).rstrip()

    rule = "  ".join("─" * w for w in width)
    return "\n".join([line(columns), rule, *map(line, cells)])


def to_rgb(figure: "Figure") -> np.ndarray:
    """The drawn figure, (height, width, 3) uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a figure; the ending of the name says the format (png, pdf, svg)."""
    path = Path(path)
    figure.savefig(path)
    return path


def _draw_dvh(
    axes: "Axes", histograms, prescription_gy, reference, title: str, rbe: float | None = PROTON_RBE
) -> None:
    if not histograms:
        raise ValueError("histograms is empty; give at least one structure's Dvh.")
    both = [*histograms.values(), *(reference or {}).values()]
    top_gy = 1.04 * max(max(h.max_gy for h in both), max(prescription_gy.values(), default=0.0))
    levels = np.linspace(0.0, top_gy, 400)
    targets = sorted(prescription_gy, key=lambda name: -prescription_gy[name])
    colors = structure_colors(list(histograms), targets)
    for name, color in ((t, colors[t]) for t in targets if t in histograms):
        axes.axvline(prescription_gy[name], color=color, lw=0.9, ls=(0, (1, 2)), zorder=1)
    for name, histogram in histograms.items():
        width = 2.0 if name in prescription_gy else 1.4
        axes.plot(levels, histogram.curve(levels), color=colors[name], lw=width, label=name)
        if reference and name in reference:
            axes.plot(levels, reference[name].curve(levels), color=colors[name], lw=1.0,
                      ls=(0, (4, 2)))  # fmt: skip
    if reference:
        axes.plot([], [], color=FAINT, lw=1.0, ls=(0, (4, 2)), label="reference")
    _tidy(axes, dose_label(rbe), "volume in %", title)
    axes.set_xlim(0.0, top_gy)
    axes.set_ylim(0.0, 102.0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=7.5,
                handlelength=1.4)  # fmt: skip


def _tidy(axes: "Axes", x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label, size=9, color=INK)
    axes.set_ylabel(y_label, size=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if title:
        axes.set_title(title, size=10.5, color=INK, loc="left")


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a tenth of the curve, shorter at its ends."""
    half = len(values) // 20
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _cell(value: object, decimals: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return "–" if np.isnan(value) else f"{value:.{decimals}f}"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return str(value)


def _figure(width_px: int, height_by_width: float) -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib; install it with: pip install 'ptenv[agents]'"
        ) from error
    if width_px < 100:
        raise ValueError(f"width_px={width_px} is too small for a picture; give 100 or more.")
    size = (10.0, 10.0 * height_by_width)
    figure = Figure(size, dpi=width_px / 10.0, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
