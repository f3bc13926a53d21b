"""Pictures of a voxel-sampling study, after figures 2 to 5 of Quarz 2024."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.optimization.head_and_neck import RING
from ptenv._dose_wash import (
    INK,
    OTHER_COLORS,
    PROTON_RBE,
    Scale,
    Scene,
    dose_label,
    draw_cuts,
)
from ptenv.cases.case import BODY, Case
from ptenv.cases.drawn import drawn_patient
from ptenv.rendering import _figure, _tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN_MM = 12.0  # around the targets in a dose wash
MARKERS = "osD^vPX*<>"


class Points(NamedTuple):
    """One sampler's figure on every patient, and its standard deviation over samplings; (n,)."""

    value: np.ndarray
    deviation: np.ndarray


Panel = Mapping[str, Points]  # by sampler; the reference among them


def patients_figure(
    panels: Mapping[str, Panel], patients: Sequence[str], reference: str, *,
    logarithmic: Sequence[str] = (), title: str = "", width_px: int = 1200,
) -> "Figure":  # fmt: skip
    """Panels over the patients in the order given: samplers as points, the reference as a line.

    Error bars are standard deviations over samplings. ``panels`` go by what their axis says;
    those in ``logarithmic`` have a logarithmic one.
    """
    n_columns = 2 if len(panels) > 1 else 1
    n_rows = -(-len(panels) // n_columns)
    figure = _figure(width_px, 0.33 * n_rows + 0.05)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    names = list(dict.fromkeys(n for panel in panels.values() for n in panel if n != reference))
    for letter, panel_axes, (label, panel) in zip("abcdefgh", axes, panels.items()):
        _draw_panel(panel_axes, panel, names, reference)
        _tidy(panel_axes, "patient, by target volume", label, f"({letter})")
        panel_axes.set_xticks(np.arange(len(patients)), patients, fontsize=7)
        if label in logarithmic:
            panel_axes.set_yscale("log")
            _plain_numbers(panel_axes)
    for empty in axes[len(panels):]:
        empty.axis("off")
    keys: dict[str, object] = {}
    for panel_axes in axes[: len(panels)]:
        keys = dict(zip(*panel_axes.get_legend_handles_labels()[::-1])) | keys
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=min(6, len(keys)),
                  fontsize=8, frameon=False)  # fmt: skip
    if title:
        figure.suptitle(title, size=10.5, color=INK)
    return figure


def _plain_numbers(axes) -> None:
    """Ticks of a logarithmic axis at 1, 2, 3, 5 and 7, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_panel(axes, panel: Panel, names: Sequence[str], reference: str) -> None:
    step = min(0.12, 0.7 / max(len(names), 1))
    for number, name in enumerate(names):
        if name not in panel:
            continue
        value, deviation = panel[name]
        at = np.arange(len(value)) + step * (number - 0.5 * (len(names) - 1))
        axes.errorbar(
            at, value, yerr=np.nan_to_num(deviation), fmt=MARKERS[number % len(MARKERS)], ms=4,
            color=color_of(number), elinewidth=1.0, capsize=1.8, label=name, zorder=3,
        )  # fmt: skip
    if reference in panel:
        value = panel[reference].value
        axes.plot(np.arange(len(value)), value, "_-", color=INK, lw=1.0, ms=14, label=reference,
                  zorder=2)  # fmt: skip
    for between in np.arange(len(next(iter(panel.values())).value) - 1) + 0.5:
        axes.axvline(between, color="#eeeeee", lw=0.7, zorder=0)


def color_of(number: int) -> str:
    colors = ("#0a66c2", "#d1495b", *OTHER_COLORS)
    return colors[number % len(colors)]


class Drawn(NamedTuple):
    """A plan in a dose wash; ``rows`` (n_rows,) bool are marked, None marks nothing."""

    dose_gy: np.ndarray  # (n_rows,) Gy (RBE)
    rows: np.ndarray | None
    title: str


def plans_figure(
    case: Case, plans: Sequence[Drawn], *, title: str = "", width_px: int = 1200,
    rbe: float | None = PROTON_RBE,
) -> "Figure":  # fmt: skip
    """Dose washes of several plans below one another, cut through the highest target.

    ``rbe`` None: doses are weighted by a variable RBE. Dose is drawn where the case knows it.
    """
    patient = drawn_patient(case)
    shown = [n for n in case.evaluation.structures if n not in (BODY, RING)]
    scale = Scale(dose_label(rbe), max(case.prescription_gy.values()), case.prescription_gy)
    figure = _figure(width_px, 0.36 * len(plans))
    parts = np.atleast_1d(figure.subfigures(len(plans), 1))
    for number, (part, plan) in enumerate(zip(parts, plans)):
        chosen = None if plan.rows is None else case.influence.volume(plan.rows) > 0
        scene = Scene(patient, case.influence.volume(plan.dose_gy), None, chosen, shown, None)
        scene.low_mm, scene.high_mm = _around_targets(case)
        panels = part.subplots(1, 3, gridspec_kw={"width_ratios": scene.widths()})
        explained = [] if number == len(plans) - 1 else shown  # the legend once, at the bottom
        above = f"{title}\n{plan.title}" if title and number == 0 else plan.title
        draw_cuts(scene, part, panels, above, explained=explained, scale=scale)
    return figure


def _around_targets(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The targets' box with a margin, (z, y, x) in mm."""
    inside = case.influence.volume(case.target_rows.astype(np.float32)) > 0
    box, _ = case.grid.cropped(inside, margin_mm=MARGIN_MM)
    return box.lower_mm[::-1], box.upper_mm[::-1]
